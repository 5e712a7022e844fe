package manager_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/manager"
	"github.com/kateway/kateway/store"
)

const deadPath = "/v1/dead/shop/orders/v1/bill.billing"

var (
	deadBilling  = group.Key{Topic: "shop.orders.v1.bill.billing.dead", Group: "bill.billing.shop.orders.v1.dead"}
	retryBilling = "shop.orders.v1.bill.billing.retry"
)

// withDead has n dead messages of the group billing.
func withDead(t *testing.T, n int, change func(*manager.Config)) *fixture {
	f := withOrders(t, change)
	if err := f.store.CreateTopic(t.Context(), group.QueueTopic(deadBilling.Topic)); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		f.die(i)
	}
	return f
}

// die puts a message into the dead queue.
func (f *fixture) die(i int) {
	f.t.Helper()
	headers := []store.Header{{Key: "kind", Value: []byte("order")}}
	for _, h := range [][2]string{
		{group.HeaderOriginPartition, "1"}, {group.HeaderOriginOffset, fmt.Sprint(100 + i)}, {group.HeaderOriginTime, "1700000000000"},
		{group.HeaderAttempts, "16"}, {group.HeaderCause, `lease "ended"`},
	} {
		headers = append(headers, store.Header{Key: h[0], Value: []byte(h[1])})
	}
	m := &store.Message{Key: []byte("k"), Value: fmt.Appendf(nil, "dead %d", i), Headers: headers}
	if err := f.store.Publish(f.t.Context(), deadBilling.Topic, store.AckAll, m); err != nil {
		f.t.Fatal(err)
	}
}

// dead is what is listed, as offsets.
func (f *fixture) dead() string {
	f.t.Helper()
	return strings.Join(f.must(200, "GET", deadPath, "").names(f.t, "offset"), " ")
}

// retries are the messages of the retry queue.
func (f *fixture) retries() (list []*store.Message) {
	f.t.Helper()
	for m, err := range f.store.Browse(f.t.Context(), retryBilling, 0, 0) {
		if err != nil {
			f.t.Fatal(err)
		}
		list = append(list, m)
	}
	return list
}

func TestDeadMessagesAreListed(t *testing.T) {
	f := withDead(t, 5, nil)
	b := f.must(200, "GET", deadPath+"?limit=2", "")
	item := b["items"].([]any)[1].(map[string]any)
	if got := object(item).fields("partition", "offset", "key", "value", "headers", "cause", "attempts", "origin"); got !=
		`0 1 k dead 1 map[kind:order] lease "ended" 16 map[offset:101 partition:1]` {
		t.Error(got)
	}
	var all []string
	for next := ""; ; {
		b := f.must(200, "GET", deadPath+"?limit=2&after="+next, "")
		all = append(all, b.names(t, "offset")...)
		var more bool
		if next, more = b["next"].(string); !more {
			break
		}
	}
	if got := strings.Join(all, " "); got != "0 1 2 3 4" {
		t.Errorf("page by page: %s", got)
	}
	f.ask("GET", deadPath+"?after=x", "").problem(t, errs.InvalidParam, "after")
	f.ask("GET", "/v1/dead/shop/nothing/v1/g", "").problem(t, errs.UnknownTopic)
	if none := f.must(200, "GET", "/v1/dead/shop/orders/v1/other", ""); len(none["items"].([]any)) != 0 {
		t.Errorf("of a group that never had any: %v", none)
	}
}

func TestPurge(t *testing.T) {
	f := withDead(t, 6, nil)
	for _, k := range []struct{ body, want string }{
		{`{"messages":[{"partition":0,"offset":3},{"partition":0,"offset":1},{"partition":0,"offset":3}]}`, "2"},
		{`{"messages":[{"partition":0,"offset":3},{"partition":0,"offset":99},{"partition":7,"offset":0}]}`, "0"},
		{`{"messages":[]}`, "0"},
	} {
		if got := f.must(200, "DELETE", deadPath, k.body).fields("purged"); got != k.want {
			t.Errorf("%s: %s", k.body, got)
		}
	}
	if got := f.dead(); got != "0 2 4 5" {
		t.Errorf("left are %s", got)
	}
	if got := f.must(200, "DELETE", deadPath, `{}`).fields("purged"); got != "4" {
		t.Errorf("all: %s", got)
	}
	f.die(6)
	if got := f.dead(); got != "6" {
		t.Errorf("left are %s", got)
	}
	if f.positions(billing) != "-1 -1" {
		t.Errorf("the group itself was moved to %s", f.positions(billing))
	}
	for body, words := range map[string]string{
		`{"messages":[{"partition":0}]}`: "messages/0", `{"messages":[{"offset":0}]}`: "messages/0",
		`{"message":[]}`: "message", `[]`: "object",
	} {
		f.ask("DELETE", deadPath, body).problem(t, errs.InvalidBody, words)
	}
	f.ask("DELETE", deadPath, "").problem(t, errs.UnsupportedEncoding)
}

func TestRequeue(t *testing.T) {
	second := &node{}
	f := withDead(t, 4, func(c *manager.Config) { c.Peers = peersOf(second) })
	if got := f.must(200, "POST", deadPath+"/requeue", `{"messages":[{"partition":0,"offset":2}]}`).fields("requeued"); got != "1" {
		t.Fatal(got)
	}
	list := f.retries()
	if len(list) != 1 || string(list[0].Value) != "dead 2" || string(list[0].Key) != "k" {
		t.Fatalf("%+v", list)
	}
	if o, ok := group.Origin(list[0]); !ok || o.Partition != 1 || o.Offset != 102 || o.Attempts != 0 || o.Due.IsZero() {
		t.Errorf("%+v", o)
	}
	if got := f.dead(); got != "0 1 3" {
		t.Errorf("left are %s", got)
	}
	if !slices.Contains(second.requeued, billing) || !slices.Contains(f.self.requeued, billing) {
		t.Error("the gateways were not told")
	}
	if got := f.must(200, "POST", deadPath+"/requeue", `{}`).fields("requeued"); got != "3" || len(f.retries()) != 4 || f.dead() != "" {
		t.Errorf("%s, %d, %s", got, len(f.retries()), f.dead())
	}
	if f.self.isSuspended(deadBilling) || second.isSuspended(deadBilling) {
		t.Error("the readers of the queue still wait")
	}
}

// Thousands are taken in steps; what comes meanwhile is left.
func TestRequeueMany(t *testing.T) {
	f := withDead(t, 1203, nil)
	if got := f.must(200, "POST", deadPath+"/requeue", `{}`).fields("requeued"); got != "1203" || len(f.retries()) != 1203 {
		t.Errorf("%s, %d", got, len(f.retries()))
	}
}

// When a gateway can't be reached nothing is done: it may be reading the queue.
func TestRequeueNeedsAllGateways(t *testing.T) {
	second := &node{fail: errs.Unavailable}
	f := withDead(t, 2, func(c *manager.Config) { c.Peers = peersOf(second) })
	f.must(503, "POST", deadPath+"/requeue", `{}`)
	if got := f.dead(); got != "0 1" {
		t.Errorf("left are %s", got)
	}
}

// A group and a topic take their queues with them, and no other's.
func TestQueuesGoWithTheirGroup(t *testing.T) {
	f := withDead(t, 1, nil)
	f.must(200, "POST", deadPath+"/requeue", `{}`)
	other := "shop.orders.v1.bill.other.dead"
	for _, name := range []string{other, "shop.orders.v1.bill.billing.live"} {
		if err := f.store.CreateTopic(t.Context(), group.QueueTopic(name)); err != nil {
			t.Fatal(err)
		}
	}
	f.seek(billing, 3, 3)
	f.must(204, "DELETE", groupsPath+"/bill.billing", "")
	names := func() string {
		topics, err := f.store.Topics(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var list []string
		for _, topic := range topics {
			list = append(list, strings.TrimPrefix(topic.Name, "shop.orders.v1."))
		}
		return strings.Join(list, " ")
	}
	if got := names(); got != "shop.orders.v1 bill.billing.live bill.other.dead" {
		t.Error(got)
	}
	f.must(204, "DELETE", "/v1/topics/shop/orders/v1", "")
	if got := names(); got != "bill.billing.live" {
		t.Error(got)
	}
}
