package manager_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/manager"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/store"
)

var orders = meta.Topic{App: "shop", Name: "orders", Ver: "v1"}

const ordersPath = "/v1/topics/shop/orders/v1"

// withShop is a fixture in which the app shop is registered.
func withShop(t *testing.T, change func(*manager.Config)) *fixture {
	f := newFixture(t, change)
	f.must(201, "POST", "/v1/apps", `{"app":"shop"}`)
	return f
}

// inStore is the topic as the store has it.
func (f *fixture) inStore(name string) (store.Topic, bool) {
	f.t.Helper()
	list, err := f.store.Topics(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	for _, t := range list {
		if t.Name == name {
			return t, true
		}
	}
	return store.Topic{}, false
}

func (f *fixture) makeInStore(topics ...store.Topic) {
	f.t.Helper()
	for _, t := range topics {
		if err := f.store.CreateTopic(f.t.Context(), t); err != nil {
			f.t.Fatal(err)
		}
	}
}

func TestTopicFromBeginToEnd(t *testing.T) {
	others := &node{}
	f := withShop(t, func(c *manager.Config) { c.Peers = peersOf(others) })
	r := f.ask("POST", "/v1/topics", `{"app":"shop","topic":"orders","ver":"v1","partitions":2,"retention":"48h","max_attempts":5,"spool":false}`)
	made := r.want(t, 201)
	if r.Header().Get("Location") != ordersPath || r.etag() == "" ||
		made.fields("app", "topic", "ver", "cluster", "partitions", "retention", "cleanup", "max_attempts", "spool", "store_topic", "registered") !=
			"shop orders v1 default 2 48h delete 5 false  true" {
		t.Errorf("made %v", made)
	}
	if in, ok := f.inStore("shop.orders.v1"); !ok || in.Partitions != 2 || in.Retention != 48*time.Hour {
		t.Errorf("in the store %+v %v", in, ok)
	}
	if got := f.ask("GET", ordersPath, ""); got.want(t, 200).fields("partitions") != "2" || got.etag() != r.etag() {
		t.Errorf("got %s %s", got.etag(), got.Body)
	}
	patched := f.must(200, "PATCH", ordersPath, `{"partitions":6,"retention":"72h","retention_bytes":1000000,"spool":true}`)
	if patched.fields("partitions", "retention", "retention_bytes", "max_attempts", "spool") != "6 72h 1e+06 5 true" {
		t.Errorf("patched %v", patched)
	}
	if in, _ := f.inStore("shop.orders.v1"); in.Partitions != 6 || in.Retention != 72*time.Hour || in.RetentionBytes != 1000000 {
		t.Errorf("in the store %+v", in)
	}
	f.must(204, "DELETE", ordersPath, "")
	if _, ok := f.inStore("shop.orders.v1"); ok || f.meta.Snapshot().Topic(orders) != nil {
		t.Error("the topic is still there")
	}
	if len(f.topics.list) != 1 || f.topics.list[0] != orders || others.refreshed != 1 {
		t.Errorf("forgotten %v, others refreshed %d times", f.topics.list, others.refreshed)
	}
	f.ask("GET", ordersPath, "").problem(t, errs.UnknownTopic, "shop/orders/v1")
	f.ask("DELETE", ordersPath, "").problem(t, errs.UnknownTopic)
	f.must(201, "POST", "/v1/topics", `{"app":"shop","topic":"orders","ver":"v1"}`)
}

func TestTopicDefaults(t *testing.T) {
	f := withShop(t, nil)
	made := f.must(201, "POST", "/v1/topics", `{"app":"shop","topic":"orders","ver":"v1"}`)
	if made.fields("partitions", "max_attempts", "spool", "retention", "cleanup") != "3 16 true 0s delete" { // the store's 3 partitions
		t.Errorf("made %v", made)
	}
}

func TestTopicFaults(t *testing.T) {
	f := withShop(t, nil)
	f.must(201, "POST", "/v1/topics", `{"app":"shop","topic":"orders","ver":"v1","partitions":4,"retention":"48h"}`)
	f.makeInStore(store.Topic{Name: "shop.native.v1"})
	topic := func(name, more string) string {
		return fmt.Sprintf(`{"app":"shop","topic":%q,"ver":"v1"%s}`, name, more)
	}
	for _, c := range []struct {
		method, path, body string
		want               errs.Kind
		says               string
	}{
		{"POST", "/v1/topics", topic("orders", ""), errs.Conflict, "exists"},
		{"POST", "/v1/topics", topic("native", ""), errs.Conflict, `"store_topic":"shop.native.v1"`},
		{"POST", "/v1/topics", `{"app":"none","topic":"t","ver":"v1"}`, errs.UnknownApp, "register it first"},
		{"POST", "/v1/topics", topic("a.b", ""), errs.InvalidName, "a.b"},
		{"POST", "/v1/topics", `{"app":"shop"}`, errs.InvalidName, "topic"},
		{"POST", "/v1/topics", topic("t", `,"partitions":-1`), errs.InvalidBody, "partitions"},
		{"POST", "/v1/topics", topic("t", `,"partitions":10001`), errs.InvalidBody, "partitions"},
		{"POST", "/v1/topics", topic("t", `,"replicas":-1`), errs.InvalidBody, "replicas"},
		{"POST", "/v1/topics", topic("t", `,"retention":"1s"`), errs.InvalidBody, "retention"},
		{"POST", "/v1/topics", topic("t", `,"retention":3600`), errs.InvalidBody, "retention"},
		{"POST", "/v1/topics", topic("t", `,"cleanup":"shred"`), errs.InvalidBody, "cleanup"},
		{"POST", "/v1/topics", topic("t", `,"max_attempts":0`), errs.InvalidBody, "max_attempts"},
		{"POST", "/v1/topics", topic("t", `,"store_topic":"__consumer_offsets"`), errs.InvalidName, "internal"},
		{"POST", "/v1/topics", topic("t", `,"store_topic":"shop.orders.v1.bill.g.retry"`), errs.InvalidName, ".retry"},
		{"POST", "/v1/topics", topic("t", `,"store_topic":"shop.orders.v1.bill.g.dead"`), errs.InvalidName, ".dead"},
		{"POST", "/v1/topics", topic("t", `,"store_topic":"east:orders"`), errs.InvalidName, "east"},
		{"POST", "/v1/topics", topic("t", `,"store_topic":"nowhere"`), errs.UnknownTopic, "nowhere"},
		{"POST", "/v1/topics", topic("t", `,"store_topic":"shop.native.v1","partitions":3`), errs.InvalidBody, "not given"},
		{"POST", "/v1/topics", topic("t", `,"store_topic":"shop.orders.v1"`), errs.Conflict, "shop/orders/v1"},
		{"GET", "/v1/topics/shop/a.b/v1", ``, errs.InvalidName, "a.b"},
		{"PATCH", ordersPath, `{"partitions":3}`, errs.InvalidBody, "keys move"},
		{"PATCH", ordersPath, `{"partitions":0}`, errs.InvalidBody, "keys move"},
		{"PATCH", ordersPath, `{"replicas":3}`, errs.InvalidBody, "replicas"},
		{"PATCH", ordersPath, `{"retention":"0s"}`, errs.InvalidBody, "default"},
		{"PATCH", ordersPath, `{"max_attempts":5000}`, errs.InvalidBody, "max_attempts"},
		{"PATCH", "/v1/topics/shop/none/v1", `{}`, errs.UnknownTopic, "none"},
		{"PATCH", "/v1/topics/shop/native/v1", `{}`, errs.UnknownTopic, "native"},
		{"GET", "/v1/topics?app=a_b", ``, errs.InvalidName, "a_b"},
	} {
		t.Run(c.method+" "+c.path+" "+c.body, func(t *testing.T) { f.ask(c.method, c.path, c.body).problem(t, c.want, c.says) })
	}
	if in, _ := f.inStore("shop.orders.v1"); in.Partitions != 4 || in.Retention != 48*time.Hour {
		t.Errorf("a refused change changed the store: %+v", in)
	}
	if list, _ := f.store.Topics(t.Context()); len(list) != 2 {
		t.Errorf("a refused topic was made: %v", list)
	}
}

// A topic that the store has already gets a name, and only that can be taken away again.
func TestMappedTopic(t *testing.T) {
	f := withShop(t, nil)
	f.makeInStore(store.Topic{Name: "legacy_orders", Partitions: 7})
	made := f.must(201, "POST", "/v1/topics", `{"app":"shop","topic":"orders","ver":"v1","store_topic":"legacy_orders"}`)
	if made.fields("partitions", "store_topic", "cleanup") != "7 legacy_orders " {
		t.Errorf("made %v", made)
	}
	if p := f.meta.Snapshot().Topic(orders).Place(); p != "legacy_orders" {
		t.Errorf("its place is %q", p)
	}
	f.ask("POST", "/v1/topics", `{"app":"shop","topic":"other","ver":"v1","store_topic":"legacy_orders"}`).problem(t, errs.Conflict, "shop/orders/v1")
	f.must(200, "PATCH", ordersPath, `{"partitions":8,"cleanup":"compact"}`)
	if in, _ := f.inStore("legacy_orders"); in.Partitions != 8 || in.Cleanup != "compact" {
		t.Errorf("in the store %+v", in)
	}
	f.must(204, "DELETE", ordersPath, "")
	if _, ok := f.inStore("legacy_orders"); !ok {
		t.Error("the store's own topic is gone")
	}
	// Under the very name that it has, too.
	f.makeInStore(store.Topic{Name: "shop.orders.v1"})
	f.must(201, "POST", "/v1/topics", `{"app":"shop","topic":"orders","ver":"v1","store_topic":"shop.orders.v1"}`)
	f.must(204, "DELETE", ordersPath, "")
	if _, ok := f.inStore("shop.orders.v1"); !ok {
		t.Error("the store's own topic is gone")
	}
}

// An app's topics are made where the app lives.
func TestTopicOnItsAppsCluster(t *testing.T) {
	f := newFixture(t, nil)
	f.must(201, "POST", "/v1/clusters", `{"cluster":"east","brokers":["k:9092"]}`)
	f.must(201, "POST", "/v1/apps", `{"app":"shop","cluster":"east"}`)
	if made := f.must(201, "POST", "/v1/topics", `{"app":"shop","topic":"orders","ver":"v1"}`); made["cluster"] != "east" {
		t.Errorf("made %v", made)
	}
	if _, ok := f.inStore("east:shop.orders.v1"); !ok {
		t.Error("it is not where it belongs")
	}
	f.ask("DELETE", "/v1/clusters/east", "").problem(t, errs.Conflict, "1 apps and 1 topics")
}

func TestTopicLimitOfAnApp(t *testing.T) {
	f := newFixture(t, nil)
	f.must(201, "POST", "/v1/apps", `{"app":"shop","limits":{"topics":1}}`)
	f.must(201, "POST", "/v1/topics", `{"app":"shop","topic":"one","ver":"v1"}`)
	f.ask("POST", "/v1/topics", `{"app":"shop","topic":"two","ver":"v1"}`).problem(t, errs.Denied, "its limit is 1")
}

// What was made in the store goes again when it can't be registered, but not when somebody else has registered it, or
// perhaps we ourselves.
func TestTopicThatCanNotBeRegistered(t *testing.T) {
	for _, c := range []struct {
		fails errs.Kind
		stays bool
	}{{errs.Unavailable, false}, {errs.Conflict, true}, {errs.Uncertain, true}} {
		t.Run(c.fails.Code(), func(t *testing.T) {
			f := withShop(t, nil)
			f.source.fail(func(meta.Change) error { return c.fails })
			if r := f.ask("POST", "/v1/topics", `{"app":"shop","topic":"orders","ver":"v1"}`); r.Code != c.fails.Status() {
				t.Errorf("answered %d %s", r.Code, r.Body)
			}
			if _, ok := f.inStore("shop.orders.v1"); ok != c.stays {
				t.Errorf("in the store: %v", ok)
			}
		})
	}
}

// A store that refuses gets the record changed back, and says why.
func TestStoreThatRefusesAChange(t *testing.T) {
	bad := &errStore{}
	f := withShop(t, func(c *manager.Config) {
		bad.Store = c.Store
		c.Store = bad
	})
	f.must(201, "POST", "/v1/topics", `{"app":"shop","topic":"orders","ver":"v1","partitions":4}`)
	bad.alter = fmt.Errorf("no compaction here: %w", errs.InvalidParam)
	f.ask("PATCH", ordersPath, `{"partitions":8,"cleanup":"compact","max_attempts":3}`).problem(t, errs.InvalidParam, "no compaction here")
	if got := f.must(200, "GET", ordersPath, ""); got.fields("partitions", "cleanup", "max_attempts") != "4 delete 16" {
		t.Errorf("the record is %v", got)
	}
	bad.alter = nil
	f.must(200, "PATCH", ordersPath, `{"partitions":8}`)
	if in, _ := f.inStore("shop.orders.v1"); in.Partitions != 8 {
		t.Errorf("in the store %+v", in)
	}
}

func TestDeletingWhatTheStoreHasLost(t *testing.T) {
	f := withShop(t, nil)
	f.must(201, "POST", "/v1/topics", `{"app":"shop","topic":"orders","ver":"v1"}`)
	if err := f.store.DeleteTopic(t.Context(), "shop.orders.v1"); err != nil {
		t.Fatal(err)
	}
	f.ask("PATCH", ordersPath, `{"partitions":9}`).problem(t, errs.UnknownTopic)
	f.must(204, "DELETE", ordersPath, "")
}

func TestGrantsGoWithTheTopic(t *testing.T) {
	f := withShop(t, nil)
	f.must(201, "POST", "/v1/apps", `{"app":"bill"}`)
	for _, topic := range []string{"orders", "orders-2"} {
		f.must(201, "POST", "/v1/topics", `{"app":"shop","topic":"`+topic+`","ver":"v1"}`)
		f.must(201, "PUT", "/v1/subscriptions/shop/"+topic+"/v1/bill", `{}`)
	}
	f.must(204, "DELETE", ordersPath, "")
	left := f.must(200, "GET", "/v1/subscriptions?subscriber=bill", "").names(t, "topic")
	if len(left) != 1 || left[0] != "orders-2" {
		t.Errorf("left are %v", left)
	}
}

func TestTopicsOfOpenMode(t *testing.T) {
	f := newFixture(t, func(c *manager.Config) { c.Open = true })
	f.makeInStore(store.Topic{Name: "a.one.v1", Partitions: 2}, store.Topic{Name: "native"}, store.Topic{Name: "c.three.v1"}, store.Topic{Name: "a.b.c.d"})
	f.must(201, "POST", "/v1/topics", `{"app":"b","topic":"two","ver":"v1"}`)

	list := f.must(200, "GET", "/v1/topics", "")
	if got := strings.Join(list.names(t, "app"), " "); got != "a b c" {
		t.Errorf("listed %s", got)
	}
	if got := strings.Join(list.names(t, "registered"), " "); got != "false true false" {
		t.Errorf("listed %s", got)
	}
	if got := f.must(200, "GET", "/v1/topics?app=c", "").names(t, "app"); len(got) != 1 || got[0] != "c" {
		t.Errorf("listed %v", got)
	}
	r := f.ask("GET", "/v1/topics/a/one/v1", "")
	if b := r.want(t, 200); b.fields("partitions", "registered") != "2 false" || b["created"] != nil || r.etag() != "" {
		t.Errorf("found %v, ETag %s", b, r.etag())
	}
	f.ask("GET", "/v1/topics/a/none/v1", "").problem(t, errs.UnknownTopic)
	f.ask("POST", "/v1/topics", `{"app":"a","topic":"one","ver":"v1"}`).problem(t, errs.Conflict, "PATCH")

	// Changing one registers it.
	adopted := f.ask("PATCH", "/v1/topics/a/one/v1", `{"partitions":3,"max_attempts":4}`)
	if b := adopted.want(t, 200); b.fields("partitions", "max_attempts", "registered", "store_topic") != "3 4 true " || b["created"] == nil || adopted.etag() == "" {
		t.Errorf("adopted %v", b)
	}
	if in, _ := f.inStore("a.one.v1"); in.Partitions != 3 {
		t.Errorf("in the store %+v", in)
	}
	// Deleting one removes it, registered or not.
	f.must(204, "DELETE", "/v1/topics/a/one/v1", "")
	f.must(204, "DELETE", "/v1/topics/c/three/v1", "")
	f.ask("DELETE", "/v1/topics/c/three/v1", "").problem(t, errs.UnknownTopic)
	if list, _ := f.store.Topics(t.Context()); len(list) != 3 {
		t.Errorf("in the store %v", list)
	}
}

// Pages of both kinds of topics hold every one once, whatever the limit.
func TestPagesOfOpenMode(t *testing.T) {
	f := newFixture(t, func(c *manager.Config) { c.Open = true })
	var want []string
	for i := range 24 {
		app := fmt.Sprintf("app%02d", i)
		want = append(want, app)
		if i%3 == 0 || i > 18 {
			f.must(201, "POST", "/v1/topics", `{"app":"`+app+`","topic":"t","ver":"v1"}`)
		} else {
			f.makeInStore(store.Topic{Name: app + ".t.v1"})
		}
	}
	for limit := 1; limit <= 25; limit++ {
		got := f.walk(fmt.Sprintf("/v1/topics?limit=%d", limit), "app")
		if strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("limit %d: %v", limit, got)
		}
	}
}
