package gateway

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/meta/mem"
)

// follow makes a directory of the source that is up to date.
func follow(t *testing.T, source meta.Source) *meta.Directory {
	t.Helper()
	d := meta.NewDirectory(meta.Config{Source: source, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = d.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		_ = source.Close()
	})
	<-d.Loaded()
	return d
}

// Of gateways that start at once one makes the first admin key, and has its file alone.
func TestFirstAdminKey(t *testing.T) {
	source := mem.New()
	var logged safeBuffer
	log := NewLogger(&logged, nil, "json")
	const n = 5
	dirs := make([]string, n)
	var wg sync.WaitGroup
	for i := range dirs {
		dirs[i] = t.TempDir()
		s := meta.Source(source)
		if i > 0 {
			s = source.Another()
		}
		d := follow(t, s)
		wg.Go(func() {
			if err := makeAdminKey(t.Context(), d, dirs[i], log); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	var keys []string
	for _, dir := range dirs {
		names, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			b, err := os.ReadFile(filepath.Join(dir, name.Name()))
			if err != nil {
				t.Fatal(err)
			}
			keys = append(keys, name.Name()+" "+strings.TrimSpace(string(b)))
		}
	}
	if len(keys) != 1 || !strings.HasPrefix(keys[0], "admin-key first.") {
		t.Fatalf("files %q", keys)
	}
	key := strings.TrimPrefix(keys[0], "admin-key ")
	k := follow(t, source.Another()).Snapshot().AdminKey(firstAdminKey)
	if k == nil || !meta.CheckSecret(key, k.Hash) || k.Role != meta.RoleAdmin {
		t.Errorf("meta has %+v", k)
	}
	if s := logged.String(); !strings.Contains(s, "admin-key") || strings.Contains(s, key) {
		t.Errorf("log: %s", s)
	}
}

// A gateway that died between its file and meta goes on where it was; one that lost the race then cleans up.
func TestAdminKeyAfterADeath(t *testing.T) {
	d, dir := follow(t, mem.New()), t.TempDir()
	pending, file := filepath.Join(dir, "admin-key.pending"), filepath.Join(dir, "admin-key")
	_, whole, _ := meta.NewSecret()
	secret := []byte(firstAdminKey + whole[strings.IndexByte(whole, '.'):])
	if err := os.WriteFile(pending, secret, 0o600); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	if err := makeAdminKey(t.Context(), d, dir, log); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(file); err != nil || !bytes.Equal(bytes.TrimSpace(b), secret) {
		t.Errorf("%q, %v", b, err)
	}
	for _, what := range []string{"somebody else's", ""} {
		if err := os.WriteFile(pending, []byte("first."+what), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := makeAdminKey(t.Context(), d, dir, log); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(pending); !os.IsNotExist(err) {
			t.Errorf("the pending file of another key is still there: %v", err)
		}
	}
	other := t.TempDir()
	if err := os.WriteFile(filepath.Join(other, "admin-key.pending"), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := makeAdminKey(t.Context(), follow(t, mem.New()), other, log); err == nil || !strings.Contains(err.Error(), "remove it") {
		t.Errorf("a file of something else: %v", err)
	}
}

func TestGivenAdminKey(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	long := strings.Repeat("k", minAdminKey)
	for name, c := range map[string]struct {
		content, environment string
		want, fault          string
	}{
		"none":                  {"", "", "", ""},
		"environment":           {"", long, long, ""},
		"file":                  {long + "\n", "", long, ""},
		"the file wins":         {long, strings.Repeat("e", 40), long, ""},
		"short":                 {"", "secret", "", "at least 32"},
		"a file of white space": {" \n", "", "", "at least 32"},
	} {
		t.Run(name, func(t *testing.T) {
			path := ""
			if c.content != "" {
				path = file
				if err := os.WriteFile(file, []byte(c.content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			hash, err := givenAdminKey(path, c.environment)
			if c.fault != "" {
				if err == nil || !strings.Contains(err.Error(), c.fault) || strings.Contains(err.Error(), "secret") {
					t.Errorf("%v", err)
				}
				return
			}
			if err != nil || (c.want == "") != (hash == "") || hash != "" && !meta.CheckSecret(c.want, hash) {
				t.Errorf("%q, %v", hash, err)
			}
		})
	}
	if _, err := givenAdminKey(file+"-none", ""); err == nil {
		t.Error("a file that is not there is passed over")
	}
}

// The peers' secret is replaced when it is old, and the one before stays good.
func TestRotation(t *testing.T) {
	c := &cluster{meta: follow(t, mem.New()), log: slog.New(slog.DiscardHandler)}
	if got := c.peerSecrets(); got != nil {
		t.Errorf("secrets before there are any: %q", got)
	}
	rotate := func(older time.Duration) [][]byte {
		t.Helper()
		if err := c.rotate(t.Context(), older); err != nil {
			t.Fatal(err)
		}
		return c.peerSecrets()
	}
	first := rotate(time.Hour)
	if len(first) != 1 || len(first[0]) != secretSize {
		t.Fatalf("%q", first)
	}
	if again := rotate(time.Hour); len(again) != 1 || !bytes.Equal(again[0], first[0]) {
		t.Errorf("a young secret was replaced: %q", again)
	}
	second := rotate(0)
	if len(second) != 2 || bytes.Equal(second[0], first[0]) || !bytes.Equal(second[1], first[0]) {
		t.Errorf("%q after %q", second, first)
	}
	if third := rotate(0); len(third) != 2 || !bytes.Equal(third[1], second[0]) {
		t.Errorf("%q after %q", third, second)
	}
}

// address is a listener of which only that is known.
type address struct {
	net.Listener
	addr string
}

func (a address) Addr() net.Addr { return a }
func (address) Network() string  { return "tcp" }
func (a address) String() string { return a.addr }

func TestAdvertised(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ listened, advertise, want string }{
		"loopback":                   {"127.0.0.1:9195", "", "127.0.0.1:9195"},
		"loopback, whatever is said": {"[::1]:9195", "gw1.example", "[::1]:9195"},
		"an address":                 {"10.0.0.7:9195", "", "10.0.0.7:9195"},
		"an address with a name":     {"10.0.0.7:9195", "gw1.example", "gw1.example:9195"},
		"all addresses":              {"0.0.0.0:9195", "", net.JoinHostPort(host, "9195")},
		"all addresses, IPv6":        {"[::]:9195", "", net.JoinHostPort(host, "9195")},
		"all addresses with a name":  {"[::]:9195", "gw1.example", "gw1.example:9195"},
	} {
		t.Run(name, func(t *testing.T) {
			g := &Gateway{cfg: Config{Advertise: c.advertise}, servers: []*server{{roles: []Role{Peer}, ln: address{addr: c.listened}}}}
			if got := g.advertised(Peer); got != c.want {
				t.Errorf("%s; want %s", got, c.want)
			}
			if got := g.advertised(Pub); got != "" {
				t.Errorf("a role that is off: %s", got)
			}
		})
	}
}

func TestRate(t *testing.T) {
	var r rate
	at := time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)
	for i, c := range []struct {
		count uint64
		want  float64
	}{{100, 0}, {150, 10}, {150, 0}, {1150, 200}} {
		r.note(c.count, at.Add(time.Duration(i)*5*time.Second))
		if got := r.load(); got != c.want {
			t.Errorf("step %d: %v a second; want %v", i, got, c.want)
		}
	}
}
