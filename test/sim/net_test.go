package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"
)

// network joins gateways by connections in memory, whose time is the simulation's. An address is "gw1:1": a machine and a port.
type network struct {
	mu        sync.Mutex
	listeners map[string]*listener // by address
	conns     map[*conn]struct{}   // one end of each
	cut       map[[2]string]bool   // pairs of machines that don't hear each other, in either order
	dark      map[string]bool      // machines without power: nobody answers, nobody refuses
	swallowed int                  // bytes and dials that went nowhere
}

func newNetwork() *network {
	return &network{listeners: map[string]*listener{}, conns: map[*conn]struct{}{}, cut: map[[2]string]bool{}, dark: map[string]bool{}}
}

func machineOf(addr string) string { m, _, _ := strings.Cut(addr, ":"); return m }

// parted needs mu.
func (n *network) parted(a, b string) bool {
	return n.cut[[2]string{a, b}] || n.cut[[2]string{b, a}] || n.dark[a] || n.dark[b]
}

// partition cuts two machines off from each other until heal: what is said is lost, and open connections end by that.
func (n *network) partition(a, b string) (heal func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[[2]string{a, b}] = true
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.cut, [2]string{a, b})
		for c := range n.conns {
			if c.joins(a, b) {
				c.reset()
			}
		}
	}
}

// down ends what a machine has open: by a reset where its process was killed, silently where its power has gone, until up.
func (n *network) down(machine string, silent bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for addr := range n.listeners {
		if machineOf(addr) == machine {
			delete(n.listeners, addr)
		}
	}
	n.dark[machine] = silent
	for c := range n.conns {
		if c.from == machine || c.to == machine {
			if silent {
				c.mute()
			} else {
				c.reset()
			}
		}
	}
}

// up has the machine answer again: what was open before is reset.
func (n *network) up(machine string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.dark, machine)
	for c := range n.conns {
		if c.from == machine || c.to == machine {
			c.reset()
		}
	}
}

func (n *network) listen(addr string) *listener {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := &listener{n: n, addr: addr, come: make(chan net.Conn, 16), closed: make(chan struct{})}
	n.listeners[addr] = l
	return l
}

// dialer is how a machine connects to others.
func (n *network) dialer(from string) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, _, addr string) (net.Conn, error) {
		n.mu.Lock()
		l, silent := n.listeners[addr], n.parted(from, machineOf(addr))
		if silent {
			n.swallowed++
		}
		n.mu.Unlock()
		switch {
		case silent:
			<-ctx.Done()
			return nil, ctx.Err()
		case l == nil:
			return nil, fmt.Errorf("dial %s: connection refused", addr)
		}
		there, back := newStream(), newStream()
		near := &conn{n: n, from: from, to: machineOf(addr), in: back, out: there}
		far := &conn{n: n, from: machineOf(addr), to: from, in: there, out: back}
		n.mu.Lock()
		n.conns[near] = struct{}{}
		n.mu.Unlock()
		select {
		case l.come <- far:
			return near, nil
		case <-l.closed:
			return nil, fmt.Errorf("dial %s: connection refused", addr)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

type listener struct {
	n      *network
	addr   string
	come   chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.come:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	l.n.mu.Lock()
	defer l.n.mu.Unlock()
	if l.n.listeners[l.addr] == l {
		delete(l.n.listeners, l.addr)
	}
	return nil
}

func (l *listener) Addr() net.Addr { return addr(l.addr) }

type addr string

func (a addr) Network() string { return "sim" }
func (a addr) String() string  { return string(a) }

// stream is one direction of a connection. It takes all that is written: who writes never waits.
type stream struct {
	mu       sync.Mutex
	buf      bytes.Buffer
	err      error // after buf
	muted    bool
	deadline time.Time // of reading
	changed  chan struct{}
}

func newStream() *stream { return &stream{changed: make(chan struct{})} }

// change needs mu.
func (s *stream) change() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *stream) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
		s.change()
	}
}

func (s *stream) read(p []byte) (int, error) {
	for {
		n, changed, until, err := s.look(p)
		if n > 0 || err != nil {
			return n, err
		}
		await(changed, until)
	}
}

// await returns when there is something new, or at until, if that is any time.
func await(changed <-chan struct{}, until time.Time) {
	if until.IsZero() {
		<-changed
		return
	}
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C:
	}
}

// look reads what is there, or says what to wait for.
func (s *stream) look(p []byte) (n int, changed <-chan struct{}, until time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.buf.Len() > 0:
		n, err = s.buf.Read(p)
	case s.err != nil:
		err = s.err
	case !s.deadline.IsZero() && !time.Now().Before(s.deadline):
		err = os.ErrDeadlineExceeded
	}
	return n, s.changed, s.deadline, err
}

var errReset = errors.New("connection reset")

// conn is one end.
type conn struct {
	n        *network
	from, to string
	in, out  *stream
}

func (c *conn) joins(a, b string) bool { return c.from == a && c.to == b || c.from == b && c.to == a }

func (c *conn) reset() {
	c.in.end(errReset)
	c.out.end(errReset)
}

func (c *conn) mute() {
	for _, s := range []*stream{c.in, c.out} {
		s.mu.Lock()
		s.muted = true
		s.mu.Unlock()
	}
}

func (c *conn) Read(p []byte) (int, error) { return c.in.read(p) }

func (c *conn) Write(p []byte) (int, error) {
	c.n.mu.Lock()
	lost := c.n.parted(c.from, c.to)
	if lost {
		c.n.swallowed += len(p)
	}
	c.n.mu.Unlock()
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	switch {
	case c.out.err != nil:
		return 0, net.ErrClosed
	case lost || c.out.muted:
		c.out.muted = true // a stream with a hole carries nothing more
	default:
		c.out.buf.Write(p)
		c.out.change()
	}
	return len(p), nil
}

func (c *conn) Close() error {
	c.in.end(net.ErrClosed)
	c.out.mu.Lock()
	muted := c.out.muted
	c.out.mu.Unlock()
	if !muted {
		c.out.end(io.EOF)
	}
	c.n.mu.Lock()
	delete(c.n.conns, c)
	c.n.mu.Unlock()
	return nil
}

func (c *conn) LocalAddr() net.Addr  { return addr(c.from + ":0") }
func (c *conn) RemoteAddr() net.Addr { return addr(c.to + ":0") }

func (c *conn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

func (c *conn) SetReadDeadline(t time.Time) error {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	c.in.deadline = t
	c.in.change()
	return nil
}

func (c *conn) SetWriteDeadline(time.Time) error { return nil }
