package gateway

import (
	_ "embed"
	"net/http"
	"net/http/pprof"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/kateway/kateway/internal/httpx"
)

// openAPI is the document of what all roles serve.
//
//go:embed openapi.json
var openAPI []byte // read only

// openAPIRoute serves the document; it stands on every role.
func openAPIRoute() httpx.Route {
	return httpx.Route{Method: http.MethodGet, Path: "/openapi.json", Handler: func(w http.ResponseWriter, _ *http.Request) error {
		w.Header().Set("Content-Type", "application/json")
		_, err := w.Write(openAPI)
		return err
	}}
}

// manRoutes are those of role man that the document tells of, besides the management API.
func manRoutes(reg *prometheus.Registry, guard func(httpx.Handler) httpx.Handler) []httpx.Route {
	h := promhttp.HandlerFor(reg, promhttp.HandlerOpts{Registry: reg, EnableOpenMetrics: true})
	return []httpx.Route{{Method: http.MethodGet, Path: "/metrics", Handler: guard(plain(h.ServeHTTP))}}
}

// debugRoutes are for those who look into the process; they stand on role man only.
func debugRoutes(guard func(httpx.Handler) httpx.Handler) []httpx.Route {
	return []httpx.Route{
		{Method: http.MethodGet, Path: "/debug/pprof/*profile", Handler: guard(debug)},
		{Method: http.MethodPost, Path: "/debug/pprof/symbol", Handler: guard(plain(pprof.Symbol))}, // go tool pprof asks this way
	}
}

func debug(w http.ResponseWriter, r *http.Request) error {
	switch httpx.Param(r, "profile") {
	case "/cmdline":
		pprof.Cmdline(w, r)
	case "/profile":
		pprof.Profile(w, r)
	case "/symbol":
		pprof.Symbol(w, r)
	case "/trace":
		pprof.Trace(w, r)
	default:
		pprof.Index(w, r)
	}
	return nil
}

// plain is a handler that answers for itself.
func plain(h http.HandlerFunc) httpx.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		h(w, r)
		return nil
	}
}
