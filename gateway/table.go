package gateway

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/julienschmidt/httprouter"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/httpx"
)

// table routes the requests of one address. Paths are matched as they came, still encoded, and only then each parameter
// is decoded, once: an encoded slash is part of a name (and makes it a bad one), never a border between two.
type table struct {
	router  *httprouter.Router
	methods []string // that some route has, sorted
	rules   *rules
	other   *httpx.Endpoint // answers what no route does
}

// newTable makes an empty table whose requests all pass the rules. wrap makes an endpoint for a route.
func newTable(rules *rules, wrap wrapper) *table {
	t := &table{router: httprouter.New(), rules: rules}
	t.other = wrap("none", rules.watch(t.unmatched))
	return t
}

// wrapper makes what serves a route, under the name by which log and metrics know it.
type wrapper func(route string, h httpx.Handler) *httpx.Endpoint

// add registers a route.
func (t *table) add(r httpx.Route, wrap wrapper) {
	e := wrap(r.Method+" "+r.Path, t.rules.guard(r.Handler, harmless(r.Path)))
	t.register(r.Method, r.Path, e)
	if r.Method == http.MethodGet && harmless(r.Path) {
		t.register(http.MethodHead, r.Path, e) // what checks health often asks with HEAD
	}
}

func (t *table) register(method, path string, e *httpx.Endpoint) {
	t.router.Handle(method, path, e.Serve)
	if i, found := slices.BinarySearch(t.methods, method); !found {
		t.methods = slices.Insert(t.methods, i, method)
	}
}

// harmless paths say nothing that a web page of another origin must not read, and are asked by machines of all kinds.
func harmless(path string) bool {
	return path == "/alive" || path == "/ready" || path == "/openapi.json"
}

func (t *table) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r = t.rules.arrived(r)
	path, encoded := pathOf(r)
	h, params := t.find(r.Method, path)
	if h == nil {
		t.other.Serve(w, r, nil)
		return
	}
	if encoded {
		for i := range params {
			// The URL was parsed before, so that its escapes are sound.
			params[i].Value, _ = url.PathUnescape(params[i].Value)
		}
	}
	h(w, r, params)
}

// pathOf is the path as it came, and whether it has escapes that stand for something.
func pathOf(r *http.Request) (path string, encoded bool) {
	if r.URL.RawPath == "" {
		return r.URL.Path, false // the usual case: decoding lost nothing
	}
	return r.URL.EscapedPath(), true
}

func (t *table) find(method, path string) (httprouter.Handle, httprouter.Params) {
	if path == "" || path[0] != '/' {
		return nil, nil // OPTIONS * and CONNECT
	}
	h, params, _ := t.router.Lookup(method, path)
	return h, params
}

// unmatched answers what no route does: a preflight, a wrong method, or nothing there.
func (t *table) unmatched(w http.ResponseWriter, r *http.Request) error {
	if err := t.rules.check(w, r, false); err != nil {
		return err
	}
	path, _ := pathOf(r)
	allowed := t.allowed(r.Method, path)
	if len(allowed) == 0 {
		return fmt.Errorf("there is nothing at %s: %w", cut(path, 256), errs.NotFound)
	}
	if t.rules.preflight(w, r, allowed) {
		return nil
	}
	w.Header().Set("Allow", strings.Join(allowed, ", "))
	return fmt.Errorf("%s is not for this; there is %s: %w", cut(r.Method, 32), strings.Join(allowed, ", "), errs.MethodNotAllowed)
}

// allowed are the methods that the path answers.
func (t *table) allowed(method, path string) []string {
	if method == http.MethodConnect {
		return t.methods // whatever it wants to be connected to, not here
	}
	return slices.DeleteFunc(slices.Clone(t.methods), func(m string) bool {
		h, _ := t.find(m, path)
		return h == nil
	})
}

// cut shortens what a client sent for an answer or a log.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "..."
}
