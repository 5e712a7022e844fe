package home

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	served                     prometheus.Gauge
	moves, absences, evictions prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, r *Router) metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "kateway_home_" + name, Help: help})
	}
	m := metrics{
		served:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "kateway_home_served_sessions", Help: "Clients of other gateways in groups that are here."}),
		moves:     counter("moves_total", "Sessions whose group went to another gateway, or whose home was lost."),
		absences:  counter("absences_total", "Times that another gateway could not be reached, or was stopping."),
		evictions: counter("evictions_total", "Groups left because their home is another gateway."),
	}
	gauge := func(name, help string, value func() float64) prometheus.GaugeFunc {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "kateway_home_" + name, Help: help}, value)
	}
	reg.MustRegister(m.served, m.moves, m.absences, m.evictions,
		gauge("gateways", "Gateways that groups may have their home at, this one included.", func() float64 { return float64(r.view.count()) }),
		gauge("forwarded_sessions", "Clients of this gateway whose group is at another one.", func() float64 { return float64(r.forwarded()) }))
	return m
}

// forwarded is how many sessions go over links.
func (r *Router) forwarded() (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.links {
		n += l.size()
	}
	return n
}

func (l *link) size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.sessions)
}
