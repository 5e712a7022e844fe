package gateway

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/store/mem"
)

// guarded is a gateway with auth and apps that have a key for everything.
type guarded struct {
	*running
	keys map[string]string
	h2   *http.Transport // HTTP/2 in clear text
}

// runGuarded runs one. Each app has a topic orders v1; what else it has the test says.
func runGuarded(t *testing.T, apps ...string) *guarded {
	t.Helper()
	return runGuardedWith(t, nil, apps...)
}

// runGuardedWith runs one whose configuration is another.
func runGuardedWith(t *testing.T, change func(*Config), apps ...string) *guarded {
	t.Helper()
	cfg := testConfig(t)
	cfg.Plugins = []string{"auth"}
	if change != nil {
		change(&cfg)
	}
	g := &guarded{running: startWith(t, mem.New(), cfg, Deps{AdminKey: "admin-key-of-the-test-0123456789"}), keys: map[string]string{}}
	tenants(t, g.running, apps...)
	for _, app := range apps {
		id, secret, hash := meta.NewSecret()
		put(t, g.running, &meta.App{Name: app, Class: meta.ClassStandard, Keys: []meta.Key{{KeyID: id, Use: meta.UseBoth, Hash: hash}}})
		g.keys[app] = secret
	}
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	g.h2 = &http.Transport{Protocols: p}
	t.Cleanup(g.h2.CloseIdleConnections)
	return g
}

// send sends a request over HTTP/1.1 or 2; a header is "Name: value". The answer has its body read, but for a stream's.
func (g *guarded) send(t *testing.T, h2 bool, role Role, method, path, body string, head ...string) (*http.Response, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, g.url(role)+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body == "" {
		req.Body, req.ContentLength = http.NoBody, 0
	}
	for _, line := range head {
		name, value, _ := strings.Cut(line, ": ")
		req.Header.Add(name, value)
	}
	tr := g.client.Transport
	if h2 {
		tr = g.h2
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == 101 || resp.StatusCode == 200 && strings.HasPrefix(path, "/v1/stream") { // it has no end
		return resp, ""
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

func upgrade() []string {
	return []string{"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: " + base64.StdEncoding.EncodeToString(make([]byte, 16))}
}

// wrongOnes are credentials that are none.
func wrongOnes(g *guarded) map[string][]string {
	key := g.keys["shop"]
	return map[string][]string{
		"nothing":          nil,
		"a claim":          {"Appid: shop"},
		"a wrong key":      {"Appid: shop", "Pubkey: " + key + "x", "Subkey: " + key + "x"},
		"bearer, wrong":    {"Authorization: Bearer " + key[:len(key)-3]},
		"bearer, empty":    {"Authorization: Bearer "},
		"basic, wrong":     {"Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("shop:"+key+"x"))},
		"unsigned":         {"Authorization: Bearer eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJzdWIiOiJzaG9wIn0."},
		"another scheme":   {"Authorization: Digest " + key},
		"the admin's name": {"Authorization: Bearer admin"},
	}
}

// Row X9: on every route and method of every role who shows nothing good is 401, over HTTP/1.1, HTTP/2 and as upgrade, but for
// what is listed here. Row X46: a method that a route does not have is 405, whatever headers say; TRACE and CONNECT too.
func TestEveryRouteAsksWhoCalls(t *testing.T) {
	t.Parallel()
	g := runGuarded(t, "shop")
	free := []string{"GET /alive", "GET /ready", "GET /openapi.json", "HEAD /alive", "HEAD /ready", "HEAD /openapi.json"}
	methods := []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"}
	fill := strings.NewReplacer(":app", "shop", ":topic", "orders", ":ver", "v1", ":group", "g", ":id", "x", ":name", "log_level", ":subscriber", "shop", ":cluster", "default")
	routes := map[Role]map[string][]string{}
	for role, list := range g.Routes() {
		for _, on := range []Role{Pub, Man} {
			if role == "" || role == on || role == Sub && on == Pub {
				for _, r := range list {
					if routes[on] == nil {
						routes[on] = map[string][]string{}
					}
					path := fill.Replace(r.Path)
					routes[on][path] = append(routes[on][path], r.Method)
				}
			}
		}
	}
	routes[Man]["/debug/pprof/heap"] = []string{"GET"}
	wrong := wrongOnes(g)
	asked := 0
	for role, paths := range routes {
		for path, declared := range paths {
			for _, method := range methods {
				for name, head := range wrong {
					for _, h2 := range []bool{false, true} {
						heads := [][]string{head}
						if !h2 && method == "GET" {
							heads = append(heads, append(upgrade(), head...))
						}
						for _, head := range heads {
							head = append(slices.Clone(head), "X-HTTP-Method-Override: GET", "X-Method-Override: DELETE")
							resp, body := g.send(t, h2, role, method, path+"?group=g", "", head...)
							want := 401
							switch {
							case slices.Contains(free, method+" "+path):
								want = resp.StatusCode
							case !slices.Contains(declared, method):
								want = 405
							}
							if asked++; resp.StatusCode != want || want == 401 && resp.Header.Get("WWW-Authenticate") == "" {
								t.Errorf("%s %s, h2 %v, %s: %s %s; want %d", method, path, h2, name, resp.Status, body, want)
							}
						}
					}
				}
			}
		}
	}
	if asked < 1000 {
		t.Errorf("only %d were asked", asked)
	}
	if len(g.cluster.meta.Snapshot().App("shop").Keys) != 1 {
		t.Error("somebody was let in")
	}
}

// CONNECT has no path; net/http's client does not send it so.
func TestConnectIsRefused(t *testing.T) {
	g := runGuarded(t, "shop")
	for _, role := range []Role{Pub, Man} {
		for _, line := range []string{"CONNECT 192.0.2.1:80 HTTP/1.1", "TRACE /v1/msgs/shop/orders/v1?group=g HTTP/1.1"} {
			conn, err := net.Dial("tcp", g.Addr(role))
			if err != nil {
				t.Fatal(err)
			}
			_, _ = fmt.Fprintf(conn, "%s\r\nHost: %s\r\nAuthorization: Bearer %s\r\nConnection: close\r\n\r\n", line, g.Addr(role), g.keys["shop"])
			b, _ := io.ReadAll(conn)
			conn.Close()
			if !strings.HasPrefix(string(b), "HTTP/1.1 405 ") && !strings.HasPrefix(string(b), "HTTP/1.1 404 ") || strings.Contains(string(b), g.keys["shop"]) {
				t.Errorf("%s: %.200s", line, b)
			}
		}
	}
}

// asking is a way to ask for the messages of a topic, or to change something about them.
type asking struct {
	name, method, path, body string
	head                     []string
	ok                       int // when it is let in
}

func askings() []asking {
	return []asking{
		{"poll", "GET", "/v1/msgs/OWNER/TOPIC/v1?group=g&wait=0s", "", nil, 204},
		{"poll that acks", "GET", "/v1/msgs/OWNER/TOPIC/v1?group=g&wait=0s&ack=explicit", "", []string{"X-Receipt: abcd"}, 204},
		{"poll of many", "GET", "/v1/msgs/OWNER/TOPIC/v1?group=g&wait=0s&batch=10", "", nil, 204},
		{"dead queue", "GET", "/v1/msgs/OWNER/TOPIC/v1?group=g&wait=0s&q=dead", "", nil, 204},
		{"retry queue", "GET", "/v1/msgs/OWNER/TOPIC/v1?group=g&wait=0s&q=retry", "", nil, 204},
		{"cursor", "GET", "/v1/msgs/OWNER/TOPIC/v1?cursor=&wait=0s", "", nil, 204},
		{"offset", "GET", "/v1/msgs/OWNER/TOPIC/v1?partition=0&offset=0&wait=0s", "", nil, 204},
		{"stream", "GET", "/v1/stream/OWNER/TOPIC/v1?group=g", "", nil, 200},
		{"text", "GET", "/v1/stream/OWNER/TOPIC/v1?group=g", "", []string{"Accept: text/plain"}, 200},
		{"events", "GET", "/v1/stream/OWNER/TOPIC/v1?group=g", "", []string{"Accept: text/event-stream"}, 200},
		{"broadcast", "GET", "/v1/stream/OWNER/TOPIC/v1", "", []string{"Accept: text/event-stream"}, 200},
		{"broadcast again", "GET", "/v1/stream/OWNER/TOPIC/v1", "", []string{"Accept: text/event-stream", "Last-Event-ID: x"}, 400},
		{"several", "GET", "/v1/stream?topic=OWNER/TOPIC/v1&group=g", "", nil, 200},
		{"own and other", "GET", "/v1/stream?topic=CALLER/orders/v1&topic=OWNER/TOPIC/v1&group=g", "", nil, 200},
		{"settle", "PUT", "/v1/msgs/OWNER/TOPIC/v1?group=g", `[{"receipt":"abcd","op":"ack"}]`, nil, 409},
		{"settle one", "PUT", "/v1/msgs/OWNER/TOPIC/v1?group=g&op=ack", "", []string{"X-Receipt: abcd"}, 409},
		{"offsets", "PUT", "/v1/offsets/OWNER/TOPIC/v1/g", `[{"partition":0,"offset":0}]`, nil, 409},
		{"token", "POST", "/v1/tokens", `{"op":"sub","app":"OWNER","topic":"TOPIC","ver":"v1","group":"g"}`, nil, 201},
		{"token to publish", "POST", "/v1/tokens", `{"op":"pub","app":"OWNER","topic":"TOPIC","ver":"v1"}`, nil, 201},
		{"socket", "GET", "/v1/ws/msgs/OWNER/TOPIC/v1?group=g", "", upgrade(), 101},
		{"socket that acks", "GET", "/v1/ws/msgs/OWNER/TOPIC/v1?group=g&ack=explicit", "", upgrade(), 101},
		{"dead queue over a socket", "GET", "/v1/ws/msgs/OWNER/TOPIC/v1?group=g&q=dead", "", upgrade(), 101},
		{"broadcast over a socket", "GET", "/v1/ws/msgs/OWNER/TOPIC/v1", "", upgrade(), 101},
	}
}

// Row X11: three tenants, every operation on everything of the others, over HTTP/1.1, HTTP/2 and WebSockets: what exists and
// what does not answer the same, to the byte, but for the names that the asker has sent. A grant opens one thing and nothing else.
func TestTenantsSeeNothingOfEachOther(t *testing.T) {
	t.Parallel()
	g := runGuarded(t, "shop", "bill", "audit")
	put(t, g.running, &meta.Subscription{App: "shop", Name: "orders", Ver: "v1", Subscriber: "bill", Groups: []string{"g"}})
	put(t, g.running, &meta.TopicRecord{App: "shop", Name: "private", Ver: "v1", Partitions: 1, MaxAttempts: 16})
	for _, app := range []string{"shop", "bill", "audit"} { // so that there is something
		if resp, body := g.send(t, false, Pub, "POST", "/v1/msgs/orders/v1", "x", "Authorization: Bearer "+g.keys[app]); resp.StatusCode != 201 {
			t.Fatal(resp.Status, body)
		}
	}
	for _, caller := range []string{"shop", "bill", "audit"} {
		for _, owner := range []string{"shop", "bill", "audit"} {
			if caller == owner {
				continue
			}
			for _, k := range askings() {
				for _, h2 := range k.protocols() {
					g.checkForeign(t, h2, k, caller, owner)
				}
			}
		}
	}
	for _, k := range askings() { // and each sees its own
		for _, h2 := range k.protocols() {
			if got := g.shape(t, h2, k, "shop", "shop", "orders"); strings.HasPrefix(got, "403") || strings.HasPrefix(got, "401") {
				t.Errorf("%s of its own, h2 %v: %s", k.name, h2, got)
			}
		}
	}
}

// protocols are those that it can be asked over, as whether it is HTTP/2: a WebSocket begins over HTTP/1.1.
func (k *asking) protocols() []bool {
	if k.ok == http.StatusSwitchingProtocols {
		return []bool{false}
	}
	return []bool{false, true}
}

// checkForeign asks for what is another's. Of all that there is bill has one grant.
func (g *guarded) checkForeign(t *testing.T, h2 bool, k asking, caller, owner string) {
	t.Helper()
	granted := caller == "bill" && owner == "shop" && grantedGroup(k) && k.name != "token to publish"
	absent := g.shape(t, h2, k, caller, "nobody", "nothing")
	for _, topic := range []string{"nothing", "private", "orders"} {
		got := g.shape(t, h2, k, caller, owner, topic)
		switch {
		case granted && topic == "orders":
			if strings.HasPrefix(got, "403") || strings.HasPrefix(got, "401") {
				t.Errorf("%s of %s by %s, which is granted, h2 %v: %s", k.name, owner, caller, h2, got)
			}
		case got != absent || !strings.HasPrefix(got, "403 "):
			t.Errorf("%s of %s's %s by %s, h2 %v:\n%s\nbut of what is not there:\n%s", k.name, owner, topic, caller, h2, got, absent)
		}
	}
}

// grantedGroup reports whether it asks as the group g.
func grantedGroup(k asking) bool {
	return strings.Contains(k.path, "group=g") || strings.Contains(k.path, "/v1/g") || strings.Contains(k.body, `"group":"g"`)
}

// shape is an answer without what is of this one alone: names that were asked for, ids, time.
func (g *guarded) shape(t *testing.T, h2 bool, k asking, caller, owner, topic string) string {
	t.Helper()
	fill := strings.NewReplacer("OWNER", owner, "TOPIC", topic, "CALLER", caller)
	head := append(slices.Clone(k.head), "Authorization: Bearer "+g.keys[caller])
	resp, body := g.send(t, h2, Pub, k.method, fill.Replace(k.path), fill.Replace(k.body), head...)
	names := strings.NewReplacer(owner+"/"+topic, "OWNER/TOPIC", owner+"."+topic, "OWNER.TOPIC")
	var b strings.Builder
	_, _ = fmt.Fprintf(&b, "%s %s", resp.Status, names.Replace(body))
	var list []string
	for name := range resp.Header {
		if name != "Date" && name != "X-Request-Id" && name != "Content-Length" {
			list = append(list, name+": "+resp.Header.Get(name))
		}
	}
	slices.Sort(list)
	return b.String() + strings.Join(list, "\n")
}

// Row X10: the same credentials have the same verdict in every form and over every protocol.
func TestSameVerdictEverywhere(t *testing.T) {
	t.Parallel()
	g := runGuarded(t, "shop", "bill")
	for _, k := range askings() {
		if k.name == "own and other" { // of one and the same
			continue
		}
		for _, h2 := range k.protocols() {
			for _, c := range []struct {
				name string
				head []string
				want func(status int) bool
			}{
				{"its own key", []string{"Authorization: Bearer " + g.keys["shop"]}, func(s int) bool { return s == k.ok || k.ok == 204 && s == 200 }},
				{"basic", []string{"Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("shop:"+g.keys["shop"]))}, func(s int) bool { return s == k.ok || k.ok == 204 && s == 200 }},
				{"nothing", nil, func(s int) bool { return s == 401 }},
				{"a wrong one", []string{"Authorization: Bearer " + g.keys["shop"] + "x"}, func(s int) bool { return s == 401 }},
				{"another's", []string{"Authorization: Bearer " + g.keys["bill"]}, func(s int) bool { return s == 403 }},
				{"another's claim", []string{"Appid: bill", "Authorization: Bearer " + g.keys["shop"]}, func(s int) bool { return s == 401 }},
				{"two", []string{"Subkey: " + g.keys["shop"], "Pubkey: " + g.keys["shop"], "Authorization: Bearer " + g.keys["shop"]}, func(s int) bool { return s == 400 }},
				{"twice", []string{"Authorization: Bearer " + g.keys["shop"], "Authorization: Bearer " + g.keys["shop"]}, func(s int) bool { return s == 400 }},
			} {
				fill := strings.NewReplacer("OWNER", "shop", "TOPIC", "orders", "CALLER", "shop")
				resp, body := g.send(t, h2, Pub, k.method, fill.Replace(k.path), fill.Replace(k.body), append(slices.Clone(k.head), c.head...)...)
				if !c.want(resp.StatusCode) {
					t.Errorf("%s, h2 %v, %s: %s %s", k.name, h2, c.name, resp.Status, body)
				}
			}
		}
	}
}

// Row X45: what must be given once and is given twice is 400, in the query, the headers and JSON.
func TestGivenTwice(t *testing.T) {
	t.Parallel()
	g := runGuarded(t, "shop")
	fill := strings.NewReplacer("OWNER", "shop", "TOPIC", "orders", "CALLER", "shop")
	own := "Authorization: Bearer " + g.keys["shop"]
	for _, k := range askings() {
		path, query, _ := strings.Cut(fill.Replace(k.path), "?")
		for _, part := range strings.Split(query, "&") {
			name, _, _ := strings.Cut(part, "=")
			if name == "" || name == "topic" {
				continue
			}
			if resp, body := g.send(t, false, Pub, k.method, path+"?"+query+"&"+part, fill.Replace(k.body), append(slices.Clone(k.head), own)...); resp.StatusCode != 400 {
				t.Errorf("%s with %s twice: %s %s", k.name, name, resp.Status, body)
			}
		}
		for _, name := range []string{"Appid", "Authorization"} {
			head := append(slices.Clone(k.head), own, "Appid: shop")
			for _, line := range head {
				if strings.HasPrefix(line, name+":") {
					head = append(head, line)
					break
				}
			}
			if resp, body := g.send(t, false, Pub, k.method, fill.Replace(k.path), fill.Replace(k.body), head...); resp.StatusCode != 400 {
				t.Errorf("%s with %s twice: %s %s", k.name, name, resp.Status, body)
			}
		}
	}
	admin := "Authorization: Bearer admin-key-of-the-test-0123456789"
	for _, c := range []struct {
		role               Role
		method, path, body string
		auth               string
	}{
		{Pub, "POST", "/v1/tokens", `{"op":"sub","op":"pub","app":"shop","topic":"orders","ver":"v1"}`, own},
		{Pub, "POST", "/v1/tokens", `{"op":"sub","app":"shop","topic":"orders","ver":"v1","ttl":"1s","ttl":"1h"}`, own},
		{Pub, "PUT", "/v1/msgs/shop/orders/v1?group=g", `[{"receipt":"a","receipt":"b","op":"ack"}]`, own},
		{Man, "POST", "/v1/apps", `{"app":"a","app":"b"}`, admin},
		{Man, "POST", "/v1/topics", `{"app":"shop","topic":"a","ver":"v1","ver":"v2"}`, admin},
	} {
		resp, body := g.send(t, false, c.role, c.method, c.path, c.body, c.auth, "Content-Type: application/json")
		if resp.StatusCode != 400 {
			t.Errorf("%s %s %s: %s %s", c.method, c.path, c.body, resp.Status, body)
		}
	}
}

// Rows X14, X15: names that try to be another's, a path, or an internal topic of Kafka or ours.
func TestNamesThatAreTricks(t *testing.T) {
	t.Parallel()
	g := runGuarded(t, "shop", "a", "bill")
	tricks := []string{
		"%2e", "%2e%2e", "%252e", "..%2f..%2fetc", "%2f", "a%2fb", "a.b", "%00", "orders%00", "orders%0a", "%0d%0aX: y", "orders%20", "%20orders",
		"оrders" /* the first letter is Cyrillic */, "orders%e2%80%8b", "%ff", strings.Repeat("x", 101), strings.Repeat("x", 5000), "a~b", "a+b", "a@b", "*", "%25",
		"orders.v1.bill.g.dead", "__consumer_offsets.x", "$", "%7e", "orders;x=y", "orders,bill", "a%5cb", "%c0%ae%c0%ae",
	}
	for _, trick := range tricks {
		for _, path := range []string{
			"/v1/msgs/" + trick + "/orders/v1?group=g&wait=0s", "/v1/msgs/shop/" + trick + "/v1?group=g&wait=0s", "/v1/msgs/shop/orders/" + trick + "?group=g&wait=0s",
			"/v1/msgs/shop/orders/v1?wait=0s&group=" + url.QueryEscape(trick), "/v1/stream/shop/" + trick + "/v1?group=g", "/v1/offsets/shop/orders/v1/" + trick,
			"/v1/stream?group=g&topic=shop/" + url.QueryEscape(trick) + "/v1",
		} {
			method := "GET"
			if strings.HasPrefix(path, "/v1/offsets") {
				method = "PUT"
			}
			resp, body := g.send(t, false, Pub, method, path, "", "Authorization: Bearer "+g.keys["shop"])
			if resp.StatusCode != 400 && resp.StatusCode != 404 && resp.StatusCode != 403 {
				t.Errorf("%s: %s %.200s", path, resp.Status, body)
			}
		}
		if resp, body := g.send(t, false, Pub, "POST", "/v1/msgs/"+trick+"/v1", "x", "Authorization: Bearer "+g.keys["shop"]); resp.StatusCode != 400 && resp.StatusCode != 404 {
			t.Errorf("publish to %s: %s %.200s", trick, resp.Status, body)
		}
	}
	admin := []string{"Authorization: Bearer admin-key-of-the-test-0123456789", "Content-Type: application/json"}
	for _, place := range []string{
		"__consumer_offsets", "__transaction_state", "__kateway", "__", "..", ".", "shop.orders.v1.bill.g.dead", "x.retry", "a/b", "a b", "a\\u0000b", "shop.orders.v1",
	} {
		body := `{"app":"bill","topic":"steal","ver":"v1","store_topic":"` + place + `"}`
		if resp, text := g.send(t, false, Man, "POST", "/v1/topics", body, admin...); resp.StatusCode < 400 || resp.StatusCode >= 500 {
			t.Errorf("store_topic %s: %s %s", place, resp.Status, text)
		}
	}
	for _, app := range []string{"__consumer_offsets", "a.b", "a/b", "..", "", "a_b"} {
		if resp, text := g.send(t, false, Man, "POST", "/v1/apps", `{"app":"`+app+`"}`, admin...); resp.StatusCode != 400 {
			t.Errorf("app %s: %s %s", app, resp.Status, text)
		}
	}
	entries := g.cluster.meta.Snapshot().Len(meta.KindTopic)
	if entries != 3 {
		t.Errorf("there are %d topics, of which 3 were made", entries)
	}
}

// Two topics never have the same name in the store, nor two groups: the parts of a name can't hold what stands between them.
func FuzzNamesDoNotCollide(f *testing.F) {
	f.Add("a", "b-c", "v1", "a-b", "c", "v1")
	f.Add("a.b", "c", "v1", "a", "b.c", "v1")
	f.Fuzz(func(t *testing.T, a1, t1, v1, a2, t2, v2 string) {
		x, err1 := meta.ParseTopic(a1, t1, v1)
		y, err2 := meta.ParseTopic(a2, t2, v2)
		if err1 != nil || err2 != nil || x == y {
			return
		}
		if x.Store() == y.Store() {
			t.Errorf("%v and %v are both %s", x, y, x.Store())
		}
	})
}

// Row X12: a receipt is of one tenant, topic and group, and of no other; changed in any character it is nobody's.
func TestReceiptsOfOthers(t *testing.T) {
	t.Parallel()
	g := runGuarded(t, "shop", "bill", "audit")
	for _, app := range []string{"bill", "audit"} {
		put(t, g.running, &meta.Subscription{App: "shop", Name: "orders", Ver: "v1", Subscriber: app})
	}
	as := func(app string) string { return "Authorization: Bearer " + g.keys[app] }
	for range 2 {
		g.send(t, false, Pub, "POST", "/v1/msgs/orders/v1", "x", as("shop"))
	}
	poll := "/v1/msgs/shop/orders/v1?ack=explicit&wait=2s&group="
	first, _ := g.send(t, false, Pub, "GET", poll+"g", "", as("bill"))
	receipt := first.Header.Get("X-Receipt")
	if receipt == "" {
		t.Fatal(first.Status)
	}
	_, _ = g.send(t, false, Pub, "GET", poll+"g", "", as("audit"))
	settle := func(app, group, receipt string) int {
		resp, _ := g.send(t, false, Pub, "PUT", "/v1/msgs/shop/orders/v1?op=ack&group="+group, "", as(app), "X-Receipt: "+receipt)
		return resp.StatusCode
	}
	for i := range receipt {
		b := []byte(receipt)
		if b[i]++; !strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", rune(b[i])) {
			b[i] = 'A'
		}
		if got := settle("bill", "g", string(b)); got == 200 && i < len(receipt)-1 { // of the last character not all bits may count
			t.Errorf("changed at %d it still acks", i)
		}
	}
	for _, other := range [][2]string{{"audit", "g"}, {"shop", "g"}, {"bill", "h"}} {
		if got := settle(other[0], other[1], receipt); got == 200 {
			t.Errorf("%s acks with it in group %s", other[0], other[1])
		}
	}
	if got := settle("bill", "g", receipt); got != 200 {
		t.Errorf("its owner: %d", got)
	}
}
