package broadcast

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

func TestStarts(t *testing.T) {
	w := newWorld(t, 2, Limits{})
	w.fill(5, 0, 1)
	oldest := w.watch(w.hub, Ask{}, from(0, 0))
	newest := w.watch(w.hub, Ask{Start: store.Start{Newest: true}}, from(5, 5))
	since := w.watch(w.hub, Ask{Start: store.Start{Since: time.Now().Add(time.Hour)}}, from(5, 5))
	one := w.watch(w.hub, Ask{From: At(1, 2)}, map[int32]int64{1: 2})
	oldest.read(10, 3)
	one.read(3, 2)
	newest.quiet()
	w.fill(1, 0, 1)
	oldest.read(12, 3)
	newest.read(2, 3)
	since.read(2, 3)
	one.read(4, 3)
	one.quiet()
	if len(oldest.gaps)+len(newest.gaps)+len(since.gaps)+len(one.gaps) > 0 {
		t.Error("gaps were told")
	}
}

// Every reader sees all that is published from where it began, whatever it is called, wherever the cursor that it came with
// was made, also while its topic is busy: neither hole nor repetition, at no seam.
func TestSeams(t *testing.T) {
	for _, limits := range []Limits{{}, {Messages: 8, Step: 100}, {Bytes: 1}} {
		t.Run(fmt.Sprintf("%+v", limits), func(t *testing.T) { seams(t, limits) })
	}
}

func seams(t *testing.T, limits Limits) {
	w := newWorld(t, 3, limits)
	other := w.open(w.store, Limits{})
	const n = 3000
	var published atomic.Int32
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range n {
			if err := w.store.Publish(t.Context(), topic, store.AckAll, &store.Message{Partition: int32(i % 3), Value: fmt.Append(nil, i)}); err != nil {
				t.Error(err)
				return
			}
			published.Add(1)
		}
	})
	var readers sync.WaitGroup
	for i := range 12 {
		readers.Go(func() {
			hubs := [...]*Hub{w.hub, other}
			v := w.watch(hubs[i%2], Ask{}, from(0, 0, 0))
			for hop := 0; v.got < n; hop++ {
				until := min(n, v.got+1+rand.IntN(700))
				for v.got < until {
					if err := v.step(t.Context(), min(until-v.got, 1+i*20)); err != nil {
						t.Error(err)
						return
					}
				}
				before := v
				before.r.Close()
				v = w.watch(hubs[(i+hop)%2], Ask{From: before.cursor()}, before.next)
				v.got = before.got
				if len(before.gaps) > 0 {
					t.Errorf("gaps %+v", before.gaps)
				}
			}
			v.r.Close()
		})
	}
	wg.Wait()
	readers.Wait()
}

// Forms are made once: all readers have the same bytes.
func TestEncodedOnce(t *testing.T) {
	w := newWorld(t, 1, Limits{})
	a, err := w.hub.Open(t.Context(), Ask{Topic: topic})
	w.must(err)
	defer a.Close()
	b, err := w.hub.Open(t.Context(), Ask{Topic: topic})
	w.must(err)
	defer b.Close()
	w.fill(1, 0)
	first, err := a.Next(t.Context(), 1)
	w.must(err)
	second, err := b.Next(t.Context(), 1)
	w.must(err)
	x, y := &first.Items[0], &second.Items[0]
	if &x.Object[0] != &y.Object[0] || &x.Cursor[0] != &y.Cursor[0] || x.Message != y.Message {
		t.Error("the readers have copies of their own")
	}
	want := string(x.Object[:len(x.Object)-1]) + `,"cursor":"` + string(x.Cursor) + `"}`
	if got := string(x.AppendObject(nil)); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// A reader that is slower than the topic reads the store, and holds nothing meanwhile.
func TestSlowReader(t *testing.T) {
	w := newWorld(t, 2, Limits{Messages: 4})
	v := w.watch(w.hub, Ask{}, from(0, 0))
	for i := range 20 {
		w.fill(10, 0, 1)
		v.read(20*i+1+i%7, 1)
	}
	v.read(400, 50)
	if v.r.hub.metrics.steps == nil || len(v.gaps) > 0 {
		t.Errorf("gaps %+v", v.gaps)
	}
	v.quiet()
	if v.r.batch != nil {
		t.Error("a reader that waits holds a batch")
	}
}

// However many readers are behind with clients that take nothing, what they hold of the store is bounded, each gets on, and
// nothing of it is left when they go.
func TestManySlowReaders(t *testing.T) {
	const value, held, readers = 1000, 100_000, 200
	w := newWorld(t, 1, Limits{Messages: 1, Step: 50_000, Held: held})
	for range 300 {
		w.must(w.store.Publish(t.Context(), topic, store.AckAll, &store.Message{Value: bytes.Repeat([]byte{'x'}, value)}))
	}
	all := make([]*watcher, readers)
	for i := range all {
		all[i] = w.watch(w.hub, Ask{}, from(0))
		w.must(all[i].step(t.Context(), 1000))
	}
	got := 0
	for _, v := range all {
		got += v.got
	}
	if first := all[0].got; first < 2 {
		t.Errorf("the first of them gets %d messages at once", first)
	}
	// Each has a step of 4 KiB at the least, the message that passes it, and the text of both.
	if n, most := w.hub.held.Load(), int64(held+readers*2*(4<<10+value+200)); n < int64(got)*value || n > most {
		t.Errorf("%d messages in hand are counted as %d bytes, at most %d were allowed", got, n, most)
	}
	all[readers-1].read(300, 1000)
	for _, v := range all {
		v.r.Close()
	}
	if n := w.hub.held.Load(); n != 0 {
		t.Errorf("%d bytes are held by nobody", n)
	}
}

func TestGapOfAReaderThatIsBehind(t *testing.T) {
	w := newWorld(t, 2, Limits{})
	w.fill(10, 0, 1)
	v := w.watch(w.hub, Ask{}, from(0, 0))
	w.must(w.store.Trim(topic, 1, 6))
	v.read(14, 3)
	if want := []store.Gap{{Partition: 1, From: 0, To: 6}}; !slices.Equal(v.gaps, want) {
		t.Errorf("gaps %+v, want %+v", v.gaps, want)
	}
	w.must(w.store.Trim(topic, 0, 10)) // all of it
	late := w.watch(w.hub, Ask{From: Cursor{at: []store.Position{{Partition: 0, Next: 3}, {Partition: 1, Next: 10}}}}, from(3, 10))
	w.fill(1, 0)
	late.read(1, 5)
	if want := []store.Gap{{Partition: 0, From: 3, To: 10}}; !slices.Equal(late.gaps, want) {
		t.Errorf("gaps %+v, want %+v", late.gaps, want)
	}
}

// A partition that the cursor lacks is read from its oldest message, which is no gap.
func TestNewPartitions(t *testing.T) {
	w := newWorld(t, 1, Limits{})
	v := w.watch(w.hub, Ask{}, from(0))
	w.fill(3, 0)
	v.read(3, 10)
	before := v.cursor()
	w.must(w.store.AlterTopic(t.Context(), store.Topic{Name: topic, Partitions: 3}))
	w.fill(4, 0, 1, 2)
	v.read(15, 10)
	w.must(w.store.Trim(topic, 2, 2))
	late := w.watch(w.hub, Ask{From: before}, from(3, 0, 2))
	late.read(10, 10)
	anew := w.watch(w.open(w.store, Limits{}), Ask{From: before}, from(3, 0, 2))
	anew.read(10, 10)
	if len(v.gaps)+len(late.gaps)+len(anew.gaps) > 0 {
		t.Errorf("gaps %+v, %+v, %+v", v.gaps, late.gaps, anew.gaps)
	}
	if c := v.cursor(); len(c.at) != 3 {
		t.Errorf("the cursor is of %+v", c.at)
	}
}

// A cursor that is ahead of what this gateway has seen of the topic is waited for, not taken for another topic's.
func TestCursorFromAGatewayThatIsAhead(t *testing.T) {
	w := newWorld(t, 2, Limits{})
	stuck := &lagging{Store: w.store}
	stuck.hold.Store(true)
	slow := w.open(stuck, Limits{})
	holder := w.watch(slow, Ask{}, from(0, 0))
	w.fill(5, 0, 1)
	fast := w.watch(w.hub, Ask{}, from(0, 0))
	fast.read(7, 1)
	v := w.watch(slow, Ask{From: fast.cursor()}, fast.next)
	stuck.hold.Store(false)
	v.read(3, 10)
	w.fill(1, 0, 1)
	v.read(5, 10)
	holder.read(12, 10)
	if len(v.gaps) > 0 || len(v.r.ahead) > 0 {
		t.Errorf("gaps %+v, ahead in %v", v.gaps, v.r.ahead)
	}
}

// lagging is a store whose tails bring nothing while they are held.
type lagging struct {
	Store
	hold atomic.Bool
}

func (l *lagging) Follow(ctx context.Context, name string, at []store.Position) (store.Tail, error) {
	t, err := l.Store.Follow(ctx, name, at)
	return &laggingTail{t, l}, err
}

type laggingTail struct {
	store.Tail
	l *lagging
}

func (t *laggingTail) Poll(ctx context.Context, limit int) (store.Batch, error) {
	if t.l.hold.Load() {
		return store.Batch{}, errs.Unavailable
	}
	return t.Tail.Poll(ctx, limit)
}

func TestTopicMadeAnew(t *testing.T) {
	w := newWorld(t, 3, Limits{})
	w.fill(10, 0, 1, 2)
	v := w.watch(w.hub, Ask{}, from(0, 0, 0))
	v.read(30, 100)
	before := v.cursor()
	w.must(w.store.DeleteTopic(t.Context(), topic))
	wantKind(t, "a reader of a deleted topic", v.ends(), errs.UnknownTopic)
	_, err := w.hub.Open(t.Context(), Ask{Topic: topic})
	wantKind(t, "a deleted topic", err, errs.UnknownTopic)
	w.create(2)
	w.fill(4, 0, 1)
	late := w.watch(w.hub, Ask{From: before}, from(10, 10, 10))
	late.read(8, 100)
	want := []store.Gap{{Partition: 0, From: 10}, {Partition: 1, From: 10}, {Partition: 2, From: 10}}
	if !slices.Equal(late.gaps, want) {
		t.Errorf("gaps %+v, want %+v", late.gaps, want)
	}
	if c := late.cursor(); len(c.at) != 2 {
		t.Errorf("the cursor still is of %+v", c.at)
	}
}

func TestWhatIsNotThere(t *testing.T) {
	w := newWorld(t, 2, Limits{Topics: 2})
	_, err := w.hub.Open(t.Context(), Ask{Topic: "none"})
	wantKind(t, "no topic", err, errs.UnknownTopic)
	_, err = w.hub.Open(t.Context(), Ask{Topic: topic, From: At(2, 0)})
	wantKind(t, "no partition", err, errs.InvalidParam)
	_, err = w.hub.Open(t.Context(), Ask{Topic: topic, From: At(1<<31-1, 0)})
	wantKind(t, "no partition at all", err, errs.InvalidParam)
	v := w.watch(w.hub, Ask{From: At(1, 100)}, map[int32]int64{1: 100})
	w.fill(1, 1)
	v.read(1, 10)
	if want := []store.Gap{{Partition: 1, From: 100}}; !slices.Equal(v.gaps, want) {
		t.Errorf("gaps %+v, want %+v", v.gaps, want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.hub.Open(ctx, Ask{Topic: topic}); err == nil {
		t.Error("nobody waited, and it is open")
	}
}

func TestTooManyTopics(t *testing.T) {
	w := newWorld(t, 1, Limits{Topics: 2})
	for _, name := range []string{"b", "c"} {
		w.must(w.store.CreateTopic(t.Context(), store.Topic{Name: name}))
	}
	v := w.watch(w.hub, Ask{}, from(0))
	b, err := w.hub.Open(t.Context(), Ask{Topic: "b"})
	w.must(err)
	_, err = w.hub.Open(t.Context(), Ask{Topic: "c"})
	wantKind(t, "a third", err, errs.Overloaded)
	b.Close()
	b.Close()
	c, err := w.hub.Open(t.Context(), Ask{Topic: "c"}) // in the place of b, which nobody reads
	w.must(err)
	c.Close()
	w.fill(1, 0)
	v.read(1, 1)
}

// Only what is wanted comes, and the rest is passed over, by the cursor too.
func TestMatch(t *testing.T) {
	w := newWorld(t, 1, Limits{Messages: 8})
	w.fill(100, 0)
	odd := func(m *store.Message) bool { return m.Offset%2 == 1 }
	v := w.watch(w.hub, Ask{Match: odd}, from(0))
	v.lazy = true
	v.read(50, 7)
	w.fill(5, 0)
	v.read(52, 7)
	v.quiet()
	if c := string(v.r.AppendCursor(nil)); c != textOf(ofAll, store.Position{Next: 105}) {
		t.Errorf("the cursor is %s", c)
	}
	none := w.watch(w.hub, Ask{Match: func(*store.Message) bool { return false }}, from(0))
	none.quiet()
}

// A thousand that wait are woken by one message, and each gets it.
func TestManyWait(t *testing.T) {
	w := newWorld(t, 1, Limits{})
	var wg sync.WaitGroup
	for range 1000 {
		r, err := w.hub.Open(t.Context(), Ask{Topic: topic, Start: store.Start{Newest: true}})
		w.must(err)
		wg.Go(func() {
			defer r.Close()
			for want := range int64(3) {
				b, err := r.Next(t.Context(), 1)
				if err != nil || len(b.Items) != 1 || b.Items[0].Offset != want {
					t.Errorf("%+v, %v", b, err)
					return
				}
			}
		})
	}
	w.fill(3, 0)
	wg.Wait()
}

// Nothing is lost when the wait ends in the moment in which a message comes.
func TestCancelLosesNothing(t *testing.T) {
	w := newWorld(t, 1, Limits{})
	v := w.watch(w.hub, Ask{}, from(0))
	const n = 500
	var end atomic.Pointer[context.CancelFunc]
	var wg sync.WaitGroup
	wg.Go(func() {
		for range n {
			w.fill(1, 0)
			if cancel := end.Load(); cancel != nil {
				(*cancel)()
			}
		}
	})
	for v.got < n {
		ctx, cancel := context.WithCancel(t.Context())
		end.Store(&cancel)
		timer := time.AfterFunc(10*time.Millisecond, cancel)
		err := v.step(ctx, 3)
		timer.Stop()
		cancel()
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	wg.Wait()
}

// Trouble of the store is waited out.
func TestStoreFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, Limits{})
		v := w.watch(w.hub, Ask{}, from(0))
		w.store.FailPoll(func(_, group string) error {
			if group != "" {
				t.Errorf("a group is read: %s", group)
			}
			return errs.Unavailable
		})
		w.fill(3, 0)
		<-time.After(time.Minute)
		w.store.FailPoll(nil)
		v.read(3, 1)
		v.r.Close()
		w.close(w.hub)
	})
}

// The cluster of the topic gets other brokers: its tails end, and a new one goes on.
func TestStoreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2, Limits{})
		d := &dropping{Store: w.store}
		h := w.open(d, Limits{})
		v := w.watch(h, Ask{}, from(0, 0))
		w.fill(3, 0, 1)
		v.read(6, 10)
		d.down.Store(3)
		d.drop()
		w.fill(3, 0, 1)
		v.read(12, 10)
		if len(v.gaps) > 0 || d.down.Load() != 0 {
			t.Errorf("gaps %+v", v.gaps)
		}
		d.drop()
		w.must(w.store.DeleteTopic(t.Context(), topic))
		wantKind(t, "a topic that went with its store", v.ends(), errs.UnknownTopic)
		v.r.Close()
		w.close(h)
		w.close(w.hub)
	})
}

// dropping is a store whose tails can be ended from outside.
type dropping struct {
	Store
	down  atomic.Int32 // so many calls of Follow fail
	mu    sync.Mutex
	tails []store.Tail
}

func (d *dropping) Follow(ctx context.Context, name string, at []store.Position) (store.Tail, error) {
	if d.down.Load() > 0 {
		d.down.Add(-1)
		return nil, errs.Unavailable
	}
	t, err := d.Store.Follow(ctx, name, at)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tails = append(d.tails, t)
	return t, err
}

func (d *dropping) drop() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, t := range d.tails {
		t.Close()
	}
	d.tails = nil
}

// A topic is followed while it is read and 10 s longer; a message is kept for 30 s.
func TestNothingIsKeptForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, Limits{})
		v := w.watch(w.hub, Ask{}, from(0))
		w.fill(100, 0)
		v.read(100, 200)
		tap := v.r.tap
		if tap.ring.empty() || tap.ring.size() < 100*slotBytes {
			t.Fatalf("the ring keeps %d bytes", tap.ring.size())
		}
		<-time.After(maxAge + maxAge/3 + time.Second)
		if !tap.ring.empty() || tap.ring.size() != 0 || len(tap.ring.slots) > 16 {
			t.Errorf("after a while the ring still keeps %d bytes, and has %d slots", tap.ring.size(), len(tap.ring.slots))
		}
		topics := func() int {
			synctest.Wait()
			w.hub.mu.Lock()
			defer w.hub.mu.Unlock()
			return len(w.hub.taps)
		}
		v.r.Close()
		<-time.After(linger - time.Second)
		again := w.watch(w.hub, Ask{From: v.cursor()}, v.next)
		<-time.After(2 * linger)
		w.fill(1, 0)
		again.read(1, 1)
		if topics() != 1 || again.r.tap != tap {
			t.Error("it was closed under a reader")
		}
		again.r.Close()
		<-time.After(linger + time.Second)
		if topics() != 0 || tap.ctx.Err() == nil {
			t.Error("nobody reads it, and it is open")
		}
		w.close(w.hub)
	})
}

func TestMemoryIsBounded(t *testing.T) {
	w := newWorld(t, 1, Limits{Bytes: 50_000, Total: 60_000, Messages: 1000})
	v := w.watch(w.hub, Ask{}, from(0))
	w.fill(500, 0)
	v.read(500, 100)
	ring := v.r.tap.ring
	if n := ring.size(); n > 50_000 || n < 40_000 {
		t.Errorf("the ring has %d bytes", n)
	}
	w.must(w.store.CreateTopic(t.Context(), store.Topic{Name: "b"}))
	b, err := w.hub.Open(t.Context(), Ask{Topic: "b"})
	w.must(err)
	defer b.Close()
	w.fill(1, 0)
	v.read(501, 1)
	if n := ring.size(); n > 30_000 || n < 20_000 {
		t.Errorf("of two rings one has %d bytes", n)
	}
	if n := w.hub.bytes(); n != ring.size() {
		t.Errorf("all have %d", n)
	}
	w.must(w.store.Publish(t.Context(), topic, store.AckAll, &store.Message{Value: make([]byte, 100_000)})) // goes through all the same
	v.read(502, 1)
}

func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, Limits{})
		began := time.Now()
		var wg sync.WaitGroup
		var mu sync.Mutex
		var ended []time.Duration
		for range 10 {
			r, err := w.hub.Open(t.Context(), Ask{Topic: topic})
			w.must(err)
			wg.Go(func() {
				defer r.Close()
				_, err := r.Next(t.Context(), 1)
				wantKind(t, "a reader", err, errs.Draining)
				_, err = r.Next(t.Context(), 1)
				wantKind(t, "again", err, errs.Draining)
				mu.Lock()
				defer mu.Unlock()
				ended = append(ended, time.Since(began))
			})
		}
		synctest.Wait()
		w.hub.Drain(10 * time.Second)
		w.hub.Drain(10 * time.Second)
		_, err := w.hub.Open(t.Context(), Ask{Topic: topic})
		wantKind(t, "a new reader", err, errs.Draining)
		wg.Wait()
		for i, d := range ended {
			if d != time.Duration(i)*time.Second {
				t.Errorf("reader %d ended after %v", i, d)
			}
		}
		w.close(w.hub)
	})
}

func TestCloseEndsAll(t *testing.T) {
	w := newWorld(t, 1, Limits{})
	v := w.watch(w.hub, Ask{}, from(0))
	idle := w.watch(w.hub, Ask{}, from(0))
	idle.r.Close()
	wait := make(chan error)
	go func() { wait <- v.ends() }()
	w.close(w.hub)
	wantKind(t, "a reader that waits", <-wait, errs.Draining)
	_, err := idle.r.Next(t.Context(), 1)
	wantKind(t, "one that was closed", err, errs.Draining)
	_, err = w.hub.Open(t.Context(), Ask{Topic: topic})
	wantKind(t, "a new one", err, errs.Draining)
}

// Holes between offsets, which transactions and compaction leave, are no gaps, wherever a reader meets them.
func TestHoles(t *testing.T) {
	w := newWorld(t, 2, Limits{Messages: 8})
	h := w.open(&holey{w.store}, Limits{Messages: 8})
	live := w.watch(h, Ask{}, from(0, 0))
	live.lazy = true
	total := 0
	for range 20 {
		w.fill(10, 0, 1)
		total += 20
		live.read(total/5*2, 3)
		late := w.watch(h, Ask{}, from(0, 0))
		late.lazy = true
		late.read(total/5*2, 7)
		late.quiet()
		resumed := w.watch(h, Ask{From: late.cursor()}, late.next)
		resumed.quiet()
		if len(live.gaps)+len(late.gaps) > 0 {
			t.Fatalf("gaps %+v, %+v", live.gaps, late.gaps)
		}
		late.r.Close()
		resumed.r.Close()
	}
	w.must(w.store.Trim(topic, 0, 103))
	late := w.watch(h, Ask{From: Cursor{at: []store.Position{{Partition: 0, Next: 41}, {Partition: 1, Next: 200}}}}, from(41, 200))
	late.lazy = true
	late.read(40-1, 7) // 103 and 104 are there no more or a hole; 101 is gone
	if want := []store.Gap{{Partition: 0, From: 41, To: 103}}; !slices.Equal(late.gaps, want) {
		t.Errorf("gaps %+v, want %+v", late.gaps, want)
	}
}

// holey shows two of five messages.
type holey struct{ Store }

func shown(m *store.Message) bool { return m.Offset%5 == 1 || m.Offset%5 == 4 }

func (h *holey) Follow(ctx context.Context, name string, at []store.Position) (store.Tail, error) {
	t, err := h.Store.Follow(ctx, name, at)
	return &holeyTail{t}, err
}

func (h *holey) Browse(ctx context.Context, name string, p int32, offset int64) iter.Seq2[*store.Message, error] {
	return func(yield func(*store.Message, error) bool) {
		for m, err := range h.Store.Browse(ctx, name, p, offset) {
			if (err != nil || shown(m)) && !yield(m, err) {
				return
			}
		}
	}
}

type holeyTail struct{ store.Tail }

func (t *holeyTail) Poll(ctx context.Context, limit int) (store.Batch, error) {
	for {
		b, err := t.Tail.Poll(ctx, limit)
		b.Messages = slices.DeleteFunc(b.Messages, func(m *store.Message) bool { return !shown(m) })
		if err != nil || len(b.Gained)+len(b.Gaps)+len(b.Messages) > 0 {
			return b, err
		}
	}
}
