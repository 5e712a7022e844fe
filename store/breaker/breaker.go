// Package breaker is a Publisher around a Publisher that stops asking a store which fails: who publishes then gets an
// answer at once instead of a wait that ends in nothing, and the store is not asked by thousands while it comes back.
//
// There is a circuit per topic and one per cluster, which is the part of the name before a colon. A topic's opens after 5
// publishes to it have failed with none stored in between, a cluster's after 10 of at least 2 topics. An open circuit
// refuses (errs.CircuitOpen) for 2 s, then lets one publish through: when that is stored the circuit closes, when not it
// opens again. What fails by the message's own fault, by a full disk or since the caller went away says nothing of the store.
//
// A topic whose publishes fail now and then, since one of its partitions has no leader, say, is not cut off.
package breaker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sony/gobreaker/v2"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

const (
	topicFailures   = 5 // in a row that open the circuit of a topic
	clusterFailures = 10
	clusterTopics   = 2               // that must be among them
	openTime        = 2 * time.Second // that nothing is let through
	maxCircuits     = 10_000          // of what fails; of more topics only the cluster's is kept
	forgetAfter     = time.Minute     // without a failure
)

// Config is what a Breaker stands on. All fields are needed.
type Config struct {
	Store   store.Publisher
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// Breaker is a store.Publisher. Its methods may be called concurrently. While nothing fails a publish costs it one read of a
// number.
type Breaker struct {
	next    store.Publisher
	log     *slog.Logger
	metrics metrics

	troubled atomic.Int64 // circuits that there are
	mu       sync.Mutex
	circuits map[string]*circuit // of what failed since it last worked: by the topic's name, or that of a cluster with a colon behind it
}

// Once is a Breaker around a store that remembers publishes.
type Once struct {
	*Breaker
	once store.OncePublisher
}

var (
	_ store.Publisher     = (*Breaker)(nil)
	_ store.OncePublisher = (*Once)(nil)
)

// New makes one with all circuits closed. It panics where the metrics are registered already.
func New(c Config) *Breaker {
	b := &Breaker{next: c.Store, log: c.Log, circuits: map[string]*circuit{}}
	b.metrics.register(c.Metrics, b)
	return b
}

// Publisher is the breaker with the powers of what it stands before: a store.OncePublisher where that is one.
func (b *Breaker) Publisher() store.Publisher {
	if once, ok := b.next.(store.OncePublisher); ok {
		return &Once{b, once}
	}
	return b
}

// Publish is store.Publisher's, and CircuitOpen, at once, while the circuit of the topic or of its cluster is open: nothing
// was stored then, and the store holds nothing.
func (b *Breaker) Publish(ctx context.Context, topic string, ack store.Ack, msgs ...*store.Message) error {
	if b.troubled.Load() > 0 {
		return b.guarded(ctx, topic, func() error { return b.next.Publish(ctx, topic, ack, msgs...) })
	}
	err := b.next.Publish(ctx, topic, ack, msgs...)
	if err != nil {
		b.note(ctx, topic, err)
	}
	return err
}

// PublishOnce is store.OncePublisher's, and CircuitOpen as with Publish.
func (o *Once) PublishOnce(ctx context.Context, topic string, ack store.Ack, once store.Once, msgs ...*store.Message) error {
	if o.troubled.Load() > 0 {
		return o.guarded(ctx, topic, func() error { return o.once.PublishOnce(ctx, topic, ack, once, msgs...) })
	}
	err := o.once.PublishOnce(ctx, topic, ack, once, msgs...)
	if err != nil {
		o.note(ctx, topic, err)
	}
	return err
}

// clusterOf is the key of the circuit of the topic's cluster.
func clusterOf(topic string) string { return topic[:strings.IndexByte(topic, ':')+1] }

// guarded publishes through the circuits that there are. The topic's is asked last, so that a cluster's probe is not
// spent on a topic that is closed to it.
func (b *Breaker) guarded(ctx context.Context, topic string, publish func() error) error {
	cluster, own := b.find(topic)
	err := cluster.run(ctx, func() error { return own.run(ctx, publish) })
	switch judge(ctx, err) {
	case worked:
		b.drop(cluster)
		b.drop(own)
	case failed:
		cluster.failedBy(topic)
		b.touch(ctx, topic, err, cluster == nil, own == nil)
	case neither:
		if c := (*openError)(nil); errors.As(err, &c) {
			b.metrics.refused[c.circuit.scope].Inc()
		}
	}
	return err
}

// find is the circuits of a topic; nil where there is none, since nothing fails.
func (b *Breaker) find(topic string) (cluster, own *circuit) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.circuits[key(clusterOf(topic))], b.circuits[topic]
}

// key is the name of a cluster's circuit: the default one has no name, and a topic's is never ":".
func key(cluster string) string {
	if cluster == "" {
		return ":"
	}
	return cluster
}

// note takes what came of a publish that met no circuit.
func (b *Breaker) note(ctx context.Context, topic string, err error) {
	if judge(ctx, err) == failed {
		b.touch(ctx, topic, err, true, true)
	}
}

// touch counts a failure in circuits that the publish did not go through.
func (b *Breaker) touch(ctx context.Context, topic string, err error, cluster, own bool) {
	if cluster {
		if c := b.make(key(clusterOf(topic)), scopeCluster); c != nil {
			c.failedBy(topic)
			c.late(ctx, err)
		}
	}
	if own {
		if c := b.make(topic, scopeTopic); c != nil {
			c.late(ctx, err)
		}
	}
}

// make finds a circuit or makes it; nil where there are too many.
func (b *Breaker) make(name string, s scope) *circuit {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.circuits[name]
	if c == nil {
		if len(b.circuits) >= maxCircuits {
			b.sweep()
		}
		if len(b.circuits) >= maxCircuits && s == scopeTopic {
			return nil
		}
		c = b.newCircuit(strings.Clone(name), s)
		b.circuits[c.name] = c
		b.troubled.Add(1)
	}
	c.last.Store(time.Now().UnixNano())
	return c
}

// drop forgets a circuit that a publish went through well, unless it is still open: another publish may have been that.
func (b *Breaker) drop(c *circuit) {
	if c == nil || c.State() != gobreaker.StateClosed {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.circuits[c.name] == c {
		delete(b.circuits, c.name)
		b.troubled.Add(-1)
	}
}

// sweep forgets what nobody has tried for a while. Callers hold mu.
func (b *Breaker) sweep() {
	old := time.Now().Add(-forgetAfter).UnixNano()
	for name, c := range b.circuits {
		if c.last.Load() < old {
			delete(b.circuits, name)
			b.troubled.Add(-1)
		}
	}
}

// State is a circuit that lets nothing through, or one publish at a time.
type State struct {
	Cluster string // "" is the default one
	Topic   string // as the store has it; "" is all of the cluster
	Probing bool   // the next publish, or one that is under way, tells whether it works again
}

// Open lists circuits that are not closed, in no order.
func (b *Breaker) Open() (list []State) {
	b.mu.Lock()
	b.sweep()
	all := make([]*circuit, 0, len(b.circuits))
	for _, c := range b.circuits {
		all = append(all, c)
	}
	b.mu.Unlock()
	for _, c := range all {
		s := c.State()
		if s == gobreaker.StateClosed {
			continue
		}
		st := State{Probing: s == gobreaker.StateHalfOpen}
		st.Cluster, st.Topic, _ = strings.Cut(c.name, ":")
		if c.scope == scopeTopic && !strings.Contains(c.name, ":") {
			st.Cluster, st.Topic = "", c.name
		}
		list = append(list, st)
	}
	return list
}

// openError is the refusal of a circuit.
type openError struct{ circuit *circuit }

func (e *openError) Error() string {
	return fmt.Sprintf("the store has failed for %s lately and is not asked again yet: %v", e.circuit, errs.CircuitOpen)
}

func (*openError) Unwrap() error { return errs.CircuitOpen }
