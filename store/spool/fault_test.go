package spool

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/kateway/kateway/internal/disk"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// gate lets syncs of pebble's log pass, hang or fail.
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

// TestSlowDiskAndAKey: while the disk has not answered, whoever repeats a publish with its key is neither told that it is spooled
// nor has it spooled a second time.
func TestSlowDiskAndAKey(t *testing.T) {
	g := &gate{}
	w := newWorld(t, func(c *Config) {
		c.Dir, c.FS, c.patience = "spool", errorfs.Wrap(vfs.NewMem(), g), 10*time.Millisecond
	})
	w.fails(true)
	w.spools("a", "before")
	release := g.hold()
	defer release()
	try := func(limit time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		m := &store.Message{Key: []byte("a"), Value: []byte("once"), Partition: store.AnyPartition}
		return w.s.PublishOnce(ctx, topicName, store.AckAll, store.Once{Key: "k"}, m)
	}
	for range 3 {
		wantKind(t, "while the disk hangs", try(50*time.Millisecond), errs.Uncertain)
	}
	if g.hung.Load() == 0 {
		t.Error("the disk did not hang")
	}
	release()
	if err := try(20 * time.Second); err != nil {
		t.Errorf("when the disk goes on: %v", err)
	}
	w.fails(false)
	w.drained()
	if got := w.byKey()["a"]; len(got) != 2 {
		t.Errorf("stored: %q", got)
	}
}

// TestRefusesDamage: a log that was cut off after the spool was closed is told of, and not taken for the end of it.
func TestRefusesDamage(t *testing.T) {
	w := newWorld(t, nil)
	w.fails(true)
	w.spools("k", "1")
	w.close()
	names, err := filepath.Glob(filepath.Join(w.cfg.Dir, disk.DatabaseDir, "*.log"))
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	kept := map[string][]byte{}
	for _, name := range names {
		if kept[name], err = os.ReadFile(name); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(name, 8); err != nil {
			t.Fatal(err)
		}
	}
	s, err := Open(w.cfg)
	if err == nil {
		_ = s.Close(context.Background())
		t.Fatal("it was opened")
	}
	if !strings.Contains(err.Error(), w.cfg.Dir) || !strings.Contains(err.Error(), "damaged") {
		t.Error(err)
	}
	for name, text := range kept {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w.open()
	if n := w.s.SpoolStatus().Messages; n != 1 {
		t.Errorf("%d messages with all restored", n)
	}
	w.fails(false)
	w.drained()
}
