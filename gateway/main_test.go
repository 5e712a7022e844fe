package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kateway/kateway/store"
	"github.com/kateway/kateway/store/mem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// running is a gateway that serves, and a client of it.
type running struct {
	*Gateway
	client *http.Client
	level  *slog.LevelVar
	logged *safeBuffer
	stop   func() error // ends it and answers what Run did
}

// safeBuffer is a log that is read while it is written.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// testConfig is one that a test can serve with: free ports, no waiting at the end.
func testConfig(t *testing.T) Config {
	t.Helper()
	c := Default()
	c.Pub, c.Man, c.Data = "127.0.0.1:0", "127.0.0.1:0", t.TempDir()
	c.DrainDelay, c.DrainGrace = 0, 0
	return c
}

// start runs a gateway on a store in memory until the test ends.
func start(t *testing.T, change func(*Config)) *running {
	t.Helper()
	return startOn(t, mem.New(), change)
}

func startOn(t *testing.T, s store.Store, change func(*Config)) *running {
	t.Helper()
	cfg := testConfig(t)
	if change != nil {
		change(&cfg)
	}
	return startWith(t, s, cfg, Deps{})
}

// startWith runs a gateway on the store with this configuration; of deps what the test cares for.
func startWith(t *testing.T, s store.Store, cfg Config, deps Deps) *running {
	t.Helper()
	r := &running{logged: new(safeBuffer), level: new(slog.LevelVar)}
	r.level.Set(slog.LevelDebug)
	deps.Log, deps.Level, deps.Version, deps.Store = NewLogger(r.logged, r.level, "json"), r.level, "test", s
	g, err := New(t.Context(), cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	transport := &http.Transport{}
	r.Gateway, r.client = g, &http.Client{Transport: transport}
	r.stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		if err := r.stop(); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return r
}

// ask sends a request to the role and answers the response with its body read.
func (r *running) ask(t *testing.T, role Role, method, path string, change func(*http.Request)) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, r.url(role)+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(req)
	}
	resp, err := r.client.Transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

func (r *running) url(role Role) string { return "http://" + r.Addr(role) }

func withBody(s string) func(*http.Request) {
	return func(r *http.Request) {
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(s)), int64(len(s))
	}
}

// checkCode wants a problem of this status and code.
func checkCode(t *testing.T, resp *http.Response, body string, status int, code string) {
	t.Helper()
	var p struct{ Code, Detail string }
	err := json.Unmarshal([]byte(body), &p)
	if resp.StatusCode != status || err != nil || p.Code != code || resp.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("%s %s; want %d %s", resp.Status, body, status, code)
	}
}

// await waits until the condition holds.
func await(t *testing.T, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(15 * time.Second); !condition(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}
