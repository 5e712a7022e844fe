package mem

import (
	"context"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// handOver is how long a member that is to lose a partition may take to let go.
const handOver = 5 * time.Second

// group is a consumer group of one topic. It has a position or a member.
type group struct {
	members []*feed // in the order of joining
	shares  []share // by partition
}

// share is a partition as its group sees it.
type share struct {
	position *store.Position // nil = none
	owner    *feed           // may commit; nil = free
	heir     *feed           // is to own it, by the assignment
	due      time.Time       // when an owner that is not the heir loses it at the latest
}

// group finds or makes a group.
func (t *topic) group(name string) *group {
	g := t.groups[name]
	if g == nil {
		g = &group{}
		t.groups[name] = g
	}
	g.grow(t)
	return g
}

func (g *group) grow(t *topic) {
	g.shares = append(g.shares, make([]share, len(t.logs)-len(g.shares))...)
}

// position gives the group the positions that it lacks: those of start if it has none, else the oldest.
func (g *group) position(t *topic, start store.Start) {
	if slices.ContainsFunc(g.shares, func(sh share) bool { return sh.position != nil }) {
		start = store.Start{}
	}
	for i, p := range t.resolve(start) {
		if g.shares[i].position == nil {
			g.shares[i].position = &p
		}
	}
}

// rebalance deals the partitions out to the members in turn. Who is to lose one owns it until it lets go, or is due.
func (g *group) rebalance() {
	for i := range g.shares {
		sh, before := &g.shares[i], g.shares[i].heir
		sh.heir = nil
		if len(g.members) > 0 {
			sh.heir = g.members[i%len(g.members)]
		}
		switch {
		case !slices.Contains(g.members, sh.owner):
			sh.owner = nil
		case sh.owner == before && sh.owner != sh.heir:
			sh.due = time.Now().Add(handOver)
		}
	}
}

// Subscribe is store.Subscriber's.
func (s *Store) Subscribe(ctx context.Context, spec store.Spec) (store.Feed, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.topic(ctx, spec.Topic)
	if err != nil {
		return nil, err
	}
	g := t.group(spec.Group)
	g.position(t, spec.Start)
	f := &feed{s: s, t: t, g: g, group: spec.Group, next: map[int32]int64{}}
	g.members = append(g.members, f)
	g.rebalance()
	s.wake()
	return f, nil
}

// feed is one member. Its fields are guarded by Store.mu.
type feed struct {
	s       *Store
	t       *topic
	g       *group
	group   string
	next    map[int32]int64 // of the partitions held: the offset to go on from
	lost    []int32         // told by the last Poll, let go by the next
	refused []store.Refusal
	turn    int // the partition to begin with
	left    bool
}

// Poll is store.Feed's.
func (f *feed) Poll(ctx context.Context, limit int, paused []int32) (store.Batch, error) {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	f.letGo()
	for {
		if err := f.ended(); err != nil {
			return store.Batch{}, err
		}
		b, until := f.collect(limit, paused)
		if len(b.Lost)+len(b.Gained)+len(b.Refused)+len(b.Gaps)+len(b.Messages) > 0 {
			return b, nil
		}
		if err := f.wait(ctx, until); err != nil {
			return store.Batch{}, err
		}
	}
}

func (f *feed) ended() error {
	switch {
	case f.left || f.s.isClosed():
		return store.ErrClosed
	case f.s.topics[f.t.Name] != f.t:
		return fmt.Errorf("topic %q was deleted: %w", f.t.Name, errs.UnknownTopic)
	case f.s.faults.poll != nil:
		return f.s.faults.poll(f.t.Name, f.group)
	}
	return nil
}

// letGo frees what the last Poll said is lost.
func (f *feed) letGo() {
	for _, p := range f.lost {
		if sh := &f.g.shares[p]; sh.owner == f {
			sh.owner = nil
		}
	}
	if len(f.lost) > 0 {
		f.lost = nil
		f.s.wake()
	}
}

// wait returns when there may be something new, or at until (zero = never). It gives the lock away meanwhile.
func (f *feed) wait(ctx context.Context, until time.Time) error {
	changed := f.s.changed
	f.s.mu.Unlock()
	defer f.s.mu.Lock()
	var timeout <-chan time.Time
	if !until.IsZero() {
		timer := time.NewTimer(time.Until(until))
		defer timer.Stop()
		timeout = timer.C
	}
	select {
	case <-changed:
	case <-timeout:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// collect is what a Poll has to tell now, and when to look again at the latest.
func (f *feed) collect(limit int, paused []int32) (b store.Batch, until time.Time) {
	b.Refused, f.refused = f.refused, nil
	for i := range f.g.shares {
		sh, p := &f.g.shares[i], int32(i)
		_, holds := f.next[p]
		switch {
		case holds && (sh.owner != f || sh.heir != f):
			b.Lost = append(b.Lost, p)
			delete(f.next, p)
			if sh.owner == f {
				sh.due = time.Now().Add(handOver)
			}
		case !holds && sh.heir == f && sh.owner != nil && time.Now().Before(sh.due):
			until = sh.due // of several, each look finds the next
		case !holds && sh.heir == f:
			sh.owner = f
			f.next[p] = sh.position.Next
			b.Gained = append(b.Gained, *sh.position)
		}
	}
	f.lost = b.Lost
	f.turn++
	for i := range f.t.logs {
		p := int32((f.turn + i) % len(f.t.logs))
		if next, holds := f.next[p]; holds && !slices.Contains(paused, p) {
			f.read(&b, p, next, limit)
		}
	}
	return b, until
}

// read adds the messages of a partition from next on, and the gap before them if there is one.
func (f *feed) read(b *store.Batch, p int32, next int64, limit int) {
	l := &f.t.logs[p]
	if there := min(max(next, l.start), l.end()); there != next {
		b.Gaps = append(b.Gaps, store.Gap{Partition: p, From: next, To: there})
		next = there
	}
	for _, m := range l.from(next, limit-len(b.Messages)) {
		b.Messages = append(b.Messages, m.Clone())
		next = m.Offset + 1
	}
	f.next[p] = next
}

// Commit is store.Feed's.
func (f *feed) Commit(p store.Position) error {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	switch {
	case f.left || f.s.isClosed():
		return store.ErrClosed
	case len(p.Beyond) > store.MaxBeyond:
		return fmt.Errorf("%d bytes beside the position, the limit is %d: %w", len(p.Beyond), store.MaxBeyond, errs.TooLarge)
	case !utf8.ValidString(p.Beyond):
		return fmt.Errorf("what is beside the position is not UTF-8: %w", errs.InvalidParam)
	case p.Partition < 0 || int(p.Partition) >= len(f.g.shares) || f.g.shares[p.Partition].owner != f:
		return fmt.Errorf("partition %d is not held: %w", p.Partition, errs.Fenced)
	}
	if f.s.faults.commit != nil {
		if err := f.s.faults.commit(f.t.Name, f.group, p); err != nil {
			f.refused = append(f.refused, store.Refusal{Partition: p.Partition, Err: err})
			f.s.wake()
			return nil
		}
	}
	f.g.shares[p.Partition].position = &p
	return nil
}

// Close is store.Feed's. It never waits and never fails.
func (f *feed) Close(context.Context) error {
	f.leave()
	return nil
}

func (f *feed) leave() {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	if f.left || f.s.isClosed() {
		return
	}
	f.left = true
	f.g.members = slices.DeleteFunc(f.g.members, func(m *feed) bool { return m == f })
	f.g.rebalance()
	f.s.wake()
}
