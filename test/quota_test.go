package test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// tenant publishes and notes what became of it.
type tenant struct {
	c     *client
	batch int // messages of a publish
	wg    sync.WaitGroup

	mu       sync.Mutex
	began    time.Time
	in       int // messages
	refused  int // publishes
	took     []time.Duration
	failures []string
}

func newTenant(c *client, batch int) *tenant { return &tenant{c: c, batch: batch, began: time.Now()} }

// run publishes every gap, from one connection, until stop is closed. A publish that comes late is not left out.
func (p *tenant) run(gap time.Duration, stop <-chan struct{}) {
	body, path := strings.Repeat("x\n", p.batch), "/v1/msgs/orders/v1?batch=lines"
	p.wg.Go(func() {
		t := time.NewTicker(gap)
		defer t.Stop()
		for {
			select {
			case <-stop:
				return
			case <-t.C:
			}
			began := time.Now()
			a, err := p.c.do("POST", path, strings.NewReader(body))
			p.note(a, err, time.Since(began))
		}
	})
}

func (p *tenant) note(a answer, err error, took time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case err != nil:
		p.failures = append(p.failures, err.Error())
	case a.StatusCode == http.StatusCreated:
		p.in += p.batch
		p.took = append(p.took, took)
	case a.StatusCode == http.StatusTooManyRequests:
		p.refused++
		if s, err := strconv.Atoi(a.Header.Get("Retry-After")); err != nil || s < 1 || a.Header.Get("RateLimit-Policy") == "" {
			p.failures = append(p.failures, fmt.Sprintf("%v, header %v", a, a.Header))
		}
	default:
		p.failures = append(p.failures, a.String())
	}
}

// so is what was let in so far, since when.
func (p *tenant) so() (in int, since time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.in, time.Since(p.began)
}

func (p *tenant) p99() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.took) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(p.took))
	return sorted[len(sorted)*99/100]
}

// A tenant that publishes fifty times what it may is held to that, and one that keeps to its quota does not feel it.
func TestAbusivePublisherIsConfined(t *testing.T) {
	const rate = 50
	g := launch(t, "--data", t.TempDir(), "--plugins", "quota")
	man := g.manager()
	for _, app := range []string{"greedy", "modest"} {
		man.send(http.StatusCreated, "POST", "/v1/apps", map[string]any{"app": app, "limits": map[string]any{"messages_per_second": rate}})
	}
	quiet := make(chan struct{})
	alone := newTenant(g.client("modest"), 1)
	alone.run(time.Second/rate, quiet)
	<-time.After(3 * time.Second)
	close(quiet)
	alone.wg.Wait()
	stop := make(chan struct{})
	greedy, modest := newTenant(g.client("greedy"), rate/2), newTenant(g.client("modest"), 1)
	for range 4 {
		greedy.run(4*10*time.Millisecond, stop) // 100 batches a second: 50 times the rate
	}
	modest.run(time.Second/rate, stop)
	<-time.After(6 * time.Second)
	close(stop)
	greedy.wg.Wait()
	modest.wg.Wait()
	in, took := greedy.so()
	t.Logf("greedy: %d let in, %d batches refused; modest: p99 %v, alone %v", in, greedy.refused, modest.p99(), alone.p99())
	if most := rate * (took.Seconds() + 1); float64(in) > most || in < 4*rate || greedy.refused == 0 {
		t.Errorf("%d messages of the greedy one were let in, of %.0f; %d batches were refused", in, most, greedy.refused)
	}
	if modest.refused+alone.refused > 0 {
		t.Errorf("the modest one was refused %d times", modest.refused+alone.refused)
	}
	if p := modest.p99(); p > 2*alone.p99()+250*time.Millisecond { // machines that test are noisy
		t.Errorf("the modest one waits for %v, alone for %v", p, alone.p99())
	}
	for _, p := range []*tenant{alone, modest, greedy} {
		if len(p.failures) > 0 {
			t.Errorf("%d failures, as %s", len(p.failures), p.failures[0])
		}
	}
}

// Three gateways keep a tenant's limit together, as if they were one; when one is killed the others have its share soon.
func TestFleetKeepsTheLimit(t *testing.T) {
	t.Parallel()
	const rate = 200
	f := newFleet(t, "--plugins", "quota")
	gateways := []*gateway{f.start("gw1"), f.start("gw2"), f.start("gw3")}
	agree(t, "gw1 gw2 gw3", gateways...)
	app := f.app
	gateways[0].manager().send(http.StatusCreated, "POST", "/v1/apps", map[string]any{"app": app, "limits": map[string]any{"messages_per_second": rate}})
	for _, g := range gateways {
		g.client(app).publish("orders", "", "first") // the topic is made
		waitFor(t, "the limit to be known", func() bool {
			a, err := g.client(app).do("POST", "/v1/msgs/orders/v1", strings.NewReader("x"))
			return err == nil && a.Header.Get("RateLimit-Policy") != ""
		})
		waitFor(t, "the others to be heard of", func() bool { return g.metric("kateway_quota_gateways") == 3 })
	}
	stop := make(chan struct{})
	end := sync.OnceFunc(func() { close(stop) })
	t.Cleanup(end)
	var all []*tenant
	for i, g := range gateways {
		p := newTenant(g.client(app), 10)
		all = append(all, p)
		for range 2 {
			p.run(time.Duration(10*(i+1))*time.Millisecond, stop) // 2000, 1000 and 667 messages a second
		}
	}
	letIn := func() (n int) {
		for _, p := range all {
			in, _ := p.so()
			n += in
		}
		return n
	}
	// during is how many a second were let in over a time.
	during := func(d time.Duration) float64 {
		before, began := letIn(), time.Now()
		<-time.After(d)
		return float64(letIn()-before) / time.Since(began).Seconds()
	}
	began := time.Now()
	<-time.After(4 * time.Second)
	// The figures to the token are those of the simulation (plugins/quota). On a machine whose gateways get no time to speak to
	// each other for a second or two there is slack; three gateways that each kept the whole limit would let in 3.
	if r := during(4 * time.Second); r < 0.5*rate {
		t.Errorf("%.0f messages a second are let in, of %d", r, rate)
	}
	n, took := letIn(), time.Since(began)
	t.Logf("%d let in in %v", n, took)
	if most := 2 * rate * took.Seconds(); float64(n) > most {
		t.Errorf("%d messages were let in, of %.0f at most", n, most)
	}
	gateways[0].kill()
	<-time.After(4 * time.Second)                                   // 3 s, and the others' own second
	if r := during(4 * time.Second); r < 0.5*rate || r > 1.8*rate { // two that did not share would let in 2
		t.Errorf("after the end of one gateway %.0f messages a second are let in, of %d", r, rate)
	}
	end()
	for i, p := range all {
		p.wg.Wait()
		if len(p.failures) > 0 && i > 0 {
			t.Errorf("gateway %d: %d failures, as %s", i+1, len(p.failures), p.failures[0])
		}
		if p.refused == 0 {
			t.Errorf("gateway %d has refused nothing", i+1)
		}
	}
}

// A tenant that has used up what may be under way at a time is refused, whatever it uses it up with, and another is not.
func TestTenantsExhaustOnlyTheirOwn(t *testing.T) {
	g := launch(t, "--data", t.TempDir(), "--plugins", "quota")
	man := g.manager()
	limits := map[string]any{"streams": 1, "groups": 1, "in_flight_bytes": 1000, "topics": 2, "connections": 4, "messages_per_second": 100}
	for _, app := range []string{"a", "b"} {
		man.send(http.StatusCreated, "POST", "/v1/apps", map[string]any{"app": app, "limits": limits})
	}
	a, b := g.client("a"), g.client("b")
	a.publish("orders", "", "1")
	a.publish("carts", "", "1")
	b.publish("orders", "", "1")
	exhausted := func(what string, do func(c *client) answer) {
		t.Helper()
		if got := do(a); got.StatusCode != http.StatusTooManyRequests || !strings.Contains(string(got.body), what) || got.Header.Get("Retry-After") == "" {
			t.Errorf("%s: %v, Retry-After %q", what, got, got.Header.Get("Retry-After"))
		}
		waitFor(t, "the other one to be served: "+what, func() bool { return do(b).StatusCode < 400 }) // its stream before may not be over
	}
	ask := func(method, path, body string, header ...string) func(c *client) answer {
		return func(c *client) answer {
			t.Helper()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			resp, err := c.open(ctx, method, strings.NewReplacer("APP", c.app, "NEW", map[string]string{"a": "h", "b": "g"}[c.app]).Replace(path), strings.NewReader(body), header...)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return answer{resp, nil} // a stream does not end
			}
			all, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			return answer{resp, all}
		}
	}
	a.stream("orders", "") // the group g
	exhausted("streams", ask("GET", "/v1/stream/APP/orders/v1?group=g", ""))
	exhausted("streams", ask("GET", "/v1/stream/APP/orders/v1", "", "Accept", "text/event-stream"))
	exhausted("groups", ask("GET", "/v1/msgs/APP/orders/v1?group=NEW", ""))
	if got := ask("POST", "/v1/msgs/third/v1", "x")(a); got.StatusCode != http.StatusForbidden {
		t.Errorf("a topic more than there may be: %v", got)
	}
	slow, err := net.Dial("tcp", strings.TrimPrefix(g.pub, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	fmt.Fprintf(slow, "POST /v1/msgs/orders/v1 HTTP/1.1\r\nHost: 127.0.0.1\r\nAppid: a\r\nContent-Length: 900\r\nExpect: 100-continue\r\n\r\n")
	from := bufio.NewReader(slow)
	if line, err := from.ReadString('\n'); err != nil || !strings.Contains(line, "100 Continue") { // it is let in, and its body asked for
		t.Fatalf("%q, %v", line, err)
	}
	small := ask("POST", "/v1/msgs/orders/v1", strings.Repeat("x", 200))
	exhausted("in_flight_bytes", small)
	fmt.Fprint(slow, strings.Repeat("y", 900))
	if _, err := from.ReadString('\n'); err != nil { // the end of the head of 100
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(from, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		t.Errorf("the slow publish: %s", resp.Status)
	}
	waitFor(t, "it to be over", func() bool { return small(a).StatusCode == http.StatusCreated })
}

// On a WebSocket each message is judged by itself, and the socket goes on.
func TestQuotaOfASocket(t *testing.T) {
	g := launch(t, "--data", t.TempDir(), "--plugins", "quota")
	g.manager().send(http.StatusCreated, "POST", "/v1/apps", map[string]any{"app": "a", "limits": map[string]any{"messages_per_second": 10}})
	conn, resp, err := websocket.DefaultDialer.Dial(strings.Replace(g.pub, "http", "ws", 1)+"/v1/ws/pub/orders/v1", http.Header{"Appid": {"a"}})
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	defer conn.Close()
	stored, throttled := 0, 0
	for range 40 {
		if err := conn.WriteMessage(websocket.TextMessage, []byte("x")); err != nil {
			t.Fatal(err)
		}
		var a struct {
			Offset *int64
			Error  struct{ Code string }
		}
		if err := conn.ReadJSON(&a); err != nil {
			t.Fatal(err)
		}
		switch {
		case a.Offset != nil:
			stored++
		case a.Error.Code == "throttled":
			throttled++
			<-time.After(20 * time.Millisecond)
		default:
			t.Errorf("%+v", a)
		}
	}
	if stored < 11 || throttled == 0 {
		t.Errorf("%d were stored, %d refused", stored, throttled)
	}
}
