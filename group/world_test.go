package group

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/kateway/kateway/store"
	"github.com/kateway/kateway/store/mem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var key = Key{"a.t.v1", "a.g.a.t.v1"}

// world is a store with one topic, and hubs on it.
type world struct {
	t     *testing.T
	store *mem.Store
}

func inWorld(t *testing.T, partitions int32, do func(t *testing.T, w world)) {
	synctest.Test(t, func(t *testing.T) {
		w := world{t, mem.New()}
		if err := w.store.CreateTopic(t.Context(), store.Topic{Name: key.Topic, Partitions: partitions}); err != nil {
			t.Fatal(err)
		}
		do(t, w)
		if err := w.store.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

func (w world) hub(limits Limits) *Hub { return NewHub(w.config(limits, Policy{})) }

// config is of a hub whose groups all have the policy.
func (w world) config(limits Limits, p Policy) Config {
	return Config{Store: w.store, Publisher: w.store, Admin: w.store, Policy: func(Key) Policy { return p },
		Secret: func() []byte { return []byte("0123456789abcdef") }, Limits: limits, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()}
}

func (w world) close(h *Hub) {
	w.t.Helper()
	if err := h.Close(context.Background()); err != nil {
		w.t.Error(err)
	}
}

// publish stores the values from..to-1 on a partition.
func (w world) publish(p int32, from, to int) {
	w.t.Helper()
	var msgs []*store.Message
	for i := from; i < to; i++ {
		msgs = append(msgs, &store.Message{Partition: p, Value: fmt.Appendf(nil, "%d", i)})
	}
	if err := w.store.Publish(w.t.Context(), key.Topic, store.AckAll, msgs...); err != nil {
		w.t.Fatal(err)
	}
}

func (w world) open(h *Hub, a *Ask) Session {
	w.t.Helper()
	a.Key = key
	s, err := h.Open(w.t.Context(), *a)
	if err != nil {
		w.t.Fatal(err)
	}
	return &roaming{hub: h, ask: *a, now: s}
}

// get is what Next brings within the time.
func (w world) get(s Session, n int, within time.Duration) ([]Delivery, error) {
	ctx, cancel := context.WithTimeout(w.t.Context(), within)
	defer cancel()
	b, err := s.Next(ctx, n)
	return slices.Clone(b.Deliveries), err
}

func (w world) want(s Session, n int, offsets ...int64) []Delivery {
	w.t.Helper()
	var got []Delivery
	for len(got) < len(offsets) {
		ds, err := w.get(s, n, time.Second)
		if err != nil {
			w.t.Fatalf("after %d of %d messages: %v", len(got), len(offsets), err)
		}
		got = append(got, ds...)
	}
	expectOffsets(w.t, "delivered", got, offsets...)
	return got
}

func (w world) nothing(s Session, within time.Duration) {
	w.t.Helper()
	if ds, err := w.get(s, 10, within); !errors.Is(err, context.DeadlineExceeded) {
		w.t.Fatalf("got %v, %v; want nothing in %v", offsets(ds), err, within)
	}
}

func verbs(op Op, ds ...Delivery) (out []Verb) {
	for _, d := range ds {
		out = append(out, Verb{Ref: d.Ref, Op: op})
	}
	return out
}

func (w world) settled(out []error, want error) {
	w.t.Helper()
	for i, err := range out {
		if !errors.Is(err, want) {
			w.t.Errorf("verb %d: %v, want %v", i, err, want)
		}
	}
}

func (w world) committed() (out []int64) {
	lag, err := w.store.Lag(context.Background(), key.Topic, key.Group)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, l := range lag {
		out = append(out, l.Committed)
	}
	return out
}

// pass lets the bubble's time go on.
func (w world) pass(d time.Duration) { <-time.After(d) }
