package manager_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/manager"
	"github.com/kateway/kateway/meta"
)

// walk lists everything there is, page by page.
func (f *fixture) walk(path, field string) (all []string) {
	f.t.Helper()
	for page := path; ; {
		b := f.must(200, "GET", page, "")
		all = append(all, b.names(f.t, field)...)
		next, more := b["next"].(string)
		if !more {
			return all
		}
		if len(all) > 10_000 {
			f.t.Fatal("no end")
		}
		page = with(path, "after="+url.QueryEscape(next))
	}
}

// with adds a parameter to a path.
func with(path, parameter string) string {
	if strings.Contains(path, "?") {
		return path + "&" + parameter
	}
	return path + "?" + parameter
}

// Every list gives each of 250 objects once, in order, whatever the limit.
func TestPagesOf250(t *testing.T) {
	f := withShop(t, nil)
	var want []string
	for i := range 250 {
		name := fmt.Sprintf("x%03d", i)
		want = append(want, name)
		for _, r := range []meta.Record{
			&meta.App{Name: name, Class: meta.ClassStandard},
			&meta.TopicRecord{App: "shop", Name: name, Ver: "v1", Partitions: 1, MaxAttempts: 1},
			&meta.Subscription{App: "shop", Name: name, Ver: "v1", Subscriber: "bill"},
			&meta.Subscription{App: "shop", Name: name, Ver: "v1", Subscriber: "zzz"},
			&meta.Cluster{Name: name, Brokers: []string{"k:9092"}},
			&meta.AdminKey{KeyID: name, Role: meta.RoleViewer, Hash: meta.HashSecret(name)},
		} {
			data, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			// All at once, since every change that is waited for is a snapshot of its own.
			if _, err := f.shared.Apply(t.Context(), meta.Change{ID: r.ID(), Data: data}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := f.meta.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path, field string
		others      []string // that are listed, too
	}{
		{"/v1/apps", "app", []string{"shop"}},
		{"/v1/topics", "topic", nil},
		{"/v1/topics?app=shop", "topic", nil},
		{"/v1/subscriptions?subscriber=bill", "topic", nil},
		{"/v1/clusters", "cluster", []string{"default"}},
		{"/v1/adminkeys", "id", nil},
	} {
		t.Run(c.path, func(t *testing.T) {
			all := slices.Sorted(slices.Values(append(slices.Clone(c.others), want...)))
			for _, limit := range []int{0, 1, 7, 125, 250, 1000} {
				path := c.path
				if limit > 0 {
					path = with(path, fmt.Sprintf("limit=%d", limit))
				}
				if got := f.walk(path, c.field); !slices.Equal(got, all) {
					t.Errorf("limit %d: %d of %d, %v", limit, len(got), len(all), got)
				}
			}
			if got := f.must(200, "GET", c.path, "").names(t, c.field); len(got) != 100 {
				t.Errorf("%d without a limit", len(got))
			}
			if b := f.ask("GET", with(c.path, "after=zzzz"), ""); !strings.Contains(b.Body.String(), `{"items":[]`) {
				t.Errorf("behind the end: %s", b.Body)
			}
		})
	}
}

func TestIfMatch(t *testing.T) {
	f := withShop(t, nil)
	for _, c := range []struct{ path, create, body, patch string }{
		{"/v1/apps/x", "POST /v1/apps", `{"app":"x"}`, "PATCH"},
		{"/v1/topics/shop/x/v1", "POST /v1/topics", `{"app":"shop","topic":"x","ver":"v1"}`, "PATCH"},
		{"/v1/clusters/x", "POST /v1/clusters", `{"cluster":"x","brokers":["k:9092"]}`, "PATCH"},
		{"/v1/subscriptions/shop/x/v1/shop", "PUT /v1/subscriptions/shop/x/v1/shop", `{}`, "PUT"},
	} {
		t.Run(c.path, func(t *testing.T) {
			method, path, _ := strings.Cut(c.create, " ")
			made := f.ask(method, path, c.body)
			made.want(t, 201)
			change := map[string]string{"/v1/apps/x": `{"description":"new"}`, "/v1/topics/shop/x/v1": `{"max_attempts":3}`, "/v1/clusters/x": `{"brokers":["l:9092"]}`}[c.path]
			if change == "" {
				change = `{"groups":["g"]}`
			}
			f.ask(c.patch, c.path, change, "If-Match", `"older"`).problem(t, errs.PreconditionFailed, "get it again")
			f.ask(c.patch, c.path, change, "If-Match", `W/`+made.etag()).problem(t, errs.PreconditionFailed)
			f.ask(c.patch, c.path, change, "If-Match", `nonsense`).problem(t, errs.InvalidParam, "quotes")
			f.ask("DELETE", c.path, "", "If-Match", `"older"`).problem(t, errs.PreconditionFailed)
			changed := f.ask(c.patch, c.path, change, "If-Match", `"other", `+made.etag())
			changed.want(t, 200)
			f.ask(c.patch, c.path, change, "If-Match", made.etag()).problem(t, errs.PreconditionFailed)
			f.ask(c.patch, c.path, change, "If-Match", `*`).want(t, 200)
			f.ask("DELETE", c.path, "", "If-Match", changed.etag()).want(t, 204)
			f.ask("DELETE", c.path, "", "If-Match", `*`).problem(t, errs.PreconditionFailed)
			if c.path == "/v1/topics/shop/x/v1" { // for the subscription that comes next
				f.must(201, method, path, c.body)
			}
		})
	}
	f.ask("PUT", "/v1/subscriptions/shop/x/v1/shop", `{}`, "If-Match", `*`).problem(t, errs.PreconditionFailed)
}

// another is a second gateway's manager on the same objects and store.
func (f *fixture) another() *fixture {
	g := *f
	g.source = &source{Source: f.shared.Another()}
	g.meta = follow(f.t, g.source)
	g.cfg.ID, g.cfg.Meta, g.cfg.Metrics = "gw2", g.meta, prometheus.NewRegistry()
	g.h = manager.New(g.cfg)
	g.router = routerOf(g.h, slog.New(slog.DiscardHandler))
	return &g
}

// Of managers at two gateways that change what they both have seen, one is refused, again and again.
func TestTwoManagersRace(t *testing.T) {
	f := withShop(t, nil)
	g := f.another()
	for round := range 50 {
		if err := f.meta.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		etag := f.ask("GET", "/v1/apps/shop", "").etag()
		var codes [2]int
		var wg sync.WaitGroup
		for i, m := range []*fixture{f, g} {
			wg.Go(func() {
				codes[i] = m.ask("PATCH", "/v1/apps/shop", fmt.Sprintf(`{"description":"round %d of %d"}`, round, i), "If-Match", etag).Code
			})
		}
		wg.Wait()
		if slices.Sort(codes[:]); codes != [2]int{200, 412} {
			t.Fatalf("round %d: %v", round, codes)
		}
	}
}

// Without If-Match nobody's change is lost: each key that was made is there.
func TestConcurrentChangesAddUp(t *testing.T) {
	f := withShop(t, nil)
	g := f.another()
	var wg sync.WaitGroup
	for range 10 {
		for _, m := range []*fixture{f, g} {
			wg.Go(func() {
				if r := m.ask("POST", "/v1/apps/shop/keys", `{}`); r.Code != 201 {
					t.Errorf("%d %s", r.Code, r.Body)
				}
			})
		}
	}
	wg.Wait()
	if err := f.meta.Refresh(t.Context()); err != nil { // the last may be the other gateway's
		t.Fatal(err)
	}
	if n := len(f.walk("/v1/apps/shop/keys", "id")); n != 20 {
		t.Errorf("%d keys", n)
	}
}

// A gateway that has not heard of a change yet does not refuse who made it.
func TestIfMatchAtAnotherGateway(t *testing.T) {
	f := withShop(t, nil)
	g := f.another()
	for round := range 20 {
		etag := f.ask("PATCH", "/v1/apps/shop", fmt.Sprintf(`{"description":"%d"}`, round)).etag()
		r := g.ask("PATCH", "/v1/apps/shop", `{"class":"premium"}`, "If-Match", etag)
		if b := r.want(t, 200); b.fields("description", "class") != fmt.Sprint(round, " premium") {
			t.Fatalf("round %d: %v", round, b)
		}
	}
}

// A grant that was made at another gateway, together with the app that it is for, does not fall to who tries to make the
// app once more.
func TestGrantsOfWhatWasMadeElsewhere(t *testing.T) {
	f := withShop(t, nil)
	f.must(201, "POST", "/v1/topics", `{"app":"shop","topic":"orders","ver":"v1"}`)
	g := f.another()
	for round := range 20 {
		app := fmt.Sprintf("app%d", round)
		f.must(201, "POST", "/v1/apps", `{"app":"`+app+`"}`)
		f.must(201, "PUT", "/v1/subscriptions/shop/orders/v1/"+app, `{}`)
		g.ask("POST", "/v1/apps", `{"app":"`+app+`"}`).problem(t, errs.Conflict)
		f.must(200, "GET", "/v1/subscriptions/shop/orders/v1/"+app, "")
	}
}

// While meta's source is away nothing can be changed, and what is known can be read.
func TestSourceAway(t *testing.T) {
	f := withShop(t, nil)
	f.must(201, "POST", "/v1/topics", `{"app":"shop","topic":"orders","ver":"v1"}`)
	f.shared.Away(true)
	for !f.meta.Snapshot().Stale() {
		<-f.meta.Changed()
	}
	for _, path := range []string{"/v1/apps/shop", "/v1/topics", ordersPath, "/v1/groups/shop/orders/v1"} {
		r := f.ask("GET", path, "")
		if r.want(t, 200); r.Header().Get("X-Stale") != "1" {
			t.Errorf("%s is not marked as stale", path)
		}
	}
	for _, c := range []struct{ method, path, body string }{
		{"POST", "/v1/apps", `{"app":"new"}`}, {"PATCH", "/v1/apps/shop", `{}`},
		{"POST", "/v1/apps/shop/keys", `{}`}, {"POST", "/v1/topics", `{"app":"shop","topic":"new","ver":"v1"}`},
		{"PATCH", ordersPath, `{"partitions":5}`}, {"PUT", "/v1/options/log_level", `{"value":"debug"}`},
		{"PUT", "/v1/subscriptions/shop/orders/v1/shop", `{}`}, {"POST", "/v1/clusters", `{"cluster":"new","brokers":["k:9092"]}`},
	} {
		r := f.ask(c.method, c.path, c.body)
		if r.problem(t, errs.Unavailable); r.Header().Get("Retry-After") == "" {
			t.Errorf("%s: no Retry-After", c.path)
		}
	}
	if _, ok := f.inStore("shop.new.v1"); ok {
		t.Error("a topic that nobody knows of is left in the store")
	}
	if in, _ := f.inStore("shop.orders.v1"); in.Partitions == 5 {
		t.Error("the store was changed though the record could not be")
	}
	if b := f.must(200, "GET", "/v1/status", ""); object(b["meta"].(map[string]any)).fields("loaded", "stale") != "true true" {
		t.Errorf("status %v", b)
	}
	f.shared.Away(false)
	for f.meta.Snapshot().Stale() {
		<-f.meta.Changed()
	}
	if r := f.ask("POST", "/v1/apps", `{"app":"new"}`); r.Code != 201 || r.Header().Get("X-Stale") != "" {
		t.Errorf("%d %v", r.Code, r.Header())
	}
}
