package meta_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kateway/kateway/meta"
)

// many is what a large installation has.
const many = 100_000

func topicNo(i int) meta.Topic {
	return meta.Topic{App: fmt.Sprintf("app-%d", i%1000), Name: fmt.Sprintf("topic-%d", i), Ver: "v1"}
}

func recordNo(i int) *meta.TopicRecord {
	t := topicNo(i)
	return &meta.TopicRecord{
		App: t.App, Name: t.Name, Ver: t.Ver, Cluster: meta.DefaultCluster, Partitions: 12, Replicas: 3,
		Retention: meta.Duration(168 * time.Hour), Cleanup: meta.CleanupDelete, MaxAttempts: 16, Spool: true,
		Created: time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC),
	}
}

// stream is a source that tells what it is given, at once; the model in package mem looks at everything each time.
type stream struct {
	mu      sync.Mutex
	pending map[meta.ID][]byte
	through uint64
	whole   bool
	wake    chan struct{}
}

func (s *stream) Next(ctx context.Context) (meta.Update, error) {
	for {
		s.mu.Lock()
		if len(s.pending) > 0 {
			u := meta.Update{Objects: s.pending, Whole: s.whole, Through: s.through}
			s.pending, s.whole = map[meta.ID][]byte{}, false
			s.mu.Unlock()
			return u, nil
		}
		s.mu.Unlock()
		select {
		case <-s.wake:
		case <-ctx.Done():
			return meta.Update{}, ctx.Err()
		}
	}
}

func (s *stream) Apply(_ context.Context, c meta.Change) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending[c.ID] = c.Data
	s.through++
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return s.through, nil
}

func (s *stream) Reload() uint64          { return s.through }
func (s *stream) Place(id meta.ID) string { return id.String() }
func (s *stream) Close() error            { return nil }

// withMany is a directory that has them all.
func withMany(b *testing.B) *meta.Directory {
	b.Helper()
	source := &stream{pending: map[meta.ID][]byte{}, whole: true, through: 1, wake: make(chan struct{}, 1)}
	for i := range many {
		r := recordNo(i)
		data, err := json.Marshal(r)
		if err != nil {
			b.Fatal(err)
		}
		source.pending[r.ID()] = data
	}
	d := meta.NewDirectory(meta.Config{Source: source, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = d.Run(ctx)
	}()
	b.Cleanup(func() {
		cancel()
		<-done
	})
	<-d.Loaded()
	if n := d.Snapshot().Len(meta.KindTopic); n != many {
		b.Fatalf("%d topics", n)
	}
	return d
}

// What every publish asks of meta, among 100,000 topics.
func BenchmarkTopic(b *testing.B) {
	d := withMany(b)
	topics := make([]meta.Topic, 1024)
	for i := range topics {
		topics[i] = topicNo(i * 97 % many)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; b.Loop(); i++ {
		if d.Snapshot().Topic(topics[i%len(topics)]) == nil {
			b.Fatal("not found")
		}
	}
}

// Lookups, timed one by one, while 1,000 topics are edited as fast as can be; the floor is the same lookups while nothing changes.
func BenchmarkBulkEdit(b *testing.B) {
	d := withMany(b)
	edit := func() {
		for i := range 1000 {
			err := d.Update(b.Context(), recordNo(i).ID(), func(present meta.Record) (meta.Record, error) {
				t := *present.(*meta.TopicRecord)
				t.MaxAttempts = 1 + (t.MaxAttempts+1)%100
				return &t, nil
			})
			if err != nil {
				b.Error(err)
			}
		}
	}
	calm := func() {
		for range 3000 {
			runtime.Gosched()
			_ = d.State()
		}
	}
	var quiet, busy []time.Duration
	for b.Loop() {
		quiet = append(quiet, lookWhile(d, calm)...)
		busy = append(busy, lookWhile(d, edit)...)
	}
	slices.Sort(quiet)
	slices.Sort(busy)
	p := func(list []time.Duration, part float64) float64 {
		return float64(list[int(part*float64(len(list)-1))].Nanoseconds())
	}
	b.ReportMetric(p(quiet, .99), "calm-p99-ns")
	b.ReportMetric(p(busy, .99), "edit-p99-ns")
	b.ReportMetric(p(busy, .9999)/1000, "edit-p99.99-us")
	b.ReportMetric(0, "ns/op")
}

// lookWhile looks topics up until do has returned, and answers what each look took.
func lookWhile(d *meta.Directory, do func()) (took []time.Duration) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(done)
		do()
	})
	defer wg.Wait()
	names := make([]meta.Topic, 4096)
	for i := range names {
		names[i] = topicNo(i * 23)
	}
	for i := 0; ; i++ {
		select {
		case <-done:
			return took
		default:
		}
		begun := time.Now()
		_ = d.Snapshot().Topic(names[i%len(names)])
		if i%16 == 0 {
			took = append(took, time.Since(begun))
		}
	}
}

// What 100,000 topics weigh in memory.
func BenchmarkMemory(b *testing.B) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	d := withMany(b)
	runtime.GC()
	runtime.ReadMemStats(&after)
	for b.Loop() {
		runtime.KeepAlive(d)
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(1<<20), "MiB")
	b.ReportMetric(0, "ns/op")
}
