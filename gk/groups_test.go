package gk

import (
	"strings"
	"testing"
)

const (
	billing = `{"group":"bill.billing","mode":"fifo","lag":60,"in_flight":3,"members":[{"gateway":"gw1","partitions":[0,1],"clients":2}],` +
		`"partitions":[{"partition":0,"start":0,"end":100,"committed":40,"lag":60,"in_flight":3,"oldest_unacked":"2s"},` +
		`{"partition":1,"start":5,"end":5,"committed":-1,"lag":0,"in_flight":0,"oldest_unacked":"0s"}],"unreachable":["gw2"]}`
	old = `{"group":"old-consumer","native":true,"lag":5,"in_flight":0,"members":[],"partitions":[{"partition":0,"start":0,"end":100,"committed":95,"lag":5,"in_flight":0,"oldest_unacked":"0s"}]}`
)

func newGroups(t *testing.T) *fake {
	t.Helper()
	f := newFake(t)
	f.answer("GET /v1/groups/shop/orders/v1", 200, items(`{"group":"bill.billing"}`, `{"group":"old-consumer","native":true}`, `{"group":"forgotten"}`))
	f.answer("GET /v1/groups/shop/orders/v1/bill.billing", 200, billing)
	f.answer("GET /v1/groups/shop/orders/v1/old-consumer", 200, old)
	return f
}

func TestGroups(t *testing.T) {
	f := newGroups(t)
	f.invoke(t, "groups", "ls", "shop/orders/v1").want(t, 0, "GROUP         NATIVE\nbill.billing  false\nold-consumer  true\nforgotten     false\n", "")
	f.invoke(t, "groups", "get", "shop/orders/v1", "bill.billing").want(t, 0, `group        bill.billing
mode         fifo
lag          60
in_flight    3
unreachable  gw2

GATEWAY  CLIENTS  PARTITIONS
gw1      2        [0 1]

PARTITION  START  END  COMMITTED  LAG  IN-FLIGHT  OLDEST-UNACKED
0          0      100  40         60   3          2s
1          5      5    -          0    0          0s
`, "")
	o := f.invoke(t, "groups", "get", "shop/orders/v1", "old-consumer", "--native", "-o", "json")
	o.contains(t, 0, `"native": true`)
	if r := f.requests(); r[len(r)-1].query != "native=1" {
		t.Error(r[len(r)-1])
	}
}

func TestLag(t *testing.T) {
	f := newGroups(t)
	const table = `GROUP         MODE  LAG  IN-FLIGHT  OLDEST-UNACKED  MEMBERS  CLIENTS
bill.billing  fifo  60   3          2s              1        2
old-consumer  -     5    0          0s              0        0
`
	f.invoke(t, "lag", "shop/orders/v1").want(t, 0, table, "")
	native := 0
	for _, r := range f.requests() {
		if r.query == "native=1" && strings.HasSuffix(r.path, "/old-consumer") {
			native++
		}
	}
	if native != 1 {
		t.Errorf("%v", f.requests())
	}
	f.invoke(t, "lag", "shop/orders/v1", "--over", "60").want(t, 0, table, "")
	f.invoke(t, "lag", "shop/orders/v1", "--over", "59").want(t, 1, table, "gk: a group is 60 messages behind, over 59\n")
	const positions = `PARTITION  START  END  COMMITTED  LAG  IN-FLIGHT  OLDEST-UNACKED
0          0      100  95         5    0          0s
`
	f.invoke(t, "lag", "shop/orders/v1", "old-consumer", "--native").want(t, 0, positions, "")
	f.invoke(t, "offsets", "show", "shop/orders/v1", "old-consumer", "--native").want(t, 0, positions, "")
	f.invoke(t, "lag", "shop/orders/v1", "-o", "json").want(t, 0, "[\n"+billing+",\n"+old+"\n]\n", "")
	f.invoke(t, "lag", "shop/orders/v1", "nobody").contains(t, 1, "404")
}
