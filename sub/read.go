package sub

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strings"

	"github.com/kateway/kateway/broadcast"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/filter"
	"github.com/kateway/kateway/internal/httpx"
	"github.com/kateway/kateway/store"
)

// newPoll is what a GET of /v1/msgs asks for.
func newPoll(r *http.Request) action {
	if hasGroup(r) {
		return new(pollWish)
	}
	return new(readPoll)
}

// newStream is what a GET of /v1/stream asks for.
func newStream(r *http.Request) action {
	if hasGroup(r) {
		return new(streamWish)
	}
	return new(readStream)
}

// hasGroup reports whether the query names a group, an empty one too, which is refused later.
func hasGroup(r *http.Request) bool {
	q := r.URL.RawQuery
	if strings.HasPrefix(q, "group=") || strings.Contains(q, "&group=") {
		return true
	}
	return r.URL.Query().Has("group")
}

// groupParams are the names of what means something to groups only.
var groupParams = [...]string{"q", "mode", "ack", "lease", "client", "prefetch"} // read only

// readWish is what requests without a group have in common.
type readWish struct {
	place
	cursor  string // "": start counts, or one
	one     broadcast.Cursor
	start   store.Start
	tags    []string
	filter  string
	base64  bool // values always in base64
	accept  []string
	coding  coding
	resumes bool // there is a parameter cursor, or a Last-Event-ID

	returning bool // an EventSource that lost its connection
}

// parse reads the query, in which these names are known beside those that polls and streams have in common.
func (w *readWish) parse(r *http.Request, names ...string) (httpx.Query, error) {
	w.accept, w.coding = r.Header.Values("Accept"), chooseCoding(r.Header.Values("Accept-Encoding"))
	if r.ContentLength != 0 { // a body that nobody reads would also hide the client's leaving from us
		return httpx.Query{}, fmt.Errorf("a subscribe request has no body: %w", errs.InvalidBody)
	}
	q, err := httpx.ParseQuery(r, append(names, wishParams[:]...)...)
	if err != nil {
		return q, err
	}
	if err := needsGroup(r, q); err != nil {
		return q, err
	}
	w.cursor, w.resumes = q.Get("cursor"), q.Has("cursor")
	if w.start, err = parseReset(q); err != nil {
		return q, err
	}
	if w.tags, w.filter, err = parseFilter(r, q); err != nil {
		return q, err
	}
	if q.Has("value") {
		w.base64 = true
		_, err = q.OneOf("value", "base64")
	}
	return q, err
}

// needsGroup refuses what means something to groups only.
func needsGroup(r *http.Request, q httpx.Query) error {
	for _, name := range groupParams {
		if q.Has(name) {
			return fmt.Errorf("parameter %q is of a group: add group=<name>, or leave it out: %w", name, errs.InvalidParam)
		}
	}
	if r.Header.Get("X-Receipt") != "" {
		return fmt.Errorf("X-Receipt acks messages of a group: add group=<name>: %w", errs.InvalidParam)
	}
	return nil
}

// openReader makes the request a reader of its topic. It is to be closed.
func (h *Handler) openReader(ctx context.Context, w *readWish) (*broadcast.Reader, error) {
	f, err := filter.Compile(w.tags, w.filter)
	if err != nil {
		return nil, err
	}
	topic, err := h.topics.Use(ctx, w.topic)
	if err != nil {
		return nil, err
	}
	ask := broadcast.Ask{Topic: topic, From: w.one, Start: w.start}
	if f != nil {
		ask.Match = f.Match
	}
	if w.inspect != nil {
		ask.Inspect = looker(w.topic, w.inspect)
	}
	if w.cursor != "" {
		if ask.From, err = broadcast.ParseCursor(w.cursor, topic); err != nil {
			return nil, err
		}
	}
	r, err := h.readers.Open(ctx, ask)
	if errors.Is(err, errs.UnknownTopic) {
		h.forget(w.topic, err)
	}
	return r, err
}

// begin reads where a stream begins: at Last-Event-ID, which is newer than the page's URL, or the cursor, else where reset
// says, else at the end.
func (w *readWish) begin(r *http.Request, q httpx.Query) error {
	last, err := httpx.Header(r, "Last-Event-ID")
	if last != "" {
		w.cursor, w.resumes, w.returning = last, true, true
	}
	if !q.Has("reset") {
		w.start.Newest = true
	}
	return err
}

// passesOver reports whether some messages are not wanted.
func (w *readWish) passesOver() bool { return len(w.tags) > 0 || w.filter != "" || w.inspect != nil }

// onePartition reads partition and offset, of a poll that wants a part of a topic.
func (w *readWish) onePartition(q httpx.Query) error {
	if !q.Has("partition") && !q.Has("offset") {
		return nil
	}
	if !q.Has("partition") || !q.Has("offset") || w.resumes {
		return fmt.Errorf("give either cursor, or partition and offset: %w", errs.InvalidParam)
	}
	p, err := q.Int("partition", 0, 0, math.MaxInt32)
	if err != nil {
		return err
	}
	offset, err := q.Int("offset", 0, 0, math.MaxInt64-1)
	w.one = broadcast.At(int32(p), offset)
	return err
}
