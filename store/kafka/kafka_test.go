package kafka

import (
	"context"
	"crypto/rand"
	"flag"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/kateway/kateway/internal/testkit"
	"github.com/kateway/kateway/store"
	"github.com/kateway/kateway/store/storetest"
)

// The real clusters of this package's tests; the first test that needs one starts it.
var (
	cluster = testkit.NewShared(testkit.Brokers(3),
		testkit.Property("group.consumer.min.heartbeat.interval.ms=100"), testkit.Property("group.consumer.heartbeat.interval.ms=500"))
	oldest = testkit.NewShared(testkit.Line("3.9"))
)

func TestMain(m *testing.M) {
	flag.Parse()
	if !parallelGiven() {
		_ = flag.Set("test.parallel", "8") // tests against real clusters wait more than they work
	}
	code := m.Run()
	cluster.Close()
	oldest.Close()
	os.Exit(code)
}

func parallelGiven() (given bool) {
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	return given
}

// fake is a cluster in this process, for one test.
func fake(t testing.TB, opts ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(3), kfake.GroupMinSessionTimeout(100 * time.Millisecond)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// open makes a store that is closed with the test.
func open(t testing.TB, cfg Config) *Store {
	t.Helper()
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = s.Close(ctx)
	})
	return s
}

// The suite runs against a fake cluster, where it also looks for goroutines left behind, and against real ones, beside each
// other; in each with both group protocols.

func TestStoreOnFake(t *testing.T) {
	c := fake(t)
	suite(t, c.ListenAddrs(), Config{SessionTimeout: time.Second}, storetest.Config{Patience: 30 * time.Second})
}

// TestStoreOnFakeNewGroups is without names: the fake cluster removes no members of new groups.
func TestStoreOnFakeNewGroups(t *testing.T) {
	c := fake(t, kfake.BrokerConfigs(map[string]string{"group.consumer.session.timeout.ms": "1000", "group.consumer.heartbeat.interval.ms": "100"}))
	suite(t, c.ListenAddrs(), Config{Protocol: ProtocolConsumer}, storetest.Config{Patience: 30 * time.Second}, nameless)
}

func TestStoreOnThreeBrokers(t *testing.T) {
	t.Parallel()
	suite(t, cluster.Get(t).Addrs(), Config{SessionTimeout: 2 * time.Second}, storetest.Config{Patience: time.Minute, Parallel: true})
}

func TestStoreOnThreeBrokersNewGroups(t *testing.T) {
	t.Parallel()
	suite(t, cluster.Get(t).Addrs(), Config{Protocol: ProtocolConsumer}, storetest.Config{Patience: time.Minute, Parallel: true})
}

// TestStoreOnTheOldestKafka asks for the new protocol, which it does not have.
func TestStoreOnTheOldestKafka(t *testing.T) {
	t.Parallel()
	suite(t, oldest.Get(t).Addrs(), Config{Protocol: ProtocolConsumer, SessionTimeout: 2 * time.Second}, storetest.Config{Patience: time.Minute, Parallel: true})
}

// nameless makes a suite's members have no names.
func nameless(g *gateway) { g.id = "" }

func suite(t *testing.T, brokers []string, cfg Config, run storetest.Config, opts ...func(*gateway)) {
	cfg.Brokers, cfg.metadataAge = brokers, 3*time.Second
	var gates, dead sync.Map // *Store -> *gate; ids of gateways that have crashed
	start := func(t *testing.T) store.Store {
		entry := newGate()
		cfg := cfg
		cfg.dial = entry.dial
		s, err := Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		gates.Store(s, entry)
		g := &gateway{Store: s, id: rand.Text()[:8], dead: &dead}
		for _, opt := range opts {
			opt(g)
		}
		return g
	}
	run.New, run.Shared, run.TooLarge = start, true, 1_100_000
	run.Reopen = func(t *testing.T, s store.Store) store.Store {
		_ = s.Close(t.Context())
		return start(t)
	}
	run.Cut = func(_ *testing.T, s store.Store) func() {
		g, _ := gates.Load(s.(*gateway).Store)
		return g.(*gate).shut()
	}
	run.Crash = func(_ *testing.T, s store.Store, f store.Feed) {
		dead.Store(s.(*gateway).id, true)
		f.(*feed).crash()
	}
	run.Trim = func(t *testing.T, s store.Store, topic string, p int32, before int64) {
		at := kadm.Offsets{}
		at.AddOffset(topic, p, before, -1)
		if _, err := s.(*gateway).adm.DeleteRecords(t.Context(), at); err != nil {
			t.Fatal(err)
		}
	}
	run.Absent = map[storetest.Power]string{storetest.Once: "Kafka remembers no keys of publishes"}
	run.Leaks = []goleak.Option{ // kfake's own, which take their time on a busy machine; ours have other names
		goleak.IgnoreAnyFunction("github.com/twmb/franz-go/pkg/kfake.(*group).manage"),
		goleak.IgnoreAnyFunction("github.com/twmb/franz-go/pkg/kfake.(*clientConn).read"),
		goleak.IgnoreAnyFunction("github.com/twmb/franz-go/pkg/kfake.(*clientConn).write"),
	}
	storetest.Run(t, run)
}

// gateway is a store whose members have names, and that knows which of the others have crashed.
type gateway struct {
	*Store
	id   string
	dead *sync.Map
}

func (g *gateway) Subscribe(ctx context.Context, spec store.Spec) (store.Feed, error) {
	spec.Instance = g.id
	spec.Gone = func(id string) bool { _, is := g.dead.Load(id); return is }
	return g.Store.Subscribe(ctx, spec)
}

// crash ends the member as the death of the process would.
func (f *feed) crash() {
	f.cancel()
	f.cl.Close()
	f.cl.AllowRebalance()
}

// gate makes connections on which nothing arrives while it is shut. What is sent goes out.
type gate struct {
	mu   sync.Mutex
	open chan struct{} // closed while it is open
}

func newGate() *gate {
	g := &gate{open: make(chan struct{})}
	close(g.open)
	return g
}

func (g *gate) shut() (reopen func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := make(chan struct{})
	g.open = c
	return func() { close(c) }
}

func (g *gate) dial(ctx context.Context, network, host string) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, network, host)
	if err != nil {
		return nil, err
	}
	return &gated{Conn: c, g: g, closed: make(chan struct{}), late: make(chan struct{})}, nil
}

type gated struct {
	net.Conn
	g      *gate
	once   sync.Once
	closed chan struct{}

	mu    sync.Mutex
	timer *time.Timer
	late  chan struct{} // closed when the read deadline has passed
}

// SetReadDeadline holds at the gate too: the client ends requests by it.
func (c *gated) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer != nil && !c.timer.Stop() {
		<-c.late // it is closing it
	}
	c.timer = nil
	select {
	case <-c.late:
		c.late = make(chan struct{})
	default:
	}
	switch late, left := c.late, time.Until(t); {
	case t.IsZero():
	case left <= 0:
		close(late)
	default:
		c.timer = time.AfterFunc(left, func() { close(late) })
	}
	return c.Conn.SetReadDeadline(t)
}

func (c *gated) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

func (c *gated) deadline() chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.late
}

func (c *gated) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.g.mu.Lock()
	open := c.g.open
	c.g.mu.Unlock()
	select {
	case <-open:
		return n, err
	case <-c.closed:
		return 0, net.ErrClosed
	case <-c.deadline():
		return 0, os.ErrDeadlineExceeded
	}
}

func (c *gated) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// downable makes connections that break, and can't be made, while it is down.
type downable struct {
	mu    sync.Mutex
	down  bool
	conns []net.Conn
}

func (d *downable) set(down bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.down = down
	for _, c := range d.conns {
		c.Close()
	}
	d.conns = nil
}

func (d *downable) dial(ctx context.Context, network, host string) (net.Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.down {
		return nil, &net.OpError{Op: "dial", Net: network, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	}
	c, err := (&net.Dialer{}).DialContext(ctx, network, host)
	if err == nil {
		d.conns = append(d.conns, c)
	}
	return c, err
}

// client is a plain client of the cluster, that shares nothing with the store.
func client(t testing.TB, brokers []string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(brokers...), kgo.DisableClientMetrics()}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}
