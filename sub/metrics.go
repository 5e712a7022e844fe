package sub

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kateway/kateway/meta"
)

// maxTopicLabels is how many topics have a series of their own; the others share one.
const maxTopicLabels = 1000

type metrics struct {
	messages topicCounters
	streams  [3]prometheus.Gauge // by streamForm
	sockets  prometheus.Gauge
	answered prometheus.Counter // polls
	empty    prometheus.Counter
	late     prometheus.Counter // acks after their lease
}

func newMetrics(r prometheus.Registerer) *metrics {
	messages := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kateway_sub_messages_total", Help: "Messages written to subscribers; topics over 1,000 count as other.",
	}, []string{"topic"})
	streams := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "kateway_sub_streams", Help: "Streams that are open.",
	}, []string{"form"})
	polls := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kateway_sub_polls_total", Help: "Polls answered, with messages or empty.",
	}, []string{"answer"})
	late := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "kateway_sub_late_total", Help: "Messages that took longer to write than their lease: they are delivered again.",
	})
	r.MustRegister(messages, streams, polls, late)
	m := &metrics{
		messages: topicCounters{vec: messages, known: map[meta.Topic]prometheus.Counter{}},
		late:     late,
		answered: polls.WithLabelValues("messages"), empty: polls.WithLabelValues("empty"),
	}
	for form, name := range [...]string{streamLines: "ndjson", streamText: "text", streamEvents: "sse"} {
		m.streams[form] = streams.WithLabelValues(name)
	}
	m.sockets = streams.WithLabelValues("ws")
	return m
}

// topicCounters are counters by topic, at most maxTopicLabels of them: a request looks its own up once.
type topicCounters struct {
	vec   *prometheus.CounterVec
	mu    sync.RWMutex
	known map[meta.Topic]prometheus.Counter
}

func (c *topicCounters) of(t meta.Topic) prometheus.Counter {
	c.mu.RLock()
	counter, ok := c.known[t]
	c.mu.RUnlock()
	if ok {
		return counter
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if counter, ok := c.known[t]; ok {
		return counter
	}
	if len(c.known) >= maxTopicLabels {
		return c.vec.WithLabelValues("other")
	}
	counter = c.vec.WithLabelValues(t.String())
	c.known[t] = counter
	return counter
}
