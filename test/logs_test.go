package test

import (
	"bytes"
	"encoding/json"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Secrets and payloads, brought by all ways there are, stand in no log. What happened does.
func TestLogsHaveNoSecrets(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	access := filepath.Join(dir, "access.log")
	g := launch(t, "--data", dir, "--plugins", "audit,auth", "--access-log", access)
	file := filepath.Join(dir, "admin-key")
	var admin string
	waitFor(t, "the admin key", func() bool {
		b, err := os.ReadFile(file)
		admin = strings.TrimSpace(string(b))
		return err == nil
	})
	man, auth := g.manager(), []string{"Authorization", "Bearer " + admin}
	man.send(http.StatusCreated, "POST", "/v1/apps", map[string]any{"app": "shop"}, auth...)
	man.send(http.StatusCreated, "POST", "/v1/topics", map[string]any{"app": "shop", "topic": "orders", "ver": "v1", "partitions": 1, "replicas": 1}, auth...)
	type shown struct{ ID, Key string }
	key := decode[shown](t, man.send(http.StatusCreated, "POST", "/v1/apps/shop/keys", map[string]any{"use": "both"}, auth...).body)
	man.want(http.StatusUnauthorized, "GET", "/v1/apps", nil, "Authorization", "Bearer canary-admin")

	c := g.client("shop")
	c.want(http.StatusCreated, "POST", "/v1/msgs/orders/v1?key=canary-msgkey", strings.NewReader("canary-body"), "Pubkey", key.Key, "X-Msg-Canary", "canary-header")
	c.want(http.StatusUnauthorized, "POST", "/v1/msgs/orders/v1", strings.NewReader("canary-body"), "Pubkey", "canary-wrongkey")
	c.want(http.StatusUnauthorized, "POST", "/v1/msgs/orders/v1", strings.NewReader("canary-body"), "Authorization", "Basic Y2FuYXJ5OmNhbmFyeQ==")
	c.want(http.StatusOK, "GET", "/v1/msgs/shop/orders/v1?group=g", nil, "Subkey", key.Key)
	g.end(syscall.SIGTERM)

	var all bytes.Buffer
	all.WriteString(g.log.last(math.MaxInt32))
	var events []string
	for _, name := range []string{access, filepath.Join(dir, "plugins", "audit", "audit.log")} {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(b)
		for line := range strings.Lines(string(b)) {
			var r struct{ Event, Result, App, Key, Path string }
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				t.Errorf("%s: %v", line, err)
			}
			if r.Event != "" {
				events = append(events, r.Event+" "+r.Result+" "+r.App)
			}
		}
	}
	for what, secret := range map[string]string{"a canary": "canary", "the admin key": admin, "the app's key": key.Key, "credentials": "Y2FuYXJ5"} {
		if i := bytes.Index(all.Bytes(), []byte(secret)); i >= 0 {
			t.Errorf("%s is in a log: %.300s", what, all.Bytes()[max(0, i-100):])
		}
	}
	told := strings.Join(events, "\n")
	for _, want := range []string{"admin ok ", "admin unauthenticated ", "publish ok shop", "publish unauthenticated ", "subscribe ok shop"} {
		if !strings.Contains(told, want) {
			t.Errorf("%q is not in the audit log:\n%s", want, told)
		}
	}
}
