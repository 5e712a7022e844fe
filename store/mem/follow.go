package mem

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

var _ store.Follower = (*Store)(nil)

// Follow is store.Follower's.
func (s *Store) Follow(ctx context.Context, name string, from []store.Position) (store.Tail, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.topic(ctx, name)
	if err != nil {
		return nil, err
	}
	tl := &tail{s: s, t: t, done: make(chan struct{})}
	for _, p := range t.resolve(store.Start{}) {
		tl.next = append(tl.next, p.Next)
	}
	for _, p := range from {
		if _, err := t.partition(p.Partition); err != nil {
			return nil, err
		}
		tl.next[p.Partition] = p.Next
	}
	return tl, nil
}

// tail is one reader of a topic. next and turn are guarded by Store.mu.
type tail struct {
	s      *Store
	t      *topic
	next   []int64 // by partition
	turn   int     // the partition to begin with
	closed atomic.Bool
	done   chan struct{} // closed by Close
}

// Poll is store.Tail's.
func (tl *tail) Poll(ctx context.Context, limit int) (store.Batch, error) {
	tl.s.mu.Lock()
	defer tl.s.mu.Unlock()
	for {
		if err := tl.ended(); err != nil {
			return store.Batch{}, err
		}
		b := tl.collect(limit)
		if len(b.Gained)+len(b.Gaps)+len(b.Messages) > 0 {
			return b, nil
		}
		if err := tl.wait(ctx); err != nil {
			return store.Batch{}, err
		}
	}
}

func (tl *tail) ended() error {
	switch {
	case tl.closed.Load() || tl.s.isClosed():
		return store.ErrClosed
	case tl.s.topics[tl.t.Name] != tl.t:
		return fmt.Errorf("topic %q was deleted: %w", tl.t.Name, errs.UnknownTopic)
	case tl.s.faults.poll != nil:
		return tl.s.faults.poll(tl.t.Name, "")
	}
	return nil
}

func (tl *tail) wait(ctx context.Context) error {
	changed := tl.s.changed
	tl.s.mu.Unlock()
	defer tl.s.mu.Lock()
	select {
	case <-changed:
	case <-tl.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// collect is what a Poll has to tell now.
func (tl *tail) collect(limit int) (b store.Batch) {
	for p := len(tl.next); p < len(tl.t.logs); p++ {
		start := tl.t.logs[p].start
		b.Gained = append(b.Gained, store.Position{Partition: int32(p), Next: start})
		tl.next = append(tl.next, start)
	}
	tl.turn++
	for i := range tl.t.logs {
		p := (tl.turn + i) % len(tl.t.logs)
		l := &tl.t.logs[p]
		if next := tl.next[p]; next < l.start || next > l.end() { // beyond the end it is a position of another topic
			b.Gaps = append(b.Gaps, store.Gap{Partition: int32(p), From: next, To: l.start})
			tl.next[p] = l.start
		}
		for _, m := range l.from(tl.next[p], limit-len(b.Messages)) {
			b.Messages = append(b.Messages, m.Clone())
			tl.next[p]++
		}
	}
	return b
}

// Close is store.Tail's.
func (tl *tail) Close() {
	if !tl.closed.Swap(true) {
		close(tl.done)
	}
}
