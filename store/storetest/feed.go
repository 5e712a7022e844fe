package storetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

func feedTests() []test {
	return []test{
		{name: "PollWaits", run: pollWaits},
		{name: "PollMax", run: pollMax},
		{name: "PollPaused", run: pollPaused},
		{name: "PollAllPaused", run: pollAllPaused},
		{name: "PollCancelLosesNothing", run: pollCancelLosesNothing},
		{name: "PollMany", run: pollMany},
		{name: "CommitSurvivesClose", run: commitSurvivesClose},
		{name: "CommitSurvivesReopen", run: commitSurvivesReopen, needs: Reopen},
		{name: "CommitSizes", run: commitSizes},
		{name: "CommitNewestWins", run: commitNewestWins},
		{name: "CommitIsWrittenSoon", run: commitIsWrittenSoon},
		{name: "CommitMovesNoPoll", run: commitMovesNoPoll},
		{name: "CommitNotHeld", run: commitNotHeld},
		{name: "CommitBehindTheEnd", run: commitBehindTheEnd},
		{name: "GapIsReported", run: gapIsReported, needs: Trim},
		{name: "GapIsNotAStart", run: gapIsNotAStart, needs: Trim},
	}
}

// pollWaits: a Poll that found nothing is woken by a message.
func pollWaits(e *env) {
	topic := e.topic(3)
	m := e.join(e.s, topic, name("group"), store.Start{})
	e.drive("all partitions", m.holds(3), m)
	wait := e.background(func() {
		if err := e.s.Publish(e.ctx(), topic, store.AckAll, text(1, "wake")); err != nil {
			e.Errorf("publish: %v", err)
		}
	})
	for ctx := e.ctx(); len(m.values) == 0 && ctx.Err() == nil; {
		m.poll(ctx)
	}
	wait()
	e.each([]string{"wake"}, m)
}

func pollMax(e *env) {
	topic := e.topic(3)
	values := e.fill(topic, 30, 0, 1, 2)
	m := e.join(e.s, topic, name("group"), store.Start{})
	for i, n := range []int{20, 70, 90} {
		m.max = []int{1, 7, 1000}[i] // the member fails the test for more
		m.read(n)
	}
	e.each(values, m)
}

// pollPaused: partitions are passed over and come back, with nothing lost or out of order, fetched ahead or not.
func pollPaused(e *env) {
	topic := e.topic(3)
	values := e.fill(topic, 200, 0, 1, 2)
	m := e.join(e.s, topic, name("group"), store.Start{})
	m.max = 50
	m.paused = []int32{1, 99} // who pauses need not know what is held
	m.read(400)
	m.paused = []int32{0, 2}
	values = append(values, e.fill(topic, 20, 0, 1)...)
	m.read(620)
	values = append(values, e.fill(topic, 300, 0, 1, 2)...)
	round := 0
	e.drive("all messages", func() bool {
		round++
		m.paused = [][]int32{{}, {0}, {1, 2}, {2, 0}, {1}, {2}}[round%6]
		m.max = 1 + round%40
		return len(m.values) >= len(values)
	}, m)
	e.each(values, m)
}

func pollAllPaused(e *env) {
	topic := e.topic(3)
	values := e.fill(topic, 10, 0, 1, 2)
	m := e.join(e.s, topic, name("group"), store.Start{})
	m.paused = []int32{0, 1, 2}
	e.drive("all partitions", m.holds(3), m)
	ctx, cancel := context.WithTimeout(e.ctx(), 5*turn)
	defer cancel()
	m.poll(ctx) // the member fails the test for a message
	m.paused = nil
	m.read(len(values))
	e.each(values, m)
}

// pollCancelLosesNothing: also when the wait ends in the moment in which messages arrive.
func pollCancelLosesNothing(e *env) {
	topic := e.topic(3)
	m := e.join(e.s, topic, name("group"), store.Start{})
	var values []string
	for i := range 300 {
		values = append(values, fmt.Sprintf("%04d", i))
	}
	var over atomic.Bool
	e.background(func() {
		defer over.Store(true)
		for i, v := range values {
			if err := e.s.Publish(e.ctx(), topic, store.AckAll, text(int32(i%3), v)); err != nil {
				e.Errorf("publish: %v", err)
				return
			}
		}
	})
	for i := 0; !over.Load() || i < 100; i++ { // some are behind the last publish, so that none depends on how fast it goes
		m.max = 1 + i%5
		ctx, cancel := context.WithTimeout(e.Context(), time.Duration(rand.IntN(800))*time.Microsecond)
		if i%4 == 0 {
			cancel()
		}
		m.poll(ctx)
		cancel()
	}
	m.max = 100
	m.read(len(values))
	e.each(values, m)
}

// pollMany: thousands of messages, published while they are read.
func pollMany(e *env) {
	topic, group := e.topic(4), name("group")
	m := e.join(e.s, topic, group, store.Start{})
	const publishers, calls, batch = 4, 10, 125
	var want []string
	for g := range publishers {
		for i := range calls * batch {
			want = append(want, fmt.Sprintf("%d-%05d", g, i))
		}
		own := want[len(want)-calls*batch:]
		e.background(func() {
			for chunk := range slices.Chunk(own, batch) {
				var msgs []*store.Message
				for _, v := range chunk {
					msgs = append(msgs, text(int32(g), v))
				}
				if err := e.s.Publish(e.ctx(), topic, store.AckAll, msgs...); err != nil {
					e.Errorf("publish: %v", err)
				}
			}
		})
	}
	e.drive("all messages", func() bool {
		m.commit()
		return len(m.values) >= len(want)
	}, m)
	e.each(want, m)
	m.commit()
	m.close()
	e.committed(topic, group, calls*batch, calls*batch, calls*batch, calls*batch)
}

func commitSurvivesClose(e *env) {
	topic, group := e.topic(3), name("group")
	positions := e.commitSome(topic, group)
	e.holdsPositions(topic, group, positions)
}

func commitSurvivesReopen(e *env) {
	topic, group := e.topic(3), name("group")
	positions := e.commitSome(topic, group)
	e.reopen()
	e.holdsPositions(topic, group, positions)
}

// commitSome reads some, commits and closes.
func (e *env) commitSome(topic, group string) []store.Position {
	e.Helper()
	e.fill(topic, 10, 0, 1, 2)
	m := e.join(e.s, topic, group, store.Start{})
	m.read(30)
	positions := []store.Position{{Partition: 0, Next: 3, Beyond: "5-7,9"}, {Partition: 1, Next: 10}, {Partition: 2, Next: 1, Beyond: `{"ü":"\u0000"}`}}
	for _, p := range positions {
		e.must(m.f.Commit(p))
	}
	m.close()
	return positions
}

// holdsPositions joins anew and fails the test unless the partitions are gained with these positions, and go on there.
func (e *env) holdsPositions(topic, group string, positions []store.Position) {
	e.Helper()
	m := e.join(e.s, topic, group, store.Start{Newest: true})
	e.drive("all partitions", m.holds(len(positions)), m)
	left := 0
	for _, want := range positions {
		if got := m.gained[want.Partition]; got != want {
			e.Errorf("partition %d: gained with offset %d and %d bytes %.80q, committed were %d and %d bytes %.80q",
				want.Partition, got.Next, len(got.Beyond), got.Beyond, want.Next, len(want.Beyond), want.Beyond)
		}
		left += int(e.lag(topic, group)[want.Partition].Lag())
	}
	m.read(left)
	if len(m.values) != left {
		e.Errorf("%d messages came, %d were left", len(m.values), left)
	}
	m.close()
}

// commitSizes: every size of what is beside the position, up to the limit.
func commitSizes(e *env) {
	sizes := []int{0, 1, 2, 100, 1000, 2048, 4000, 4095, store.MaxBeyond}
	topic, group := e.topic(int32(len(sizes))), name("group")
	m := e.join(e.s, topic, group, store.Start{})
	e.drive("all partitions", m.holds(len(sizes)), m)
	var positions []store.Position
	for i, size := range sizes {
		p := store.Position{Partition: int32(i), Beyond: strings.Repeat("x", size)}
		if i%2 == 1 {
			p.Beyond = strings.Repeat("ü", size/2) + strings.Repeat("\x01", size%2)
		}
		positions = append(positions, p)
		e.must(m.f.Commit(p))
	}
	over := store.Position{Beyond: strings.Repeat("x", store.MaxBeyond+1)}
	e.kind("one byte over the limit", m.f.Commit(over), errs.TooLarge)
	m.close()
	e.holdsPositions(topic, group, positions)
}

func commitNewestWins(e *env) {
	topic, group := e.topic(3), name("group")
	e.fill(topic, 100, 0, 1, 2)
	m := e.join(e.s, topic, group, store.Start{})
	m.read(300)
	for next := range int64(100) {
		for p := range int32(3) {
			e.must(m.f.Commit(store.Position{Partition: p, Next: next + 1 - int64(p), Beyond: fmt.Sprint(next)}))
		}
	}
	m.close()
	e.holdsPositions(topic, group, []store.Position{{Partition: 0, Next: 100, Beyond: "99"}, {Partition: 1, Next: 99, Beyond: "99"}, {Partition: 2, Next: 98, Beyond: "99"}})
}

func commitIsWrittenSoon(e *env) {
	topic, group := e.topic(3), name("group")
	e.fill(topic, 3, 0, 1, 2)
	m := e.join(e.s, topic, group, store.Start{})
	m.read(9)
	for round := int64(1); round <= 3; round++ {
		for p := range int32(3) {
			e.must(m.f.Commit(store.Position{Partition: p, Next: round}))
		}
		want := []int64{round, round, round}
		e.drive("the commit is seen by others", func() bool { return slices.Equal(e.nexts(topic, group), want) }, m)
	}
}

// commitMovesNoPoll: a position behind or ahead is the group's word, not the feed's.
func commitMovesNoPoll(e *env) {
	topic, group := e.topic(3), name("group")
	values := e.fill(topic, 20, 0, 1, 2)
	m := e.join(e.s, topic, group, store.Start{})
	m.max = 10
	m.read(30)
	for p := range m.next {
		e.must(m.f.Commit(store.Position{Partition: p, Next: int64(p) * 9})) // 0, 9, 18 of 20
	}
	m.read(60)
	e.each(values, m)
}

func commitNotHeld(e *env) {
	topic := e.topic(3)
	m := e.join(e.s, topic, name("group"), store.Start{})
	e.drive("all partitions", m.holds(3), m)
	for _, p := range []int32{-1, 3, 99} {
		e.kind(fmt.Sprintf("commit of partition %d, which nobody holds", p), m.f.Commit(store.Position{Partition: p}), errs.Fenced)
	}
}

// commitBehindTheEnd: a log can be shorter than the group remembers, after a truncation or when its topic was made anew. The
// group learns it, is not stuck until the log has grown, and misses nothing of what comes.
func commitBehindTheEnd(e *env) {
	topic, group := e.topic(3), name("group")
	e.fill(topic, 10, 0, 1, 2)
	m := e.join(e.s, topic, group, store.Start{})
	m.read(30)
	m.commit()
	e.must(m.f.Commit(store.Position{Partition: 1, Next: 1000}))
	m.close()
	m = e.join(e.s, topic, group, store.Start{})
	e.drive("all partitions", m.holds(3), m)
	values := e.fill(topic, 3, 1)
	last := values[len(values)-1]
	e.drive("the new messages", func() bool { return slices.Contains(m.values, last) }, m)
	for _, v := range values {
		if !slices.Contains(m.values, v) {
			e.Errorf("message %s was passed over", v)
		}
	}
	if got := m.gained[1].Next; got > 10 && len(m.gaps) != 1 { // a store may already refuse to remember such an offset
		e.Errorf("gained with offset %d of 10, but the gaps are %+v", got, m.gaps)
	}
}

// gapIsReported: a group that retention overtook learns what it will never see.
func gapIsReported(e *env) {
	topic, group := e.topic(3), name("group")
	e.fill(topic, 10, 0, 1, 2)
	m := e.join(e.s, topic, group, store.Start{})
	m.read(30)
	for p := range int32(3) {
		e.must(m.f.Commit(store.Position{Partition: p, Next: 2}))
	}
	m.close()
	e.cfg.Trim(e.T, e.s, topic, 1, 8)
	lag := e.lag(topic, group)[1]
	if lag.Start <= 2 || lag.Start > 8 || lag.End != 10 || lag.Lag() != 10-lag.Start {
		e.Fatalf("after the trim below 8: %+v with a lag of %d", lag, lag.Lag())
	}
	if got := e.browse(topic, 1, 0); len(got) != int(10-lag.Start) || got[0].Offset != lag.Start {
		e.Errorf("Browse from below the oldest message answered %d messages", len(got))
	}
	m = e.join(e.s, topic, group, store.Start{})
	m.read(8 + 8 + int(10-lag.Start)) // the member fails the test for a hole without a gap
	if want := []store.Gap{{Partition: 1, From: 2, To: lag.Start}}; !slices.Equal(m.gaps, want) {
		e.Errorf("gaps %+v, want %+v", m.gaps, want)
	}
}

// gapIsNotAStart: a new group begins at the oldest message there is, and has missed nothing.
func gapIsNotAStart(e *env) {
	topic, group := e.topic(3), name("group")
	e.fill(topic, 10, 0, 1, 2)
	e.cfg.Trim(e.T, e.s, topic, 0, 8)
	start := e.lag(topic, group)[0].Start
	m := e.join(e.s, topic, group, store.Start{})
	e.committed(topic, group, start, 0, 0)
	m.read(30 - int(start))
	if len(m.gaps) > 0 {
		e.Errorf("gaps %+v", m.gaps)
	}
}
