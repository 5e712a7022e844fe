package sub

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/httpx"
	"github.com/kateway/kateway/internal/ws"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/store"
)

// groupSocket is a WebSocket of a group: GET /v1/ws/msgs/:app/:topic/:ver with group.
type groupSocket struct {
	streamWish
	socketWish
}

func (w *groupSocket) read(r *http.Request) error {
	var bad error
	w.handshake, bad = ws.Ask(r) // first, since it may tell who calls
	q, err := httpx.ParseQuery(r, append([]string{"format", "prefetch", "limit"}, wishParams[:]...)...)
	if err != nil {
		return err
	}
	if err := w.parse(r, q); err != nil {
		return err
	}
	if err := w.format(q, w.base64); err != nil {
		return err
	}
	if w.raw && w.explicit {
		return fmt.Errorf("format=raw has bare values only: no receipts for ack=explicit: %w", errs.InvalidParam)
	}
	return bad
}

func (w *groupSocket) do(h *Handler, rw http.ResponseWriter, r *http.Request) error {
	feed, err := h.openFeed(r.Context(), w)
	if err != nil {
		return err
	}
	return w.socketWish.serve(h, rw, r, feed, &w.place, w.most(), w.limit)
}

// groupFeed is a client of a group.
type groupFeed struct {
	h       *Handler
	topic   meta.Topic
	raw     bool
	session group.Session
	enc     encoder
	opener  *group.Receipts // of settle, made for the first receipt
	stays   bool            // what is un-acked at the end stays with the client
	batch   []group.Delivery
}

// openFeed makes the request a client of its group.
func (h *Handler) openFeed(ctx context.Context, w *groupSocket) (*groupFeed, error) {
	key, err := h.key(ctx, &w.place)
	if err != nil {
		return nil, err
	}
	f := &groupFeed{
		h: h, topic: w.topic, raw: w.raw, stays: w.explicit && w.limit > 0, // as a stream with a limit
		enc: encoder{groups: h.groups, key: key, explicit: w.explicit, base64: w.base64},
	}
	f.session, err = h.open(ctx, &w.wish, key, w.most(), f.stays)
	return f, err
}

func (f *groupFeed) next(ctx context.Context, most int) ([]store.Gap, int, error) {
	b, err := f.session.Next(ctx, most)
	f.batch = b.Deliveries
	return b.Gaps, len(b.Deliveries), err
}

func (f *groupFeed) message(i int) *store.Message     { return f.batch[i].Message }
func (f *groupFeed) note(dst []byte, _ moment) []byte { return dst }
func (f *groupFeed) close()                           { f.session.Close() }

func (f *groupFeed) frame(dst []byte, i int, conn *ws.Conn) []byte {
	at := len(dst)
	if f.raw {
		return conn.End(append(ws.Begin(dst), f.batch[i].Value...), at, ws.Binary)
	}
	return conn.End(f.enc.object(ws.Begin(dst), &f.batch[i]), at, ws.Text)
}

// written acks where the client does not do it. What could not be written is due again: at the end, if not at once.
func (f *groupFeed) written(c *chunk, from, to int, ok bool) {
	op := group.Ack
	if !ok {
		op = group.Nack
	}
	if ok && f.enc.explicit || !ok && !f.stays {
		return
	}
	for i := from; i < to; i++ {
		c.verbs = append(c.verbs, group.Verb{Ref: f.batch[i].Ref, Op: op})
	}
	if outcome := f.session.Settle(c.verbs...); ok {
		f.h.acked(f.topic, outcome)
	}
}

// settle asks the session first, which knows what it gave. What is not its own may be another client's of the group.
func (f *groupFeed) settle(ctx context.Context, c *chunk, list []receipted) []error {
	outcome := append(c.outcome[:0], make([]error, len(list))...)
	c.outcome = outcome
	if f.opener == nil {
		f.opener = f.h.groups.Receipts(f.enc.key)
	}
	verbs, at := c.verbs[:0], c.at[:0] // at is the element of each verb
	for i := range list {
		v := &list[i]
		if v.verb.Ref, outcome[i] = f.opener.Open(v.receipt); outcome[i] == nil {
			verbs, at = append(verbs, v.verb), append(at, i)
		}
	}
	c.verbs, c.at = verbs, at
	if len(verbs) == 0 {
		return outcome
	}
	others := 0
	for i, err := range f.session.Settle(verbs...) {
		if outcome[at[i]] = err; errors.Is(err, errs.Fenced) {
			verbs[others], at[others] = verbs[i], at[i]
			others++
		}
	}
	if others > 0 {
		for i, err := range f.h.verbs(ctx, f.enc.key, verbs[:others]) {
			outcome[at[i]] = err
		}
	}
	f.h.forget(f.topic, outcome...)
	return outcome
}
