package spool

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"testing"

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

// BenchmarkSpooled is what 256 clients get while the store is away, with 1,000 bytes each, synced and not.
func BenchmarkSpooled(b *testing.B) {
	for _, noSync := range []bool{false, true} {
		b.Run(fmt.Sprintf("synced=%t", !noSync), func(b *testing.B) {
			sp := benchSpool(b, &sink{err: errAway}, noSync)
			b.SetParallelism(256 / runtime.GOMAXPROCS(0))
			b.RunParallel(func(pb *testing.PB) {
				value := make([]byte, 1000)
				for i := 0; pb.Next(); i++ {
					m := &store.Message{Key: fmt.Append(nil, i), Value: value, Partition: store.AnyPartition}
					if err := sp.Publish(context.Background(), topicName, store.AckAll, m); err != nil || m.Offset != store.Spooled {
						b.Error(m.Offset, err)
						return
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
		})
	}
}
