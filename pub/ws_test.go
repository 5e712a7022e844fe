package pub

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/httpx"
	"github.com/kateway/kateway/store"
)

// webSocket is a publisher over a WebSocket.
type webSocket struct {
	t    testing.TB
	conn *websocket.Conn
}

// socket opens a WebSocket.
func (g *gateway) socket(t testing.TB, path string, header http.Header) *webSocket {
	t.Helper()
	d := websocket.Dialer{HandshakeTimeout: 10 * time.Second}
	conn, res, err := d.DialContext(t.Context(), "ws"+g.URL[4:]+path, header)
	if err != nil {
		if res != nil {
			t.Fatalf("%s: %v: status %d", path, err, res.StatusCode)
		}
		t.Fatalf("%s: %v", path, err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &webSocket{t, conn}
}

func (s *webSocket) say(kind int, text string) {
	s.t.Helper()
	if err := s.conn.WriteMessage(kind, []byte(text)); err != nil {
		s.t.Fatal(err)
	}
}

// answer is the next answer.
func (s *webSocket) answer() string {
	s.t.Helper()
	kind, b, err := s.conn.ReadMessage()
	if err != nil || kind != websocket.TextMessage {
		s.t.Fatalf("kind %d, %q, %v", kind, b, err)
	}
	return string(b)
}

func TestSocketPublishes(t *testing.T) {
	g := newGateway(t, nil)
	s := g.socket(t, "/v1/ws/pub/orders/v1?partition=1&key=k", http.Header{"Appid": {"shop"}, "X-Tag": {"red"}})
	s.say(websocket.BinaryMessage, "a")
	s.say(websocket.TextMessage, "b")
	for _, want := range []string{`{"seq":1,"partition":1,"offset":0}`, `{"seq":2,"partition":1,"offset":1}`} {
		if got := s.answer(); got != want {
			t.Errorf("answered %s, want %s", got, want)
		}
	}
	if got := shows(g.stored(t, "shop.orders.v1")); !slices.Equal(got, []string{"k|tags=red|a", "k|tags=red|b"}) {
		t.Errorf("stored %q", got)
	}
}

// closed checks that what follows is the end.
func (s *webSocket) closed(code int) {
	s.t.Helper()
	if kind, b, err := s.conn.ReadMessage(); !websocket.IsCloseError(err, code) {
		s.t.Errorf("kind %d, %q, %v; want the end with %d", kind, b, err, code)
	}
}

// reply is an answer, parsed.
type reply struct {
	Seq       int
	Partition int32
	Offset    *int64
	Error     *httpx.Problem
}

func (s *webSocket) reply() (r reply) {
	s.t.Helper()
	if text := s.answer(); json.Unmarshal([]byte(text), &r) != nil || (r.Offset == nil) == (r.Error == nil) {
		s.t.Fatalf("answered %s", text)
	}
	return r
}

// Who sends many before reading is answered in order, and what was sent first is stored first.
func TestSocketPipelines(t *testing.T) {
	g := newGateway(t, nil)
	s := g.socket(t, "/v1/ws/pub/orders/v1?key=k", http.Header{"Appid": {"shop"}})
	const n = 3000 // far more than may be on their way
	go func() {
		for i := range n {
			if s.conn.WriteMessage(websocket.TextMessage, fmt.Append(nil, i)) != nil {
				return
			}
		}
	}()
	for i := range n {
		if r := s.reply(); r.Seq != i+1 || r.Offset == nil || *r.Offset != int64(i) {
			t.Fatalf("the answer number %d: %+v", i, r)
		}
	}
	for i, m := range g.stored(t, "shop.orders.v1") {
		if string(m.Value) != fmt.Sprint(i) {
			t.Fatalf("%d: %s", i, m.Value)
		}
	}
}

// What is wrong with one message is told in its turn, and the others are stored.
func TestSocketObjects(t *testing.T) {
	g := newGateway(t, func(c *Config) { c.Limits.Message = 1000 })
	s := g.socket(t, "/v1/ws/pub/orders/v1?format=json&partition=1", http.Header{"Appid": {"shop"}, "X-Msg-A": {"b"}, "Content-Type": {"text/plain"}})
	for _, m := range []struct {
		kind       int
		text, code string
	}{
		{websocket.TextMessage, `{"key":"k","value":"v","headers":{"c":"d"}}`, ""},
		{websocket.TextMessage, `{"value":`, "invalid_body"},
		{websocket.BinaryMessage, `{"value":"v"}`, "invalid_body"},
		{websocket.TextMessage, `{"value":"v","nonsense":1}`, "invalid_body"},
		{websocket.TextMessage, `{"value":"` + strings.Repeat("x", 1001) + `"}`, "too_large"},
		{websocket.TextMessage, `{"value":"` + strings.Repeat("x", 100_000) + `"}`, "too_large"}, // is not even read
		{websocket.TextMessage, `{"value":"v","key":"` + strings.Repeat("k", 4097) + `"}`, "too_large"},
		{websocket.TextMessage, `{"value":"v","partition":7}`, "invalid_param"},
		{websocket.TextMessage, `{"value":null,"key":"k"}`, ""},
		{websocket.TextMessage, `{"value_base64":"AP8="}`, ""},
	} {
		s.say(m.kind, m.text)
		r := s.reply()
		if got := r.Error; (got == nil) != (m.code == "") || got != nil && got.Code != m.code {
			t.Errorf("%.60s: %+v %+v, want %q", m.text, r, got, m.code)
		}
	}
	want := []string{"k|c=d a=b|v", "k|a=b|~", "~|a=b|\x00\xff"}
	if got := shows(g.stored(t, "shop.orders.v1")); !slices.Equal(got, want) {
		t.Errorf("stored %q", got)
	}
}

func TestSocketRefuses(t *testing.T) {
	g := newGateway(t, nil)
	for path, want := range map[string]string{
		"/v1/ws/pub/orders/v1?async=1":                          "unknown parameter",
		"/v1/ws/pub/orders/v1?batch=lines":                      "unknown parameter",
		"/v1/ws/pub/orders/v1?format=xml":                       "format",
		"/v1/ws/pub/orders/v1?ack=none":                         "ack",
		"/v1/ws/pub/orders/v1?partition=x":                      "partition",
		"/v1/ws/pub/orders/v1?key=" + strings.Repeat("k", 4097): "key",
	} {
		d := websocket.Dialer{}
		_, res, err := d.DialContext(t.Context(), "ws"+g.URL[4:]+path, nil)
		if err == nil || res == nil {
			t.Fatalf("%s: %v", path, err)
		}
		b, _ := io.ReadAll(res.Body)
		if (res.StatusCode != 400 && res.StatusCode != 413) || !strings.Contains(string(b), want) {
			t.Errorf("%s: %d %s, want %q", path, res.StatusCode, b, want)
		}
	}
	for _, head := range []string{"Idempotency-Key", "Content-Encoding", "X-Msg-Content-Type"} {
		_, res, err := websocket.DefaultDialer.DialContext(t.Context(), "ws"+g.URL[4:]+"/v1/ws/pub/orders/v1", http.Header{head: {"x"}})
		if err == nil || res == nil || res.StatusCode != 400 {
			t.Errorf("%s: %v, %+v", head, err, res)
		}
	}
}

// When the store fails every message is told so; when it is back the same connection goes on.
func TestSocketWhenTheStoreFails(t *testing.T) {
	var down atomic.Bool
	g := newGateway(t, func(c *Config) {
		good := c.Store
		c.Store = publisher(func(ctx context.Context, topic string, ack store.Ack, msgs ...*store.Message) error {
			if down.Load() {
				return errs.Unavailable
			}
			return good.Publish(ctx, topic, ack, msgs...)
		})
	})
	s := g.socket(t, "/v1/ws/pub/orders/v1", http.Header{"Appid": {"shop"}})
	down.Store(true)
	for i := range 3 {
		s.say(websocket.TextMessage, "lost")
		if r := s.reply(); r.Seq != i+1 || r.Error == nil || r.Error.Code != "unavailable" || r.Error.Status != 503 {
			t.Errorf("%+v", r)
		}
	}
	down.Store(false)
	s.say(websocket.TextMessage, "kept")
	if r := s.reply(); r.Seq != 4 || r.Error != nil {
		t.Errorf("%+v", r)
	}
}

// What is on its way is bounded in messages and bytes: what is beyond waits in the client, until some are answered.
func TestSocketInFlightIsBounded(t *testing.T) {
	for _, c := range []struct{ bytes, most int }{{10, socketMessages}, {1 << 20, socketBytes >> 20}, {2 * socketBytes, 1}} {
		synctest.Test(t, func(t *testing.T) {
			s := new(socket)
			s.room.L, s.more.L = &s.mu, &s.mu
			pushed := 0
			go func() {
				for s.push(incoming{bytes: c.bytes}) {
					pushed++
				}
			}()
			synctest.Wait()
			if pushed != c.most {
				t.Errorf("of %d bytes each %d messages are on their way, want %d", c.bytes, pushed, c.most)
			}
			list := s.take()
			if synctest.Wait(); len(list) != c.most || pushed != c.most {
				t.Errorf("%d are taken and not answered, and %d pushed", len(list), pushed)
			}
			s.answered(list[:1])
			if synctest.Wait(); pushed != c.most+1 {
				t.Errorf("one was answered, and %d pushed", pushed)
			}
			s.stopped(&s.mute) // the reader ends with the writer
		})
	}
}

// A gateway that stops answers all that it has read, and closes with 1012.
func TestSocketDrains(t *testing.T) {
	g := newGateway(t, nil)
	s := g.socket(t, "/v1/ws/pub/orders/v1", http.Header{"Appid": {"shop"}})
	s.say(websocket.TextMessage, "a")
	s.reply()
	g.handler.Drain(0)
	s.closed(websocket.CloseServiceRestart)
	_, res, err := websocket.DefaultDialer.DialContext(t.Context(), "ws"+g.URL[4:]+"/v1/ws/pub/orders/v1", nil)
	if err == nil || res == nil || res.StatusCode != 503 {
		t.Errorf("%v, %+v", err, res)
	}
}
