package group

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// Random lives of one group in each mode, with everything that may happen to its messages: acks, nacks, delays, extends,
// burying, returns, marks, moves to other queues that succeed or fail, a filter, clients that come and go, leases that end,
// and partitions that move with what the last commit carries. Whatever happens: a message has one holder at a time, nothing
// that is over comes again, nothing is delivered more often than allowed, the commit passes nothing that is not over, a receipt
// does not count once its message was delivered again, who has left holds nothing, of one key the lowest comes first (mode
// key), nobody holds more than he may, and in the end everything is over.
func TestLives(t *testing.T) {
	for _, mode := range []Mode{Fifo, Queue, ByKey} {
		t.Run(string(mode), func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				m := &lives{mode: mode, now: t0, hold: 1, over: map[At]bool{}, out: map[At]*holder{}}
				m.adopt([]store.Position{{Partition: 0}, {Partition: 1}}, rapid.Bool().Draw(t, "provisional"))
				for range rapid.IntRange(1, 120).Draw(t, "steps") {
					m.step(t)
					m.check(t)
				}
				m.finish(t)
			})
		})
	}
}

const (
	livesEnd     = 30 // messages per partition
	livesLease   = 30 * time.Second
	livesAttempt = 3
)

// holder has a message in its hands.
type holder struct {
	by    *waiter
	ref   Ref
	until time.Time
}

type lives struct {
	mode    Mode
	l       *ledger
	now     time.Time
	hold    uint32
	late    bool // settings are given with the first client
	clients []*waiter
	over    map[At]bool
	out     map[At]*holder
	old     []Ref
	moves   []*move
}

func livesKey(o int64) []byte {
	if o%4 == 3 {
		return nil
	}
	return fmt.Appendf(nil, "k%d", o%4)
}

// livesWanted does not want some, the last message among them.
func livesWanted(m *store.Message) bool { return m.Offset%7 != (livesEnd-1)%7 }

func place(r Ref) At { return At{r.Partition, r.Offset} }

// adopt has the partitions taken over by a new ledger.
func (m *lives) adopt(ps []store.Position, late bool) {
	m.l, m.clients, m.moves, m.late = newLedger(), nil, nil, late
	if !late {
		m.begin()
	}
	for _, p := range ps {
		m.hold += 2
		m.l.gain(false, p, m.hold, m.now)
		for o := p.Next; o < livesEnd; o++ {
			if msg := (&store.Message{Offset: o}); !livesWanted(msg) {
				m.over[At{p.Partition, o}] = true
			}
		}
	}
	for _, p := range ps {
		var msgs []*store.Message
		for o := p.Next; o < livesEnd; o++ {
			msgs = append(msgs, &store.Message{Partition: p.Partition, Offset: o, Key: livesKey(o), Value: []byte("v")})
		}
		m.l.add(false, msgs, m.now)
	}
}

func (m *lives) begin() {
	m.late = false
	m.l.begin(Settings{Mode: m.mode}, Policy{MaxAttempts: livesAttempt, Dead: "dead", Retry: "retry"}, livesWanted, m.now)
}

func (m *lives) step(t *rapid.T) {
	switch op := rapid.IntRange(0, 12).Draw(t, "op"); op {
	case 0, 1:
		if m.late {
			m.begin()
		}
		a := &Ask{Settings: Settings{Mode: m.mode}, Lease: livesLease, Prefetch: rapid.IntRange(1, 8).Draw(t, "prefetch"), Stays: rapid.Bool().Draw(t, "stays")}
		m.clients = append(m.clients, m.l.enter(a))
	case 2:
		m.leave(t)
	case 3, 4, 5:
		if len(m.clients) > 0 {
			m.take(t, rapid.SampledFrom(m.clients).Draw(t, "client"), rapid.IntRange(1, 10).Draw(t, "max"))
		}
	case 6, 7, 8:
		m.settle(t)
	case 9:
		m.now = m.now.Add(time.Duration(rapid.IntRange(1, 40).Draw(t, "seconds")) * time.Second)
		m.l.expire(m.now)
	case 10:
		m.mark(t)
	case 11:
		m.moveSome(t)
	case 12:
		m.hand(t)
	}
}

func (m *lives) leave(t *rapid.T) {
	if len(m.clients) == 0 {
		return
	}
	i := rapid.IntRange(0, len(m.clients)-1).Draw(t, "client")
	s := m.clients[i]
	m.l.leave(s, m.now)
	if !s.c.stays && s.c.held > 0 {
		t.Fatalf("a client that has left holds %d", s.c.held)
	}
	m.clients = append(m.clients[:i:i], m.clients[i+1:]...)
	for _, h := range m.out {
		if h.by == s && !s.c.stays {
			h.until = m.now
		}
	}
}

func (m *lives) take(t *rapid.T, s *waiter, n int) {
	for _, d := range m.l.next(s, n, m.now) {
		at := place(d.Ref)
		h := m.out[at]
		switch {
		case m.over[at]:
			t.Fatalf("%v is over and comes again", at)
		case m.mode != Fifo && h != nil && h.until.After(m.now): // in mode fifo the lease is the partition's, see TestRandomLives
			t.Fatalf("%v is in other hands until %v, now is %v", at, h.until, m.now)
		case d.Ref.Attempt > livesAttempt:
			t.Fatalf("%v is delivered for the %d. time", at, d.Ref.Attempt)
		case m.mode == ByKey && d.Key != nil:
			m.inOrder(t, at)
		}
		if h != nil {
			m.old = append(m.old, h.ref)
		}
		m.out[at] = &holder{s, d.Ref, m.now.Add(livesLease)}
	}
}

func (m *lives) inOrder(t *rapid.T, at At) {
	for o := at.Offset - 4; o >= 0; o -= 4 {
		if lower := (At{at.Partition, o}); !m.over[lower] {
			t.Fatalf("%v comes before %v of the same key", at, lower)
		}
	}
}

func (m *lives) settle(t *rapid.T) {
	var refs []Ref
	for p := range int32(2) {
		for o := range int64(livesEnd) {
			if h := m.out[At{p, o}]; h != nil {
				refs = append(refs, h.ref)
			}
		}
	}
	if refs = append(refs, m.old...); len(refs) == 0 {
		return
	}
	v := Verb{Ref: rapid.SampledFrom(refs).Draw(t, "receipt"), Op: Op(rapid.IntRange(int(Ack), int(Return)).Draw(t, "verb"))}
	if v.Op == Nack {
		v.Delay = time.Duration(rapid.SampledFrom([]int{0, 5, 90}).Draw(t, "delay")) * time.Second
	}
	err := m.l.settleOne(v, m.now)
	if err != nil {
		if !errors.Is(err, errs.Fenced) {
			t.Fatal(err)
		}
		return
	}
	at := place(v.Ref)
	if h := m.out[at]; h != nil && h.ref != v.Ref {
		t.Fatalf("%+v counts, though the message was delivered again since, as %+v", v.Ref, h.ref)
	}
	switch v.Op {
	case Ack:
		m.over[at] = true
		delete(m.out, at)
	case Extend:
		if h := m.out[at]; h != nil && h.ref == v.Ref {
			h.until = m.now.Add(livesLease)
		}
	case Nack, Bury, Return:
		if h := m.out[at]; h != nil {
			h.until = m.now
		}
	}
}

func (m *lives) mark(t *rapid.T) {
	at := At{int32(rapid.IntRange(0, 1).Draw(t, "partition")), int64(rapid.IntRange(0, livesEnd-1).Draw(t, "offset"))}
	if err := m.l.mark(at, m.now); err != nil {
		t.Fatal(err)
	}
	m.over[at] = true
	delete(m.out, at)
}

// moveSome does what a mover does: some messages get to their queue, others do not.
func (m *lives) moveSome(t *rapid.T) {
	m.moves = m.l.takeMoves(m.moves)
	for _, v := range m.moves {
		at := At{v.at.partition, v.offset}
		if m.over[at] {
			m.l.moved(v, m.now) // it was marked meanwhile
			continue
		}
		if rapid.Bool().Draw(t, "fails") {
			m.l.unmoved(v, m.now)
			continue
		}
		if v.attempts > livesAttempt || v.dead && v.cause == "" || v.msg == nil {
			t.Fatalf("%+v", v)
		}
		m.l.moved(v, m.now)
		m.over[at] = true
		delete(m.out, at)
	}
	m.moves = m.moves[:0]
}

// hand gives the partitions to a new ledger, with what the last commit carries. Streams go with the old one.
func (m *lives) hand(t *rapid.T) {
	var ps []store.Position
	for p := range int32(2) {
		ps = append(ps, m.l.windows[spot{partition: p}].position(m.now))
	}
	for _, h := range m.out {
		m.old = append(m.old, h.ref)
		if !h.by.c.stays {
			h.until = m.now
		}
	}
	m.adopt(ps, rapid.Bool().Draw(t, "provisional"))
}

func (m *lives) check(t *rapid.T) {
	delayed, held := 0, map[*client]int{}
	for at, w := range m.l.windows {
		for o := range w.next {
			if !m.over[At{at.partition, o}] {
				t.Fatalf("%v: the commit %d passes %d, which is not over", at, w.next, o)
			}
		}
		count := map[state]int{}
		bytes := 0
		for _, e := range w.entries {
			count[e.state]++
			if e.state != done {
				bytes += e.msg.Size()
			}
			if e.client != nil {
				held[e.client]++
			}
			if e.state == pending && e.line != nil && e.line.timed && !e.rests() {
				delayed++
			}
		}
		if count[leased] != w.leased || count[pending] != w.due || count[moving] != w.moving || count[done] != w.spent || bytes != w.bytes {
			t.Fatalf("%v counts %d leased, %d due, %d moving, %d done, %d bytes; has %v, %d", at, w.leased, w.due, w.moving, w.spent, w.bytes, count, bytes)
		}
		if w.owner != nil {
			held[w.owner] += w.leased
		}
	}
	if delayed != m.l.delayed {
		t.Fatalf("%d are delayed, %d are counted", delayed, m.l.delayed)
	}
	for _, s := range m.clients {
		if s.c.held != held[s.c] || s.c.held > s.c.prefetch {
			t.Fatalf("a client holds %d of at most %d, its count is %d", held[s.c], s.c.prefetch, s.c.held)
		}
	}
}

// finish lets every lease and delay end, does everything that is left, and moves what is to be moved.
func (m *lives) finish(t *rapid.T) {
	if m.late {
		m.begin()
	}
	for _, s := range m.clients {
		m.l.leave(s, m.now)
	}
	s := m.l.enter(&Ask{Settings: Settings{Mode: m.mode}, Lease: livesLease, Prefetch: 1000})
	for range 10 * livesEnd {
		m.now = m.now.Add(3 * time.Minute)
		m.l.expire(m.now)
		for _, d := range m.l.next(s, 100, m.now) {
			if m.over[place(d.Ref)] {
				t.Fatalf("%v is over and comes again", place(d.Ref))
			}
			if err := m.l.settleOne(Verb{Ref: d.Ref}, m.now); err != nil {
				t.Fatal(err)
			}
			m.over[place(d.Ref)] = true
		}
		for _, v := range m.l.takeMoves(nil) {
			m.l.moved(v, m.now)
			m.over[At{v.at.partition, v.offset}] = true
		}
	}
	for at, w := range m.l.windows {
		if w.next != livesEnd {
			t.Fatalf("%v ends at %d of %d", at, w.next, livesEnd)
		}
	}
	if m.l.busy(m.now) {
		t.Fatal("it is still busy")
	}
}
