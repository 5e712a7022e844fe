package test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// patrons is clients of every kind that never send a request twice. Each message has a value of its own, so that what comes
// can be compared with what was stored.
type patrons struct {
	t    *testing.T
	base string // of the gateway
	addr string
	app  string
	tls  *tls.Config // nil: clear text

	last   atomic.Int64 // number of a value
	served atomic.Int64 // requests
	failed atomic.Int64
	mu     sync.Mutex
	stored map[string]bool
	stall  time.Duration // the longest that a publish took, from its last byte on, since restall
	breaks []time.Duration
	groups []*audience
}

// audience is the clients of one group.
type audience struct {
	name string
	mu   sync.Mutex
	seen map[string]int
}

func (c *patrons) fail(format string, args ...any) {
	if c.failed.Add(1) <= 10 {
		c.t.Errorf(format, args...)
	}
}

func (c *patrons) value() string { return fmt.Sprintf("m%08d", c.last.Add(1)) }

// did notes the end of a publish of these values.
func (c *patrons) did(began time.Time, values ...string) {
	c.served.Add(1)
	took := time.Since(began)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stall = max(c.stall, took)
	for _, v := range values {
		c.stored[v] = true
	}
}

// restall answers the stall, which begins anew.
func (c *patrons) restall() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	longest := c.stall
	c.stall = 0
	return longest
}

// secure is a configuration that nobody else writes to.
func (c *patrons) secure() *tls.Config { return c.tls.Clone() }

func (c *patrons) dial(ctx context.Context) (net.Conn, error) {
	if c.tls != nil {
		return (&tls.Dialer{Config: c.secure()}).DialContext(ctx, "tcp", c.addr)
	}
	return new(net.Dialer).DialContext(ctx, "tcp", c.addr)
}

func (c *patrons) head(more string) string {
	return "POST /v1/msgs/load/v1 HTTP/1.1\r\nHost: " + c.addr + "\r\nAppid: " + c.app + "\r\n" + more
}

// read reads one answer to a publish.
func (c *patrons) read(r *bufio.Reader, kind string) (closed, ok bool) {
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		c.fail("%s: reading the answer: %v", kind, err)
		return true, false
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusCreated {
		c.fail("%s: %s %s %v", kind, resp.Status, b, err)
		return true, false
	}
	return resp.Close, true
}

// raw sends requests over connections of its own; one at a time, or several without waiting. A connection that an answer
// closes is done with, and what was sent behind that request over it was not taken.
func (c *patrons) raw(ctx context.Context, kind string, fresh bool, depth int, write sender) {
	for ctx.Err() == nil {
		conn, err := c.dial(context.WithoutCancel(ctx))
		if err != nil {
			c.fail("%s: connecting: %v", kind, err)
			return
		}
		c.over(ctx, conn, kind, fresh, depth, write)
		conn.Close()
	}
}

func (c *patrons) over(ctx context.Context, conn net.Conn, kind string, fresh bool, depth int, write sender) {
	r := bufio.NewReader(conn)
	for ctx.Err() == nil {
		_ = conn.SetDeadline(time.Now().Add(patience))
		values := make([]string, depth)
		var whole bytes.Buffer
		var to io.Writer = conn
		if depth > 1 {
			to = &whole
		}
		for i := range values {
			values[i] = c.value()
			if err := write(to, values[i]); err != nil {
				c.fail("%s: sending: %v", kind, err)
				return
			}
		}
		if depth > 1 {
			if _, err := conn.Write(whole.Bytes()); err != nil {
				c.fail("%s: sending: %v", kind, err)
				return
			}
		}
		began := time.Now()
		for _, v := range values {
			closed, ok := c.read(r, kind)
			if !ok {
				return
			}
			c.did(began, v)
			if closed || fresh {
				return
			}
		}
	}
}

// sender writes the request that publishes a value.
type sender func(w io.Writer, value string) error

func (c *patrons) plain(w io.Writer, value string) error {
	_, err := fmt.Fprintf(w, "%sContent-Length: %d\r\n\r\n%s", c.head(""), len(value), value)
	return err
}

func (c *patrons) chunked(w io.Writer, value string) error {
	_, err := fmt.Fprintf(w, "%sTransfer-Encoding: chunked\r\n\r\n4\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n", c.head(""), value[:4], len(value)-4, value[4:])
	return err
}

// long takes its time over a body, longer than a swap.
func (c *patrons) long(ctx context.Context) sender {
	return func(w io.Writer, value string) error {
		_, err := fmt.Fprintf(w, "%sContent-Length: %d\r\n\r\n", c.head(""), len(value))
		for i := range value {
			if err == nil {
				_, err = io.WriteString(w, value[i:i+1])
			}
			select {
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
			}
		}
		return err
	}
}

// http publishes by net/http, which on HTTP/2 sends again what a GOAWAY says was not taken, and nothing else.
func (c *patrons) http(ctx context.Context, h2 bool) {
	p := new(http.Protocols)
	p.SetHTTP1(!h2)
	p.SetHTTP2(h2 && c.tls != nil)
	p.SetUnencryptedHTTP2(h2 && c.tls == nil)
	tr := &http.Transport{Protocols: p, TLSClientConfig: c.secure()}
	defer tr.CloseIdleConnections()
	for ctx.Err() == nil {
		began, v := time.Now(), c.value()
		// A body that can be read once only: net/http can't send it again by itself.
		req, err := http.NewRequest(http.MethodPost, c.base+"/v1/msgs/load/v1", io.MultiReader(strings.NewReader(v)))
		if err != nil {
			c.fail("%v", err)
			return
		}
		req.ContentLength = int64(len(v))
		req.Header.Set("Appid", c.app)
		if h2 { // the standard client may do it where the server said that it took nothing
			req.Body, req.GetBody = io.NopCloser(strings.NewReader(v)), func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(v)), nil }
		}
		resp, err := tr.RoundTrip(req)
		if err != nil {
			c.fail("net/http, h2=%t: %v", h2, err)
			continue
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusCreated {
			c.fail("net/http, h2=%t: %s %s %v", h2, resp.Status, b, err)
			continue
		}
		c.did(began, v)
	}
}

func (c *patrons) dialer() *websocket.Dialer {
	return &websocket.Dialer{HandshakeTimeout: patience, TLSClientConfig: c.secure()}
}

func (c *patrons) ws(path string) string { return "ws" + strings.TrimPrefix(c.base, "http") + path }

// told reports whether the end of a WebSocket was announced: come again.
func told(err error) bool { return websocket.IsCloseError(err, websocket.CloseServiceRestart) }

// publisher publishes over WebSockets, one message at a time.
func (c *patrons) publisher(ctx context.Context) {
	for ctx.Err() == nil {
		conn, resp, err := c.dialer().Dial(c.ws("/v1/ws/pub/load/v1"), http.Header{"Appid": {c.app}})
		if err != nil {
			c.fail("opening a WebSocket to publish: %v %v", err, resp)
			return
		}
		for ctx.Err() == nil {
			began, v := time.Now(), c.value()
			_ = conn.SetReadDeadline(began.Add(patience))
			if err := conn.WriteMessage(websocket.TextMessage, []byte(v)); err != nil {
				break // the answer says why
			}
			_, frame, err := conn.ReadMessage()
			if told(err) {
				break // nothing more was read: it was not stored, by what api.md says
			}
			var a struct{ Offset *int64 }
			if err == nil {
				err = json.Unmarshal(frame, &a)
			}
			if err != nil || a.Offset == nil {
				c.fail("publishing over a WebSocket: %s %v", frame, err)
				break
			}
			c.did(began, v)
		}
		conn.Close()
	}
}

func (c *patrons) group(name string) *audience {
	r := &audience{name: name, seen: map[string]int{}}
	c.groups = append(c.groups, r)
	return r
}

func (r *audience) got(value string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen[value]++
}

func (r *audience) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.seen)
}

// back notes how long a stream was away.
func (c *patrons) back(ended time.Time) {
	if ended.IsZero() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.breaks = append(c.breaks, time.Since(ended))
}

// events reads a group as server-sent events, acked as they are written.
func (c *patrons) events(ctx context.Context, g *audience) {
	tr := &http.Transport{TLSClientConfig: c.secure()}
	defer tr.CloseIdleConnections()
	var ended time.Time
	for ctx.Err() == nil {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+"/v1/stream/"+c.app+"/load/v1?group="+url.QueryEscape(g.name), nil)
		if err != nil {
			c.fail("%v", err)
			return
		}
		req.Header.Set("Appid", c.app)
		req.Header.Set("Accept", "text/event-stream")
		resp, err := tr.RoundTrip(req)
		if err != nil || resp.StatusCode != http.StatusOK {
			if ctx.Err() == nil {
				c.fail("opening a stream: %v %v", resp, err)
			}
			return
		}
		c.served.Add(1)
		c.back(ended)
		err = c.lines(resp.Body, g)
		resp.Body.Close()
		ended = time.Now()
		if err != nil && ctx.Err() == nil {
			c.fail("a stream was cut: %v", err)
		}
	}
}

func (c *patrons) lines(body io.Reader, g *audience) error {
	r := bufio.NewReader(body)
	retry := false
	for {
		s, err := r.ReadString('\n')
		switch {
		case errors.Is(err, io.EOF) && s == "" && !retry:
			return errors.New("it did not say when to come again")
		case errors.Is(err, io.EOF) && s == "":
			return nil
		case err != nil:
			return fmt.Errorf("after %q: %w", s, err)
		}
		retry = retry || strings.HasPrefix(s, "retry:")
		if data, ok := strings.CutPrefix(s, "data: "); ok {
			var m message
			if err := json.Unmarshal([]byte(data), &m); err != nil {
				return fmt.Errorf("%q: %w", data, err)
			}
			g.got(m.text())
		}
	}
}

// poll takes messages and acks them, each over the connection that is at hand; what was acked is not to come again.
func (c *patrons) poll(ctx context.Context, g *audience) {
	tr := &http.Transport{TLSClientConfig: c.secure()}
	defer tr.CloseIdleConnections()
	path := "/v1/msgs/" + c.app + "/load/v1?group=" + g.name
	ask := func(method, path string, body io.Reader) (int, []byte, bool) {
		req, err := http.NewRequest(method, c.base+path, body)
		if err != nil {
			c.fail("%v", err)
			return 0, nil, false
		}
		req.Header.Set("Appid", c.app)
		req.Header.Set("Accept", "application/x-ndjson")
		req.GetBody = nil
		if body != nil {
			req.Header.Set("Content-Type", "application/json")
		}
		resp, err := tr.RoundTrip(req)
		if err != nil {
			c.fail("%s %s: %v", method, path, err)
			return 0, nil, false
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode >= 300 {
			c.fail("%s %s: %s %s %v", method, path, resp.Status, b, err)
			return 0, nil, false
		}
		c.served.Add(1)
		return resp.StatusCode, b, true
	}
	for ctx.Err() == nil {
		_, b, ok := ask("GET", path+"&ack=explicit&lease=30s&batch=100&wait=1s", nil)
		if !ok {
			return
		}
		var verbs []map[string]string
		var values []string
		for line := range bytes.Lines(b) {
			m := decode[message](c.t, line)
			verbs = append(verbs, map[string]string{"receipt": m.Receipt, "op": "ack"})
			values = append(values, m.text())
		}
		if len(verbs) == 0 {
			continue
		}
		body, _ := json.Marshal(verbs)
		if _, b, ok := ask("PUT", path, bytes.NewReader(body)); !ok || bytes.Contains(b, []byte(`"fenced"`)) {
			c.fail("acking %d messages: %s", len(verbs), b)
			return
		}
		for _, v := range values {
			g.got(v)
		}
	}
}

// socket reads a group over a WebSocket, acked as they are written.
func (c *patrons) socket(ctx context.Context, g *audience) {
	var ended time.Time
	for ctx.Err() == nil {
		conn, resp, err := c.dialer().Dial(c.ws("/v1/ws/msgs/"+c.app+"/load/v1?group="+g.name), http.Header{"Appid": {c.app}})
		if err != nil {
			c.fail("opening a WebSocket: %v %v", err, resp)
			return
		}
		c.served.Add(1)
		c.back(ended)
		unhook := context.AfterFunc(ctx, func() { conn.Close() })
		for {
			_, frame, err := conn.ReadMessage()
			if err != nil {
				if !told(err) && ctx.Err() == nil {
					c.fail("a WebSocket was cut: %v", err)
				}
				break
			}
			var m message
			if err := json.Unmarshal(frame, &m); err != nil {
				c.fail("a WebSocket says %q", frame)
				break
			}
			g.got(m.text())
		}
		ended = time.Now()
		unhook()
		conn.Close()
	}
}
