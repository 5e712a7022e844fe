// Package httpx is what all HTTP roles share: handlers that return errors, one place that answers them, request ids,
// strict parameters. It knows nothing of topics or stores.
package httpx

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
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

// Param is the path parameter of this name.
func Param(r *http.Request, name string) string {
	return httprouter.ParamsFromContext(r.Context()).ByName(name)
}

// Problem is the body of every error answer (RFC 9457).
type Problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
	Code   string `json:"code"`
}

// ProblemOf tells a client what it may know of err: of our own faults the kind only, since the text may name brokers, files or hosts.
func ProblemOf(err error) Problem {
	k := errs.Of(err)
	p := Problem{Type: "about:blank", Title: k.Title(), Status: k.Status(), Code: k.Code()}
	if !k.Server() {
		p.Detail = err.Error()
	}
	return p
}

// WriteProblem answers err.
func WriteProblem(w http.ResponseWriter, err error) {
	h := w.Header()
	k := errs.Of(err)
	if d := k.RetryAfter(); d > 0 {
		h.Set("Retry-After", strconv.Itoa(int((d+time.Second-1)/time.Second)))
	}
	h.Del("Content-Encoding")
	h.Del("Content-Length")
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(k.Status())
	_ = json.NewEncoder(w).Encode(ProblemOf(err)) // the client may be gone; nobody else wants to know
}

// WriteJSON answers v.
func WriteJSON(w http.ResponseWriter, status int, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding the answer: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, err = w.Write(append(b, '\n'))
	return err
}

type requestIDKey struct{}

// RequestID is the id of the request that ctx belongs to, "" outside of one.
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}

// Observer is told of every request when it is over: the route's path as in the table, so that user data never is a label.
type Observer interface {
	Observe(r *http.Request, route string, status int, bytes int64, took time.Duration)
}

// Wrap turns h into an http.Handler for the route: request id, panics, error answers, log and observation.
func Wrap(route string, h Handler, log *slog.Logger, seen Observer) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		id := rand.Text()
		w.Header().Set("X-Request-Id", id)
		rec := &recorder{ResponseWriter: w}
		defer func() { seen.Observe(r, route, rec.status, rec.bytes, time.Since(start)) }()
		err := call(h, rec, r.WithContext(context.WithValue(r.Context(), requestIDKey{}, id)))
		if err == nil {
			return
		}
		logError(log, r, id, route, err, rec.status != 0)
		if rec.status != 0 {
			panic(http.ErrAbortHandler) // half an answer is out: cut the connection
		}
		WriteProblem(rec, err)
	})
}

// call runs the handler and makes an error of its panic.
func call(h Handler, w http.ResponseWriter, r *http.Request) (err error) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		if e, ok := p.(error); ok && errors.Is(e, http.ErrAbortHandler) {
			panic(p)
		}
		err = fmt.Errorf("panic: %v\n%s: %w", p, debug.Stack(), errs.Internal)
	}()
	return h(w, r)
}

func logError(log *slog.Logger, r *http.Request, id, route string, err error, begun bool) {
	level := slog.LevelDebug
	if k := errs.Of(err); k == errs.Internal && r.Context().Err() == nil {
		level = slog.LevelError
	} else if k.Server() && r.Context().Err() == nil {
		level = slog.LevelWarn
	}
	log.Log(r.Context(), level, "request failed", "request_id", id, "method", r.Method, "route", route,
		"remote", r.RemoteAddr, "code", errs.Of(err).Code(), "begun", begun, "error", err.Error())
}

// recorder remembers what went out.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 && status >= 200 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	n, err := r.ResponseWriter.Write(b)
	r.bytes += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
