package broadcast

import (
	"context"
	"fmt"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/wire"
	"github.com/kateway/kateway/store"
)

// catchUp reads on from the store, of one partition in which the reader is behind the ring, in turn. It holds nothing
// between two calls. It answers at most max messages, none where there were none below the ring, or none for the reader.
func (r *Reader) catchUp(ctx context.Context, max int) ([]Item, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	behind := r.tap.ring.behind(&r.at)
	if len(behind) == 0 {
		return nil, nil
	}
	select {
	case r.hub.browses <- struct{}{}:
		defer func() { <-r.hub.browses }()
	case <-r.done:
		return nil, errs.Draining
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	r.hub.metrics.steps.Inc()
	r.turn++
	items, err := r.browse(ctx, behind[r.turn%len(behind)], max)
	if err != nil && ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("topic %s: %w", r.tap.topic, asUnavailable(err))
	}
	return items, nil
}

// step is how many bytes a reader may read at once now. It holds them until its client has taken them, and clients that take
// nothing may be many: each gets a part of what is left, so that all together stay near Limits.Held and none is refused.
func (h *Hub) step() int {
	const part, least = 64, 4 << 10
	l := h.cfg.Limits
	return min(l.Step, max((l.Held-int(h.held.Load()))/part, least))
}

// browse reads one partition. to is where the ring began before: all that there is below it, Browse yields.
func (r *Reader) browse(ctx context.Context, to store.Position, max int) ([]Item, error) {
	p := to.Partition
	if r.at.at(p) == absent {
		return nil, r.locate(ctx, p)
	}
	if r.batch == nil {
		r.batch = r.hub.getBatch()
	}
	from, looked, ended := r.at.at(p), 0, true
	first, step := true, r.hub.step()
	for m, err := range r.hub.cfg.Store.Browse(ctx, r.tap.topic, p, from) {
		if err != nil {
			if first {
				return nil, err
			}
			ended = false // what is at hand comes first; the next step meets the error again
			break
		}
		if first && m.Offset > from {
			if err := r.overtaken(ctx, p, m.Offset); err != nil {
				return nil, err
			}
			if len(r.gaps) > 0 { // told first; then on from here
				return nil, nil
			}
		}
		first = false
		looked += r.add(ctx, m)
		if len(r.batch.items) >= max || looked >= step {
			ended = false
			break
		}
	}
	if ended && r.at.at(p) < to.Next {
		return r.batch.items, r.pastEnd(ctx, to)
	}
	return r.batch.items, nil
}

// add takes a message from the store, and answers what it weighs.
func (r *Reader) add(ctx context.Context, m *store.Message) int {
	r.at.Pass(m.Partition, m.Offset)
	if r.match != nil && !r.match(m) {
		return m.Size()
	}
	if r.inspect != nil {
		own := *m
		if m = &own; !r.inspect(ctx, m) {
			return m.Size()
		}
	}
	b := r.batch
	n := len(b.text)
	b.text = wire.AppendObject(b.text, m, wire.Extra{})
	object := b.text[n:len(b.text):len(b.text)]
	b.items = append(b.items, Item{Message: m, Object: object, Cursor: r.cursor()})
	size, text := m.Size(), len(b.text)-n
	r.holds += int64(size + text)
	r.hub.held.Add(int64(size + text))
	return max(size, text)
}

// locate puts the reader at the oldest message of a partition that its cursor lacks.
func (r *Reader) locate(ctx context.Context, p int32) error {
	oldest, err := r.oldest(ctx, p)
	if err == nil {
		r.at.set(p, oldest)
	}
	return err
}

// overtaken is asked when the store goes on at an offset behind the reader's: a gap where retention was here, nothing where
// it is but a hole, as transactions and compaction leave them.
func (r *Reader) overtaken(ctx context.Context, p int32, found int64) error {
	oldest, err := r.oldest(ctx, p)
	if err != nil {
		return err
	}
	r.skip(p, min(oldest, found))
	return nil
}

// skip tells a gap up to the offset, if there is one.
func (r *Reader) skip(p int32, to int64) {
	if from := r.at.at(p); from < to {
		r.gaps = append(r.gaps, store.Gap{Partition: p, From: from, To: to})
		r.at.set(p, to)
	}
}

// pastEnd moves the reader on when the store had nothing more below the ring.
func (r *Reader) pastEnd(ctx context.Context, to store.Position) error {
	oldest, err := r.oldest(ctx, to.Partition)
	if err != nil {
		return err
	}
	r.skip(to.Partition, min(oldest, to.Next))
	r.at.set(to.Partition, max(r.at.at(to.Partition), to.Next))
	return nil
}

func (r *Reader) oldest(ctx context.Context, p int32) (int64, error) {
	at, err := r.hub.cfg.Store.Resolve(ctx, r.tap.topic, store.Start{})
	if err != nil {
		return 0, err
	}
	if int(p) >= len(at) {
		return 0, fmt.Errorf("topic %s was made anew, with fewer partitions: %w", r.tap.topic, errs.UnknownTopic)
	}
	return at[p].Next, nil
}
