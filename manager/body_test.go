package manager_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/kateway/kateway/internal/errs"
)

func TestBodies(t *testing.T) {
	f := newFixture(t, nil)
	for _, c := range []struct {
		name, body, kind string
		want             errs.Kind
		says             string
	}{
		{"unknown field", `{"app":"x","color":"red"}`, "application/json", errs.InvalidBody, `"color"`},
		{"field in another case", `{"App":"x"}`, "application/json", errs.InvalidBody, `"App"`},
		{"field twice", `{"app":"x","app":"y"}`, "application/json", errs.InvalidBody, `"app"`},
		{"field twice, once escaped", `{"app":"x","\u0061pp":"y"}`, "application/json", errs.InvalidBody, `"app"`},
		{"wrong type", `{"app":7}`, "application/json", errs.InvalidBody, `"app"`},
		{"not even an object", `["app"]`, "application/json", errs.InvalidBody, "object"},
		{"null", `null`, "application/json", errs.InvalidBody, "object"},
		{"two objects", `{"app":"x"}{"app":"y"}`, "application/json", errs.InvalidBody, ""},
		{"cut off", `{"app":"x"`, "application/json", errs.InvalidBody, ""},
		{"bad UTF-8", "{\"app\":\"x\xff\"}", "application/json", errs.InvalidBody, "UTF-8"},
		{"empty", ` `, "application/json", errs.InvalidBody, "object"},
		{"too large", `{"app":"` + strings.Repeat("x", 64<<10) + `"}`, "application/json", errs.TooLarge, "65536"},
		{"a form", `app=x`, "application/x-www-form-urlencoded", errs.UnsupportedEncoding, "application/json"},
		{"text", `{"app":"x"}`, "text/plain", errs.UnsupportedEncoding, "application/json"},
		{"no type", `{"app":"x"}`, "", errs.UnsupportedEncoding, "application/json"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f.ask("POST", "/v1/apps", c.body, "Content-Type", c.kind).problem(t, c.want, c.says)
		})
	}
	f.ask("POST", "/v1/apps", `{"app":"x"}`, "Content-Encoding", "gzip").problem(t, errs.UnsupportedEncoding)
	f.ask("POST", "/v1/apps", `{"app":"x"}`, "Content-Type", "application/json; charset=utf-8").want(t, 201)
}

// What the gateway sets itself can't be set by a body, on no route (mass assignment).
func TestNobodySetsWhatIsNotHisToSet(t *testing.T) {
	f := withShop(t, nil)
	f.must(201, "POST", "/v1/topics", `{"app":"shop","topic":"orders","ver":"v1"}`)
	f.must(201, "POST", "/v1/clusters", `{"cluster":"east","brokers":["k:9092"]}`)
	f.must(201, "PUT", "/v1/subscriptions/shop/orders/v1/shop", `{}`)
	f.must(200, "PUT", "/v1/options/log_level", `{"value":"info"}`)
	everywhere := []string{"created", "hash", "key_id", "id", "keys", "revision", "etag"}
	routes := []struct {
		method, path, body string // a body that would do
		fixed              string // what is known, and not to be set
	}{
		{"POST", "/v1/apps", `{"app":"new"`, ""},
		{"PATCH", "/v1/apps/shop", `{"description":"changed"`, "app"},
		{"POST", "/v1/apps/shop/keys", `{"name":"n"`, "key app"},
		{"POST", "/v1/topics", `{"app":"shop","topic":"new","ver":"v1"`, "cluster registered place"},
		{"PATCH", ordersPath, `{"max_attempts":9`, "app topic ver store_topic cluster registered place"},
		{"PUT", "/v1/subscriptions/shop/orders/v1/shop", `{"groups":["changed"]`, "app topic ver subscriber"},
		{"POST", "/v1/clusters", `{"cluster":"new","brokers":["k:9092"]`, "apps topics live fault"},
		{"PATCH", "/v1/clusters/east", `{"brokers":["changed:9092"]`, "cluster apps topics live"},
		{"PUT", "/v1/options/log_level", `{"value":"debug"`, "name default set persists description"},
		{"POST", "/v1/adminkeys", `{"role":"viewer"`, "key"},
		{"PUT", "/v1/groups/shop/orders/v1/g/offsets", `{"to":"oldest"`, "group app topic beyond"},
		{"POST", "/v1/dead/shop/orders/v1/g/requeue", `{"messages":[]`, "group app topic all"},
		{"DELETE", "/v1/dead/shop/orders/v1/g", `{"messages":[]`, "group app topic all"},
		{"POST", "/v1/spool/aside/requeue", `{"ids":[]`, "all topic messages"},
		{"DELETE", "/v1/spool/aside", `{"ids":[]`, "all topic messages"},
		{"PUT", ordersPath + "/schema", `{"type":"json","text":"{}"`, "app topic ver version"},
	}
	for _, r := range routes {
		for _, field := range append(strings.Fields(r.fixed), everywhere...) {
			t.Run(fmt.Sprintf("%s %s %s", r.method, r.path, field), func(t *testing.T) {
				f.ask(r.method, r.path, r.body+`,"`+field+`":"x"}`).problem(t, errs.InvalidBody, field)
			})
		}
	}
	// Nothing of it had an effect.
	for path, absent := range map[string]string{
		"/v1/apps": "new", "/v1/apps/shop": "changed", "/v1/topics": `"new"`, ordersPath: `"max_attempts":9`, "/v1/clusters": "new",
		"/v1/clusters/east": "changed", "/v1/subscriptions": "changed", "/v1/options/log_level": "debug", "/v1/adminkeys": "viewer", "/v1/apps/shop/keys": `"n"`,
	} {
		if r := f.ask("GET", path, ""); strings.Contains(strings.ReplaceAll(r.Body.String(), "lines are logged: debug", ""), absent) {
			t.Errorf("%s: %s", path, r.Body)
		}
	}
	// Every route that reads a body is in the table above.
	for _, route := range f.h.Routes() {
		if route.Method == http.MethodGet || route.Method == http.MethodDelete || route.Path == "/v1/refresh" || route.Path == "/v1/secrets/peer/rotate" {
			continue
		}
		found := false
		for _, r := range routes {
			found = found || r.method == route.Method && matches(route.Path, r.path)
		}
		if !found {
			t.Errorf("%s %s is not tried", route.Method, route.Path)
		}
	}
}

// matches reports whether the path is one of the route's.
func matches(route, path string) bool {
	a, b := strings.Split(route, "/"), strings.Split(path, "/")
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] && !strings.HasPrefix(a[i], ":") {
			return false
		}
	}
	return true
}
