package zk

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kateway/kateway/internal/errs"
)

func TestParseServers(t *testing.T) {
	good := []struct {
		in, servers, chroot string
	}{
		{"h", "h:2181", ""},
		{"h1:2181,h2:3", "h1:2181 h2:3", ""},
		{"h1,h2/kateway/x", "h1:2181 h2:2181", "/kateway/x"},
		{"h/", "h:2181", ""},
		{"h/x/", "h:2181", "/x"},
		{"[::1]:5,::1,[::2]", "[::1]:5 [::1]:2181 [::2]:2181", ""},
	}
	for _, c := range good {
		servers, chroot, err := ParseServers(c.in)
		if strings.Join(servers, " ") != c.servers || chroot != c.chroot || err != nil {
			t.Errorf("%q: %q, %q, %v; want %q, %q", c.in, servers, chroot, err, c.servers, c.chroot)
		}
	}
	for _, bad := range []string{"", ",", "h,", ":1", "h:", "a b", "h//x", "h/x//y", "h/../x", "h/\x00", "a:b:c", "/x"} {
		if servers, chroot, err := ParseServers(bad); !errors.Is(err, errs.InvalidParam) {
			t.Errorf("%q: %q, %q, %v; want InvalidParam", bad, servers, chroot, err)
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	cfg := Config{Servers: []string{"h"}, Chroot: "x/", Session: time.Millisecond, Credentials: "hidden"}
	_, err := Open(cfg)
	if !errors.Is(err, errs.InvalidParam) {
		t.Fatalf("answered %v", err)
	}
	for _, part := range []string{`"h"`, `"x/"`, "user:password", "1ms"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error does not tell of %s: %v", part, err)
		}
	}
	if strings.Contains(err.Error(), "hidden") {
		t.Errorf("the error tells the credentials: %v", err)
	}
	if _, err := Open(Config{}); !errors.Is(err, errs.InvalidParam) {
		t.Errorf("no servers: %v", err)
	}
}

func TestHostsWalkInTurn(t *testing.T) {
	h := &hosts{}
	if err := h.Init([]string{"a", "b"}); err != nil {
		t.Fatal(err)
	}
	var got []string
	next := func() {
		server, again := h.Next()
		if again {
			server += "!"
		}
		got = append(got, server)
	}
	for range 5 {
		next()
	}
	h.Connected()
	for range 3 {
		next()
	}
	if want := []string{"a", "b", "a!", "b", "a!", "b", "a", "b!"}; !slices.Equal(got, want) {
		t.Errorf("tried %q, want %q", got, want)
	}
}

// The library tries one server after the other without a pause; the dialer makes one.
func TestOneAttemptPerSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		ctx, cancel := context.WithCancel(t.Context())
		attempts := 0
		d := dialer{ctx: ctx, handshake: time.Second, log: slog.New(slog.NewTextHandler(&log, nil))}
		d.dial = func(string, string, time.Duration) (net.Conn, error) { attempts++; return nil, io.ErrUnexpectedEOF }
		start := time.Now()
		for range 60 {
			if _, err := d.open("tcp", "h:1", time.Second); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); attempts != 60 || took != 59*time.Second {
			t.Errorf("%d attempts in %v", attempts, took)
		}
		if lines := strings.Count(log.String(), "\n"); lines != 1 {
			t.Errorf("%d lines in the log: %s", lines, log.String())
		}
		cancel()
		if _, err := d.open("tcp", "h:1", time.Second); !errors.Is(err, context.Canceled) || attempts != 60 {
			t.Errorf("after the end: %v, %d attempts", err, attempts)
		}
	})
}

// serve answers what a server sends first, whatever it is asked, and the client's end.
func serve(t *testing.T, answer []byte) *guarded {
	t.Helper()
	client, server := net.Pipe()
	t.Cleanup(func() { client.Close(); server.Close() })
	go func() { _, _ = server.Write(answer) }()
	return &guarded{Conn: client}
}

func TestHandshakeIsRead(t *testing.T) {
	answer := make([]byte, 4+37)
	answer[3] = 37
	answer[10], answer[11] = 0x17, 0x70 // 6,000 ms
	answer[19] = 9                      // session
	g := serve(t, slices.Concat(answer, []byte("more")))
	if err := g.SetReadDeadline(time.Unix(1, 0)); err != nil { // nothing may come of it yet
		t.Fatal(err)
	}
	buf := make([]byte, 41)
	for i := range buf { // in the smallest pieces
		if n, err := g.Read(buf[i : i+1]); n != 1 || err != nil {
			t.Fatal(n, err)
		}
	}
	if session, timeout := g.granted(); session != 9 || timeout != 6*time.Second {
		t.Errorf("granted session %d for %v", session, timeout)
	}
	if err := g.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Read(buf); err == nil {
		t.Error("deadlines have no effect after the handshake")
	}
}

func TestAnswerOfSomethingElse(t *testing.T) {
	g := serve(t, []byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
	if n, err := io.ReadFull(g, make([]byte, 4)); err == nil || !strings.Contains(err.Error(), "no ZooKeeper") {
		t.Errorf("%d bytes of an HTTP answer were taken, %v", n, err)
	}
}
