package manager_test

import (
	"strings"
	"testing"

	"github.com/kateway/kateway/internal/errs"
)

func TestSubscriptions(t *testing.T) {
	f := withShop(t, nil)
	for _, app := range []string{"bill", "ship"} {
		f.must(201, "POST", "/v1/apps", `{"app":"`+app+`"}`)
		f.must(201, "POST", "/v1/topics", `{"app":"`+app+`","topic":"own","ver":"v1"}`)
	}
	f.must(201, "POST", "/v1/topics", `{"app":"shop","topic":"orders","ver":"v1"}`)
	const grant = "/v1/subscriptions/shop/orders/v1/bill"
	r := f.ask("PUT", grant, `{"groups":["billing"],"spread":{"billing":3}}`)
	made := r.want(t, 201)
	if r.Header().Get("Location") != grant || made.fields("app", "topic", "ver", "subscriber", "groups", "spread") != "shop orders v1 bill [billing] map[billing:3]" {
		t.Errorf("made %v at %s", made, r.Header().Get("Location"))
	}
	if s := f.meta.Snapshot(); !s.MayRead("bill", "billing", orders) || s.MayRead("bill", "other", orders) || s.MayRead("ship", "billing", orders) {
		t.Error("not what was granted")
	}
	again := f.ask("PUT", grant, `{}`)
	if b := again.want(t, 200); b.fields("groups") != "[]" || b["spread"] != nil || b["created"] != made["created"] || again.Header().Get("Location") != "" {
		t.Errorf("replaced by %v", b)
	}
	if got := f.ask("GET", grant, ""); got.etag() != again.etag() || got.want(t, 200)["subscriber"] != "bill" {
		t.Errorf("got %s", got.Body)
	}
	f.must(201, "PUT", "/v1/subscriptions/shop/orders/v1/ship", `{}`)
	f.must(201, "PUT", "/v1/subscriptions/bill/own/v1/ship", `{}`)
	for query, want := range map[string]string{
		"": "ship bill ship", "?app=shop": "bill ship", "?subscriber=ship": "ship ship", "?app=bill&subscriber=bill": "", "?app=sho": "",
	} {
		if got := strings.Join(f.must(200, "GET", "/v1/subscriptions"+query, "").names(t, "subscriber"), " "); got != want {
			t.Errorf("%s: %s, not %s", query, got, want)
		}
	}
	f.must(204, "DELETE", grant, "")
	f.ask("GET", grant, "").problem(t, errs.NotFound, "bill", "shop/orders/v1")
	f.ask("DELETE", grant, "").problem(t, errs.NotFound)
}

func TestSubscriptionFaults(t *testing.T) {
	f := withShop(t, nil)
	f.must(201, "POST", "/v1/topics", `{"app":"shop","topic":"orders","ver":"v1"}`)
	const base = "/v1/subscriptions/shop/orders/v1/"
	for _, c := range []struct {
		method, path, body string
		want               errs.Kind
		says               string
	}{
		{"PUT", base + "none", `{}`, errs.UnknownApp, "none"},
		{"PUT", "/v1/subscriptions/shop/none/v1/shop", `{}`, errs.UnknownTopic, "shop/none/v1"},
		{"PUT", base + "a_b", `{}`, errs.InvalidName, "a_b"},
		{"PUT", base + "shop", `{"groups":["a.b"]}`, errs.InvalidName, "a.b"},
		{"PUT", base + "shop", `{"spread":{"g":0}}`, errs.InvalidBody, "spread"},
		{"PUT", base + "shop", `{"groups":"g"}`, errs.InvalidBody, "groups"},
		{"GET", base + "a_b", ``, errs.InvalidName, "a_b"},
		{"DELETE", base + "a_b", ``, errs.InvalidName, "a_b"},
		{"GET", "/v1/subscriptions?app=a_b", ``, errs.InvalidName, "a_b"},
		{"GET", "/v1/subscriptions?subscriber=a_b", ``, errs.InvalidName, "a_b"},
	} {
		t.Run(c.method+" "+c.path+" "+c.body, func(t *testing.T) { f.ask(c.method, c.path, c.body).problem(t, c.want, c.says) })
	}
	f.must(201, "PUT", base+"shop", `{"spread":{"busy":4}}`) // one's own topic, for the spread
}
