package broadcast

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/wire"
	"github.com/kateway/kateway/store"
)

// Reader is one reader of a topic. One goroutine at a time may call it.
type Reader struct {
	hub   *Hub
	tap   *tap
	match func(*store.Message) bool

	inspect func(context.Context, *store.Message) bool // nil: nothing does

	at    Vector      // behind what was answered, and passed over
	gaps  []store.Gap // to be told next
	batch *batch      // what the last Next answered
	holds int64       // bytes of it that were read from the store for this reader alone

	// Its place in the ring; without a seat it reads the store until it has caught up.
	seated bool
	number uint64             // of the next entry
	ahead  map[int32]struct{} // partitions of which it has seen what is still to come in the ring
	turn   int                // the partition to read from the store next

	over   bool // Close was called
	ending sync.Once
	done   chan struct{} // closed when the gateway stops
}

// batch is what a reader needs only while it has messages in its hands.
type batch struct {
	items []Item
	text  []byte // of items that are this reader's alone
}

// maxKept is how large a batch goes back to the pool.
const maxKept = 1 << 20

func (h *Hub) getBatch() *batch {
	if b, ok := h.batches.Get().(*batch); ok {
		return b
	}
	return new(batch)
}

// release gives back what the last Next answered.
func (r *Reader) release() {
	b := r.batch
	if b == nil {
		return
	}
	r.hub.held.Add(-r.holds)
	r.batch, r.holds = nil, 0
	clear(b.items[:cap(b.items)])
	if cap(b.text) > maxKept {
		b.text = nil
	}
	b.items, b.text = b.items[:0], b.text[:0]
	r.hub.batches.Put(b)
}

// begin finds where the reader starts.
func (r *Reader) begin(ctx context.Context, ask *Ask) error {
	r.at = NewVector(ask.Topic)
	if ask.From.IsZero() {
		at, err := r.hub.cfg.Store.Resolve(ctx, ask.Topic, ask.Start)
		if err != nil {
			return asUnavailable(err)
		}
		for _, p := range at {
			r.at.set(p.Partition, p.Next)
		}
	}
	select {
	case <-r.tap.ready:
	case <-ctx.Done():
		return asUnavailable(ctx.Err())
	}
	if r.tap.ring == nil {
		return r.tap.failure()
	}
	if ask.From.IsZero() {
		return nil
	}
	return r.resume(ctx, ask.From)
}

// resume takes over a cursor. What it says is looked at only where it is beyond what has come here.
func (r *Reader) resume(ctx context.Context, c Cursor) error {
	if c.some {
		r.at.kind = ofSome
	}
	var beyond bool
	for _, p := range c.at {
		beyond = beyond || r.tap.ring.beyond(p)
	}
	if !beyond {
		for _, p := range c.at {
			r.at.set(p.Partition, p.Next)
		}
		return nil
	}
	topic := r.tap.topic
	ends, err := r.hub.cfg.Store.Resolve(ctx, topic, store.Start{Newest: true})
	if err != nil {
		return asUnavailable(err)
	}
	starts, err := r.hub.cfg.Store.Resolve(ctx, topic, store.Start{})
	if err != nil {
		return asUnavailable(err)
	}
	for _, p := range c.at {
		switch n := p.Partition; {
		case int(n) >= min(len(starts), len(ends)) && c.some:
			return fmt.Errorf("topic %s has %d partitions, not %d: %w", topic, len(starts), n, errs.InvalidParam)
		case int(n) >= min(len(starts), len(ends)): // the topic was made anew, with fewer of them
			r.gaps = append(r.gaps, store.Gap{Partition: n, From: p.Next})
		case p.Next > ends[n].Next: // the same
			r.gaps = append(r.gaps, store.Gap{Partition: n, From: p.Next, To: starts[n].Next})
			r.at.set(n, starts[n].Next)
		default:
			r.at.set(n, p.Next)
		}
	}
	return nil
}

// Next waits for the first message or gap until ctx ends, and answers what is at hand, at most max messages. With a ctx
// that has ended it does not wait.
// Errors: ctx.Err() when nothing came; errs.Draining when the gateway stops; errs.UnknownTopic when the topic is gone;
// errs.Unavailable when the store can't be read. After any but ctx.Err() the reader is over.
func (r *Reader) Next(ctx context.Context, max int) (Batch, error) {
	r.release()
	for {
		if r.isDone() {
			return Batch{}, errs.Draining
		}
		if gaps := r.gaps; len(gaps) > 0 {
			r.gaps = nil
			return Batch{Gaps: gaps}, nil
		}
		if !r.seated {
			r.sit()
		}
		var items []Item
		var more <-chan struct{}
		var err error
		if r.seated {
			items, more, err = r.take(ctx, max)
		} else {
			items, err = r.catchUp(ctx, max)
		}
		switch {
		case err != nil:
			r.release()
			return Batch{}, err
		case len(items) > 0:
			return Batch{Items: items}, nil
		case len(r.gaps) > 0:
		case more != nil:
			r.release() // who waits holds nothing
			if err := r.wait(ctx, more); err != nil {
				return Batch{}, err
			}
		case ctx.Err() != nil: // all that was there was passed over
			r.release()
			return Batch{}, ctx.Err()
		}
	}
}

func (r *Reader) isDone() bool {
	select {
	case <-r.done:
		return true
	default:
		return r.over
	}
}

func (r *Reader) wait(ctx context.Context, more <-chan struct{}) error {
	select {
	case <-more:
		return nil
	case <-r.done:
		return errs.Draining
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sit takes a seat in the ring where that is possible without a hole.
func (r *Reader) sit() {
	r.number, r.ahead, r.seated = r.tap.ring.seat(&r.at)
}

// take answers the next messages of the ring. None and no channel: look again.
func (r *Reader) take(ctx context.Context, max int) (items []Item, more <-chan struct{}, err error) {
	if r.batch == nil {
		r.batch = r.hub.getBatch()
	}
	b := r.batch
	all, more, lost, err := r.tap.ring.from(r.number, b.items[:0], max)
	b.items = all
	if err != nil {
		return nil, nil, r.tap.failure()
	}
	if lost {
		r.seated, r.ahead = false, nil
		return nil, nil, nil
	}
	items = all[:0]
	for i := range all {
		it := all[i]
		if it.gap != nil && len(items) > 0 {
			break // gaps come before messages: the next time
		}
		r.number++
		if r.pass(&it) && (r.inspect == nil || r.look(ctx, &it)) {
			items = append(items, it)
		}
		if len(r.gaps) > 0 {
			break
		}
	}
	return items, more, nil
}

// look has the message inspected, and makes it this reader's alone. False: it is left out.
func (r *Reader) look(ctx context.Context, it *Item) bool {
	m := *it.Message
	if !r.inspect(ctx, &m) {
		return false
	}
	b := r.batch
	n := len(b.text)
	b.text = wire.AppendObject(b.text, &m, wire.Extra{})
	*it = Item{Message: &m, Object: slices.Clip(b.text[n:]), Cursor: it.Cursor}
	return true
}

// pass moves the reader behind an entry of the ring, and reports whether it is a message for the reader.
func (r *Reader) pass(it *Item) bool {
	if it.gap != nil {
		r.passGap(it.gap)
		return false
	}
	p := it.Partition
	if !r.at.reads(p) {
		return false
	}
	seen := it.Offset < r.at.at(p)
	if _, ahead := r.ahead[p]; ahead && it.Offset+1 >= r.at.at(p) {
		delete(r.ahead, p)
	}
	if seen {
		return false
	}
	r.at.Pass(p, it.Offset)
	if r.match != nil && !r.match(it.Message) {
		return false
	}
	if len(r.ahead) > 0 || r.at.kind == ofSome { // the ring's cursor is not the reader's
		it.Cursor, it.shared = r.cursor(), nil
	}
	return true
}

// passGap tells the gap, or what of it the reader has not got past. A gap that goes back is always told: what comes then has
// offsets that were there before.
func (r *Reader) passGap(g *store.Gap) {
	at := r.at.at(g.Partition)
	if !r.at.reads(g.Partition) || g.To >= g.From && at >= g.To {
		return
	}
	if at == absent {
		at = g.From
	}
	r.gaps = append(r.gaps, store.Gap{Partition: g.Partition, From: at, To: g.To})
	r.at.set(g.Partition, g.To)
	delete(r.ahead, g.Partition)
}

// cursor is the text of the reader's own cursor, good until the next Next.
func (r *Reader) cursor() []byte {
	b := r.batch
	n := len(b.text)
	b.text = r.at.Append(b.text)
	return slices.Clip(b.text[n:])
}

// AppendCursor appends the text of the cursor behind what Next has answered last, or of where the reader began.
func (r *Reader) AppendCursor(dst []byte) []byte { return r.at.Append(dst) }

// Drain ends the reader as a stop of the gateway does, for its client to come again. It may be called concurrently with Next.
func (r *Reader) Drain() { r.end() }

// end has Next answer errs.Draining.
func (r *Reader) end() { r.ending.Do(func() { close(r.done) }) }

// Close ends the reader. A second Close does nothing.
func (r *Reader) Close() {
	if r.over {
		return
	}
	r.over = true
	r.release()
	h := r.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.readers, r)
	r.tap.leave()
}

// failure is why the topic is no longer followed.
func (t *tap) failure() error {
	t.hub.mu.Lock()
	defer t.hub.mu.Unlock()
	if errors.Is(t.err, errs.Draining) {
		return t.err
	}
	return fmt.Errorf("topic %s: %w", t.topic, t.err)
}
