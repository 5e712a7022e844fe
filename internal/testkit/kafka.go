package testkit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Option is a property of a cluster.
type Option func(*options)

type options struct {
	brokers    int
	line       string
	properties []string
	users      map[string]string // see Secured
	reauth     int
	listeners  []Listener
	at         Places
}

// Places says for each server, from 0, on which host it is and by which command its Java is started there, such as nsenter;
// none is this host.
type Places func(i int) (host string, command []string)

func here(int) (string, []string) { return "127.0.0.1", nil }

// At is where the brokers run. Without it all are on loopback.
func At(p Places) Option { return func(o *options) { o.at = p } }

// Brokers is the number of brokers, 1 or 3; each is a controller too. Without it there is one.
func Brokers(n int) Option { return func(o *options) { o.brokers = n } }

// Line is the release line, "4.3" (without it) or "3.9", the oldest that is supported.
func Line(line string) Option { return func(o *options) { o.line = line } }

// Property is a line of the brokers' property files, such as "group.consumer.session.timeout.ms=45000"; it wins over what
// else is there.
func Property(line string) Option {
	return func(o *options) { o.properties = append(o.properties, line) }
}

// Cluster is a running Kafka. With three brokers topics have three replicas, two of them in sync for a write; topics are
// not made by themselves, and have three partitions where nothing is said. Its methods may be called concurrently, those
// on one broker not.
type Cluster struct {
	lib, dir string
	brokers  []*broker
	at       Places
}

type broker struct {
	addr, dir  string
	controller int               // its port as a controller
	secured    map[string]string // addresses by the name of the listener
	proc       *process
}

// Kafka starts a cluster that ends with the test. It takes 4 to 9 seconds: share one per package, see [Shared].
func Kafka(t testing.TB, opts ...Option) *Cluster {
	t.Helper()
	c, err := StartKafka(opts...)
	if errors.Is(err, ErrMissing) {
		Missing(t, "Kafka", err)
	}
	if err != nil {
		t.Fatalf("starting Kafka: %v", err)
	}
	t.Cleanup(c.Close)
	return c
}

// Shared is a cluster for the tests of a package: the first that needs it starts it, TestMain closes it.
//
//	var cluster = testkit.NewShared(testkit.Brokers(3))
//
//	func TestMain(m *testing.M) { code := m.Run(); cluster.Close(); os.Exit(code) }
type Shared struct {
	opts []Option
	once sync.Once
	c    *Cluster
	err  error
}

// NewShared starts nothing yet.
func NewShared(opts ...Option) *Shared { return &Shared{opts: opts} }

// Get answers the cluster, after starting it if need be.
func (s *Shared) Get(t testing.TB) *Cluster {
	t.Helper()
	s.once.Do(func() { s.c, s.err = StartKafka(s.opts...) })
	if errors.Is(s.err, ErrMissing) {
		Missing(t, "Kafka", s.err)
	}
	if s.err != nil {
		t.Fatalf("starting Kafka: %v", s.err)
	}
	return s.c
}

// Close ends the cluster if it was started.
func (s *Shared) Close() {
	s.once.Do(func() { s.err = errors.New("closed") })
	if s.c != nil {
		s.c.Close()
	}
}

// StartKafka starts a cluster and returns when all its brokers are in. ErrMissing where the machine can't.
func StartKafka(opts ...Option) (*Cluster, error) {
	o := options{brokers: 1, line: "4.3", at: here}
	for _, opt := range opts {
		opt(&o)
	}
	if err := wanted("java", "mvn"); err != nil {
		return nil, err
	}
	lib, err := jars("kafka-" + o.line)
	if err != nil {
		return nil, err
	}
	var c *Cluster
	for range 3 { // a port may be taken by another before the broker has it
		if c, err = startKafka(lib, o); err == nil {
			return c, nil
		}
	}
	return nil, err
}

func startKafka(lib string, o options) (*Cluster, error) {
	dir, err := os.MkdirTemp("", "kateway-kafka-")
	if err != nil {
		return nil, err
	}
	c := &Cluster{lib: lib, dir: dir, at: o.at}
	if err := c.start(o); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (c *Cluster) start(o options) error {
	n := o.brokers
	if err := c.configure(o); err != nil {
		return err
	}
	var wg sync.WaitGroup
	errs := make([]error, n)
	for i := range n {
		wg.Go(func() { errs[i] = c.format(i, o.users) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for i := range n {
		if err := c.run(i); err != nil {
			return err
		}
	}
	for _, b := range c.brokers {
		if err := b.proc.listening(b.addr); err != nil {
			return err
		}
	}
	return c.complete()
}

// configure writes the brokers' property files. Small internal topics and no rebalance delay make tests quick; two
// replicas in sync make losses show.
func (c *Cluster) configure(o options) error {
	n, each := o.brokers, len(o.listeners)
	ports, err := freePorts((2 + each) * n)
	if err != nil {
		return err
	}
	voters := make([]string, n)
	for i := range n {
		host, _ := c.at(i)
		voters[i] = fmt.Sprintf("%d@%s:%d", i+1, host, ports[n+i])
	}
	replicas, inSync := 1, 1
	if n >= 3 {
		replicas, inSync = 3, 2
	}
	for i := range n {
		host, _ := c.at(i)
		b := &broker{addr: fmt.Sprintf("%s:%d", host, ports[i]), dir: filepath.Join(c.dir, fmt.Sprint(i+1)), controller: ports[n+i]}
		c.brokers = append(c.brokers, b)
		if err := os.MkdirAll(b.dir, 0o755); err != nil {
			return err
		}
		secured, err := b.secure(o, ports[2*n+i*each:])
		if err != nil {
			return err
		}
		text := strings.NewReplacer("{id}", fmt.Sprint(i+1), "{voters}", strings.Join(voters, ","), "{addr}", b.addr,
			"{controller}", fmt.Sprintf("%s:%d", host, ports[n+i]), "{dir}", filepath.Join(b.dir, "log"),
			"{replicas}", fmt.Sprint(replicas), "{insync}", fmt.Sprint(inSync)).Replace(properties) + secured + strings.Join(o.properties, "\n")
		if err := os.WriteFile(b.properties(), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

const properties = `process.roles=broker,controller
node.id={id}
broker.rack=rack{id}
controller.quorum.voters={voters}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://{addr},CONTROLLER://{controller}
advertised.listeners=PLAINTEXT://{addr}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={dir}
auto.create.topics.enable=false
num.partitions=3
default.replication.factor={replicas}
min.insync.replicas={insync}
offsets.topic.num.partitions=4
offsets.topic.replication.factor={replicas}
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor={replicas}
transaction.state.log.min.isr={insync}
share.coordinator.state.topic.num.partitions=4
share.coordinator.state.topic.replication.factor={replicas}
share.coordinator.state.topic.min.isr={insync}
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=500
log.retention.check.interval.ms=500
log.initial.task.delay.ms=500
`

func (b *broker) properties() string { return filepath.Join(b.dir, "server.properties") }

func (c *Cluster) format(i int, users map[string]string) error {
	cmd := exec.Command("java", append([]string{"-XX:TieredStopAtLevel=1", "-cp", filepath.Join(c.lib, "*"), "kafka.tools.StorageTool",
		"format", "-t", "kateway-test-cluster00", "-c", c.brokers[i].properties()}, scram(users)...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("formatting: %w\n%s", err, tail(out))
	}
	return nil
}

func (c *Cluster) run(i int) error {
	b := c.brokers[i]
	_, command := c.at(i)
	var err error
	b.proc, err = start(command, filepath.Join(b.dir, "out.log"), "-Xms192m", "-Xmx384m", "-XX:+UseSerialGC",
		"-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", filepath.Join(c.lib, "*"),
		"kafka.Kafka", b.properties())
	return err
}

// complete waits until every broker that runs is known to the cluster.
func (c *Cluster) complete() error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.Addrs()...), kgo.DisableClientMetrics())
	if err != nil {
		return err
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), startWait)
	defer cancel()
	for {
		got, err := kadm.NewClient(cl).ListBrokers(ctx)
		if err == nil && len(got) == len(c.brokers) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d brokers in the cluster after %v: %v", len(got), len(c.brokers), startWait, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Addrs are the brokers' addresses. Broker i has the node id i+1.
func (c *Cluster) Addrs() []string {
	var addrs []string
	for _, b := range c.brokers {
		addrs = append(addrs, b.addr)
	}
	return addrs
}

// Kill ends broker i with SIGKILL.
func (c *Cluster) Kill(i int) { c.brokers[i].proc.kill() }

// Stop freezes broker i with SIGSTOP: its connections stay, nothing answers.
func (c *Cluster) Stop(i int) error { return c.brokers[i].proc.signal(syscall.SIGSTOP) }

// Cont lets broker i go on after Stop.
func (c *Cluster) Cont(i int) error { return c.brokers[i].proc.signal(syscall.SIGCONT) }

// Term ends broker i as an operator does, and waits for that.
func (c *Cluster) Term(i int) { c.brokers[i].proc.stop() }

// Start starts broker i again with what it had on disk, and waits until it takes connections; it may not be in yet.
func (c *Cluster) Start(i int) error {
	if err := c.run(i); err != nil {
		return err
	}
	return c.brokers[i].proc.listening(c.brokers[i].addr)
}

// Restart starts broker i again with what it had on disk, after ending it cleanly if it runs, and waits until it is in.
func (c *Cluster) Restart(i int) error {
	b := c.brokers[i]
	b.proc.stop()
	if err := c.run(i); err != nil {
		return err
	}
	if err := b.proc.listening(b.addr); err != nil {
		return err
	}
	return c.complete()
}

// Tool runs one of Kafka's command line tools by its main class, such as org.apache.kafka.tools.TopicCommand, with
// --bootstrap-server added, and answers its output.
func (c *Cluster) Tool(ctx context.Context, class string, args ...string) (string, error) {
	all := append([]string{"-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp",
		filepath.Join(c.lib, "*"), class, "--bootstrap-server", strings.Join(c.Addrs(), ",")}, args...)
	out, err := exec.CommandContext(ctx, "java", all...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s: %w\n%s", class, err, tail(out))
	}
	return string(out), nil
}

// Close kills the brokers and removes their data. A second Close does nothing.
func (c *Cluster) Close() {
	for _, b := range c.brokers {
		if b.proc != nil {
			b.proc.kill()
		}
	}
	_ = os.RemoveAll(c.dir) // a leftover in the temporary folder is no reason to fail a test
}
