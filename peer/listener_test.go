package peer

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// accept takes one connection and closes it when the test ends.
func accept(t *testing.T, ln net.Listener) net.Conn {
	t.Helper()
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func dial(t *testing.T, ln net.Listener) net.Conn {
	t.Helper()
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// secured opens a listener that knows the secret "a", and counts what it lets through.
func secured(t *testing.T, log *slog.Logger) (*Listener, <-chan net.Conn) {
	t.Helper()
	ln := Secure(local(t), always(secrets("a")), log)
	let := make(chan net.Conn, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(let)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			let <- c
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		for c := range let {
			_ = c.Close()
		}
		wg.Wait()
	})
	return ln, let
}

// recorder keeps what was written.
type recorder struct {
	net.Conn
	wrote bytes.Buffer
}

func (r *recorder) Write(b []byte) (int, error) {
	r.wrote.Write(b)
	return r.Conn.Write(b)
}

func TestStrangersAreRefused(t *testing.T) {
	var log logs
	ln, let := secured(t, log.logger())
	known := &recorder{Conn: dial(t, ln)}
	if err := greet(known, secrets("a")); err != nil {
		t.Fatal(err)
	}
	_ = (<-let).Close()
	good := known.wrote.Bytes()
	refused := uint64(0)
	for name, say := range map[string]func(c net.Conn){
		"another secret": func(c net.Conn) {
			if err := greet(c, secrets("b")); !errors.Is(err, errHungUp) {
				t.Errorf("the client was told %v", err)
			}
		},
		"nothing, and hangs up":  func(c net.Conn) { _ = c.(*net.TCPConn).CloseWrite() },
		"a replayed answer":      func(c net.Conn) { _, _ = c.Write(good) },
		"a replay and a request": func(c net.Conn) { _, _ = c.Write(append(good[:len(good):len(good)], "GET / HTTP/1.1\r\n\r\n"...)) },
		"half an answer":         func(c net.Conn) { _, _ = c.Write(good[:50]); _ = c.(*net.TCPConn).CloseWrite() },
		"HTTP/1.1":               func(c net.Conn) { _, _ = io.WriteString(c, "GET /peer/v1/clients HTTP/1.1\r\nHost: x\r\n\r\n") },
		"HTTP/2":                 func(c net.Conn) { _, _ = io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") },
		"TLS":                    func(c net.Conn) { _, _ = c.Write([]byte{22, 3, 1, 0, 200, 1}) },
	} {
		t.Run(name, func(t *testing.T) {
			c := dial(t, ln)
			say(c)
			// It is hung up on, with no more said than the greeting and the nonce.
			heard, err := io.ReadAll(io.LimitReader(c, int64(len(greeting)+nonceSize+1)))
			if err != nil && !errors.Is(err, syscall.ECONNRESET) || len(heard) > len(greeting)+nonceSize {
				t.Errorf("heard %d bytes, %v", len(heard), err)
			}
			select {
			case <-let:
				t.Error("it was let in")
			default:
			}
		})
		refused++
	}
	// Nobody was harmed by that.
	if err := greet(dial(t, ln), secrets("a")); err != nil {
		t.Error(err)
	}
	_ = (<-let).Close()
	if n := ln.Refused(); n != refused {
		t.Errorf("counted %d refused of %d", n, refused)
	}
	if s := log.String(); !strings.Contains(s, "refused") || !strings.Contains(s, "remote=127.0.0.1:") {
		t.Errorf("log %q", s)
	}
}

// What comes out is the connection itself, without a deadline of the handshake.
func TestAcceptedConnection(t *testing.T) {
	ln, let := secured(t, slog.New(slog.DiscardHandler))
	c := dial(t, ln)
	if err := greet(c, secrets("a")); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(c, "hello")
	got := <-let
	defer func() { _ = got.Close() }()
	if _, ok := got.(*net.TCPConn); !ok {
		t.Errorf("it is a %T", got)
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(got, b); err != nil || string(b) != "hello" {
		t.Errorf("read %q, %v", b, err)
	}
	if _, err := ln.SyscallConn(); err != nil {
		t.Error(err)
	}
}

func TestHandshakesLimitEndsWithIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := newPipes(1)
		ln := Secure(in, always(secrets("a")), slog.New(slog.DiscardHandler))
		c := in.dial()
		go func() {
			_ = greet(c, secrets("a"))
			time.Sleep(2 * handshakeTime) //nolint:forbidigo // fake time
			_, _ = io.WriteString(c, "x")
		}()
		if _, err := accept(t, ln).Read(make([]byte, 1)); err != nil {
			t.Error(err)
		}
		_ = ln.Close()
	})
}

// pipes is a listener in memory, for tests in a bubble of fake time.
type pipes struct {
	queue  chan net.Conn
	faults chan error
	closed chan struct{}
}

func newPipes(queue int) *pipes {
	return &pipes{queue: make(chan net.Conn, queue), faults: make(chan error, 2), closed: make(chan struct{})}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.queue:
		return c, nil
	case err := <-p.faults:
		return nil, err
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { close(p.closed); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }

// dial puts a connection into the accept queue.
func (p *pipes) dial() net.Conn {
	a, b := net.Pipe()
	p.queue <- a
	return b
}

func TestSlowClientIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logs
		in := newPipes(1)
		ln := Secure(in, always(secrets("a")), log.logger())
		go func() { _, _ = ln.Accept() }()
		began := time.Now()
		c := in.dial()
		if _, err := io.ReadFull(c, make([]byte, len(greeting)+nonceSize)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) || time.Since(began) != handshakeTime {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		_ = ln.Close()
		if !strings.Contains(log.String(), "timeout") {
			t.Errorf("log %q", &log)
		}
	})
}

// While as many as may be are slow, others wait in the queue and get in as soon as one slot is free.
func TestHandshakesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := newPipes(maxHandshakes + 1)
		ln := Secure(in, always(secrets("a")), slog.New(slog.DiscardHandler))
		let := make(chan net.Conn)
		go func() {
			c, _ := ln.Accept()
			let <- c
		}()
		var slow []net.Conn
		for range maxHandshakes {
			slow = append(slow, in.dial())
		}
		synctest.Wait()
		fast := make(chan error, 1)
		c := in.dial()
		go func() { fast <- greet(c, secrets("a")) }()
		synctest.Wait()
		if len(in.queue) != 1 {
			t.Fatalf("%d wait in the queue", len(in.queue))
		}
		_ = slow[0].Close()
		synctest.Wait()
		if err := <-fast; err != nil {
			t.Error(err)
		}
		_ = (<-let).Close()
		_ = ln.Close()
		for _, c := range slow[1:] {
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Fatalf("a connection stayed open after Close: %v", err)
			}
		}
	})
}

func TestRefusalsAreLoggedInMeasure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logs
		in := newPipes(0)
		ln := Secure(in, always(nil), log.logger())
		go func() { _, _ = ln.Accept() }()
		refuse := func() {
			if _, err := in.dial().Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Error(err)
			}
		}
		for range 100 {
			refuse()
		}
		time.Sleep(refusalsEvery) //nolint:forbidigo // fake time
		refuse()
		lines := strings.Split(strings.TrimSpace(log.String()), "\n")
		if len(lines) != 2 || !strings.Contains(lines[1], "untold=99") || !strings.Contains(lines[0], errNoSecret.Error()) {
			t.Errorf("%d lines: %v", len(lines), lines)
		}
		if n := ln.Refused(); n != 101 {
			t.Errorf("counted %d", n)
		}
		_ = ln.Close()
	})
}

func TestErrorsOfTheSocketComeThrough(t *testing.T) {
	in := newPipes(1)
	ln := Secure(in, always(secrets("a")), slog.New(slog.DiscardHandler))
	in.faults <- syscall.EMFILE
	in.faults <- syscall.ENFILE
	for _, want := range []error{syscall.EMFILE, syscall.ENFILE} {
		if _, err := ln.Accept(); !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
	}
	c := in.dial()
	go func() { _ = greet(c, secrets("a")) }()
	_ = accept(t, ln).Close()
	if _, err := ln.SyscallConn(); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("the socket of a pipe: %v", err)
	}
	in.faults <- syscall.EMFILE // nobody takes it
	if err := ln.Close(); err != nil {
		t.Error(err)
	}
}

func TestClose(t *testing.T) {
	t.Run("never used", func(t *testing.T) {
		ln := Secure(local(t), always(nil), slog.New(slog.DiscardHandler))
		if err := ln.Close(); err != nil {
			t.Error(err)
		}
		if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept: %v", err)
		}
		if err := ln.Close(); err != nil {
			t.Errorf("the second time: %v", err)
		}
	})
	t.Run("the socket was closed by somebody else", func(t *testing.T) {
		in := local(t)
		ln := Secure(in, always(nil), slog.New(slog.DiscardHandler))
		_ = in.Close()
		for range 2 {
			if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("Accept: %v", err)
			}
		}
		_ = ln.Close()
	})
	t.Run("authenticated, and nobody took it", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			in := newPipes(2)
			ln := Secure(in, always(secrets("a")), slog.New(slog.DiscardHandler))
			first, second := in.dial(), in.dial()
			go func() { _ = greet(first, secrets("a")) }()
			_ = accept(t, ln).Close()
			if err := greet(second, secrets("a")); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			_ = ln.Close()
			if _, err := second.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Errorf("it stayed open: %v", err)
			}
		})
	})
}
