package gateway

import (
	"net/http"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/kateway/kateway/internal/httpx"
)

// metrics are those of the process and of HTTP. Labels come from the route table and from status codes, never from
// requests, so that their number is bounded.
type metrics struct {
	requests  *prometheus.CounterVec
	durations *prometheus.HistogramVec
	bytes     *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, version string) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kateway_http_requests_total",
			Help: "Requests that are over, by role, route and status code; code aborted: gone without an answer.",
		}, []string{"role", "route", "code"}),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "kateway_http_request_duration_seconds",
			Help:    "Time from the head of a request to the end of its answer; waiting polls and streams included.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 15, 60},
		}, []string{"role", "route"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kateway_http_response_bytes_total",
			Help: "Bytes of answers, headers not counted.",
		}, []string{"role", "route"}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "kateway_build_info",
		Help:        "Always 1; the labels tell what runs.",
		ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version()},
	})
	build.Set(1)
	reg.MustRegister(m.requests, m.durations, m.bytes, build,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// route makes the observer of one route, with its handles resolved: nothing is looked up per request but the status.
func (m *metrics) route(role Role, route string) httpx.Observer {
	labels := prometheus.Labels{"role": string(role), "route": route}
	return &routeMetrics{
		requests: m.requests.MustCurryWith(labels),
		duration: m.durations.With(labels),
		bytes:    m.bytes.With(labels),
	}
}

// counted counts the requests of a route on the way to its observer.
type counted struct {
	httpx.Observer
	n *atomic.Uint64
}

func (c counted) Observe(r *http.Request, route string, status int, bytes int64, took time.Duration) {
	c.n.Add(1)
	c.Observer.Observe(r, route, status, bytes, took)
}

type routeMetrics struct {
	requests *prometheus.CounterVec
	duration prometheus.Observer
	bytes    prometheus.Counter
	codes    sync.Map // int -> prometheus.Counter
}

// Observe counts a request.
func (m *routeMetrics) Observe(_ *http.Request, _ string, status int, bytes int64, took time.Duration) {
	m.code(status).Inc()
	m.duration.Observe(took.Seconds())
	m.bytes.Add(float64(bytes))
}

func (m *routeMetrics) code(status int) prometheus.Counter {
	if c, found := m.codes.Load(status); found {
		return c.(prometheus.Counter) //nolint:errcheck,forcetypeassert // nothing else is put there
	}
	label := "aborted"
	if status != 0 {
		label = strconv.Itoa(status)
	}
	c := m.requests.WithLabelValues(label)
	m.codes.Store(status, c)
	return c
}
