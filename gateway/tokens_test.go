package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/online"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/plugins"
)

// token gets one from the gateway.
func (g *guarded) token(t *testing.T, app, body string) string {
	t.Helper()
	resp, text := g.send(t, false, Pub, "POST", "/v1/tokens", body, "Authorization: Bearer "+g.keys[app])
	var answer struct {
		Token   string
		Expires time.Time
	}
	if err := json.Unmarshal([]byte(text), &answer); err != nil || resp.StatusCode != 201 || resp.Header.Get("Cache-Control") != "no-store" || time.Until(answer.Expires) > time.Hour {
		t.Fatal(resp.Status, text, err)
	}
	return answer.Token
}

// watchers are streams and WebSockets that wait for their end.
type watchers struct {
	*guarded
	t     *testing.T
	names []string
	ended chan string // what the end of each says
}

func (w *watchers) read(name, path, accept string) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, w.url(Pub)+path, http.NoBody)
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Accept", accept)
	resp, err := w.client.Transport.RoundTrip(req)
	if err != nil || resp.StatusCode != 200 {
		w.t.Fatal(name, err, resp)
	}
	w.names = append(w.names, name)
	go func() {
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		w.ended <- name + " " + string(b)
	}()
}

// poll waits for a message that does not come.
func (w *watchers) poll(name, path string) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, w.url(Pub)+path+"&wait=5m", http.NoBody)
	if err != nil {
		w.t.Fatal(err)
	}
	polls := func() (n int) {
		for _, c := range w.online.List() {
			if c.Kind == online.Poll {
				n++
			}
		}
		return n
	}
	before := polls()
	w.names = append(w.names, name)
	go func() {
		resp, err := w.client.Transport.RoundTrip(req)
		if err != nil {
			w.ended <- name + " " + err.Error()
			return
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		w.ended <- fmt.Sprintf("%s %d %s", name, resp.StatusCode, b)
	}()
	await(w.t, "the poll to wait", func() bool { return polls() > before })
}

func (w *watchers) socket(name, path string, protocol ...string) {
	w.t.Helper()
	w.watch(name, w.dial(name, path, protocol...))
}

func (w *watchers) dial(name, path string, protocol ...string) *websocket.Conn {
	w.t.Helper()
	d := websocket.Dialer{Subprotocols: protocol}
	conn, resp, err := d.DialContext(w.t.Context(), "ws://"+w.Addr(Pub)+path, nil)
	if err != nil {
		w.t.Fatal(name, err, resp)
	}
	return conn
}

func (w *watchers) watch(name string, conn *websocket.Conn) {
	w.names = append(w.names, name)
	go func() {
		for {
			_, _, err := conn.ReadMessage()
			var end *websocket.CloseError
			if errors.As(err, &end) {
				w.ended <- fmt.Sprintf("%s %d %s", name, end.Code, end.Text)
			}
			if err != nil {
				conn.Close()
				return
			}
		}
	}()
}

// end waits for all of them, and wants each to have been told why.
func (w *watchers) end() {
	w.t.Helper()
	for range w.names {
		select {
		case got := <-w.ended:
			poll := strings.Contains(got, "poll 401 ") && strings.Contains(got, `"code":"unauthenticated"`)
			if !poll && !strings.Contains(got, `{"event":"end","code":"unauthenticated"}`) && !strings.HasSuffix(got, " 4401 unauthenticated") {
				w.t.Errorf("%s", got)
			}
		case <-time.After(20 * time.Second):
			w.t.Fatal("they go on without a key")
		}
	}
	w.names = nil
}

// A browser's token opens what it is for, in the URL and as subprotocol; at its end, and at that of its key, streams,
// WebSockets and polls that wait are told so (row X7). It is not logged.
func TestTokensOfBrowsers(t *testing.T) {
	t.Parallel()
	g := runGuarded(t, "shop")
	whole := g.token(t, "shop", `{"op":"sub","app":"shop","topic":"orders","ver":"v1","ttl":"1h"}`)
	short := g.token(t, "shop", `{"op":"sub","app":"shop","topic":"orders","ver":"v1","group":"g","ttl":"2s"}`)
	write := g.token(t, "shop", `{"op":"pub","app":"shop","topic":"orders","ver":"v1","ttl":"10m"}`)
	w := &watchers{guarded: g, t: t, ended: make(chan string, 8)}
	// Those that end by time.
	w.read("lines", "/v1/stream/shop/orders/v1?group=g&access_token="+short, "application/x-ndjson")
	w.socket("socket", "/v1/ws/msgs/shop/orders/v1?group=g", "bearer."+short)
	w.poll("poll", "/v1/msgs/shop/orders/v1?group=g&access_token="+short)
	w.end()
	// Those that end with the key.
	w.read("events", "/v1/stream/shop/orders/v1?access_token="+whole, "text/event-stream")
	w.socket("broadcast", "/v1/ws/msgs/shop/orders/v1?access_token="+whole)
	pub := w.dial("publisher", "/v1/ws/pub/orders/v1", "bearer."+write)
	if err := pub.WriteMessage(websocket.TextMessage, []byte("by a browser")); err != nil {
		t.Fatal(err)
	}
	if _, answer, err := pub.ReadMessage(); err != nil { // what is stored later, the poll for the newest would get
		t.Fatal(string(answer), err)
	}
	w.watch("publisher", pub)
	resp, body := g.send(t, false, Pub, "POST", "/v1/msgs/orders/v1?access_token="+write, "x")
	if resp.StatusCode != 201 {
		t.Error(resp.Status, body)
	}
	w.poll("cursor poll", "/v1/msgs/shop/orders/v1?cursor=&reset=newest&access_token="+whole)
	g.refuseTokens(t, whole, write)
	put(t, g.running, &meta.App{Name: "shop", Class: meta.ClassStandard})
	w.end()
	for name, secret := range map[string]string{"a token": whole, "a short token": short, "a token to publish": write, "a key": g.keys["shop"]} {
		_, part, _ := strings.Cut(secret, ".")
		if log := g.logged.String(); strings.Contains(log, part[:20]) {
			t.Errorf("%s was logged", name)
		}
	}
}

// refuseTokens shows tokens where they are good for nothing: one to read without a group, and one to publish.
func (g *guarded) refuseTokens(t *testing.T, whole, write string) {
	t.Helper()
	for name, path := range map[string]string{
		"another use": "/v1/msgs/shop/orders/v1?group=g&wait=0s&access_token=" + write, "a group": "/v1/msgs/shop/orders/v1?group=g&wait=0s&access_token=" + whole,
	} {
		if resp, body := g.send(t, false, Pub, "GET", path, ""); resp.StatusCode != 403 {
			t.Errorf("%s: %s %s", name, resp.Status, body)
		}
	}
	for name, c := range map[string]struct{ path, head string }{
		"a key":        {"/v1/msgs/shop/orders/v1?group=g&wait=0s&access_token=" + g.keys["shop"], "A: b"},
		"one changed":  {"/v1/msgs/shop/orders/v1?cursor=&wait=0s&access_token=" + whole[:len(whole)-3] + "AAA", "A: b"},
		"on man":       {"/v1/apps?access_token=" + whole, "A: b"},
		"as its admin": {"/v1/apps", "Authorization: Bearer " + whole},
	} {
		role := Pub
		if strings.Contains(c.path, "/v1/apps") {
			role = Man
		}
		if resp, body := g.send(t, false, role, "GET", c.path, "", c.head); resp.StatusCode != 401 {
			t.Errorf("%s: %s %s", name, resp.Status, body)
		}
	}
	for _, twice := range []string{"&access_token=" + whole, "&access_token="} {
		if resp, body := g.send(t, false, Pub, "GET", "/v1/msgs/shop/orders/v1?cursor=&wait=0s&access_token="+whole+twice, ""); resp.StatusCode != 400 {
			t.Errorf("twice: %s %s", resp.Status, body)
		}
	}
	if resp, body := g.send(t, false, Pub, "GET", "/v1/msgs/shop/orders/v1?cursor=&wait=0s&access_token="+whole, "", "Origin: https://evil.example"); resp.StatusCode != 403 {
		t.Errorf("a page of another origin: %s %s", resp.Status, body)
	}
}

// Tokens are asked for rightly or not at all.
func TestAskingForTokens(t *testing.T) {
	g := runGuarded(t, "shop", "bill")
	for body, want := range map[string]errs.Kind{
		``:   errs.InvalidBody,
		`{}`: errs.InvalidName,
		`{"op":"sub","app":"shop","topic":"orders","ver":"v1"} x`:                                         errs.InvalidBody,
		`{"op":"sub","app":"shop","topic":"orders","ver":"v1","scope":"all"}`:                             errs.InvalidBody,
		`{"op":"all","app":"shop","topic":"orders","ver":"v1"}`:                                           errs.InvalidBody,
		`{"op":"pub","app":"shop","topic":"orders","ver":"v1","group":"g"}`:                               errs.InvalidBody,
		`{"op":"sub","app":"shop","topic":"orders","ver":"v1","group":"a.b"}`:                             errs.InvalidName,
		`{"op":"sub","app":"shop","topic":"or.ders","ver":"v1"}`:                                          errs.InvalidName,
		`{"op":"sub","app":"shop","topic":"orders","ver":"v1","ttl":"61m"}`:                               errs.InvalidBody,
		`{"op":"sub","app":"shop","topic":"orders","ver":"v1","ttl":"0s"}`:                                errs.InvalidBody,
		`{"op":"sub","app":"shop","topic":"orders","ver":"v1","ttl":"-1m"}`:                               errs.InvalidBody,
		`{"op":"sub","app":"shop","topic":"orders","ver":"v1","ttl":600}`:                                 errs.InvalidBody,
		`{"op":"sub","app":"shop","topic":"none","ver":"v1"}`:                                             errs.UnknownTopic,
		`{"op":"sub","app":"bill","topic":"orders","ver":"v1"}`:                                           errs.Denied,
		`{"op":"pub","app":"bill","topic":"orders","ver":"v1"}`:                                           errs.Denied,
		`{"op":"sub","app":"shop","topic":"orders","ver":"v1","ttl":"` + strings.Repeat("1", 5000) + `"}`: errs.TooLarge,
	} {
		resp, text := g.send(t, false, Pub, "POST", "/v1/tokens", body, "Authorization: Bearer "+g.keys["shop"])
		checkCode(t, resp, text, want.Status(), want.Code())
		if want != errs.InvalidName {
			resp, text = g.send(t, false, Pub, "POST", "/v1/tokens", body)
			checkCode(t, resp, text, 401, "unauthenticated")
		}
	}
	open := start(t, nil)
	resp, text := open.ask(t, Pub, "POST", "/v1/tokens", withBody(`{"op":"sub","app":"shop","topic":"orders","ver":"v1"}`))
	checkCode(t, resp, text, 404, "not_found")
	resp, text = open.ask(t, Pub, "GET", "/v1/msgs/shop/orders/v1?group=g&access_token=x", nil)
	checkCode(t, resp, text, 400, "invalid_param")
}

// A token that is for one topic puts messages into no other, by a rule that sends them there neither; who shows a key may.
func TestTokenHoldsForRoutedMessages(t *testing.T) {
	t.Parallel()
	g := runGuardedWith(t, func(c *Config) {
		c.Plugins = []string{"auth", "transform"}
		c.PluginOptions = map[string]plugins.Options{"transform": plugins.ParseOptions(`
rules:
  - match: {topic: orders, direction: in}
    when: value.eu
    do: [{route: {topic: orders-eu}}]
`)}
	}, "shop")
	put(t, g.running, &meta.TopicRecord{App: "shop", Name: "orders-eu", Ver: "v1", Partitions: 1, MaxAttempts: 16})
	bound := "Authorization: Bearer " + g.token(t, "shop", `{"op":"pub","app":"shop","topic":"orders","ver":"v1"}`)
	key := "Authorization: Bearer " + g.keys["shop"]
	const path = "/v1/msgs/orders/v1"
	for _, k := range []struct {
		name, path, body, auth string
		status                 int
		want                   string
	}{
		{"key", path, `{"eu":true}`, key, 201, `"topic":"shop/orders-eu/v1"`},
		{"token, its topic", path, `{"eu":false}`, bound, 201, `{"partition":0,"offset":`},
		{"token, another", path, `{"eu":true}`, bound, 403, `"code":"denied"`},
		{"token, another in a batch", path + "?batch=lines", "{\"eu\":false}\n{\"eu\":true}", bound, 403, `"code":"denied"`},
		{"token, another later", path + "?async=1", `{"eu":true}`, bound, 403, `"code":"denied"`},
	} {
		for _, h2 := range []bool{false, true} {
			resp, body := g.send(t, h2, Pub, "POST", k.path, k.body, k.auth, "Content-Type: application/json")
			if resp.StatusCode != k.status || !strings.Contains(body, k.want) {
				t.Errorf("%s, h2 %v: %s %s", k.name, h2, resp.Status, body)
			}
		}
	}
	_, token, _ := strings.Cut(bound, "Bearer ")
	d := websocket.Dialer{Subprotocols: []string{"bearer." + token}}
	conn, resp, err := d.DialContext(t.Context(), "ws://"+g.Addr(Pub)+"/v1/ws/pub/orders/v1", nil)
	if err != nil {
		t.Fatal(err, resp)
	}
	defer conn.Close()
	for body, want := range map[string]string{`{"eu":true}`: `"code":"denied"`, `{"eu":false}`: `"partition":0`} {
		if err := conn.WriteMessage(websocket.BinaryMessage, []byte(body)); err != nil {
			t.Fatal(err)
		}
		if _, b, err := conn.ReadMessage(); err != nil || !strings.Contains(string(b), want) {
			t.Errorf("%s: %s, %v", body, b, err)
		}
	}
	if _, b := g.send(t, false, Pub, "GET", "/v1/msgs/shop/orders-eu/v1?cursor=&reset=oldest&batch=10", "", key); strings.Count(b, "\n") != 2 {
		t.Errorf("the other topic has %s", b)
	}
}
