// Package ws is the server's side of WebSockets (RFC 6455) with permessage-deflate without context takeover (RFC 7692).
// It is strict: what the RFC forbids ends the connection, with the code that the RFC has for it.
//
// It differs from the usual libraries in what it leaves to its caller. Frames are appended to a buffer, as many as there
// are at hand, and go out in one write. While nothing happens a connection keeps no buffer; pings come from a timer. A message that is too large can be passed over and refused
// without ending the connection.
//
// A connection has two halves, a reader and a writer. See [Conn.Serve].
package ws

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kateway/kateway/internal/errs"
)

const (
	pingEvery    = 20 * time.Second
	goneAfter    = 50 * time.Second // without a byte: two pings had no answer, the second for 10 s
	quietAfter   = 2 * time.Second  // without a byte a reader gives its buffer back
	messageLimit = 60 * time.Second // from a message's first byte to its last
	writeTimeout = 30 * time.Second // for a client to take what one Write gives it
	renewAt      = 20 * time.Second // a write deadline that is this far away is good enough
	goodbye      = 3 * time.Second  // for a client to answer a close frame
	linger       = time.Second      // for what a client sends that nobody reads any more
)

// Kind is a message's type.
type Kind byte

// The kinds of messages, by their opcodes.
const (
	Text   Kind = 1
	Binary Kind = 2
)

// The other opcodes.
const (
	opContinuation = 0
	opClose        = 8
	opPing         = 9
	opPong         = 10
)

// The close codes that are used here. RFC 6455, 7.4.1, and the registry that it opens.
const (
	Normal          = 1000
	GoingAway       = 1001
	ProtocolError   = 1002
	Unsupported     = 1003
	noCode          = 1005 // a close frame without one; never sent
	abnormal        = 1006 // no close frame at all; never sent
	InvalidPayload  = 1007
	PolicyViolation = 1008
	TooBig          = 1009
	InternalError   = 1011
	ServiceRestart  = 1012
	TryAgainLater   = 1013
	Unauthorized    = 4401 // of our own: who has opened it may no longer use it
)

// CloseError is the end of a connection: why it was closed, or is to be closed.
type CloseError struct {
	Code   int
	Reason string
	Peer   bool  // the client closed it
	Err    error // why it broke, where it did
}

// Close is the error that ends a connection with this code and reason, which is at most 123 bytes.
func Close(code int, reason string) *CloseError { return &CloseError{Code: code, Reason: reason} }

func (e *CloseError) Error() string {
	switch {
	case e.Err != nil:
		return fmt.Sprintf("the connection broke: %v", e.Err)
	case e.Peer:
		return fmt.Sprintf("closed by the client with %d %q", e.Code, e.Reason)
	}
	return fmt.Sprintf("closed with %d %q", e.Code, e.Reason)
}

func (e *CloseError) Unwrap() error { return e.Err }

// ErrTooLarge says that a message was passed over. The connection goes on.
var ErrTooLarge = fmt.Errorf("the message is over the limit: %w", errs.TooLarge)

// ErrQuiet says that nothing has come for a moment. It is for who reads to return: he is called again when something comes. So
// a wait has a goroutine of its own, whose stack is as small as they get, while that of one who has read stays large.
var ErrQuiet = errors.New("nothing has come for a moment")

// closing is how err, nil for a good end, is told to a client.
func closing(err error) *CloseError {
	var c *CloseError
	k := errs.Of(err)
	switch {
	case err == nil:
		return Close(Normal, "")
	case errors.As(err, &c):
		return c
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return Close(GoingAway, "")
	case k == errs.Draining:
		return Close(ServiceRestart, k.Code())
	case k.RetryAfter() > 0:
		return Close(TryAgainLater, k.Code())
	case k.Server():
		return Close(InternalError, k.Code())
	}
	return Close(PolicyViolation, k.Code())
}
