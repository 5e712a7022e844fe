package httpx

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kateway/kateway/internal/errs"
)

// Problem is the body of every error answer (RFC 9457).
type Problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
	Code   string `json:"code"`

	Errors []errs.Fault `json:"errors,omitempty"` // of an error that is [errs.Faults]
}

// Same reports whether both say the same, so that the JSON of one is that of the other.
func (p *Problem) Same(q *Problem) bool {
	return p.Status == q.Status && p.Code == q.Code && p.Title == q.Title && p.Type == q.Type && p.Detail == q.Detail &&
		slices.Equal(p.Errors, q.Errors)
}

// ProblemOf tells a client what it may know of err: of our own faults the kind only, since the text may name brokers, files or hosts.
func ProblemOf(err error) Problem {
	k := errs.Of(err)
	p := Problem{Type: "about:blank", Title: k.Title(), Status: k.Status(), Code: k.Code()}
	if !k.Server() {
		p.Detail = strings.TrimSuffix(err.Error(), ": "+k.Error()) // the title says it already
		var faults *errs.Faults
		if errors.As(err, &faults) {
			p.Errors = faults.List
		}
	}
	return p
}

// WriteProblem answers err. A handler that knows better than the defaults sets Retry-After or WWW-Authenticate itself.
func WriteProblem(w http.ResponseWriter, err error) { WriteProblemBody(w, err, ProblemOf(err)) }

// WriteProblemBody answers err with a body of the caller's own: a [Problem] and what it adds to it.
func WriteProblemBody(w http.ResponseWriter, err error, body any) {
	h := w.Header()
	k := errs.Of(err)
	if d := retryAfter(err); d > 0 && h.Get("Retry-After") == "" {
		h.Set("Retry-After", strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10))
	}
	if k == errs.Unauthenticated && h.Get("WWW-Authenticate") == "" { // RFC 9110, 15.5.2: every 401 has it
		h["Www-Authenticate"] = []string{`Bearer realm="kateway"`, `Basic realm="kateway", charset="UTF-8"`}
	}
	if k == errs.UpgradeRequired { // RFC 9110, 15.5.22: a 426 says to what; RFC 6455, 4.2.2: of which version
		h["Upgrade"], h["Connection"], h["Sec-Websocket-Version"] = []string{"websocket"}, []string{"Upgrade"}, []string{"13"}
	}
	h.Del("Content-Encoding")
	h.Del("Content-Length")
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(k.Status())
	_ = json.NewEncoder(w).Encode(body) // the client may be gone; nobody else wants to know
}

// RetryAfter is err, of which is known when to try again: the answer says so instead of what its kind advises.
func RetryAfter(err error, after time.Duration) error { return &retryError{err, after} }

type retryError struct {
	err   error
	after time.Duration
}

func (e *retryError) Error() string { return e.err.Error() }
func (e *retryError) Unwrap() error { return e.err }

// retryAfter is when to try again, 0 where that is of no use.
func retryAfter(err error) time.Duration {
	var known *retryError
	if errors.As(err, &known) {
		return known.after
	}
	return errs.Of(err).RetryAfter()
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
