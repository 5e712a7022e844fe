package breaker

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sony/gobreaker/v2"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// scope is what a circuit is of.
type scope uint8

const (
	scopeTopic scope = iota
	scopeCluster
	scopes
)

func (s scope) String() string { return [scopes]string{"topic", "cluster"}[s] }

// circuit counts the failures of a topic or a cluster. A nil circuit is closed, and counts nothing.
type circuit struct {
	*gobreaker.CircuitBreaker[struct{}]
	name  string
	scope scope
	last  atomic.Int64 // when it failed last, Unix nanoseconds

	mu     sync.Mutex
	topics []string // of a cluster: that failed, clusterTopics at most
}

// newCircuit makes a closed one.
func (b *Breaker) newCircuit(name string, s scope) *circuit {
	c := &circuit{name: name, scope: s}
	c.CircuitBreaker = gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		Name:        name,
		MaxRequests: 1, // at a time while it probes, and that many must be stored
		Timeout:     openTime,
		ReadyToTrip: func(n gobreaker.Counts) bool {
			if s == scopeTopic {
				return n.ConsecutiveFailures >= topicFailures
			}
			return n.ConsecutiveFailures >= clusterFailures && c.several()
		},
		IsExcluded: func(err error) bool { return errors.Is(err, errSilent) },
		OnStateChange: func(_ string, _, to gobreaker.State) {
			if to == gobreaker.StateOpen {
				b.metrics.opened[s].Inc()
			}
			if s == scopeCluster {
				b.log.Warn("circuit of a cluster", "cluster", strings.TrimSuffix(name, ":"), "state", to.String())
			} else {
				b.log.Info("circuit of a topic", "topic", name, "state", to.String())
			}
		},
	})
	return c
}

func (c *circuit) String() string {
	if c.scope == scopeCluster {
		return "several topics"
	}
	return "this topic"
}

// failedBy notes, of a cluster, that a publish to the topic failed.
func (c *circuit) failedBy(topic string) {
	if c == nil || c.scope != scopeCluster {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.topics) < clusterTopics && !slices.Contains(c.topics, topic) {
		c.topics = append(c.topics, strings.Clone(topic))
	}
}

func (c *circuit) several() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.topics) >= clusterTopics
}

// errSilent marks an outcome that says nothing of the store.
var errSilent = errors.New("says nothing of the store")

// silent hides such an outcome's text from nobody: it is what the breaker sees, not the caller.
func silent(ctx context.Context, err error) error {
	switch judge(ctx, err) {
	case worked:
		return nil
	case failed:
		return err
	case neither:
	}
	return errSilent
}

// run does f if the circuit lets it, and counts what comes of it.
func (c *circuit) run(ctx context.Context, f func() error) (err error) {
	if c == nil {
		return f()
	}
	_, refused := c.Execute(func() (struct{}, error) {
		err = f()
		return struct{}{}, silent(ctx, err)
	})
	if errors.Is(refused, gobreaker.ErrOpenState) || errors.Is(refused, gobreaker.ErrTooManyRequests) {
		return &openError{c}
	}
	return err
}

// late counts a failure of a publish that began before there was a circuit. One that is not closed has been judged by then.
func (c *circuit) late(ctx context.Context, err error) {
	if c.State() == gobreaker.StateClosed {
		_, _ = c.Execute(func() (struct{}, error) { return struct{}{}, silent(ctx, err) })
	}
}

// outcome is what a publish says of the store.
type outcome uint8

const (
	neither outcome = iota
	worked
	failed
)

// judge says what the answer of a publish means for its circuits.
func judge(ctx context.Context, err error) outcome {
	if err == nil {
		return worked
	}
	var b *store.BatchError
	if errors.As(err, &b) && slices.Contains(b.Errs, nil) {
		return worked
	}
	if k := errs.Of(err); k != errs.Unavailable && k != errs.Uncertain {
		return neither
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return neither // its caller gave up
	}
	return failed
}

// metrics have a handle per scope.
type metrics struct {
	opened, refused [scopes]prometheus.Counter
}

func (m *metrics) register(reg prometheus.Registerer, b *Breaker) {
	opened := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kateway_circuits_opened_total",
		Help: "How often a circuit opened, since publishes to a topic or a cluster failed one after the other.",
	}, []string{"of"})
	refused := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kateway_circuit_refused_total",
		Help: "Publishes that were not tried, since a circuit was open.",
	}, []string{"of"})
	reg.MustRegister(opened, refused)
	for s := range scopes {
		m.opened[s], m.refused[s] = opened.WithLabelValues(s.String()), refused.WithLabelValues(s.String())
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        "kateway_circuits_open",
			Help:        "Circuits that are open, or let single publishes through to see whether the store works again.",
			ConstLabels: prometheus.Labels{"of": s.String()},
		}, func() (n float64) {
			for _, o := range b.Open() {
				if (o.Topic == "") == (s == scopeCluster) {
					n++
				}
			}
			return n
		}))
	}
}
