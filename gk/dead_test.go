package gk

import "testing"

func TestDead(t *testing.T) {
	f := newFake(t)
	const path = "/v1/dead/shop/orders/v1/bill.billing"
	f.answer("GET "+path, 200, items(`{"partition":0,"offset":3,"key":"k","value":"hello","cause":"nacked, attempt 16","attempts":16,"origin":{"partition":1,"offset":7}}`))
	f.answer("POST "+path+"/requeue", 200, `{"requeued":1}`)
	f.answer("DELETE "+path, 200, `{"purged":5}`)
	f.invoke(t, "dead", "ls", "shop/orders/v1", "bill.billing").want(t, 0, `PARTITION  OFFSET  ORIGIN  ATTEMPTS  CAUSE               KEY  VALUE
0          3       1=7     16        nacked, attempt 16  k    hello
`, "")
	f.invoke(t, "dead", "requeue", "shop/orders/v1", "bill.billing", "0=3").contains(t, 0, "1")
	f.invoke(t, "dead", "purge", "shop/orders/v1", "bill.billing", "--all").contains(t, 0, "5")
	bodies := map[string]string{}
	for _, r := range f.requests() {
		bodies[r.method] = r.body
	}
	if bodies["POST"] != `{"messages":[{"partition":0,"offset":3}]}` || bodies["DELETE"] != `{}` {
		t.Errorf("%v", bodies)
	}
	for _, args := range [][]string{{"shop/orders/v1", "g"}, {"shop/orders/v1", "g", "0=3", "--all"}} {
		f.invoke(t, append([]string{"dead", "purge"}, args...)...).contains(t, 2, "")
	}
	if n := len(f.requests()); n != 3 {
		t.Errorf("%d requests", n)
	}
}
