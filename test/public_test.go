package test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/kateway/kateway/internal/testkit"
)

// public is a gateway as one that stands on the internet is configured: TLS, auth, quota, guard and audit, in a network of its
// own, with clients that have addresses of their own, none of them loopback.
type public struct {
	*gateway
	t       *testing.T
	dir     string
	forge   *forge
	roots   *x509.CertPool
	ca      string // the same as a file
	tenants []*renter
	admin   string // its key
	origin  string // of pages that are welcome

	mu      sync.Mutex
	next    int      // the next client's address
	subnet  string   // of clients
	secrets []string // that nothing may tell
	told    []string // what refused requests were answered
}

// renter is an app with a key and the topics orders and private.
type renter struct{ app, key string }

// newPublic starts one with so many tenants.
func newPublic(t *testing.T, tenants int) *public {
	t.Helper()
	n := newNetwork(t)
	p := &public{t: t, dir: t.TempDir(), admin: "canary-admin-0123456789abcdef0123456789", origin: "https://shop.example"}
	p.clients(n)
	authority := testkit.NewAuthority(t)
	cert, key := authority.For(n.there, time.Time{})
	p.ca, p.roots = authority.File, x509.NewCertPool()
	pem, err := os.ReadFile(p.ca)
	if err != nil || !p.roots.AppendCertsFromPEM(pem) {
		t.Fatal(err)
	}
	p.forge = newForge(t, p.dir)
	file := filepath.Join(p.dir, "kateway.yaml")
	if err := os.WriteFile(file, []byte(p.forge.options()), 0o600); err != nil {
		t.Fatal(err)
	}
	// The key stands in the environment, where no other process of another user sees it.
	command := []string{"ip", "netns", "exec", n.name, "env", "KATEWAY_ADMIN_KEY=" + p.admin, binary}
	p.gateway = launchBy(t, command, "--config", file, "--data", filepath.Join(p.dir, "data"), "--pub", n.there+":0", "--man", n.there+":0",
		"--tls-cert", cert, "--tls-key", key, "--require-https", "always", "--origins", p.origin, "--access-log", p.file("access.log"))
	p.pub, p.man = strings.Replace(p.pub, "http:", "https:", 1), strings.Replace(p.man, "http:", "https:", 1)
	c := p.caller(nil)
	waitFor(t, "the gateway to be ready", func() bool {
		resp, _, err := c.try(c.h2, "GET", p.pub+"/ready?role=pub", "")
		return err == nil && resp.StatusCode == http.StatusOK
	})
	for i := range tenants {
		p.tenants = append(p.tenants, p.rent(fmt.Sprintf("tenant%d", i), nil))
	}
	p.secrets = append(p.secrets, p.admin, string(p.forge.shared))
	return p
}

func (p *public) file(name string) string { return filepath.Join(p.dir, name) }

// clients gives this side of the wire addresses for 254 clients.
func (p *public) clients(n *network) {
	p.t.Helper()
	p.subnet = fmt.Sprintf("198.18.%d.", time.Now().UnixNano()/1000%256)
	for _, line := range []string{"route add local " + p.subnet + "0/24 dev lo", "-n " + n.name + " route add " + p.subnet + "0/24 via " + n.here} {
		if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			testkit.Missing(p.t, "network namespaces", fmt.Errorf("ip %s: %w: %s", line, err, out))
		}
	}
	p.t.Cleanup(func() { _ = exec.Command("ip", "route", "del", "local", p.subnet+"0/24", "dev", "lo").Run() })
}

// rent makes an app, its key and its topics.
func (p *public) rent(app string, limits map[string]any) *renter {
	p.t.Helper()
	p.manage(http.StatusCreated, "POST", "/v1/apps", map[string]any{"app": app, "limits": limits})
	for _, topic := range []string{"orders", "private"} {
		p.manage(http.StatusCreated, "POST", "/v1/topics", map[string]any{"app": app, "topic": topic, "ver": "v1", "partitions": 1})
	}
	r := &renter{app, decode[struct{ Key string }](p.t, []byte(p.manage(http.StatusCreated, "POST", "/v1/apps/"+app+"/keys", map[string]any{"use": "both"}))).Key}
	p.mu.Lock()
	p.secrets = append(p.secrets, r.key)
	p.mu.Unlock()
	return r
}

// manage asks role man as the operator does.
func (p *public) manage(status int, method, path string, body any) string {
	p.t.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		p.t.Fatal(err)
	}
	c := p.caller(nil)
	text := string(b)
	if body == nil {
		text = ""
	}
	resp, got, err := c.try(c.h2, method, p.man+path, text, "Authorization: Bearer "+p.admin, "Content-Type: application/json")
	if err != nil || resp.StatusCode != status {
		p.t.Fatalf("%s %s: %v %s, %v", method, path, resp, got, err)
	}
	return got
}

// caller is a client with an address of its own.
type caller struct {
	p      *public
	r      *renter // who it may be; nil: nobody
	addr   string
	h1, h2 *http.Transport
	dialer *net.Dialer
}

// caller makes one, with the next address.
func (p *public) caller(r *renter) *caller {
	p.mu.Lock()
	p.next++
	addr := p.subnet + fmt.Sprint(p.next%254+1)
	p.mu.Unlock()
	c := &caller{p: p, r: r, addr: addr, dialer: &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(addr)}, Timeout: patience}}
	c.h1 = &http.Transport{DialContext: c.dialer.DialContext, TLSClientConfig: c.tls("http/1.1"), DisableCompression: true}
	c.h2 = &http.Transport{DialContext: c.dialer.DialContext, TLSClientConfig: c.tls("h2"), DisableCompression: true, ForceAttemptHTTP2: true}
	p.t.Cleanup(func() { c.h1.CloseIdleConnections(); c.h2.CloseIdleConnections() })
	return c
}

func (c *caller) tls(proto ...string) *tls.Config {
	return &tls.Config{RootCAs: c.p.roots, NextProtos: proto}
}

// raw is a connection on which the test speaks itself.
func (c *caller) raw(t *testing.T) *tls.Conn {
	t.Helper()
	d := tls.Dialer{NetDialer: c.dialer, Config: c.tls("http/1.1")}
	conn, err := d.DialContext(t.Context(), "tcp", strings.TrimPrefix(c.p.pub, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn.(*tls.Conn)
}

// try sends a request; a header is "Name: value". A stream that has begun is left at once.
func (c *caller) try(tr *http.Transport, method, url, body string, head ...string) (*http.Response, string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return nil, "", err
	}
	if body == "" {
		req.Body, req.ContentLength = http.NoBody, 0
	}
	for _, line := range head {
		name, value, _ := strings.Cut(line, ": ")
		req.Header.Add(name, value)
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK && strings.Contains(url, "/v1/stream/") && !strings.Contains(url, "limit=") {
		return resp, "", nil
	}
	b, err := io.ReadAll(resp.Body)
	return resp, string(b), err
}

// in is the verdict on what is let in.
const in = "in"

// verdict is what an answer says, apart from its protocol.
func (p *public) verdict(resp *http.Response, body string) string {
	code := codeOf(body)
	switch s := resp.StatusCode; {
	case s < 300, code == "fenced", code == "conflict":
		return in
	default:
		p.mu.Lock()
		defer p.mu.Unlock()
		p.told = append(p.told, body)
		return fmt.Sprint(s, " ", code)
	}
}

// way is a protocol and form in which the same can be asked.
type way struct {
	name  string
	write bool // it publishes
	ask   func(c *caller, a *attempt) (string, error)
}

// ways are all that there are.
func ways() []way {
	http := func(name string, h2, write bool, method, path, body string, more ...string) way {
		return way{name, write, func(c *caller, a *attempt) (string, error) {
			tr := c.h1
			if h2 {
				tr = c.h2
			}
			resp, got, err := c.try(tr, method, c.p.pub+a.fill(c.r, path)+a.query(c.r, path), a.fill(c.r, body), append(more, a.heads(c)...)...)
			if err != nil {
				return "", err
			}
			return c.p.verdict(resp, got), nil
		}}
	}
	socket := func(name string, write bool, path string) way {
		return way{name, write, func(c *caller, a *attempt) (string, error) {
			conn, resp, err := c.socket(a.fill(c.r, path)+a.query(c.r, path), a.heads(c))
			if conn != nil {
				conn.Close()
				return in, nil
			}
			if resp == nil {
				return "", err
			}
			b, _ := io.ReadAll(resp.Body)
			return c.p.verdict(resp, string(b)), nil
		}}
	}
	const topic = "OWNER/TOPIC/v1"
	return []way{
		http("publish", false, true, "POST", "/v1/msgs/TOPIC/v1", "x"),
		http("publish over h2", true, true, "POST", "/v1/msgs/TOPIC/v1", "x"),
		http("batch over h2", true, true, "POST", "/v1/msgs/TOPIC/v1?batch=lines", "x\ny"),
		http("poll", false, false, "GET", "/v1/msgs/"+topic+"?group=g&wait=0s", ""),
		http("poll over h2", true, false, "GET", "/v1/msgs/"+topic+"?group=g&wait=0s", ""),
		http("cursor over h2", true, false, "GET", "/v1/msgs/"+topic+"?cursor=&wait=0s&reset=newest", ""),
		http("stream", false, false, "GET", "/v1/stream/"+topic+"?group=g", ""),
		http("events", false, false, "GET", "/v1/stream/"+topic+"?group=g", "", "Accept: text/event-stream"),
		http("events over h2", true, false, "GET", "/v1/stream/"+topic+"?group=g", "", "Accept: text/event-stream"),
		http("settle", false, false, "PUT", "/v1/msgs/"+topic+"?group=g", `[{"receipt":"abcd","op":"ack"}]`),
		http("offsets over h2", true, false, "PUT", "/v1/offsets/"+topic+"/g", `[{"partition":0,"offset":0}]`),
		http("token over h2", true, false, "POST", "/v1/tokens", `{"op":"sub","app":"OWNER","topic":"TOPIC","ver":"v1","group":"g"}`),
		socket("WebSocket", false, "/v1/ws/msgs/"+topic+"?group=g"),
		socket("WebSocket that publishes", true, "/v1/ws/pub/TOPIC/v1"),
	}
}

// socket opens a WebSocket; where that is refused there is an answer instead.
func (c *caller) socket(path string, head []string) (*websocket.Conn, *http.Response, error) {
	h := http.Header{}
	for _, line := range head {
		name, value, _ := strings.Cut(line, ": ")
		h.Add(name, value)
	}
	d := websocket.Dialer{NetDialContext: c.dialer.DialContext, TLSClientConfig: c.tls("http/1.1"), HandshakeTimeout: patience}
	return d.Dial(strings.Replace(c.p.pub, "https", "wss", 1)+path, h)
}

// attempt is what is tried in every way; KEY, APP, OTHER in its texts are the tenant's key and app, and the key of another one.
type attempt struct {
	row, name    string
	head         []string
	more         string // of the query
	owner, topic string // "": the tenant's own orders
	token        func(f *forge, app string) string
	reads        bool // it is nothing for publishers
	want         string
}

func (a *attempt) fill(r *renter, s string) string {
	owner, topic := a.owner, a.topic
	if owner == "" {
		owner = r.app
	}
	if topic == "" {
		topic = "orders"
	}
	return strings.NewReplacer("OWNER", owner, "TOPIC", topic).Replace(s)
}

// query is what follows the path of a way.
func (a *attempt) query(r *renter, path string) string {
	more := strings.ReplaceAll(a.more, "KEY", r.key)
	switch {
	case more == "":
		return ""
	case strings.Contains(path, "?"):
		return "&" + more
	}
	return "?" + more
}

func (a *attempt) heads(c *caller) []string {
	var list []string
	for _, line := range a.head {
		list = append(list, strings.NewReplacer("KEY", c.r.key, "APP", c.r.app, "OTHER", c.p.tenants[0].key).Replace(line))
	}
	if a.token != nil {
		list = append(list, "Authorization: Bearer "+a.token(c.p.forge, c.r.app))
	}
	return list
}

// check tries it in every way, from an address of its own, and wants one and the same verdict.
func (a *attempt) check(t *testing.T, p *public, r *renter) {
	t.Helper()
	c := p.caller(r)
	for _, w := range ways() {
		if a.reads && w.write {
			continue
		}
		got, err := w.ask(c, a)
		if ok := got == a.want || strings.HasPrefix(a.want, "4") && len(a.want) == 3 && strings.HasPrefix(got, a.want); err != nil || !ok {
			t.Errorf("%s: %s, %v; want %s", w.name, got, err, a.want)
		}
	}
}

func codeOf(body string) string {
	var p struct{ Code string }
	_ = json.Unmarshal([]byte(body), &p)
	return p.Code
}
