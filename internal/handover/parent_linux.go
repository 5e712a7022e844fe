package handover

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long the old process may take to answer a hello.
const patience = 5 * time.Second

// Parent is the process that this one takes over from. Its methods may be called concurrently.
type Parent struct {
	link    *link
	sockets []Socket
	lanes   *lanes
	stopped chan struct{} // closed when it says that an end was asked for

	mu    sync.Mutex
	gone  bool
	yours map[string]chan struct{} // closed when it is ours
}

// Inherit says hello to the process that the value of Variable leads to, and takes the sockets.
func Inherit(value string) (*Parent, error) {
	number, token, _ := strings.Cut(value, ":")
	fd, err := strconv.Atoi(number)
	if err != nil || fd < 3 || token == "" {
		return nil, fmt.Errorf("%s is set by a process that hands over to another, and by nobody else", Variable)
	}
	unix.CloseOnExec(fd)
	file := os.NewFile(uintptr(fd), "handover")
	if file == nil {
		return nil, fmt.Errorf("%s names a file that is not open", Variable)
	}
	defer file.Close()
	c, err := net.FileConn(file)
	if err != nil {
		return nil, fmt.Errorf("%s names a file that is no socket of a process that hands over: %w", Variable, err)
	}
	conn, ok := c.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("%s names a socket of another kind", Variable), c.Close())
	}
	p := &Parent{link: &link{conn: conn}, lanes: newLanes(), stopped: make(chan struct{}), yours: map[string]chan struct{}{}}
	if err := p.greet(token); err != nil {
		return nil, errors.Join(fmt.Errorf("the process that hands over: %w", err), conn.Close())
	}
	go p.listen()
	return p, nil
}

// greet says hello, and hears who the sockets are for.
func (p *Parent) greet(token string) error {
	if err := control(p.link.conn, trusted); err != nil {
		return err
	}
	if err := p.link.send(&message{Type: typeHello, Token: token}); err != nil {
		return err
	}
	_ = p.link.conn.SetReadDeadline(time.Now().Add(patience))
	m, files, _, err := p.link.receive()
	defer closeFiles(files)
	if err != nil {
		return err
	}
	_ = p.link.conn.SetReadDeadline(time.Time{})
	if m.Type != typeSockets || len(m.Sockets) != len(files) {
		return fmt.Errorf("it answers a hello by %q with %d files", m.Type, len(files))
	}
	for i := range files {
		if m.Sockets[i].Listener, err = net.FileListener(files[i]); err != nil {
			return fmt.Errorf("socket %s: %w", m.Sockets[i].Address, err)
		}
	}
	p.sockets = m.Sockets
	return nil
}

// trusted wants the other end to be a process of our own user.
func trusted(fd int) error {
	c, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return os.NewSyscallError("getsockopt", err)
	}
	if int(c.Uid) != os.Geteuid() {
		return fmt.Errorf("it is of user %d, and this process of user %d", c.Uid, os.Geteuid())
	}
	return nil
}

// listen hears the old process until it ends.
func (p *Parent) listen() {
	for {
		m, files, _, err := p.link.receive()
		switch {
		case err != nil:
			p.over()
			return
		case m.Type == typeYours:
			p.take(m.What)
		case m.Type == typeStop:
			closeOnce(p.stopped)
		case m.Type == typeLane && len(files) == 1:
			p.lanes.add(files[0])
		}
		closeFiles(files)
	}
}

// over makes everything ours: nobody else has it any more.
func (p *Parent) over() {
	p.mu.Lock()
	p.gone = true
	for _, c := range p.yours {
		closeOnce(c)
	}
	p.mu.Unlock()
	_ = p.link.conn.Close()
	_ = p.lanes.Close()
}

func closeOnce(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}

func (p *Parent) take(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	closeOnce(p.named(what))
}

// named is the channel of something; the caller holds the lock.
func (p *Parent) named(what string) chan struct{} {
	c := p.yours[what]
	if c == nil {
		c = make(chan struct{})
		p.yours[what] = c
		if p.gone {
			close(c)
		}
	}
	return c
}

// Sockets are those that were handed over. They are the caller's.
func (p *Parent) Sockets() []Socket { return p.sockets }

// Prepared says that this process could start but for what the old one has.
func (p *Parent) Prepared() error { return p.link.send(&message{Type: typePrepared}) }

// Serving says so.
func (p *Parent) Serving() error { return p.link.send(&message{Type: typeServing}) }

// Given is closed when something is ours.
func (p *Parent) Given(what string) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.named(what)
}

// Await waits until something is ours.
func (p *Parent) Await(ctx context.Context, what string) error {
	select {
	case <-p.Given(what):
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the old process has not given up its %s: %w", what, context.Cause(ctx))
	}
}

// Stopped is closed when the old process says that an end was asked for while it served.
func (p *Parent) Stopped() <-chan struct{} { return p.stopped }

// Lanes is where connections of the old process come from.
func (p *Parent) Lanes() net.Listener { return p.lanes }

// lanes is a listener that only the old process can connect to. It closes with that.
type lanes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newLanes() *lanes { return &lanes{conns: make(chan net.Conn, 64), closed: make(chan struct{})} }

// add takes a connection; one more than the queue holds waits, and the old process with it.
func (l *lanes) add(f *os.File) {
	c, err := net.FileConn(f)
	if err != nil {
		return // the other end sees it closed
	}
	select {
	case l.conns <- c:
	case <-l.closed:
		_ = c.Close()
	}
}

// Accept is net.Listener's.
func (l *lanes) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close is net.Listener's.
func (l *lanes) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr is net.Listener's.
func (l *lanes) Addr() net.Addr { return &net.UnixAddr{Name: "handover", Net: "unix"} }
