package sub

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/httpx"
)

const (
	maxSettleBody = 1 << 20
	maxVerbs      = 10_000
)

// verbJSON is one element of a settle request.
type verbJSON struct {
	Receipt string  `json:"receipt"`
	Op      string  `json:"op"`
	Delay   *string `json:"delay"`
	Lease   *string `json:"lease"`
}

// settle is PUT /v1/msgs/:app/:topic/:ver?group=g.
type settle struct {
	place
	query httpx.Query
}

func (s *settle) read(r *http.Request) (err error) {
	if s.query, err = httpx.ParseQuery(r, "group", "q", "op", "delay", "lease"); err != nil {
		return err
	}
	return s.setGroup(s.query)
}

func (s *settle) do(h *Handler, w http.ResponseWriter, r *http.Request) error {
	list, err := parseSettle(w, r, s.query)
	if err != nil {
		return err
	}
	verbs := make([]group.Verb, len(list))
	for i, v := range list {
		if verbs[i], err = v.verb(); err != nil {
			return fmt.Errorf("element %d: %w", i, err)
		}
	}
	key, err := h.key(r.Context(), &s.place)
	if err != nil {
		return err
	}
	outcome := make([]error, len(list))
	open := h.groups.Receipts(key)
	good, at := verbs[:0], make([]int, 0, len(list)) // at is the element of each good verb
	for i := range list {
		v := verbs[i]
		if v.Ref, outcome[i] = open.Open(list[i].Receipt); outcome[i] == nil {
			good, at = append(good, v), append(at, i)
		}
	}
	if len(good) > 0 {
		for i, err := range h.verbs(r.Context(), key, good) {
			outcome[at[i]] = err
		}
	}
	h.forget(s.topic, outcome...)
	return answerEach(w, outcome)
}

// parseSettle reads the elements: of the body, or the one in X-Receipt and the query.
func parseSettle(w http.ResponseWriter, r *http.Request, q httpx.Query) ([]verbJSON, error) {
	receipt, err := httpx.Header(r, "X-Receipt")
	if err != nil {
		return nil, err
	}
	single := q.Has("op") || q.Has("delay") || q.Has("lease")
	if receipt == "" {
		if single {
			return nil, fmt.Errorf("op, delay and lease belong to the receipt in header X-Receipt, which is not given: %w", errs.InvalidParam)
		}
		return readList[verbJSON](w, r)
	}
	if r.ContentLength != 0 {
		return nil, fmt.Errorf("give either the header X-Receipt or a body: %w", errs.InvalidBody)
	}
	v := verbJSON{Receipt: receipt, Op: q.Get("op")}
	if q.Has("delay") {
		s := q.Get("delay")
		v.Delay = &s
	}
	if q.Has("lease") {
		s := q.Get("lease")
		v.Lease = &s
	}
	return []verbJSON{v}, nil
}

// verb checks the element and answers it without its Ref.
func (v *verbJSON) verb() (group.Verb, error) {
	if v.Receipt == "" {
		return group.Verb{}, fmt.Errorf("receipt is missing: %w", errs.InvalidParam)
	}
	verb := group.Verb{}
	switch v.Op {
	case "ack":
		verb.Op = group.Ack
	case "nack":
		verb.Op = group.Nack
	case "extend":
		verb.Op = group.Extend
	case "bury":
		verb.Op, verb.Cause = group.Bury, "buried by its client"
	default:
		return verb, fmt.Errorf("op %q: must be one of ack, nack, extend, bury: %w", v.Op, errs.InvalidParam)
	}
	var err error
	if verb.Delay, err = v.duration("delay", v.Delay, "nack", 0, maxDelay); err != nil {
		return verb, err
	}
	verb.Lease, err = v.duration("lease", v.Lease, "extend", minLease, maxLease)
	return verb, err
}

// duration reads a duration that goes with one op only; 0 where it is not given.
func (v *verbJSON) duration(name string, text *string, op string, lo, hi time.Duration) (time.Duration, error) {
	if text == nil {
		return 0, nil
	}
	if v.Op != op {
		return 0, fmt.Errorf("%s goes with op %s, not with %s: %w", name, op, v.Op, errs.InvalidParam)
	}
	d, err := httpx.ParseDuration(*text)
	if err != nil || d < lo || d > hi {
		return 0, fmt.Errorf("%s %q: must be a duration from %v to %v, as 90s, 5m or a number of seconds: %w", name, *text, lo, hi, errs.InvalidParam)
	}
	return d, nil
}

// readList reads a JSON list from the body: at most maxVerbs elements of known fields, none twice.
func readList[T any](w http.ResponseWriter, r *http.Request) ([]T, error) {
	if e := r.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return nil, fmt.Errorf("Content-Encoding %q: send this body as it is: %w", e, errs.UnsupportedEncoding)
	}
	if r.ContentLength > maxSettleBody {
		return nil, errBodySize
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxSettleBody))
	if err != nil {
		if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
			return nil, errBodySize
		}
		w.Header()["Connection"] = []string{"close"} // who knows where the next request would begin
		return nil, fmt.Errorf("reading the body: %w: %w", err, errs.InvalidBody)
	}
	var list []T
	if err := json.Unmarshal(body, &list, json.RejectUnknownMembers(true)); err != nil {
		return nil, fmt.Errorf("the body must be a JSON list as the documentation shows: %.300s: %w", err.Error(), errs.InvalidBody)
	}
	if list == nil {
		return nil, fmt.Errorf("the body must be a JSON list, not null: %w", errs.InvalidBody)
	}
	if len(list) > maxVerbs {
		return nil, fmt.Errorf("%d elements, at most %d: %w", len(list), maxVerbs, errs.TooLarge)
	}
	return list, nil
}

var errBodySize = fmt.Errorf("a body of more than %d bytes: split it: %w", maxSettleBody, errs.TooLarge)

// result is the outcome of one element: an empty object or a problem.
type result struct {
	Error *httpx.Problem `json:"error,omitempty"`
}

// failure is a problem that still tells the elements apart.
type failure struct {
	httpx.Problem
	Results []result `json:"results"`
}

// answerEach answers one outcome per element: 200 when all took effect, 207 when some did, and a problem of the first
// one's kind when none did.
func answerEach(w http.ResponseWriter, outcome []error) error {
	results := make([]result, len(outcome))
	failed, first := 0, error(nil)
	for i, err := range outcome {
		if err == nil {
			continue
		}
		if failed++; first == nil {
			first = err
		}
		p := httpx.ProblemOf(err)
		results[i].Error = &p
	}
	status := http.StatusOK
	switch {
	case failed == 0:
	case failed < len(outcome):
		status = http.StatusMultiStatus
	default:
		httpx.WriteProblemBody(w, first, failure{httpx.ProblemOf(first), results})
		return nil
	}
	w.Header()["Cache-Control"] = []string{"no-store"}
	return httpx.WriteJSON(w, status, struct {
		Results []result `json:"results"`
	}{results})
}
