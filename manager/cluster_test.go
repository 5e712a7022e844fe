package manager_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/online"
	"github.com/kateway/kateway/manager"
	"github.com/kateway/kateway/registry"
	"github.com/kateway/kateway/store"
)

func TestGateways(t *testing.T) {
	f := newFixture(t, func(c *manager.Config) {
		c.Gateways = func() []registry.Instance {
			return []registry.Instance{{ID: "gw1", Pub: "h:1", Version: "v", Load: registry.Load{PublishPerSecond: 2.5, Streams: 3}}, {ID: "gw2"}, {ID: "gw3"}}
		}
	})
	if got := f.walk("/v1/gateways?limit=2", "id"); strings.Join(got, " ") != "gw1 gw2 gw3" {
		t.Errorf("listed %v", got)
	}
	r := f.ask("GET", "/v1/gateways?limit=1", "")
	const want = `{"items":[{"id":"gw1","pub":"h:1","version":"v","host":"","started":"0001-01-01T00:00:00Z","load":{"publish_per_second":2.5,"streams":3}}],"next":"gw1"}`
	if got := strings.TrimSpace(r.Body.String()); got != want {
		t.Errorf("got %s", got)
	}
}

func TestClients(t *testing.T) {
	begin := time.Now()
	client := func(i int, app string) online.Client {
		return online.Client{Kind: online.Pub, App: app, Owner: app, Topic: "t", Ver: "v1", Remote: fmt.Sprintf("10.0.0.%d:1", i), Since: begin.Add(time.Duration(i) * time.Second), Messages: int64(i % 4), Bytes: int64(10 - i)}
	}
	second, third := &node{}, &node{fail: errs.Unavailable}
	f := newFixture(t, func(c *manager.Config) { c.Peers = peersOf(second, third) })
	f.self.clients = []online.Client{client(1, "a"), client(3, "b"), client(5, "a")}
	second.clients = []online.Client{client(2, "a"), client(4, "b")}
	for query, want := range map[string]string{
		"":               "10.0.0.3:1 10.0.0.2:1 10.0.0.1:1 10.0.0.5:1 10.0.0.4:1",
		"?sort=messages": "10.0.0.3:1 10.0.0.2:1 10.0.0.1:1 10.0.0.5:1 10.0.0.4:1",
		"?sort=bytes":    "10.0.0.1:1 10.0.0.2:1 10.0.0.3:1 10.0.0.4:1 10.0.0.5:1",
		"?sort=since":    "10.0.0.1:1 10.0.0.2:1 10.0.0.3:1 10.0.0.4:1 10.0.0.5:1",
		"?app=b":         "10.0.0.3:1 10.0.0.4:1",
		"?app=none":      "",
		"?after=4":       "10.0.0.4:1",
		"?after=77":      "",
	} {
		b := f.must(200, "GET", "/v1/clients"+query, "")
		if got := strings.Join(b.names(t, "remote"), " "); got != want {
			t.Errorf("%s: %s", query, got)
		}
		if fmt.Sprint(b["unreachable"]) != "[gw3]" {
			t.Errorf("%s: unreachable %v", query, b["unreachable"])
		}
	}
	if got := strings.Join(f.must(200, "GET", "/v1/clients?sort=since", "").names(t, "gateway"), " "); got != "gw1 gw2 gw1 gw2 gw1" {
		t.Errorf("gateways %s", got)
	}
	for limit := 1; limit <= 6; limit++ {
		if got := f.walk(fmt.Sprintf("/v1/clients?limit=%d", limit), "remote"); len(got) != 5 {
			t.Errorf("limit %d: %v", limit, got)
		}
	}
	f.ask("GET", "/v1/clients?sort=name", "").problem(t, errs.InvalidParam, "messages, bytes, since")
	f.ask("GET", "/v1/clients?after=x", "").problem(t, errs.InvalidParam)
	f.self.fail = errs.Internal
	f.ask("GET", "/v1/clients", "").problem(t, errs.Internal)
}

func TestStatus(t *testing.T) {
	f := newFixture(t, nil)
	b := f.must(200, "GET", "/v1/status", "")
	if b.fields("id", "store", "roles", "warnings") != "gw1 mem [man] []" {
		t.Errorf("status %v", b)
	}
	if m := object(b["meta"].(map[string]any)); m.fields("loaded", "stale") != "true false" || m["faults"] != nil {
		t.Errorf("meta %v", m)
	}
}

func TestRefresh(t *testing.T) {
	second, third := &node{}, &node{fail: errs.Unavailable}
	f := newFixture(t, func(c *manager.Config) { c.Peers = peersOf(second, third) })
	b := f.must(200, "POST", "/v1/refresh", "")
	if b.fields("refreshed", "unreachable") != "[gw1 gw2] [gw3]" || f.self.refreshed != 1 || second.refreshed != 1 {
		t.Errorf("refreshed %v", b)
	}
	f.self.fail = errs.Unavailable
	f.ask("POST", "/v1/refresh", "").problem(t, errs.Unavailable)
}

// describe answers for the cluster east and the default one.
func describe(_ context.Context, cluster string) (store.Cluster, error) {
	switch cluster {
	case "default":
		return store.Cluster{ID: "abc", Controller: 1, Brokers: []store.Broker{{ID: 1, Host: "k", Port: 9092, Leaders: 4, Replicas: 9}}, Topics: 2, Partitions: 12}, nil
	case "east":
		return store.Cluster{}, fmt.Errorf("broker 10.0.0.7: %w", errs.Unavailable)
	}
	return store.Cluster{}, errs.Internal
}

func TestClusters(t *testing.T) {
	f := newFixture(t, func(c *manager.Config) { c.Describe = describe })
	r := f.ask("POST", "/v1/clusters", `{"cluster":"east","brokers":["k1:9092","k2:9092"]}`)
	if b := r.want(t, 201); r.Header().Get("Location") != "/v1/clusters/east" || b.fields("cluster", "brokers", "apps", "topics", "fault") != "east [k1:9092 k2:9092] 0 0 unavailable" {
		t.Errorf("made %v", b)
	}
	list := f.ask("GET", "/v1/clusters", "")
	if got := list.want(t, 200).names(t, "cluster"); strings.Join(got, " ") != "default east" {
		t.Errorf("listed %v", got)
	}
	if strings.Contains(list.Body.String(), "10.0.0.7") {
		t.Errorf("the answer tells too much: %s", list.Body)
	}
	def := f.must(200, "GET", "/v1/clusters/default", "")
	if live := object(def["live"].(map[string]any)); live.fields("id", "controller", "topics", "partitions", "leaderless") != "abc 1 2 12 0" ||
		fmt.Sprint(live["brokers"]) != "[map[host:k id:1 leaders:4 port:9092 replicas:9]]" {
		t.Errorf("default %v", def)
	}
	patched := f.must(200, "PATCH", "/v1/clusters/east", `{"brokers":["k3:9092"]}`)
	if patched.fields("brokers") != "[k3:9092]" {
		t.Errorf("patched %v", patched)
	}
	f.must(200, "PATCH", "/v1/clusters/east", `{"brokers":null,"zookeeper":"z:2181/kafka"}`)
	if got := f.meta.Snapshot().Cluster("east"); len(got.Brokers) != 0 || got.ZooKeeper != "z:2181/kafka" {
		t.Errorf("kept %+v", got)
	}
	f.must(201, "POST", "/v1/apps", `{"app":"shop","cluster":"east"}`)
	f.ask("DELETE", "/v1/clusters/east", "").problem(t, errs.Conflict, "1 apps")
	f.must(200, "PATCH", "/v1/apps/shop", `{"cluster":"default"}`)
	f.must(204, "DELETE", "/v1/clusters/east", "")
	f.ask("GET", "/v1/clusters/east", "").problem(t, errs.NotFound, "east")
}

func TestClusterFaults(t *testing.T) {
	f := newFixture(t, nil)
	f.must(201, "POST", "/v1/clusters", `{"cluster":"east","brokers":["k:9092"]}`)
	for _, c := range []struct {
		method, path, body string
		want               errs.Kind
		says               string
	}{
		{"POST", "/v1/clusters", `{"cluster":"east","brokers":["k:9092"]}`, errs.Conflict, "east"},
		{"POST", "/v1/clusters", `{"cluster":"default","brokers":["k:9092"]}`, errs.Conflict, "configured"},
		{"POST", "/v1/clusters", `{"cluster":"a.b","brokers":["k:9092"]}`, errs.InvalidName, "a.b"},
		{"POST", "/v1/clusters", `{"cluster":"x"}`, errs.InvalidBody, "brokers"},
		{"POST", "/v1/clusters", `{"cluster":"x","brokers":["k"]}`, errs.InvalidBody, "host:port"},
		{"PATCH", "/v1/clusters/east", `{"zookeeper":"z:2181"}`, errs.InvalidBody, "one of the two"},
		{"PATCH", "/v1/clusters/default", `{"brokers":["k:9092"]}`, errs.Conflict, "configured"},
		{"DELETE", "/v1/clusters/default", ``, errs.Conflict, "configured"},
		{"DELETE", "/v1/clusters/none", ``, errs.NotFound, "none"},
		{"GET", "/v1/clusters/a.b", ``, errs.InvalidName, "a.b"},
	} {
		t.Run(c.method+" "+c.path+" "+c.body, func(t *testing.T) { f.ask(c.method, c.path, c.body).problem(t, c.want, c.says) })
	}
}
