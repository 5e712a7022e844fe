package gateway

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kateway/kateway/store"
	"github.com/kateway/kateway/store/mem"
)

// publisher posts over one keep-alive connection at a time, as fast as it is answered, without ever trying again, until
// the gateway takes no connection any more. Whatever else goes wrong is a failed request.
func publisher(ctx context.Context, addr string, done *atomic.Int64) error {
	request := "POST /v1/msgs/orders/v1 HTTP/1.1\r\nHost: " + addr + "\r\nContent-Length: 5\r\n\r\nhello"
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if errors.Is(err, syscall.ECONNREFUSED) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("connecting: %w", err)
		}
		if err := publishOn(conn, request, done); err != nil {
			return err
		}
	}
}

// publishOn uses the connection until an answer says that it closes.
func publishOn(conn net.Conn, request string, done *atomic.Int64) error {
	defer conn.Close()
	r := bufio.NewReader(conn)
	for {
		if _, err := io.WriteString(conn, request); err != nil {
			return fmt.Errorf("after %d requests: sending: %w", done.Load(), err)
		}
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return fmt.Errorf("after %d requests: reading the answer: %w", done.Load(), err)
		}
		b, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusCreated {
			return fmt.Errorf("%s %s %w", resp.Status, b, err)
		}
		done.Add(1)
		if resp.Close {
			return nil
		}
	}
}

func TestStopFailsNoRequest(t *testing.T) {
	g := start(t, func(c *Config) { c.DrainDelay, c.DrainGrace = 300*time.Millisecond, time.Second })
	var wg sync.WaitGroup
	var done atomic.Int64
	const clients = 64
	failed := make(chan error, clients)
	for range clients {
		wg.Go(func() { failed <- publisher(t.Context(), g.Addr(Pub), &done) })
	}
	await(t, "load", func() bool { return done.Load() > 10*clients })
	if err := g.stop(); err != nil {
		t.Errorf("run: %v", err)
	}
	wg.Wait()
	close(failed)
	for err := range failed {
		if err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d requests", done.Load())
}

// The same over HTTP/2 in clear text: GOAWAY, and no request lost.
func TestStopFailsNoRequestOverHTTP2(t *testing.T) {
	g := start(t, func(c *Config) { c.DrainDelay, c.DrainGrace = 300*time.Millisecond, time.Second })
	var wg sync.WaitGroup
	var done atomic.Int64
	const clients = 16
	failed := make(chan error, clients)
	for range clients {
		wg.Go(func() {
			tr := h2cTransport()
			defer tr.CloseIdleConnections()
			failed <- publishOverHTTP2(t.Context(), tr, g.url(Pub), &done)
		})
	}
	await(t, "load", func() bool { return done.Load() > 10*clients })
	if err := g.stop(); err != nil {
		t.Errorf("run: %v", err)
	}
	wg.Wait()
	close(failed)
	for err := range failed {
		if err != nil {
			t.Error(err)
		}
	}
}

func h2cTransport() *http.Transport {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return &http.Transport{Protocols: p}
}

func publishOverHTTP2(ctx context.Context, tr *http.Transport, url string, done *atomic.Int64) error {
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v1/msgs/orders/v1", strings.NewReader("hello"))
		if err != nil {
			return err
		}
		resp, err := tr.RoundTrip(req)
		if errors.Is(err, syscall.ECONNREFUSED) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("after %d requests: %w", done.Load(), err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusCreated || resp.ProtoMajor != 2 {
			return fmt.Errorf("%s %s %s %w", resp.Proto, resp.Status, b, err)
		}
		done.Add(1)
	}
}

// Streams of every form, over both protocols, and waiting polls come to a clean end.
func TestStopEndsStreams(t *testing.T) {
	g := start(t, func(c *Config) { c.DrainDelay, c.DrainGrace = 50*time.Millisecond, 200*time.Millisecond })
	h2 := h2cTransport()
	defer h2.CloseIdleConnections()
	h1 := g.client.Transport.(*http.Transport)
	var wg sync.WaitGroup
	ended := make(chan error, 16)
	open := 0
	for _, tr := range []*http.Transport{h1, h2} {
		for _, accept := range []string{"application/x-ndjson", "text/event-stream", "text/plain"} {
			body := openStream(t, tr, g.url(Sub), fmt.Sprintf("g%d", open), accept)
			open++
			wg.Go(func() { ended <- toEnd(body) })
		}
	}
	polled := make(chan int, 1)
	wg.Go(func() {
		resp, _ := g.ask(t, Sub, "GET", "/v1/msgs/default/orders/v1?group=p&wait=1m", nil)
		polled <- resp.StatusCode
	})
	await(t, "poll", func() bool { return g.connected() >= 5 })
	began := time.Now()
	if err := g.stop(); err != nil {
		t.Errorf("run: %v", err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
	wg.Wait()
	for range open {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if status := <-polled; status != http.StatusNoContent && status != http.StatusServiceUnavailable {
		t.Errorf("poll: %d", status)
	}
}

func openStream(t *testing.T, tr *http.Transport, url, group, accept string) io.ReadCloser {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/v1/stream/default/orders/v1?group="+group, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", accept)
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") == "" {
		t.Fatalf("%s", resp.Status)
	}
	return resp.Body
}

// toEnd reads a stream to its end, which must be a whole one.
func toEnd(body io.ReadCloser) error {
	defer body.Close()
	_, err := io.Copy(io.Discard, body)
	return err
}

// From the first moment of a stop /ready says so, while requests on new connections are still served, and told to close.
func TestStopTellsBeforeItCloses(t *testing.T) {
	g := start(t, func(c *Config) { c.DrainDelay, c.DrainGrace, c.DrainLimit = 3*time.Second, 0, 10*time.Second })
	await(t, "ready", func() bool { status, _ := g.ready(t, Pub, ""); return status == 200 })
	stopped := make(chan error, 1)
	go func() { stopped <- g.stop() }()
	await(t, "not ready", func() bool { status, _ := g.ready(t, Pub, ""); return status == 503 })
	if _, a := g.ready(t, Man, ""); a.Status != "draining" {
		t.Errorf("%+v", a)
	}
	resp, body := g.ask(t, Pub, "POST", "/v1/msgs/orders/v1", withBody("x"))
	if resp.StatusCode != http.StatusCreated || !resp.Close {
		t.Errorf("%s %s, closes: %v", resp.Status, body, resp.Close)
	}
	if resp, _ := g.ask(t, Pub, "GET", "/alive", nil); resp.StatusCode != 200 {
		t.Errorf("not alive: %s", resp.Status)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// A client that keeps its connection open and idle has until the end of the grace time to use it.
func TestStopLetsIdleConnectionsComeOnceMore(t *testing.T) {
	g := start(t, func(c *Config) { c.DrainGrace = 5 * time.Second })
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", g.Addr(Pub))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	r := bufio.NewReader(conn)
	ask := func() *http.Response {
		t.Helper()
		if _, err := io.WriteString(conn, "GET /alive HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp
	}
	if resp := ask(); resp.Close {
		t.Error("closed before the stop")
	}
	stopped := make(chan error, 1)
	go func() { stopped <- g.stop() }()
	await(t, "listener closed", func() bool {
		c, err := new(net.Dialer).DialContext(t.Context(), "tcp", g.Addr(Pub))
		if err == nil {
			c.Close()
		}
		return errors.Is(err, syscall.ECONNREFUSED)
	})
	if resp := ask(); resp.StatusCode != 200 || !resp.Close {
		t.Errorf("%s, closes: %v", resp.Status, resp.Close)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// dead is a store that answers nothing any more, whatever it is asked, until the test is over.
type dead struct {
	*mem.Store
	over chan struct{}
}

func (d *dead) Publish(context.Context, string, store.Ack, ...*store.Message) error {
	<-d.over
	return errors.New("over")
}

func (d *dead) Ping(context.Context) error { <-d.over; return nil }

func (d *dead) Close(context.Context) error { <-d.over; return nil }

// With clients that do not read and a store that does not answer, a stop ends within its limit all the same, and says that
// it was not in order.
func TestStopIsBounded(t *testing.T) {
	d := &dead{Store: mem.New(), over: make(chan struct{})}
	cfg := testConfig(t)
	cfg.DrainGrace, cfg.DrainLimit = 100*time.Millisecond, time.Second
	g, err := New(t.Context(), cfg, Deps{Log: NewLogger(io.Discard, nil, "json"), Version: "test", Store: d})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	var clients []net.Conn
	for _, request := range []string{
		"", "POST /v1/msgs/orders/v1 HTTP/1.1\r\n", // never whole
		"POST /v1/msgs/orders/v1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello", // never answered
		"POST /v1/msgs/orders/v1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhe",    // never all there
		"GET /v1/stream/default/orders/v1?group=g HTTP/1.1\r\nHost: localhost\r\n\r\n",
	} {
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", g.Addr(Pub))
		if err != nil {
			t.Fatal(err)
		}
		clients = append(clients, conn)
		if _, err := io.WriteString(conn, request); err != nil {
			t.Fatal(err)
		}
	}
	await(t, "connections", func() bool { return g.connected() == int64(len(clients)) })
	began := time.Now()
	cancel()
	if err := <-done; err == nil {
		t.Error("a stop that was not in order says nothing of it")
	}
	if took := time.Since(began); took > cfg.DrainLimit+time.Second {
		t.Errorf("took %v", took)
	}
	close(d.over)
	for _, c := range clients {
		c.Close()
	}
}

// doomed is a store that comes to its end.
type doomed struct {
	*mem.Store
	end chan struct{}
}

func (d *doomed) Done() <-chan struct{} { return d.end }
func (d *doomed) Err() error            { return errors.New("disk on fire") }

func TestStoreThatCannotGoOnEndsTheProcess(t *testing.T) {
	d := &doomed{Store: mem.New(), end: make(chan struct{})}
	g, err := New(t.Context(), testConfig(t), Deps{Log: NewLogger(io.Discard, nil, "json"), Version: "test", Store: d})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- g.Run(context.WithoutCancel(t.Context())) }()
	close(d.end)
	if err := <-done; err == nil || !strings.Contains(err.Error(), "disk on fire") {
		t.Errorf("%v", err)
	}
}
