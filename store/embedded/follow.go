package embedded

import (
	"context"
	"math"
	"sync"

	"github.com/kateway/kateway/store"
)

// tail is a store.Tail: Feed without a group.
type tail struct {
	s    *Store
	t    *topic
	wake wake

	// Poll's own.
	turn int   // the cursor to begin with
	err  error // to answer next

	mu     sync.Mutex
	order  []*cursor // by partition; written by Poll
	closed bool
}

// Follow is store.Follower's.
func (s *Store) Follow(ctx context.Context, name string, from []store.Position) (store.Tail, error) {
	t, err := s.topic(ctx, name)
	if err != nil {
		return nil, err
	}
	next := map[int32]int64{}
	for _, p := range from {
		if _, err := t.partition(p.Partition); err != nil {
			return nil, err
		}
		next[p.Partition] = p.Next
	}
	tl := &tail{s: s, t: t, wake: newWake()}
	if err := tl.enlist(); err != nil {
		return nil, err
	}
	tl.grow(next)
	return tl, nil
}

// enlist has the end of the store wake the tail.
func (tl *tail) enlist() error {
	tl.s.mu.Lock()
	defer tl.s.mu.Unlock()
	if tl.s.closed {
		return store.ErrClosed
	}
	tl.s.open[tl.wake] = struct{}{}
	return nil
}

// grow adds cursors for partitions that have none, from the offset given or else the oldest, and answers where they stand.
func (tl *tail) grow(from map[int32]int64) (gained []store.Position) {
	tl.mu.Lock()
	defer tl.mu.Unlock()
	if tl.closed {
		return nil
	}
	parts := *tl.t.parts.Load()
	for _, p := range parts[len(tl.order):] {
		start, _ := p.bounds()
		next, given := from[p.number]
		if !given {
			next = start.offset
		}
		p.watch(tl.wake)
		tl.order = append(tl.order, newCursor(p, next))
		gained = append(gained, store.Position{Partition: p.number, Next: next})
	}
	return gained
}

// Poll is store.Tail's.
func (tl *tail) Poll(ctx context.Context, limit int) (store.Batch, error) {
	for {
		b, err := tl.look(ctx, limit)
		if err != nil || len(b.Gained)+len(b.Gaps)+len(b.Messages) > 0 {
			return b, err
		}
	}
}

// look is what there is to tell now; when that is nothing, it waits until there may be something.
func (tl *tail) look(ctx context.Context, limit int) (b store.Batch, err error) {
	if err := tl.ended(); err != nil {
		return b, err
	}
	if err := tl.err; err != nil {
		tl.err = nil
		return b, err
	}
	b.Gained = tl.grow(nil)
	r := &reading{s: tl.s, live: true, max: limit, enough: maxReadBytes}
	err = tl.read(r)
	b.Messages, b.Gaps = r.msgs, r.gaps
	if len(b.Gained)+len(b.Gaps)+len(b.Messages) > 0 {
		tl.err = err // what is at hand comes first
		return b, nil
	}
	if err != nil {
		return b, err
	}
	return b, pause(ctx, tl.wake, r.again)
}

func (tl *tail) ended() error {
	tl.mu.Lock()
	defer tl.mu.Unlock()
	switch {
	case tl.closed || tl.s.isClosed():
		return store.ErrClosed
	case tl.t.gone.Load():
		return unknown(tl.t.name)
	}
	return nil
}

// read takes from the cursors in turn.
func (tl *tail) read(r *reading) error {
	if err := tl.s.enter(); err != nil {
		return err
	}
	defer tl.s.leave()
	tl.turn++
	for i := range tl.order {
		c := tl.order[(tl.turn+i)%len(tl.order)]
		if start, end := c.p.bounds(); c.next > end.offset { // a position of another topic
			r.skip(c, start.offset)
		}
		if err := r.read(c, math.MaxInt64); err != nil {
			_ = r.close() // the first error counts
			return err
		}
		if r.full() {
			break
		}
	}
	return r.close()
}

// Close is store.Tail's.
func (tl *tail) Close() {
	tl.mu.Lock()
	if !tl.closed {
		tl.closed = true
		for _, c := range tl.order {
			c.p.unwatch(tl.wake, tl.s.tail)
		}
	}
	tl.mu.Unlock()
	tl.s.mu.Lock()
	delete(tl.s.open, tl.wake)
	tl.s.mu.Unlock()
	tl.wake.nudge()
}
