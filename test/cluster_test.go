package test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kateway/kateway/internal/testkit"
	"github.com/kateway/kateway/internal/zk"
)

// Three gateways are one service: each publishes, streams of one group on all of them together get every message once,
// and every gateway tells the same of who lives and who is connected.
func TestThreeGatewaysAreOne(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	all := []*gateway{f.start("gw1"), f.start("gw2"), f.start("gw3")}
	agree(t, "gw1 gw2 gw3", all...)
	all[0].manager().send(http.StatusCreated, "POST", "/v1/topics", map[string]any{"app": f.app, "topic": "orders", "ver": "v1", "partitions": 6, "replicas": 1})
	var clients []*client
	for _, g := range all {
		clients = append(clients, g.client(f.app))
	}
	each := func() []*client { return clients }
	r := newReaders(t)
	for i := range all {
		r.run("orders", each, i)
	}
	l := newLoad(t)
	for i := range 3 {
		l.run(fmt.Sprint("p", i), "orders", each)
	}
	waitFor(t, "500 messages", func() bool { return l.count() > 500 })
	for _, g := range all {
		seen := map[string]int{}
		type online struct{ Gateway, Kind, App, Topic string }
		for _, c := range list[online](g.manager(), "/v1/clients") {
			if c.App == f.app && c.Topic == "orders" {
				seen[c.Gateway+" "+c.Kind]++
			}
		}
		for _, want := range []string{"gw1 pub", "gw2 pub", "gw3 pub", "gw1 stream", "gw2 stream", "gw3 stream"} {
			if seen[want] == 0 {
				t.Errorf("GET /v1/clients of one gateway lacks %s: %v", want, seen)
			}
		}
	}
	all[1].manager().send(http.StatusOK, "PUT", "/v1/options/log_level", map[string]any{"value": "info"})
	for _, g := range all {
		waitFor(t, "the option to reach every gateway", func() bool {
			a := g.manager().want(http.StatusOK, "GET", "/v1/options/log_level", nil)
			return decode[struct{ Value string }](t, a.body).Value == "info"
		})
	}
	l.end()
	if len(l.failed) > 0 {
		t.Errorf("%d publishes failed, the first: %s", len(l.failed), l.failed[0])
	}
	waitFor(t, "everything to be delivered", func() bool { return len(r.missing(l.stored)) == 0 })
	r.end()
	if twice := r.repeated(); len(twice) > 0 || len(r.errs) > 0 {
		t.Errorf("delivered more than once: %v; errors: %v", twice, r.errs)
	}
}

// Gateways come and go under load, by SIGTERM and by SIGKILL; nothing that was answered 201 is lost, and no publish to a
// gateway that stays fails.
func TestGatewaysComeAndGo(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	stays, goes := f.start("gw1"), f.start("gw2")
	stays.manager().send(http.StatusCreated, "POST", "/v1/topics", map[string]any{"app": f.app, "topic": "orders", "ver": "v1", "partitions": 6, "replicas": 1})
	l := newLoad(t)
	publisher := stays.client(f.app)
	l.run("p", "orders", func() []*client { return []*client{publisher} })
	r := newReaders(t)
	var live atomic.Pointer[[]*client]
	live.Store(&[]*client{stays.client(f.app), goes.client(f.app)})
	each := func() []*client { return *live.Load() }
	for i := range 3 {
		r.run("orders", each, i)
	}
	more := func(n int) {
		t.Helper()
		at := l.count()
		waitFor(t, "more messages", func() bool { return l.count() > at+n })
	}
	more(200)
	third := f.start("gw3") // joins
	agree(t, "gw1 gw2 gw3", stays, third)
	live.Store(&[]*client{stays.client(f.app), third.client(f.app)})
	r.run("orders", each, 1) // on the third
	more(200)
	goes.stop() // leaves in order
	agree(t, "gw1 gw3", stays, third)
	if twice := r.repeated(); len(twice) > 0 {
		t.Errorf("delivered more than once, though every gateway left in order: %v", twice)
	}
	waitFor(t, "a stream on the third", func() bool { return third.streams() > 0 })
	more(200)
	live.Store(&[]*client{stays.client(f.app)})
	third.kill()
	agree(t, "gw1", stays)
	more(200)
	l.end()
	if len(l.failed) > 0 {
		t.Errorf("%d publishes failed, the first: %s", len(l.failed), l.failed[0])
	}
	waitFor(t, "everything to be delivered", func() bool { return len(r.missing(l.stored)) == 0 })
	r.end()
	t.Logf("%d stored, %d delivered more than once", len(l.stored), len(r.repeated()))
}

// A group is moved while it has streams on two gateways: both let go, and everything comes once more, to streams that never
// ended. A group with clients can't be forgotten.
func TestSeekUnderClients(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	one, two := f.start("gw1"), f.start("gw2")
	agree(t, "gw1 gw2", one, two)
	man := one.manager()
	man.send(http.StatusCreated, "POST", "/v1/topics", map[string]any{"app": f.app, "topic": "orders", "ver": "v1", "partitions": 4, "replicas": 1})
	clients := []*client{one.client(f.app), two.client(f.app)}
	const n = 100
	for i := range n {
		clients[i%2].publish("orders", fmt.Sprint(i), fmt.Sprint(i))
	}
	streams := []*stream{clients[0].stream("orders", ""), clients[1].stream("orders", "")}
	var mu sync.Mutex
	seen := map[string]int{}
	for _, s := range streams {
		go func() {
			for line := range s.lines {
				var m message
				if json.Unmarshal(line, &m) == nil {
					mu.Lock()
					seen[m.text()]++
					mu.Unlock()
				}
			}
		}()
	}
	all := func(times int) func() bool {
		return func() bool {
			mu.Lock()
			defer mu.Unlock()
			for i := range n {
				if seen[fmt.Sprint(i)] < times {
					return false
				}
			}
			return true
		}
	}
	waitFor(t, "everything to be delivered", all(1))
	group := "/v1/groups/" + f.app + "/orders/v1/g"
	waitFor(t, "everything to be acked", func() bool {
		a := man.want(http.StatusOK, "GET", group, nil)
		v := decode[struct {
			Lag     int64
			Members []struct{ Clients int }
		}](t, a.body)
		clients := 0 // at the group's home, wherever they are connected
		for _, m := range v.Members {
			clients += m.Clients
		}
		return v.Lag == 0 && clients == 2
	})
	man.want(http.StatusConflict, "DELETE", group, nil)
	man.send(http.StatusOK, "PUT", group+"/offsets", map[string]any{"to": "oldest"})
	waitFor(t, "everything to be delivered again", all(2))
	mu.Lock()
	defer mu.Unlock()
	for v, times := range seen {
		if times != 2 {
			t.Errorf("%s was delivered %d times", v, times)
		}
	}
}

// outage is how long ZooKeeper is away: longer than a session lasts, or, KATEWAY_TEST_OUTAGE=5m, as long as you like.
func outage(t *testing.T) time.Duration {
	t.Helper()
	s := os.Getenv("KATEWAY_TEST_OUTAGE")
	if s == "" {
		return 12 * time.Second
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// All of ZooKeeper is away: publish and subscribe go on, changes are refused, and after its return the gateway is listed
// again. ZooKeeper is away for longer than a session lasts.
func TestZooKeeperIsAway(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	g, other := f.start("gw1"), f.start("gw2")
	agree(t, "gw1 gw2", g, other)
	man := g.manager()
	man.send(http.StatusCreated, "POST", "/v1/topics", map[string]any{"app": f.app, "topic": "orders", "ver": "v1", "partitions": 2, "replicas": 1})
	l := newLoad(t)
	clients := []*client{g.client(f.app), other.client(f.app)}
	l.run("p", "orders", func() []*client { return clients })
	r := newReaders(t)
	r.run("orders", func() []*client { return clients }, 0)
	f.zk.StopAll()
	waitFor(t, "/ready to tell of it", func() bool {
		status, parts, _ := g.health("pub")
		return status == http.StatusOK && parts["zookeeper"] != "ok"
	})
	away := time.Now()
	man.send(http.StatusServiceUnavailable, "POST", "/v1/apps", map[string]any{"app": "late"})
	if items := list[json.RawMessage](man, "/v1/topics?app="+f.app); len(items) != 1 {
		t.Errorf("topics while ZooKeeper is away: %s", items)
	}
	<-time.After(time.Until(away.Add(outage(t))))
	if err := f.zk.StartAll(); err != nil {
		t.Fatal(err)
	}
	back := time.Now()
	waitFor(t, "both to be listed in ZooKeeper again", func() bool { return f.listed() == "gw1 gw2" })
	t.Logf("listed again after %v", time.Since(back).Round(time.Millisecond))
	agree(t, "gw1 gw2", g, other)
	waitFor(t, "changes to be taken again", func() bool {
		a, err := man.do("POST", "/v1/apps", strings.NewReader(`{"app":"late"}`), "Content-Type", "application/json")
		return err == nil && (a.StatusCode == http.StatusCreated || a.StatusCode == http.StatusConflict) // a 503 may have been done
	})
	waitFor(t, "/ready to be well", func() bool {
		_, parts, _ := g.health("pub")
		return parts["zookeeper"] == "ok"
	})
	l.end()
	if len(l.failed) > 0 {
		t.Errorf("%d of %d publishes failed, the first: %s", len(l.failed), l.count(), l.failed[0])
	}
	waitFor(t, "everything to be delivered", func() bool { return len(r.missing(l.stored)) == 0 })
	r.end()
	if twice := r.repeated(); len(twice) > 0 {
		t.Errorf("delivered more than once: %v", twice)
	}
}

// The leader of three ZooKeeper servers is killed five times under load: no publish fails, no delivery is missing or doubled,
// and changes go on.
func TestZooKeeperLeaderIsKilled(t *testing.T) {
	t.Parallel()
	f := newFleetOn(t, testkit.ZooKeepers(t, 3))
	g := f.start("gw1")
	man := g.manager()
	man.send(http.StatusCreated, "POST", "/v1/topics", map[string]any{"app": f.app, "topic": "orders", "ver": "v1", "partitions": 2, "replicas": 1})
	l, r := newLoad(t), newReaders(t)
	clients := []*client{g.client(f.app)}
	l.run("p", "orders", func() []*client { return clients })
	r.run("orders", func() []*client { return clients }, 0)
	for i := range 5 {
		leader := f.zk.Leader()
		f.zk.Stop(leader)
		body := fmt.Sprintf(`{"app":"app-%d"}`, i)
		waitFor(t, "a change with another leader", func() bool {
			a, err := man.do("POST", "/v1/apps", strings.NewReader(body), "Content-Type", "application/json")
			return err == nil && (a.StatusCode == http.StatusCreated || a.StatusCode == http.StatusConflict) // a 503 may have been done
		})
		if err := f.zk.Start(leader); err != nil {
			t.Fatal(err)
		}
	}
	l.end()
	if len(l.failed) > 0 || l.count() == 0 {
		t.Errorf("%d of %d publishes failed: %q", len(l.failed), l.count(), l.failed[:min(len(l.failed), 1)])
	}
	waitFor(t, "everything to be delivered", func() bool { return len(r.missing(l.stored)) == 0 })
	r.end()
	if twice := r.repeated(); len(twice) > 0 {
		t.Errorf("delivered more than once: %v", twice)
	}
}

// A gateway is stopped by SIGSTOP for three times its session's life: it is off the list, and when it goes on it is listed
// again and serves.
func TestFrozenGateway(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	frozen, other := f.start("gw1"), f.start("gw2")
	agree(t, "gw1 gw2", frozen, other)
	_ = frozen.cmd.Process.Signal(syscall.SIGSTOP)
	begun := time.Now()
	waitFor(t, "the frozen gateway to be off the list", func() bool { return f.listed() == "gw2" })
	waitFor(t, "three sessions' time", func() bool { return time.Since(begun) > 18*time.Second })
	_ = frozen.cmd.Process.Signal(syscall.SIGCONT)
	waitFor(t, "both to be listed", func() bool { return f.listed() == "gw1 gw2" })
	agree(t, "gw1 gw2", frozen, other)
	c := frozen.client(f.app)
	c.publish("orders", "", "hello")
	if got := c.pollUntil(1, "orders", ""); got[0].text() != "hello" {
		t.Errorf("got %+v", got)
	}
}

// A gateway that starts while ZooKeeper is away serves from what it kept; one that kept nothing is not ready, says why, and
// is as soon as ZooKeeper is back.
func TestStartWithoutZooKeeper(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "--plugins", "auth", "--admin-key-file", keyFile(t))
	g := f.start("gw1")
	admin := []string{"Authorization", "Bearer " + adminKey}
	g.manager().send(http.StatusCreated, "POST", "/v1/apps", map[string]any{"app": f.app}, admin...)
	key := decode[struct{ Key string }](t, g.manager().send(http.StatusCreated, "POST", "/v1/apps/"+f.app+"/keys", map[string]any{"use": "both"}, admin...).body).Key
	g.manager().send(http.StatusCreated, "POST", "/v1/topics", map[string]any{"app": f.app, "topic": "orders", "ver": "v1", "partitions": 1, "replicas": 1}, admin...)
	publish := func(g *gateway) answer {
		a, err := g.client(f.app).do("POST", "/v1/msgs/orders/v1", strings.NewReader("x"), "Pubkey", key)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	if a := publish(g); a.StatusCode != http.StatusCreated {
		t.Fatalf("publish: %s", a)
	}
	g.stop()
	f.zk.StopAll()
	g = f.start("gw1")
	if a := publish(g); a.StatusCode != http.StatusCreated {
		t.Errorf("publish from the kept snapshot: %s", a)
	}
	waitFor(t, "/ready to say that it is stale", func() bool {
		_, parts, detail := g.health("pub")
		return parts["meta"] == "degraded" && detail["meta"] != ""
	})
	bare := launchUnready(t, f.args("gw2")...)
	waitFor(t, "the gateway without a snapshot to be unready", func() bool {
		status, parts, _ := bare.health("pub")
		return status == http.StatusServiceUnavailable && parts["meta"] == "down"
	})
	if a := publish(bare); a.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("publish where nothing is known: %s", a)
	}
	if err := f.zk.StartAll(); err != nil {
		t.Fatal(err)
	}
	for _, g := range []*gateway{g, bare} {
		waitFor(t, "the gateways to be ready", func() bool {
			status, parts, _ := g.health("pub")
			return status == http.StatusOK && parts["meta"] == "ok"
		})
		if a := publish(g); a.StatusCode != http.StatusCreated {
			t.Errorf("publish after ZooKeeper's return: %s", a)
		}
	}
}

// Garbage in a node: the last good content serves, on a gateway that starts meanwhile too if it has kept one; /ready and the
// metrics tell of it, and it is over when the node is good again.
func TestGarbageInZooKeeper(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	g := f.start("gw1")
	man := g.manager()
	man.send(http.StatusCreated, "POST", "/v1/topics", map[string]any{"app": f.app, "topic": "orders", "ver": "v1", "partitions": 3, "replicas": 1})
	c, err := zk.Open(zk.Config{Servers: strings.Split(f.zk.Addr(), ","), Chroot: "/kateway", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	buckets, err := c.Children(t.Context(), "/meta/topics")
	if err != nil || len(buckets) != 1 {
		t.Fatalf("%q, %v", buckets, err)
	}
	node := "/meta/topics/" + buckets[0]
	good, _, err := c.Get(t.Context(), node)
	if err != nil {
		t.Fatal(err)
	}
	for _, garbage := range []string{"\x00\xff", `{"format":99,"objects":{}}`, `[]`, "", strings.Repeat("x", 900_000)} {
		if _, err := c.Set(t.Context(), node, []byte(garbage), -1); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "/ready to tell of it", func() bool {
			status, parts, detail := g.health("pub")
			return status == http.StatusOK && parts["meta"] == "degraded" && detail["meta"] != ""
		})
		g.client(f.app).want(http.StatusCreated, "POST", "/v1/msgs/orders/v1?partition=2", strings.NewReader("x"))
		if a := man.want(http.StatusOK, "GET", "/metrics", nil); !strings.Contains(string(a.body), "kateway_meta_faults 1") {
			t.Errorf("the metrics do not tell of it")
		}
		if a := man.want(http.StatusOK, "GET", "/v1/status", nil); !strings.Contains(string(a.body), buckets[0]) {
			t.Errorf("the status does not name the node: %s", a)
		}
		if _, err := c.Set(t.Context(), node, good, -1); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "/ready to be well", func() bool {
			_, parts, _ := g.health("pub")
			return parts["meta"] == "ok"
		})
	}
}

// A topic that is deleted, made anew or grown through one gateway is so on all of them, under publishers and subscribers.
func TestTopicChangesReachAllGateways(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	one, two := f.start("gw1"), f.start("gw2")
	man := one.manager()
	topic := map[string]any{"app": f.app, "topic": "orders", "ver": "v1", "partitions": 1, "replicas": 1}
	path := "/v1/topics/" + f.app + "/orders/v1"
	man.send(http.StatusCreated, "POST", "/v1/topics", topic)
	c := two.client(f.app)
	c.publish("orders", "", "before")
	st := c.stream("orders", "")
	if m := st.next(); m.text() != "before" {
		t.Fatalf("got %+v", m)
	}
	man.send(http.StatusOK, "PATCH", path, map[string]any{"partitions": 3})
	waitFor(t, "a publish to the new partition", func() bool {
		a, err := c.do("POST", "/v1/msgs/orders/v1?partition=2", strings.NewReader("grown"))
		return err == nil && a.StatusCode == http.StatusCreated
	})
	if m := st.next(); m.text() != "grown" || m.Partition != 2 {
		t.Fatalf("got %+v", m)
	}
	man.want(http.StatusNoContent, "DELETE", path, nil)
	select { // the stream, on the other gateway, says why it ends
	case line := <-st.lines:
		if want := `{"event":"end","code":"unknown_topic"}`; strings.TrimSpace(string(line)) != want {
			t.Errorf("the stream says %s; want %s", line, want)
		}
	case <-time.After(patience):
		t.Errorf("the stream of a deleted topic goes on after %v", patience)
	}
	if err := st.ended(); err != nil {
		t.Errorf("the stream was cut: %v", err)
	}
	man.send(http.StatusCreated, "POST", "/v1/topics", topic)
	waitFor(t, "a publish to the topic made anew", func() bool {
		a, err := c.do("POST", "/v1/msgs/orders/v1", strings.NewReader("anew"))
		return err == nil && a.StatusCode == http.StatusCreated && strings.Contains(string(a.body), `"offset":0`)
	})
	if got := c.pollUntil(1, "orders", ""); got[0].text() != "anew" {
		t.Errorf("got %+v", got)
	}
}

// A page of another origin, a host name that was made to point here, and a stranger on the peer address are refused.
func TestStrangersAreRefused(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	g := f.start("gw1")
	man := g.manager()
	man.want(http.StatusForbidden, "GET", "/v1/apps", nil, "Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, g.man+"/v1/apps", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "evil.example:9193"
	resp, err := man.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden {
		t.Errorf("a foreign host name: %s", resp.Status)
	}
	if resp, err := man.http.Get(g.await("peer") + "/peer/v1/clients"); err == nil {
		resp.Body.Close()
		t.Errorf("a stranger on the peer address is answered: %s", resp.Status)
	}
}

const adminKey = "0123456789abcdef0123456789abcdef"

// keyFile is a file that has the admin key.
func keyFile(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "admin-key")
	if err := os.WriteFile(name, []byte(adminKey), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}
