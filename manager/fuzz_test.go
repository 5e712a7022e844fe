package manager_test

import (
	"encoding/json"
	"strings"
	"testing"
)

// FuzzBodies: no body of any route that changes something is a fault of ours; what is refused is refused as a problem.
func FuzzBodies(f *testing.F) {
	routes := []struct{ method, path, body string }{
		{"POST", "/v1/apps", `{"app":"new","class":"standard","description":"x"}`},
		{"PATCH", "/v1/apps/shop", `{"description":"x","disabled":true}`},
		{"POST", "/v1/apps/shop/keys", `{"use":"pub","name":"n"}`},
		{"POST", "/v1/topics", `{"app":"shop","topic":"new","ver":"v1","partitions":2}`},
		{"PATCH", ordersPath, `{"max_attempts":9,"retention":"1h"}`},
		{"PUT", "/v1/subscriptions/shop/orders/v1/shop", `{"groups":["a","b"]}`},
		{"POST", "/v1/clusters", `{"cluster":"new","brokers":["k:9092"],"tls":true,"sasl":"plain"}`},
		{"PUT", "/v1/options/log_level", `{"value":"debug"}`},
		{"POST", "/v1/adminkeys", `{"role":"viewer","name":"n"}`},
		{"PUT", "/v1/groups/shop/orders/v1/g/offsets", `{"to":"oldest"}`},
		{"PUT", "/v1/groups/shop/orders/v1/g/offsets", `{"to":"2026-01-01T00:00:00Z"}`},
		{"POST", "/v1/dead/shop/orders/v1/g/requeue", `{"messages":[{"partition":0,"offset":1}]}`},
		{"PUT", ordersPath + "/schema", `{"type":"avro","text":"{\"type\":\"string\"}"}`},
	}
	for i, r := range routes {
		f.Add(i, r.body)
	}
	f.Fuzz(func(t *testing.T, i int, body string) {
		if i < 0 || i >= len(routes) {
			return
		}
		fx := withShop(t, nil)
		fx.must(201, "POST", "/v1/topics", `{"app":"shop","topic":"orders","ver":"v1"}`)
		r := routes[i]
		w := fx.ask(r.method, r.path, body)
		if w.Code >= 500 && w.Code != 501 {
			t.Fatalf("%s %s %q: %d %s", r.method, r.path, body, w.Code, w.Body)
		}
		var problem struct{ Code string }
		if w.Code >= 400 && (json.Unmarshal(w.Body.Bytes(), &problem) != nil || problem.Code == "" || strings.Contains(w.Body.String(), "goroutine ")) {
			t.Fatalf("%s %s %q: %s", r.method, r.path, body, w.Body)
		}
	})
}
