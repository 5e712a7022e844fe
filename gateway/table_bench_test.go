package gateway

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kateway/kateway/internal/httpx"
)

// BenchmarkRoute is what a request costs before and after its handler: route, rules, scope, metrics.
func BenchmarkRoute(b *testing.B) {
	cfg := Default()
	g := &Gateway{cfg: cfg, log: slog.New(slog.DiscardHandler)}
	m := newMetrics(prometheus.NewRegistry(), "test")
	t := newTable(newRules(&cfg, []Role{Pub, Sub}, nil), g.wrapper(m, Pub))
	t.add(httpx.Route{Method: http.MethodPost, Path: "/v1/msgs/:topic/:ver", Handler: func(w http.ResponseWriter, r *http.Request) error {
		_ = httpx.Param(r, "topic")
		w.WriteHeader(http.StatusCreated)
		return nil
	}}, g.wrapper(m, Pub))
	r := httptest.NewRequest(http.MethodPost, "http://127.0.0.1:9191/v1/msgs/orders/v1?key=k", http.NoBody)
	for _, name := range []string{"Content-Type", "Content-Length", "User-Agent", "Accept"} {
		r.Header.Set(name, "something/that has a length")
	}
	w := &nothing{header: http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		t.ServeHTTP(w, r)
	}
}

// nothing is a response that goes nowhere.
type nothing struct{ header http.Header }

func (n *nothing) Header() http.Header         { return n.header }
func (n *nothing) Write(b []byte) (int, error) { return len(b), nil }
func (n *nothing) WriteHeader(int)             {}
