package test

import (
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// flooder is an HTTP/2 client that keeps no rule but those of framing.
type flooder struct {
	conn net.Conn
	out  bytes.Buffer // frames that are not sent yet
	*http2.Framer
	enc     *hpack.Encoder
	headers bytes.Buffer
	next    uint32
}

// newFlooder connects; unless reads, it leaves what the gateway sends where it is.
func newFlooder(ctx context.Context, addr string, reads bool, settings ...http2.Setting) (*flooder, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	f := &flooder{conn: conn, next: 1}
	f.Framer = http2.NewFramer(&f.out, conn)
	f.AllowIllegalWrites = true
	f.enc = hpack.NewEncoder(&f.headers)
	_, _ = f.out.WriteString(http2.ClientPreface)
	_ = f.WriteSettings(settings...)
	_ = f.WriteSettingsAck()
	if reads {
		go func() { _, _ = io.Copy(io.Discard, conn) }() // ends with the connection
	}
	return f, f.send()
}

// send sends what was written.
func (f *flooder) send() error {
	_ = f.conn.SetWriteDeadline(time.Now().Add(2 * time.Second)) // a gateway that does not read is as good as one that hung up
	_, err := f.out.WriteTo(f.conn)
	f.out.Reset()
	return err
}

// request begins a request on a stream of its own.
func (f *flooder) request(method, path string, end, whole bool, more ...hpack.HeaderField) uint32 {
	f.headers.Reset()
	fields := append([]hpack.HeaderField{{Name: ":method", Value: method}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "localhost"}, {Name: ":path", Value: path}}, more...)
	for _, h := range fields {
		_ = f.enc.WriteField(h)
	}
	id := f.next
	f.next += 2
	_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: f.headers.Bytes(), EndStream: end, EndHeaders: whole})
	return id
}

// flood is an attack: step is sent again and again.
type flood struct {
	reads    bool
	settings []http2.Setting
	begin    func(f *flooder)
	step     func(f *flooder)
	closed   bool // by the gateway, within the time
}

func floods() map[string]flood {
	poll := "/v1/msgs/default/big/v1?partition=0&offset=0"
	big := hpack.HeaderField{Name: "x-a", Value: strings.Repeat("a", 3000)}
	var bomb []hpack.HeaderField
	for range 2000 {
		bomb = append(bomb, big) // a byte each once the table has it
	}
	return map[string]flood{
		"rapid reset": {reads: true, step: func(f *flooder) {
			for range 100 {
				id := f.request("GET", poll, true, true)
				_ = f.WriteRSTStream(id, http2.ErrCodeCancel)
			}
		}},
		"rapid reset, nothing read": {step: func(f *flooder) {
			for range 100 {
				id := f.request("GET", poll, true, true)
				_ = f.WriteRSTStream(id, http2.ErrCodeCancel)
			}
		}},
		"reset made to be sent": {reads: true, step: func(f *flooder) { // MadeYouReset: the gateway is the one who resets
			for range 100 {
				id := f.request("GET", poll, true, true)
				_ = f.WriteWindowUpdate(id, 0)
			}
		}},
		"continuation": {reads: true, closed: true, begin: func(f *flooder) { f.request("GET", "/alive", true, false) }, step: func(f *flooder) {
			for range 100 {
				_ = f.WriteContinuation(f.next-2, false, bytes.Repeat([]byte{0x82}, 1000))
			}
		}},
		"settings": {step: func(f *flooder) {
			for range 1000 {
				_ = f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 65535})
			}
		}},
		"ping": {step: func(f *flooder) {
			for range 1000 {
				_ = f.WritePing(false, [8]byte{1})
			}
		}},
		"priority": {reads: true, step: func(f *flooder) {
			for i := range 1000 {
				_ = f.WritePriority(uint32(2*i+1), http2.PriorityParam{StreamDep: 0})
			}
		}},
		"empty data": {reads: true, begin: func(f *flooder) { f.request("POST", "/v1/msgs/flood/v1", false, true) }, step: func(f *flooder) {
			for range 1000 {
				_ = f.WriteData(1, false, nil)
			}
		}},
		"window 0": {settings: []http2.Setting{{ID: http2.SettingInitialWindowSize, Val: 0}}, begin: func(f *flooder) {
			for range 100 {
				f.request("GET", poll, true, true)
			}
		}, step: func(f *flooder) { _ = f.WritePing(true, [8]byte{1}) }},
		"window 0, large batches": {settings: []http2.Setting{{ID: http2.SettingInitialWindowSize, Val: 0}}, begin: func(f *flooder) {
			for range 100 {
				f.request("GET", poll+"&batch=1000", true, true)
			}
		}, step: func(f *flooder) { _ = f.WritePing(true, [8]byte{1}) }},
		"window 1": {reads: true, settings: []http2.Setting{{ID: http2.SettingInitialWindowSize, Val: 1}}, begin: func(f *flooder) {
			for range 100 {
				f.request("GET", poll, true, true)
			}
		}, step: func(f *flooder) {
			for id := uint32(1); id < f.next; id += 2 {
				_ = f.WriteWindowUpdate(id, 1)
			}
		}},
		"header bomb":      {reads: true, step: func(f *flooder) { f.request("GET", "/alive", true, true, bomb...) }},
		"window too large": {reads: true, closed: true, step: func(f *flooder) { _ = f.WriteWindowUpdate(0, 1<<31-1) }},
	}
}

// run floods until time is over or the gateway hangs up, and reports that.
func (a flood) run(ctx context.Context, addr string) (hungUp bool) {
	f, err := newFlooder(ctx, addr, a.reads, a.settings...)
	if err != nil {
		return false
	}
	defer f.conn.Close()
	if a.begin != nil {
		a.begin(f)
	}
	for ctx.Err() == nil {
		a.step(f)
		if f.send() != nil {
			return ctx.Err() == nil
		}
	}
	return false
}

// Floods of HTTP/2 cost the gateway bounded memory, and others are served meanwhile.
func TestFloods(t *testing.T) {
	g := launch(t, "--data", t.TempDir(), "--log-level", "info")
	c := g.client("default")
	for range 100 {
		c.publish("big", "", strings.Repeat("x", 20_000))
	}
	addr := strings.TrimPrefix(g.pub, "http://")
	for name, a := range floods() {
		t.Run(name, func(t *testing.T) {
			before := g.rss()
			h := beside(g)
			length := time.Second
			if a.closed {
				length = patience // it is over when the gateway hangs up
			}
			ctx, cancel := context.WithTimeout(t.Context(), length)
			defer cancel()
			var wg sync.WaitGroup
			var closed [3]bool
			for i := range closed {
				wg.Go(func() { closed[i] = a.run(ctx, addr) })
			}
			wg.Wait()
			h.check(t)
			if a.closed && closed != [3]bool{true, true, true} {
				t.Errorf("closed by the gateway: %v", closed)
			}
			grown := g.rss() - before
			if grown > 128<<20 {
				t.Errorf("it has grown by %d MiB", grown>>20)
			}
			t.Logf("closed by the gateway: %v; grown by %d KiB", closed, grown>>10)
		})
	}
}
