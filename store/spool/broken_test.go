package spool

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/kateway/kateway/internal/errs"
)

var errBroken = fmt.Errorf("the disk is broken: %w", syscall.EIO)

// leavesGoroutines is set in a process whose spools can't be closed: what pebble held when the disk failed is left to the process's end.
const leavesGoroutines = "KATEWAY_TEST_LEAVES_GOROUTINES"

// alone runs the test in a process of its own, and reports whether this is that one.
func alone(t *testing.T) bool {
	t.Helper()
	if os.Getenv(leavesGoroutines) != "" {
		return true
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.v", "-test.run", "^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), leavesGoroutines+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

// onMemory is a spool on a disk behind a gate, before a store that is away.
func onMemory(t *testing.T) (*world, *gate, *vfs.MemFS) {
	t.Helper()
	g, disk := &gate{}, vfs.NewCrashableMem()
	w := newWorld(t, func(c *Config) {
		c.Dir, c.FS, c.MemTable, c.pause = "spool", errorfs.Wrap(disk, g), 64<<10, time.Millisecond
	})
	w.fails(true)
	return w, g, disk
}

// after is what the spool has after a power loss, by key, as the store gets it.
func (w *world) after(disk *vfs.MemFS) map[string][]string {
	w.t.Helper()
	w.cfg.FS = disk.CrashClone(vfs.CrashCloneCfg{})
	w.open()
	w.fails(false)
	w.drained()
	return w.byKey()
}

func TestFailedLogIsNeverConfirmed(t *testing.T) {
	if !alone(t) {
		return
	}
	w, g, disk := onMemory(t)
	w.spools("k", "good")
	fail := func(op errorfs.Op) error {
		if isLogSync(op) {
			return errBroken
		}
		return nil
	}
	g.fail.Store(&fail)
	_, err := w.put("k", "bad")
	wantKind(t, "what failed", err, errs.Uncertain)
	if !errors.Is(w.s.Err(), errBroken) {
		t.Errorf("Err: %v", w.s.Err())
	}
	g.fail.Store(nil) // a disk that pretends to be well again
	_, err = w.put("k", "late")
	wantKind(t, "what came later", err, errs.Unavailable)
	if err := w.s.Close(context.Background()); !errors.Is(err, errBroken) {
		t.Errorf("close: %v", err)
	}
	if got := w.after(disk)["k"]; len(got) != 1 || got[0] != "good" {
		t.Errorf("after a power loss: %q", got)
	}
}

// TestFaultsAtAnyTime: the disk fails from a random operation on, under several publishers: each gets an answer, and what was confirmed
// is there after a power loss, in order.
func TestFaultsAtAnyTime(t *testing.T) {
	if !alone(t) {
		return
	}
	for seed := range uint64(40) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { faultAtAnyTime(t, seed) })
	}
}

func faultAtAnyTime(t *testing.T, seed uint64) {
	w, g, disk := onMemory(t)
	var left atomic.Int64
	left.Store(rand.New(rand.NewPCG(seed, 0)).Int64N(200))
	fault := func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() == errorfs.OpIsWrite && op.Kind != errorfs.OpFileClose && left.Add(-1) < 0 {
			return errBroken
		}
		return nil
	}
	g.fail.Store(&fault)
	confirmed := make([][]string, 4)
	var wg sync.WaitGroup
	for who := range confirmed {
		wg.Go(func() {
			for i := 0; ; i++ {
				value := fmt.Sprintf("%d-%s", i, strings.Repeat("x", 2000))
				if _, err := w.put(fmt.Sprint(who), value); err != nil {
					if k := errs.Of(err); k != errs.Uncertain && k != errs.Unavailable {
						t.Error(err)
					}
					return
				}
				confirmed[who] = append(confirmed[who], value)
			}
		})
	}
	wg.Wait()
	if w.s.Err() == nil {
		t.Error("the disk did not fail")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	_ = w.s.Close(ctx) // may hang with pebble, to the process's end
	got := w.after(disk)
	for who, values := range confirmed {
		have := got[fmt.Sprint(who)]
		for i, v := range values {
			if i >= len(have) || have[i] != v {
				t.Errorf("of publisher %d: %d messages of %d confirmed ones are there", who, len(have), len(values))
				break
			}
		}
	}
}
