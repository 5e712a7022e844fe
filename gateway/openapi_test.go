package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"

	"github.com/kateway/kateway/gateway"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store/mem"
)

func loadOpenAPI(t *testing.T) *openapi3.T {
	t.Helper()
	b, err := os.ReadFile("openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := openapi3.NewLoader().LoadFromData(b)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestOpenAPIIsValid(t *testing.T) {
	doc := loadOpenAPI(t)
	if doc.OpenAPI != "3.1.0" {
		t.Errorf("version %q", doc.OpenAPI)
	}
	if err := doc.Validate(t.Context()); err != nil {
		t.Error(err)
	}
}

// serveForOpenAPI runs a gateway on a store in memory.
func serveForOpenAPI(t *testing.T, plugins ...string) *gateway.Gateway {
	t.Helper()
	cfg := gateway.Default()
	cfg.Pub, cfg.Man, cfg.Data, cfg.Plugins = "127.0.0.1:0", "127.0.0.1:0", t.TempDir(), plugins
	cfg.DrainDelay, cfg.DrainGrace = 0, 0
	g, err := gateway.New(t.Context(), cfg, gateway.Deps{Log: slog.New(slog.DiscardHandler), Level: new(slog.LevelVar), Version: "test", Store: mem.New()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	t.Cleanup(func() {
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return g
}

// Every route that is served is in the document, and nothing else.
func TestOpenAPITellsOfEveryRoute(t *testing.T) {
	var served, told []string
	for _, routes := range serveForOpenAPI(t).Routes() {
		for _, r := range routes {
			served = append(served, r.Method+" "+templateOf(r.Path))
		}
	}
	for path, item := range loadOpenAPI(t).Paths.Map() {
		for method := range item.Operations() {
			told = append(told, method+" "+path)
		}
	}
	slices.Sort(served)
	slices.Sort(told)
	if !slices.Equal(served, told) {
		t.Errorf("served:\n  %s\ntold:\n  %s", strings.Join(served, "\n  "), strings.Join(told, "\n  "))
	}
}

// templateOf is a router's path in OpenAPI's form.
func templateOf(path string) string {
	parts := strings.Split(path, "/")
	for i, p := range parts {
		if name, ok := strings.CutPrefix(p, ":"); ok {
			parts[i] = "{" + name + "}"
		}
	}
	return strings.Join(parts, "/")
}

// A route that is asked with an unknown parameter answers which ones it knows; those must be the document's.
func TestOpenAPITellsOfEveryParameter(t *testing.T) {
	g := serveForOpenAPI(t)
	free := []string{"/openapi.json", "/metrics"} // these look at no parameter
	for path, item := range loadOpenAPI(t).Paths.Map() {
		if slices.Contains(free, path) {
			continue
		}
		for method, op := range item.Operations() {
			var told []string
			for _, p := range slices.Concat(item.Parameters, op.Parameters) {
				if p.Value.In == openapi3.ParameterInQuery {
					told = append(told, p.Value.Name)
				}
			}
			_, b := callOpenAPI(t, method, "http://"+g.Addr(roleOf(g, method, path))+fillTemplate(path)+"?no-such-parameter=1", "", nil)
			var problem struct{ Code, Detail string }
			if err := json.Unmarshal(b, &problem); err != nil || problem.Code != "invalid_param" {
				t.Errorf("%s %s: %s", method, path, b)
				continue
			}
			_, list, _ := strings.Cut(problem.Detail, "there are ")
			list, _, _ = strings.Cut(list, ": ")
			known := strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
			slices.Sort(known)
			slices.Sort(told)
			if !slices.Equal(known, told) {
				t.Errorf("%s %s: the route knows %q, the document tells of %q", method, path, known, told)
			}
		}
	}
}

func fillTemplate(path string) string {
	return strings.NewReplacer("{app}", "default", "{topic}", "orders", "{ver}", "v1", "{group}", "g",
		"{id}", "none", "{name}", "log_level", "{subscriber}", "bill", "{cluster}", "default").Replace(path)
}

// roleOf is a role that serves the route.
func roleOf(g *gateway.Gateway, method, path string) gateway.Role {
	for role, routes := range g.Routes() {
		for _, r := range routes {
			if role != "" && r.Method == method && templateOf(r.Path) == path {
				return role
			}
		}
	}
	return gateway.Pub // on every role
}

// The document lists every code that an error answer can have.
func TestOpenAPITellsOfEveryCode(t *testing.T) {
	var served, told []string
	for k := errs.Internal; k <= errs.DiskFull; k++ {
		served = append(served, k.Code())
	}
	for _, v := range loadOpenAPI(t).Components.Schemas["Problem"].Value.Properties["code"].Value.Enum {
		told = append(told, fmt.Sprint(v))
	}
	slices.Sort(served)
	slices.Sort(told)
	if !slices.Equal(served, told) {
		t.Errorf("served %q, told %q", served, told)
	}
}

// Real answers are what the document says: status, headers, content type, body.
func TestOpenAPIHoldsForRealAnswers(t *testing.T) {
	g := serveForOpenAPI(t)
	doc := loadOpenAPI(t)
	var receipt string // of the last answer that had one
	for _, c := range slices.Concat(dataRequests(), managementRequests()) {
		t.Run(fmt.Sprintf("%s %s?%.40s %d", c.method, c.path, c.query, c.want), func(t *testing.T) {
			role := roleOf(g, c.method, c.path)
			if c.path == "/ready" {
				awaitReady(t, g)
			}
			header := c.header.Clone()
			if role == gateway.Man && c.body != "" {
				header = http.Header{"Content-Type": {"application/json"}}
			}
			if header.Get("X-Receipt") == "LAST" {
				header.Set("X-Receipt", receipt)
			}
			url := "http://" + g.Addr(role) + fillTemplate(c.path) + "?" + c.query
			resp, body := callOpenAPI(t, c.method, url, strings.ReplaceAll(c.body, "LAST", receipt), header)
			if resp.StatusCode != c.want {
				t.Fatalf("%s: %s; want %d", resp.Status, body, c.want)
			}
			if r := resp.Header.Get("X-Receipt"); r != "" {
				receipt = r
			}
			if c.want != http.StatusMethodNotAllowed {
				checkAnswer(t, doc, c.path, resp, body)
			}
		})
	}
}

// With auth every route refuses who shows nothing, but those that say nothing; the document tells of that, and of what to show.
func TestOpenAPITellsOfRefusals(t *testing.T) {
	g := serveForOpenAPI(t, "auth")
	awaitReady(t, g)
	doc := loadOpenAPI(t)
	free := []string{"/alive", "/ready", "/openapi.json"}
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			resp, body := callOpenAPI(t, method, "http://"+g.Addr(roleOf(g, method, path))+fillTemplate(path), "", nil)
			open := slices.Contains(free, path)
			if open != (op.Security == nil) || open == (resp.StatusCode == http.StatusUnauthorized) {
				t.Errorf("%s %s: %s, and security %v", method, path, resp.Status, op.Security)
			}
			checkAnswer(t, doc, path, resp, body)
		}
	}
}

func awaitReady(t *testing.T, g *gateway.Gateway) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); <-tick.C {
		if resp, _ := callOpenAPI(t, "GET", "http://"+g.Addr(gateway.Pub)+"/ready", "", nil); resp.StatusCode == http.StatusOK {
			return
		}
	}
	t.Fatal("never ready")
}

func callOpenAPI(t *testing.T, method, url, body string, header http.Header) (*http.Response, []byte) {
	t.Helper()
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, url, reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range header {
		req.Header[name] = values
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, b
}

// checkAnswer holds one answer against the document.
func checkAnswer(t *testing.T, doc *openapi3.T, path string, resp *http.Response, body []byte) {
	t.Helper()
	item := doc.Paths.Value(path)
	op := item.GetOperation(resp.Request.Method)
	kind := strings.TrimSuffix(resp.Header.Get("Content-Type"), "; charset=utf-8")
	isJSON := kind == "application/json" || kind == "application/problem+json"
	err := openapi3filter.ValidateResponse(t.Context(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: &openapi3filter.RequestValidationInput{
			Request: resp.Request,
			Route:   &routers.Route{Spec: doc, Path: path, PathItem: item, Method: resp.Request.Method, Operation: op},
		},
		Status:  resp.StatusCode,
		Header:  resp.Header,
		Body:    io.NopCloser(bytes.NewReader(body)),
		Options: &openapi3filter.Options{IncludeResponseStatus: true, MultiError: true, ExcludeResponseBody: !isJSON},
	})
	if err != nil {
		t.Errorf("%s\n%s\n%v", resp.Status, body, err)
	}
	told := op.Responses.Status(resp.StatusCode)
	if told == nil {
		return // told above
	}
	if len(body) > 0 && told.Value.Content.Get(kind) == nil {
		t.Errorf("content type %q is not told of", kind)
	}
	switch kind {
	case "application/x-ndjson":
		for line := range bytes.Lines(body) {
			checkMessage(t, doc, line)
		}
	case "text/event-stream":
		for line := range bytes.Lines(body) {
			if data, ok := bytes.CutPrefix(line, []byte("data: ")); ok {
				checkMessage(t, doc, data)
			}
		}
	}
}

func checkMessage(t *testing.T, doc *openapi3.T, line []byte) {
	t.Helper()
	var v any
	if err := json.Unmarshal(line, &v); err != nil {
		t.Errorf("%q: %v", line, err)
		return
	}
	if err := doc.Components.Schemas["Message"].Value.VisitJSON(v, openapi3.EnableJSONSchema2020()); err != nil {
		t.Errorf("%s: %v", line, err)
	}
}

// exchange is a request and the status that it must get.
type exchange struct {
	method, path, query, body string
	header                    http.Header
	want                      int
}

func dataRequests() []exchange {
	const (
		publish = "/v1/msgs/{topic}/{ver}"
		group   = "/v1/msgs/{app}/{topic}/{ver}"
		stream  = "/v1/stream/{app}/{topic}/{ver}"
		offsets = "/v1/offsets/{app}/{topic}/{ver}/{group}"
	)
	return []exchange{
		{"POST", publish, "", "hello", nil, 201},
		{"POST", publish, "key=k&ack=local", "hello", http.Header{"X-Tag": {"a;b"}, "Content-Type": {"text/plain"}, "X-Msg-One": {"1"}}, 201},
		{"POST", publish, "batch=lines", "one\ntwo\n", nil, 201},
		{"POST", publish, "batch=lines&partition=99", "one\n", nil, 400},
		{"POST", publish, "async=1", "later", nil, 202},
		{"POST", publish, "batch=nonsense", "x", nil, 415},
		{"POST", publish, "ack=maybe", "x", nil, 400},
		{"POST", publish, "key=" + strings.Repeat("k", 4097), "x", nil, 413},
		{"POST", publish, "", "x", http.Header{"Content-Encoding": {"br"}}, 415},
		{"DELETE", publish, "", "", nil, 405},
		{"GET", group, "group=g&ack=explicit", "", nil, 200},
		{"PUT", group, "group=g&op=ack", "", http.Header{"X-Receipt": {"LAST"}}, 200},
		{"PUT", group, "group=g&op=ack", "", http.Header{"X-Receipt": {"bm9uc2Vuc2U"}}, 409},
		{"PUT", group, "group=g", `[{"receipt":"LAST","op":"ack"},{"receipt":"bm9uc2Vuc2U","op":"ack"}]`, nil, 207},
		{"PUT", group, "group=g", `[{"receipt":`, nil, 400},
		{"GET", group, "group=g&batch=100", "", nil, 200},
		{"GET", group, "group=g&wait=1ms", "", nil, 204},
		{"GET", group, "", "", nil, 400},
		{"GET", group, "cursor=", "", nil, 200},
		{"GET", group, "partition=0&offset=0&batch=10", "", nil, 200},
		{"GET", group, "cursor=&reset=newest&wait=0s", "", nil, 204},
		{"GET", group, "cursor=nonsense", "", nil, 400},
		{"GET", stream, "cursor=&reset=oldest&limit=2", "", nil, 200},
		{"GET", stream, "reset=oldest&limit=1", "", http.Header{"Accept": {"text/event-stream"}}, 200},
		{"GET", stream, "group=h&limit=2", "", nil, 200},
		{"GET", stream, "group=i&limit=1", "", http.Header{"Accept": {"text/event-stream"}}, 200},
		{"GET", stream, "group=j&limit=1", "", http.Header{"Accept": {"text/plain"}}, 200},
		{"GET", stream, "group=k&mode=other", "", nil, 400},
		{"PUT", offsets, "", `[{"partition":0,"offset":1000000}]`, nil, 409},
		{"PUT", offsets, "", `{}`, nil, 400},
		{"GET", "/alive", "", "", nil, 200},
		{"GET", "/ready", "", "", nil, 200},
		{"GET", "/ready", "role=nobody", "", nil, 400},
		{"GET", "/openapi.json", "", "", nil, 200},
		{"GET", "/metrics", "", "", nil, 200},
		{"GET", "/alive", "", "", http.Header{"Many": slices.Repeat([]string{"x"}, 65)}, 431},
		{"GET", stream, "group=g", "", http.Header{"Origin": {"https://elsewhere.example"}}, 403},
	}
}

func managementRequests() []exchange {
	const (
		app       = "/v1/apps/{app}"
		topic     = "/v1/topics/{app}/{topic}/{ver}"
		grant     = "/v1/subscriptions/{app}/{topic}/{ver}/{subscriber}"
		groups    = "/v1/groups/{app}/{topic}/{ver}"
		positions = groups + "/{group}/offsets"
		option    = "/v1/options/{name}"
	)
	return []exchange{
		{"POST", "/v1/apps", "", `{"app":"default","description":"d"}`, nil, 201},
		{"POST", "/v1/apps", "", `{"app":"default"}`, nil, 409},
		{"POST", "/v1/apps", "", `{"app":"a_b"}`, nil, 400},
		{"GET", "/v1/apps", "limit=1", "", nil, 200},
		{"GET", app, "", "", nil, 200},
		{"PATCH", app, "", `{"description":"other"}`, nil, 200},
		{"POST", app + "/keys", "", `{"use":"pub","name":"ci"}`, nil, 201},
		{"GET", app + "/keys", "", "", nil, 200},
		{"DELETE", app + "/keys/{id}", "", "", nil, 404},
		{"GET", "/v1/topics", "", "", nil, 200},
		{"GET", topic, "", "", nil, 200},
		{"PATCH", topic, "", `{"partitions":2}`, nil, 200},
		{"PATCH", topic, "", `{"partitions":1}`, nil, 400},
		{"POST", "/v1/topics", "", `{"app":"default","topic":"more","ver":"v1"}`, nil, 201},
		{"PUT", grant, "", `{"groups":["billing"]}`, nil, 201},
		{"GET", grant, "", "", nil, 200},
		{"GET", "/v1/subscriptions", "", "", nil, 200},
		{"DELETE", grant, "", "", nil, 204},
		{"GET", groups, "", "", nil, 200},
		{"GET", groups + "/{group}", "", "", nil, 200},
		{"PUT", positions, "", `{"to":"oldest"}`, nil, 200},
		{"PUT", positions, "", `{"to":"yesterday"}`, nil, 400},
		{"GET", "/v1/peek/{app}/{topic}/{ver}", "n=2", "", nil, 200},
		{"DELETE", groups + "/{group}", "", "", nil, 204},
		{"DELETE", groups + "/{group}", "", "", nil, 404},
		{"GET", "/v1/gateways", "", "", nil, 200},
		{"GET", "/v1/clients", "sort=messages", "", nil, 200},
		{"GET", "/v1/status", "", "", nil, 200},
		{"GET", "/v1/clusters", "", "", nil, 200},
		{"GET", "/v1/options", "", "", nil, 200},
		{"GET", option, "", "", nil, 200},
		{"PUT", option, "", `{"value":"debug"}`, nil, 200},
		{"PUT", option, "", `{"value":"loud"}`, nil, 400},
		{"GET", "/v1/adminkeys", "", "", nil, 200},
		{"POST", "/v1/adminkeys", "", `{"name":"ops","role":"viewer"}`, nil, 201},
		{"DELETE", "/v1/adminkeys/{id}", "", "", nil, 404},
		{"POST", "/v1/refresh", "", "", nil, 200},
	}
}
