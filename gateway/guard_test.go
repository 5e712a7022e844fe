package gateway

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// Who sends one faulty request after another is left out on every role, whatever he sends then; others, this machine and
// health checks are not.
func TestBadClientIsConfined(t *testing.T) {
	g := start(t, trust("127.0.0.1"))
	from := func(addr string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set("X-Forwarded-For", addr) }
	}
	bad := from("198.51.100.1")
	last := 0
	for n := range 150 {
		resp, _ := g.ask(t, Pub, "GET", "/nothing/at/all", bad)
		if last = resp.StatusCode; last == http.StatusTooManyRequests {
			if n < 100 {
				t.Errorf("left out after %d", n)
			}
			break
		}
	}
	if last != http.StatusTooManyRequests {
		t.Fatalf("not left out: %d", last)
	}
	for _, c := range []struct {
		role         Role
		method, path string
	}{{Pub, "POST", "/v1/msgs/a/v1"}, {Sub, "GET", "/v1/msgs/default/a/v1?group=g&wait=0s"}, {Man, "GET", "/v1/status"}, {Pub, "GET", "/nothing"}} {
		resp, body := g.ask(t, c.role, c.method, c.path, bad)
		checkCode(t, resp, body, http.StatusTooManyRequests, "throttled")
		if resp.Header.Get("Retry-After") != "5" {
			t.Errorf("Retry-After %q", resp.Header.Get("Retry-After"))
		}
	}
	if resp, _ := g.ask(t, Pub, "GET", "/ready", bad); resp.StatusCode != 200 {
		t.Errorf("/ready: %s", resp.Status)
	}
	if resp, body := g.ask(t, Man, "GET", "/v1/status", from("198.51.100.2")); resp.StatusCode != 200 {
		t.Errorf("another address: %s %s", resp.Status, body)
	}
	for range 150 { // from this machine, or a proxy that does not say for whom
		if resp, _ := g.ask(t, Pub, "GET", "/nothing", nil); resp.StatusCode != http.StatusNotFound {
			t.Fatalf("loopback: %s", resp.Status)
		}
	}
	if _, body := g.ask(t, Man, "GET", "/metrics", nil); !strings.Contains(body, "kateway_guard_confined 1") {
		t.Error("not counted")
	}
}

// A body that trickles is cut off when it is slower than the lowest rate, however long it goes on; one that comes faster has its time.
func TestBodyPace(t *testing.T) {
	r := &rules{bodyTime: time.Minute, minRate: 1000}
	for length, want := range map[int64]time.Duration{1: 11 * time.Second, 20_000: 31 * time.Second, 1 << 40: time.Minute, -1: 10 * time.Second} {
		w := &deadlines{}
		if err := r.pace(w, &http.Request{ContentLength: length, Body: http.NoBody}); err != nil {
			t.Fatal(err)
		}
		if got := time.Until(w.last).Round(time.Second); got != want {
			t.Errorf("%d bytes have %v, want %v", length, got, want)
		}
	}
	w := &deadlines{}
	req := &http.Request{ContentLength: -1, Body: &trickle{}}
	if err := r.pace(w, req); err != nil {
		t.Fatal(err)
	}
	for got, want := range []time.Duration{10 * time.Second, 16 * time.Second, 21 * time.Second, 26 * time.Second} {
		if d := time.Until(w.last).Round(time.Second); d != want {
			t.Errorf("after %d reads it has %v, want %v", got, d, want)
		}
		_, _ = req.Body.Read(make([]byte, 5000))
	}
}

// deadlines is a connection's; nothing is written.
type deadlines struct {
	http.ResponseWriter
	last time.Time
}

func (d *deadlines) SetReadDeadline(t time.Time) error {
	d.last = t
	return nil
}

type trickle struct{}

func (*trickle) Read(b []byte) (int, error) { return len(b), nil }
func (*trickle) Close() error               { return nil }
