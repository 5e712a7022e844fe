package embedded

import (
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/kateway/kateway/store"
	"github.com/kateway/kateway/store/storetest"
)

// testLog shows the log of a test that fails.
func testLog(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))
}

// memory is a configuration on a file system of its own in memory.
func memory(t testing.TB) Config {
	return Config{Dir: "data", FS: vfs.NewMem(), Log: testLog(t), MemTable: 1 << 20}
}

// open opens a store that the test's end closes.
func open(t testing.TB, cfg Config) *Store {
	t.Helper()
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil && s.Err() == nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

// gate lets writes and syncs of pebble's log pass, hang or fail.
type gate struct {
	held atomic.Pointer[chan struct{}]
	hung atomic.Int64 // syncs that hang or did
	fail atomic.Pointer[func(errorfs.Op) error]
}

func (g *gate) String() string { return "gate" }

func (g *gate) MaybeError(op errorfs.Op) error {
	if f := g.fail.Load(); f != nil {
		return (*f)(op)
	}
	if ch := g.held.Load(); ch != nil && isLogSync(op) {
		g.hung.Add(1)
		<-*ch
	}
	return nil
}

func isLogSync(op errorfs.Op) bool {
	switch op.Kind {
	case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo:
		return strings.HasSuffix(op.Path, ".log")
	}
	return false
}

// hold makes syncs of the log wait for the release.
func (g *gate) hold() (release func()) {
	ch := make(chan struct{})
	g.held.Store(&ch)
	return func() {
		if g.held.CompareAndSwap(&ch, nil) {
			close(ch)
		}
	}
}

// TestStore has small blocks, so that what takes several of them is seen.
func TestStore(t *testing.T) {
	gates := map[store.Store]*gate{}
	configs := map[store.Store]Config{}
	launch := func(t *testing.T, cfg Config, g *gate) store.Store {
		s := open(t, cfg)
		gates[s], configs[s] = g, cfg
		return s
	}
	storetest.Run(t, storetest.Config{
		New: func(t *testing.T) store.Store {
			g := &gate{}
			cfg := Config{Dir: filepath.Join(t.TempDir(), "data"), FS: errorfs.Wrap(vfs.Default, g), Log: testLog(t), MaxMessage: 1 << 20, blockCount: 3}
			return launch(t, cfg, g)
		},
		Reopen: func(t *testing.T, s store.Store) store.Store {
			if err := s.Close(context.Background()); err != nil {
				t.Fatal(err)
			}
			cfg := configs[s]
			cfg.Log = testLog(t)
			return launch(t, cfg, gates[s])
		},
		Cut: func(t *testing.T, s store.Store) func() {
			release := gates[s].hold()
			t.Cleanup(release)
			return release
		},
		Trim: func(t *testing.T, s store.Store, topic string, partition int32, before int64) {
			trimBelow(t, s.(*Store), topic, partition, before)
		},
		TooLarge: 1<<20 + 1,
		Absent:   map[storetest.Power]string{storetest.Crash: "members are in the store's own process: one dies only with all, see TestPowerLoss", storetest.Compact: "its log knows no keys"},
	})
}

// trimBelow has retention by size take whole blocks below an offset.
func trimBelow(t *testing.T, s *Store, topic string, partition int32, before int64) {
	t.Helper()
	top, err := s.topic(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	p, err := top.partition(partition)
	if err != nil {
		t.Fatal(err)
	}
	kept, err := s.search(p, func(m mark) bool { return m.offset > before })
	if err != nil {
		t.Fatal(err)
	}
	_, end := p.bounds()
	was := top.limit.Load()
	top.limit.Store(&limits{age: -1, bytes: max(end.bytes-kept.bytes, 0)})
	defer top.limit.Store(was)
	if err := s.trim(t.Context(), p); err != nil {
		t.Fatal(err)
	}
}
