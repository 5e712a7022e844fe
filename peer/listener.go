package peer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	handshakeTime = 3 * time.Second // how long a client may take for the handshake
	maxHandshakes = 64              // at a time; who comes then waits in the accept queue of the socket
	refusalsEvery = time.Second     // one line of log at most about refused connections in that time
)

// Secure lets in only who knows one of the secrets: each connection is authenticated once, in both directions, before
// Accept answers it. What Accept answers is the inner listener's connection itself.
//
// secrets is asked at each handshake for the current and, while it is rotated, the previous one; connections that are
// open stay open when it changes. Those shorter than MinSecret do not count, and while there is none, nobody gets in.
//
// It keeps strangers out who can reach the port, also those who recorded earlier handshakes. It encrypts nothing and
// protects no byte after the handshake: who sits on the path between two gateways can read, change and take over
// connections, and so can who makes a gateway dial him (the address is taken from the registry). Where such people are
// possible, use TLS with certificates on both sides instead.
//
// No goroutine runs before the first Accept or after Close. A listener is safe for concurrent use.
func Secure(ln net.Listener, secrets func() [][]byte, log *slog.Logger) *Listener {
	return &Listener{
		inner: ln, secrets: secrets, log: log,
		ready: make(chan net.Conn), faults: make(chan error), closing: make(chan struct{}),
		slots: make(chan struct{}, maxHandshakes), shaking: map[net.Conn]struct{}{},
	}
}

// Listener is what Secure makes.
type Listener struct {
	inner   net.Listener
	secrets func() [][]byte
	log     *slog.Logger

	ready   chan net.Conn // authenticated, for Accept
	faults  chan error    // of the inner Accept, for ours
	closing chan struct{}
	slots   chan struct{} // one token per handshake
	wg      sync.WaitGroup
	refused atomic.Uint64
	lines   sparse

	mu      sync.Mutex
	started bool
	closed  bool
	err     error // of closing the inner listener
	shaking map[net.Conn]struct{}
}

var (
	_ net.Listener = (*Listener)(nil)
	_ syscall.Conn = (*Listener)(nil)
)

// Accept answers the next connection that was authenticated. Errors of the inner listener come through; after Close it
// is net.ErrClosed.
func (l *Listener) Accept() (net.Conn, error) {
	if !l.start() {
		return nil, net.ErrClosed
	}
	select {
	case c := <-l.ready:
		return c, nil
	case err := <-l.faults:
		return nil, err
	case <-l.closing:
		return nil, net.ErrClosed
	}
}

// Addr is the inner listener's.
func (l *Listener) Addr() net.Addr { return l.inner.Addr() }

// Refused is how many connections failed to authenticate.
func (l *Listener) Refused() uint64 { return l.refused.Load() }

// SyscallConn gives access to the socket of the inner listener.
func (l *Listener) SyscallConn() (syscall.RawConn, error) {
	if c, ok := l.inner.(syscall.Conn); ok {
		return c.SyscallConn()
	}
	return nil, fmt.Errorf("listener of type %T has no socket: %w", l.inner, errors.ErrUnsupported)
}

// Close closes the inner listener and the connections whose handshake is not over, and waits until nothing runs. Those
// that Accept answered stay open.
func (l *Listener) Close() error {
	err := l.shut()
	l.wg.Wait()
	return err
}

// start runs the listener when it is first used, and reports whether it is open.
func (l *Listener) start() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.started && !l.closed {
		l.started = true
		l.wg.Go(l.run)
	}
	return !l.closed
}

func (l *Listener) shut() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return l.err
	}
	l.closed = true
	close(l.closing)
	l.err = l.inner.Close()
	for c := range l.shaking {
		_ = c.Close() // nobody has heard of it yet
	}
	return l.err
}

// run accepts while there is room for another handshake.
func (l *Listener) run() {
	for {
		select {
		case l.slots <- struct{}{}:
		case <-l.closing:
			return
		}
		c, err := l.inner.Accept()
		if err == nil {
			l.wg.Go(func() { l.admit(c) })
			continue
		}
		<-l.slots
		if errors.Is(err, net.ErrClosed) {
			_ = l.shut()
			return
		}
		select {
		case l.faults <- err: // the caller of Accept decides how long to rest before the next try
		case <-l.closing:
			return
		}
	}
}

// admit shakes hands and passes the connection on. It keeps its slot until somebody took it.
func (l *Listener) admit(c net.Conn) {
	defer func() { <-l.slots }()
	if err := l.shake(c); err != nil {
		l.tell(c, err)
		_ = c.Close()
		return
	}
	select {
	case l.ready <- c:
	case <-l.closing:
		_ = c.Close()
	}
}

func (l *Listener) shake(c net.Conn) error {
	if !l.note(c) {
		return net.ErrClosed
	}
	defer l.forget(c)
	if err := c.SetDeadline(time.Now().Add(handshakeTime)); err != nil {
		return err
	}
	if err := welcome(c, l.secrets()); err != nil {
		return err
	}
	return c.SetDeadline(time.Time{})
}

// note remembers a connection for Close; false once it has begun.
func (l *Listener) note(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.shaking[c] = struct{}{}
	return true
}

func (l *Listener) forget(c net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.shaking, c)
}

// tell counts and logs a refusal, unless it is our own closing.
func (l *Listener) tell(c net.Conn, err error) {
	select {
	case <-l.closing:
		return
	default:
	}
	l.refused.Add(1)
	if granted, untold := l.lines.take(time.Now()); granted {
		l.log.LogAttrs(context.Background(), slog.LevelWarn, "connection to the peer listener refused",
			slog.String("remote", c.RemoteAddr().String()), slog.Any("error", err), slog.Int("untold", untold))
	}
}

// sparse keeps a stream of equal events from filling the log.
type sparse struct {
	mu     sync.Mutex
	next   time.Time
	untold int
}

// take asks for a line. When it is granted, untold is how many were not since the last that was.
func (s *sparse) take(now time.Time) (granted bool, untold int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Before(s.next) {
		s.untold++
		return false, 0
	}
	s.next = now.Add(refusalsEvery)
	untold, s.untold = s.untold, 0
	return true, untold
}
