package gateway

import (
	"net/http"
	"strings"
	"testing"
)

func TestWhatNoRouteAnswers(t *testing.T) {
	g := start(t, nil)
	for _, c := range []struct {
		role         Role
		method, path string
		want         int
		code, allow  string
	}{
		{Pub, "GET", "/", 404, "not_found", ""},
		{Pub, "GET", "/v1", 404, "not_found", ""},
		{Pub, "POST", "/v1/msgs/orders/v1/", 404, "not_found", ""}, // no redirect: a POST would lose its body
		{Pub, "POST", "//v1/msgs/orders/v1", 404, "not_found", ""},
		{Pub, "POST", "/v1/../v1/msgs/orders/v1", 404, "not_found", ""},
		{Pub, "POST", "/V1/MSGS/orders/v1", 404, "not_found", ""},
		{Pub, "DELETE", "/v1/msgs/orders/v1", 405, "method_not_allowed", "POST"},
		{Pub, "HEAD", "/v1/msgs/default/orders/v1", 405, "", "GET, PUT"}, // it would consume
		{Pub, "POST", "/v1/msgs/default/orders/v1", 405, "method_not_allowed", "GET, PUT"},
		{Pub, "TRACE", "/alive", 405, "method_not_allowed", "GET, HEAD"},
		{Pub, "POST", "/ready", 405, "method_not_allowed", "GET, HEAD"},
		{Pub, "BREW", "/ready", 405, "method_not_allowed", "GET, HEAD"},
		{Pub, "HEAD", "/alive", 200, "", ""},
		{Man, "POST", "/debug/pprof/heap", 405, "method_not_allowed", "GET"},
		{Man, "POST", "/v1/msgs/orders/v1", 404, "not_found", ""},
		// Nothing to debug with on the public ports.
		{Pub, "GET", "/metrics", 404, "not_found", ""},
		{Pub, "GET", "/debug/pprof/", 404, "not_found", ""},
		{Pub, "GET", "/debug/pprof/cmdline", 404, "not_found", ""},
		{Pub, "GET", "/debug/vars", 404, "not_found", ""},
		{Man, "GET", "/debug/vars", 404, "not_found", ""},
		{Man, "GET", "/metrics", 200, "", ""},
		{Man, "GET", "/debug/pprof/", 200, "", ""},
		{Man, "GET", "/debug/pprof/goroutine", 200, "", ""},
		{Man, "GET", "/debug/pprof/cmdline", 200, "", ""},
		{Man, "GET", "/openapi.json", 200, "", ""},
	} {
		resp, body := g.ask(t, c.role, c.method, c.path, nil)
		if resp.StatusCode != c.want || resp.Header.Get("Allow") != c.allow {
			t.Errorf("%s %s: %s, Allow %q, %.200s", c.method, c.path, resp.Status, resp.Header.Get("Allow"), body)
		}
		if c.code != "" {
			checkCode(t, resp, body, c.want, c.code)
		}
		if resp.Header.Get("X-Request-Id") == "" {
			t.Errorf("%s %s: no request id", c.method, c.path)
		}
	}
}

// A name is decoded once, and no escape makes one route of another.
func TestPathEscapes(t *testing.T) {
	g := start(t, nil)
	for path, want := range map[string]int{
		"/v1/msgs/orders/v1":          201,
		"/v1/msgs/%6frders/v1":        201, // orders
		"/v1/msgs/or%2Dders/v1":       201,
		"/v1/msgs/or%252Dders/v1":     400, // decoded once, % is in no name
		"/v1/msgs/a%2Fb/v1":           400,
		"/v1/msgs/a%2fb%2fv1":         404,
		"/v1/msgs%2Forders/v1":        404,
		"/v1%2Fmsgs/orders/v1":        404,
		"/v1/%6dsgs/orders/v1":        404, // only names may be escaped
		"/v1/msgs/%2E%2E/v1":          400,
		"/v1/msgs/../v1":              400,
		"/v1/msgs/orders%00/v1":       400,
		"/v1/msgs/orders%0d%0aX:1/v1": 400,
		"/v1/msgs/%EF%BC%8E/v1":       400,
		"/v1/msgs//v1":                400,
		"/v1/msgs/a.b/v1":             400,
	} {
		resp, body := raw(t, g.Addr(Pub), "POST "+path+" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx")
		if resp.StatusCode != want {
			t.Errorf("%s: %s %s; want %d", path, resp.Status, body, want)
		}
		if want == 400 {
			checkCode(t, resp, body, 400, "invalid_name")
		}
	}
}

func TestConnectAndAsterisk(t *testing.T) {
	g := start(t, nil)
	resp, body := raw(t, g.Addr(Pub), "CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost\r\n\r\n")
	// Go answers for the host of the target, which is not ours.
	checkCode(t, resp, body, http.StatusForbidden, "cross_origin")
	resp, body = raw(t, g.Addr(Pub), "CONNECT localhost:443 HTTP/1.1\r\nHost: localhost\r\n\r\n")
	checkCode(t, resp, body, http.StatusMethodNotAllowed, "method_not_allowed")
	resp, body = raw(t, g.Addr(Pub), "OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
	checkCode(t, resp, body, http.StatusNotFound, "not_found")
	resp, body = raw(t, g.Addr(Pub), "GET http://evil.example/alive HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
	checkCode(t, resp, body, http.StatusForbidden, "cross_origin")
}

func TestSharedAddressServesAllRoles(t *testing.T) {
	g := start(t, func(c *Config) {
		c.Pub = freeAddr(t)
		c.Man = c.Pub
	})
	if g.Addr(Pub) != g.Addr(Man) || g.Addr(Sub) != g.Addr(Man) {
		t.Fatalf("%s %s %s", g.Addr(Pub), g.Addr(Sub), g.Addr(Man))
	}
	for path, want := range map[string]int{"/metrics": 200, "/debug/pprof/": 200, "/v1/msgs/default/o/v1?group=g&wait=1ms": 204, "/alive": 200} {
		if resp, body := g.ask(t, Pub, "GET", path, nil); resp.StatusCode != want {
			t.Errorf("%s: %s %.200s", path, resp.Status, body)
		}
	}
}

// freeAddr is an address that was free a moment ago.
func freeAddr(t *testing.T) string {
	t.Helper()
	ln, err := listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func TestRolesThatAreOff(t *testing.T) {
	g := start(t, func(c *Config) { c.Sub, c.Man = off, off })
	if g.Addr(Sub) != "" || g.Addr(Man) != "" {
		t.Errorf("%q %q", g.Addr(Sub), g.Addr(Man))
	}
	resp, body := g.ask(t, Pub, "GET", "/v1/stream/default/orders/v1?group=g", nil)
	checkCode(t, resp, body, http.StatusNotFound, "not_found")
	resp, body = g.ask(t, Pub, "POST", "/v1/msgs/orders/v1", withBody("x"))
	if resp.StatusCode != http.StatusCreated {
		t.Errorf("%s %s", resp.Status, body)
	}
	resp, _ = g.ask(t, Pub, "GET", "/ready?role=sub", nil)
	if resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a role that is off is ready: %s", resp.Status)
	}
}

func TestMetrics(t *testing.T) {
	g := start(t, nil)
	for range 3 {
		g.ask(t, Pub, "POST", "/v1/msgs/orders/v1", withBody("x"))
	}
	g.ask(t, Pub, "POST", "/v1/msgs/or.ders/v1", withBody("x"))
	g.ask(t, Pub, "GET", "/secret-path", nil)
	_, body := g.ask(t, Man, "GET", "/metrics", nil)
	for _, want := range []string{
		`kateway_http_requests_total{code="201",role="pub",route="POST /v1/msgs/:topic/:ver"} 3`,
		`kateway_http_requests_total{code="400",role="pub",route="POST /v1/msgs/:topic/:ver"} 1`,
		`kateway_http_requests_total{code="404",role="pub",route="none"} 1`,
		`kateway_http_request_duration_seconds_count{role="pub",route="POST /v1/msgs/:topic/:ver"} 4`,
		`kateway_build_info{goversion="go`, `kateway_http_connections{roles="pub,sub"}`, "go_goroutines", "process_open_fds",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s", want)
		}
	}
	if strings.Contains(body, "secret-path") {
		t.Error("a request's path is a label")
	}
}
