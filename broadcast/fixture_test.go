package broadcast

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
	"github.com/kateway/kateway/store/mem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a hub on a store in memory.
type world struct {
	t     testing.TB
	store *mem.Store
	hub   *Hub
}

func newWorld(tb testing.TB, partitions int32, limits Limits) *world {
	tb.Helper()
	s := mem.New()
	w := &world{t: tb, store: s}
	w.create(partitions)
	w.hub = w.open(s, limits)
	tb.Cleanup(func() { _ = s.Close(context.Background()) })
	return w
}

// open makes a hub, which is closed at the end of the test.
func (w *world) open(s Store, limits Limits) *Hub {
	w.t.Helper()
	log := slog.New(slog.NewTextHandler(w.t.Output(), &slog.HandlerOptions{Level: slog.LevelError}))
	h := NewHub(Config{Store: s, Limits: limits, Log: log, Metrics: prometheus.NewRegistry()})
	w.t.Cleanup(func() { w.close(h) })
	return h
}

func (w *world) close(h *Hub) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := h.Close(ctx); err != nil {
		w.t.Error(err)
	}
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) create(partitions int32) {
	w.t.Helper()
	w.must(w.store.CreateTopic(w.t.Context(), store.Topic{Name: topic, Partitions: partitions}))
}

// fill publishes n messages to each of the partitions.
func (w *world) fill(n int, partitions ...int32) {
	w.t.Helper()
	for i := range n {
		for _, p := range partitions {
			w.must(w.store.Publish(w.t.Context(), topic, store.AckAll, &store.Message{Partition: p, Value: fmt.Append(nil, "value ", i)}))
		}
	}
}

// watcher is a reader whose batches are checked: no hole without a gap, nothing twice, and cursors that tell where it is.
type watcher struct {
	t    testing.TB
	r    *Reader
	next map[int32]int64 // the offset that must come next, by partition
	lazy bool            // offsets may have holes
	got  int
	gaps []store.Gap
	last string // cursor
}

// from is what a watcher expects that starts at these offsets, by partition.
func from(next ...int64) map[int32]int64 {
	m := map[int32]int64{}
	for p, n := range next {
		m[int32(p)] = n
	}
	return m
}

func (w *world) watch(h *Hub, ask Ask, next map[int32]int64) *watcher {
	w.t.Helper()
	ask.Topic = topic
	r, err := h.Open(w.t.Context(), ask)
	if err != nil {
		w.t.Fatalf("open: %v", err)
	}
	w.t.Cleanup(r.Close)
	return &watcher{t: w.t, r: r, next: next, last: string(r.AppendCursor(nil))}
}

// step does one Next.
func (v *watcher) step(ctx context.Context, most int) error {
	v.t.Helper()
	b, err := v.r.Next(ctx, most)
	if err != nil {
		if len(b.Gaps)+len(b.Items) > 0 {
			v.t.Fatalf("Next answered an error, %v, and a batch, %+v", err, b)
		}
		return err
	}
	if len(b.Gaps)+len(b.Items) == 0 {
		v.t.Fatal("Next answered nothing")
	}
	for _, g := range b.Gaps {
		if g.From != v.next[g.Partition] {
			v.t.Fatalf("gap %+v, but expected %d", g, v.next[g.Partition])
		}
		v.next[g.Partition] = g.To
		v.gaps = append(v.gaps, g)
	}
	if len(b.Items) > most {
		v.t.Fatalf("%d items, at most %d were wanted", len(b.Items), most)
	}
	for i := range b.Items {
		v.take(&b.Items[i])
	}
	return nil
}

func (v *watcher) take(it *Item) {
	v.t.Helper()
	if want := v.next[it.Partition]; it.Offset != want && (!v.lazy || it.Offset < want) {
		v.t.Fatalf("offset %d of partition %d, expected %d", it.Offset, it.Partition, want)
	}
	v.next[it.Partition] = it.Offset + 1
	v.got++
	v.last = string(it.Cursor)
	c, err := ParseCursor(v.last, topic)
	if err != nil {
		v.t.Fatal(err)
	}
	for _, p := range c.at {
		if n, known := v.next[p.Partition]; known && n != p.Next && !v.lazy {
			v.t.Fatalf("after offset %d of partition %d the cursor is at %+v, the reader at %v", it.Offset, it.Partition, c.at, v.next)
		}
	}
}

// read reads until n messages have come in all.
func (v *watcher) read(n, most int) {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.t.Context(), 30*time.Second)
	defer cancel()
	for v.got < n {
		if err := v.step(ctx, most); err != nil {
			v.t.Fatalf("after %d of %d messages: %v", v.got, n, err)
		}
	}
	if v.got > n {
		v.t.Fatalf("%d messages, expected %d", v.got, n)
	}
}

// quiet fails the test when there is something at hand.
func (v *watcher) quiet() {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.t.Context(), 20*time.Millisecond)
	defer cancel()
	n := v.got
	if err := v.step(ctx, 10); !errors.Is(err, context.DeadlineExceeded) {
		v.t.Fatalf("after %d messages there is more: %d, %v", n, v.got-n, err)
	}
}

// ends reads until an error other than a context's.
func (v *watcher) ends() error {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.t.Context(), 30*time.Second)
	defer cancel()
	for {
		err := v.step(ctx, 10)
		if ctx.Err() != nil {
			v.t.Fatal("it does not end")
		}
		if err != nil {
			return err
		}
	}
}

func (v *watcher) cursor() Cursor {
	v.t.Helper()
	c, err := ParseCursor(v.last, topic)
	if err != nil {
		v.t.Fatal(err)
	}
	return c
}

func wantKind(tb testing.TB, what string, err error, want errs.Kind) {
	tb.Helper()
	if !errors.Is(err, want) {
		tb.Errorf("%s: %v, want kind %s", what, err, want.Code())
	}
}
