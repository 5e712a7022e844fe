package sub

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"github.com/gorilla/websocket"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/ws"
)

// heard is a feed that has no messages and writes down what it is to settle, call by call. A receipt "bad" is fenced.
type heard struct {
	feed
	calls [][]string
}

func (f *heard) settle(_ context.Context, _ *chunk, verbs []receipted) []error {
	var call []string
	out := make([]error, len(verbs))
	for i, v := range verbs {
		call = append(call, fmt.Sprint(v.verb.Op, v.receipt))
		if v.receipt == "bad" {
			out[i] = fmt.Errorf("it was another's: %w", errs.Fenced)
		}
	}
	f.calls = append(f.calls, call)
	return out
}

// masked is a frame of a client's, whose mask changes nothing.
func masked(text string) []byte {
	if len(text) > 125 {
		panic("too long")
	}
	return append([]byte{0x81, 0x80 | byte(len(text)), 0, 0, 0, 0}, text...)
}

// Acks that come together are settled together and in order, whatever is between and behind them.
func TestAcksTogether(t *testing.T) {
	var f heard
	over := make(chan error, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hs, err := ws.Ask(r)
		if err != nil {
			t.Error(err)
			return
		}
		s := &socket{h: &Handler{}, ctx: context.Background(), feed: &f}
		if s.conn, err = hs.Accept(w, r, ws.Config{Limit: socketLimit, Buffer: 64 << 10}); err != nil {
			t.Error(err)
			return
		}
		over <- s.conn.Serve(s.ctx, s.read, func(ctx context.Context) error { <-ctx.Done(); return nil })
	}))
	defer srv.Close()
	conn, res, err := websocket.DefaultDialer.Dial("ws"+srv.URL[len("http"):], nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	defer conn.Close()
	var all []byte
	var want []string
	ack := func(receipt string) {
		all = append(all, masked(`{"op":"ack","receipt":"`+receipt+`"}`)...)
		want = append(want, fmt.Sprint(group.Ack, receipt))
	}
	for i := range 300 {
		ack(fmt.Sprint("a", i))
	}
	all = append(all, masked(`{"op":"nack","receipt":"n"}`)...)
	want = append(want, fmt.Sprint(group.Nack, "n"))
	ack("bad")
	ack("b")
	all = append(all, 0x89, 0x81, 0, 0, 0, 0, 'p') // a ping
	ack("c")
	all = append(all, 0x83, 0x80, 0, 0, 0, 0) // no such opcode: the end
	if _, err := conn.NetConn().Write(all); err != nil {
		t.Fatal(err)
	}
	if _, text, err := conn.ReadMessage(); err != nil || !bytes.Contains(text, []byte(`"receipt":"bad"`)) {
		t.Errorf("%s, %v; want an error about bad", text, err)
	}
	if _, _, err := conn.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseProtocolError) {
		t.Error(err)
	}
	if err := <-over; err != nil {
		t.Error(err)
	}
	if got := slices.Concat(f.calls...); !slices.Equal(got, want) {
		t.Errorf("settled were %q; want %q", got, want)
	}
	if len(f.calls) > 12 { // 300 by up to 256, and where the connection's reads ended
		t.Errorf("%d calls", len(f.calls))
	}
}
