package manager_test

import (
	"strings"
	"testing"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/manager"
	"github.com/kateway/kateway/meta"
)

func TestAppFromBeginToEnd(t *testing.T) {
	f := newFixture(t, nil)
	r := f.ask("POST", "/v1/apps", `{"app":"shop","description":"sells","limits":{"topics":3,"burst":"90s"}}`)
	made := r.want(t, 201)
	if r.Header().Get("Location") != "/v1/apps/shop" || made.fields("app", "description", "disabled", "class", "cluster") != "shop sells false standard default" {
		t.Errorf("made %v at %s", made, r.Header().Get("Location"))
	}
	if at, err := time.Parse(time.RFC3339, made["created"].(string)); err != nil || time.Since(at) > time.Minute {
		t.Errorf("created %v", made["created"])
	}
	got := f.ask("GET", "/v1/apps/shop", "")
	if b := got.want(t, 200); got.etag() != r.etag() || got.etag() == "" || b.fields("app", "class") != "shop standard" {
		t.Errorf("got %v %s, made %s", b, got.etag(), r.etag())
	}
	patched := f.ask("PATCH", "/v1/apps/shop", `{"disabled":true,"class":"premium","limits":{"streams":7}}`)
	b := patched.want(t, 200)
	limits := object(b["limits"].(map[string]any))
	if b.fields("description", "disabled", "class") != "sells true premium" || limits.fields("topics", "streams") != "3 7" {
		t.Errorf("patched %v: what is not named must stay", b)
	}
	if patched.etag() == r.etag() {
		t.Error("the ETag is that of before")
	}
	f.ask("DELETE", "/v1/apps/shop", "").want(t, 204)
	f.ask("GET", "/v1/apps/shop", "").problem(t, errs.UnknownApp, "shop")
}

func TestAppFaults(t *testing.T) {
	f := newFixture(t, nil)
	f.must(201, "POST", "/v1/apps", `{"app":"shop"}`)
	f.must(201, "POST", "/v1/clusters", `{"cluster":"east","brokers":["k:9092"]}`)
	f.must(201, "POST", "/v1/topics", `{"app":"shop","topic":"orders","ver":"v1"}`)
	for _, c := range []struct {
		method, path, body string
		want               errs.Kind
		says               string
	}{
		{"POST", "/v1/apps", `{"app":"shop"}`, errs.Conflict, "shop"},
		{"POST", "/v1/apps", `{"app":"a_b"}`, errs.InvalidName, "a_b"},
		{"POST", "/v1/apps", `{}`, errs.InvalidName, "app"},
		{"POST", "/v1/apps", `{"app":"x","class":"gold"}`, errs.InvalidBody, "premium"},
		{"POST", "/v1/apps", `{"app":"x","class":"gold","limits":{"jobs":-1}}`, errs.InvalidBody, "; limit jobs"},
		{"POST", "/v1/apps", `{"app":"x","cluster":"west"}`, errs.InvalidBody, "west"},
		{"POST", "/v1/apps", `{"app":"x","limits":{"burst":"soon"}}`, errs.InvalidBody, "limits/burst"},
		{"POST", "/v1/apps", `{"app":"x","limits":{"requests":1}}`, errs.InvalidBody, `"limits/requests"`},
		{"GET", "/v1/apps/none", ``, errs.UnknownApp, "none"},
		{"GET", "/v1/apps/a_b", ``, errs.InvalidName, "a_b"},
		{"PATCH", "/v1/apps/none", `{}`, errs.UnknownApp, "none"},
		{"PATCH", "/v1/apps/shop", `{"cluster":"east"}`, errs.Conflict, "topics"},
		{"PATCH", "/v1/apps/shop", `{"disabled":"yes"}`, errs.InvalidBody, "disabled"},
		{"DELETE", "/v1/apps/shop", ``, errs.Conflict, "1 topics"},
		{"DELETE", "/v1/apps/none", ``, errs.UnknownApp, "none"},
		{"GET", "/v1/apps?limit=0", ``, errs.InvalidParam, "1 to 1000"},
		{"GET", "/v1/apps?limit=1001", ``, errs.InvalidParam, "1 to 1000"},
		{"GET", "/v1/apps?limit=1&limit=2", ``, errs.InvalidParam, "limit"},
		{"GET", "/v1/apps?page=1", ``, errs.InvalidParam, "page"},
		{"GET", "/v1/apps/shop?limit=1", ``, errs.InvalidParam, "limit"},
	} {
		t.Run(c.method+" "+c.path+" "+c.body, func(t *testing.T) { f.ask(c.method, c.path, c.body).problem(t, c.want, c.says) })
	}
}

// Who registers a name again does not inherit what the one before him was granted.
func TestGrantsGoWithTheApp(t *testing.T) {
	f := newFixture(t, nil)
	for _, app := range []string{"shop", "bill"} {
		f.must(201, "POST", "/v1/apps", `{"app":"`+app+`"}`)
	}
	f.must(201, "POST", "/v1/topics", `{"app":"shop","topic":"orders","ver":"v1"}`)
	const grant = "/v1/subscriptions/shop/orders/v1/bill"
	f.must(201, "PUT", grant, `{}`)
	f.must(204, "DELETE", "/v1/apps/bill", "")
	f.ask("GET", grant, "").problem(t, errs.NotFound)

	// One that is left over, since the manager died in between, goes at the latest when the name is used again.
	left := &meta.Subscription{App: "shop", Name: "orders", Ver: "v1", Subscriber: "bill", Created: time.Now()}
	if _, err := f.meta.Put(t.Context(), left, ""); err != nil {
		t.Fatal(err)
	}
	f.must(201, "POST", "/v1/apps", `{"app":"bill"}`)
	f.ask("GET", grant, "").problem(t, errs.NotFound)
}

func TestKeys(t *testing.T) {
	f := newFixture(t, nil)
	f.must(201, "POST", "/v1/apps", `{"app":"shop"}`)
	r := f.ask("POST", "/v1/apps/shop/keys", `{"use":"pub","name":"ci","expires":"2099-01-01T00:00:00Z"}`)
	made := r.want(t, 201)
	id, secret := made["id"].(string), made["key"].(string)
	if r.Header().Get("Location") != "/v1/apps/shop/keys/"+id || made.fields("use", "name", "expires") != "pub ci 2099-01-01T00:00:00Z" {
		t.Errorf("made %v", made)
	}
	app, key := f.meta.Snapshot().Key(id)
	if app == nil || app.Name != "shop" || !meta.CheckSecret(secret, key.Hash) || meta.SecretID(secret) != id {
		t.Errorf("the secret is not that of the key that is kept: %v", key)
	}
	second := f.must(201, "POST", "/v1/apps/shop/keys", `{}`)
	if second["use"] != "both" {
		t.Errorf("made %v", second)
	}
	list := f.ask("GET", "/v1/apps/shop/keys", "")
	if ids := list.want(t, 200).names(t, "id"); len(ids) != 2 || !strings.Contains(strings.Join(ids, " "), id) {
		t.Errorf("listed %v", ids)
	}
	// The secret, and what is kept of it, is in no other answer and not in the log.
	for where, text := range map[string]string{
		"list": list.Body.String(), "app": f.ask("GET", "/v1/apps/shop", "").Body.String(), "apps": f.ask("GET", "/v1/apps", "").Body.String(), "log": f.log.String(),
	} {
		_, random, _ := strings.Cut(secret, ".")
		if strings.Contains(text, random) || strings.Contains(text, key.Hash) {
			t.Errorf("%s shows the secret: %s", where, text)
		}
	}
	f.must(204, "DELETE", "/v1/apps/shop/keys/"+id, "")
	if _, key := f.meta.Snapshot().Key(id); key != nil {
		t.Error("the key is still good")
	}
	f.ask("DELETE", "/v1/apps/shop/keys/"+id, "").problem(t, errs.NotFound)
	if ids := f.must(200, "GET", "/v1/apps/shop/keys", "").names(t, "id"); len(ids) != 1 {
		t.Errorf("listed %v", ids)
	}
}

func TestKeyFaults(t *testing.T) {
	f := newFixture(t, nil)
	f.must(201, "POST", "/v1/apps", `{"app":"shop"}`)
	const keys = "/v1/apps/shop/keys"
	f.ask("POST", keys, `{"use":"all"}`).problem(t, errs.InvalidBody, "pub, sub or both")
	f.ask("POST", keys, `{"expires":"2001-01-01T00:00:00Z"}`).problem(t, errs.InvalidBody, "past")
	f.ask("POST", keys, `{"expires":"tomorrow"}`).problem(t, errs.InvalidBody, "expires")
	f.ask("POST", "/v1/apps/none/keys", `{}`).problem(t, errs.UnknownApp, "none")
	f.ask("GET", "/v1/apps/none/keys", ``).problem(t, errs.UnknownApp, "none")
	for range 100 {
		f.must(201, "POST", keys, `{}`)
	}
	f.ask("POST", keys, `{}`).problem(t, errs.Conflict, "100 keys")
}

// In open mode apps need not be registered, and may be.
func TestAppsInOpenMode(t *testing.T) {
	f := newFixture(t, func(c *manager.Config) { c.Open = true })
	f.must(201, "POST", "/v1/topics", `{"app":"nobody","topic":"orders","ver":"v1"}`)
	f.must(201, "PUT", "/v1/subscriptions/nobody/orders/v1/noone", `{}`)
	f.must(201, "POST", "/v1/apps", `{"app":"nobody"}`)
	f.ask("DELETE", "/v1/apps/nobody", "").problem(t, errs.Conflict)
}
