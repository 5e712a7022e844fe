package gk

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// asked is a request that the fake got.
type asked struct {
	method, path, query, body string
	header                    http.Header
}

func (a asked) String() string {
	return strings.Join(strings.Fields(a.method+" "+a.path+" "+a.query+" "+a.body), " ")
}

// fake is a gateway of canned answers. What it has no answer for is 404, as a problem.
type fake struct {
	*httptest.Server
	mux *http.ServeMux

	mu   sync.Mutex
	seen []asked
}

func newFake(t *testing.T) *fake {
	t.Helper()
	f := &fake{mux: http.NewServeMux()}
	f.mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { refuse(w, 404, "not_found", "no such path") })
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		f.mu.Lock()
		f.seen = append(f.seen, asked{r.Method, r.URL.EscapedPath(), r.URL.RawQuery, string(body), r.Header.Clone()})
		f.mu.Unlock()
		f.mux.ServeHTTP(w, r)
	}))
	t.Cleanup(f.Close)
	return f
}

// answer cans one.
func (f *fake) answer(pattern string, status int, body string, header ...string) {
	f.mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	})
}

func (f *fake) handle(pattern string, h http.HandlerFunc) { f.mux.HandleFunc(pattern, h) }

// requests are those so far.
func (f *fake) requests() []asked {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]asked{}, f.seen...)
}

// host is the fake's host:port.
func (f *fake) host() string { return strings.TrimPrefix(f.URL, "http://") }

func refuse(w http.ResponseWriter, status int, code, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"type": "about:blank", "title": code, "status": status, "detail": detail, "code": code})
}

// outcome is what a run left behind.
type outcome struct {
	code     int
	out, err string
}

// invoke runs gk on the fake.
func (f *fake) invoke(t *testing.T, args ...string) outcome {
	t.Helper()
	return invoke(t, []string{"KATEWAY_MAN=" + f.URL}, "", args...)
}

func invoke(t *testing.T, env []string, stdin string, args ...string) outcome {
	t.Helper()
	var out, errs bytes.Buffer
	code := run(t.Context(), args, env, streams{strings.NewReader(stdin), &out, &errs}, "v1.2.3")
	return outcome{code, out.String(), errs.String()}
}

// want compares.
func (o outcome) want(t *testing.T, code int, out, errs string) {
	t.Helper()
	if o.code != code || o.out != out || o.err != errs {
		t.Errorf("exit %d, want %d\n--- stdout\n%s--- want\n%s--- stderr\n%s--- want\n%s", o.code, code, o.out, out, o.err, errs)
	}
}

// contains looks for each of these in the output.
func (o outcome) contains(t *testing.T, code int, parts ...string) {
	t.Helper()
	if o.code != code {
		t.Errorf("exit %d, want %d", o.code, code)
	}
	for _, p := range parts {
		if !strings.Contains(o.out, p) && !strings.Contains(o.err, p) {
			t.Errorf("%q is missing", p)
		}
	}
	if t.Failed() {
		t.Logf("--- stdout\n%s--- stderr\n%s", o.out, o.err)
	}
}

// fields are the columns of the line that begins with this word.
func (o outcome) fields(t *testing.T, word string) []string {
	t.Helper()
	for line := range strings.Lines(o.out) {
		if f := strings.Fields(line); len(f) > 0 && f[0] == word {
			return f
		}
	}
	t.Fatalf("no line begins with %q:\n%s%s", word, o.out, o.err)
	return nil
}

func items(list ...string) string { return fmt.Sprintf(`{"items":[%s]}`, strings.Join(list, ",")) }
