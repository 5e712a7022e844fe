package quota

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// maxApps is how many apps have counters of their own.
const maxApps = 1000

// metrics counts what is refused. Names of apps are labels only up to a number; keys, topics and addresses never are.
type metrics struct {
	limits [scopes][whats]prometheus.Counter
	apps   *prometheus.CounterVec

	mu    sync.Mutex
	known map[string]prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	limits := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kateway_quota_refused_total", Help: "Requests, and batches of WebSockets, that were over a limit, by whose it is."}, []string{"scope", "limit"})
	m := &metrics{known: map[string]prometheus.Counter{}, apps: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kateway_quota_app_refused_total", Help: "The same of limits of apps, by app. Apps over 1,000 count as other."}, []string{"app"})}
	r.MustRegister(limits, m.apps)
	for s := range scopes {
		for w := nothing + 1; w < whats; w++ {
			if s == scopeApp || w < overTopics {
				m.limits[s][w] = limits.WithLabelValues(scopeNames[s], limitNames[w])
			}
		}
	}
	return m
}

// refused counts a refusal.
func (m *metrics) refused(by *meter, over what) {
	m.limits[by.scope][over].Inc()
	if by.scope == scopeApp {
		m.app(by.name).Inc()
	}
}

// app is the counter of an app, or that of all others.
func (m *metrics) app(name string) prometheus.Counter {
	m.mu.Lock()
	defer m.mu.Unlock()
	c, ok := m.known[name]
	if !ok && len(m.known) >= maxApps || name == "" {
		return m.apps.WithLabelValues("other")
	}
	if !ok {
		c = m.apps.WithLabelValues(name)
		m.known[name] = c
	}
	return c
}
