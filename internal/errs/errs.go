// Package errs is the closed list of error kinds. A kind says what a caller may conclude and is turned into an HTTP
// status and a stable code in one place. Wrap a kind with what happened:
//
//	fmt.Errorf("topic %q: %w", name, errs.UnknownTopic)
//
// and ask with errors.Is(err, errs.UnknownTopic) or [Of].
package errs

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// Kind is an error by itself, so that it can be wrapped with %w and found by errors.Is.
type Kind uint8

// The kinds. The comment says what a caller may conclude.
const (
	Internal            Kind = iota // a fault of ours; nothing may be concluded
	InvalidName                     // a name breaks the rule of API section 2
	InvalidParam                    // a query parameter or header is malformed, unknown or given twice
	InvalidBody                     // the body breaks off, is badly framed or can't be parsed; nothing of it was stored
	Unauthenticated                 // no or wrong credentials
	Denied                          // known caller, not granted
	CrossOrigin                     // a web page of another origin, or a host name that is not ours
	UnknownTopic                    // the topic does not exist
	UnknownApp                      // the app does not exist
	NotFound                        // any other object does not exist
	MethodNotAllowed                // the route exists, the method does not
	Conflict                        // it contradicts the present state
	Fenced                          // the receipt or partition is no longer the caller's; the message was or will be delivered again
	PreconditionFailed              // If-Match names an older version
	UpgradeRequired                 // it is served over WebSocket only, of a version that the request does not ask for
	TooLarge                        // over a size limit
	UnsupportedEncoding             // unknown Content-Encoding or batch format
	SchemaViolation                 // the message does not satisfy the topic's schema
	IdempotencyMismatch             // the idempotency key was used with another body
	Throttled                       // over a quota or rate limit
	HeadersTooLarge                 // request line and headers over the limit
	Unavailable                     // the store can't take it now; certain not to be stored
	CircuitOpen                     // the store failed lately and is not asked; certain not to be stored
	Overloaded                      // the gateway sheds load; certain not to be stored
	Draining                        // the gateway is stopping; certain not to be stored
	Uncertain                       // no answer in time: it may or may not be stored
	DiskFull                        // the local disk can't take it; certain not to be stored
	kinds                           // their number
)

type row struct {
	status int
	code   string
	title  string
	retry  time.Duration // what Retry-After advises; 0 = the caller should not simply try again
}

// table is indexed by Kind; it is only read.
var table = [kinds]row{
	Internal:            {http.StatusInternalServerError, "internal", "Internal error", 0},
	InvalidName:         {http.StatusBadRequest, "invalid_name", "Invalid name", 0},
	InvalidParam:        {http.StatusBadRequest, "invalid_param", "Invalid parameter", 0},
	InvalidBody:         {http.StatusBadRequest, "invalid_body", "Invalid body", 0},
	Unauthenticated:     {http.StatusUnauthorized, "unauthenticated", "Not authenticated", 0},
	Denied:              {http.StatusForbidden, "denied", "Denied", 0},
	CrossOrigin:         {http.StatusForbidden, "cross_origin", "Cross-origin request refused", 0},
	UnknownTopic:        {http.StatusNotFound, "unknown_topic", "Unknown topic", 0},
	UnknownApp:          {http.StatusNotFound, "unknown_app", "Unknown app", 0},
	NotFound:            {http.StatusNotFound, "not_found", "Not found", 0},
	MethodNotAllowed:    {http.StatusMethodNotAllowed, "method_not_allowed", "Method not allowed", 0},
	Conflict:            {http.StatusConflict, "conflict", "Conflict", 0},
	Fenced:              {http.StatusConflict, "fenced", "No longer yours", 0},
	PreconditionFailed:  {http.StatusPreconditionFailed, "precondition_failed", "Precondition failed", 0},
	UpgradeRequired:     {http.StatusUpgradeRequired, "upgrade_required", "Upgrade required", 0},
	TooLarge:            {http.StatusRequestEntityTooLarge, "too_large", "Too large", 0},
	UnsupportedEncoding: {http.StatusUnsupportedMediaType, "unsupported_encoding", "Unsupported encoding", 0},
	SchemaViolation:     {http.StatusUnprocessableEntity, "schema_violation", "Schema violation", 0},
	IdempotencyMismatch: {http.StatusUnprocessableEntity, "idempotency_mismatch", "Idempotency key reused", 0},
	Throttled:           {http.StatusTooManyRequests, "throttled", "Throttled", time.Second},
	HeadersTooLarge:     {http.StatusRequestHeaderFieldsTooLarge, "headers_too_large", "Headers too large", 0},
	Unavailable:         {http.StatusServiceUnavailable, "unavailable", "Unavailable", time.Second},
	CircuitOpen:         {http.StatusServiceUnavailable, "circuit_open", "Circuit open", time.Second},
	Overloaded:          {http.StatusServiceUnavailable, "overloaded", "Overloaded", time.Second},
	Draining:            {http.StatusServiceUnavailable, "draining", "Stopping", time.Second},
	Uncertain:           {http.StatusGatewayTimeout, "uncertain", "Outcome unknown", 0},
	DiskFull:            {http.StatusInsufficientStorage, "disk_full", "Disk full", 0},
}

// Error is the kind's title.
func (k Kind) Error() string { return table[k].title }

// Status is the HTTP status that answers the kind.
func (k Kind) Status() int { return table[k].status }

// Code is the stable word that programs switch on.
func (k Kind) Code() string { return table[k].code }

// Title is the kind in a few words for people.
func (k Kind) Title() string { return table[k].title }

// RetryAfter is the advised wait before the same request is tried again; 0 where trying again as it is does not help.
func (k Kind) RetryAfter() time.Duration { return table[k].retry }

// Server reports whether the fault is on our side, so that its details belong in the log and not in the answer.
func (k Kind) Server() bool { return table[k].status >= 500 }

// Of is the kind of err. A context that ended is Uncertain, since nobody waited for the outcome; an error without a
// kind is Internal.
func Of(err error) Kind {
	var k Kind
	switch {
	case errors.As(err, &k):
		return k
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return Uncertain
	}
	return Internal
}

// ByCode is the kind whose code it is, false where there is none: another version of kateway may know more.
func ByCode(code string) (Kind, bool) {
	for k := range kinds {
		if table[k].code == code {
			return k, true
		}
	}
	return Internal, false
}
