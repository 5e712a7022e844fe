package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/kateway/kateway/store"
	"github.com/kateway/kateway/store/mem"
)

// worrying is a store with a setting that weakens the guarantees.
type worrying struct{ store.Store }

func (worrying) Describe(context.Context) (store.Cluster, error) { return store.Cluster{ID: "c"}, nil }
func (worrying) Warnings(context.Context, ...string) ([]string, error) {
	return []string{"topic t has one replica: give it three"}, nil
}

// What weakens the guarantees is logged once, counted, and shown by GET /v1/status.
func TestWarnings(t *testing.T) {
	g := startOn(t, worrying{mem.New()}, nil)
	_, body := g.ask(t, Man, "GET", "/v1/status", nil)
	var status struct{ Warnings []string }
	if err := json.Unmarshal([]byte(body), &status); err != nil || len(status.Warnings) != 1 || !strings.Contains(status.Warnings[0], "one replica") {
		t.Errorf("%s, %v", body, err)
	}
	told := func() bool {
		_, metrics := g.ask(t, Man, "GET", "/metrics", nil)
		return strings.Contains(metrics, "kateway_store_warnings 1\n") && strings.Count(g.logged.String(), "one replica") == 1
	}
	for deadline := time.Now().Add(10 * time.Second); !told(); {
		if time.Now().After(deadline) {
			t.Fatalf("neither counted nor logged: %s", g.logged)
		}
		<-time.After(10 * time.Millisecond)
	}
}

// With auth every route of role man asks for a key, but those that say nothing; /metrics goes without where the
// configuration says so.
func TestManAsksForAKey(t *testing.T) {
	const key = "0123456789abcdef0123456789abcdef"
	for _, open := range []bool{false, true} {
		cfg := testConfig(t)
		cfg.Plugins, cfg.OpenMetrics = []string{"auth"}, open
		g := startWith(t, mem.New(), cfg, Deps{AdminKey: key})
		free := map[string]bool{"/alive": true, "/ready": true, "/openapi.json": true, "/metrics": open}
		paths := []string{"/debug/pprof/cmdline", "/debug/pprof/", "/alive", "/ready", "/openapi.json"}
		for _, r := range g.tables[Man] {
			if r.Method == http.MethodGet {
				paths = append(paths, r.Path)
			}
		}
		for _, path := range paths {
			resp, body := g.ask(t, Man, "GET", path, nil)
			if refused := resp.StatusCode == http.StatusUnauthorized; refused == free[path] {
				t.Errorf("open metrics %v: %s without a key: %s %s", open, path, resp.Status, body)
			}
			resp, body = g.ask(t, Man, "GET", path, func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+key) })
			if resp.StatusCode == http.StatusUnauthorized {
				t.Errorf("%s with the key: %s %s", path, resp.Status, body)
			}
		}
	}
}
