//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http/httputil"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

type delivered struct {
	value string
	at    time.Time
}

// latency is the time from the begin of a publish request until its message has come out of a stream, one at a time on an
// otherwise idle gateway. The floor, in turn with it, is the round trip to a bare handler with a synced append to pebble.
func latency(ctx context.Context, b *bench, target float64) ([]result, error) {
	g, bare, err := b.pair(ctx)
	if err != nil {
		return nil, err
	}
	defer stopAll(g, bare)
	out, err := dial(ctx, g.addr)
	if err != nil {
		return nil, err
	}
	defer out.close()
	if _, err := out.send([]byte("GET /v1/stream/default/slow/v1?group=g HTTP/1.1\r\nHost: localhost\r\nAccept: text/plain\r\n\r\n")); err != nil {
		return nil, err
	}
	ms, floor, err := oneByOne(ctx, g.addr, bare.addr, out)
	if err != nil {
		return nil, err
	}
	p99 := quantile(ms, 0.99)
	return []result{{
		what: "publish to delivery on an idle gateway, embedded", gateway: fmt.Sprintf("p50 %.2f ms, p99 %.2f ms", quantile(ms, 0.5), p99),
		floor: fmt.Sprintf("p50 %.2f ms, p99 %.2f ms", quantile(floor, 0.5), quantile(floor, 0.99)),
		ratio: fmt.Sprintf("p50 %.2fx", quantile(ms, 0.5)/quantile(floor, 0.5)), target: fmt.Sprintf("p99 ≤ %.0f ms", target), met: meets(p99 <= target),
	}}, nil
}

// oneByOne publishes message after message and answers after how many milliseconds each came out of the stream, and how many
// the floor took each time.
func oneByOne(ctx context.Context, addr, bare string, out *client) (ms, floor []float64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	arrived := make(chan delivered)
	ended := make(chan error, 1)
	go func() {
		lines := bufio.NewScanner(httputil.NewChunkedReader(out.r))
		for lines.Scan() {
			select {
			case arrived <- delivered{lines.Text(), time.Now()}:
			case <-ctx.Done():
				return
			}
		}
		ended <- fmt.Errorf("the stream ended: %w", errors.Join(lines.Err(), io.ErrUnexpectedEOF))
	}()
	in, err := dial(ctx, addr)
	if err != nil {
		return nil, nil, err
	}
	defer in.close()
	toFloor, err := dial(ctx, bare)
	if err != nil {
		return nil, nil, err
	}
	defer toFloor.close()
	for i := range latencies {
		value := fmt.Sprintf("%0100d", i)
		began := time.Now()
		if _, err := in.drop(post("/v1/msgs/slow/v1", []byte(value))); err != nil {
			return nil, nil, err
		}
		select {
		case got := <-arrived:
			if got.value != value {
				return nil, nil, fmt.Errorf("message %s came when %s was published", got.value, value)
			}
			ms = append(ms, float64(got.at.Sub(began))/1e6)
		case err := <-ended:
			return nil, nil, err
		case <-time.After(ioWait):
			return nil, nil, fmt.Errorf("message %d has not come", i)
		}
		began = time.Now()
		if _, err := toFloor.drop(post("/both?what=pebble", []byte(value))); err != nil {
			return nil, nil, err
		}
		floor = append(floor, float64(time.Since(began))/1e6)
		if err := pause(ctx, time.Millisecond); err != nil {
			return nil, nil, err
		}
	}
	return ms, floor, nil
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func idleH2C(ctx context.Context, b *bench, target float64) ([]result, error) {
	return b.idle(ctx, "memory of an idle stream, h2c", target, openH2C)
}

func idleHTTP1(ctx context.Context, b *bench, target float64) ([]result, error) {
	return b.idle(ctx, "memory of an idle stream, HTTP/1.1", target, openHTTP1)
}

// opener opens n streams, waits until each is answered, and answers what closes them.
type opener func(ctx context.Context, addr, path string, n int) (closeAll func(), err error)

// idle is by how much the process grows with each stream, as the kernel counts it. The floor is a handler that flushes
// and waits.
func (b *bench) idle(ctx context.Context, what string, target float64, open opener) ([]result, error) {
	g, bare, err := b.pair(ctx)
	if err != nil {
		return nil, err
	}
	defer stopAll(g, bare)
	if err := fill(ctx, g, "idle", 1000); err != nil { // the first of everything is not a stream's
		return nil, err
	}
	grown := make([]float64, 2)
	for i, s := range []struct {
		p    *proc
		path string
	}{{g, "/v1/stream/default/idle/v1?group=g&reset=newest"}, {bare, "/idle"}} {
		if grown[i], err = growth(ctx, s.p, s.path, open); err != nil {
			return nil, err
		}
	}
	return []result{{
		what: what, gateway: fmt.Sprintf("%.1f KB", grown[0]), floor: fmt.Sprintf("%.1f KB", grown[1]), ratio: fmt.Sprintf("%.2fx", grown[0]/grown[1]),
		target: fmt.Sprintf("≤ %.0f KB", target), met: meets(grown[0] <= target), note: fmt.Sprintf("RSS over %d streams", idleStreams),
	}}, nil
}

// growth is in KB per stream.
func growth(ctx context.Context, p *proc, path string, open opener) (float64, error) {
	closeFew, err := open(ctx, p.addr, path, 10)
	if err != nil {
		return 0, err
	}
	defer closeFew()
	before, err := p.rss()
	if err != nil {
		return 0, err
	}
	closeAll, err := open(ctx, p.addr, path, idleStreams)
	if err != nil {
		return 0, err
	}
	defer closeAll()
	if err := pause(ctx, time.Second); err != nil { // what was begun at their opening ends
		return 0, err
	}
	after, err := p.rss()
	return float64(after-before) / 1000 / idleStreams, err
}

func openHTTP1(ctx context.Context, addr, path string, n int) (func(), error) {
	var open []*client
	closeAll := func() {
		for _, c := range open {
			c.close()
		}
	}
	request := fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", path)
	for range n {
		c, err := dial(ctx, addr)
		if err == nil {
			c.r = bufio.NewReaderSize(c.conn, 4<<10)
			open = append(open, c)
			var h head
			if h, err = c.send(request); err == nil && h.status != 200 {
				err = fmt.Errorf("stream answered %d", h.status)
			}
		}
		if err != nil {
			closeAll()
			return nil, err
		}
	}
	return closeAll, nil
}

func openH2C(ctx context.Context, addr, path string, n int) (func(), error) {
	return openStreams(ctx, addr, path, "*/*", n)
}

func openSSE(ctx context.Context, addr, path string, n int) (func(), error) {
	return openStreams(ctx, addr, path, "text/event-stream", n)
}

// openStreams opens 250 streams on each connection, as many as the gateway allows.
func openStreams(ctx context.Context, addr, path, accept string, n int) (func(), error) {
	var open []*client
	closeAll := func() {
		for _, c := range open {
			c.close()
		}
	}
	for opened := 0; opened < n; opened += 250 {
		c, err := dial(ctx, addr)
		if err == nil {
			open = append(open, c)
			var framer *http2.Framer
			if framer, err = streamsOn(c, path, accept, min(250, n-opened)); err == nil {
				go stayOn(framer)
			}
		}
		if err != nil {
			closeAll()
			return nil, err
		}
	}
	return closeAll, nil
}

// streamsOn opens n streams on one connection.
func streamsOn(c *client, path, accept string, n int) (*http2.Framer, error) {
	if _, err := io.WriteString(c.conn, http2.ClientPreface); err != nil {
		return nil, err
	}
	framer := http2.NewFramer(c.conn, c.r)
	if err := framer.WriteSettings(); err != nil {
		return nil, err
	}
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for i := range n {
		block.Reset()
		for _, f := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "localhost"}, {":path", path}, {"accept", accept}} {
			if err := encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
				return nil, err
			}
		}
		if err := framer.WriteHeaders(http2.HeadersFrameParam{
			StreamID: uint32(2*i + 1), BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true,
		}); err != nil {
			return nil, err
		}
	}
	for answered := 0; answered < n; {
		f, err := framer.ReadFrame()
		if err != nil {
			return nil, err
		}
		switch f := f.(type) {
		case *http2.HeadersFrame:
			answered++
			if f.StreamEnded() {
				return nil, errors.New("a stream was refused")
			}
		case *http2.SettingsFrame:
			if !f.IsAck() {
				err = framer.WriteSettingsAck()
			}
		}
		if err != nil {
			return nil, err
		}
	}
	return framer, nil
}

// stayOn does what a client has to whose streams are idle, until the connection is closed: it answers pings, and gives back
// what heartbeats took of the windows.
func stayOn(framer *http2.Framer) {
	for {
		f, err := framer.ReadFrame()
		if err != nil {
			return
		}
		switch f := f.(type) {
		case *http2.PingFrame:
			if !f.IsAck() {
				err = framer.WritePing(true, f.Data)
			}
		case *http2.DataFrame:
			if n := f.Length; n > 0 {
				err = errors.Join(framer.WriteWindowUpdate(0, n), framer.WriteWindowUpdate(f.StreamID, n))
			}
		}
		if err != nil {
			return
		}
	}
}

// stopBusy stops the gateway while 64 connections publish without a pause. A client that is asked to close its connection
// opens another; once nobody listens any more it ends. Every request that was sent on a connection must be answered 201.
func stopBusy(ctx context.Context, b *bench, target float64) ([]result, error) {
	g, err := b.gateway(ctx)
	if err != nil {
		return nil, err
	}
	defer g.stop()
	var served, failed atomic.Int64
	request := post("/v1/msgs/busy/v1", letters(100))
	clients := make(chan error, 1)
	go func() {
		clients <- together(singleConns, func(int) error { return untilRefused(ctx, g.addr, request, &served, &failed) })
	}()
	if err := pause(ctx, b.round/2); err != nil {
		return nil, err
	}
	before := served.Load()
	began := time.Now()
	if err := errors.Join(g.term(), <-clients); err != nil {
		return nil, err
	}
	return []result{{
		what: "stop under 64 busy connections", gateway: strconv.FormatInt(failed.Load(), 10) + " failed requests",
		target: fmt.Sprintf("%.0f", target), met: meets(float64(failed.Load()) <= target && before > singleConns),
		note: fmt.Sprintf("of %d, %d after SIGTERM; ended after %.1f s", served.Load()+failed.Load(), served.Load()-before, time.Since(began).Seconds()),
	}}, nil
}

// untilRefused publishes until nobody listens.
func untilRefused(ctx context.Context, addr string, request []byte, served, failed *atomic.Int64) error {
	for ctx.Err() == nil {
		c, err := dial(ctx, addr)
		if errors.Is(err, syscall.ECONNREFUSED) {
			return nil
		}
		if err != nil {
			return err
		}
		for h := (head{}); !h.closing; {
			if h, err = c.drop(request); err != nil || h.status != 201 {
				failed.Add(1)
				break
			}
			served.Add(1)
		}
		c.close()
	}
	return ctx.Err()
}
