package callout

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/plugins"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// service answers as it is told, and counts.
type service struct {
	*httptest.Server
	asked atomic.Int32
	last  atomic.Pointer[question]
}

func serve(t *testing.T, answer http.HandlerFunc) *service {
	s := &service{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.asked.Add(1)
		var q question
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
			t.Error(err)
		}
		s.last.Store(&q)
		answer(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func says(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) }
}

// handler is a chain with the plugin alone.
func handler(t *testing.T, options string) func(*plugins.Call) error {
	t.Helper()
	build, err := Kind().Read(plugins.ParseOptions(options))
	if err != nil {
		t.Fatal(err)
	}
	p, err := build(t.Context(), plugins.Env{Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); p.(*Plugin).Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	h := p.Wrap(func(context.Context, *plugins.Call) error { return nil })
	return func(c *plugins.Call) error { return h(t.Context(), c) }
}

func call() *plugins.Call {
	return &plugins.Call{Op: plugins.Publish, App: "shop", Topic: "orders", Ver: "v1", Remote: "192.0.2.7:5", Header: http.Header{"X-Region": {"eu"}, "Pubkey": {"secret"}}}
}

func TestAnswers(t *testing.T) {
	for text, kind := range map[string]error{
		`{"allow":true}`:  nil,
		`{"allow":false}`: errs.Denied,
		`{"allow":false,"code":"throttled","detail":"slowly"}`: errs.Throttled,
		`{"allow":false,"code":"nonsense"}`:                    errs.Denied,
		`{}`:                                                   errs.Denied,
		`nonsense`:                                             errs.Unavailable,
		``:                                                     errs.Unavailable,
		`{"allow":true,"detail":"` + strings.Repeat("x", maxAnswer) + `"}`: errs.Unavailable,
	} {
		s := serve(t, says(text))
		if err := handler(t, "url: "+s.URL)(call()); !errors.Is(err, kind) || (err == nil) != (kind == nil) {
			t.Errorf("%.60s: %v", text, err)
		}
	}
}

func TestWhatTheServiceIsTold(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("shown\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer shown" {
			t.Error("the service's key is not shown")
		}
		says(`{"allow":true}`)(w, r)
	})
	if err := handler(t, "{url: "+s.URL+", headers: [x-region], key_file: "+key+"}")(call()); err != nil {
		t.Fatal(err)
	}
	q := s.last.Load()
	if q.Op != "publish" || q.App != "shop" || q.Owner != "shop" || q.Topic != "orders" || q.Remote != "192.0.2.7:5" || len(q.Headers) != 1 || q.Headers["X-Region"] != "eu" {
		t.Errorf("%+v", q)
	}
}

// An answer counts for as long as it says, for the same call from wherever; not for another.
func TestAnswersAreRemembered(t *testing.T) {
	s := serve(t, says(`{"allow":true,"cache":"1m"}`))
	h := handler(t, "url: "+s.URL)
	for i, change := range []func(*plugins.Call){
		func(*plugins.Call) {}, func(c *plugins.Call) { c.Remote = "192.0.2.8:1" },
		func(c *plugins.Call) { c.App = "other" }, func(c *plugins.Call) { c.Topic = "other" }, func(c *plugins.Call) { c.Op = plugins.Settle }, func(c *plugins.Call) { c.KeyID = "k" },
	} {
		c := call()
		change(c)
		if err := h(c); err != nil {
			t.Error(err)
		}
		if want := max(1, i); int(s.asked.Load()) != want {
			t.Errorf("call %d: asked %d times, not %d", i, s.asked.Load(), want)
		}
	}
}

// A service that fails or hangs costs little, and what that means is the operator's choice.
func TestServiceThatFails(t *testing.T) {
	for choice, kind := range map[string]error{"deny": errs.Unavailable, "allow": nil} {
		s := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
		h := handler(t, "{url: "+s.URL+", on_failure: "+choice+"}")
		for range 4 * openAfter {
			if err := h(call()); !errors.Is(err, kind) || (err == nil) != (kind == nil) {
				t.Errorf("%s: %v", choice, err)
			}
		}
		if n := s.asked.Load(); n != openAfter {
			t.Errorf("%s: asked %d times", choice, n)
		}
	}
	end := make(chan struct{})
	s := serve(t, func(http.ResponseWriter, *http.Request) { <-end })
	defer close(end)
	if err := handler(t, "{url: "+s.URL+", timeout: 20ms}")(call()); !errors.Is(err, errs.Unavailable) {
		t.Error(err)
	}
	away := httptest.NewServer(nil)
	away.Close()
	if err := handler(t, "url: "+away.URL)(call()); !errors.Is(err, errs.Unavailable) {
		t.Error(err)
	}
	elsewhere := serve(t, says(`{"allow":true}`))
	moved := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
	})
	if err := handler(t, "url: "+moved.URL)(call()); !errors.Is(err, errs.Unavailable) || elsewhere.asked.Load() != 0 {
		t.Errorf("a redirect is followed: %v", err)
	}
}

func TestOpsThatAreNotAskedAbout(t *testing.T) {
	s := serve(t, says(`{"allow":false}`))
	h := handler(t, "{url: "+s.URL+", ops: [subscribe]}")
	if err := h(call()); err != nil || s.asked.Load() != 0 {
		t.Error(err)
	}
	c := call()
	c.Op = plugins.Subscribe
	if err := h(c); !errors.Is(err, errs.Denied) {
		t.Error(err)
	}
}

func TestBadOptions(t *testing.T) {
	for _, text := range []string{"", "url: here", "url: ftp://x", "{url: http://x, timeout: 0s}", "{url: http://x, timeout: 1h}", "{url: http://x, on_failure: hope}", "{url: http://x, ops: [peek]}",
		"{url: http://x, headers: [pubkey]}", "{url: http://x, cached: -1}", "{url: http://x, more: 1}"} {
		if _, err := Kind().Read(plugins.ParseOptions(text)); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}
