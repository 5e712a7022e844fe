package sub

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// webSocket is a subscriber that is read message by message.
type webSocket struct {
	t    testing.TB
	conn *websocket.Conn
	res  *http.Response
}

// socket opens a WebSocket; header lines are "Name: value".
func (c *client) socket(path string, header ...string) *webSocket {
	c.t.Helper()
	d := websocket.Dialer{HandshakeTimeout: 10 * time.Second}
	if tr, ok := c.http.Transport.(*http.Transport); ok {
		d.NetDialContext = tr.DialContext
	}
	for i, line := range header { // of the dialer's own making
		if strings.HasPrefix(line, "Sec-WebSocket-Extensions: ") {
			d.EnableCompression, header = true, slices.Delete(slices.Clone(header), i, i+1)
			break
		}
	}
	conn, res, err := d.DialContext(c.t.Context(), "ws"+c.base[4:]+path, headers(header))
	if err != nil {
		if res != nil {
			c.t.Fatalf("%s: %v: status %d", path, err, res.StatusCode)
		}
		c.t.Fatalf("%s: %v", path, err)
	}
	c.t.Cleanup(func() { _ = conn.Close() })
	return &webSocket{c.t, conn, res}
}

// headers are those of lines "Name: value".
func headers(lines []string) http.Header {
	h := http.Header{}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		h.Add(name, value)
	}
	return h
}

// text is the next message, which is to be a text.
func (s *webSocket) text() string {
	s.t.Helper()
	kind, b, err := s.conn.ReadMessage()
	if err != nil || kind != websocket.TextMessage {
		s.t.Fatalf("kind %d, %q, %v", kind, b, err)
	}
	return string(b)
}

func (s *webSocket) object() object {
	s.t.Helper()
	return parseObject(s.t, s.text())
}

// closed checks that what follows is the end.
func (s *webSocket) closed(code int) {
	s.t.Helper()
	if kind, b, err := s.conn.ReadMessage(); !websocket.IsCloseError(err, code) {
		s.t.Errorf("kind %d, %q, %v; want the end with %d", kind, b, err, code)
	}
}

func TestSocketDelivers(t *testing.T) {
	w := newWorld(t, 1)
	c := serve(t, w.mux, false)
	s := c.socket(socketPath + "?group=g&limit=3")
	w.publish("a", "b", "c", "d")
	for i, want := range []string{"a", "b", "c"} {
		if o := s.object(); o.text() != want || o.Offset != int64(i) || o.Attempt != 1 || o.Receipt != "" {
			t.Errorf("%+v", o)
		}
	}
	s.closed(websocket.CloseNormalClosure)
	awaitCommit(t, w, "g", 3)
}
