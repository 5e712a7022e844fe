package group

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kateway/kateway/store"
	"github.com/kateway/kateway/store/mem"
)

// BenchmarkStream is one client that takes what is at hand and acks it, of a topic that is full.
func BenchmarkStream(b *testing.B) {
	for _, mode := range []Mode{Fifo, Queue, ByKey} {
		b.Run(string(mode), func(b *testing.B) {
			s := mem.New()
			h := NewHub(Config{Store: s, Secret: func() []byte { return make([]byte, 16) },
				Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
			defer h.Close(b.Context())
			fillTopic(b, s, b.N)
			c, err := h.Open(b.Context(), Ask{Key: key, Settings: Settings{Mode: mode}, Lease: time.Minute, Prefetch: 100})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			b.ResetTimer()
			var acks []Verb
			for n := 0; n < b.N; {
				got, err := c.Next(b.Context(), 100)
				if err != nil {
					b.Fatal(err)
				}
				acks = acks[:0]
				for _, d := range got.Deliveries {
					acks = append(acks, Verb{Ref: d.Ref})
				}
				for _, err := range c.Settle(acks...) {
					if err != nil {
						b.Fatal(err)
					}
				}
				n += len(acks)
			}
			b.StopTimer()
			c.Close()
		})
	}
}

func fillTopic(b *testing.B, s store.Store, n int) {
	b.Helper()
	if err := s.CreateTopic(b.Context(), store.Topic{Name: key.Topic, Partitions: 4}); err != nil {
		b.Fatal(err)
	}
	var msgs []*store.Message
	for i := range n {
		msgs = append(msgs, &store.Message{Partition: int32(i % 4), Key: fmt.Appendf(nil, "%d", i%1000), Value: make([]byte, 100)})
	}
	if err := s.Publish(b.Context(), key.Topic, store.AckAll, msgs...); err != nil {
		b.Fatal(err)
	}
}
