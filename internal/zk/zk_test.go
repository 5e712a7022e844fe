package zk

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, cfg Config) *Client {
	t.Helper()
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	c, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// connected waits for a connection.
func connected(t *testing.T, c *Client) State {
	t.Helper()
	return reached(t, c, func(s State) bool { return s.Connected })
}

// reached waits for a state.
func reached(t *testing.T, c *Client, good func(State) bool) State {
	t.Helper()
	limit := time.After(30 * time.Second)
	for {
		state, changed := c.State()
		if good(state) {
			return state
		}
		select {
		case <-changed:
		case <-limit:
			t.Fatalf("the state stays %+v", state)
		}
	}
}

// wanted fails the test unless err is of the kind; nil: no error.
func wanted(t *testing.T, err, kind error) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("error %v, want %v", err, kind)
	}
}

func TestNodes(t *testing.T) {
	c := open(t, Config{Servers: []string{testkit.ZooKeeper(t)}, Chroot: "/kateway/x"})
	connected(t, c)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	wanted(t, c.Create(ctx, "/a/b/c", []byte("1")), nil)
	wanted(t, c.Create(ctx, "/a/b/c", []byte("1")), errs.Conflict)
	data, version, err := c.Get(ctx, "/a/b/c")
	if string(data) != "1" || version != 0 || err != nil {
		t.Errorf("read %q, version %d, %v", data, version, err)
	}
	version, err = c.Set(ctx, "/a/b/c", []byte("2"), version)
	if version != 1 || err != nil {
		t.Errorf("set: version %d, %v", version, err)
	}
	_, err = c.Set(ctx, "/a/b/c", []byte("3"), 0)
	wanted(t, err, errs.PreconditionFailed)
	wanted(t, c.Delete(ctx, "/a/b/c", 0), errs.PreconditionFailed)
	wanted(t, c.Delete(ctx, "/a/b", -1), errs.Conflict)
	wanted(t, c.Delete(ctx, "/a/b/c", 1), nil)
	wanted(t, c.Delete(ctx, "/a/b/c", -1), errs.NotFound)
	_, _, err = c.Get(ctx, "/a/b/c")
	wanted(t, err, errs.NotFound)

	wanted(t, c.CreateEphemeral(ctx, "/e/1", nil), nil)
	one, err := c.CreateSequence(ctx, "/e/s-", []byte("x"))
	wanted(t, err, nil)
	two, err := c.CreateSequence(ctx, "/e/s-", []byte("x"))
	wanted(t, err, nil)
	if !strings.HasPrefix(one, "/e/s-") || one[len(one)-10:] >= two[len(two)-10:] {
		t.Errorf("sequence nodes %q and %q", one, two)
	}
	names, err := c.Children(ctx, "/e")
	if err != nil || len(names) != 3 || !slices.IsSorted(names) {
		t.Errorf("children %q, %v", names, err)
	}
	state, _ := c.State()
	owner, err := c.Owner(ctx, "/e/1")
	if err != nil || owner != state.Session || owner == 0 {
		t.Errorf("owner %d, %v; the session is %d", owner, err, state.Session)
	}
	_, err = c.Owner(ctx, "/e/2")
	wanted(t, err, errs.NotFound)
}
