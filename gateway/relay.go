package gateway

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/kateway/kateway/internal/edge"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/httpx"
)

// relay stands before everything that is served. It lets requests through until the gateway hands over to another, lets
// those wait that come while nobody serves, and passes them on when there is somebody: they come on connections that
// clients have kept.
type relay struct {
	held  atomic.Bool
	short counter // requests that end soon by themselves
	long  counter // those that may wait for messages, or for their client
	away  counter // those that the next one answers, WebSockets for as long as they last
	ready chan struct{}
	next  func(Role) http.Handler // set before ready is closed
}

// heldLimit is how long a request may wait for somebody to serve it.
const heldLimit = 40 * time.Second

func newRelay() *relay {
	r := &relay{ready: make(chan struct{})}
	r.short.zero, r.long.zero, r.away.zero = make(chan struct{}, 1), make(chan struct{}, 1), make(chan struct{}, 1)
	return r
}

// counter counts requests.
type counter struct {
	n    atomic.Int64
	zero chan struct{} // told when there are none; one token
}

// enter counts a request, unless they are held.
func (c *counter) enter(held *atomic.Bool) bool {
	c.n.Add(1)
	if !held.Load() {
		return true
	}
	c.leave()
	return false
}

func (c *counter) leave() {
	if c.n.Add(-1) == 0 {
		select {
		case c.zero <- struct{}{}:
		default: // told already
		}
	}
}

// none waits until there are none, or ctx ends.
func (c *counter) none(ctx context.Context) bool {
	for c.n.Load() > 0 {
		select {
		case <-c.zero:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// guard puts the relay before what serves a role.
func (r *relay) guard(role Role, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		c := &r.short
		if req.Method == http.MethodGet || req.Method == http.MethodHead {
			c = &r.long
		}
		if !c.enter(&r.held) {
			r.pass(role, w, req)
			return
		}
		defer c.leave()
		h.ServeHTTP(w, req)
	})
}

// pass has the next one answer, once there is one. The client's next request is to come over another connection.
func (r *relay) pass(role Role, w http.ResponseWriter, req *http.Request) {
	r.away.n.Add(1)
	defer r.away.leave()
	limit := time.NewTimer(heldLimit)
	defer limit.Stop()
	select {
	case <-r.ready:
	case <-req.Context().Done():
		return
	case <-limit.C:
		httpx.WriteProblem(w, errs.Draining)
		return
	}
	if req.Header.Get("Upgrade") == "" {
		w.Header().Set("Connection", "close") // net/http makes a GOAWAY of it on HTTP/2
	}
	r.next(role).ServeHTTP(w, req)
}

// again has the next one answer a request that was let through and has come too late, as one that waits to join a group. It
// reports whether that was done: not while this gateway serves, and not for one that has a body.
func (r *relay) again(role Role, w http.ResponseWriter, req *http.Request) bool {
	if !r.held.Load() || req.Method != http.MethodGet && req.Method != http.MethodHead {
		return false
	}
	r.long.leave() // who waits for the end of requests does not wait for this one
	defer r.long.n.Add(1)
	clear(w.Header())
	r.pass(role, w, req)
	return true
}

// hold lets no request through any more.
func (r *relay) hold() { r.held.Store(true) }

// open passes requests on from now on.
func (r *relay) open(next func(Role) http.Handler) {
	r.next = next
	close(r.ready)
}

// publishes is what role pub does with requests whose body takes time.
type publishes struct{ *relay }

// Pause is pub.Relay's.
func (p publishes) Pause() { p.short.leave() }

// Fail is pub.Relay's.
func (p publishes) Fail() { p.short.n.Add(1) } // it only has to be answered

// Resume is pub.Relay's.
func (p publishes) Resume(w http.ResponseWriter, req *http.Request, body []byte) bool {
	if p.short.enter(&p.held) {
		return false
	}
	<-p.ready // at the latest when the gateway has ended, see Gateway.Pass
	p.short.n.Add(1)
	whole := req.Clone(req.Context())
	whole.Body, whole.ContentLength, whole.TransferEncoding = io.NopCloser(bytes.NewReader(body)), int64(len(body)), nil
	whole.Header.Del("Content-Encoding")
	whole.Trailer = nil
	clear(w.Header())
	p.pass(Pub, w, whole)
	return true
}

// headerLane tells the next process, over a connection that nobody else can make, what it can't see there.
const (
	headerLane       = "Kateway-Lane"        // the role
	headerLaneRemote = "Kateway-Lane-Remote" // who asks
	headerLaneTLS    = "Kateway-Lane-Tls"    // that he does so over HTTPS, and the certificate that he has shown, if any
)

// laneIdle is how long a connection to the next process is kept.
const laneIdle = 30 * time.Second

// Lanes makes what passes requests to another process, over connections that dial makes.
func Lanes(dial func(ctx context.Context) (net.Conn, error), logger *slog.Logger) func(Role) http.Handler {
	proxy := &httputil.ReverseProxy{
		Rewrite:       rewriteForLane,
		FlushInterval: -1,
		ErrorLog:      errorLog(logger),
		Transport: &http.Transport{
			DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
			DisableCompression: true, IdleConnTimeout: laneIdle, MaxIdleConnsPerHost: 64,
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			logger.Warn("a request could not be passed to the process that took over", "error", err)
			httpx.WriteProblem(w, errs.Draining)
		},
	}
	return func(role Role) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			proxy.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), laneKey{}, role)))
		})
	}
}

type laneKey struct{}

// rewriteForLane passes the request on as it came.
func rewriteForLane(p *httputil.ProxyRequest) {
	role, _ := p.In.Context().Value(laneKey{}).(Role)
	p.Out.URL = &url.URL{Scheme: "http", Host: "next", Path: p.In.URL.Path, RawPath: p.In.URL.RawPath, RawQuery: p.In.URL.RawQuery, ForceQuery: p.In.URL.ForceQuery}
	p.Out.Host = p.In.Host
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} { // the proxy takes them away
		if v := p.In.Header.Values(name); len(v) > 0 {
			p.Out.Header[name] = v
		}
	}
	p.Out.Header.Set(headerLane, string(role))
	p.Out.Header.Set(headerLaneRemote, p.In.RemoteAddr)
	p.Out.Header.Del(headerLaneTLS)
	if state := edge.TLS(p.In.Context()); state != nil {
		p.Out.Header.Set(headerLaneTLS, tlsForLane(state))
	}
}
