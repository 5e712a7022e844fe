package ws

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/httpx"
)

// pipes is a listener without sockets, for tests on fake time.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { close(p.done); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

// timed runs f with fake time and a client of the handler.
func timed(t *testing.T, h httpx.Handler, f func(t *testing.T, r *raw)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := &pipes{make(chan net.Conn), make(chan struct{})}
		srv := &http.Server{Handler: httpx.Wrap("ws", h, slog.New(slog.DiscardHandler), quiet{})}
		served := make(chan struct{})
		go func() { defer close(served); _ = srv.Serve(p) }()
		here, there := net.Pipe()
		p.conns <- there
		_, err := io.WriteString(here, "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"+
			"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
		if err != nil {
			t.Fatal(err)
		}
		r := &raw{t: t, conn: here, in: bufio.NewReader(here)}
		for line := ""; line != "\r\n"; {
			if line, err = r.in.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
		}
		f(t, r)
		_ = here.Close()
		_ = srv.Close()
		<-served
	})
}

// next reads n bytes, within the time given from now on, and says after which time they were there.
func (r *raw) next(n int) (string, time.Duration) {
	r.t.Helper()
	began := time.Now()
	b := make([]byte, n)
	if n, err := io.ReadFull(r.in, b); err != nil {
		return "cut after " + string(b[:n]), time.Since(began)
	}
	return string(b), time.Since(began)
}

const pingFrame = "\x89\x00"

// A client that answers pings stays; one that misses two is gone.
func TestPings(t *testing.T) {
	timed(t, echo(Config{Limit: 1000, Buffer: 512}), func(t *testing.T, r *raw) {
		for range 10 {
			if got, took := r.next(2); got != pingFrame || took != pingEvery {
				t.Fatalf("%q after %v", got, took)
			}
			if _, err := r.conn.Write(frame(0x8A, true, 0, nil)); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			if got, took := r.next(2); got != pingFrame || took != pingEvery {
				t.Fatalf("%q after %v", got, took)
			}
		}
		if got, took := r.next(1); !strings.HasPrefix(got, "cut") || took != goneAfter-2*pingEvery {
			t.Errorf("%q after %v", got, took)
		}
	})
}

// A message that never becomes whole ends the connection, whatever pongs come beside it.
func TestMessageThatNeverEnds(t *testing.T) {
	timed(t, echo(Config{Limit: 1000, Buffer: 512}), func(t *testing.T, r *raw) {
		began := time.Now()
		if _, err := r.conn.Write(frame(0x01, true, 0, []byte("a"))); err != nil {
			t.Fatal(err)
		}
		for {
			if got, _ := r.next(2); got != pingFrame {
				break
			}
			_, _ = r.conn.Write(frame(0x00, true, 0, []byte("b")))
		}
		if took := time.Since(began); took != messageLimit {
			t.Errorf("after %v", took)
		}
	})
}

// A client that does not answer a close frame is not waited for.
func TestCloseThatIsNotAnswered(t *testing.T) {
	h := func(w http.ResponseWriter, r *http.Request) error {
		hs, err := Ask(r)
		if err != nil {
			return err
		}
		c, err := hs.Accept(w, r, Config{Limit: 1000, Buffer: 512})
		if err != nil {
			return err
		}
		return c.Serve(r.Context(), func() error { _, _, err := c.Next(); return err }, func(context.Context) error { return errs.Draining })
	}
	timed(t, h, func(t *testing.T, r *raw) {
		want := string(appendClose(nil, ServiceRestart, errs.Draining.Code()))
		if got, took := r.next(len(want)); got != want || took != 0 {
			t.Errorf("%q after %v", got, took)
		}
		if got, took := r.next(1); !strings.HasPrefix(got, "cut") || took != goodbye {
			t.Errorf("%q after %v", got, took)
		}
	})
}

// How errors of the writer are told.
func TestClosing(t *testing.T) {
	for _, c := range []struct {
		err  error
		code int
	}{
		{nil, Normal},
		{Close(4000, "x"), 4000},
		{context.Canceled, GoingAway},
		{errs.Draining, ServiceRestart},
		{errs.Unavailable, TryAgainLater},
		{errs.Overloaded, TryAgainLater},
		{errs.Internal, InternalError},
		{errors.New("unknown"), InternalError},
		{errs.Denied, PolicyViolation},
	} {
		if got := closing(c.err); got.Code != c.code {
			t.Errorf("%v: %d, want %d", c.err, got.Code, c.code)
		}
	}
}

// A drain stops the reading of all connections, spread over its time; what does not end is cut off.
func TestSocketsDrain(t *testing.T) {
	var s Sockets
	h := func(w http.ResponseWriter, r *http.Request) error {
		hs, err := Ask(r)
		if err != nil {
			return err
		}
		c, err := hs.Accept(w, r, Config{Limit: 1000, Buffer: 512, Sockets: &s})
		if err != nil {
			return err
		}
		return c.Serve(r.Context(), func() error { return echoes(c) }, func(ctx context.Context) error {
			<-ctx.Done()
			if s.Draining() {
				return errs.Draining
			}
			return ctx.Err()
		})
	}
	srv := serve(t, h)
	list := []*raw{dialRaw(t, srv.URL), dialRaw(t, srv.URL)}
	for _, r := range list {
		_, _ = r.conn.Write(frame(0x81, true, 0, []byte("a")))
		if got, _ := r.next(3); got != "\x81\x01a" {
			t.Fatalf("%q", got)
		}
	}
	s.Drain(10 * time.Millisecond)
	want := string(appendClose(nil, ServiceRestart, errs.Draining.Code()))
	if got, _ := list[0].next(len(want)); got != want {
		t.Errorf("%q", got)
	}
	_, _ = list[0].conn.Write(frame(0x88, true, 0, []byte{0x03, 0xf4}))
	late := dialRaw(t, srv.URL)
	if got, _ := late.next(len(want)); got != want {
		t.Errorf("one that comes late: %q", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Wait(ctx); err == nil { // the second has not answered yet
		t.Error("it did not wait")
	}
	if err := s.Wait(t.Context()); err != nil {
		t.Error(err)
	}
}

// With Go the handler returns at once, and the connection is served on; Wait waits until all is over.
func TestGo(t *testing.T) {
	var s Sockets
	returned, over := make(chan struct{}), make(chan error, 1)
	h := func(w http.ResponseWriter, r *http.Request) error {
		defer close(returned)
		hs, err := Ask(r)
		if err != nil {
			return err
		}
		c, err := hs.Accept(w, r, Config{Limit: 1000, Buffer: 512, Sockets: &s})
		if err != nil {
			return err
		}
		c.Go(context.Background(), func() error { return echoes(c) }, func(ctx context.Context) error {
			<-ctx.Done()
			panic("a fault of ours")
		}, func(err error) { over <- err })
		return nil
	}
	r := dialRaw(t, serve(t, h).URL)
	<-returned
	if got := strings.Join(r.answers(frame(0x81, true, 0, []byte("a"))), ", "); got != "text 1, close 1000" {
		t.Error(got)
	}
	if err := s.Wait(t.Context()); err != nil {
		t.Error(err)
	}
	select {
	case err := <-over:
		if !errors.Is(err, errs.Internal) {
			t.Errorf("%v", err)
		}
	default:
		t.Error("Wait did not wait for the end")
	}
}

// A reader to whom messages come keeps its buffer for a moment, and gives it back when it is quiet. What comes after is
// read all the same, and a client that then says nothing is gone in its time. The wait has a goroutine that has not read before.
func TestBufferGoesBack(t *testing.T) {
	var c *Conn
	h := func(w http.ResponseWriter, r *http.Request) error {
		hs, err := Ask(r)
		if err != nil {
			return err
		}
		if c, err = hs.Accept(w, r, Config{Limit: 1000, Buffer: 512}); err != nil {
			return err
		}
		return c.Serve(r.Context(), func() error {
			for {
				if _, _, err := c.Next(); err != nil {
					return err
				}
			}
		}, func(ctx context.Context) error { <-ctx.Done(); return nil })
	}
	timed(t, h, func(t *testing.T, r *raw) {
		say := func() {
			t.Helper()
			if _, err := r.conn.Write(frame(0x81, true, 0, []byte("some text that is not so short"))); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		for range 3 {
			say()
			if c.in == nil {
				t.Fatal("nothing is kept while messages come")
			}
			say()
			<-time.After(quietAfter + time.Millisecond)
			synctest.Wait()
			if c.in != nil {
				t.Fatal("a buffer is kept while nothing comes")
			}
			stacks := make([]byte, 1<<20)
			stacks = stacks[:runtime.Stack(stacks, true)]
			if !bytes.Contains(stacks, []byte("(*Conn).attend")) || bytes.Contains(stacks, []byte("TestBufferGoesBack.func1.1")) {
				t.Fatalf("the wait is on the stack of who has read:\n%s", stacks)
			}
		}
		began := time.Now()
		for {
			if got, _ := r.next(2); got != pingFrame {
				break
			}
		}
		if took := time.Since(began); took > goneAfter+quietAfter {
			t.Errorf("gone after %v", took)
		}
	})
}
