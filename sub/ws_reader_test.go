package sub

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"

	"github.com/kateway/kateway/internal/online"
	"github.com/kateway/kateway/plugins"
	"github.com/kateway/kateway/store"
)

// upgrade is what asks for a WebSocket.
var upgrade = []string{
	"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
}

const deflated = "Sec-WebSocket-Extensions: permessage-deflate"

// at checks that the client is told this cursor.
func (s *webSocket) at(cursor string) {
	s.t.Helper()
	if o := s.object(); o.Event != "cursor" || o.Cursor != cursor {
		s.t.Errorf("%+v, want the cursor %s", o, cursor)
	}
}

// raw is the next message, which is to be a binary one.
func (s *webSocket) raw() string {
	s.t.Helper()
	kind, b, err := s.conn.ReadMessage()
	if err != nil || kind != websocket.BinaryMessage {
		s.t.Fatalf("kind %d, %q, %v", kind, b, err)
	}
	return string(b)
}

// Every client sees every message; who was away goes on where it was, at another gateway too.
func TestReadSocket(t *testing.T) {
	w := newWorld(t, 2)
	c := serve(t, w.mux, false)
	w.fill(3, 0, 1)
	a, b := c.socket(socketPath), c.socket(socketPath+"?reset=oldest", deflated)
	a.at(cursorOf(3, 3))
	b.at(cursorOf(0, 0))
	if h := a.res.Header; h.Get("X-Cursor") != cursorOf(3, 3) || h.Get("Cache-Control") != "no-store" {
		t.Errorf("%v", h)
	}
	for range 6 {
		b.object()
	}
	w.publishMessages(&store.Message{Partition: 1, Value: []byte(strings.Repeat("long ", 100))})
	w.fill(1, 1)
	var last object
	for i := range 2 {
		x, y := a.text(), b.text()
		last = parseObject(t, x)
		if x != y || last.Partition != 1 || last.Offset != int64(3+i) || last.Cursor != cursorOf(3, int64(4+i)) || last.Attempt != 0 || last.Receipt != "" {
			t.Errorf("%s and %s", x, y)
		}
	}
	awaitMetric(t, w, `kateway_sub_streams{form="ws"}`, 2)
	_, _ = a.conn.Close(), b.conn.Close()
	w.fill(1, 0, 1)
	forgetGroups(t, w) // another gateway
	c = serve(t, w.mux, false)
	s := c.socket(socketPath + "?cursor=" + last.Cursor + "&limit=2&value=base64")
	s.at(last.Cursor)
	for range 2 {
		last = s.object()
		if len(last.ValueBytes) == 0 {
			t.Errorf("%+v", last)
		}
	}
	if last.Cursor != cursorOf(4, 6) {
		t.Errorf("%+v", last)
	}
	s.closed(websocket.CloseNormalClosure)
	s = c.socket(socketPath+"?cursor="+cursorOf(0, 0), "Last-Event-ID: "+last.Cursor) // the header is the newer one
	s.at(last.Cursor)
	w.noGroups()
}

func TestReadSocketRaw(t *testing.T) {
	for _, header := range [][]string{nil, {deflated}} {
		w := newWorld(t, 1)
		c := serve(t, w.mux, false)
		long := strings.Repeat("long ", 100)
		w.publish("a", long, "\x00\xff", "")
		s := c.socket(socketPath+"?cursor="+cursorOf(0)+"&format=raw&limit=3", header...)
		s.at(cursorOf(0))
		for _, want := range []string{"a", long, "\x00\xff"} {
			if got := s.raw(); got != want {
				t.Errorf("%q, want %q", got, want)
			}
		}
		s.at(cursorOf(3)) // which no object has told
		s.closed(websocket.CloseNormalClosure)
	}
}

func TestReadSocketGapAndEnd(t *testing.T) {
	for _, format := range []string{"json", "raw"} {
		w := newWorld(t, 1)
		c := serve(t, w.mux, false)
		w.fill(5, 0)
		if err := w.store.Trim(topicName, 0, 4); err != nil {
			t.Fatal(err)
		}
		s := c.socket(socketPath + "?format=" + format + "&cursor=" + cursorOf(1))
		s.at(cursorOf(1))
		if got := s.text(); got != `{"event":"gap","ranges":[{"partition":0,"from":1,"to":4}]}` {
			t.Errorf("%s", got)
		}
		if kind, b, err := s.conn.ReadMessage(); err != nil || (kind == websocket.BinaryMessage) != (format == "raw") {
			t.Errorf("%s: kind %d, %q, %v", format, kind, b, err)
		}
		if err := w.store.DeleteTopic(t.Context(), topicName); err != nil {
			t.Fatal(err)
		}
		if got := s.text(); got != `{"event":"end","code":"unknown_topic"}` {
			t.Errorf("%s", got)
		}
		s.closed(websocket.CloseNormalClosure)
	}
}

// Who reads bare values, or not all, learns after a while how far it has got.
func TestReadSocketTellsItsCursor(t *testing.T) {
	for _, query := range []string{"?format=raw", "?tag=b&filter=" + url.QueryEscape(`key == "k"`)} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 1)
			c, stop := servePipes(t, w.mux)
			defer stop()
			s := c.socket(socketPath + query)
			s.at(cursorOf(0))
			began := time.Now()
			w.publishMessages(&store.Message{Key: []byte("k"), Value: []byte("first"), Headers: []store.Header{{Key: "tags", Value: []byte("a;b")}}})
			if _, b, err := s.conn.ReadMessage(); err != nil || !strings.Contains(string(b), "first") {
				t.Errorf("%q, %v", b, err)
			}
			w.publish("other")
			if query == "?format=raw" {
				s.raw()
			}
			s.at(cursorOf(2))
			if took := time.Since(began); took != heartbeat {
				t.Errorf("%s: after %v", query, took)
			}
			time.AfterFunc(4*heartbeat, func() { w.readers.Drain(0) })
			s.closed(websocket.CloseServiceRestart) // nothing new, nothing said
			if err := w.sub.Close(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestReadSocketDrains(t *testing.T) {
	w := newWorld(t, 1)
	c := serve(t, w.mux, false)
	s := c.socket(socketPath + "?format=raw")
	s.at(cursorOf(0))
	w.publish("a")
	s.raw()
	w.readers.Drain(0)
	s.at(cursorOf(1))
	s.closed(websocket.CloseServiceRestart)
	c.get(socketPath, upgrade...).problem(t, 503, "draining")
}

// Nothing is acked without a group, and who tries is told.
func TestReadSocketHasNoVerbs(t *testing.T) {
	w := newWorld(t, 1)
	c := serve(t, w.mux, false)
	s := c.socket(socketPath)
	s.at(cursorOf(0))
	for range maxBlunders {
		if err := s.conn.WriteMessage(websocket.TextMessage, []byte(`{"op":"ack","receipt":"r"}`)); err != nil {
			t.Fatal(err)
		}
		if got := s.text(); !strings.Contains(got, `"receipt":"r"`) || !strings.Contains(got, "without a group") {
			t.Errorf("%s", got)
		}
	}
	w.publish("a")
	if o := s.object(); o.text() != "a" {
		t.Errorf("%+v", o)
	}
}

func TestReadSocketRefuses(t *testing.T) {
	w := newWorld(t, 2)
	c := serve(t, w.mux, false)
	for query, want := range map[string]string{
		"?ack=explicit":                             `parameter "ack" is of a group`,
		"?ack=auto":                                 `parameter "ack" is of a group`,
		"?prefetch=1":                               `parameter "prefetch" is of a group`,
		"?mode=queue":                               `parameter "mode" is of a group`,
		"?cursor=nonsense":                          "cursor",
		"?limit=0":                                  "limit",
		"?format=xml":                               "format",
		"?format=raw&value=base64":                  "format=raw",
		"?reset=never":                              "reset",
		"?filter=" + url.QueryEscape("key =="):      "filter",
		"?partition=0&offset=0":                     "unknown parameter",
		"?cursor=" + cursorOf(0, 0) + "&cursor=":    "given 2 times",
		"?group=":                                   "group is required",
		"?group=g&format=raw&ack=explicit":          "format=raw",
		"?group=g&format=raw&value=base64":          "format=raw",
		"?group=g&filter=" + url.QueryEscape("a b"): "line 1, column",
	} {
		if detail := c.get(socketPath+query, upgrade...).problem(t, 400, "invalid_param"); !strings.Contains(detail, want) {
			t.Errorf("%s: %q does not say %q", query, detail, want)
		}
	}
	c.get(socketPath).problem(t, 426, "upgrade_required")
	c.get(strings.Replace(socketPath, "orders", "carts", 1)+"?cursor="+cursorOf(0, 0), upgrade...).problem(t, 400, "invalid_param") // another topic's
	w.noGroups()
}

func TestReadSocketIsOnlineAndPassesThePlugins(t *testing.T) {
	w := newWorld(t, 1)
	n := &noteCalls{}
	w.plugins = []plugins.Plugin{n}
	if err := errors.Join(w.hub.Close(t.Context()), w.readers.Close(t.Context())); err != nil {
		t.Fatal(err)
	}
	w.start()
	c := serve(t, w.mux, false)
	s := c.socket(socketPath, "Appid: shop")
	s.at(cursorOf(0))
	if len(n.calls) != 1 || n.calls[0].Op != plugins.Subscribe || n.calls[0].Group != "" || n.calls[0].App != "shop" || n.calls[0].Topic != "orders" {
		t.Errorf("%+v", n.calls)
	}
	w.publish("12345")
	s.object()
	c.await(online.Client{Kind: online.WS, App: "shop", Owner: "shop", Topic: "orders", Ver: "v1", Messages: 1, Bytes: 5})
	if s.res.StatusCode != http.StatusSwitchingProtocols {
		t.Error(s.res.Status)
	}
}
