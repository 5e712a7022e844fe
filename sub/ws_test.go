package sub

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/kateway/kateway/internal/ws"
	"github.com/kateway/kateway/store"
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

func (s *webSocket) say(text string) {
	s.t.Helper()
	if err := s.conn.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
		s.t.Fatal(err)
	}
}

// refused checks that the next message is an error event about the receipt.
func (s *webSocket) refused(receipt, code string) {
	s.t.Helper()
	var e errorEvent
	if text := s.text(); json.Unmarshal([]byte(text), &e) != nil || e.Event != "error" || e.Receipt != receipt || e.Error.Code != code {
		s.t.Errorf("%s; want an error %s of %q", text, code, receipt)
	}
}

const explicitQueue = "?group=g&mode=queue&ack=explicit"

func TestSocketVerbs(t *testing.T) {
	w := newWorld(t, 1)
	c := serve(t, w.mux, false)
	w.publish("a", "b", "c", "d")
	s := c.socket(socketPath + explicitQueue + "&prefetch=2")
	a, b := s.object(), s.object()
	s.say(`{"op":"ack","receipt":"` + a.Receipt + `"}`)
	third := s.object() // there is room for it now
	if third.text() != "c" || third.Attempt != 1 {
		t.Errorf("%+v", third)
	}
	s.say(`[{"op":"nack","receipt":"` + b.Receipt + `"},{"op":"extend","receipt":"` + third.Receipt + `","lease":"5m"}]`)
	again := s.object()
	if again.text() == "d" { // what is nacked is due behind it
		s.say(`{"op":"ack","receipt":"` + again.Receipt + `"}`)
		again = s.object()
	}
	if again.text() != "b" || again.Attempt != 2 {
		t.Errorf("%+v", again)
	}
	s.say(`{"op":"ack","receipt":"` + b.Receipt + `"}`) // of the first attempt
	s.refused(b.Receipt, "fenced")
	s.say(`{"op":"ack","receipt":"` + a.Receipt + `"}`) // again: no answer
	s.say(`{"op":"nack","receipt":"` + again.Receipt + `","delay":"25h"}`)
	s.refused(again.Receipt, "invalid_param")
	s.say(`[{"op":"ack","receipt":"nonsense"},{"op":"eat","receipt":"x"},{"op":"ack","receipt":"` + again.Receipt + `"}]`)
	seen := map[string]bool{}
	for range 2 {
		var e errorEvent
		if err := json.Unmarshal([]byte(s.text()), &e); err != nil {
			t.Fatal(err)
		}
		seen[e.Receipt] = true
	}
	if !seen["nonsense"] || !seen["x"] {
		t.Errorf("refused are %v", seen)
	}
}

// What a client says of messages that another client of the group has counts too.
func TestSocketSettlesForOthers(t *testing.T) {
	w := newWorld(t, 1)
	c := serve(t, w.mux, false)
	w.publish("a")
	receipt := c.get(topicPath+explicitQueue).want(t, 200).Header.Get("X-Receipt")
	s := c.socket(socketPath + explicitQueue)
	s.say(`{"op":"ack","receipt":"` + receipt + `"}`)
	awaitCommit(t, w, "g", 1)
}

func TestSocketSendsNonsenseAway(t *testing.T) {
	w := newWorld(t, 1)
	c := serve(t, w.mux, false)
	s := c.socket(socketPath + explicitQueue)
	many := "[" + strings.Repeat(`{"op":"ack","receipt":"x"},`, maxSocketVerbs) + `{"op":"ack","receipt":"x"}]`
	for i, nonsense := range []string{"", "{", "[]", "null", "7", `{"op":"ack","receipt":"x","more":1}`, `{"op":"ack","op":"ack","receipt":"x"}`, many, "\x00"} {
		s.say(nonsense)
		want := "invalid_body"
		if nonsense == many {
			want = "too_large"
		}
		if s.refused("", want); t.Failed() {
			t.Fatalf("%d: %.50q", i, nonsense)
		}
	}
	if err := s.conn.WriteMessage(websocket.BinaryMessage, []byte("x")); err != nil {
		t.Fatal(err)
	}
	s.refused("", "invalid_body")
	s.closed(websocket.ClosePolicyViolation)
}

func TestSocketThatSaysTooMuch(t *testing.T) {
	w := newWorld(t, 1)
	c := serve(t, w.mux, false)
	s := c.socket(socketPath + explicitQueue)
	_ = s.conn.WriteMessage(websocket.TextMessage, make([]byte, socketLimit+1)) // it may be cut off in the midst of it
	s.closed(websocket.CloseMessageTooBig)
}

// What a client held when it left is due at once; with a limit it stays with the client, as with a poll.
func TestSocketLeaves(t *testing.T) {
	w := newWorld(t, 1)
	c := serve(t, w.mux, false)
	w.publish("a", "b")
	s := c.socket(socketPath + explicitQueue + "&prefetch=1")
	s.object()
	_ = s.conn.Close()
	s = c.socket(socketPath + explicitQueue + "&limit=2")
	a, b := s.object(), s.object()
	if b.text() == "a" { // the gateway may see the end late
		a, b = b, a
	}
	if a.Attempt != 2 || b.Attempt != 1 {
		t.Errorf("%+v and %+v", a, b)
	}
	s.closed(websocket.CloseNormalClosure)
	c.get(topicPath+explicitQueue+"&wait=50ms").want(t, 204)
	if r := c.put(topicPath+"?group=g", `[{"op":"ack","receipt":"`+a.Receipt+`"},{"op":"ack","receipt":"`+b.Receipt+`"}]`); r.StatusCode != 200 {
		t.Errorf("%s", r.body)
	}
}

func TestSocketRaw(t *testing.T) {
	for _, header := range [][]string{nil, {deflated}} {
		w := newWorld(t, 1)
		c := serve(t, w.mux, false)
		long := strings.Repeat("long ", 100)
		w.publish("lost", "a", long, "\x00\xff")
		c.get(topicPath+"?group=g&wait=0s").want(t, 200) // the group has a position now
		awaitCommit(t, w, "g", 1)
		forgetGroups(t, w)
		c = serve(t, w.mux, false)
		if err := w.store.Trim(topicName, 0, 2); err != nil {
			t.Fatal(err)
		}
		s := c.socket(socketPath+"?group=g&format=raw&limit=2", header...)
		if got := s.text(); got != `{"event":"gap","ranges":[{"partition":0,"from":1,"to":2}]}` {
			t.Errorf("%s", got)
		}
		for _, want := range []string{long, "\x00\xff"} {
			if got := s.raw(); got != want {
				t.Errorf("%q, want %q", got, want)
			}
		}
		s.closed(websocket.CloseNormalClosure)
	}
}

func TestSocketEnds(t *testing.T) {
	w := newWorld(t, 1)
	c := serve(t, w.mux, false)
	s := c.socket(socketPath + "?group=g")
	if err := w.store.DeleteTopic(t.Context(), topicName); err != nil {
		t.Fatal(err)
	}
	if got := s.text(); got != `{"event":"end","code":"unknown_topic"}` {
		t.Errorf("%s", got)
	}
	s.closed(websocket.CloseNormalClosure)
	if err := w.store.CreateTopic(t.Context(), store.Topic{Name: topicName}); err != nil {
		t.Fatal(err)
	}
	s = c.socket(socketPath + "?group=h")
	w.hub.Drain(0)
	s.closed(websocket.CloseServiceRestart)
}

// The short way to read an ack says what the long one says.
func TestPlainAck(t *testing.T) {
	for text, short := range map[string]bool{
		`{"op":"ack","receipt":"AQADAc7GA0Hk4-5LIS33MP_b"}`: true,
		`{"op":"ack","receipt":"x","x"}`:                    false,
		`{"op":"ack","receipt":"x","op":"nack"}`:            false,
		`{"op":"ack","receipt":"x\u0041"}`:                  false,
		`{"op":"ack","receipt":"ü"}`:                        false,
		`{"op":"ack","receipt":""}`:                         false,
		`{"op":"ack","receipt":"}`:                          false,
		`{"op":"ack","receipt":"x"} `:                       false,
		` {"op":"ack","receipt":"x"}`:                       false,
		`{"op":"nack","receipt":"x"}`:                       false,
		`{"receipt":"x","op":"ack"}`:                        false,
		``:                                                  false,
	} {
		receipt, ok := plainAck(ws.Text, []byte(text))
		if ok != short {
			t.Errorf("%s: %v", text, ok)
		}
		if !ok {
			continue
		}
		list, err := parseVerbs(ws.Text, []byte(text))
		if err != nil || len(list) != 1 || list[0].Op != "ack" || list[0].Receipt != string(receipt) {
			t.Errorf("%s: %q and %+v, %v", text, receipt, list, err)
		}
	}
	if _, ok := plainAck(ws.Binary, []byte(`{"op":"ack","receipt":"x"}`)); ok {
		t.Error("a binary message is read as an ack")
	}
}
