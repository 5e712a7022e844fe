package group

import (
	"context"
	"iter"
	"time"

	"github.com/kateway/kateway/store"
)

// Settle is Opener's.
func (h *Hub) Settle(ctx context.Context, key Key, verbs ...Verb) []error {
	out := make([]error, len(verbs))
	spots := func(yield func(spot) bool) {
		for _, v := range verbs {
			if !yield(v.spot()) {
				return
			}
		}
	}
	if err := h.within(ctx, key, spots, func(g *group) { out = g.settle(verbs, out[:0]) }); err != nil {
		return fill(out, err)
	}
	return out
}

// Through is Opener's.
func (h *Hub) Through(ctx context.Context, key Key, at ...store.Position) []error {
	return each(ctx, h, key, at, func(p store.Position) int32 { return p.Partition }, (*ledger).through)
}

// Mark is Opener's.
func (h *Hub) Mark(ctx context.Context, key Key, at ...At) []error {
	return each(ctx, h, key, at, func(a At) int32 { return a.Partition }, (*ledger).mark)
}

// each does something with each of several places in the topic, and answers an error for each.
func each[P any](ctx context.Context, h *Hub, key Key, at []P, partition func(P) int32, do func(*ledger, P, time.Time) error) []error {
	out := make([]error, len(at))
	spots := func(yield func(spot) bool) {
		for _, p := range at {
			if !yield(spot{partition: partition(p)}) {
				return
			}
		}
	}
	err := h.within(ctx, key, spots, func(g *group) {
		now := time.Now()
		for i, p := range at {
			out[i] = do(g.ledger, p, now)
		}
		g.touched(now)
	})
	if err != nil {
		return fill(out, err)
	}
	return out
}

func fill(out []error, err error) []error {
	for i := range out {
		out[i] = err
	}
	return out
}

// within finds or starts the group, waits until it holds the partitions or until it is clear that it won't, and calls do
// under its lock.
func (h *Hub) within(ctx context.Context, key Key, spots iter.Seq[spot], do func(*group)) error {
	for {
		if s := h.evictedSlot(key); s != nil {
			if s.joined() && s.g.unlessSealed(do) {
				return nil
			}
			return ErrMoved
		}
		s, err := h.slot(ctx, key, store.Start{})
		if err != nil {
			return err
		}
		if s.g.wait(ctx, spots) && s.g.unlessSealed(do) {
			return nil
		}
		if err := h.over(ctx, s); err != nil {
			return err
		}
	}
}

// evictedSlot is the group's slot when it is on its way to another home: it takes verbs until its last commit.
func (h *Hub) evictedSlot(key Key) *slot {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.slots[key]; s != nil && s.evicted {
		return s
	}
	return nil
}

// unlessSealed calls do under the lock, unless the last commit is made already.
func (g *group) unlessSealed(do func(*group)) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.sealed {
		do(g)
	}
	return !g.sealed
}

// wait returns true when the partitions are held, or when waiting longer is of no use; false when the group has ended.
func (g *group) wait(ctx context.Context, spots iter.Seq[spot]) bool {
	ctx, cancel := context.WithTimeout(ctx, settleWait)
	defer cancel()
	for {
		missing, ended, changed := g.lacks(spots)
		switch {
		case ended:
			return false
		case !missing || ctx.Err() != nil:
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// lacks reports whether one of the partitions is not held and may still come, whether the group has ended, and by what it is
// told that either may have changed.
func (g *group) lacks(spots iter.Seq[spot]) (missing, ended bool, changed <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for at := range spots {
		if g.ledger.windows[at] == nil && (!at.retry || !g.noRetry) {
			missing = true
		}
	}
	if !g.idle.IsZero() {
		g.idle = time.Now() // who waits uses it
	}
	return missing, g.err != nil, g.changed
}
