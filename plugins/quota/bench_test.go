package quota

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kateway/kateway/plugins"
)

// limits are those of an app with everything limited, of which nothing is reached.
func plenty() Limits {
	return Limits{Requests: 1e9, Messages: 1e9, Bytes: 1e15, Calls: 1e6, Streams: 1e6, InFlight: 1e12, Burst: time.Second}
}

// cpu is the time that this process has computed, in nanoseconds: unlike the clock it goes no faster while others compute.
func cpu() int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

// BenchmarkPublish is what a publish of an app with limits costs here: enter, admit, leave.
func BenchmarkPublish(b *testing.B) {
	for name, o := range map[string]Options{
		"app":    {Default: plenty()},
		"scopes": {Default: plenty(), Key: plenty(), Topic: plenty(), Address: plenty()},
		"none":   {},
	} {
		b.Run(name, func(b *testing.B) {
			p := limited(b, o)
			h := p.Wrap(func(ctx context.Context, c *plugins.Call) error { return p.Admit(ctx, c) })
			c := publish("shop", 1, 100)
			b.ReportAllocs()
			before := cpu()
			for b.Loop() {
				if err := h(b.Context(), c); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(cpu()-before)/float64(b.N), "cpu-ns/op")
		})
	}
}

// BenchmarkApps is the same from many goroutines, each of another app: run it with -cpu 1,2.
func BenchmarkApps(b *testing.B) {
	p := limited(b, Options{Default: plenty()})
	h := p.Wrap(func(ctx context.Context, c *plugins.Call) error { return p.Admit(ctx, c) })
	var n atomic.Int64
	b.ReportAllocs()
	before := cpu()
	defer func() { b.ReportMetric(float64(cpu()-before)/float64(b.N), "cpu-ns/op") }()
	b.RunParallel(func(pb *testing.PB) {
		c := publish(fmt.Sprintf("app%d", n.Add(1)), 1, 100)
		for pb.Next() {
			if err := h(context.Background(), c); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// 100,000 apps with limits, all of which have called, cost less than 100 MB.
func TestMemoryOfApps(t *testing.T) {
	const apps = 100_000
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	p := New(Config{Options: Options{Default: plenty()}, Meta: unknown(), Others: alone, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	for i := range apps {
		app := fmt.Sprintf("application-%d", i)
		c := publish(app, 1, 1)
		if err := do(p, c); err != nil {
			t.Fatal(err)
		}
		m := p.apps.get(app) // as if each had limits of its own
		m.mu.Lock()
		m.refit(nil, newBounds(scopeApp, plenty()), p.now())
		m.mu.Unlock()
	}
	p.round(t.Context())
	used := heap() - before
	t.Logf("%d bytes, %d for each app", used, used/apps)
	if used > 100<<20 {
		t.Errorf("%d MiB", used>>20)
	}
	runtime.KeepAlive(p)
}
