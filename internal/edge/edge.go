// Package edge is what stands between a socket and net/http: it counts connections and refuses those that are too many,
// learns from proxies that are trusted where a connection comes from, encrypts, and lets no request through of which two
// programs could think differently where it ends.
//
// Encryption is done here and not by net/http, since what is looked at is what was encrypted. HTTP/2 over TLS is then
// served by net/http the way of clear text; requests get their tls.ConnectionState by [TLS].
package edge

import (
	"context"
	"crypto/tls"
	"net"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/prometheus/client_golang/prometheus"
)

// Config is what a Listener does. The zero value of a field means without it.
type Config struct {
	TLS           *tls.Config   // the caller's, not changed any more
	Limits        *Limits       // may be shared by listeners
	Spare         int64         // connections beyond the total that this listener may have, and then none per address counts
	Proxies       *Proxies      // that are trusted
	ProxyProtocol bool          // those begin a connection by saying whose it is
	HeaderTime    time.Duration // how long they may take for that
	Metrics       *Metrics      // needed
}

// Metrics count what is refused. They may be shared by listeners.
type Metrics struct {
	connections map[string]prometheus.Counter // by reason
	requests    map[string]prometheus.Counter // by fault
}

// NewMetrics registers them, and panics where they are registered already.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	conns := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kateway_connections_refused_total",
		Help: "Connections that were closed as soon as they were accepted, since there were too many, in all (total) or from that address (address).",
	}, []string{"reason"})
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kateway_http_malformed_total",
		Help: "HTTP/1 connections ended since it could be read in two ways where a request ends, by what was wrong.",
	}, []string{"fault"})
	reg.MustRegister(conns, requests)
	m := &Metrics{connections: map[string]prometheus.Counter{}, requests: map[string]prometheus.Counter{}}
	for _, r := range []string{reasonTotal, reasonAddress} {
		m.connections[r] = conns.WithLabelValues(r)
	}
	for _, f := range faults() {
		m.requests[f] = requests.WithLabelValues(f)
	}
	return m
}

// Listener gives connections to net/http. It runs no goroutine.
type Listener struct {
	net.Listener
	cfg Config
}

// Listen makes one of ln.
func Listen(ln net.Listener, c Config) *Listener { return &Listener{ln, c} }

// Accept answers the next connection that there is room for; the others are closed. It never waits for what a client sends.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		raw, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		addr := addrOf(raw.RemoteAddr())
		trusted := l.cfg.Proxies.Trusts(addr)
		done := func() {}
		if l.cfg.Limits != nil {
			var reason string
			if done, reason = l.cfg.Limits.take(addr, trusted, l.cfg.Spare); reason != "" {
				l.cfg.Metrics.connections[reason].Inc()
				_ = raw.Close() // nobody has heard of it yet
				continue
			}
		}
		return l.open(raw, trusted, done), nil
	}
}

func (l *Listener) open(raw net.Conn, trusted bool, done func()) net.Conn {
	c := &conn{Conn: raw, raw: raw, refused: l.cfg.Metrics.requests, done: done}
	c.scanner.h2 = l.cfg.TLS == nil
	if l.cfg.ProxyProtocol && trusted {
		c.Conn = proxyproto.NewConn(raw, proxyproto.WithPolicy(proxyproto.REQUIRE), proxyproto.SetReadHeaderTimeout(l.cfg.HeaderTime))
	}
	if l.cfg.TLS != nil {
		c.tls = &tlsServer{Conn: tls.Server(c.Conn, l.cfg.TLS)}
		c.Conn = c.tls.Conn
	}
	return c
}

type connKey struct{}

// ConnContext is for http.Server.ConnContext.
func ConnContext(ctx context.Context, nc net.Conn) context.Context {
	if c, ok := nc.(*conn); ok && c.tls != nil {
		return context.WithValue(ctx, connKey{}, c.tls)
	}
	return ctx
}

// TLS is the encryption of the connection that a request with this context came on; nil in clear text.
func TLS(ctx context.Context) *tls.ConnectionState {
	if t, ok := ctx.Value(connKey{}).(*tlsServer); ok && t.shook.Load() {
		return &t.state
	}
	return nil
}
