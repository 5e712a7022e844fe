package home

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/internal/httpx"
	"github.com/kateway/kateway/peer"
	"github.com/kateway/kateway/registry"
	"github.com/kateway/kateway/store"
	"github.com/kateway/kateway/store/mem"
)

// benched are two gateways over one store with real connections: an edge and a home.
func benched(b *testing.B) (edge, home *Router, s *mem.Store, key group.Key) {
	b.Helper()
	s = mem.New()
	secrets := func() [][]byte { return [][]byte{secret} }
	var routers []*Router
	var pools []*peer.Pool
	var list []registry.Instance
	for i := range 2 {
		id := "gw" + strconv.Itoa(i+1)
		reg, log := prometheus.NewRegistry(), slog.New(slog.DiscardHandler)
		hub := group.NewHub(group.Config{Store: s, Publisher: s, Admin: s, Secret: func() []byte { return secret }, Log: log, Metrics: reg})
		pool := peer.NewPool(peer.PoolConfig{Self: id, Secrets: secrets, Log: log})
		r := New(Config{Self: id, Hub: hub, Peers: pool, Log: log, Metrics: reg})
		ln, err := new(net.ListenConfig).Listen(b.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		p := new(http.Protocols)
		p.SetUnencryptedHTTP2(true)
		server := &http.Server{Handler: httpx.Wrap("link", r.Routes()[0].Handler, log, nobody{}), Protocols: p}
		var wg sync.WaitGroup
		wg.Go(func() { _ = server.Serve(peer.Secure(ln, secrets, log)) })
		b.Cleanup(func() {
			_ = r.Close(context.Background())
			_ = hub.Close(context.Background())
			_ = server.Close()
			pool.Close()
			wg.Wait()
		})
		routers, pools = append(routers, r), append(pools, pool)
		list = append(list, registry.Instance{ID: id, Sub: "x:1", Peer: ln.Addr().String()})
	}
	for i := range routers {
		pools[i].Update(list)
		routers[i].Update(list)
	}
	key = keyOf(routers[0], "gw2")
	if err := s.CreateTopic(b.Context(), store.Topic{Name: key.Topic, Partitions: 1}); err != nil {
		b.Fatal(err)
	}
	return routers[0], routers[1], s, key
}

// Memory of sessions that wait, both gateways in one process; against sessions of the local hub alone.
func BenchmarkIdleSessions(b *testing.B) {
	for name, far := range map[string]bool{"forwarded": true, "local": false} {
		b.Run(name, func(b *testing.B) {
			edge, home, _, key := benched(b)
			at := home
			if far {
				at = edge
			}
			const n = 1000
			ctx, cancel := context.WithCancel(b.Context())
			before := inUse()
			var wg sync.WaitGroup
			for range n {
				s, err := at.Open(ctx, stream(key))
				if err != nil {
					b.Fatal(err)
				}
				wg.Go(func() {
					defer s.Close()
					_, _ = s.Next(ctx, 1)
				})
			}
			for range b.N {
				runtime.Gosched()
			}
			b.ReportMetric(float64(inUse()-before)/n, "B/session")
			cancel()
			wg.Wait()
		})
	}
}

func inUse() uint64 {
	for range 3 {
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

// One publish, one forwarded delivery, one ack: what a message costs that goes one by one; and a poll for each.
func BenchmarkDeliver(b *testing.B) {
	for name, far := range map[string]bool{"forwarded": true, "local": false} {
		b.Run("stream/"+name, func(b *testing.B) { benchStream(b, far, 1) })
		b.Run("stream100/"+name, func(b *testing.B) { benchStream(b, far, 100) })
		b.Run("poll/"+name, func(b *testing.B) { benchPoll(b, far) })
	}
}

func fillTopic(b *testing.B, s *mem.Store, key group.Key, n int) {
	b.Helper()
	value := make([]byte, 100)
	for ; n > 0; n -= 1000 {
		msgs := make([]*store.Message, min(n, 1000))
		for i := range msgs {
			msgs[i] = &store.Message{Value: value, Partition: 0}
		}
		if err := s.Publish(b.Context(), key.Topic, store.AckAll, msgs...); err != nil {
			b.Fatal(err)
		}
	}
}

func benchStream(b *testing.B, far bool, most int) {
	edge, home, s, key := benched(b)
	at := home
	if far {
		at = edge
	}
	fillTopic(b, s, key, b.N)
	ask := stream(key)
	ask.Prefetch = 1000
	session, err := at.Open(b.Context(), ask)
	if err != nil {
		b.Fatal(err)
	}
	defer session.Close()
	b.ResetTimer()
	for n := 0; n < b.N; {
		batch, err := session.Next(b.Context(), most)
		if err != nil {
			b.Fatal(err)
		}
		session.Settle(verbs(group.Ack, batch.Deliveries...)...)
		n += len(batch.Deliveries)
	}
}

func benchPoll(b *testing.B, far bool) {
	edge, home, s, key := benched(b)
	at := home
	if far {
		at = edge
	}
	fillTopic(b, s, key, b.N)
	b.ResetTimer()
	for range b.N {
		ask := poll(key)
		ask.First = 1
		session, err := at.Open(b.Context(), ask)
		if err != nil {
			b.Fatal(err)
		}
		batch, err := session.Next(b.Context(), 1)
		if err != nil {
			b.Fatal(err)
		}
		session.Settle(verbs(group.Ack, batch.Deliveries...)...)
		session.Close()
	}
}
