package sub

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/online"
	"github.com/kateway/kateway/internal/wire"
	"github.com/kateway/kateway/store"
)

// minLook is how long even wait=0s looks: a group that was asleep has to fetch first, and one that is only ever asked
// with wait=0s would never get anything.
const minLook = 100 * time.Millisecond

// unbounded is a poll's prefetch: batch bounds what one poll takes, and what a client holds of earlier ones is bounded by
// the group's window.
const unbounded = math.MaxInt32

// do answers GET /v1/msgs/:app/:topic/:ver.
func (wish *pollWish) do(h *Handler, w http.ResponseWriter, r *http.Request) error {
	a, err := h.openPoll(w, r, wish)
	if errors.Is(err, errs.Draining) {
		return h.nothing(w) // as for a poll that waited when the gateway began to stop; the next one goes elsewhere
	}
	if err != nil {
		return err
	}
	defer a.session.Close()
	ctx := r.Context()
	a.use = wish.use(ctx, online.Poll)
	defer a.use.Done()
	batch, gaps, err := await(ctx, a.session, a.wish.batch, a.wish.wait)
	if err != nil {
		h.forget(a.wish.topic, err)
		return err
	}
	if len(gaps) > 0 {
		w.Header()["X-Gap"] = []string{gapHeader(gaps)}
	}
	if len(batch) == 0 {
		return h.nothing(w)
	}
	return a.deliver(ctx, batch)
}

// nothing answers a poll for which there was no message.
func (h *Handler) nothing(w http.ResponseWriter) error {
	h.metrics.empty.Inc()
	w.Header()["Cache-Control"] = []string{"no-store"}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// answer is the answer of one poll.
type answer struct {
	h       *Handler
	wish    *pollWish
	session group.Session
	use     *online.Use
	out     out
	enc     encoder
}

// openPoll acks what the client has done and makes the request a client of its group. The session is to be closed.
func (h *Handler) openPoll(w http.ResponseWriter, r *http.Request, wish *pollWish) (*answer, error) {
	key, err := h.key(r.Context(), &wish.place)
	if err != nil {
		return nil, err
	}
	fenced, unknown := h.ackFirst(r.Context(), key, wish.receipts)
	if len(fenced) > 0 {
		w.Header()["X-Receipt-Fenced"] = []string{strings.Join(fenced, ",")}
	}
	if len(unknown) > 0 {
		w.Header()["X-Receipt-Unknown"] = []string{strings.Join(unknown, ",")}
	}
	a := &answer{h: h, wish: wish, enc: encoder{groups: h.groups, key: key, explicit: wish.explicit, base64: wish.base64}}
	// What an explicit poll carried stays with the client. An auto poll has acked it all or, when the answer could not be
	// written, gives it back by closing.
	if a.session, err = h.open(r.Context(), &wish.wish, key, unbounded, wish.explicit); err != nil {
		return nil, err
	}
	h.setOut(&a.out, w, wish.coding)
	return a, nil
}

// ackFirst acks the messages that the client has just processed, and answers which of them were no longer its own, and of
// which nobody knows: whoever was to ack them did not answer.
func (h *Handler) ackFirst(ctx context.Context, key group.Key, receipts []string) (fenced, unknown []string) {
	if len(receipts) == 0 {
		return nil, nil
	}
	open := h.groups.Receipts(key)
	var verbs []group.Verb
	var of []string // the receipt of each verb
	for _, s := range receipts {
		ref, err := open.Open(s)
		if err != nil {
			fenced = append(fenced, url.QueryEscape(s)) // as it is, where it ever was a receipt
			continue
		}
		verbs, of = append(verbs, group.Verb{Ref: ref}), append(of, s)
	}
	if len(verbs) == 0 {
		return fenced, nil
	}
	for i, err := range h.verbs(ctx, key, verbs) {
		switch {
		case err == nil:
		case errors.Is(err, errs.Fenced):
			fenced = append(fenced, of[i])
		default:
			unknown = append(unknown, of[i])
		}
	}
	return fenced, unknown
}

// await waits for the first message, and answers what is at hand then and the gaps before it. The slice is good until
// the session's next Next. None and no error: nothing came in time, or the gateway is stopping.
func await(ctx context.Context, s group.Session, most int, wait time.Duration) ([]group.Delivery, []store.Gap, error) {
	waiting, cancel := context.WithTimeout(ctx, max(wait, minLook))
	defer cancel()
	var gaps []store.Gap
	for {
		b, err := s.Next(waiting, most)
		gaps = append(gaps, b.Gaps...)
		switch {
		case err == nil && len(b.Deliveries) > 0:
			return b.Deliveries, gaps, nil
		case err == nil: // gaps alone
		case ctx.Err() != nil:
			return nil, nil, fmt.Errorf("the client has gone: %w", ctx.Err())
		case waiting.Err() != nil, errors.Is(err, errs.Draining):
			return nil, gaps, nil
		default:
			return nil, nil, err
		}
	}
}

// deliver writes the messages and settles them: acked after the last byte has gone (auto), due again at once when it
// could not.
func (a *answer) deliver(ctx context.Context, batch []group.Delivery) error {
	err := ctx.Err()
	if err == nil {
		err = a.write(batch)
	}
	if err != nil {
		if a.wish.explicit { // the session leaves them leased, and nobody has them
			a.session.Settle(verbsFor(batch, group.Nack)...)
		}
		return fmt.Errorf("%d messages could not be written and are due again: %w", len(batch), err)
	}
	if !a.wish.explicit {
		a.h.acked(a.wish.topic, a.session.Settle(verbsFor(batch, group.Ack)...))
	}
	a.h.metrics.answered.Inc()
	a.h.metrics.messages.of(a.wish.topic).Add(float64(len(batch)))
	a.use.Count(len(batch), bytesOf(batch))
	return nil
}

// bytesOf is the bytes of keys, values and headers.
func bytesOf(batch []group.Delivery) (bytes int64) {
	for i := range batch {
		bytes += int64(batch[i].Size())
	}
	return bytes
}

func verbsFor(batch []group.Delivery, op group.Op) []group.Verb {
	verbs := make([]group.Verb, len(batch))
	for i := range batch {
		verbs[i] = group.Verb{Ref: batch[i].Ref, Op: op}
	}
	return verbs
}

func (a *answer) write(batch []group.Delivery) error {
	c := a.h.getChunk()
	defer a.h.putChunk(c)
	switch a.wish.form {
	case pollRaw:
		d := &batch[0]
		a.out.setHeaders("", a.wish.coding)
		wire.SetHeaders(a.out.w.Header(), d.Message, a.enc.extra(d))
		if a.out.coder == nil {
			return a.out.whole(d.Value)
		}
		c.buf = append(c.buf, d.Value...)
		return a.out.finish(c, true)
	case pollLines:
		a.out.setHeaders(typeJSONLines, a.wish.coding)
		return a.many(c, batch, func(dst []byte, d *group.Delivery) []byte { return append(a.enc.object(dst, d), '\n') })
	case pollFrames:
		a.out.setHeaders(typeBytes, a.wish.coding)
		return a.many(c, batch, func(dst []byte, d *group.Delivery) []byte { return wire.AppendFrame(dst, d.Message) })
	}
	return fmt.Errorf("form %d: %w", a.wish.form, errs.Internal)
}

// many writes an answer of several messages: with its length where it fits one chunk, else chunk by chunk.
func (a *answer) many(c *chunk, batch []group.Delivery, form func([]byte, *group.Delivery) []byte) error {
	first := true
	for i := range batch {
		c.buf = form(c.buf, &batch[i])
		if len(c.buf) < chunkBytes || i == len(batch)-1 {
			continue
		}
		if err := a.out.send(c); err != nil {
			return err
		}
		c.buf, first = c.buf[:0], false
	}
	return a.out.finish(c, first)
}
