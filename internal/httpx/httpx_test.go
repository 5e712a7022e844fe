package httpx_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/julienschmidt/httprouter"
	"go.uber.org/goleak"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/httpx"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// observed is what the observer was told, of one request.
type observed struct {
	route  string
	status int
	bytes  int64
}

type observer struct {
	mu  sync.Mutex
	all []observed
}

func (o *observer) Observe(_ *http.Request, route string, status int, bytes int64, _ time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.all = append(o.all, observed{route, status, bytes})
}

func (o *observer) last(t *testing.T) observed {
	t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.all) == 0 {
		t.Fatal("nothing observed")
	}
	return o.all[len(o.all)-1]
}

// lines are the lines of a JSON log.
func lines(t *testing.T, b *bytes.Buffer) (out []map[string]any) {
	t.Helper()
	for line := range strings.Lines(b.String()) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		out = append(out, m)
	}
	return out
}

// ask serves one request by the handler and answers what came of it.
func ask(t *testing.T, h httpx.Handler) (*httptest.ResponseRecorder, observed, []map[string]any) {
	t.Helper()
	var logged bytes.Buffer
	seen := &observer{}
	log := slog.New(slog.NewJSONHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	w := httptest.NewRecorder()
	httpx.Wrap("GET /x", h, log, seen).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/x?token=secret", nil))
	all := lines(t, &logged)
	access := all[len(all)-1]
	if access["msg"] != "request" || access["path"] != "/x" || access["status"] != float64(w.Code) || access["request_id"] != w.Header().Get("X-Request-Id") {
		t.Errorf("the request's own line: %v", access)
	}
	return w, seen.last(t), all[:len(all)-1]
}

func TestAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		handler httpx.Handler
		status  int
		code    string // of the problem, "" for none
		detail  string // what the problem says
		level   string // of the log line, "" for none
	}{
		"nothing written": {func(http.ResponseWriter, *http.Request) error { return nil }, 200, "", "", ""},
		"written": {func(w http.ResponseWriter, _ *http.Request) error {
			return httpx.WriteJSON(w, http.StatusCreated, map[string]int{"n": 1})
		}, 201, "", "", ""},
		"a client's fault": {func(http.ResponseWriter, *http.Request) error {
			return fmt.Errorf("the key has 5 KiB: %w", errs.TooLarge)
		}, 413, "too_large", "the key has 5 KiB", "DEBUG"},
		"the store's fault, told without details": {func(http.ResponseWriter, *http.Request) error {
			return fmt.Errorf("broker 10.0.0.7: %w", errs.Unavailable)
		}, 503, "unavailable", "", "WARN"},
		"stopping is nothing to warn of": {func(http.ResponseWriter, *http.Request) error {
			return errs.Draining
		}, 503, "draining", "", "DEBUG"},
		"no kind": {func(http.ResponseWriter, *http.Request) error { return io.ErrUnexpectedEOF }, 500, "internal", "", "ERROR"},
		"panic":   {func(http.ResponseWriter, *http.Request) error { panic("secret") }, 500, "internal", "", "ERROR"},
		"unencodable": {func(w http.ResponseWriter, _ *http.Request) error {
			return httpx.WriteJSON(w, http.StatusOK, make(chan int))
		}, 500, "internal", "", "ERROR"},
	} {
		t.Run(name, func(t *testing.T) {
			w, seen, logged := ask(t, c.handler)
			if w.Code != c.status || seen.status != c.status || seen.route != "GET /x" || int(seen.bytes) != w.Body.Len() {
				t.Errorf("answered %d, observed %+v, body %d bytes", w.Code, seen, w.Body.Len())
			}
			if id := w.Header().Get("X-Request-Id"); len(id) != 24 {
				t.Errorf("request id %q", id)
			}
			if c.code != "" {
				checkProblem(t, w, c.status, c.code, c.detail)
			}
			if c.level == "" && len(logged) > 0 || c.level != "" && (len(logged) != 1 || logged[0]["level"] != c.level || logged[0]["request_id"] != w.Header().Get("X-Request-Id")) {
				t.Errorf("logged %v", logged)
			}
		})
	}
}

func checkProblem(t *testing.T, w *httptest.ResponseRecorder, status int, code, detail string) {
	t.Helper()
	if ct := w.Header().Get("Content-Type"); ct != "application/problem+json" {
		t.Errorf("content type %q", ct)
	}
	if status == http.StatusServiceUnavailable && w.Header().Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	var p httpx.Problem
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || p.Code != code || p.Status != status || p.Detail != detail {
		t.Errorf("problem %+v, %v", p, err)
	}
	if strings.Contains(w.Body.String(), "secret") || strings.Contains(w.Body.String(), "10.0.0.7") {
		t.Errorf("the answer tells too much: %s", w.Body)
	}
}

func TestPanicIsLoggedWithItsStack(t *testing.T) {
	_, _, logged := ask(t, func(http.ResponseWriter, *http.Request) error { panic("ouch") })
	if s, _ := logged[0]["stack"].(string); !strings.Contains(s, "TestPanicIsLoggedWithItsStack") {
		t.Errorf("stack %q", s)
	}
	if logged[0]["error"] != "panic: ouch" {
		t.Errorf("error %q", logged[0]["error"])
	}
}

// serve runs a real server, since cutting a connection is the connection's matter.
func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.Start()
	t.Cleanup(s.Close)
	return s.URL
}

func get(t *testing.T, url string) (*http.Response, string, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{DisableKeepAlives: true}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp, string(b), err
}

func TestErrorAfterTheFirstWriteCutsTheConnection(t *testing.T) {
	seen := &observer{}
	url := serve(t, httpx.Wrap("r", func(w http.ResponseWriter, _ *http.Request) error {
		_, _ = io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		return errs.Unavailable
	}, slog.New(slog.DiscardHandler), seen))
	_, body, err := get(t, url)
	if err == nil {
		t.Errorf("the answer came to an end, as if it were whole: %q", body)
	}
	if o := seen.last(t); o.status != 200 || o.bytes != 4 {
		t.Errorf("observed %+v", o)
	}
}

func TestAbortGoesThroughAndIsObserved(t *testing.T) {
	seen := &observer{}
	url := serve(t, httpx.Wrap("r", func(http.ResponseWriter, *http.Request) error { panic(http.ErrAbortHandler) }, slog.New(slog.DiscardHandler), seen))
	if _, _, err := get(t, url); err == nil {
		t.Error("answered")
	}
	if o := seen.last(t); o.status != 0 {
		t.Errorf("observed %+v", o)
	}
}

// Before runs once per answer, whichever way the header goes out first.
func TestBefore(t *testing.T) {
	for name, h := range map[string]httpx.Handler{
		"nothing":      func(http.ResponseWriter, *http.Request) error { return nil },
		"write":        func(w http.ResponseWriter, _ *http.Request) error { _, err := w.Write([]byte("x")); return err },
		"write header": func(w http.ResponseWriter, _ *http.Request) error { w.WriteHeader(http.StatusNoContent); return nil },
		"flush":        func(w http.ResponseWriter, _ *http.Request) error { return http.NewResponseController(w).Flush() },
		"error":        func(http.ResponseWriter, *http.Request) error { return errs.Denied },
		"hints first": func(w http.ResponseWriter, _ *http.Request) error {
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(http.StatusAccepted)
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			calls := 0
			shell := &httpx.Shell{Log: slog.New(slog.DiscardHandler), Seen: &observer{}, Before: func(h http.Header) {
				calls++
				h.Set("X-Before", "yes")
			}}
			resp, _, err := get(t, serve(t, shell.Wrap("r", h)))
			if err != nil || calls != 1 || resp.Header.Get("X-Before") != "yes" {
				t.Errorf("called %d times, header %v, %v", calls, resp.Header, err)
			}
		})
	}
}

// A connection that changes its protocol is observed with that status, is out of Before's reach, and a panic on it is the
// handler's to catch where it is not the handler's own goroutine.
func TestHijack(t *testing.T) {
	seen := &observer{}
	shell := &httpx.Shell{Log: slog.New(slog.DiscardHandler), Seen: seen, Before: func(http.Header) { t.Error("Before was called") }}
	over := make(chan struct{})
	h := shell.Wrap("r", func(w http.ResponseWriter, _ *http.Request) error {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "echo")
		w.WriteHeader(http.StatusSwitchingProtocols)
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return err
		}
		_, _ = conn.Write([]byte("hello"))
		return conn.Close()
	})
	url := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(over)
		h.ServeHTTP(w, r)
	}))
	resp, _, err := get(t, url)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Upgrade") != "echo" {
		t.Fatalf("%v, %v", resp, err)
	}
	<-over
	if got := seen.last(t); got.status != http.StatusSwitchingProtocols {
		t.Errorf("observed %+v", got)
	}
}

func TestCatch(t *testing.T) {
	if err := httpx.Catch(func() error { panic("ouch") }); errs.Of(err) != errs.Internal || err.Error() != "panic: ouch" {
		t.Errorf("%v", err)
	}
	if err := httpx.Catch(func() error { return errs.Denied }); !errors.Is(err, errs.Denied) {
		t.Errorf("%v", err)
	}
}

// The scope is a context like any other: values above it are found, derived contexts end with it.
func TestScope(t *testing.T) {
	type key struct{}
	var id string
	h := func(_ http.ResponseWriter, r *http.Request) error {
		id = httpx.RequestID(r.Context())
		if got := httpx.Param(r, "topic"); got != "orders" {
			t.Errorf("parameter %q", got)
		}
		if r.Context().Value(key{}) != "above" {
			t.Error("a value above the scope is hidden")
		}
		derived, cancel := context.WithTimeout(r.Context(), time.Hour)
		defer cancel()
		if httpx.RequestID(derived) != id {
			t.Error("the id is not found from a derived context")
		}
		return nil
	}
	e := (&httpx.Shell{Log: slog.New(slog.DiscardHandler), Seen: &observer{}}).Wrap("r", h)
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	e.Serve(w, r.WithContext(context.WithValue(r.Context(), key{}, "above")), httprouter.Params{{Key: "topic", Value: "orders"}})
	if id == "" || w.Header().Get("X-Request-Id") != id {
		t.Errorf("id %q, header %q", id, w.Header().Get("X-Request-Id"))
	}
	if httpx.RequestID(t.Context()) != "" {
		t.Error("an id outside of a request")
	}
}

func TestParametersFromTheRouterItself(t *testing.T) {
	router := httprouter.New()
	var got string
	router.Handler(http.MethodGet, "/a/:name", httpx.Wrap("r", func(_ http.ResponseWriter, r *http.Request) error {
		got = httpx.Param(r, "name")
		return nil
	}, slog.New(slog.DiscardHandler), &observer{}))
	router.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/a/b", nil))
	if got != "b" {
		t.Errorf("parameter %q", got)
	}
}

func TestIDsDiffer(t *testing.T) {
	seen := map[string]bool{}
	for range 10_000 {
		w, _, _ := ask(t, func(http.ResponseWriter, *http.Request) error { return nil })
		id := w.Header().Get("X-Request-Id")
		if seen[id] {
			t.Fatalf("%q twice", id)
		}
		seen[id] = true
	}
}

func TestProblemKeepsARetryAfterOfItsOwn(t *testing.T) {
	w := httptest.NewRecorder()
	w.Header().Set("Retry-After", "7")
	httpx.WriteProblem(w, errs.Overloaded)
	if got := w.Header().Get("Retry-After"); got != "7" {
		t.Errorf("Retry-After %q", got)
	}
}

// Who refuses knows better than the kind when to try again. Less than a second is one: 0 would mean at once.
func TestRetryAfter(t *testing.T) {
	for after, want := range map[time.Duration]string{0: "", time.Nanosecond: "1", time.Second: "1", 1001 * time.Millisecond: "2", time.Hour: "3600"} {
		err := httpx.RetryAfter(fmt.Errorf("too fast: %w", errs.Throttled), after)
		w := httptest.NewRecorder()
		httpx.WriteProblem(w, fmt.Errorf("quota: %w", err))
		if got := w.Header().Get("Retry-After"); got != want || w.Code != 429 {
			t.Errorf("after %v: %d, Retry-After %q", after, w.Code, got)
		}
		if !errors.Is(err, errs.Throttled) || err.Error() != "too fast: Throttled" {
			t.Errorf("%v", err)
		}
	}
}

func TestUnauthenticatedSaysHowToAuthenticate(t *testing.T) {
	w := httptest.NewRecorder()
	httpx.WriteProblem(w, errs.Unauthenticated)
	if got := w.Header().Values("WWW-Authenticate"); len(got) != 2 || !strings.HasPrefix(got[0], "Bearer ") || !strings.HasPrefix(got[1], "Basic ") {
		t.Errorf("%q", got)
	}
	w = httptest.NewRecorder()
	w.Header().Set("WWW-Authenticate", "Bearer")
	httpx.WriteProblem(w, errs.Unauthenticated)
	if got := w.Header().Values("WWW-Authenticate"); len(got) != 1 || got[0] != "Bearer" {
		t.Errorf("the handler's own became %q", got)
	}
	w = httptest.NewRecorder()
	httpx.WriteProblem(w, errs.Denied)
	if got := w.Header().Values("WWW-Authenticate"); len(got) != 0 {
		t.Errorf("of a 403: %q", got)
	}
}

func TestUpgradeRequiredSaysToWhat(t *testing.T) {
	w := httptest.NewRecorder()
	httpx.WriteProblem(w, errs.UpgradeRequired)
	h := w.Header()
	if w.Code != 426 || h.Get("Upgrade") != "websocket" || h.Get("Connection") != "Upgrade" || h.Get("Sec-WebSocket-Version") != "13" {
		t.Errorf("%d %v", w.Code, h)
	}
}

func TestClientThatLeftIsNoFaultOfOurs(t *testing.T) {
	var logged bytes.Buffer
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	log := slog.New(slog.NewJSONHandler(&logged, nil)) // from info on
	h := httpx.Wrap("r", func(http.ResponseWriter, *http.Request) error { return errors.New("broken pipe") }, log, &observer{})
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, http.MethodGet, "/", nil))
	if logged.Len() > 0 {
		t.Errorf("logged %s", &logged)
	}
}

// While everything fails the log stays readable, and says how much it left out.
func TestFailuresAreLoggedInMeasure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged bytes.Buffer
		h := httpx.Wrap("r", func(http.ResponseWriter, *http.Request) error { return errs.Unavailable }, slog.New(slog.NewJSONHandler(&logged, nil)), &observer{})
		fail := func(n int) {
			for range n {
				h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
			}
		}
		fail(1000)
		if n := len(lines(t, &logged)); n != 10 {
			t.Errorf("%d lines", n)
		}
		time.Sleep(time.Second) //nolint:forbidigo // fake time
		fail(2)
		all := lines(t, &logged)
		if len(all) != 12 || all[10]["untold"] != 990.0 || all[11]["untold"] != nil {
			t.Errorf("%d lines, the last %v", len(all), all[len(all)-2:])
		}
	})
}

func BenchmarkWrap(b *testing.B) {
	e := (&httpx.Shell{Log: slog.New(slog.DiscardHandler), Seen: nobody{}}).Wrap("r", func(w http.ResponseWriter, _ *http.Request) error {
		w.WriteHeader(http.StatusCreated)
		return nil
	})
	r := httptest.NewRequest(http.MethodPost, "/", nil)
	w := &discard{header: http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		e.Serve(w, r, nil)
	}
}

type nobody struct{}

func (nobody) Observe(*http.Request, string, int, int64, time.Duration) {}

type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
func (d *discard) WriteHeader(int)             {}
