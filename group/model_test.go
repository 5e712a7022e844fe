package group

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// A random life of one group: clients come and go, take, settle and forget; leases end; the partitions move to a new
// ledger, cleanly or not. The model is a set of acked offsets per partition. Whatever happens, the commit never passes a
// message that nobody acked, an acked one does not come again without an unclean move, nobody else has a message while
// its lease goes on, and in the end everything was acked.
func TestRandomLives(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{l: fifoLedger(), now: t0, hold: 1, acked: map[[2]int64]bool{}, out: map[[2]int64]*lease{}}
		m.adopt([]store.Position{{Partition: 0}, {Partition: 1}})
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			m.step(t)
			m.check(t)
		}
		m.finish(t)
	})
}

const modelEnd = 40 // messages per partition

type lease struct {
	by *waiter
	d  Delivery
}

type model struct {
	l       *ledger
	now     time.Time
	hold    uint32
	clients []*waiter
	acked   map[[2]int64]bool
	out     map[[2]int64]*lease // the newest delivery of each message that is not settled
	old     []Delivery          // receipts that may be stale
}

func id(r Ref) [2]int64 { return [2]int64{int64(r.Partition), r.Offset} }

func (m *model) adopt(ps []store.Position) {
	for _, p := range ps {
		m.hold += 2
		m.l.gain(false, p, m.hold, m.now)
	}
	m.clients = nil
	for _, p := range ps {
		m.l.add(false, messages(p.Partition, p.Next, modelEnd), m.now)
	}
}

func (m *model) step(t *rapid.T) {
	switch op := rapid.IntRange(0, 9).Draw(t, "op"); op {
	case 0:
		a := explicit(rapid.IntRange(1, 10).Draw(t, "prefetch"))
		a.Stays = rapid.Bool().Draw(t, "stays")
		m.clients = append(m.clients, m.l.enter(a))
	case 1:
		if len(m.clients) > 0 {
			i := rapid.IntRange(0, len(m.clients)-1).Draw(t, "client")
			m.l.leave(m.clients[i], m.now)
			m.clients = append(m.clients[:i:i], m.clients[i+1:]...)
		}
	case 2, 3, 4:
		if len(m.clients) > 0 {
			m.take(t, rapid.SampledFrom(m.clients).Draw(t, "client"), rapid.IntRange(1, 12).Draw(t, "max"))
		}
	case 5, 6, 7:
		m.settle(t)
	case 8:
		m.now = m.now.Add(time.Duration(rapid.IntRange(1, 40).Draw(t, "seconds")) * time.Second)
		m.l.expire(m.now)
	case 9:
		m.move(t, rapid.Bool().Draw(t, "clean"))
	}
}

func (m *model) take(t *rapid.T, s *waiter, n int) {
	for _, d := range m.l.next(s, n, m.now) {
		if m.acked[id(d.Ref)] {
			t.Fatalf("%v was acked and comes again", id(d.Ref))
		}
		if o := m.out[id(d.Ref)]; o != nil && o.by != s {
			if w := m.l.windows[d.Ref.spot()]; w.owner != s.c {
				t.Fatalf("%v is in two hands", id(d.Ref))
			}
			m.old = append(m.old, o.d)
		}
		m.out[id(d.Ref)] = &lease{s, d}
	}
}

func (m *model) settle(t *rapid.T) {
	var all []Delivery
	for p := range int64(2) {
		for o := range int64(modelEnd) {
			if l := m.out[[2]int64{p, o}]; l != nil {
				all = append(all, l.d)
			}
		}
	}
	all = append(all, m.old...)
	if len(all) == 0 {
		return
	}
	v := Verb{Ref: rapid.SampledFrom(all).Draw(t, "receipt").Ref, Op: Op(rapid.IntRange(0, 2).Draw(t, "verb"))}
	if v.Op == Nack {
		v.Delay = time.Duration(rapid.IntRange(0, 20).Draw(t, "delay")) * time.Second
	}
	switch err := m.l.settleOne(v, m.now); {
	case err == nil && v.Op == Ack:
		m.acked[id(v.Ref)] = true
	case err != nil && !errors.Is(err, errs.Fenced):
		t.Fatal(err)
	}
}

// move hands the partitions to a new ledger: with what the last commit carries, or, uncleanly, with its offset alone.
func (m *model) move(t *rapid.T, clean bool) {
	var ps []store.Position
	for p := range int32(2) {
		pos := m.l.windows[spot{partition: p}].position(m.now)
		if !clean {
			pos.Beyond = ""
			for o := pos.Next; o < modelEnd; o++ {
				delete(m.acked, [2]int64{int64(p), o}) // may come again
			}
		}
		ps = append(ps, pos)
	}
	m.l = fifoLedger()
	m.adopt(ps)
}

func (m *model) check(t *rapid.T) {
	for at, w := range m.l.windows {
		p := at.partition
		for o := range w.next {
			if !m.acked[[2]int64{int64(p), o}] {
				t.Fatalf("partition %d: the commit %d passes %d, which nobody acked", p, w.next, o)
			}
		}
		inHand, due, bytes := 0, 0, 0
		for _, e := range w.entries {
			switch e.state {
			case leased:
				inHand++
			case pending:
				due++
			}
			if e.state != done {
				bytes += e.msg.Size()
			}
		}
		if inHand != w.leased || due != w.due || bytes != w.bytes {
			t.Fatalf("partition %d counts %d leased, %d due, %d bytes; has %d, %d, %d", p, w.leased, w.due, w.bytes, inHand, due, bytes)
		}
		if b, err := decodeBeyond(w.position(m.now).Beyond, w.next); err != nil {
			t.Fatalf("what is committed can't be read: %v %+v", err, b)
		}
	}
	for _, s := range m.clients {
		n := 0
		for _, w := range m.l.windows {
			if w.owner == s.c {
				n += w.leased
			}
		}
		if n != s.c.held {
			t.Fatalf("a client holds %d, its count is %d", n, s.c.held)
		}
	}
}

// finish lets every lease end and takes the rest.
func (m *model) finish(t *rapid.T) {
	m.now = m.now.Add(2 * time.Hour)
	m.l.expire(m.now)
	s := m.l.enter(explicit(1000))
	for {
		ds := m.l.next(s, 100, m.now)
		if len(ds) == 0 {
			break
		}
		for _, d := range ds {
			if err := m.l.settleOne(Verb{Ref: d.Ref}, m.now); err != nil {
				t.Fatal(err)
			}
			m.acked[id(d.Ref)] = true
		}
	}
	for p, w := range m.l.windows {
		if w.next != modelEnd {
			t.Fatalf("%v ends at %d of %d", p, w.next, modelEnd)
		}
	}
}
