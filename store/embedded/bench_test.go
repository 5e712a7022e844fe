package embedded

import (
	"context"
	"encoding/binary"
	"log/slog"
	"math"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/kateway/kateway/internal/disk"
	"github.com/kateway/kateway/store"
)

// Each benchmark reports the CPU that the whole process used per message, since the time alone is mostly the disk's.
// Those named Bare are the floors: the same bytes given to pebble with the same options and nothing around it.

func benchStore(b *testing.B) *Store {
	s := open(b, Config{Dir: filepath.Join(b.TempDir(), "data"), Log: slog.New(slog.DiscardHandler)})
	if err := s.CreateTopic(context.Background(), store.Topic{Name: "t", Partitions: 1}); err != nil {
		b.Fatal(err)
	}
	return s
}

func benchEngine(b *testing.B) *disk.Engine {
	log := slog.New(slog.DiscardHandler)
	sp := disk.NewSpace(directory(Config{FS: vfs.Default, Dir: b.TempDir()}), 0, log)
	db, err := disk.OpenEngine(sp, disk.NewFault(log), log)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = db.Close() })
	return db
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// concurrently runs f b.N times on n goroutines and reports what a message took, with so many in each call of f.
func concurrently(b *testing.B, n, messages int, f func() error) {
	b.Helper()
	b.ReportAllocs()
	var left atomic.Int64
	left.Store(int64(b.N))
	var wg sync.WaitGroup
	b.ResetTimer()
	before := cpuTime()
	for range n {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				if err := f(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	total := float64(b.N * messages)
	b.ReportMetric(float64(cpuTime()-before)/total, "cpu-ns/msg")
	b.ReportMetric(total/b.Elapsed().Seconds(), "msg/s")
}

func hundredBytes() []byte {
	v := make([]byte, 100)
	for i := range v {
		v[i] = byte('a' + i%26)
	}
	return v
}

func BenchmarkPublishSingle64(b *testing.B) {
	s := benchStore(b)
	value := hundredBytes()
	concurrently(b, 64, 1, func() error {
		m := store.Message{Partition: store.AnyPartition, Value: value}
		return s.Publish(context.Background(), "t", store.AckAll, &m)
	})
}

func BenchmarkPublishSingle64Bare(b *testing.B) {
	db := benchEngine(b)
	value := hundredBytes()
	var next atomic.Uint64
	concurrently(b, 64, 1, func() error {
		var key [blockKeyLen]byte
		binary.BigEndian.PutUint64(key[:], next.Add(1))
		return db.Set(key[:], value, pebble.Sync)
	})
}

func BenchmarkPublishBatch1000(b *testing.B) {
	s := benchStore(b)
	value := hundredBytes()
	lists := sync.Pool{New: func() any { // making the messages is not measured
		list := make([]*store.Message, 1000)
		for i := range list {
			list[i] = &store.Message{Partition: store.AnyPartition, Value: value}
		}
		return &list
	}}
	concurrently(b, 4, 1000, func() error {
		list := lists.Get().(*[]*store.Message)
		defer lists.Put(list)
		for _, m := range *list {
			m.Partition, m.Time = store.AnyPartition, time.Time{}
		}
		return s.Publish(context.Background(), "t", store.AckAll, *list...)
	})
}

// One value of the same bytes: the most that any layout could do.
func BenchmarkPublishBatch1000Bare(b *testing.B) {
	db := benchEngine(b)
	value := make([]byte, 1000*104)
	var next atomic.Uint64
	concurrently(b, 4, 1000, func() error {
		var key [blockKeyLen]byte
		binary.BigEndian.PutUint64(key[:], next.Add(1))
		return db.Set(key[:], value, pebble.Sync)
	})
}

// One key per message, as a store without blocks would have it.
func BenchmarkPublishBatch1000BareKeys(b *testing.B) {
	db := benchEngine(b)
	value := hundredBytes()
	var next atomic.Uint64
	concurrently(b, 4, 1000, func() error {
		batch := db.NewBatchWithSize(1000 * 130)
		var key [blockKeyLen]byte
		for range 1000 {
			binary.BigEndian.PutUint64(key[:], next.Add(1))
			if err := batch.Set(key[:], value, nil); err != nil {
				return err
			}
		}
		return batch.Commit(pebble.Sync)
	})
}

// fillBench stores n messages of 100 bytes in batches.
func fillBench(b *testing.B, s *Store, n, batch int) {
	value := hundredBytes()
	for range n / batch {
		list := make([]*store.Message, batch)
		for i := range list {
			list[i] = &store.Message{Value: value}
		}
		if err := s.Publish(context.Background(), "t", store.AckLocal, list...); err != nil {
			b.Fatal(err)
		}
	}
	if err := s.Ping(context.Background()); err != nil {
		b.Fatal(err)
	}
}

// benchRead polls b.N times 1,000 messages, from the start again whenever it comes to the end.
func benchRead(b *testing.B, batch int) {
	s := benchStore(b)
	const stored = 200_000
	fillBench(b, s, stored, batch)
	t, _ := s.topic(context.Background(), "t")
	p, _ := t.partition(0)
	c := newCursor(p, 0)
	n := 0
	b.ReportAllocs()
	b.ResetTimer()
	before := cpuTime()
	for range b.N {
		if c.next == stored {
			c = newCursor(p, 0)
		}
		r := &reading{s: s, live: true, max: 1000, enough: maxReadBytes}
		if err := r.read(c, math.MaxInt64); err != nil {
			b.Fatal(err)
		}
		n += len(r.msgs)
		if err := r.close(); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(cpuTime()-before)/float64(n), "cpu-ns/msg")
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "msg/s")
}

func BenchmarkReadBlocksOf1000(b *testing.B) { benchRead(b, 1000) }
func BenchmarkReadBlocksOf10(b *testing.B)   { benchRead(b, 10) }

// BenchmarkLive is publishing in batches of 100 with a feed that keeps up: the tail is read from memory.
func BenchmarkLive(b *testing.B) {
	s := benchStore(b)
	f, err := s.Subscribe(context.Background(), store.Spec{Topic: "t", Group: "g"})
	if err != nil {
		b.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := 0; n < b.N*100; {
			batch, err := f.Poll(context.Background(), 1000, nil)
			if err != nil {
				b.Error(err)
				return
			}
			n += len(batch.Messages)
		}
	})
	value := hundredBytes()
	concurrently(b, 8, 100, func() error {
		list := make([]*store.Message, 100)
		for i := range list {
			list[i] = &store.Message{Partition: store.AnyPartition, Value: value}
		}
		return s.Publish(context.Background(), "t", store.AckAll, list...)
	})
	wg.Wait()
}
