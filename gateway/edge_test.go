package gateway

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kateway/kateway/internal/online"
)

// seenAs publishes over a connection that begins with these bytes and a request with these headers, and answers as whom
// GET /v1/clients and the log have the client; "" where it was refused.
func seenAs(t *testing.T, g *running, first, headers string) string {
	t.Helper()
	var d net.Dialer
	conn, err := d.DialContext(t.Context(), "tcp", g.Addr(Pub))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(15 * time.Second))
	_, _ = io.WriteString(conn, first+"POST /v1/msgs/seen/v1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n"+headers+"\r\nx")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || resp.StatusCode != http.StatusCreated {
		return ""
	}
	list, err := node{g.Gateway}.Clients(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(list, func(c online.Client) bool { return c.Topic == "seen" })
	if i < 0 {
		t.Fatalf("not listed: %+v", list)
	}
	remote := list[i].Remote
	id := resp.Header.Get("X-Request-Id")
	await(t, "the request's line", func() bool { return strings.Contains(g.logged.String(), id) })
	for line := range strings.Lines(g.logged.String()) {
		if strings.Contains(line, id) && !strings.Contains(line, `"remote":"`+remote+`"`) {
			t.Errorf("listed as %s, logged as %s", remote, line)
		}
	}
	conn.Close()
	await(t, "the connection to be gone", func() bool { return len(g.online.List()) == 0 })
	return strings.Replace(remote, conn.LocalAddr().String(), "itself", 1)
}

// Where a request comes from is what a proxy that is trusted says, and what nobody else does.
func TestTrueAddress(t *testing.T) {
	v2 := "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc6\x33\x64\x09\x7f\x00\x00\x01\x10\x00\x00\x50"
	for name, c := range map[string]struct {
		change         func(*Config)
		first, headers string
		want           string
	}{
		"direct":                        {nil, "", "", "itself"},
		"header, nobody trusted":        {nil, "", "X-Forwarded-For: 198.51.100.1\r\nForwarded: for=198.51.100.1\r\nX-Real-IP: 198.51.100.1\r\n", "itself"},
		"header of a stranger":          {trust("192.0.2.0/24"), "", "X-Forwarded-For: 198.51.100.1\r\n", "itself"},
		"header of a proxy":             {trust("127.0.0.1"), "", "X-Forwarded-For: 1.2.3.4, 198.51.100.1\r\n", "198.51.100.1:0"},
		"other headers of a proxy":      {trust("127.0.0.1"), "", "Forwarded: for=198.51.100.1\r\nX-Real-IP: 198.51.100.1\r\nTrue-Client-IP: 198.51.100.1\r\n", "itself"},
		"garbage from a proxy":          {trust("127.0.0.1"), "", "X-Forwarded-For: \x1b[31m\"}\r\n", ""},
		"words from a proxy":            {trust("127.0.0.1"), "", "X-Forwarded-For: localhost\r\n", "itself"},
		"PROXY, but not asked for":      {trust("127.0.0.1"), "PROXY TCP4 198.51.100.9 127.0.0.1 4096 80\r\n", "", ""},
		"PROXY of a stranger":           {proxied("192.0.2.0/24"), "PROXY TCP4 198.51.100.9 127.0.0.1 4096 80\r\n", "", ""},
		"PROXY 2 of a stranger":         {proxied("192.0.2.0/24"), v2, "", ""},
		"a stranger without PROXY":      {proxied("192.0.2.0/24"), "", "", "itself"},
		"PROXY":                         {proxied("127.0.0.1"), "PROXY TCP4 198.51.100.9 127.0.0.1 4096 80\r\n", "", "198.51.100.9:4096"},
		"PROXY 2":                       {proxied("127.0.0.1"), v2, "", "198.51.100.9:4096"},
		"PROXY, and its client lies":    {proxied("127.0.0.1"), "PROXY TCP4 198.51.100.9 127.0.0.1 4096 80\r\n", "X-Forwarded-For: 1.2.3.4\r\n", "198.51.100.9:4096"},
		"PROXY twice":                   {proxied("127.0.0.1"), strings.Repeat("PROXY TCP4 198.51.100.9 127.0.0.1 4096 80\r\n", 2), "", ""},
		"a proxy without PROXY":         {proxied("127.0.0.1"), "", "", ""},
		"PROXY with garbage":            {proxied("127.0.0.1"), "PROXY TCP4 x y 1 2\r\n", "", ""},
		"PROXY without an end":          {proxied("127.0.0.1"), "PROXY TCP4 " + strings.Repeat("1", 500), "", ""},
		"PROXY of a proxy behind a LAN": {proxied("127.0.0.1", "198.51.100.0/24"), "PROXY TCP4 198.51.100.9 127.0.0.1 4096 80\r\n", "X-Forwarded-For: 1.2.3.4\r\n", "1.2.3.4:0"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := seenAs(t, start(t, c.change), c.first, c.headers); got != c.want {
				t.Errorf("seen as %q, want %q", got, c.want)
			}
		})
	}
}

func trust(nets ...string) func(*Config) { return func(c *Config) { c.TrustedProxies = nets } }

func proxied(nets ...string) func(*Config) {
	return func(c *Config) { c.TrustedProxies, c.ProxyProtocol, c.ReadHeaderTimeout = nets, true, time.Second }
}

// Of whom HTTPS is asked, by where he comes from and how.
func TestRequireHTTPS(t *testing.T) {
	for name, c := range map[string]struct {
		who, xff, proto string
		trusted         bool
		want            int
	}{
		"off":                            {"off", "198.51.100.1", "", true, 200},
		"outer, from here":               {"outer", "", "", true, 200},
		"outer, from a private network":  {"outer", "10.1.1.1", "", true, 200},
		"outer, from outside":            {"outer", "198.51.100.1", "", true, 403},
		"outer, from outside over HTTPS": {"outer", "198.51.100.1", "https", true, 200},
		"outer, lies before the proxy":   {"outer", "198.51.100.1", "https, http", true, 403},
		"outer, claims to be inside":     {"outer", "10.1.1.1, 198.51.100.1", "", true, 403},
		"always, from here":              {"always", "", "", true, 403},
		"always, HTTPS at the proxy":     {"always", "", "https", true, 200},
		"always, claims HTTPS":           {"always", "", "https", false, 403},
	} {
		t.Run(name, func(t *testing.T) {
			g := start(t, func(cfg *Config) {
				cfg.RequireHTTPS = c.who
				if c.trusted {
					cfg.TrustedProxies = []string{"127.0.0.1"}
				}
			})
			set := func(r *http.Request) {
				if c.xff != "" {
					r.Header.Set("X-Forwarded-For", c.xff)
				}
				if c.proto != "" {
					r.Header.Set("X-Forwarded-Proto", c.proto)
				}
			}
			if resp, body := g.ask(t, Man, "GET", "/v1/status", set); resp.StatusCode != c.want {
				t.Errorf("%s %s", resp.Status, body)
			}
			if resp, body := g.ask(t, Pub, "GET", "/nothing", set); c.want == 403 && resp.StatusCode != 403 {
				t.Errorf("what is not there: %s %s", resp.Status, body)
			}
			if resp, _ := g.ask(t, Pub, "GET", "/alive", set); resp.StatusCode != 200 {
				t.Errorf("/alive: %s", resp.Status)
			}
		})
	}
	t.Run("always, over TLS", func(t *testing.T) {
		certFile, keyFile := certFiles(t)
		writeCert(t, certFile, keyFile, "localhost")
		g := start(t, func(c *Config) { c.RequireHTTPS, c.TLSCert, c.TLSKey = "always", certFile, keyFile })
		for _, major := range []int{1, 2} {
			tr := transport(true, major)
			resp := post(t, tr, "https://"+g.Addr(Pub)+"/v1/msgs/a/v1", "x")
			tr.CloseIdleConnections()
			if resp.StatusCode != http.StatusCreated || resp.ProtoMajor != major {
				t.Errorf("HTTP/%d: %s %s", major, resp.Proto, resp.Status)
			}
		}
	})
}

// Connections that are too many are closed at once and counted; management still answers, and whoever closes makes room.
func TestMaxConnections(t *testing.T) {
	g := start(t, func(c *Config) { c.MaxConnections = 8 })
	var open []net.Conn
	defer func() {
		for _, c := range open {
			c.Close()
		}
	}()
	var d net.Dialer
	for range 8 {
		c, err := d.DialContext(t.Context(), "tcp", g.Addr(Pub))
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	await(t, "all to be accepted", func() bool { return g.connected() == 8 })
	c, err := d.DialContext(t.Context(), "tcp", g.Addr(Pub))
	if err == nil {
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil || strings.Contains(err.Error(), "timeout") {
			t.Errorf("one too many is not closed: %v", err)
		}
		c.Close()
	}
	if _, body := g.ask(t, Man, "GET", "/metrics", nil); !strings.Contains(body, `kateway_connections_refused_total{reason="total"} 1`) {
		t.Error("not counted")
	}
	open[0].Close()
	await(t, "room for another", func() bool {
		c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := c.Post("http://"+g.Addr(Pub)+"/v1/msgs/a/v1", "text/plain", strings.NewReader("x"))
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusCreated
	})
}

func TestConnectionsOfFiles(t *testing.T) {
	for files, want := range map[int64]int64{0: 0, 100: 16, 512: 384, 1024: 768, 1 << 20: 3 << 18} {
		if got := connectionsOf(files); got != want {
			t.Errorf("%d files: %d connections, want %d", files, got, want)
		}
	}
}
