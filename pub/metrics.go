package pub

import (
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/store"
)

// maxTopics is how many topics have counters of their own.
const maxTopics = 1000

// metrics counts publishes. A topic's handles are resolved once, at its first message that is stored; what fails before
// that, and what comes after the first maxTopics, counts as topic "other".
type metrics struct {
	messages, bytes, failures *prometheus.CounterVec
	seconds                   prometheus.Histogram
	queued                    prometheus.Gauge

	other  *counters
	mu     sync.Mutex // to write topics
	topics atomic.Pointer[map[meta.Topic]*counters]
}

// counters are one topic's.
type counters struct {
	label           string
	messages, bytes prometheus.Counter
	failures        *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	const note = "Topics over 1,000, and topics that nothing was stored in yet, count as other."
	m := &metrics{
		messages: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kateway_publish_messages_total", Help: "Messages stored. " + note}, []string{"topic"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kateway_publish_bytes_total", Help: "Bytes of keys, values and headers of messages stored. " + note}, []string{"topic"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kateway_publish_failures_total",
			Help: "Publishes that failed, and messages that failed in a batch partly stored or after async=1, by error code. " + note}, []string{"topic", "code"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "kateway_publish_duration_seconds", Help: "How long the store took to answer a publish.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 15}}),
		queued: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kateway_publish_queued_bytes", Help: "Bytes in memory of async=1 that have no outcome yet."}),
	}
	r.MustRegister(m.messages, m.bytes, m.failures, m.seconds, m.queued)
	m.other = m.resolve("other")
	m.topics.Store(&map[meta.Topic]*counters{})
	return m
}

func (m *metrics) resolve(topic string) *counters {
	return &counters{label: topic, messages: m.messages.WithLabelValues(topic), bytes: m.bytes.WithLabelValues(topic), failures: m.failures}
}

// known finds a topic that a message was stored in.
func (m *metrics) known(t meta.Topic) (*counters, bool) {
	c, ok := (*m.topics.Load())[t]
	return c, ok
}

// of finds a topic's counters, or makes them.
func (m *metrics) of(t meta.Topic) *counters {
	if c, ok := m.known(t); ok {
		return c
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	old := *m.topics.Load()
	if c, ok := old[t]; ok {
		return c
	}
	if len(old) >= maxTopics {
		return m.other
	}
	t = meta.Topic{App: strings.Clone(t.App), Name: strings.Clone(t.Name), Ver: strings.Clone(t.Ver)} // not to pin a request
	topics := maps.Clone(old)
	topics[t] = m.resolve(t.String())
	m.topics.Store(&topics)
	return topics[t]
}

func (m *metrics) took(d time.Duration) { m.seconds.Observe(d.Seconds()) }

func (c *counters) failed(kind errs.Kind) {
	c.failures.WithLabelValues(c.label, kind.Code()).Inc()
}

// outcome counts each message by what became of it, and answers how many were stored and their bytes.
func (c *counters) outcome(err error, msgs []*store.Message) (stored, bytes int) {
	for i, m := range msgs {
		if err != nil {
			if failure := store.Each(err, i); failure != nil {
				c.failed(errs.Of(failure))
				continue
			}
		}
		stored++
		bytes += m.Size()
	}
	c.messages.Add(float64(stored))
	c.bytes.Add(float64(bytes))
	return stored, bytes
}
