// Package httpx is what all HTTP roles share: handlers that return errors, one place that answers them, request ids,
// strict parameters. It knows nothing of topics or stores.
package httpx

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/julienschmidt/httprouter"

	"github.com/kateway/kateway/internal/errs"
)

// Handler answers a request or returns an error, which then is the answer. A handler that returns an error after its
// first write has its connection closed, so that a client can't take the answer for whole.
type Handler func(w http.ResponseWriter, r *http.Request) error

// Route is one row of a role's route table. Path is httprouter's (":name").
type Route struct {
	Method, Path string
	Handler      Handler
}

// Observer is told of every request when it is over: the route's path as in the table, so that user data never is a
// label. Status is 0 where the handler gave up without an answer.
type Observer interface {
	Observe(r *http.Request, route string, status int, bytes int64, took time.Duration)
}

// Shell is what surrounds every handler of a process. Its fields are set once, before the first request.
type Shell struct {
	Log  *slog.Logger
	Seen Observer
	// Before, if not nil, is called once per request, right before the answer's header goes out. Not so when the connection
	// changes its protocol: it is no longer one of HTTP.
	Before func(http.Header)
	// Instead, if not nil, is asked when a handler has failed that has answered nothing yet, and reports whether the request was
	// answered in another way.
	Instead func(w http.ResponseWriter, r *http.Request, err error) bool
}

// Wrap surrounds the handler of a route: request id, panics, error answers, log and observation.
func (s *Shell) Wrap(route string, h Handler) *Endpoint {
	return &Endpoint{shell: s, route: route, handler: h}
}

// Wrap is [Shell.Wrap] for one handler by itself.
func Wrap(route string, h Handler, log *slog.Logger, seen Observer) http.Handler {
	return (&Shell{Log: log, Seen: seen}).Wrap(route, h)
}

// Endpoint is a handler that is ready to serve. It may serve many requests at once.
type Endpoint struct {
	shell   *Shell
	route   string
	handler Handler
	lines   quota // of warnings and errors
}

// ServeHTTP serves a request whose path parameters, if any, are in its context.
func (e *Endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) { e.Serve(w, r, nil) }

// Serve serves a request with these path parameters.
func (e *Endpoint) Serve(w http.ResponseWriter, r *http.Request, params httprouter.Params) {
	start := time.Now()
	s := &scope{Context: r.Context(), params: params}
	s.id[0] = newID()
	s.rec = recorder{ResponseWriter: w, before: e.shell.Before}
	w.Header()["X-Request-Id"] = s.id[:]
	r = r.WithContext(s)
	defer e.done(r, s, start)
	err := call(e.handler, &s.rec, r)
	if err == nil {
		s.rec.begin(http.StatusOK) // a handler that wrote nothing: net/http answers 200 for it
		return
	}
	if s.rec.status == 0 && e.shell.Instead != nil && e.shell.Instead(&s.rec, r, err) {
		return
	}
	e.logError(r, err, s.rec.status != 0)
	if s.rec.status != 0 {
		panic(http.ErrAbortHandler) // half an answer is out: cut the connection
	}
	WriteProblem(&s.rec, err)
}

// done tells of a request that is over.
func (e *Endpoint) done(r *http.Request, s *scope, start time.Time) {
	took := time.Since(start)
	e.shell.Seen.Observe(r, e.route, s.rec.status, s.rec.bytes, took)
	if e.shell.Log.Enabled(s, slog.LevelDebug) {
		e.shell.Log.LogAttrs(s, slog.LevelDebug, "request", slog.String("request_id", s.id[0]), slog.String("method", r.Method),
			slog.String("path", r.URL.EscapedPath()), slog.String("remote", r.RemoteAddr), slog.Int("status", s.rec.status),
			slog.Int64("bytes", s.rec.bytes), slog.Duration("took", took))
	}
}

// call runs the handler and makes an error of its panic.
func call(h Handler, w http.ResponseWriter, r *http.Request) (err error) {
	defer catch(&err)
	return h(w, r)
}

// Catch runs f and makes an error of its panic, as is done with a handler's. It is for goroutines that handlers start.
func Catch(f func() error) (err error) {
	defer catch(&err)
	return f()
}

// catch is to be deferred.
func catch(err *error) {
	p := recover() //nolint:revive // it is what is deferred
	if p == nil {
		return
	}
	if e, ok := p.(error); ok && errors.Is(e, http.ErrAbortHandler) {
		panic(p)
	}
	*err = &panicError{value: p, stack: debug.Stack()}
}

// panicError is a handler's panic. Its kind is Internal.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v", e.value) }
func (e *panicError) Unwrap() error { return errs.Internal }

// logError keeps the log for what an operator can do something about: our own faults are errors, a store or gateway that
// can't take it now is a warning, and what a client did wrong, or did not wait for, is of interest when debugging.
func (e *Endpoint) logError(r *http.Request, err error, begun bool) {
	kind, level := errs.Of(err), slog.LevelDebug
	switch {
	case r.Context().Err() != nil:
	case kind == errs.Internal:
		level = slog.LevelError
	case kind.Server() && kind != errs.Draining:
		level = slog.LevelWarn
	}
	if !e.shell.Log.Enabled(r.Context(), level) {
		return
	}
	untold := 0
	if level >= slog.LevelWarn {
		granted, before := e.lines.take(time.Now())
		if !granted {
			return
		}
		untold = before
	}
	attrs := []slog.Attr{
		slog.String("request_id", RequestID(r.Context())), slog.String("method", r.Method), slog.String("route", e.route),
		slog.String("remote", r.RemoteAddr), slog.String("code", kind.Code()), slog.Bool("begun", begun), slog.Any("error", err),
	}
	var p *panicError
	if errors.As(err, &p) {
		attrs = append(attrs, slog.String("stack", string(p.stack)))
	}
	if untold > 0 {
		attrs = append(attrs, slog.Int("untold", untold))
	}
	e.shell.Log.LogAttrs(r.Context(), level, "request failed", attrs...)
}

// scope is the context of one request, and all else that the shell remembers of it: one allocation for the lot.
type scope struct {
	context.Context
	id     [1]string // an array, so that it serves as the header's value too
	params httprouter.Params
	rec    recorder
	caller string
}

type scopeKey struct{}

// Value finds the scope itself, and its path parameters where httprouter keeps them.
func (s *scope) Value(key any) any {
	switch key {
	case scopeKey{}:
		return s
	case httprouter.ParamsKey:
		if s.params != nil {
			return s.params
		}
	}
	return s.Context.Value(key)
}

// RequestID is the id of the request that ctx belongs to, "" outside of one.
func RequestID(ctx context.Context) string {
	if s, ok := ctx.Value(scopeKey{}).(*scope); ok {
		return s.id[0]
	}
	return ""
}

// Outlive is a context for what goes on when the request that ctx belongs to has been answered: it has the request's id and
// nothing else.
func Outlive(ctx context.Context) context.Context {
	return &scope{Context: context.Background(), id: [1]string{RequestID(ctx)}}
}

// SetCaller says who has proven to send the request that ctx belongs to. It is the request's own goroutine that calls it.
func SetCaller(ctx context.Context, app string) {
	if s, ok := ctx.Value(scopeKey{}).(*scope); ok {
		s.caller = app
	}
}

// Caller is what SetCaller was told, "" where that was nothing: for an Observer.
func Caller(ctx context.Context) string {
	if s, ok := ctx.Value(scopeKey{}).(*scope); ok {
		return s.caller
	}
	return ""
}

// Param is the path parameter of this name.
func Param(r *http.Request, name string) string {
	return httprouter.ParamsFromContext(r.Context()).ByName(name)
}

// newID makes 120 random bits readable. An id only has to be told from others; nothing is guarded by it.
func newID() string {
	const alphabet = "abcdefghijklmnopqrstuvwxyz234567"
	var b [24]byte
	for half := 0; half < len(b); half += 12 {
		n := rand.Uint64()
		for i := half; i < half+12; i++ {
			b[i] = alphabet[n&31]
			n >>= 5
		}
	}
	return string(b[:])
}

// recorder remembers what went out.
type recorder struct {
	http.ResponseWriter
	before func(http.Header)
	status int
	bytes  int64
}

// begin notes the final status when it is about to go out.
func (r *recorder) begin(status int) {
	if r.status != 0 || status < 200 && status != http.StatusSwitchingProtocols {
		return
	}
	r.status = status
	if r.before != nil && status != http.StatusSwitchingProtocols {
		r.before(r.Header())
	}
}

func (r *recorder) WriteHeader(status int) {
	r.begin(status)
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	r.begin(http.StatusOK)
	n, err := r.ResponseWriter.Write(b)
	r.bytes += int64(n)
	return n, err
}

// FlushError is what http.ResponseController calls: a flush before the first write sends the header.
func (r *recorder) FlushError() error {
	r.begin(http.StatusOK)
	if f, ok := r.ResponseWriter.(interface{ FlushError() error }); ok {
		return f.FlushError()
	}
	return http.NewResponseController(r.ResponseWriter).Flush()
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
