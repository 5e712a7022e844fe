package test

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// probe is what is not asked in every way.
type probe struct {
	name string
	do   func(t *testing.T, p *public)
}

func probes() []probe {
	return []probe{
		{"P8 old TLS", oldTLS}, {"X7 expiry", tokensExpire}, {"X12 receipts", receiptsOfOthers}, {"X12 cursors", cursorsOfOthers}, {"X11 keys of retries", keysOfRetries},
		{"X13 X31 guesses", guesses}, {"X16 bodies", bodies}, {"X16 numbers", numbers}, {"X17 frames", frames}, {"X18 bombs", bombs}, {"X19 smuggling", smuggling},
		{"X20 X21 stored data", storedData}, {"X34 CORS", cors}, {"X35 X46 X47 X48 management", management}, {"X41 X42 quotas", quotas}, {"X43 series", series}, {"X44 filters", filters},
		{"X37 hostile values", hostile}, {"X38 canaries", canaries}, {"X39 audit", audited},
	}
}

// ask wants this verdict over HTTP/1.1 and HTTP/2, and answers what the latter was told.
func (c *caller) ask(t *testing.T, want, method, path, body string, head ...string) (resp *http.Response, got string) {
	t.Helper()
	if c.r != nil {
		head = append([]string{"Authorization: Bearer " + c.r.key}, head...)
	}
	for _, tr := range []*http.Transport{c.h1, c.h2} {
		var err error
		if resp, got, err = c.try(tr, method, c.p.pub+path, body, head...); err != nil {
			t.Fatalf("%s %s: %v", method, path, err)
		}
		if v := c.p.verdict(resp, got); v != want {
			t.Errorf("%.100s %.100s: %s %.200s; want %s", method, path, v, got, want)
		}
	}
	return resp, got
}

func oldTLS(t *testing.T, p *public) {
	c := p.caller(nil)
	addr := strings.TrimPrefix(p.pub, "https://")
	for name, change := range map[string]func(*tls.Config){
		"1.0": func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS10 },
		"1.1": func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 },
		"1.2 with CBC": func(c *tls.Config) {
			c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA}
		},
		"1.2 without forward secrecy": func(c *tls.Config) {
			c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_RSA_WITH_AES_128_GCM_SHA256}
		},
		"1.2": func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 },
		"1.3": func(c *tls.Config) { c.MinVersion = tls.VersionTLS13 },
	} {
		cfg := c.tls("h2")
		change(cfg)
		conn, err := (&tls.Dialer{NetDialer: c.dialer, Config: cfg}).DialContext(t.Context(), "tcp", addr)
		if (err == nil) != (name == "1.2" || name == "1.3") {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			conn.Close()
		}
	}
	if resp, err := (&http.Client{Timeout: patience}).Get("http://" + addr + "/alive"); err == nil {
		resp.Body.Close()
		if resp.StatusCode < 400 {
			t.Errorf("in clear text: %s", resp.Status)
		}
	}
}

// What a token opened ends at its exp, though requests have a leeway of 10 s.
func tokensExpire(t *testing.T, p *public) {
	r := p.tenants[1]
	c := p.caller(r)
	exp := time.Now().Add(2 * time.Second).Truncate(time.Second)
	head := []string{"Authorization: Bearer " + p.forge.make(r.app, shape{claims: map[string]any{"exp": exp.Unix()}})}
	ended := make(chan string, 4)
	read := func(tr *http.Transport, path string, more ...string) {
		go func() {
			_, body, err := c.try(tr, "GET", p.pub+path, "", append(more, head...)...)
			ended <- fmt.Sprint(path, " ", body, " ", err)
		}()
	}
	at := r.app + "/private/v1"
	read(c.h1, "/v1/msgs/"+at+"?group=x&wait=5m")
	read(c.h2, "/v1/stream/"+at+"?group=y&limit=9", "Accept: text/event-stream")
	read(c.h2, "/v1/stream/"+at+"?group=y&limit=9")
	conn, resp, err := c.socket("/v1/ws/msgs/"+at+"?group=z", head)
	if err != nil {
		t.Fatal(err, resp)
	}
	defer conn.Close()
	go func() {
		var err error
		for err == nil {
			_, _, err = conn.ReadMessage()
		}
		ended <- fmt.Sprint("socket ", err)
	}()
	for range 4 {
		select {
		case got := <-ended:
			if !strings.Contains(got, "unauthenticated") || strings.HasPrefix(got, "socket") && !strings.Contains(got, "4401") {
				t.Error(got)
			}
			if time.Now().Before(exp) {
				t.Errorf("before its exp: %s", got)
			}
		case <-time.After(time.Until(exp.Add(8 * time.Second))): // 3 s where the machine has nothing else to do
			t.Fatal("it goes on after the exp")
		}
	}
	c.h1.CloseIdleConnections()
}

// A receipt is its group's, its topic's and its delivery's, and whole.
func receiptsOfOthers(t *testing.T, p *public) {
	r, other := p.tenants[1], p.tenants[2]
	p.manage(http.StatusCreated, "PUT", "/v1/subscriptions/"+r.app+"/private/v1/"+other.app, map[string]any{})
	c, foreign := p.caller(r), p.caller(other)
	c.ask(t, in, "POST", "/v1/msgs/private/v1", "for receipts")
	path := "/v1/msgs/" + r.app + "/private/v1?group="
	take := func() string {
		resp, body, err := c.try(c.h2, "GET", p.pub+path+"receipts&ack=explicit&wait=5s", "", "Authorization: Bearer "+r.key)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatal(resp, body, err)
		}
		return resp.Header.Get("X-Receipt")
	}
	settle := func(c *caller, path, receipt string) int {
		resp, _, err := c.try(c.h2, "PUT", p.pub+path+"&op=ack", "", "Authorization: Bearer "+c.r.key, "X-Receipt: "+receipt)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode
	}
	receipt := take()
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	for i := range len(receipt) - 1 { // of the last character not all bits may count
		b := []byte(receipt)
		b[i] = alphabet[(strings.IndexByte(alphabet, b[i])+1)%len(alphabet)]
		if got := settle(c, path+"receipts", string(b)); got != http.StatusConflict {
			t.Errorf("changed at %d: %d", i, got)
		}
	}
	for name, got := range map[string]int{
		"another tenant's group of that name": settle(foreign, path+"receipts", receipt),
		"another group":                       settle(c, path+"others", receipt),
		"another topic":                       settle(c, "/v1/msgs/"+r.app+"/orders/v1?group=receipts", receipt),
		"another tenant's topic":              settle(foreign, "/v1/msgs/"+other.app+"/private/v1?group=receipts", receipt),
	} {
		if got != http.StatusConflict {
			t.Errorf("%s: %d", name, got)
		}
	}
	p.manage(http.StatusOK, "PUT", "/v1/groups/"+r.app+"/private/v1/receipts/offsets", map[string]any{"to": "oldest"}) // everybody lets go
	again := take()
	if got := settle(c, path+"receipts", receipt); got != http.StatusConflict || again == receipt {
		t.Errorf("the receipt from before: %d", got)
	}
	if got := settle(c, path+"receipts", again); got != http.StatusOK {
		t.Errorf("the owner's: %d", got)
	}
}

// A cursor says where to read in the topic that is asked for, whatever it was made for or was made of it.
func cursorsOfOthers(t *testing.T, p *public) {
	r, other := p.tenants[1], p.tenants[3]
	c, foreign := p.caller(r), p.caller(other)
	c.ask(t, in, "POST", "/v1/msgs/private/v1", "canary-of-the-owner")
	foreign.ask(t, in, "POST", "/v1/msgs/private/v1", "of the other")
	resp, _ := c.ask(t, in, "GET", "/v1/msgs/"+r.app+"/private/v1?cursor=&reset=oldest", "")
	cursor := resp.Header.Get("X-Cursor")
	if cursor == "" {
		t.Fatal(resp.Status)
	}
	for i := -1; i < len(cursor); i++ {
		b := []byte(cursor)
		if i >= 0 {
			b[i] ^= 1
		}
		for _, owner := range []string{r.app, other.app} {
			resp, body, err := foreign.try(foreign.h2, "GET", p.pub+"/v1/msgs/"+owner+"/private/v1?wait=0s&cursor="+strings.ToValidUTF8(string(b), "x"), "", "Authorization: Bearer "+other.key)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(body, "canary") || owner == r.app && resp.StatusCode != http.StatusForbidden && resp.StatusCode != http.StatusBadRequest {
				t.Errorf("%s of %s, changed at %d: %s %s", b, owner, i, resp.Status, body)
			}
		}
	}
}

// The same Idempotency-Key of two tenants is two keys.
func keysOfRetries(t *testing.T, p *public) {
	const key = "Idempotency-Key: one-for-all"
	for _, r := range p.tenants[:3] {
		c := p.caller(r)
		resp, _ := c.ask(t, in, "POST", "/v1/msgs/orders/v1", "of "+r.app, key)
		c.ask(t, "422 idempotency_mismatch", "POST", "/v1/msgs/orders/v1", "another", key)
		first := resp.Header.Get("X-Offset")
		_, body := c.ask(t, in, "GET", "/v1/msgs/"+r.app+"/orders/v1?partition=0&offset="+first, "")
		if body != "of "+r.app {
			t.Errorf("%s has %q", r.app, body)
		}
	}
}

// Who guesses is left out after a hundred, by whatever protocol and whoever he says to be, the right key or not; others are not.
func guesses(t *testing.T, p *public) {
	r := p.tenants[1]
	c := p.caller(r)
	guess := func(i int) string {
		resp, body, err := c.try([]*http.Transport{c.h1, c.h2}[i%2], "GET", p.pub+"/v1/msgs/"+r.app+"/orders/v1?group=g&wait=0s", "",
			fmt.Sprintf("Authorization: Bearer canary-guess%d", i), fmt.Sprintf("X-Forwarded-For: 127.0.0.1, 203.0.113.%d", i%256), "Forwarded: for=127.0.0.1")
		if err != nil {
			t.Fatal(err)
		}
		return p.verdict(resp, body)
	}
	n := 0
	for ; n < 1000 && guess(n) == "401 unauthenticated"; n++ {
	}
	if n < 100 || n == 1000 { // as many are forgiven a minute
		t.Errorf("the first that was refused unseen was guess %d", n+1)
	}
	right := &attempt{head: []string{"Authorization: Bearer KEY"}}
	for _, w := range ways() {
		if got, err := w.ask(c, right); got != "429 throttled" {
			t.Errorf("%s with the right key: %s, %v", w.name, got, err)
		}
	}
	p.caller(r).ask(t, in, "POST", "/v1/msgs/orders/v1", "x")
}

func cors(t *testing.T, p *public) {
	c := p.caller(nil)
	for origin, want := range map[string]string{p.origin: p.origin, "null": "", "https://evil.example": "", p.origin + ".evil.example": ""} {
		for _, tr := range []*http.Transport{c.h1, c.h2} {
			resp, _, err := c.try(tr, "OPTIONS", p.pub+"/v1/msgs/orders/v1", "", "Origin: "+origin, "Access-Control-Request-Method: POST", "Access-Control-Request-Headers: authorization")
			if err != nil {
				t.Fatal(err)
			}
			if h := resp.Header; h.Get("Access-Control-Allow-Origin") != want || h.Get("Access-Control-Allow-Credentials") != "" || (resp.StatusCode == http.StatusNoContent) != (want != "") {
				t.Errorf("%s: %s %v", origin, resp.Status, h)
			}
		}
	}
}

// Nothing of the operator's is served to the public, and to tenants not where it is.
func management(t *testing.T, p *public) {
	r := p.tenants[1]
	c, man := p.caller(nil), p.caller(nil)
	paths := []string{
		"/metrics", "/debug/pprof/", "/debug/pprof/heap", "/debug/vars", "/v1/apps", "/v1/apps/" + r.app, "/v1/apps/tenant0/keys", "/v1/status", "/v1/options", "/v1/clients", "/v1/adminkeys",
		"/v1/topics/tenant0/orders/v1/schema", "/v1/groups/tenant0/orders/v1", "/v1/groups/tenant0/orders/v1/g", "/v1/dead/tenant0/orders/v1/g", "/v1/peek/tenant0/orders/v1", "/v1/subscriptions", "/v1/gateways", "/v1/clusters",
	}
	for i, path := range paths {
		for _, head := range []string{"A: b", "Authorization: Bearer " + r.key, "Authorization: Bearer " + p.admin} {
			resp, body, err := c.try([]*http.Transport{c.h1, c.h2}[i%2], "GET", p.pub+path, "", head)
			if err != nil || p.verdict(resp, body) != "404 not_found" {
				t.Errorf("%s on the public address: %v %s, %v", path, resp, body, err)
			}
			resp, body, err = man.try(man.h2, "GET", p.man+path, "", head)
			if known := strings.HasSuffix(head, p.admin) || path == "/debug/vars"; err != nil || !known && p.verdict(resp, body) != "401 unauthenticated" {
				t.Errorf("%s on the operator's: %v %s, %v", path, resp, body, err)
			}
		}
	}
	for _, method := range []string{"TRACE", "PATCH", "PROPFIND", "DELETE"} {
		c := p.caller(r)
		c.ask(t, "405 method_not_allowed", method, "/v1/msgs/"+r.app+"/orders/v1", "", "X-HTTP-Method-Override: GET")
	}
	for path, body := range map[string]map[string]any{
		"/v1/apps":                    {"app": "mass", "role": "admin"},
		"/v1/topics":                  {"app": r.app, "topic": "mass", "ver": "v1", "sasl.jaas.config": "com.sun.security.auth.module.JndiLoginModule"},
		"/v1/apps/" + r.app + "/keys": {"use": "both", "id": "chosen"},
		"/v1/clusters":                {"cluster": "west", "brokers": []string{"192.0.2.1:9092"}, "tls_key": "/etc/passwd"},
	} {
		p.manage(http.StatusBadRequest, "POST", path, body)
	}
}

// Rates and numbers are counted over all protocols together, and one tenant's are not another's.
func quotas(t *testing.T, p *public) {
	slow := p.rent("slow", map[string]any{"requests_per_second": 5})
	few := p.rent("few", map[string]any{"streams": 1})
	c := p.caller(slow)
	key := &attempt{head: []string{"Authorization: Bearer KEY"}}
	begun, let := time.Now(), 0
	var verdicts []string
	for range 3 {
		for _, w := range ways() {
			got, err := w.ask(c, key)
			if err != nil {
				t.Fatal(err)
			}
			if got == in {
				let++
			} else {
				verdicts = append(verdicts, got)
			}
		}
	}
	if most := 5 + 5*int(time.Since(begun).Seconds()+1); let < 5 || let > most {
		t.Errorf("%d were let in within %v", let, time.Since(begun))
	}
	if slices.ContainsFunc(verdicts, func(v string) bool { return v != "429 throttled" }) || len(verdicts) == 0 {
		t.Error(verdicts)
	}
	p.caller(p.tenants[1]).ask(t, in, "POST", "/v1/msgs/orders/v1", "x")
	d := p.caller(few)
	conn, resp, err := d.socket("/v1/ws/msgs/few/orders/v1?group=g", []string{"Authorization: Bearer " + few.key})
	if err != nil {
		t.Fatal(err, resp)
	}
	defer conn.Close()
	for _, w := range ways() {
		want := in
		if strings.HasPrefix(w.name, "stream") || strings.HasPrefix(w.name, "events") || strings.HasPrefix(w.name, "WebSocket") {
			want = "429 throttled"
		}
		if got, err := w.ask(d, key); got != want {
			t.Errorf("%s beside a stream: %s, %v; want %s", w.name, got, err, want)
		}
	}
}

// Names that somebody makes up are no series of a metric.
func series(t *testing.T, p *public) {
	count := func() int { return strings.Count(p.manage(http.StatusOK, "GET", "/metrics", nil), "\n") }
	before := count()
	for i := range 80 {
		c := p.caller(p.tenants[2+i%6])
		for _, path := range []string{fmt.Sprintf("/v1/msgs/made-up%d/v1", i), fmt.Sprintf("/v1/made%d/up", i)} {
			resp, body, err := c.try(c.h2, "POST", p.pub+path, "x", "Authorization: Bearer "+c.r.key)
			if err != nil || !strings.HasPrefix(p.verdict(resp, body), "404") {
				t.Error(resp, body, err)
			}
		}
		c.h2.CloseIdleConnections()
	}
	if grown := count() - before; grown > 40 {
		t.Errorf("%d lines more", grown)
	}
}

// A filter is bounded in size, and refused before anything is read.
func filters(t *testing.T, p *public) {
	c := p.caller(p.tenants[1])
	for _, filter := range []string{
		strings.Repeat("key==%22a%22%7C%7C", 1000) + "true", strings.Repeat("(", 500) + "true" + strings.Repeat(")", 500), "key.matches(%22(%22)", "1", "key",
	} {
		c.ask(t, "400 invalid_param", "GET", "/v1/msgs/"+c.r.app+"/orders/v1?group=f&wait=0s&filter="+filter, "")
	}
}
