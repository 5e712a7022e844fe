package plugins

import "github.com/kateway/kateway/internal/errs"

// The kinds of errors that plugins refuse with, for those whose code lives elsewhere: wrap one by %w. The kind decides on the
// status and the code of the answer; an error without one is a fault of the gateway, 500, and its text is for the log alone.
const (
	InvalidParam    = errs.InvalidParam    // 400: a parameter or header is wrong
	InvalidBody     = errs.InvalidBody     // 400: the body, or a message, is
	Unauthenticated = errs.Unauthenticated // 401
	Denied          = errs.Denied          // 403
	TooLarge        = errs.TooLarge        // 413
	SchemaViolation = errs.SchemaViolation // 422
	Throttled       = errs.Throttled       // 429
	Unavailable     = errs.Unavailable     // 503: something that the plugin needs can't be reached; certain not to be stored
	Overloaded      = errs.Overloaded      // 503
)

// Faults is an error that names each thing that is wrong with a message; clients get them as errors.
type Faults = errs.Faults

// Fault is one of them.
type Fault = errs.Fault
