package group

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

var t0 = time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)

func at(d time.Duration) time.Time { return t0.Add(d) }

// messages are those of partition p with offsets from..to-1.
func messages(p int32, from, to int64) (out []*store.Message) {
	for o := from; o < to; o++ {
		out = append(out, &store.Message{Partition: p, Offset: o, Value: fmt.Appendf(nil, "%d/%d", p, o)})
	}
	return out
}

// fifoLedger has begun in fifo mode.
func fifoLedger() *ledger {
	l := newLedger()
	l.begin(Settings{Mode: Fifo}, Policy{}, nil, t0)
	return l
}

// book is a ledger that holds n partitions of ten messages each.
func book(n int32) *ledger {
	l := fifoLedger()
	for p := range n {
		l.gain(false, store.Position{Partition: p}, uint32(2*p+1), t0)
		l.add(false, messages(p, 0, 10), t0)
	}
	return l
}

func explicit(prefetch int) *Ask {
	return &Ask{Settings: Settings{Mode: Fifo}, Lease: 30 * time.Second, Prefetch: prefetch}
}

// next is what a session's Next gets at once.
func (l *ledger) next(s *waiter, n int, now time.Time) []Delivery {
	s.max, s.got = n, Batch{}
	l.take(s, now)
	return s.got.Deliveries
}

func offsets(ds []Delivery) (out []int64) {
	for _, d := range ds {
		out = append(out, d.Offset)
	}
	return out
}

func (l *ledger) verbs(t *testing.T, op Op, now time.Time, want error, ds ...Delivery) {
	t.Helper()
	for _, d := range ds {
		if err := l.settleOne(Verb{Ref: d.Ref, Op: op}, now); !errors.Is(err, want) {
			t.Errorf("verb %d on offset %d attempt %d: %v, want %v", op, d.Offset, d.Ref.Attempt, err, want)
		}
	}
}

func expectOffsets(t *testing.T, what string, got []Delivery, want ...int64) {
	t.Helper()
	if !slices.Equal(offsets(got), want) {
		t.Fatalf("%s: offsets %v, want %v", what, offsets(got), want)
	}
}

func TestFifoPartitionHasOneClientUntilAClean(t *testing.T) {
	l := book(1)
	a, b := l.enter(explicit(4)), l.enter(explicit(100))
	first := l.next(a, 3, t0)
	expectOffsets(t, "a's first", first, 0, 1, 2)
	expectOffsets(t, "b while a holds the partition", l.next(b, 10, t0))
	expectOffsets(t, "a up to its prefetch", l.next(a, 10, t0), 3)
	expectOffsets(t, "a over its prefetch", l.next(a, 10, t0))
	l.verbs(t, Ack, t0, nil, first...)
	expectOffsets(t, "b while one is un-acked", l.next(b, 10, t0))
	l.verbs(t, Ack, t0, nil, Delivery{Ref: Ref{Offset: 3, Attempt: 1, Hold: 1}})
	expectOffsets(t, "b at the clean point", l.next(b, 10, t0), 4, 5, 6, 7, 8, 9)
}

func TestLongestWaitingClientIsServedFirst(t *testing.T) {
	l := fifoLedger()
	l.gain(false, store.Position{Partition: 0}, 1, t0)
	l.gain(false, store.Position{Partition: 1}, 3, t0)
	var waiting []*waiter
	for range 3 {
		s := l.enter(explicit(100))
		s.max = 1
		l.park(s)
		waiting = append(waiting, s)
	}
	l.add(false, append(messages(0, 0, 5), messages(1, 0, 5)...), t0)
	for i, want := range []int{1, 1, 0} {
		if got := len(waiting[i].got.Deliveries); got != want {
			t.Errorf("waiter %d has %d messages, want %d", i, got, want)
		}
	}
	l.verbs(t, Ack, t0, nil, waiting[0].got.Deliveries...)
	if len(waiting[2].got.Deliveries) != 1 {
		t.Error("the partition that came free did not go to who still waits")
	}
}

func TestLeaseEndsForTheWholePartition(t *testing.T) {
	l := book(1)
	a, b := l.enter(explicit(100)), l.enter(explicit(100))
	got := l.next(a, 3, t0)
	l.verbs(t, Ack, at(20*time.Second), nil, got[1]) // starts the lease anew
	l.expire(at(49 * time.Second))
	expectOffsets(t, "b before the lease has ended", l.next(b, 10, at(49*time.Second)))
	l.expire(at(50 * time.Second))
	l.verbs(t, Ack, at(50*time.Second), errs.Fenced, got[0], got[2])
	l.verbs(t, Ack, at(50*time.Second), nil, got[1]) // acked already
	again := l.next(b, 3, at(50*time.Second))
	expectOffsets(t, "b after it", again, 0, 2, 3)
	for i, want := range []uint32{2, 2, 1} {
		if again[i].Ref.Attempt != want {
			t.Errorf("offset %d: attempt %d, want %d", again[i].Offset, again[i].Ref.Attempt, want)
		}
	}
	l.verbs(t, Ack, at(51*time.Second), errs.Fenced, got[0], got[2]) // still the old receipts
	l.verbs(t, Ack, at(51*time.Second), nil, again...)
	if w := l.windows[spot{}]; w.next != 4 || w.owner != nil || b.c.held != 0 || a.c.held != 0 {
		t.Errorf("next %d, owner %v, held %d and %d", w.next, w.owner, a.c.held, b.c.held)
	}
}

func TestExtendAndNack(t *testing.T) {
	l := book(1)
	a := l.enter(explicit(100))
	got := l.next(a, 2, t0)
	if err := l.settleOne(Verb{Ref: got[0].Ref, Op: Extend, Lease: time.Hour}, at(29*time.Second)); err != nil {
		t.Fatal(err)
	}
	l.expire(at(59 * time.Minute))
	l.verbs(t, Ack, at(59*time.Minute), nil, got[0])
	now := at(59 * time.Minute)
	if err := l.settleOne(Verb{Ref: got[1].Ref, Op: Nack, Delay: 10 * time.Second}, now); err != nil {
		t.Fatal(err)
	}
	l.verbs(t, Nack, now, errs.Fenced, got[1])
	l.verbs(t, Extend, now, errs.Fenced, got...)
	expectOffsets(t, "within the delay", l.next(a, 10, now.Add(9*time.Second)))
	if d := l.nextDeadline(now); !d.Equal(now.Add(10 * time.Second)) {
		t.Errorf("next deadline %v", d)
	}
	l.expire(now.Add(10 * time.Second))
	expectOffsets(t, "after it", l.next(a, 2, now.Add(10*time.Second)), 1, 2)
}

func TestWhoLeavesGivesBack(t *testing.T) {
	l := book(1)
	stream, poll := l.enter(explicit(100)), explicit(100)
	poll.Stays = true
	got := l.next(stream, 3, t0)
	b := l.enter(poll)
	b.max = 5
	l.park(b)
	l.leave(stream, t0)
	expectOffsets(t, "the waiting poll, at once", b.got.Deliveries, 0, 1, 2, 3, 4)
	l.verbs(t, Ack, t0, errs.Fenced, got...)
	l.leave(b, t0)
	c := l.enter(explicit(100))
	expectOffsets(t, "what a poll carried stays leased", l.next(c, 5, t0))
	l.verbs(t, Ack, t0, nil, b.got.Deliveries...)
	expectOffsets(t, "until it is settled", l.next(c, 5, t0), 5, 6, 7, 8, 9)
}

func TestNamedClientGetsWhatFollows(t *testing.T) {
	l := book(1)
	named := explicit(100)
	named.Client, named.Stays = "worker-1", true
	one := l.enter(named)
	first := l.next(one, 2, t0)
	l.leave(one, t0)
	expectOffsets(t, "somebody else", l.next(l.enter(explicit(100)), 2, t0))
	two := l.enter(named)
	second := l.next(two, 2, t0)
	expectOffsets(t, "the same client", second, 2, 3)
	l.leave(two, t0)
	l.verbs(t, Ack, t0, nil, append(first, second...)...)
	if len(l.named) != 0 {
		t.Error("the name is kept though nobody uses it")
	}
}

// Two polls under one name wait at the same time: what one gets is not lost to the other.
func TestOneNameTwice(t *testing.T) {
	l := fifoLedger()
	l.gain(false, store.Position{}, 1, t0)
	named := explicit(100)
	named.Client, named.Stays = "w", true
	one, two := l.enter(named), l.enter(named)
	one.max, two.max = 1, 1
	l.park(one)
	l.park(two)
	l.add(false, messages(0, 0, 1), t0)
	l.add(false, messages(0, 1, 2), t0)
	expectOffsets(t, "the first", one.got.Deliveries, 0)
	expectOffsets(t, "the second", two.got.Deliveries, 1)
}

// Out-of-order acks, attempts and the lease of a poll go over to whoever holds the partition next; receipts too.
func TestCleanMoveKeepsEverything(t *testing.T) {
	old := book(1)
	poll := explicit(100)
	poll.Stays = true
	s := old.enter(poll)
	got := old.next(s, 6, t0)
	old.verbs(t, Ack, t0, nil, got[0], got[2], got[3])
	old.leave(s, t0)
	p := old.windows[spot{}].position(at(10 * time.Second))
	if p.Next != 1 {
		t.Fatalf("commit at %d, want the contiguous prefix 1", p.Next)
	}

	l := fifoLedger()
	l.gain(false, p, 99, at(10*time.Second))
	l.verbs(t, Ack, at(11*time.Second), nil, got[5]) // before anything is fetched
	l.add(false, messages(0, 1, 10), at(11*time.Second))
	c := l.enter(explicit(100))
	expectOffsets(t, "while the lease goes on", l.next(c, 10, at(12*time.Second)))
	l.verbs(t, Ack, at(12*time.Second), nil, got[1], got[2])
	l.expire(at(30 * time.Second))
	expectOffsets(t, "the ack set the lease anew", l.next(c, 10, at(30*time.Second)))
	l.expire(at(45 * time.Second))
	again := l.next(c, 10, at(45*time.Second))
	expectOffsets(t, "after the lease", again, 4, 6, 7, 8, 9)
	if again[0].Ref.Attempt != 2 || again[1].Ref.Attempt != 1 {
		t.Errorf("attempts %d and %d, want 2 and 1", again[0].Ref.Attempt, again[1].Ref.Attempt)
	}
	l.verbs(t, Ack, at(46*time.Second), errs.Fenced, got[4])
}

// After a kill the last commit may know nothing of a delivery. Its ack counts while the message was not delivered again.
func TestReceiptFromBeforeAKill(t *testing.T) {
	got := func() []Delivery { l := book(1); return l.next(l.enter(explicit(100)), 3, t0) }()
	l := fifoLedger()
	l.gain(false, store.Position{}, 77, t0)
	l.verbs(t, Ack, t0, nil, got[1])
	l.add(false, messages(0, 0, 10), t0)
	s := l.enter(explicit(100))
	again := l.next(s, 1, t0)
	expectOffsets(t, "delivered again", again, 0)
	l.verbs(t, Ack, t0, errs.Fenced, got[0])
	l.verbs(t, Ack, t0, nil, got[2])
	expectOffsets(t, "the rest", l.next(s, 3, t0), 3, 4, 5)
}

func TestThrough(t *testing.T) {
	l := book(1)
	s := l.enter(explicit(100))
	got := l.next(s, 5, t0)
	if err := l.through(store.Position{Next: 6}, t0); !errors.Is(err, errs.Conflict) {
		t.Errorf("beyond what was delivered: %v", err)
	}
	if err := l.through(store.Position{Partition: 4, Next: 1}, t0); !errors.Is(err, errs.Fenced) {
		t.Errorf("a partition that is not held: %v", err)
	}
	if err := l.through(store.Position{Next: 4}, t0); err != nil {
		t.Error(err)
	}
	l.verbs(t, Ack, t0, nil, got...)
	if w := l.windows[spot{}]; w.next != 5 || w.leased != 0 {
		t.Errorf("next %d, leased %d", w.next, w.leased)
	}
	if err := l.through(store.Position{Next: 2}, t0); err != nil {
		t.Errorf("below what is done: %v", err)
	}
}

func TestGap(t *testing.T) {
	l := book(1)
	s := l.enter(explicit(100))
	got := l.next(s, 2, t0)
	l.gap(false, store.Gap{From: 0, To: 15}, t0)
	l.add(false, messages(0, 15, 17), t0)
	after := l.next(s, 5, t0)
	expectOffsets(t, "after the gap", after, 15, 16)
	if len(s.got.Gaps) != 1 {
		t.Errorf("gaps told: %v", s.got.Gaps)
	}
	l.verbs(t, Ack, t0, nil, append(got, after...)...)
	if w := l.windows[spot{}]; w.next != 17 || w.bytes != 0 || s.c.held != 0 {
		t.Errorf("next %d, bytes %d, held %d", w.next, w.bytes, s.c.held)
	}
}

// A gap relieves a client of what it held, so that it goes on at once and not when its wait ends.
func TestGapMakesRoom(t *testing.T) {
	l := book(1)
	s := l.enter(explicit(2))
	l.next(s, 2, t0)
	s.max, s.got = 2, Batch{}
	l.park(s) // its hands are full
	l.gap(false, store.Gap{From: 0, To: 8}, t0)
	expectOffsets(t, "what is left", s.got.Deliveries, 8, 9)
}

// Offsets have holes in Kafka: transactions and compaction leave them. They neither stall the commit nor are they gaps.
func TestHoles(t *testing.T) {
	l := fifoLedger()
	l.gain(false, store.Position{Next: 5}, 1, t0)
	l.add(false, []*store.Message{{Offset: 7}, {Offset: 8}, {Offset: 40}, {Offset: 41}}, t0)
	s := l.enter(explicit(100))
	got := l.next(s, 10, t0)
	l.verbs(t, Ack, t0, nil, got[0], got[2])
	if w := l.windows[spot{}]; w.next != 8 {
		t.Errorf("next %d, want 8", w.next)
	}
	l.verbs(t, Ack, t0, nil, got[1], got[3])
	if w := l.windows[spot{}]; w.next != 42 {
		t.Errorf("next %d, want 42", w.next)
	}
}

func TestFullWindowsArePausedAndFreedAtHalf(t *testing.T) {
	limits := Limits{WindowMessages: 10, WindowBytes: 1 << 20, GroupBytes: 1 << 20}.withDefaults()
	l := book(2)
	if got := l.full(limits, false, nil); !slices.Equal(got, []int32{0, 1}) {
		t.Fatalf("full: %v", got)
	}
	s := l.enter(explicit(100))
	l.verbs(t, Ack, t0, nil, l.next(s, 4, t0)...)
	if got := l.full(limits.half(), false, nil); len(got) != 2 {
		t.Errorf("read again after 4 of 10: %v", got)
	}
	l.verbs(t, Ack, t0, nil, l.next(s, 20, t0)...)
	if got := l.full(limits.half(), false, nil); len(got) != 0 {
		t.Errorf("still paused when empty: %v", got)
	}
}

// A long life in one window keeps the array under its entries within what is held at once.
func TestWindowUsesItsArrayAgain(t *testing.T) {
	l := fifoLedger()
	l.gain(false, store.Position{}, 1, t0)
	s := l.enter(explicit(1000))
	var left []Delivery
	for o := int64(0); o < 100_000; o += 10 {
		l.add(false, messages(0, o, o+10), t0)
		got := append(left, l.next(s, 100, t0)...)
		left = slices.Clone(got[len(got)-3:]) // always some in flight
		l.verbs(t, Ack, t0, nil, got[:len(got)-3]...)
	}
	if w := l.windows[spot{}]; cap(w.buf) > 256 || w.next != 99_997 {
		t.Errorf("an array of %d entries for 13 at once; next %d", cap(w.buf), w.next)
	}
}

func (l *ledger) settleOne(v Verb, now time.Time) error { return l.settle([]Verb{v}, now, nil)[0] }

// A lease that came with the position is not extended by a receipt of an earlier delivery, whose hold ended uncleanly.
func TestExtendOfAnEarlierHold(t *testing.T) {
	l := fifoLedger()
	b := beyond{hold: 5, held: []carried{{offset: 0, attempt: 2, state: stateLeased, remaining: time.Minute}}}
	l.gain(false, store.Position{Beyond: b.encode(0)}, 7, t0)
	l.add(false, messages(0, 0, 1), t0)
	for attempt, want := range map[uint32]error{1: errs.Fenced, 2: nil} {
		if err := l.settleOne(Verb{Ref: Ref{Attempt: attempt, Hold: 5 - 2*(2-attempt)}, Op: Extend}, t0); !errors.Is(err, want) {
			t.Errorf("attempt %d: %v, want %v", attempt, err, want)
		}
	}
}

// What was delivered again after a kill and then moved cleanly, with its partition, is its new client's alone: the receipt of
// before the kill no longer counts, whether the message is fetched yet or not.
func TestReceiptFromBeforeAKillAndAMove(t *testing.T) {
	for _, mode := range []Mode{Fifo, Queue} {
		for _, state := range []uint8{stateLeased, stateDue, stateDelayed} {
			b := beyond{hold: 5, held: []carried{{offset: 0, attempt: 1, state: state, remaining: time.Minute}}}
			old := Ref{Attempt: 1, Hold: 3}
			for _, fetched := range []bool{false, true} {
				for _, op := range []Op{Ack, Nack, Extend, Bury, Return} {
					l := newLedger()
					l.begin(Settings{Mode: mode}, Policy{Dead: "dead"}, nil, t0)
					l.gain(false, store.Position{Beyond: b.encode(0)}, 7, t0)
					if fetched {
						l.add(false, messages(0, 0, 1), t0)
					}
					if err := l.settleOne(Verb{Ref: old, Op: op}, t0); !errors.Is(err, errs.Fenced) {
						t.Errorf("mode %v, state %d, fetched: %v, verb %d: %v", mode, state, fetched, op, err)
					}
				}
			}
		}
	}
}
