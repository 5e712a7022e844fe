package manager

import (
	"context"
	"fmt"
	"iter"
	"net/http"
	"slices"
	"strings"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/httpx"
	"github.com/kateway/kateway/meta"
)

const (
	defaultLimit = 100
	maxLimit     = 1000
)

// page is which part of a list is asked for: the elements whose names come after one.
type page struct {
	after string
	limit int
}

// page reads the parameters that all lists have.
func (c *call) page() (page, error) {
	n, err := c.q.Int("limit", defaultLimit, 1, maxLimit)
	return page{after: c.q.Get("after"), limit: int(n)}, err
}

// list is the answer of a list. Next, where there is more, is to be sent as after.
type list[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty"`
}

// cut makes the answer of elements that all come after p.after, sorted by name. One more than the page holds is enough to
// tell that there is more.
func cut[T any](p page, all []T, name func(T) string) list[T] {
	out := list[T]{Items: all}
	if len(all) > p.limit {
		out.Items = all[:p.limit]
		out.Next = name(out.Items[p.limit-1])
	}
	if out.Items == nil {
		out.Items = []T{}
	}
	return out
}

// within is cut for all elements there are, sorted by name.
func within[T any](p page, all []T, name func(T) string) list[T] {
	i, found := slices.BinarySearchFunc(all, p.after, func(v T, after string) int { return strings.Compare(name(v), after) })
	if found {
		i++
	}
	return cut(p, all[i:], name)
}

// records lists a page of the records of one kind whose names begin with prefix and that are to be kept.
func records[R meta.Record](s *meta.Snapshot, kind meta.Kind, p page, prefix string, keep func(R) bool) list[R] {
	var some []R
	for r := range every[R](s, kind, p.after, prefix) {
		if len(some) > p.limit {
			break
		}
		if keep(r) {
			some = append(some, r)
		}
	}
	return cut(p, some, func(r R) string { return r.ID().Name })
}

// every yields the records of one kind whose names begin with prefix and come after one, in the order of their names.
func every[R meta.Record](s *meta.Snapshot, kind meta.Kind, after, prefix string) iter.Seq[R] {
	return func(yield func(R) bool) {
		after := max(after, prefix)
		for n := 16; ; n = min(2*n, maxLimit) { // a page is short, everything is long
			some := s.List(kind, after, n)
			for _, r := range some {
				after = r.ID().Name
				rec, ok := r.(R)
				if !strings.HasPrefix(after, prefix) || ok && !yield(rec) {
					return
				}
			}
			if len(some) < n {
				return
			}
		}
	}
}

// all keeps every record.
func all[R any](R) bool { return true }

// each makes another list of a list's elements.
func each[A, B any](l list[A], f func(A) B) list[B] {
	out := list[B]{Items: make([]B, len(l.Items)), Next: l.Next}
	for i, v := range l.Items {
		out.Items[i] = f(v)
	}
	return out
}

// answer writes v.
func (c *call) answer(status int, v any) error { return httpx.WriteJSON(c.w, status, v) }

// object answers a single object with its ETag.
func (c *call) object(status int, etag string, v any) error {
	c.w.Header().Set("ETag", `"`+etag+`"`)
	return c.answer(status, v)
}

// created answers 201 for what is now at path.
func (c *call) created(path, etag string, v any) error {
	c.w.Header().Set("Location", path)
	return c.object(http.StatusCreated, etag, v)
}

// none answers 204.
func (c *call) none() error {
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

// match is the request's If-Match.
type match struct {
	given, any bool
	tags       []string
}

// match reads If-Match. Kind InvalidParam.
func (c *call) match() (match, error) {
	v, err := httpx.Header(c.r, "If-Match")
	if err != nil || v == "" {
		return match{}, err
	}
	m := match{given: true, any: v == "*"}
	if m.any {
		return m, nil
	}
	for tag := range strings.SplitSeq(v, ",") {
		tag = strings.TrimSpace(tag)
		n := len(tag)
		switch {
		case strings.HasPrefix(tag, `W/`): // a weak one never matches
		case n < 2 || tag[0] != '"' || tag[n-1] != '"':
			return match{}, fmt.Errorf(`If-Match must be * or the object's ETag, in quotes as it came: %w`, errs.InvalidParam)
		default:
			m.tags = append(m.tags, tag[1:n-1])
		}
	}
	return m, nil
}

// check answers PreconditionFailed unless an object with this ETag is meant; "" is that of none.
func (m match) check(etag string) error {
	if !m.given || etag != "" && (m.any || slices.Contains(m.tags, etag)) {
		return nil
	}
	return fmt.Errorf("the object is not what If-Match names; get it again: %w", errs.PreconditionFailed)
}

// present is the object as it is, which must be the one that If-Match names, if any. Our snapshot may lag behind a change
// that the caller made at another gateway, so that one that does not match is read anew first.
func (h *Handler) present(c *call, id meta.ID, m match) (meta.Record, string, error) {
	r, etag := h.cfg.Meta.Snapshot().Record(id)
	if m.check(etag) == nil {
		return r, etag, nil
	}
	ctx, cancel := context.WithTimeout(c.ctx, peerTimeout)
	defer cancel()
	if err := h.cfg.Meta.Refresh(ctx); err != nil {
		return nil, "", err
	}
	r, etag = h.cfg.Meta.Snapshot().Record(id)
	return r, etag, m.check(etag)
}

// edit replaces the object by what f makes of it (nil: of none), or deletes it where f answers nil. f may be called
// more than once, and must not write to what it is given. Nobody else's change is overwritten.
func (h *Handler) edit(c *call, id meta.ID, f func(present meta.Record) (meta.Record, error)) error {
	m, err := c.match()
	if err != nil {
		return err
	}
	if !m.given {
		return h.cfg.Meta.Update(c.ctx, id, f)
	}
	present, etag, err := h.present(c, id, m)
	if err != nil {
		return err
	}
	next, err := f(present)
	if err != nil {
		return err
	}
	if next == nil {
		return h.cfg.Meta.Delete(c.ctx, id, etag)
	}
	_, err = h.cfg.Meta.Put(c.ctx, next, etag)
	return err
}

// refuse answers that gateways have to take part in this which do not answer, by name.
func (c *call) refuse(silent []string) error {
	c.refused = fmt.Errorf("nothing was done: these gateways did not answer: %s: %w", strings.Join(silent, ", "), errs.Unavailable)
	p := httpx.ProblemOf(c.refused)
	p.Detail = strings.TrimSuffix(c.refused.Error(), ": "+errs.Unavailable.Error())
	httpx.WriteProblemBody(c.w, c.refused, struct {
		httpx.Problem
		Unreachable []string `json:"unreachable"`
	}{p, silent})
	return nil
}

// listChunk is written at once.
const listChunk = 64 << 10

// listWriter writes a list whose elements are too large to have all of them in memory. What goes wrong after the first chunk
// cuts the answer off.
type listWriter struct {
	c     *call
	buf   []byte
	count int
}

// add writes an element, which appends itself.
func (w *listWriter) add(element func(dst []byte) []byte) error {
	if w.count == 0 {
		w.c.w.Header().Set("Content-Type", "application/json")
		w.buf = append(w.buf, `{"items":[`...)
	} else {
		w.buf = append(w.buf, ',')
	}
	w.count++
	w.buf = element(w.buf)
	if len(w.buf) < listChunk {
		return nil
	}
	return w.flush()
}

func (w *listWriter) flush() error {
	_, err := w.c.w.Write(w.buf)
	w.buf = w.buf[:0]
	return err
}

// end ends the list. next is where the following page begins, "" where there is none; it is not escaped.
func (w *listWriter) end(next string) error {
	if w.count == 0 {
		return w.c.answer(http.StatusOK, list[struct{}]{Items: []struct{}{}})
	}
	w.buf = append(w.buf, ']')
	if next != "" {
		w.buf = append(append(append(w.buf, `,"next":"`...), next...), '"')
	}
	w.buf = append(w.buf, "}\n"...)
	return w.flush()
}
