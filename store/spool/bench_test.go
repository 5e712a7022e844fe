package spool

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/kateway/kateway/store"
)

// sink takes everything, or nothing.
type sink struct {
	world
	err error
}

func (s *sink) Publish(context.Context, string, store.Ack, ...*store.Message) error { return s.err }

func benchSpool(b *testing.B, s *sink, noSync bool) *Spool {
	b.Helper()
	s.fails(true)
	sp, err := Open(Config{Dir: filepath.Join(b.TempDir(), "spool"), Next: s, Reader: s, Partitions: func(string) int32 { return 12 },
		MaxBytes: 1 << 40, noSync: noSync})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = sp.Close(context.Background()) })
	return sp
}

// BenchmarkIdle is what a spool with nothing in it costs a publish.
func BenchmarkIdle(b *testing.B) {
	s := &sink{}
	sp := benchSpool(b, s, false)
	m := &store.Message{Key: []byte("k"), Value: make([]byte, 1000), Partition: store.AnyPartition}
	ctx := context.Background()
	for name, p := range map[string]store.Publisher{"without": s, "with": sp} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := p.Publish(ctx, topicName, store.AckAll, m); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkSpooled is what so many clients get while the store is away, with 1,000 bytes each: beside it, in turns, what they get
// from a spool that does not sync, which is the floor, and what the syncs of the disk took.
func BenchmarkSpooled(b *testing.B) {
	for _, clients := range []int{64, 256, 1024} {
		b.Run(fmt.Sprint("clients=", clients), func(b *testing.B) { benchSpooled(b, clients) })
	}
}

func benchSpooled(b *testing.B, clients int) {
	synced, floor := &crowd{sp: benchSpool(b, &sink{err: errAway}, false)}, &crowd{sp: benchSpool(b, &sink{err: errAway}, true)}
	b.ResetTimer()
	const turn = 16384 // of each: the clients have to begin anew at each
	for left := b.N; left > 0; left -= turn {
		for _, c := range []*crowd{synced, floor} {
			c.publish(b, clients, min(left, turn))
		}
	}
	b.StopTimer()
	b.ReportMetric(synced.rate(), "msg/s")
	b.ReportMetric(floor.rate(), "unsynced-msg/s")
	b.ReportMetric(100*synced.rate()/floor.rate(), "%-of-unsynced")
	b.ReportMetric(float64(synced.cpu.Microseconds())/float64(synced.n), "cpu-us/msg")
	n, each := syncs(b, synced.sp)
	b.ReportMetric(float64(synced.n)/n, "msg/sync")
	b.ReportMetric(each.Seconds()*1000, "ms/sync")
	b.ReportMetric(100*n*each.Seconds()/synced.took.Seconds(), "%-syncing")
	b.ReportMetric(0, "ns/op") // of both together: it says nothing
}

// crowd are the clients of a spool, and what they got.
type crowd struct {
	sp   *Spool
	n    int
	took time.Duration
	cpu  time.Duration
}

func (c *crowd) rate() float64 { return float64(c.n) / c.took.Seconds() }

func (c *crowd) publish(b *testing.B, clients, n int) {
	var next atomic.Int64
	var wg sync.WaitGroup
	begun, cpu := time.Now(), cpuTime()
	for range clients {
		wg.Go(func() {
			value := make([]byte, 1000)
			for i := next.Add(1); i <= int64(n); i = next.Add(1) {
				m := &store.Message{Key: fmt.Append(nil, i), Value: value, Partition: store.AnyPartition}
				if err := c.sp.Publish(context.Background(), topicName, store.AckAll, m); err != nil || m.Offset != store.Spooled {
					b.Error(m.Offset, err)
					return
				}
			}
		})
	}
	wg.Wait()
	c.n += n
	c.took += time.Since(begun)
	c.cpu += cpuTime() - cpu
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// syncs are how many syncs of the log there were, and what one took on average.
func syncs(b *testing.B, sp *Spool) (n float64, each time.Duration) {
	var m dto.Metric
	if err := sp.db.Metrics().LogWriter.FsyncLatency.Write(&m); err != nil {
		b.Fatal(err)
	}
	h := m.GetHistogram()
	n = float64(h.GetSampleCount())
	return n, time.Duration(h.GetSampleSum() / n)
}
