package manager_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/online"
	"github.com/kateway/kateway/manager"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/store"
)

const groupsPath = "/v1/groups/shop/orders/v1"

// billing is the group billing of the app bill on orders.
var billing = group.Key{Topic: "shop.orders.v1", Group: "bill.billing.shop.orders.v1"}

// withOrders has the topic shop/orders/v1 with 2 partitions of 10 messages each.
func withOrders(t *testing.T, change func(*manager.Config)) *fixture {
	f := withShop(t, change)
	f.must(201, "POST", "/v1/topics", `{"app":"shop","topic":"orders","ver":"v1","partitions":2}`)
	for i := range 20 {
		m := &store.Message{Value: fmt.Appendf(nil, "message %d", i), Partition: int32(i % 2)}
		if err := f.store.Publish(t.Context(), "shop.orders.v1", store.AckAll, m); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// seek sets positions in the store itself.
func (f *fixture) seek(key group.Key, next ...int64) {
	f.t.Helper()
	var to []store.Position
	for p, n := range next {
		to = append(to, store.Position{Partition: int32(p), Next: n})
	}
	if err := f.store.Seek(f.t.Context(), key.Topic, key.Group, to...); err != nil {
		f.t.Fatal(err)
	}
}

// positions are the group's in the store.
func (f *fixture) positions(key group.Key) string {
	f.t.Helper()
	lag, err := f.store.Lag(f.t.Context(), key.Topic, key.Group)
	if err != nil {
		f.t.Fatal(err)
	}
	var at []string
	for _, l := range lag {
		at = append(at, fmt.Sprint(l.Committed))
	}
	return strings.Join(at, " ")
}

func TestGroupNames(t *testing.T) {
	f := withOrders(t, nil)
	for _, name := range []string{"bill.billing.shop.orders.v1", "shop.own.shop.orders.v1", "native", "a.b", "bill.a.b.shop.orders.v1", "bill.x.shop.other.v1"} {
		f.seek(group.Key{Topic: "shop.orders.v1", Group: name}, 1)
	}
	b := f.must(200, "GET", groupsPath, "")
	var got []string
	for i, name := range b.names(t, "group") {
		got = append(got, name+" "+b.names(t, "native")[i])
	}
	if s := strings.Join(got, ", "); s != "a.b true, bill.a.b.shop.orders.v1 true, bill.billing false, bill.x.shop.other.v1 true, native true, shop.own false" {
		t.Errorf("listed %s", s)
	}
	if all := f.walk(groupsPath+"?limit=1", "group"); len(all) != 6 {
		t.Errorf("paged %v", all)
	}
	for path, want := range map[string]string{
		"/bill.billing": "bill.billing 19", "/own": "shop.own 19", "/shop.own": "shop.own 19", "/native?native=1": "native 19",
		"/a.b?native=true": "a.b 19", "/native": "shop.native 20", // a group of ours that nobody uses
	} {
		if got := f.must(200, "GET", groupsPath+path, "").fields("group", "lag"); got != want {
			t.Errorf("%s: %s, not %s", path, got, want)
		}
	}
	f.ask("GET", groupsPath+"/a.b.c", "").problem(t, errs.InvalidName, "b.c")
	f.ask("GET", groupsPath+"/a_b.c", "").problem(t, errs.InvalidName, "a_b")
	f.ask("GET", groupsPath+"/g?native=yes", "").problem(t, errs.InvalidParam)
	f.ask("GET", "/v1/groups/shop/none/v1", "").problem(t, errs.UnknownTopic)
	f.ask("GET", "/v1/groups/shop/none/v1/g", "").problem(t, errs.UnknownTopic)
}

func TestGroupOverAllGateways(t *testing.T) {
	second, third := &node{}, &node{}
	f := withOrders(t, func(c *manager.Config) { c.Peers = peersOf(second, third) })
	f.seek(billing, 4, 7)
	f.self.infos = map[group.Key]group.Info{billing: {Mode: group.Fifo, Clients: 2, Partitions: []group.PartitionInfo{{Partition: 0, InFlight: 3, OldestUnacked: 2 * time.Second}}}}
	second.infos = map[group.Key]group.Info{billing: {Mode: group.Fifo, Clients: 1, Partitions: []group.PartitionInfo{{Partition: 1, InFlight: 1}}}}
	third.fail = errs.Unavailable
	r := f.ask("GET", groupsPath+"/bill.billing", "")
	r.want(t, 200)
	const want = `{"group":"bill.billing","native":false,"mode":"fifo","lag":9,"in_flight":4,` +
		`"members":[{"gateway":"gw1","partitions":[0],"clients":2},{"gateway":"gw2","partitions":[1],"clients":1}],` +
		`"partitions":[{"partition":0,"start":0,"end":10,"committed":4,"lag":6,"in_flight":3,"oldest_unacked":"2s"},` +
		`{"partition":1,"start":0,"end":10,"committed":7,"lag":3,"in_flight":1,"oldest_unacked":"0s"}],"unreachable":["gw3"]}`
	if got := strings.TrimSpace(r.Body.String()); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// A gateway that does not answer holds nobody up for longer than 2 s.
func TestGatewayThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := withOrders(t, func(c *manager.Config) { c.Peers = peersOf(&node{hangs: true}, &node{}) })
		begin := time.Now()
		if b := f.must(200, "GET", groupsPath+"/bill.billing", ""); fmt.Sprint(b["unreachable"]) != "[gw2]" {
			t.Errorf("answered %v", b)
		}
		if took := time.Since(begin); took > 2*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

func TestSeek(t *testing.T) {
	second := &node{}
	f := withOrders(t, func(c *manager.Config) { c.Peers = peersOf(second) })
	at, err := f.store.Resolve(t.Context(), "shop.orders.v1", store.Start{Newest: true})
	if err != nil || len(at) != 2 {
		t.Fatal(at, err)
	}
	future := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	for i, c := range []struct{ body, want, answer string }{
		{`{"to":"newest"}`, "10 10", `{"offsets":[{"partition":0,"offset":10},{"partition":1,"offset":10}]}`},
		{`{"to":"oldest"}`, "0 0", `{"offsets":[{"partition":0,"offset":0},{"partition":1,"offset":0}]}`},
		{`{"offsets":[{"partition":1,"offset":5}]}`, "0 5", `{"offsets":[{"partition":1,"offset":5}]}`},
		{`{"offsets":[{"partition":0,"offset":10},{"partition":1,"offset":0}]}`, "10 0", `{"offsets":[{"partition":0,"offset":10},{"partition":1,"offset":0}]}`},
		{`{"to":"2001-01-01T00:00:00+02:00"}`, "0 0", ``},
		{`{"to":"` + future + `"}`, "10 10", ``},
	} {
		r := f.ask("PUT", groupsPath+"/bill.billing/offsets", c.body)
		r.want(t, 200)
		if got := f.positions(billing); got != c.want {
			t.Errorf("%s: at %s, not %s", c.body, got, c.want)
		}
		if got := strings.TrimSpace(r.Body.String()); c.answer != "" && got != c.answer {
			t.Errorf("%s: answered %s", c.body, got)
		}
		for _, n := range []*node{f.self, second} {
			if n.suspends != i+1 || n.isSuspended(billing) {
				t.Errorf("%s: suspended %d times, still so: %v", c.body, n.suspends, n.isSuspended(billing))
			}
		}
	}
}

func TestSeekFaults(t *testing.T) {
	f := withOrders(t, nil)
	for _, c := range []struct {
		body string
		want errs.Kind
		says string
	}{
		{`{}`, errs.InvalidBody, "either"},
		{`{"to":"oldest","offsets":[{"partition":0,"offset":1}]}`, errs.InvalidBody, "either"},
		{`{"to":"yesterday"}`, errs.InvalidBody, "yesterday"},
		{`{"offsets":[]}`, errs.InvalidBody, "either"},
		{`{"offsets":[{"partition":2,"offset":1}]}`, errs.InvalidBody, "no partition 2"},
		{`{"offsets":[{"partition":-1,"offset":1}]}`, errs.InvalidBody, "no partition -1"},
		{`{"offsets":[{"partition":0,"offset":11}]}`, errs.InvalidBody, "0 to 10, not 11"},
		{`{"offsets":[{"partition":0,"offset":-1}]}`, errs.InvalidBody, "0 to 10, not -1"},
		{`{"offsets":[{"partition":0,"offset":1},{"partition":0,"offset":2}]}`, errs.InvalidBody, "twice"},
		{`{"offsets":[{"partition":0,"offset":1,"beyond":"x"}]}`, errs.InvalidBody, "beyond"},
		{`{"offsets":[{"partition":0,"offset":"1"}]}`, errs.InvalidBody, "offset"},
	} {
		t.Run(c.body, func(t *testing.T) { f.ask("PUT", groupsPath+"/g/offsets", c.body).problem(t, c.want, c.says) })
	}
	f.ask("PUT", "/v1/groups/shop/none/v1/g/offsets", `{"to":"oldest"}`).problem(t, errs.UnknownTopic)
	if f.self.suspends != 0 {
		t.Error("a group was suspended for nothing")
	}
}

// A gateway that does not answer may be a member. Then nothing is done, rather than half.
func TestNothingMovesWhileAGatewayIsSilent(t *testing.T) {
	second := &node{}
	f := withOrders(t, func(c *manager.Config) { c.Peers = peersOf(second) })
	f.seek(billing, 3, 3)
	second.fail = errs.Unavailable
	for _, c := range [][]string{{"PUT", "/bill.billing/offsets", `{"to":"newest"}`}, {"DELETE", "/bill.billing", ``}} {
		r := f.ask(c[0], groupsPath+c[1], c[2])
		r.problem(t, errs.Unavailable, "nothing was done", "gw2")
		if b := r.want(t, 503); fmt.Sprint(b["unreachable"]) != "[gw2]" || r.Header().Get("Retry-After") == "" {
			t.Errorf("answered %v", b)
		}
	}
	if got := f.positions(billing); got != "3 3" || f.self.isSuspended(billing) {
		t.Errorf("at %s, suspended here: %v", got, f.self.isSuspended(billing))
	}
	if log := f.log.String(); strings.Count(log, `"outcome":"unavailable"`) != 2 {
		t.Errorf("the log says that something was done: %s", log)
	}
}

// A consumer that uses Kafka itself does not let go; 409 says so, and the gateways go on.
func TestSeekUnderANativeMember(t *testing.T) {
	f := withOrders(t, nil)
	feed, err := f.store.Subscribe(t.Context(), store.Spec{Topic: billing.Topic, Group: billing.Group})
	if err != nil {
		t.Fatal(err)
	}
	f.ask("PUT", groupsPath+"/bill.billing/offsets", `{"to":"newest"}`).problem(t, errs.Conflict, "1 members")
	f.ask("DELETE", groupsPath+"/bill.billing", ``).problem(t, errs.Conflict)
	if f.self.isSuspended(billing) {
		t.Error("still suspended")
	}
	if err := feed.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.must(200, "PUT", groupsPath+"/bill.billing/offsets", `{"to":"newest"}`)
}

func TestNativeGroupNeedsNoGateway(t *testing.T) {
	second := &node{fail: errs.Unavailable}
	f := withOrders(t, func(c *manager.Config) { c.Peers = peersOf(second) })
	native := group.Key{Topic: billing.Topic, Group: "native"}
	f.seek(native, 3, 3)
	f.must(200, "PUT", groupsPath+"/native/offsets?native=1", `{"to":"newest"}`)
	if got := f.positions(native); got != "10 10" {
		t.Errorf("at %s", got)
	}
	f.must(204, "DELETE", groupsPath+"/native?native=1", "")
	if got := f.positions(native); got != "-1 -1" {
		t.Errorf("at %s", got)
	}
}

func TestDeleteGroup(t *testing.T) {
	second := &node{}
	f := withOrders(t, func(c *manager.Config) { c.Peers = peersOf(second) })
	f.seek(billing, 3, 3)
	second.infos = map[group.Key]group.Info{billing: {Clients: 2}}
	f.ask("DELETE", groupsPath+"/bill.billing", "").problem(t, errs.Conflict, "2 clients at gateway gw2")
	second.infos = nil
	f.must(204, "DELETE", groupsPath+"/bill.billing", "")
	if got := f.positions(billing); got != "-1 -1" || second.suspends != 1 || second.isSuspended(billing) {
		t.Errorf("at %s; suspended %d times", got, second.suspends)
	}
	f.ask("DELETE", groupsPath+"/bill.billing", "").problem(t, errs.NotFound)
}

// hubNode is a gateway with a real engine.
type hubNode struct{ *group.Hub }

func (hubNode) Clients(context.Context) ([]online.Client, error) { return nil, nil }
func (hubNode) Refresh(context.Context) error                    { return nil }
func (n hubNode) Group(_ context.Context, key group.Key) (group.Info, error) {
	info, _ := n.Info(key)
	return info, nil
}
func (n hubNode) Resume(_ context.Context, key group.Key) error {
	n.Hub.Resume(key)
	return nil
}

// A group is moved under its clients: their sessions end, and those they open then get what lies at the new position.
func TestSeekUnderAClient(t *testing.T) {
	var hub *group.Hub
	f := withOrders(t, func(c *manager.Config) {
		hub = group.NewHub(group.Config{
			Store: c.Store.(store.Subscriber), Secret: func() []byte { return make([]byte, 32) },
			Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
		})
		c.Self = hubNode{hub}
	})
	t.Cleanup(func() { _ = hub.Close(context.Background()) })
	open := func() group.Session {
		s, err := hub.Open(t.Context(), group.Ask{Key: billing, Settings: group.Settings{Mode: group.Fifo}, Lease: time.Minute, Prefetch: 100})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open()
	if got := take(t, s, 20); len(got) != 20 {
		t.Fatalf("%d messages at first", len(got))
	}
	b := f.must(200, "GET", groupsPath+"/bill.billing", "")
	if b.fields("mode", "lag", "in_flight") != "fifo 20 20" {
		t.Errorf("before: %v", b)
	}
	f.ask("DELETE", groupsPath+"/bill.billing", "").problem(t, errs.Conflict, "1 clients at gateway gw1")
	f.must(200, "PUT", groupsPath+"/bill.billing/offsets", `{"offsets":[{"partition":0,"offset":8},{"partition":1,"offset":9}]}`)
	if _, err := s.Next(t.Context(), 1); !errors.Is(err, group.ErrMoved) {
		t.Errorf("Next when the group was moved: %v", err)
	}
	s.Close()
	s = open()
	defer s.Close()
	if got := strings.Join(take(t, s, 3), ", "); got != "0/8, 0/9, 1/9" {
		t.Errorf("after the move: %s", got)
	}
}

// take takes n messages, sorted.
func take(t *testing.T, s group.Session, n int) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	byPartition := map[int32][]string{}
	for got := 0; got < n; {
		b, err := s.Next(ctx, n-got)
		if err != nil {
			t.Fatalf("after %d of %d: %v", got, n, err)
		}
		got += len(b.Deliveries)
		for _, d := range b.Deliveries {
			byPartition[d.Partition] = append(byPartition[d.Partition], fmt.Sprintf("%d/%d", d.Partition, d.Offset))
		}
	}
	return append(byPartition[0], byPartition[1]...)
}

// One move at a time: the second waits for the first, as long as its own request lasts.
func TestMovesTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := &node{hangs: true}
		f := withOrders(t, func(c *manager.Config) { c.Peers = peersOf(slow) })
		codes := make(chan int, 4)
		for range 4 {
			go func() { codes <- f.ask("PUT", groupsPath+"/g/offsets", `{"to":"newest"}`).Code }()
		}
		for range 4 {
			if code := <-codes; code != 503 {
				t.Errorf("answered %d", code)
			}
		}
	})
}

var errBroken = errors.New("disk on fire")

// brokenStore fails to seek.
type brokenStore struct{ manager.Store }

func (brokenStore) Seek(context.Context, string, string, ...store.Position) error { return errBroken }

// Whatever the store says, the gateways go on.
func TestResumeAfterAFailedSeek(t *testing.T) {
	f := withOrders(t, func(c *manager.Config) { c.Store = brokenStore{c.Store} })
	f.ask("PUT", groupsPath+"/bill.billing/offsets", `{"to":"newest"}`).want(t, 500)
	if f.self.suspends != 1 || f.self.isSuspended(billing) {
		t.Error("still suspended")
	}
}

func TestOpenModeGroupsNeedNoRegistration(t *testing.T) {
	f := newFixture(t, func(c *manager.Config) { c.Open = true })
	f.makeInStore(store.Topic{Name: orders.Store(), Partitions: 1})
	f.seek(group.Key{Topic: orders.Store(), Group: meta.Group{Subscriber: "default", Name: "g", Topic: orders}.Store()}, 0)
	if got := f.must(200, "GET", groupsPath, "").names(t, "group"); len(got) != 1 || got[0] != "default.g" {
		t.Errorf("listed %v", got)
	}
	f.ask("GET", "/v1/groups/a/b/c", "").problem(t, errs.UnknownTopic)
}
