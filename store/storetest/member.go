package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// turn is how long a Poll may wait while other members, or conditions outside, have theirs.
const turn = 20 * time.Millisecond

// member is a group's member that holds each Poll against the contract.
type member struct {
	e      *env
	name   string
	f      store.Feed
	next   map[int32]int64          // of the partitions held: the offset that must come next
	gained map[int32]store.Position // as told when last gained
	values []string                 // of all messages, in order
	gaps   []store.Gap
	lost   []int32 // by the last Poll: they may still be committed

	max    int     // per Poll
	paused []int32 // next Poll
	onLost func(p int32, next int64)
	onGain func(p store.Position)
}

// join subscribes through s.
func (e *env) join(s store.Store, topic, group string, start store.Start) *member {
	e.Helper()
	f, err := s.Subscribe(e.ctx(), store.Spec{Topic: topic, Group: group, Start: start})
	if err != nil {
		e.Fatalf("subscribe: %v", err)
	}
	return e.memberOf(f)
}

func (e *env) memberOf(f store.Feed) *member {
	return &member{
		e: e, name: "member", f: f, max: 100,
		next: map[int32]int64{}, gained: map[int32]store.Position{},
	}
}

// poll does one Poll, and applies what it tells.
func (m *member) poll(ctx context.Context) {
	m.e.Helper()
	if m.e.Failed() {
		m.e.FailNow()
	}
	m.lost = nil
	b, err := m.f.Poll(ctx, m.max, m.paused)
	if err != nil {
		if len(b.Lost)+len(b.Gained)+len(b.Refused)+len(b.Gaps)+len(b.Messages) > 0 {
			m.e.Fatalf("%s: Poll answered an error, %v, and a batch, %+v", m.name, err, b)
		}
		if !errors.Is(err, ctx.Err()) && (errors.Is(err, store.ErrClosed) || !errors.Is(err, errs.Unavailable)) {
			m.e.Fatalf("%s: Poll: %v", m.name, err)
		}
		return
	}
	for _, r := range b.Refused {
		m.e.Fatalf("%s: commit of partition %d was refused: %v", m.name, r.Partition, r.Err)
	}
	m.move(b)
	m.take(b)
}

// move applies Lost and Gained.
func (m *member) move(b store.Batch) {
	m.e.Helper()
	m.lost = b.Lost
	for _, p := range b.Lost {
		next, held := m.next[p]
		if !held {
			m.e.Fatalf("%s: partition %d is lost, but was not held", m.name, p)
		}
		delete(m.next, p)
		if m.onLost != nil {
			m.onLost(p, next)
		}
	}
	for _, p := range b.Gained {
		if _, held := m.next[p.Partition]; held {
			m.e.Fatalf("%s: partition %d is gained, but was held", m.name, p.Partition)
		}
		m.next[p.Partition], m.gained[p.Partition] = p.Next, p
		if m.onGain != nil {
			m.onGain(p)
		}
	}
}

// take applies Gaps and Messages: of partitions held and not paused, without a hole.
func (m *member) take(b store.Batch) {
	m.e.Helper()
	for _, g := range b.Gaps {
		if next, held := m.next[g.Partition]; !held || next != g.From {
			m.e.Fatalf("%s: gap %+v, but held %t and expected %d", m.name, g, held, next)
		}
		m.next[g.Partition] = g.To
		m.gaps = append(m.gaps, g)
	}
	if len(b.Messages) > m.max {
		m.e.Fatalf("%s: %d messages in one Poll, at most %d were wanted", m.name, len(b.Messages), m.max)
	}
	for _, msg := range b.Messages {
		next, held := m.next[msg.Partition]
		switch {
		case !held:
			m.e.Fatalf("%s: message of partition %d, which is not held", m.name, msg.Partition)
		case slices.Contains(m.paused, msg.Partition):
			m.e.Fatalf("%s: message of partition %d, which is paused", m.name, msg.Partition)
		case msg.Offset != next:
			m.e.Fatalf("%s: offset %d of partition %d, expected %d", m.name, msg.Offset, msg.Partition, next)
		}
		m.next[msg.Partition] = next + 1
		m.values = append(m.values, string(msg.Value))
	}
}

// commit commits what was read of each partition held.
func (m *member) commit() {
	m.e.Helper()
	for p, next := range m.next {
		m.e.must(m.f.Commit(store.Position{Partition: p, Next: next}))
	}
}

// commitLost makes the member commit what it read of the partitions that it loses.
func (m *member) commitLost() {
	m.onLost = func(p int32, next int64) {
		m.e.Helper()
		if err := m.f.Commit(store.Position{Partition: p, Next: next}); err != nil {
			m.e.Errorf("%s: the final commit of lost partition %d: %v", m.name, p, err)
		}
	}
}

func (m *member) holds(n int) func() bool { return func() bool { return len(m.next) == n } }

func (m *member) close() {
	m.e.Helper()
	if err := m.f.Close(m.e.ctx()); err != nil {
		m.e.Fatalf("%s: Close: %v", m.name, err)
	}
}

// drive polls the members in turn until a condition holds.
func (e *env) drive(what string, until func() bool, members ...*member) {
	e.Helper()
	deadline := time.Now().Add(e.cfg.Patience)
	for !until() {
		if time.Now().After(deadline) {
			e.Fatalf("not within %v: %s; %s", e.cfg.Patience, what, state(members))
		}
		for _, m := range members {
			ctx, cancel := context.WithTimeout(e.Context(), turn)
			m.poll(ctx)
			cancel()
		}
	}
}

func state(members []*member) string {
	var parts []string
	for _, m := range members {
		parts = append(parts, fmt.Sprintf("%s has %d messages and expects %v", m.name, len(m.values), m.next))
	}
	return strings.Join(parts, ", ")
}

// each fails the test unless the members together have each value exactly once.
func (e *env) each(want []string, members ...*member) {
	e.Helper()
	seen := map[string]int{}
	for _, m := range members {
		for _, v := range m.values {
			seen[v]++
		}
	}
	for _, v := range want {
		if seen[v] != 1 {
			e.Errorf("message %s came %d times", v, seen[v])
		}
		delete(seen, v)
	}
	if len(seen) > 0 {
		e.Errorf("messages came that were not expected: %v", slices.Sorted(maps.Keys(seen)))
	}
}

func count(members ...*member) (n int) {
	for _, m := range members {
		n += len(m.values)
	}
	return n
}

// read drives one member until it has n messages in all.
func (m *member) read(n int) {
	m.e.Helper()
	m.e.drive(fmt.Sprintf("%d messages", n), func() bool { return len(m.values) >= n }, m)
}
