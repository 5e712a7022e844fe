package peer

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/kateway/kateway/registry"
)

const (
	connectTime = 500 * time.Millisecond  // for TCP
	proveTime   = 1500 * time.Millisecond // for the handshake on top of it, or that of TLS
	idleTime    = time.Minute             // a connection that nobody uses is closed
	pingAfter   = 5 * time.Second         // without a frame the other side is asked for one
	pongWithin  = 2 * time.Second
)

// PoolConfig says how other gateways are reached.
type PoolConfig struct {
	Self    string          // our own id: we are no member of the others
	Secrets func() [][]byte // the current one first, as for Secure; not asked with TLS
	TLS     *tls.Config     // with our certificate and the cluster's authority; nil: nonce and secret
	Log     *slog.Logger
	Dial    func(ctx context.Context, network, addr string) (net.Conn, error) // nil: net's
}

// Pool knows the other gateways and keeps a connection to each that was asked something. All methods may be called
// concurrently.
type Pool struct {
	cfg    PoolConfig
	lines  sparse
	mu     sync.Mutex
	list   []Member // sorted by id, never written to
	conns  map[*conn]struct{}
	closed bool
}

// NewPool makes a pool without members; Follow brings them.
func NewPool(cfg PoolConfig) *Pool {
	if cfg.Dial == nil {
		cfg.Dial = new(net.Dialer).DialContext
	}
	return &Pool{cfg: cfg, conns: map[*conn]struct{}{}}
}

// Members are the other gateways, sorted by id. One that is no longer alive is among them until the registry says so:
// asking it is Unavailable, at the latest after 2 s (Refresh 10 s; Suspend when its context ends).
func (p *Pool) Members() []Member {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.list)
}

// Reach answers how to speak HTTP/2 to a member: what carries a request there, over a connection that has shown what Secure
// asks for, and the address that requests are made out to. False where there is no such member, or it has no listener for
// others. A request fails after 2 s where no connection comes about; its own time is the caller's to bound. Requests that
// are open when the pool is closed fail.
func (p *Pool) Reach(id string) (via http.RoundTripper, base url.URL, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i, found := slices.BinarySearchFunc(p.list, id, func(m Member, id string) int { return cmp.Compare(m.ID, id) })
	if !found || p.closed {
		return nil, url.URL{}, false
	}
	r, ok := p.list[i].Node.(*remote)
	if !ok || r.addr == "" {
		return nil, url.URL{}, false
	}
	return r.http, r.base, true
}

// Follow takes the list of gateways from the registry until ctx ends or the channel is closed. The members stay then. To
// be called once.
func (p *Pool) Follow(ctx context.Context, lists <-chan []registry.Instance) {
	for {
		select {
		case <-ctx.Done():
			return
		case list, ok := <-lists:
			if !ok {
				return
			}
			p.Update(list)
		}
	}
}

// Close closes all connections, also under calls that wait for an answer: they fail with Unavailable, as all later ones do.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	conns, list := p.conns, p.list
	p.conns = nil
	p.mu.Unlock()
	for c := range conns {
		_ = c.Conn.Close() // nobody is left to be told
	}
	for _, m := range list {
		release(m)
	}
}

// Update replaces the list. A member whose address is the same stays as it is, with its connection. One caller at a time.
func (p *Pool) Update(list []registry.Instance) {
	before := p.Members() // one caller at a time changes them
	var now []Member
	for _, i := range list {
		if i.ID == p.cfg.Self {
			continue
		}
		m, known := find(before, i)
		if !known {
			r := p.reach(i)
			m = Member{ID: i.ID, Node: r, Asker: r}
			p.cfg.Log.Info("gateway joined", "gateway", i.ID, "peer", i.Peer, "version", i.Version)
		}
		now = append(now, m)
	}
	slices.SortFunc(now, func(a, b Member) int { return cmp.Compare(a.ID, b.ID) })
	p.mu.Lock()
	p.list = now
	p.mu.Unlock()
	for _, m := range before {
		if !slices.Contains(now, m) {
			p.cfg.Log.Info("gateway left", "gateway", m.ID)
			release(m)
		}
	}
}

func find(list []Member, i registry.Instance) (Member, bool) {
	for _, m := range list {
		if r, ok := m.Node.(*remote); ok && m.ID == i.ID && r.addr == i.Peer {
			return m, true
		}
	}
	return Member{}, false
}

// release closes a member's connections that nobody uses; the others end with their idle time.
func release(m Member) {
	if r, ok := m.Node.(*remote); ok {
		r.http.CloseIdleConnections()
	}
}

// reach makes the client of a gateway. It dials when it is first asked something.
func (p *Pool) reach(i registry.Instance) *remote {
	r := &remote{id: i.ID, addr: i.Peer, base: url.URL{Scheme: "http", Host: i.Peer}, largest: maxAnswer}
	protocols := new(http.Protocols)
	if p.cfg.TLS == nil {
		protocols.SetUnencryptedHTTP2(true)
	} else {
		protocols.SetHTTP2(true)
		r.base.Scheme = "https"
	}
	r.http = &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return p.dial(ctx, i.ID, network, addr)
		},
		TLSClientConfig:     p.cfg.TLS.Clone(),
		TLSHandshakeTimeout: proveTime,
		Protocols:           protocols,
		IdleConnTimeout:     idleTime,
		HTTP2:               &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pongWithin},
	}
	return r
}

// dial connects and, without TLS, shakes hands.
func (p *Pool) dial(ctx context.Context, id, network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	raw, err := p.cfg.Dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	c, err := p.keep(raw)
	if err != nil {
		_ = raw.Close() // unused
		return nil, err
	}
	if p.cfg.TLS != nil {
		return c, nil
	}
	if err := p.prove(c); err != nil {
		_ = c.Close()
		p.tell(id, addr, err)
		return nil, fmt.Errorf("handshake with %s: %w", addr, err)
	}
	return c, nil
}

func (p *Pool) prove(c net.Conn) error {
	if err := c.SetDeadline(time.Now().Add(proveTime)); err != nil {
		return err
	}
	if err := greet(c, p.cfg.Secrets()); err != nil {
		return err
	}
	return c.SetDeadline(time.Time{})
}

// tell logs a handshake that failed for what an operator has to mend.
func (p *Pool) tell(id, addr string, err error) {
	if !errors.Is(err, errWrongMAC) && !errors.Is(err, errHungUp) && !errors.Is(err, errNotPeer) {
		return
	}
	if granted, untold := p.lines.take(time.Now()); granted {
		p.cfg.Log.Warn("handshake with another gateway failed", "gateway", id, "peer", addr, "error", err, "untold", untold)
	}
}

// conn is a connection that the pool remembers until it is closed.
type conn struct {
	net.Conn
	pool *Pool
}

func (p *Pool) keep(raw net.Conn) (*conn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, net.ErrClosed
	}
	c := &conn{raw, p}
	p.conns[c] = struct{}{}
	return c, nil
}

// Close closes the connection.
func (c *conn) Close() error {
	c.pool.mu.Lock()
	delete(c.pool.conns, c)
	c.pool.mu.Unlock()
	return c.Conn.Close()
}
