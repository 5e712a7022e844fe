package gateway

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// The gateway's own rules for web pages, on every role, method and outcome.
func TestOrigins(t *testing.T) {
	const cross = http.StatusForbidden
	g := start(t, func(c *Config) {
		c.Origins = []string{"https://app.example", "http://localhost:3000", "https://other.example:443"}
	})
	own := g.url(Pub)
	for name, c := range map[string]struct {
		origin, site string
		want         int
		cors         bool
	}{
		"no browser":                     {"", "", 200, false},
		"own page":                       {own, "same-origin", 200, false},
		"own page, old browser":          {own, "", 200, false},
		"typed by the user":              {"", "none", 200, false},
		"own page without origin":        {"", "same-origin", 200, false},
		"another site":                   {"https://evil.example", "cross-site", cross, false},
		"another site, old browser":      {"https://evil.example", "", cross, false},
		"another site, image":            {"", "cross-site", cross, false},
		"another port":                   {"http://127.0.0.1:1", "same-site", cross, false},
		"another port, old browser":      {"http://127.0.0.1:1", "", cross, false},
		"same site without origin":       {"", "same-site", cross, false},
		"sandboxed":                      {"null", "cross-site", cross, false},
		"sandboxed, old browser":         {"null", "", cross, false},
		"unknown word":                   {"", "other", cross, false},
		"says same, but is not":          {"https://evil.example", "same-origin", cross, false},
		"listed":                         {"https://app.example", "cross-site", 200, true},
		"listed, old browser":            {"https://app.example", "", 200, true},
		"listed with its default port":   {"https://other.example", "cross-site", 200, true},
		"listed local page":              {"http://localhost:3000", "same-site", 200, true},
		"listed as prefix":               {"https://app.example.evil.example", "cross-site", cross, false},
		"listed as suffix":               {"https://evil-app.example", "cross-site", cross, false},
		"listed with another scheme":     {"http://app.example", "cross-site", cross, false},
		"listed with another port":       {"https://app.example:444", "cross-site", cross, false},
		"listed, but sandboxed":          {"null", "same-site", cross, false},
		"two in one":                     {"https://app.example https://evil.example", "cross-site", cross, false},
		"own host with user information": {"http://evil@" + g.Addr(Pub), "", 200, false}, // no browser says this
	} {
		t.Run(name, func(t *testing.T) {
			set := func(r *http.Request) {
				if c.origin != "" {
					r.Header.Set("Origin", c.origin)
				}
				if c.site != "" {
					r.Header.Set("Sec-Fetch-Site", c.site)
				}
			}
			resp, body := g.ask(t, Pub, "GET", "/v1/msgs/default/orders/v1?group=g&wait=1ms", set)
			if c.want == 200 && resp.StatusCode != 204 {
				t.Errorf("%s %s", resp.Status, body)
			}
			if c.want == cross {
				checkCode(t, resp, body, cross, "cross_origin")
			}
			if got := resp.Header.Get("Access-Control-Allow-Origin"); (got != "") != c.cors || c.cors && got != c.origin {
				t.Errorf("allowed %q", got)
			}
			if resp.Header.Get("Access-Control-Allow-Credentials") != "" || resp.Header.Get("Vary") != "Origin" {
				t.Errorf("header %v", resp.Header)
			}
			for _, path := range []string{"/alive", "/openapi.json"} { // harmless
				if resp, body := g.ask(t, Pub, "GET", path, set); resp.StatusCode != 200 {
					t.Errorf("%s: %s %s", path, resp.Status, body)
				}
			}
		})
	}
}

func TestOriginOnEveryRoleAndMethod(t *testing.T) {
	g := start(t, nil)
	for _, c := range []struct {
		role         Role
		method, path string
	}{
		{Pub, "POST", "/v1/msgs/orders/v1"}, {Pub, "PUT", "/v1/msgs/default/orders/v1"}, {Pub, "GET", "/v1/stream/default/orders/v1?group=g"},
		{Pub, "OPTIONS", "/v1/msgs/orders/v1"}, {Pub, "DELETE", "/v1/msgs/orders/v1"}, {Pub, "GET", "/nothing"},
		{Man, "GET", "/metrics"}, {Man, "GET", "/debug/pprof/"}, {Man, "POST", "/debug/pprof/symbol"}, {Man, "GET", "/"},
	} {
		resp, body := g.ask(t, c.role, c.method, c.path, func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") })
		checkCode(t, resp, body, http.StatusForbidden, "cross_origin")
		if !strings.Contains(body, "--origins") {
			t.Errorf("the flag is not named: %s", body)
		}
	}
	resp, body := g.ask(t, Pub, "POST", "/v1/msgs/orders/v1", func(r *http.Request) { r.Header["Origin"] = []string{g.url(Pub), g.url(Pub)} })
	checkCode(t, resp, body, http.StatusForbidden, "cross_origin")
}

func TestPreflight(t *testing.T) {
	g := start(t, func(c *Config) { c.Origins = []string{"https://app.example"} })
	preflight := func(origin, path string) (*http.Response, string) {
		return g.ask(t, Pub, "OPTIONS", path, func(r *http.Request) {
			r.Header.Set("Origin", origin)
			r.Header.Set("Sec-Fetch-Site", "cross-site")
			r.Header.Set("Access-Control-Request-Method", "POST")
			r.Header.Set("Access-Control-Request-Headers", "content-type,x-msg-a")
		})
	}
	resp, body := preflight("https://app.example", "/v1/msgs/orders/v1")
	h := resp.Header
	if resp.StatusCode != 204 || body != "" || h.Get("Access-Control-Allow-Origin") != "https://app.example" ||
		h.Get("Access-Control-Allow-Methods") != "POST" || h.Get("Access-Control-Allow-Headers") != "content-type,x-msg-a" || h.Get("Access-Control-Max-Age") == "" {
		t.Errorf("%s %v", resp.Status, h)
	}
	resp, body = preflight("https://evil.example", "/v1/msgs/orders/v1")
	checkCode(t, resp, body, http.StatusForbidden, "cross_origin")
	resp, body = preflight("https://app.example", "/nothing/here")
	checkCode(t, resp, body, http.StatusNotFound, "not_found")
	resp, body = g.ask(t, Pub, "OPTIONS", "/v1/msgs/orders/v1", nil)
	checkCode(t, resp, body, http.StatusMethodNotAllowed, "method_not_allowed")
	if resp.Header.Get("Allow") != "POST" {
		t.Errorf("Allow %q", resp.Header.Get("Allow"))
	}
}

func TestHosts(t *testing.T) {
	for name, insecure := range map[string]bool{"open": false, "insecure": true} {
		t.Run(name, func(t *testing.T) {
			g := start(t, func(c *Config) {
				c.Hosts, c.Insecure = []string{"gw.example", "10.0.0.7", "fd00::7"}, insecure
			})
			for host, mine := range map[string]bool{
				"localhost": true, "LocalHost:9191": true, "localhost.:80": true, "127.0.0.1": true, "127.0.0.1:1": true, "[::1]:9191": true, "[::1]": true,
				"gw.example": true, "GW.example:8080": true, "gw.example.": true, "10.0.0.7:9191": true, "[fd00::7]:9191": true,
				"evil.example": false, "gw.example.evil.example": false, "10.0.0.8": false, "0.0.0.0:9191": false, "169.254.169.254": false,
			} {
				resp, body := g.ask(t, Pub, "GET", "/alive", func(r *http.Request) { r.Host = host })
				if mine || insecure {
					if resp.StatusCode != 200 {
						t.Errorf("%s: %s %s", host, resp.Status, body)
					}
					continue
				}
				checkCode(t, resp, body, http.StatusForbidden, "cross_origin")
				if !strings.Contains(body, "--hosts") {
					t.Errorf("the flag is not named: %s", body)
				}
			}
		})
	}
}

// raw sends bytes and answers the first response, and whether the connection is closed after it.
func raw(t *testing.T, addr, request string) (*http.Response, string) {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go func() { _, _ = io.WriteString(conn, request) }() // the answer may come, and the connection close, before all is sent
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
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

func TestHeadLimits(t *testing.T) {
	g := start(t, nil)
	addr := g.Addr(Pub)
	host := "Host: " + addr + "\r\n"
	const line = "GET /alive HTTP/1.1\r\n"
	pad := func(total int) string { // a head that counts as total bytes
		rest := total - len(line) - len(host) - len("X-Pad: \r\n")
		return line + host + "X-Pad: " + strings.Repeat("p", rest) + "\r\n\r\n"
	}
	for name, c := range map[string]struct {
		request string
		want    int
	}{
		"1 field":             {line + host + "\r\n", 200},
		"64 fields":           {line + host + numbered(63) + "\r\n", 200},
		"65 fields":           {line + host + numbered(64) + "\r\n", 431},
		"64 of one name":      {line + host + strings.Repeat("A: b\r\n", 63) + "\r\n", 200},
		"65 of one name":      {line + host + strings.Repeat("A: b\r\n", 64) + "\r\n", 431},
		"65 with a chunked":   {line + host + "Transfer-Encoding: chunked\r\n" + numbered(63) + "\r\n0\r\n\r\n", 431},
		"64 with a chunked":   {line + host + "Transfer-Encoding: chunked\r\n" + numbered(62) + "\r\n0\r\n\r\n", 200},
		"64 with a trailer":   {line + host + "Transfer-Encoding: chunked\r\nTrailer: X-T\r\n" + numbered(61) + "\r\n0\r\n\r\n", 200},
		"65 with a trailer":   {line + host + "Transfer-Encoding: chunked\r\nTrailer: X-T\r\n" + numbered(62) + "\r\n0\r\n\r\n", 431},
		"32 KiB":              {pad(32 << 10), 200},
		"32 KiB and a byte":   {pad(32<<10 + 1), 431},
		"60 KiB":              {pad(60 << 10), 431},
		"10,000 small fields": {line + host + strings.Repeat("A:b\r\n", 10_000) + "\r\n", 431},
		"1 MiB":               {pad(1 << 20), 431},
		"a long path":         {"GET /" + strings.Repeat("p", 33<<10) + " HTTP/1.1\r\n" + host + "\r\n", 431},
	} {
		t.Run(name, func(t *testing.T) {
			resp, body := raw(t, addr, c.request)
			if resp.StatusCode != c.want {
				t.Fatalf("%s %s; want %d", resp.Status, body, c.want)
			}
			if c.want == 431 && name != "1 MiB" { // far beyond, net/http answers before we see it
				checkCode(t, resp, body, 431, "headers_too_large")
			}
		})
	}
}

func numbered(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "X-%d: v\r\n", i)
	}
	return b.String()
}

// A client that sends its body too slowly is answered and hung up on; one that takes its time to read is not.
func TestSlowBody(t *testing.T) {
	g := start(t, func(c *Config) { c.ReadBodyTimeout = 100 * time.Millisecond })
	began := time.Now()
	resp, body := raw(t, g.Addr(Pub), "POST /v1/msgs/orders/v1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhe")
	checkCode(t, resp, body, http.StatusBadRequest, "invalid_body")
	if took := time.Since(began); took > 5*time.Second || !resp.Close {
		t.Errorf("after %v, closes: %v", took, resp.Close)
	}
	resp, body = raw(t, g.Addr(Pub), "GET /v1/msgs/default/orders/v1?group=g&wait=500ms HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
	if resp.StatusCode != http.StatusNoContent {
		t.Errorf("a poll was cut: %s %s", resp.Status, body)
	}
}
