package breaker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// faulty is a store whose publishes come out as it is told, by topic.
type faulty struct {
	mu    sync.Mutex
	err   map[string]error
	asked map[string]int
	block chan struct{} // if not nil, publishes wait for it
}

func (f *faulty) Publish(_ context.Context, topic string, _ store.Ack, _ ...*store.Message) error {
	f.mu.Lock()
	f.asked[topic]++
	err, block := f.err[topic], f.block
	f.mu.Unlock()
	if block != nil {
		<-block
	}
	return err
}

func (f *faulty) set(topic string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err[topic] = err
}

func (f *faulty) count(topic string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked[topic]
}

func newFaulty(t *testing.T) (*faulty, *Breaker, *prometheus.Registry) {
	t.Helper()
	f := &faulty{err: map[string]error{}, asked: map[string]int{}}
	reg := prometheus.NewRegistry()
	return f, New(Config{Store: f, Log: slog.New(slog.DiscardHandler), Metrics: reg}), reg
}

func publish(t *testing.T, b *Breaker, topic string, times int) (last error) {
	t.Helper()
	for range times {
		last = b.Publish(t.Context(), topic, store.AckAll, &store.Message{})
	}
	return last
}

// A topic is cut off after 5 failures in a row, others are not; after 2 s one publish is let through, and decides.
func TestTopic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b, _ := newFaulty(t)
		f.set("a", fmt.Errorf("no leader: %w", errs.Unavailable))
		if err := publish(t, b, "a", 5); !errors.Is(err, errs.Unavailable) {
			t.Fatalf("the fifth: %v", err)
		}
		if err := publish(t, b, "a", 100); errs.Of(err) != errs.CircuitOpen || f.count("a") != 5 {
			t.Fatalf("%v, asked %d times", err, f.count("a"))
		}
		if err := publish(t, b, "b", 20); err != nil {
			t.Errorf("another topic: %v", err)
		}
		if open := b.Open(); len(open) != 1 || open[0] != (State{Topic: "a"}) {
			t.Errorf("%+v", open)
		}

		<-time.After(openTime + time.Millisecond)
		if open := b.Open(); len(open) != 1 || !open[0].Probing {
			t.Errorf("%+v", open)
		}
		if err := publish(t, b, "a", 100); errs.Of(err) != errs.CircuitOpen || f.count("a") != 6 {
			t.Fatalf("a probe that fails: %v, asked %d times", err, f.count("a"))
		}

		f.set("a", nil)
		<-time.After(openTime + time.Millisecond)
		if err := publish(t, b, "a", 100); err != nil || f.count("a") != 106 {
			t.Errorf("it works again: %v, asked %d times", err, f.count("a"))
		}
		if n := b.troubled.Load(); len(b.Open()) != 0 || n != 0 {
			t.Errorf("%+v, %d circuits are left", b.Open(), n)
		}
	})
}

// While a probe is under way nobody else is let through.
func TestOneProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b, _ := newFaulty(t)
		f.set("a", errs.Uncertain)
		_ = publish(t, b, "a", 5)
		<-time.After(openTime + time.Millisecond)
		f.set("a", nil)
		f.mu.Lock()
		f.block = make(chan struct{})
		f.mu.Unlock()
		probe := make(chan error)
		go func() { probe <- b.Publish(context.Background(), "a", store.AckAll) }()
		synctest.Wait()
		if err := publish(t, b, "a", 10); errs.Of(err) != errs.CircuitOpen || f.count("a") != 6 {
			t.Errorf("%v, asked %d times", err, f.count("a"))
		}
		close(f.block)
		if err := <-probe; err != nil {
			t.Error(err)
		}
		if err := publish(t, b, "a", 1); err != nil {
			t.Error(err)
		}
	})
}

// A cluster is cut off when several topics fail and none works; the default one and others are each their own.
func TestCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b, reg := newFaulty(t)
		for i := range 12 {
			f.set(fmt.Sprintf("east:%d", i), errs.Unavailable)
		}
		for i := range 10 {
			_ = publish(t, b, fmt.Sprintf("east:%d", i), 1)
		}
		if err := publish(t, b, "east:11", 1); errs.Of(err) != errs.CircuitOpen || f.count("east:11") != 0 {
			t.Errorf("a topic that was not tried: %v", err)
		}
		if err := errors.Join(publish(t, b, "1", 5), publish(t, b, "west:1", 5)); err != nil {
			t.Errorf("other clusters: %v", err)
		}
		if open := b.Open(); len(open) != 1 || open[0] != (State{Cluster: "east"}) {
			t.Errorf("%+v", open)
		}
		if err := testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP kateway_circuits_open Circuits that are open, or let single publishes through to see whether the store works again.
# TYPE kateway_circuits_open gauge
kateway_circuits_open{of="cluster"} 1
kateway_circuits_open{of="topic"} 0
# HELP kateway_circuits_opened_total How often a circuit opened, since publishes to a topic or a cluster failed one after the other.
# TYPE kateway_circuits_opened_total counter
kateway_circuits_opened_total{of="cluster"} 1
kateway_circuits_opened_total{of="topic"} 0
# HELP kateway_circuit_refused_total Publishes that were not tried, since a circuit was open.
# TYPE kateway_circuit_refused_total counter
kateway_circuit_refused_total{of="cluster"} 1
kateway_circuit_refused_total{of="topic"} 0
`), "kateway_circuits_open", "kateway_circuits_opened_total", "kateway_circuit_refused_total"); err != nil {
			t.Error(err)
		}
		f.set("east:11", nil)
		<-time.After(openTime + time.Millisecond)
		if err := publish(t, b, "east:11", 3); err != nil {
			t.Error(err)
		}
	})
}

// One topic alone never cuts off its cluster, however often it fails; nor does one that fails beside another that works.
func TestOneTopicIsNoCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b, _ := newFaulty(t)
		f.set("a", errs.Unavailable)
		for range 20 {
			_ = publish(t, b, "a", 5)
			<-time.After(openTime + time.Millisecond)
		}
		if err := publish(t, b, "b", 1); err != nil {
			t.Errorf("another topic: %v", err)
		}
		f.set("c", errs.Unavailable)
		for range 20 {
			_ = publish(t, b, "a", 1)
			_ = publish(t, b, "c", 1)
			if err := publish(t, b, "b", 1); err != nil {
				t.Fatalf("another topic: %v", err)
			}
		}
	})
}

// What says nothing of the store opens nothing, and what works now and then stays open to all.
func TestWhatDoesNotCount(t *testing.T) {
	stored := &store.BatchError{Errs: []error{nil, errs.Unavailable}}
	for name, err := range map[string]error{
		"too large": errs.TooLarge, "unknown": errs.UnknownTopic, "parameter": errs.InvalidParam, "disk": errs.DiskFull,
		"no kind": errors.New("x"), "partly stored": stored, "other digest": errs.IdempotencyMismatch,
	} {
		t.Run(name, func(t *testing.T) {
			f, b, _ := newFaulty(t)
			f.set("a", err)
			if got := publish(t, b, "a", 50); !errors.Is(got, err) || f.count("a") != 50 {
				t.Errorf("%v, asked %d times", got, f.count("a"))
			}
		})
	}
	t.Run("the caller went away", func(t *testing.T) {
		f, b, _ := newFaulty(t)
		f.set("a", errs.Uncertain)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for range 50 {
			_ = b.Publish(ctx, "a", store.AckAll)
		}
		if f.count("a") != 50 {
			t.Errorf("asked %d times", f.count("a"))
		}
	})
	t.Run("every second fails", func(t *testing.T) {
		f, b, _ := newFaulty(t)
		for i := range 50 {
			f.set("a", [2]error{errs.Unavailable}[i%2])
			if err := publish(t, b, "a", 1); errs.Of(err) == errs.CircuitOpen {
				t.Fatal(err)
			}
		}
	})
}

// What fails is kept of a bounded number of topics, and forgotten when nobody tries any more.
func TestBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, b, _ := newFaulty(t)
		for i := range maxCircuits + 500 {
			topic := fmt.Sprint(i)
			f.set(topic, errs.Unavailable)
			_ = publish(t, b, topic, 1)
			if i%9 == 8 {
				_ = publish(t, b, "works", 1)
			}
		}
		if n := b.troubled.Load(); n > maxCircuits+1 {
			t.Errorf("%d circuits", n)
		}
		<-time.After(forgetAfter + time.Second)
		if _ = b.Open(); b.troubled.Load() != 0 {
			t.Errorf("%d circuits are left", b.troubled.Load())
		}
	})
}

// The power to publish once is passed on where the store has it, and guarded too.
func TestOnce(t *testing.T) {
	_, b, _ := newFaulty(t)
	if _, ok := b.Publisher().(store.OncePublisher); ok {
		t.Error("a store that can't publish once seems to")
	}
	f := &onceFaulty{}
	b = New(Config{Store: f, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	once, ok := b.Publisher().(store.OncePublisher)
	if !ok {
		t.Fatal("the power is lost")
	}
	for range 20 {
		_ = once.PublishOnce(t.Context(), "a", store.AckAll, store.Once{Key: "k"})
	}
	if f.asked != 5 {
		t.Errorf("asked %d times", f.asked)
	}
}

type onceFaulty struct {
	store.Publisher
	asked int
}

func (f *onceFaulty) PublishOnce(context.Context, string, store.Ack, store.Once, ...*store.Message) error {
	f.asked++
	return errs.Unavailable
}

func TestConcurrently(t *testing.T) {
	f, b, _ := newFaulty(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 300 {
				f.set("a", [2]error{errs.Unavailable}[n/10%2])
				_ = b.Publish(context.Background(), [3]string{"a", "b", "x:a"}[(n+i)%3], store.AckAll)
				_ = b.Open()
			}
		})
	}
	wg.Wait()
}

func BenchmarkHealthy(b *testing.B) {
	next := nothing{}
	guarded := New(Config{Store: next, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	msgs := []*store.Message{{}}
	for name, p := range map[string]store.Publisher{"without": next, "with": guarded} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = p.Publish(b.Context(), "shop.orders.v1", store.AckAll, msgs...)
			}
		})
	}
}

type nothing struct{}

func (nothing) Publish(context.Context, string, store.Ack, ...*store.Message) error { return nil }
