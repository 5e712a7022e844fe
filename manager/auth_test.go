package manager_test

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/manager"
	"github.com/kateway/kateway/meta"
	metamem "github.com/kateway/kateway/meta/mem"
)

// fill makes a path of a route.
func fill(route string) string {
	return strings.NewReplacer(":app", "shop", ":topic", "orders", ":ver", "v1", ":subscriber", "shop", ":group", "g", ":id", "x", ":name", "log_level", ":cluster", "east").Replace(route)
}

func TestNoRouteWithoutCredentials(t *testing.T) {
	f := withShop(t, nil)
	for _, r := range f.h.Routes() {
		for name, header := range map[string][]string{
			"none":          nil,
			"empty":         {"Authorization", ""},
			"another key":   {"Authorization", "Bearer first.xxx3456789012345678901234567890123456789012"},
			"no key at all": {"Authorization", "Bearer nonsense"},
			"only its id":   {"Authorization", "Bearer first."},
			"its hash":      {"Authorization", "Bearer " + meta.HashSecret(adminKey)},
			"basic":         {"Authorization", "Basic " + adminKey},
			"too long":      {"Authorization", "Bearer " + adminKey + strings.Repeat("x", 1000)},
		} {
			w := ask(f.router, r.Method, fill(r.Path), "", header...)
			w.problem(t, errs.Unauthenticated)
			if w.Header().Get("WWW-Authenticate") != `Bearer realm="kateway"` {
				t.Errorf("%s %s, %s: WWW-Authenticate %q", r.Method, r.Path, name, w.Header().Get("WWW-Authenticate"))
			}
		}
	}
	if strings.Count(f.log.String(), `"msg":"management"`) > 1 { // one is withShop's
		t.Errorf("who has no key is in the log of changes: %s", f.log)
	}
}

// addKey makes an admin key of the role.
func (f *fixture) addKey(role string) (id, secret string) {
	f.t.Helper()
	b := f.must(201, "POST", "/v1/adminkeys", `{"name":"`+role+`s","role":"`+role+`"}`)
	return b["id"].(string), b["key"].(string)
}

// forOperators and forAdmins are the routes that change something and the least role that may; every other is for viewers.
var (
	forAdmins = []string{
		"POST /v1/secrets/peer/rotate",
		"POST /v1/apps", "PATCH /v1/apps/:app", "DELETE /v1/apps/:app", "POST /v1/apps/:app/keys", "DELETE /v1/apps/:app/keys/:id",
		"GET /v1/adminkeys", "POST /v1/adminkeys", "DELETE /v1/adminkeys/:id",
	}
	forOperators = []string{
		"POST /v1/topics", "PATCH /v1/topics/:app/:topic/:ver", "DELETE /v1/topics/:app/:topic/:ver",
		"PUT /v1/subscriptions/:app/:topic/:ver/:subscriber", "DELETE /v1/subscriptions/:app/:topic/:ver/:subscriber",
		"DELETE /v1/groups/:app/:topic/:ver/:group", "PUT /v1/groups/:app/:topic/:ver/:group/offsets",
		"POST /v1/dead/:app/:topic/:ver/:group/requeue", "DELETE /v1/dead/:app/:topic/:ver/:group",
		"POST /v1/clusters", "PATCH /v1/clusters/:cluster", "DELETE /v1/clusters/:cluster",
		"PUT /v1/options/:name", "POST /v1/refresh",
		"POST /v1/spool/aside/requeue", "DELETE /v1/spool/aside",
		"PUT /v1/topics/:app/:topic/:ver/schema", "DELETE /v1/topics/:app/:topic/:ver/schema",
	}
)

func TestRoles(t *testing.T) {
	f := withShop(t, nil)
	least := map[string]manager.Role{}
	for _, r := range forAdmins {
		least[r] = manager.Admin
	}
	for _, r := range forOperators {
		least[r] = manager.Operator
	}
	known := 0
	for _, role := range []manager.Role{manager.Viewer, manager.Operator, manager.Admin} {
		_, key := f.addKey(role.String())
		for _, r := range f.h.Routes() {
			need := least[r.Method+" "+r.Path]
			if need > 0 {
				known++
			} else if r.Method != http.MethodGet {
				t.Errorf("%s %s changes something, and every viewer may", r.Method, r.Path)
			}
			w := ask(f.router, r.Method, fill(r.Path)+"?no-such-parameter=1", "", "Authorization", "bearer "+key)
			switch {
			case role < need:
				w.problem(t, errs.Denied, need.String(), role.String())
			default:
				w.problem(t, errs.InvalidParam, "no-such-parameter") // it got past the guard, and did nothing
			}
		}
	}
	if known != 3*len(least) {
		t.Errorf("%d of %d routes were found: one has another name", known, 3*len(least))
	}
}

func TestAdminKeys(t *testing.T) {
	f := newFixture(t, nil)
	r := f.ask("POST", "/v1/adminkeys", `{"name":"ops","role":"operator","expires":"2099-01-01T00:00:00Z"}`)
	made := r.want(t, 201)
	id, secret := made["id"].(string), made["key"].(string)
	if made.fields("name", "role", "expires") != "ops operator 2099-01-01T00:00:00Z" || r.Header().Get("Location") != "/v1/adminkeys/"+id {
		t.Errorf("made %v", made)
	}
	list := f.ask("GET", "/v1/adminkeys", "")
	if list.want(t, 200).names(t, "name")[0] != "ops" || strings.Contains(list.Body.String(), secret) || strings.Contains(list.Body.String(), meta.HashSecret(secret)) {
		t.Errorf("listed %s", list.Body)
	}
	bearer := []string{"Authorization", "Bearer " + secret}
	ask(f.router, "POST", "/v1/refresh", "", bearer...).want(t, 200)
	log := f.log.String()
	if !strings.Contains(log, `"admin_key":"`+id+`"`) || !strings.Contains(log, `"path":"/v1/refresh"`) || !strings.Contains(log, `"outcome":"done"`) {
		t.Errorf("who did what is not in the log: %s", log)
	}
	if _, random, _ := strings.Cut(secret, "."); strings.Contains(log, random) {
		t.Errorf("the secret is in the log: %s", log)
	}
	f.must(204, "DELETE", "/v1/adminkeys/"+id, "")
	ask(f.router, "POST", "/v1/refresh", "", bearer...).problem(t, errs.Unauthenticated)
	f.ask("DELETE", "/v1/adminkeys/"+id, "").problem(t, errs.NotFound)
	f.ask("POST", "/v1/adminkeys", `{"role":"root"}`).problem(t, errs.InvalidBody, "root")
	f.ask("POST", "/v1/adminkeys", `{"expires":"2001-01-01T00:00:00Z"}`).problem(t, errs.InvalidBody, "past")
	if least := f.must(201, "POST", "/v1/adminkeys", `{}`); least["role"] != "viewer" {
		t.Errorf("a key of which nothing is said: %v", least)
	}
}

func TestExpiredAdminKey(t *testing.T) {
	f := newFixture(t, nil)
	id, secret := f.addKey("admin")
	key := *f.meta.Snapshot().AdminKey(id)
	past := key.Created.AddDate(-1, 0, 0)
	key.Expires = &past
	if _, err := f.meta.Put(t.Context(), &key, ""); err != nil {
		t.Fatal(err)
	}
	ask(f.router, "GET", "/v1/apps", "", "Authorization", "Bearer "+secret).problem(t, errs.Unauthenticated)
}

func TestCredentialsInOpenMode(t *testing.T) {
	f := newFixture(t, func(c *manager.Config) { c.Open, c.AdminKeyHash = true, "" })
	ask(f.router, "POST", "/v1/apps", `{"app":"x"}`).want(t, 201)
	// An operator who names an admin key is asked for it in open mode, too.
	g := newFixture(t, func(c *manager.Config) { c.Open = true })
	ask(g.router, "GET", "/v1/apps", "").problem(t, errs.Unauthenticated)
	g.must(200, "GET", "/v1/apps", "")
}

// Without open mode no key in the configuration does not mean that everybody may.
func TestClosedWithoutAKeyInTheConfiguration(t *testing.T) {
	f := newFixture(t, func(c *manager.Config) { c.AdminKeyHash = "" })
	ask(f.router, "GET", "/v1/apps", "").problem(t, errs.Unauthenticated)
	f.ask("GET", "/v1/apps", "").problem(t, errs.Unauthenticated)
	ask(f.router, "GET", "/v1/apps", "", "Authorization", "Bearer ").problem(t, errs.Unauthenticated)
}

func TestAuthorizationTwice(t *testing.T) {
	f := newFixture(t, nil)
	r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "/v1/apps", nil)
	r.Header["Authorization"] = []string{"Bearer " + adminKey, "Bearer " + adminKey}
	w := serve(f.router, r)
	w.problem(t, errs.InvalidParam, "2 times")
}

// Before anything has been read from meta the configuration's key opens what needs nothing of it, and another key may be
// good or not: nobody knows yet.
func TestNothingLoaded(t *testing.T) {
	f := newFixture(t, func(c *manager.Config) {
		c.Meta = meta.NewDirectory(meta.Config{Source: metamem.New(), Log: slog.New(slog.DiscardHandler)})
	})
	f.must(200, "GET", "/v1/status", "")
	f.must(200, "GET", "/v1/gateways", "")
	f.ask("GET", "/v1/apps", "").problem(t, errs.Unavailable)
	f.ask("POST", "/v1/apps", `{"app":"x"}`).problem(t, errs.Unavailable)
	ask(f.router, "GET", "/v1/status", "", "Authorization", "Bearer other.key").problem(t, errs.Unavailable)
	ask(f.router, "GET", "/v1/status", "").problem(t, errs.Unauthenticated)
}

// Guard serves for what is not a route of this package, too.
func TestGuardOfOthers(t *testing.T) {
	f := newFixture(t, nil)
	_, viewer := f.addKey("viewer")
	h := f.h.Guard(func(w http.ResponseWriter, _ *http.Request) error {
		w.WriteHeader(299)
		return nil
	}, manager.Operator)
	for key, want := range map[string]int{adminKey: 299, viewer: 403, "x": 401} {
		r, _ := http.NewRequestWithContext(context.Background(), http.MethodGet, "/metrics", nil)
		r.Header.Set("Authorization", "Bearer "+key)
		if w := serve(handler(h), r); w.Code != want {
			t.Errorf("%d, not %d", w.Code, want)
		}
	}
	families, err := f.cfg.Metrics.(*prometheus.Registry).Gather()
	if err != nil || len(families) != 1 || len(families[0].Metric) != 3 {
		t.Errorf("counted %v, %v", families, err)
	}
}
