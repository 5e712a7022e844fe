package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

func followTests() []test {
	list := []test{
		{name: "FollowFromPositions", run: followFromPositions},
		{name: "FollowNewest", run: followNewest},
		{name: "FollowMax", run: followMax},
		{name: "FollowWhileMessagesCome", run: followWhileMessagesCome},
		{name: "FollowCancelLosesNothing", run: followCancelLosesNothing},
		{name: "FollowBytesAreKept", run: followBytesAreKept},
		{name: "FollowGap", run: followGap, needs: Trim},
		{name: "FollowGapWhileAway", run: followGapWhileAway, needs: Trim},
		{name: "FollowBeyondTheEnd", run: followBeyondTheEnd},
		{name: "FollowNewPartitions", run: followNewPartitions},
		{name: "FollowDeleted", run: followDeleted},
		{name: "FollowDeletedAndCreatedAnew", run: followAnew},
		{name: "FollowUnknown", run: followUnknown},
		{name: "FollowTouchesNoGroup", run: followTouchesNoGroup},
		{name: "FollowCloseEndsPoll", run: followCloseEndsPoll},
		{name: "FollowStoreCloseEndsPoll", run: followStoreCloseEndsPoll},
	}
	for i := range list {
		if list[i].needs == "" {
			list[i].needs = Follow
		}
	}
	return list
}

// reader is a tail whose Polls are held against the contract.
type reader struct {
	e      *env
	t      store.Tail
	next   map[int32]int64 // the offset that must come next; of partitions that are not there, any is good at first
	got    []*store.Message
	values []string
	gaps   []store.Gap
	gained []store.Position
	max    int
}

// follow reads the topic through s from the positions on. Partitions without one must begin at 0.
func (e *env) follow(s store.Store, topic string, from ...store.Position) *reader {
	e.Helper()
	t, err := s.(store.Follower).Follow(e.ctx(), topic, from)
	if err != nil {
		e.Fatalf("follow: %v", err)
	}
	e.Cleanup(t.Close)
	r := &reader{e: e, t: t, next: map[int32]int64{}, max: 100}
	for _, p := range from {
		r.next[p.Partition] = p.Next
	}
	return r
}

// poll does one Poll, and checks that there is neither hole nor repetition.
func (r *reader) poll(ctx context.Context) {
	r.e.Helper()
	b, err := r.t.Poll(ctx, r.max)
	if err != nil {
		if len(b.Gained)+len(b.Gaps)+len(b.Messages) > 0 {
			r.e.Fatalf("Poll answered an error, %v, and a batch, %+v", err, b)
		}
		if !errors.Is(err, ctx.Err()) && (errors.Is(err, store.ErrClosed) || !errors.Is(err, errs.Unavailable)) {
			r.e.Fatalf("Poll: %v", err)
		}
		return
	}
	if len(b.Lost)+len(b.Refused) > 0 {
		r.e.Fatalf("a tail lost or was refused something: %+v", b)
	}
	for _, p := range b.Gained {
		if _, known := r.next[p.Partition]; known {
			r.e.Fatalf("partition %d is gained, but was there", p.Partition)
		}
		r.next[p.Partition] = p.Next
		r.gained = append(r.gained, p)
	}
	for _, g := range b.Gaps {
		if g.From != r.next[g.Partition] {
			r.e.Fatalf("gap %+v, but expected %d", g, r.next[g.Partition])
		}
		r.next[g.Partition] = g.To
		r.gaps = append(r.gaps, g)
	}
	if len(b.Messages) > r.max {
		r.e.Fatalf("%d messages in one Poll, at most %d were wanted", len(b.Messages), r.max)
	}
	for _, m := range b.Messages {
		if want := r.next[m.Partition]; m.Offset != want {
			r.e.Fatalf("offset %d of partition %d, expected %d", m.Offset, m.Partition, want)
		}
		r.next[m.Partition]++
		r.got, r.values = append(r.got, m), append(r.values, string(m.Value))
	}
}

// read polls until there are n messages in all.
func (r *reader) read(n int) {
	r.e.Helper()
	for ctx := r.e.ctx(); len(r.values) < n; {
		if ctx.Err() != nil {
			r.e.Fatalf("not within %v: %d messages; there are %d, and next are %v", r.e.cfg.Patience, n, len(r.values), r.next)
		}
		r.poll(ctx)
	}
}

// quiet fails the test when a message comes in the next while.
func (r *reader) quiet() {
	r.e.Helper()
	n := len(r.values)
	ctx, cancel := context.WithTimeout(r.e.ctx(), 5*turn)
	defer cancel()
	r.poll(ctx)
	if len(r.values) > n {
		r.e.Fatalf("messages came that were not expected: %q", r.values[n:])
	}
}

// are fails the test unless the reader has exactly these values.
func (r *reader) are(want ...[]string) {
	r.e.Helper()
	r.e.each(slices.Concat(want...), &member{e: r.e, values: r.values})
}

// of are the values that fill published to a partition of n, from the offset on.
func of(values []string, partitions, p, from int) (list []string) {
	for i := from*partitions + p; i < len(values); i += partitions {
		list = append(list, values[i])
	}
	return list
}

// followFromPositions: each partition from its position, one without from the oldest, and then what comes.
func followFromPositions(e *env) {
	topic := e.topic(3)
	values := e.fill(topic, 10, 0, 1, 2)
	r := e.follow(e.s, topic, store.Position{Partition: 1, Next: 4, Beyond: "not looked at"}, store.Position{Partition: 0, Next: 10})
	r.read(6 + 10)
	r.are(of(values, 3, 1, 4), of(values, 3, 2, 0))
	more := e.fill(topic, 5, 0, 1, 2)
	r.read(6 + 10 + len(more))
	r.are(of(values, 3, 1, 4), of(values, 3, 2, 0), more)
	if len(r.gaps)+len(r.gained) > 0 {
		e.Errorf("gaps %+v and partitions %+v were told", r.gaps, r.gained)
	}
}

func followNewest(e *env) {
	topic := e.topic(3)
	e.fill(topic, 5, 0, 1, 2)
	at, err := e.s.Resolve(e.ctx(), topic, store.Start{Newest: true})
	e.must(err)
	r := e.follow(e.s, topic, at...)
	r.quiet()
	values := e.fill(topic, 5, 0, 1, 2)
	r.read(len(values))
	r.are(values)
}

func followMax(e *env) {
	topic := e.topic(3)
	values := e.fill(topic, 30, 0, 1, 2)
	r := e.follow(e.s, topic)
	for i, n := range []int{20, 70, 90} {
		r.max = []int{1, 7, 1000}[i]
		r.read(n)
	}
	r.are(values)
}

// followWhileMessagesCome: where history ends and what comes begins there is neither hole nor repetition, for readers that
// begin before, amid and after, fast and slow.
func followWhileMessagesCome(e *env) {
	topic := e.topic(3)
	const n = 180
	var published atomic.Int32
	wait := e.background(func() {
		for i := range n {
			if err := e.s.Publish(e.ctx(), topic, store.AckAll, text(int32(i%3), fmt.Sprint(i))); err != nil {
				e.Errorf("publish: %v", err)
				return
			}
			published.Add(1)
		}
	})
	readers := []*reader{e.follow(e.s, topic)}
	e.eventually("some are published", func() bool { return published.Load() > n/4 })
	readers = append(readers, e.follow(e.other(topic), topic), e.follow(e.s, topic))
	readers[2].max = 3
	for _, r := range readers {
		r.read(n / 2)
	}
	wait()
	readers = append(readers, e.follow(e.s, topic))
	var want []string
	for i := range n {
		want = append(want, fmt.Sprint(i))
	}
	for _, r := range readers {
		r.read(n)
		r.are(want)
	}
}

// followCancelLosesNothing: also when the wait ends in the moment in which a message arrives.
func followCancelLosesNothing(e *env) {
	topic := e.topic(3)
	r := e.follow(e.s, topic)
	var want []string
	for i := range 150 {
		want = append(want, fmt.Sprint(i))
	}
	var end atomic.Pointer[context.CancelFunc] // of the present wait
	wait := e.background(func() {
		for i, v := range want {
			if err := e.s.Publish(e.ctx(), topic, store.AckAll, text(int32(i%3), v)); err != nil {
				e.Errorf("publish: %v", err)
				return
			}
			if cancel := end.Load(); cancel != nil {
				(*cancel)()
			}
		}
	})
	for whole := e.ctx(); len(r.values) < len(want) && whole.Err() == nil; {
		ctx, cancel := context.WithTimeout(whole, turn)
		end.Store(&cancel)
		r.poll(ctx)
		cancel()
	}
	wait()
	r.are(want)
}

func followBytesAreKept(e *env) {
	topic := e.topic(1)
	want := []*store.Message{
		{Key: []byte("k\x00\xff"), Value: []byte("v\x00\xff"), Headers: []store.Header{{Key: "a", Value: []byte("1")}, {Key: "a", Value: []byte{0xff}}}, Time: time.UnixMilli(time.Now().UnixMilli() - 1234)},
		{Value: []byte{}},
		{Key: []byte("tombstone")},
	}
	for _, m := range want {
		sent := m.Clone()
		sent.Partition = 0
		e.publish(topic, sent)
	}
	r := e.follow(e.s, topic)
	r.read(len(want))
	for i, m := range r.got {
		if d := diff(want[i], m); d != "" {
			e.Errorf("message %d came with %s", i, d)
		}
	}
}

// followGap: a position that retention overtook is told, and reading goes on from what is there.
func followGap(e *env) {
	topic := e.topic(3)
	values := e.fill(topic, 10, 0, 1, 2)
	e.cfg.Trim(e.T, e.s, topic, 1, 8)
	start := e.lag(topic, name("group"))[1].Start
	r := e.follow(e.s, topic, store.Position{Partition: 0, Next: 10}, store.Position{Partition: 1, Next: 2}, store.Position{Partition: 2, Next: 9})
	r.read(int(10-start) + 1)
	r.are(of(values, 3, 1, int(start)), of(values, 3, 2, 9))
	if want := []store.Gap{{Partition: 1, From: 2, To: start}}; !slices.Equal(r.gaps, want) {
		e.Errorf("gaps %+v, want %+v", r.gaps, want)
	}
	fresh := e.follow(e.s, topic, store.Position{Partition: 0, Next: 10}, store.Position{Partition: 2, Next: 10})
	fresh.next[1] = start
	fresh.read(int(10 - start))
	if len(fresh.gaps) > 0 {
		e.Errorf("who begins at the oldest has missed nothing, but was told %+v", fresh.gaps)
	}
}

// followGapWhileAway: retention overtakes a reader that does not poll. What it has at hand it may still tell.
func followGapWhileAway(e *env) {
	topic := e.topic(1)
	e.fill(topic, 10, 0)
	r := e.follow(e.s, topic)
	r.max = 1
	r.read(1)
	e.cfg.Trim(e.T, e.s, topic, 0, 8)
	values := e.fill(topic, 3, 0)
	last := values[len(values)-1]
	for ctx := e.ctx(); r.values[len(r.values)-1] != last; { // poll fails the test for a hole without a gap
		if ctx.Err() != nil {
			e.Fatalf("not within %v: the newest message; there are %q", e.cfg.Patience, r.values)
		}
		r.poll(ctx)
	}
}

// followBeyondTheEnd: a position that the topic has not reached is another topic's, and nothing of this one is known.
func followBeyondTheEnd(e *env) {
	topic := e.topic(3)
	values := e.fill(topic, 5, 0, 1, 2)
	r := e.follow(e.s, topic, store.Position{Partition: 0, Next: 5}, store.Position{Partition: 1, Next: 1000}, store.Position{Partition: 2, Next: 5})
	r.read(5)
	r.are(of(values, 3, 1, 0))
	if want := []store.Gap{{Partition: 1, From: 1000, To: 0}}; !slices.Equal(r.gaps, want) {
		e.Errorf("gaps %+v, want %+v", r.gaps, want)
	}
}

// followNewPartitions: those that another handle added are told, and read from their first message on.
func followNewPartitions(e *env) {
	topic := e.topic(3)
	values := e.fill(topic, 2, 0, 1, 2)
	s := e.other(topic)
	r := e.follow(e.s, topic)
	r.read(len(values))
	e.must(s.AlterTopic(e.ctx(), store.Topic{Name: topic, Partitions: 5}))
	var more []string
	for p := range int32(5) {
		more = append(more, fmt.Sprint("to ", p))
		e.must(s.Publish(e.ctx(), topic, store.AckAll, text(p, more[p])))
	}
	r.read(len(values) + len(more))
	r.are(values, more)
	slices.SortFunc(r.gained, func(a, b store.Position) int { return int(a.Partition - b.Partition) })
	if want := []store.Position{{Partition: 3}, {Partition: 4}}; !slices.Equal(r.gained, want) || len(r.gaps) > 0 {
		e.Errorf("partitions %+v and gaps %+v, want %+v and none", r.gained, r.gaps, want)
	}
}

// gone polls until the topic is told to be gone.
func (r *reader) gone() {
	r.e.Helper()
	for ctx := r.e.ctx(); ; {
		_, err := r.t.Poll(ctx, r.max)
		switch {
		case errors.Is(err, errs.UnknownTopic):
			return
		case ctx.Err() != nil:
			r.e.Fatalf("not within %v: Poll tells that the topic is gone; it told %v", r.e.cfg.Patience, err)
		case err != nil && !errors.Is(err, errs.Unavailable):
			r.e.Fatalf("Poll of a topic that is gone: %v", err)
		}
	}
}

func followDeleted(e *env) {
	topic := e.topic(3)
	values := e.fill(topic, 2, 0, 1, 2)
	r := e.follow(e.s, topic)
	r.read(len(values))
	wait := e.background(func() {
		if err := e.s.DeleteTopic(e.ctx(), topic); err != nil {
			e.Errorf("delete: %v", err)
		}
	})
	r.gone()
	wait()
}

// followAnew: a topic that another deletes and makes anew is another one to who follows it, and all of it is read by who
// comes then.
func followAnew(e *env) {
	topic := e.topic(3)
	values := e.fill(topic, 5, 0, 1, 2)
	s := e.other(topic)
	r := e.follow(e.s, topic)
	r.read(len(values))
	e.must(s.DeleteTopic(e.ctx(), topic))
	e.eventually("the name is free", func() bool {
		return s.CreateTopic(e.ctx(), store.Topic{Name: topic, Partitions: 2}) == nil
	})
	r.gone()
	e.eventually("the new topic can be published to", func() bool {
		return s.Publish(e.ctx(), topic, store.AckAll, text(1, "first")) == nil
	})
	var again store.Tail
	e.eventually("the new topic can be followed", func() bool {
		var err error
		again, err = e.s.(store.Follower).Follow(e.ctx(), topic, []store.Position{{Partition: 1, Next: 5}})
		if err != nil && !errors.Is(err, errs.UnknownTopic) {
			e.Fatalf("follow: %v", err)
		}
		return err == nil
	})
	e.Cleanup(again.Close)
	r = &reader{e: e, t: again, next: map[int32]int64{1: 5}, max: 10}
	r.read(1)
	r.are([]string{"first"})
	if want := []store.Gap{{Partition: 1, From: 5, To: 0}}; !slices.Equal(r.gaps, want) {
		e.Errorf("gaps %+v, want %+v", r.gaps, want)
	}
}

func followUnknown(e *env) {
	f := e.s.(store.Follower)
	_, err := f.Follow(e.ctx(), name("nowhere"), nil)
	e.kind("no topic", err, errs.UnknownTopic)
	topic := e.topic(3)
	for _, p := range []int32{-1, 3} {
		_, err = f.Follow(e.ctx(), topic, []store.Position{{Partition: p}})
		e.kind(fmt.Sprint("partition ", p), err, errs.InvalidParam)
	}
	ctx, cancel := context.WithCancel(e.ctx())
	cancel()
	if _, err := f.Follow(ctx, topic, nil); err == nil {
		e.Error("a call that nobody waits for is answered")
	}
}

func followTouchesNoGroup(e *env) {
	topic := e.topic(3)
	values := e.fill(topic, 2, 0, 1, 2)
	r, another := e.follow(e.s, topic), e.follow(e.s, topic)
	r.read(len(values))
	another.read(len(values))
	list, err := e.s.Groups(e.ctx(), topic)
	e.must(err)
	if len(list) > 0 {
		e.Errorf("there are the groups %q", list)
	}
}

// followCloseEndsPoll: one tail's end is no other's.
func followCloseEndsPoll(e *env) {
	topic := e.topic(3)
	r, another := e.follow(e.s, topic), e.follow(e.s, topic)
	var err error
	wait := e.background(func() { _, err = r.t.Poll(e.ctx(), 10) })
	r.t.Close()
	wait()
	if !errors.Is(err, store.ErrClosed) {
		e.Errorf("the waiting Poll: %v", err)
	}
	r.t.Close()
	if _, err := r.t.Poll(e.ctx(), 10); !errors.Is(err, store.ErrClosed) {
		e.Errorf("Poll afterwards: %v", err)
	}
	values := e.fill(topic, 1, 0, 1, 2)
	another.read(len(values))
	another.are(values)
}

func followStoreCloseEndsPoll(e *env) {
	topic := e.topic(3)
	r := e.follow(e.s, topic)
	var err error
	wait := e.background(func() {
		for err == nil { // a broker's answers may end first
			_, err = r.t.Poll(e.ctx(), 10)
		}
	})
	e.must(e.s.Close(e.ctx()))
	wait()
	if !errors.Is(err, store.ErrClosed) {
		e.Errorf("the waiting Poll: %v", err)
	}
	r.t.Close()
	if _, err := e.s.(store.Follower).Follow(e.ctx(), topic, nil); !errors.Is(err, store.ErrClosed) {
		e.Errorf("follow afterwards: %v", err)
	}
}
