package gateway

import (
	"context"
	"crypto/tls"
	"fmt"
	"log"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/kateway/kateway/internal/edge"
	"github.com/kateway/kateway/peer"
)

// A client that vanished without a word is found out within this time, whether or not something is on its way to it.
const (
	aliveIdle     = 15 * time.Second
	aliveInterval = 10 * time.Second
	aliveProbes   = 3
	userTimeout   = 40 * time.Second
	h2Ping        = 20 * time.Second // after that long without a frame from an HTTP/2 client it is asked for one
	h2Pong        = 15 * time.Second
	acceptRest    = 50 * time.Millisecond
	h2Write       = 40 * time.Second // an HTTP/2 connection on which no byte moves that long is closed
)

// server is one listener with what serves on it.
type server struct {
	addr  string // as the configuration says
	roles []Role
	ln    net.Listener // the socket
	kept  bool         // by who handed the socket over, when we close it
	from  net.Listener // where connections come from: the socket, or what lets some of them through only
	http  *http.Server
	conns connections
}

// listen opens the socket. Connections wait in its queue until serve.
func listen(ctx context.Context, addr string) (net.Listener, error) {
	lc := net.ListenConfig{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: aliveIdle, Interval: aliveInterval, Count: aliveProbes},
		Control: func(_, _ string, c syscall.RawConn) error {
			_ = setUserTimeout(c, userTimeout) // where it can't be had, keep-alives have to do
			return nil
		},
	}
	lc.SetMultipathTCP(false) // Go's default; it takes neither the option above nor the filter of refuseNew
	ln, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", addr, err)
	}
	return ln, nil
}

// hangUp closes the listener without failing anybody who has connected: first nobody new gets in, then those in the
// queue are accepted, which takes no time, then it closes.
func (s *server) hangUp() {
	if s.kept { // who waits in the queue is the next process's, and so is the socket
		_ = s.ln.Close()
		return
	}
	if l, ok := s.ln.(syscall.Conn); ok {
		if raw, err := l.SyscallConn(); err == nil && refuseNew(raw) == nil {
			wait(context.Background(), acceptRest)
		}
	}
	_ = s.ln.Close() // fails only where it is closed already
}

// newServer makes what serves h on ln, the socket of an endpoint.
func (g *Gateway) newServer(e endpoint, ln net.Listener, h http.Handler) *server {
	roles := e.roles
	var tlsConfig *tls.Config // net/http writes to it
	var from net.Listener
	switch {
	case roles[0] == Peer && g.peerTLS != nil:
		from, tlsConfig = ln, g.peerTLS.server()
	case roles[0] == Peer:
		from = peer.Secure(ln, g.cluster.peerSecrets, g.log)
	default:
		from = g.edge(roles, ln)
	}
	s := newServer(&g.cfg, e, ln, h, tlsConfig, g.log)
	s.from = from
	s.kept = slices.Contains(slices.Collect(maps.Values(g.deps.Sockets)), ln)
	if roles[0] != Peer {
		s.http.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
			return edge.ConnContext(g.online.ConnContext(ctx, c), c)
		}
		s.conns.gone = g.online.Closed
	}
	return s
}

// newServer serves in clear text or, with a TLS configuration, encrypted; HTTP/1.1 and HTTP/2 either way.
func newServer(cfg *Config, e endpoint, ln net.Listener, h http.Handler, tlsConfig *tls.Config, logger *slog.Logger) *server {
	s := &server{addr: e.addr, roles: e.roles, ln: ln, from: ln}
	s.conns.zero = make(chan struct{}, 1)
	p := new(http.Protocols)
	p.SetHTTP1(true)
	p.SetHTTP2(true)
	p.SetUnencryptedHTTP2(tlsConfig == nil)
	s.http = &http.Server{
		Handler:                      h,
		TLSConfig:                    tlsConfig,
		Protocols:                    p,
		DisableGeneralOptionsHandler: true,
		ReadHeaderTimeout:            cfg.ReadHeaderTimeout,
		IdleTimeout:                  cfg.IdleTimeout,
		// Twice the limit: up to there our own count answers, with the reason; beyond, net/http does, and hangs up.
		MaxHeaderBytes: 2 * int(cfg.MaxHeader),
		HTTP2:          &http.HTTP2Config{SendPingTimeout: h2Ping, PingTimeout: h2Pong, WriteByteTimeout: h2Write},
		ConnState:      s.conns.note,
		ErrorLog:       errorLog(logger),
	}
	return s
}

// errorLog is what net/http asks for.
func errorLog(logger *slog.Logger) *log.Logger { return log.New(httpLog{logger}, "", 0) }

// serve accepts connections until the listener is closed.
func (s *server) serve() error {
	if s.http.TLSConfig != nil {
		return s.http.ServeTLS(s.from, "", "")
	}
	return s.http.Serve(s.from)
}

// connections counts those that are open.
type connections struct {
	open atomic.Int64
	zero chan struct{}  // told when the last one closes; one token
	gone func(net.Conn) // told of each that closes; may be nil
}

func (c *connections) note(conn net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		c.open.Add(1)
	case http.StateClosed, http.StateHijacked:
		if c.gone != nil && state == http.StateClosed { // who hijacked it tells of its end
			c.gone(conn)
		}
		if c.open.Add(-1) == 0 {
			select {
			case c.zero <- struct{}{}:
			default: // told already
			}
		}
	}
}

// none waits until no connection is open, or until ctx ends.
func (c *connections) none(ctx context.Context) {
	for c.open.Load() > 0 && ctx.Err() == nil {
		select {
		case <-c.zero:
		case <-ctx.Done():
		}
	}
}
