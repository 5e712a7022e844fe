package ws

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"go.uber.org/goleak"

	"github.com/kateway/kateway/internal/httpx"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type quiet struct{}

func (quiet) Observe(*http.Request, string, int, int64, time.Duration) {}

// echo answers each message by itself, and one that is too large by "too large".
func echo(cfg Config) httpx.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		h, err := Ask(r)
		if err != nil {
			return err
		}
		c, err := h.Accept(w, r, cfg)
		if err != nil {
			return err
		}
		return c.Serve(r.Context(), func() error { return echoes(c) }, func(ctx context.Context) error {
			<-ctx.Done()
			return nil
		})
	}
}

func echoes(c *Conn) error {
	for {
		kind, data, err := c.Next()
		if err == ErrTooLarge {
			kind, data, err = Text, []byte("too large"), nil
		}
		if err != nil {
			return err
		}
		buf := append(Begin(nil), data...)
		if err := c.Write(c.End(buf, 0, kind)); err != nil {
			return err
		}
	}
}

// serve starts a server for the handler, and answers its address.
func serve(tb testing.TB, h httpx.Handler) *httptest.Server {
	tb.Helper()
	log := slog.New(slog.NewTextHandler(tb.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	srv := httptest.NewUnstartedServer(httpx.Wrap("ws", h, log, quiet{}))
	srv.Config.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelError)
	srv.Start()
	tb.Cleanup(srv.Close)
	return srv
}

func TestEchoToAForeignClient(t *testing.T) {
	for _, deflated := range []bool{false, true} {
		srv := serve(t, echo(Config{Limit: 1 << 20, Buffer: 512}))
		d := websocket.Dialer{EnableCompression: deflated}
		c, res, err := d.DialContext(t.Context(), "ws"+srv.URL[4:], nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if got := res.Header.Get("Sec-WebSocket-Extensions") != ""; got != deflated {
			t.Errorf("deflate %v, asked for %v", got, deflated)
		}
		for _, n := range []int{0, 1, 125, 126, 127, 128, 1000, 65535, 65536, 1 << 20} {
			msg := make([]byte, n)
			for i := range msg {
				msg[i] = byte(i * i)
			}
			if err := c.WriteMessage(websocket.BinaryMessage, msg); err != nil {
				t.Fatal(err)
			}
			kind, got, err := c.ReadMessage()
			if err != nil || kind != websocket.BinaryMessage || !bytes.Equal(got, msg) {
				t.Fatalf("%d bytes: kind %d, %d bytes, %v", n, kind, len(got), err)
			}
		}
		if err := c.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(4000, "bye")); err != nil {
			t.Fatal(err)
		}
		if _, _, err := c.ReadMessage(); !websocket.IsCloseError(err, 4000) {
			t.Errorf("closed with %v", err)
		}
		_ = c.Close()
	}
}
