package zk

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"
)

const (
	pause        = time.Second     // between two attempts to connect at least, whatever the library does
	maxHandshake = 4 << 10         // bytes of a server's first answer; it has 41
	maxHold      = 2 * time.Second // that reading waits for the library to tell of its watches
	opSetWatches = 101             // ZooKeeper's number for that
)

// hosts walks the servers in turn. The library's own looks names up once, at the start, and fails where that fails.
type hosts struct {
	mu      sync.Mutex
	servers []string
	next    int
	tries   int // since a server took us
}

func (h *hosts) Init(servers []string) error { h.servers = servers; return nil }
func (h *hosts) Len() int                    { return len(h.servers) }

// Next answers a round as begun anew when all servers were tried: the library fails what waits to be sent then.
func (h *hosts) Next() (server string, again bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	server = h.servers[h.next%len(h.servers)]
	again = h.tries > 0 && h.tries%len(h.servers) == 0
	h.next++
	h.tries++
	return server, again
}

func (h *hosts) Connected() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tries = 0
}

// dialer connects once in a pause.
type dialer struct {
	ctx       context.Context // ends waiting and dialing
	dial      func(network, addr string, timeout time.Duration) (net.Conn, error)
	tls       func() *tls.Config // nil = plain connections
	handshake time.Duration      // a server that takes the connection must have answered by then; the library would wait for a minute
	log       *slog.Logger

	mu      sync.Mutex
	last    time.Time // of the last attempt
	failing bool      // and told so
	conn    *guarded  // the newest
}

func (d *dialer) open(network, addr string, timeout time.Duration) (net.Conn, error) {
	if err := d.wait(); err != nil {
		return nil, err
	}
	conn, err := d.connect(network, addr, timeout)
	if err == nil && d.tls != nil {
		conn, err = d.secure(conn, addr, timeout)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		d.complain(addr, err)
		return nil, err
	}
	d.conn = &guarded{Conn: conn, refused: func(err error) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.complain(addr, err)
	}}
	if err := conn.SetReadDeadline(time.Now().Add(d.handshake)); err != nil {
		return nil, err
	}
	return d.conn, nil
}

func (d *dialer) connect(network, addr string, timeout time.Duration) (net.Conn, error) {
	if d.dial != nil {
		return d.dial(network, addr, timeout)
	}
	nd := net.Dialer{Timeout: timeout}
	return nd.DialContext(d.ctx, network, addr)
}

// secure shakes hands. Where it fails the connection is closed.
func (d *dialer) secure(conn net.Conn, addr string, timeout time.Duration) (net.Conn, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		conn.Close()
		return nil, err
	}
	ctx, cancel := context.WithTimeout(d.ctx, max(timeout, d.handshake))
	defer cancel()
	cfg := d.tls().Clone()
	cfg.ServerName = host
	secured := tls.Client(conn, cfg)
	if err := secured.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, fmt.Errorf("TLS: %w", err)
	}
	return secured, nil
}

// wait until an attempt is due.
func (d *dialer) wait() error {
	d.mu.Lock()
	due := time.NewTimer(time.Until(d.last.Add(pause)))
	d.mu.Unlock()
	defer due.Stop()
	select {
	case <-d.ctx.Done():
		return d.ctx.Err()
	case <-due.C:
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last = time.Now()
	return nil
}

// complain once, until good was called. Its caller holds mu.
func (d *dialer) complain(addr string, err error) {
	if d.failing || d.ctx.Err() != nil {
		return
	}
	d.failing = true
	d.log.Warn("zookeeper can't be reached, trying on", "server", addr, "error", err)
}

// good notes that a server took us, and answers the session that it granted.
func (d *dialer) good() (session int64, timeout time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failing = false
	return d.conn.granted()
}

// holdReads keeps the library from reading on until it has told the server of its watches. It says from which change on it
// wants to hear, and takes that from where reading notes it, without a lock.
func (d *dialer) holdReads() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.conn.mu.Lock()
	defer d.conn.mu.Unlock()
	d.conn.told = make(chan struct{})
}

func (d *dialer) hangUp() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conn != nil {
		_ = d.conn.Close() // the library may have closed it
	}
}

// guarded is a connection that does not believe the first answer. The library would allocate whatever length that claims
// (an HTTP server's is a gigabyte), and has no deadline for its rest. The answer begins with its length, a protocol version
// and the session timeout in milliseconds, four bytes each, and the session, eight.
type guarded struct {
	net.Conn
	refused func(error) // told of a server that does not take our certificate, or needs one: by TLS 1.3 it says so after the handshake

	mu   sync.Mutex
	head [20]byte
	read int           // bytes of the first answer
	told chan struct{} // closed when the server has been told of watches; nil where nobody waits for that
}

// Write sees when the library tells of its watches. It writes one request at a time: length, number, kind.
func (g *guarded) Write(p []byte) (int, error) {
	n, err := g.Conn.Write(p)
	if err != nil || len(p) < 12 || binary.BigEndian.Uint32(p[8:]) != opSetWatches {
		return n, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.told != nil {
		close(g.told)
		g.told = nil
	}
	return n, nil
}

// hold waits while reading is to wait.
func (g *guarded) hold() {
	g.mu.Lock()
	told := g.told
	g.mu.Unlock()
	if told == nil {
		return
	}
	t := time.NewTimer(maxHold)
	defer t.Stop()
	select {
	case <-told:
	case <-t.C: // the library has changed its ways; better to go on
		g.mu.Lock()
		g.told = nil
		g.mu.Unlock()
	}
}

func (g *guarded) Read(p []byte) (int, error) {
	g.hold()
	n, err := g.Conn.Read(p)
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "remote error" && g.refused != nil {
		g.refused(err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shaken() {
		return n, err
	}
	if g.read < len(g.head) {
		copy(g.head[g.read:], p[:n])
	}
	g.read += n
	if size := binary.BigEndian.Uint32(g.head[:4]); g.read >= 4 && size > maxHandshake {
		return 0, fmt.Errorf("%s is no ZooKeeper: its answer claims %d bytes", g.RemoteAddr(), size)
	}
	return n, err
}

// shaken is true when the first answer has been read.
func (g *guarded) shaken() bool {
	return g.read >= len(g.head) && g.read >= 4+int(binary.BigEndian.Uint32(g.head[:4]))
}

// SetReadDeadline does nothing before the first answer: the dialer has set one.
func (g *guarded) SetReadDeadline(t time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.shaken() {
		return nil
	}
	return g.Conn.SetReadDeadline(t)
}

func (g *guarded) granted() (session int64, timeout time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	timeout = time.Duration(binary.BigEndian.Uint32(g.head[8:])) * time.Millisecond
	return int64(binary.BigEndian.Uint64(g.head[12:])), timeout
}

// quiet takes what the library says: a line for each attempt. What operators must know is told by us.
type quiet struct{ log *slog.Logger }

func (q quiet) Printf(format string, args ...any) {
	q.log.Debug("zookeeper client", "text", fmt.Sprintf(format, args...))
}
