//go:build linux

package main

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

const sampleFrame = `{"partition":0,"offset":1,"value":"hello","receipt":"r-1"}`

// The floor exchanges exactly the frames that it is asked for, and knows the end of acks.
func TestAcking(t *testing.T) {
	f := &floors{frame: []byte(sampleFrame)}
	addr := served(t, f.socket)
	for _, c := range []struct {
		clients, total int
		path           string
	}{
		{1, 1000, "/ws?prefetch=7&messages=1000"},
		{5, 1000, "/ws?prefetch=100&messages=200"},
		{2, 6, "/ws?prefetch=100&messages=3"},
	} {
		message, ack, err := acking(t.Context(), addr, c.path, c.clients, c.total)
		if err != nil || string(message) != sampleFrame || string(ack) != `{"op":"ack","receipt":"r-1"}` {
			t.Errorf("%+v: %s, %s, %v", c, message, ack, err)
		}
	}
}

func TestAckingFails(t *testing.T) {
	f := &floors{frame: []byte(sampleFrame)}
	addr := served(t, f.socket)
	for what, do := range map[string]func() error{
		"more messages than were asked for": func() error {
			_, _, err := acking(t.Context(), addr, "/ws?prefetch=10&messages=100", 1, 50)
			return err
		},
		"no receipt": func() error {
			bare := &floors{frame: []byte(`{"value":"hello"}`)}
			_, _, err := acking(t.Context(), served(t, bare.socket), "/ws?prefetch=10&messages=100", 1, 100)
			return err
		},
		"no WebSocket": func() error {
			_, _, err := acking(t.Context(), served(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) }), "/ws", 1, 1)
			return err
		},
	} {
		if err := do(); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}

// Frames of all sizes come as they were sent, both ways, and pings are answered.
func TestFrames(t *testing.T) {
	sizes := []int{0, 1, 125, 126, 127, 4000, 65_000}
	addr := served(t, func(w http.ResponseWriter, r *http.Request) {
		conn, err := new(websocket.Upgrader).Upgrade(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		ponged := ""
		conn.SetPongHandler(func(text string) error { ponged = text; return nil })
		for _, n := range sizes {
			deadline := time.Now().Add(time.Minute)
			if err := errors.Join(conn.WriteControl(websocket.PingMessage, []byte("are you there"), deadline), conn.WriteMessage(websocket.TextMessage, letters(n))); err != nil {
				t.Error(err)
				return
			}
			if _, got, err := conn.ReadMessage(); err != nil || !bytes.Equal(got, letters(n)) {
				t.Errorf("%d bytes came back as %d: %v", n, len(got), err)
			}
			if ponged != "are you there" {
				t.Errorf("the ping was answered by %q", ponged)
			}
		}
	})
	s, err := dialWS(t.Context(), addr, "/", 70_000)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	for _, n := range sizes {
		op, payload, err := s.frame()
		if err != nil || op != wsText || !bytes.Equal(payload, letters(n)) {
			t.Fatalf("%d bytes: kind %d, %d bytes, %v", n, op, len(payload), err)
		}
		s.queue(wsText, payload[:n/2], payload[n/2:])
		if err := s.flush(); err != nil {
			t.Fatal(err)
		}
	}
}

// What is written is sent when something is read, or when there is much of it.
func TestCorked(t *testing.T) {
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()
	c := &corked{Conn: ours}
	sent := make(chan string)
	go func() {
		for buf := make([]byte, 128<<10); ; {
			n, err := theirs.Read(buf)
			if err != nil {
				return
			}
			sent <- string(buf[:n])
		}
	}()
	for _, part := range []string{"one,", "two,", "three"} {
		if _, err := io.WriteString(c, part); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case s := <-sent:
		t.Errorf("%q was sent at once", s)
	default:
	}
	go func() { _, _ = c.Read(make([]byte, 1)) }()
	if s := <-sent; s != "one,two,three" {
		t.Errorf("sent when read from: %q", s)
	}
	big := &corked{Conn: ours}
	go func() { _, _ = big.Write(letters(64 << 10)) }()
	if s := <-sent; len(s) != 64<<10 {
		t.Errorf("sent of much: %d bytes", len(s))
	}
}

// Everybody gets each message, and the next is not told before.
func TestAudience(t *testing.T) {
	f := &floors{}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /fan", f.fan.listen)
	mux.HandleFunc("POST /fan", f.fan.tell)
	p := &proc{addr: served(t, mux.ServeHTTP)}
	a, err := listen(t.Context(), p, "/fan", 20)
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	event := "event: message\ndata: hello\n\n"
	chunk, err := a.first(t.Context(), post("/fan", []byte(event)))
	if err != nil || string(chunk) != event {
		t.Fatalf("%q, %v", chunk, err)
	}
	for range 50 {
		if err := a.once(t.Context(), post("/fan", chunk)); err != nil {
			t.Fatal(err)
		}
	}
	if left := a.left.Load(); left != 0 {
		t.Errorf("%d are left", left)
	}
	a.clients[3].close()
	if err := a.once(t.Context(), post("/fan", chunk)); err == nil {
		t.Error("a client that is gone is not missed")
	}
}

func TestMetric(t *testing.T) {
	p := &proc{man: served(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "# HELP a_b things\na_b_c 7\na_b 1.5e+06\nnothing x\n")
	})}
	for name, want := range map[string]int64{"a_b": 1_500_000, "a_b_c": 7} {
		if got, err := p.metric(t.Context(), name); err != nil || got != want {
			t.Errorf("%s: %d, %v", name, got, err)
		}
	}
	for _, name := range []string{"a", "nothing"} {
		if _, err := p.metric(t.Context(), name); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestCounted(t *testing.T) {
	addr := served(t, func(w http.ResponseWriter, r *http.Request) {
		for _, part := range []string{strings.Repeat(`{"offset":1}`+"\n", 1000), "\n", `{"offset":2}` + "\n"} {
			_, _ = io.WriteString(w, part)
			_ = http.NewResponseController(w).Flush()
		}
		if r.URL.Path == "/endless" {
			<-r.Context().Done()
		}
	})
	begun := 0
	begin := func() error { begun++; return nil }
	if err := readTogether(t.Context(), []*proc{{addr: addr}, {addr: addr}}, "/endless", 2002, begin); err != nil || begun != 1 {
		t.Errorf("%v, begun %d times", err, begun)
	}
	if err := readTogether(t.Context(), []*proc{{addr: addr}}, "/", 1002, begin); err == nil {
		t.Error("a stream that ends too early is no error")
	}
}

// A floor forgets who has left.
func TestFanForgets(t *testing.T) {
	f := &fan{}
	addr := served(t, f.listen)
	a, err := listen(t.Context(), &proc{addr: addr}, "/", 3)
	if err != nil {
		t.Fatal(err)
	}
	a.close()
	for {
		f.mu.Lock()
		n := len(f.listeners)
		f.mu.Unlock()
		if n == 0 {
			return
		}
		if err := pause(t.Context(), time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
}
