package embedded

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// Feed is a store.Feed: one member of a group.
type Feed struct {
	s    *Store
	g    *group
	wake wake

	// Guarded by g.mu.
	left    bool
	version uint64    // of the group when this feed last looked
	losing  []int32   // told by the last Poll, let go by the next
	until   time.Time // when a partition that is to come is free at the latest

	// Poll's own; also guarded by g.mu where they change.
	cursors map[int32]*cursor // of the partitions held
	order   []*cursor         // the same, by partition
	turn    int               // the cursor to begin with
	err     error             // to answer next
}

var _ store.Feed = (*Feed)(nil)

// Subscribe makes one more member of the group.
func (s *Store) Subscribe(ctx context.Context, spec store.Spec) (store.Feed, error) {
	t, err := s.topic(ctx, spec.Topic)
	if err != nil {
		return nil, err
	}
	if spec.Group == "" || len(spec.Group) > math.MaxUint16 {
		return nil, fmt.Errorf("group name of %d bytes: %w", len(spec.Group), errs.InvalidName)
	}
	g, err := s.use(t, spec.Group)
	if err != nil {
		return nil, err
	}
	f := &Feed{s: s, g: g, wake: newWake(), cursors: map[int32]*cursor{}}
	for joined := false; !joined; {
		if err = s.settleStart(ctx, g, spec.Start); err == nil {
			joined, err = f.join()
		}
		if err != nil {
			s.unuse(g)
			return nil, err
		}
	}
	return f, nil
}

// settleStart makes sure that every partition has a position, on disk.
func (s *Store) settleStart(ctx context.Context, g *group, start store.Start) error {
	oldest, err := s.resolve(g.topic, store.Start{})
	if err != nil {
		return err
	}
	from, err := s.resolve(g.topic, start)
	if err != nil {
		return err
	}
	g.mu.Lock()
	g.grow(false)
	g.begin(oldest, from)
	dirty := slices.ContainsFunc(g.shares, func(sh share) bool { return sh.dirty })
	if dirty {
		s.noted(g)
	}
	g.mu.Unlock()
	if !dirty {
		return nil
	}
	return s.writePositions(ctx, []*group{g}, true)
}

// join makes f a member, unless the store or the topic has ended. It answers false when the group was forgotten since
// settleStart.
func (f *Feed) join() (bool, error) {
	g := f.g
	g.mu.Lock()
	defer g.mu.Unlock()
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	switch {
	case f.s.closed:
		return false, store.ErrClosed
	case g.topic.gone.Load():
		return false, unknown(g.topic.name)
	case slices.ContainsFunc(g.shares, func(sh share) bool { return !sh.known }):
		return false, nil
	}
	f.s.open[f.wake] = struct{}{}
	if len(g.shares) < len(*g.topic.parts.Load()) { // some came since settleStart
		g.grow(true)
		f.s.noted(g)
	}
	g.members = append(g.members, f)
	g.rebalance(time.Now())
	return true, nil
}

// Poll is store.Feed's.
func (f *Feed) Poll(ctx context.Context, limit int, paused []int32) (store.Batch, error) {
	f.letGo()
	for {
		b, until, err := f.look(limit, paused)
		if err != nil || len(b.Lost)+len(b.Gained)+len(b.Gaps)+len(b.Messages) > 0 {
			return b, err
		}
		if err := pause(ctx, f.wake, until); err != nil {
			return store.Batch{}, err
		}
	}
}

// letGo frees what the last Poll said is lost.
func (f *Feed) letGo() {
	f.g.mu.Lock()
	defer f.g.mu.Unlock()
	if len(f.losing) == 0 {
		return
	}
	for _, p := range f.losing {
		if sh := &f.g.shares[p]; sh.owner == f {
			sh.owner, sh.due = nil, time.Time{}
		}
	}
	f.losing = nil
	f.g.version++
	f.g.nudge()
}

// pause waits until w tells that there may be something new, or until the given time (zero = never).
func pause(ctx context.Context, w wake, until time.Time) error {
	var timeout <-chan time.Time
	if !until.IsZero() {
		timer := time.NewTimer(time.Until(until))
		defer timer.Stop()
		timeout = timer.C
	}
	select {
	case <-w:
	case <-timeout:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// look is what there is to tell now, and when to look again at the latest.
func (f *Feed) look(limit int, paused []int32) (b store.Batch, until time.Time, err error) {
	if b.Lost, b.Gained, until, err = f.shares(); err != nil {
		return b, until, err
	}
	if err := f.err; err != nil && len(b.Lost)+len(b.Gained) == 0 {
		f.err = nil
		return b, until, err
	}
	if f.err != nil {
		return b, until, nil //nolint:nilerr // the next Poll tells it
	}
	r := &reading{s: f.s, live: true, max: limit, enough: maxReadBytes}
	err = f.read(r, paused)
	b.Messages, b.Gaps = r.msgs, r.gaps
	if err != nil && len(b.Lost)+len(b.Gained)+len(b.Gaps)+len(b.Messages) > 0 {
		f.err, err = err, nil // what is at hand comes first
	}
	return b, earlier(until, r.again), err
}

// earlier is the first of two times; zero is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// read takes from the cursors in turn.
func (f *Feed) read(r *reading, paused []int32) error {
	if err := f.s.enter(); err != nil {
		return err
	}
	defer f.s.leave()
	f.turn++
	for i := range f.order {
		c := f.order[(f.turn+i)%len(f.order)]
		if slices.Contains(paused, c.p.number) {
			continue
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

// shares finds what this member lost and gained since it last looked.
func (f *Feed) shares() (lost []int32, gained []store.Position, until time.Time, err error) {
	g := f.g
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := f.ended(); err != nil {
		return nil, nil, until, err
	}
	if f.version == g.version && (f.until.IsZero() || time.Now().Before(f.until)) {
		return nil, nil, f.until, nil
	}
	now := time.Now()
	for i := range g.shares {
		sh, p := &g.shares[i], int32(i)
		_, holds := f.cursors[p]
		switch {
		case holds && (sh.owner != f || sh.heir != f):
			lost = append(lost, p)
			f.drop(p)
			if sh.owner == f {
				sh.due = now.Add(handOver)
			}
		case !holds && sh.heir == f && sh.owner != nil && now.Before(sh.due):
			until = earlier(until, sh.due)
		case !holds && sh.heir == f:
			sh.owner, sh.due = f, time.Time{}
			gained = append(gained, sh.position)
			f.hold(p, sh.position.Next)
		}
	}
	if len(lost)+len(gained) > 0 {
		f.reorder()
	}
	f.losing, f.version, f.until = lost, g.version, until
	return lost, gained, until, nil
}

// ended is why there is nothing to Poll any more. Caller holds g.mu.
func (f *Feed) ended() error {
	switch {
	case f.left || f.s.isClosed():
		return store.ErrClosed
	case f.g.topic.gone.Load():
		return unknown(f.g.topic.name)
	}
	return nil
}

func (f *Feed) hold(p int32, next int64) {
	part := (*f.g.topic.parts.Load())[p]
	part.watch(f.wake)
	f.cursors[p] = newCursor(part, next)
}

func (f *Feed) drop(p int32) {
	f.cursors[p].p.unwatch(f.wake, f.s.tail)
	delete(f.cursors, p)
}

func (f *Feed) reorder() {
	f.order = f.order[:0:0]
	for _, c := range f.cursors {
		f.order = append(f.order, c)
	}
	slices.SortFunc(f.order, func(a, b *cursor) int { return int(a.p.number - b.p.number) })
}

// Commit is store.Feed's.
func (f *Feed) Commit(p store.Position) error {
	f.g.mu.Lock()
	defer f.g.mu.Unlock()
	if f.left || f.s.isClosed() {
		return store.ErrClosed
	}
	if err := checkPosition(p); err != nil {
		return err
	}
	sh, err := f.g.held(f, p.Partition)
	if err != nil {
		return err
	}
	sh.position, sh.dirty = p, true
	f.s.noted(f.g)
	return nil
}

// Close is store.Feed's. Commits are durable when it returns nil.
func (f *Feed) Close(ctx context.Context) error {
	f.g.mu.Lock()
	again := f.left
	f.left = true
	f.g.mu.Unlock()
	if again || f.s.isClosed() { // the store writes everything itself when it closes
		return nil
	}
	f.wake.nudge()
	err := f.s.writePositions(ctx, []*group{f.g}, true)
	f.leave()
	if f.s.isClosed() {
		return nil
	}
	return err
}

// leave gives the partitions to the other members.
func (f *Feed) leave() {
	g := f.g
	g.mu.Lock()
	for _, c := range f.order {
		f.drop(c.p.number)
	}
	g.members = slices.DeleteFunc(g.members, func(m *Feed) bool { return m == f })
	g.rebalance(time.Now())
	g.mu.Unlock()
	f.s.mu.Lock()
	delete(f.s.open, f.wake)
	f.s.mu.Unlock()
	f.s.unuse(g)
}

// wakeAll wakes what waits, to find the store closed.
func (s *Store) wakeAll() {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for w := range s.open {
		w.nudge()
	}
}
