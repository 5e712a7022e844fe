package test

import (
	"bytes"
	"io/fs"
	"log/slog"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kateway/kateway/internal/zk"
)

// A key is shown once, to whoever makes it. It is nowhere after that: not in ZooKeeper, not in a gateway's directory, not in
// a log, not in an answer; and it works.
func TestKeysAreKeptNowhere(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "--plugins", "auth")
	g := f.start("gw1")
	file := filepath.Join(f.dirs["gw1"], "admin-key")
	var admin string
	waitFor(t, "the first admin key", func() bool {
		b, err := os.ReadFile(file)
		admin = strings.TrimSpace(string(b))
		return err == nil
	})
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	man := g.manager()
	auth := []string{"Authorization", "Bearer " + admin}
	man.want(http.StatusUnauthorized, "GET", "/v1/apps", nil)
	man.want(http.StatusUnauthorized, "GET", "/metrics", nil)
	man.send(http.StatusCreated, "POST", "/v1/apps", map[string]any{"app": f.app}, auth...)
	man.send(http.StatusCreated, "POST", "/v1/topics", map[string]any{"app": f.app, "topic": "orders", "ver": "v1", "partitions": 1, "replicas": 1}, auth...)
	type shown struct{ ID, Key string }
	pub := decode[shown](t, man.send(http.StatusCreated, "POST", "/v1/apps/"+f.app+"/keys", map[string]any{"use": "pub"}, auth...).body)
	viewer := decode[shown](t, man.send(http.StatusCreated, "POST", "/v1/adminkeys", map[string]any{"role": "viewer", "name": "v"}, auth...).body)

	c := g.client(f.app)
	publish := func(status int, header ...string) {
		t.Helper()
		c.want(status, "POST", "/v1/msgs/orders/v1", strings.NewReader("x"), header...)
	}
	publish(http.StatusCreated, "Pubkey", pub.Key)
	publish(http.StatusCreated, "Authorization", "Bearer "+pub.Key)
	publish(http.StatusUnauthorized)
	publish(http.StatusUnauthorized, "Pubkey", pub.Key+"x")
	c.want(http.StatusUnauthorized, "GET", "/v1/msgs/"+c.topicOf("orders")+"?group=g&wait=0s", nil, "Subkey", pub.Key)
	man.want(http.StatusOK, "GET", "/v1/apps", nil, "Authorization", "Bearer "+viewer.Key)
	man.send(http.StatusForbidden, "POST", "/v1/apps", map[string]any{"app": "x"}, "Authorization", "Bearer "+viewer.Key)
	man.want(http.StatusNoContent, "DELETE", "/v1/apps/"+f.app+"/keys/"+pub.ID, nil, auth...)
	publish(http.StatusUnauthorized, "Pubkey", pub.Key)

	secrets := map[string]string{"the admin key": admin, "the app's key": pub.Key, "the viewer's key": viewer.Key}
	var kept bytes.Buffer
	f.dump(&kept, "/")
	if kept.Len() < 500 {
		t.Errorf("only %d bytes found in ZooKeeper", kept.Len())
	}
	for _, path := range []string{"/v1/apps", "/v1/apps/" + f.app, "/v1/apps/" + f.app + "/keys", "/v1/adminkeys", "/v1/status"} {
		kept.Write(man.want(http.StatusOK, "GET", path, nil, auth...).body)
	}
	kept.WriteString(g.log.last(math.MaxInt32))
	err := filepath.WalkDir(f.dirs["gw1"], func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || path == file {
			return err
		}
		b, err := os.ReadFile(path)
		kept.Write(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for what, secret := range secrets {
		if bytes.Contains(kept.Bytes(), []byte(secret)) {
			t.Errorf("%s is kept somewhere", what)
		}
	}
}

// dump writes what ZooKeeper has below the path.
func (f *fleet) dump(w *bytes.Buffer, path string) {
	f.t.Helper()
	c, err := zk.Open(zk.Config{Servers: strings.Split(f.zk.Addr(), ","), Chroot: "/kateway", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		f.t.Fatal(err)
	}
	defer c.Close()
	var walk func(path string)
	walk = func(path string) {
		data, _, err := c.Get(f.t.Context(), path)
		if err != nil {
			f.t.Fatalf("%s: %v", path, err)
		}
		w.Write(data)
		names, err := c.Children(f.t.Context(), path)
		if err != nil {
			f.t.Fatalf("%s: %v", path, err)
		}
		for _, name := range names {
			walk(strings.TrimSuffix(path, "/") + "/" + name)
		}
	}
	walk(path)
}
