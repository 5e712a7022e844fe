package home

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/julienschmidt/httprouter"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/internal/httpx"
	"github.com/kateway/kateway/internal/testkit"
	"github.com/kateway/kateway/peer"
	"github.com/kateway/kateway/registry"
	"github.com/kateway/kateway/store"
	"github.com/kateway/kateway/store/mem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// cluster is several gateways over one store, joined by real connections.
type cluster struct {
	t     *testing.T
	store *mem.Store
	gws   []*gateway
}

// gateway is what a gateway has of this: groups, router, a listener for the others and a proxy in front of it.
type gateway struct {
	id     string
	hub    *group.Hub
	router *Router
	pool   *peer.Pool
	server *http.Server
	proxy  *testkit.Proxy
	reg    *prometheus.Registry
}

func (g *gateway) instance() registry.Instance {
	return registry.Instance{ID: g.id, Sub: "sub:1", Peer: g.proxy.Addr()}
}

var secret = bytes.Repeat([]byte("s"), 32)

func newCluster(t *testing.T, n int, tune ...func(*Config)) *cluster {
	t.Helper()
	c := &cluster{t: t, store: mem.New()}
	t.Cleanup(func() { _ = c.store.Close(context.Background()) })
	for range n {
		c.add(tune...)
	}
	c.tell(c.gws...)
	return c
}

// add starts a gateway that nobody has heard of yet.
func (c *cluster) add(tune ...func(*Config)) *gateway {
	c.t.Helper()
	g := c.start("gw"+strconv.Itoa(len(c.gws)+1), tune...)
	c.gws = append(c.gws, g)
	return g
}

// start is add for a process under an id that may be another's, too.
func (c *cluster) start(id string, tune ...func(*Config)) *gateway {
	c.t.Helper()
	g := &gateway{id: id, reg: prometheus.NewRegistry()}
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(c.t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})).With("at", g.id)
	}
	g.hub = group.NewHub(group.Config{
		Store: c.store, Publisher: c.store, Admin: c.store, Secret: func() []byte { return secret }, Log: log, Metrics: g.reg,
		Limits: group.Limits{CommitEvery: time.Millisecond},
	})
	secrets := func() [][]byte { return [][]byte{secret} }
	g.pool = peer.NewPool(peer.PoolConfig{Self: g.id, Secrets: secrets, Log: log})
	cfg := Config{Self: g.id, Hub: g.hub, Peers: g.pool, Log: log, Metrics: g.reg}
	for _, f := range tune {
		f(&cfg)
	}
	g.router = New(cfg)
	ln, err := new(net.ListenConfig).Listen(c.t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	g.proxy = testkit.NewProxy(c.t, ln.Addr().String())
	mux := httprouter.New()
	for _, r := range g.router.Routes() {
		mux.Handler(r.Method, r.Path, httpx.Wrap(r.Path, r.Handler, log, nobody{}))
	}
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	g.server = &http.Server{Handler: mux, Protocols: p, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	var wg sync.WaitGroup
	wg.Go(func() { _ = g.server.Serve(peer.Secure(ln, secrets, log)) })
	c.t.Cleanup(func() {
		g.end(c.t)
		wg.Wait()
	})
	return g
}

// end ends the gateway in order, though without a drain.
func (g *gateway) end(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := errors.Join(g.router.Close(ctx), g.hub.Close(ctx)); err != nil {
		t.Error(err)
	}
	_ = g.server.Close()
	g.pool.Close()
}

// tell gives all gateways of the cluster the list.
func (c *cluster) tell(list ...*gateway) {
	var instances []registry.Instance
	for _, g := range list {
		instances = append(instances, g.instance())
	}
	for _, g := range c.gws {
		g.pool.Update(instances)
		g.router.Update(instances)
	}
}

// topic makes a topic and the key of a group on it whose home is the gateway, as the first sees it.
func (c *cluster) topic(home *gateway, partitions int32) group.Key {
	c.t.Helper()
	for i := range 10_000 {
		key := group.Key{Topic: "t" + strconv.Itoa(i), Group: "g"}
		if c.gws[0].router.Home(key) != home.id {
			continue
		}
		if err := c.store.CreateTopic(c.t.Context(), store.Topic{Name: key.Topic, Partitions: partitions}); err != nil {
			continue // there is one
		}
		return key
	}
	c.t.Fatal("no topic found")
	return group.Key{}
}

// publish stores messages with these numbers, all in one partition.
func (c *cluster) publish(key group.Key, partition int32, from, to int) {
	c.t.Helper()
	var msgs []*store.Message
	for i := from; i < to; i++ {
		msgs = append(msgs, &store.Message{Value: []byte(strconv.Itoa(i)), Partition: partition})
	}
	if err := c.store.Publish(c.t.Context(), key.Topic, store.AckAll, msgs...); err != nil {
		c.t.Fatal(err)
	}
}

func poll(key group.Key) group.Ask {
	return group.Ask{Key: key, Settings: group.Settings{Mode: group.Fifo}, Lease: time.Minute, Prefetch: 1 << 20, Stays: true}
}

func stream(key group.Key) group.Ask {
	return group.Ask{Key: key, Settings: group.Settings{Mode: group.Queue}, Lease: time.Minute, Prefetch: 100}
}

func (c *cluster) open(g *gateway, ask group.Ask) group.Session {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	s, err := g.router.Open(ctx, ask)
	if err != nil {
		c.t.Fatalf("open at %s: %v", g.id, err)
	}
	c.t.Cleanup(s.Close)
	return s
}

// next waits for a batch with deliveries.
func (c *cluster) next(s group.Session, most int) []group.Delivery {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	for {
		b, err := s.Next(ctx, most)
		if err != nil {
			c.t.Fatalf("next: %v", err)
		}
		if len(b.Deliveries) > 0 {
			return b.Deliveries
		}
	}
}

func verbs(op group.Op, list ...group.Delivery) (out []group.Verb) {
	for _, d := range list {
		out = append(out, group.Verb{Ref: d.Ref, Op: op})
	}
	return out
}

// settled fails the test where a verb was refused.
func (c *cluster) settled(out []error) {
	c.t.Helper()
	if err := errors.Join(out...); err != nil {
		c.t.Fatalf("settle: %v", err)
	}
}

// until waits for a condition.
func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

func values(list []group.Delivery) (out []string) {
	for _, d := range list {
		out = append(out, string(d.Value))
	}
	return out
}

func numbers(from, to int) (out []string) {
	for i := from; i < to; i++ {
		out = append(out, fmt.Sprint(i))
	}
	return out
}

type nobody struct{}

func (nobody) Observe(*http.Request, string, int, int64, time.Duration) {}
