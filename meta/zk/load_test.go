package zk

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/kateway/kateway/internal/testkit"
	"github.com/kateway/kateway/internal/zk"
	"github.com/kateway/kateway/meta"
)

// many is what a large installation has.
const many = 100_000

// stock fills ZooKeeper with topics, a bucket at a time.
func stock(b *testing.B, c *zk.Client) {
	b.Helper()
	buckets := map[string]map[string][]byte{}
	for i := range many {
		app, topic := fmt.Sprintf("app-%d", i%1000), fmt.Sprintf("topic-%d", i)
		id := meta.ID{Kind: meta.KindTopic, Name: app + "." + topic + ".v1"}
		in := bucketOf(id)
		if buckets[in] == nil {
			buckets[in] = map[string][]byte{}
		}
		buckets[in][id.Name] = fmt.Appendf(nil, `{"app":%q,"topic":%q,"ver":"v1","cluster":"default","partitions":12,"replicas":3,`+
			`"retention":"168h","retention_bytes":0,"cleanup":"delete","max_attempts":16,"spool":true,"store_topic":"","created":"2026-11-24T00:00:00Z"}`, app, topic)
	}
	for name, objects := range buckets {
		if err := c.Create(b.Context(), bucketPath(meta.KindTopic, name), encodeBucket(objects)); err != nil {
			b.Fatal(err)
		}
	}
}

func client(b *testing.B, addr string) *zk.Client {
	b.Helper()
	c, err := zk.Open(zk.Config{Servers: []string{addr}, Chroot: "/load", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	return c
}

// start is a directory that has loaded everything, and how to end it.
func start(b *testing.B, c *zk.Client) (d *meta.Directory, stop func()) {
	b.Helper()
	s := New(c, slog.New(slog.DiscardHandler))
	d = meta.NewDirectory(meta.Config{Source: s, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = d.Run(ctx) }()
	<-d.Loaded()
	return d, func() { cancel(); <-ended; _ = s.Close() }
}

// BenchmarkLoad is a gateway's start with 100,000 topics: from connecting until the snapshot has them, and what it
// weighs then: what is in use, and all that was taken from the system meanwhile.
func BenchmarkLoad(b *testing.B) {
	addr := testkit.ZooKeeper(b)
	first := client(b, addr)
	stock(b, first)
	first.Close()
	before := memory()
	var used, taken float64
	for b.Loop() {
		c := client(b, addr)
		d, stop := start(b, c)
		if n := d.Snapshot().Len(meta.KindTopic); n != many {
			b.Fatalf("%d topics, %+v", n, d.State())
		}
		b.StopTimer()
		taken = max(taken, mib(memory().Sys-before.Sys))
		runtime.GC()
		m := memory()
		used = max(used, mib(m.HeapAlloc+m.StackInuse-before.HeapAlloc-before.StackInuse))
		runtime.KeepAlive(d)
		stop()
		c.Close()
		b.StartTimer()
	}
	b.ReportMetric(used, "MiB-in-use")
	b.ReportMetric(taken, "MiB-more-from-system")
}

func memory() (m runtime.MemStats) {
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m
}

func mib(bytes uint64) float64 { return float64(int64(bytes)) / (1 << 20) }

// BenchmarkTold is a change in one gateway, of 100,000 topics, until another has it in its snapshot.
func BenchmarkTold(b *testing.B) {
	addr := testkit.ZooKeeper(b)
	one, two := client(b, addr), client(b, addr)
	defer one.Close()
	defer two.Close()
	stock(b, one)
	writer, end := start(b, one)
	defer end()
	reader, end := start(b, two)
	defer end()
	r := &meta.TopicRecord{App: "app-7", Name: "topic-7", Ver: "v1", Partitions: 12, MaxAttempts: 1}
	var took []time.Duration
	for b.Loop() {
		r.MaxAttempts = r.MaxAttempts%1000 + 1
		begin := time.Now()
		etag, err := writer.Put(b.Context(), r, "")
		if err != nil {
			b.Fatal(err)
		}
		for {
			changed := reader.Changed()
			if _, is := reader.Snapshot().Record(r.ID()); is == etag {
				break
			}
			<-changed
		}
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
}
