package pub

import (
	"net/http"
	"testing"
	"time"

	"github.com/gorilla/websocket"
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
	t.Log(shows(g.stored(t, "shop.orders.v1")))
}
