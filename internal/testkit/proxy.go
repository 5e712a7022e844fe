package testkit

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// Proxy is a TCP proxy in front of a server of ZooKeeper, by which a test cuts its client off. Its methods may be called
// concurrently.
type Proxy struct {
	ln     net.Listener
	target string
	wg     sync.WaitGroup

	mu       sync.Mutex
	conns    map[net.Conn]bool
	cut      bool
	pass     chan struct{} // closed while bytes pass
	attempts int
	session  int64
	password []byte
}

// NewProxy answers a proxy in front of the address that ends with the test.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{ln: ln, target: target, conns: map[net.Conn]bool{}, pass: make(chan struct{})}
	close(p.pass)
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		p.ln.Close()
		p.Cut()
		p.wg.Wait()
	})
	return p
}

// Addr is where the client connects to.
func (p *Proxy) Addr() string { return p.ln.Addr().String() }

// Attempts is how often a client has connected.
func (p *Proxy) Attempts() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.attempts
}

// Cut closes all connections, and new ones at once, until Heal.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = true
	for c := range p.conns {
		c.Close()
	}
	p.open() // who waits for Freeze to end notices that his connection is closed
}

// Freeze lets nothing pass until Heal; connections stay, and new ones are taken.
func (p *Proxy) Freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.pass:
		p.pass = make(chan struct{})
	default:
	}
}

// Heal ends Cut and Freeze.
func (p *Proxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = false
	p.open()
}

// open needs mu.
func (p *Proxy) open() {
	select {
	case <-p.pass:
	default:
		close(p.pass)
	}
}

func (p *Proxy) accept() {
	for {
		client, err := p.ln.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() { p.serve(client) })
	}
}

func (p *Proxy) serve(client net.Conn) {
	defer client.Close()
	if !p.add(client, true) {
		return
	}
	defer p.remove(client)
	server, err := net.DialTimeout("tcp", p.target, time.Second)
	if err != nil {
		return
	}
	defer server.Close()
	if !p.add(server, false) {
		return
	}
	defer p.remove(server)
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.copy(server, client, nil)
	}()
	p.copy(client, server, p.learn)
	<-done
}

func (p *Proxy) add(c net.Conn, client bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if client {
		p.attempts++
	}
	p.conns[c] = true
	return !p.cut
}

func (p *Proxy) remove(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

// copy passes bytes on until one side ends, and ends the other. first sees the first of them.
func (p *Proxy) copy(to, from net.Conn, first func([]byte)) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		p.mu.Lock()
		pass := p.pass
		p.mu.Unlock()
		<-pass
		if first != nil {
			first(buf[:n])
			first = nil
		}
		if _, failed := to.Write(buf[:n]); err != nil || failed != nil {
			return
		}
	}
}

// learn reads a server's first answer: length, protocol version, timeout, session and password.
func (p *Proxy) learn(b []byte) {
	const size = 16
	if len(b) < 24+size {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.session = int64(binary.BigEndian.Uint64(b[12:]))
	p.password = append([]byte(nil), b[24:24+size]...)
}

// Expire ends the client's session at the server, past the client: it is what a second client with the same session does
// by closing it. The client learns of it when it connects again.
func (p *Proxy) Expire() error {
	p.mu.Lock()
	session, password := p.session, p.password
	p.mu.Unlock()
	if session == 0 {
		return errors.New("there was no session through this proxy")
	}
	var err error
	for i := range expireTries {
		// The client, whose connection the server closes when we take its session, may be back before we have ended it, and then
		// ours is the one that is closed.
		if err = p.end(session, password, i > 0); err == nil {
			return nil
		}
	}
	return err
}

const expireTries = 50

// end takes the session over and closes it. With again it may be gone already.
func (p *Proxy) end(session int64, password []byte, again bool) error {
	conn, err := net.DialTimeout("tcp", p.target, time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(startWait)); err != nil {
		return err
	}
	b := binary.BigEndian.AppendUint32(nil, 0)            // protocol version
	b = binary.BigEndian.AppendUint64(b, 0)               // last change seen
	b = binary.BigEndian.AppendUint32(b, 10_000)          // timeout
	b = binary.BigEndian.AppendUint64(b, uint64(session)) //
	b = binary.BigEndian.AppendUint32(b, uint32(len(password)))
	b = append(b, password...)
	answer, err := exchange(conn, b)
	switch {
	case err != nil:
		return fmt.Errorf("session %d is not taken over: %w", session, err)
	case again && binary.BigEndian.Uint64(answer[8:]) == 0:
		return nil // it has ended, and only the answer was lost
	case int64(binary.BigEndian.Uint64(answer[8:])) != session:
		return fmt.Errorf("session %d is not taken over: %x", session, answer)
	}
	const closeSession = -11
	op := int32(closeSession)
	b = binary.BigEndian.AppendUint32(nil, 1) // number of the request
	_, err = exchange(conn, binary.BigEndian.AppendUint32(b, uint32(op)))
	return err
}

// exchange sends a request and reads the answer.
func exchange(conn net.Conn, request []byte) ([]byte, error) {
	if _, err := conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(request))), request...)); err != nil {
		return nil, err
	}
	var size [4]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return nil, err
	}
	answer := make([]byte, min(binary.BigEndian.Uint32(size[:]), 1<<16))
	_, err := io.ReadFull(conn, answer)
	if err == nil && len(answer) < 16 {
		err = fmt.Errorf("%d bytes are no answer", len(answer))
	}
	return answer, err
}
