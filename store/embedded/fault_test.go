package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/kateway/kateway/internal/disk"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

var errDisk = fmt.Errorf("the disk is broken: %w", syscall.EIO)

// create makes topic "t".
func create(t testing.TB, s *Store, partitions int32) {
	t.Helper()
	if err := s.CreateTopic(context.Background(), store.Topic{Name: "t", Partitions: partitions}); err != nil {
		t.Fatal(err)
	}
}

func put(s *Store, value string) error {
	return s.Publish(context.Background(), "t", store.AckAll, &store.Message{Value: []byte(value)})
}

func mustPut(t testing.TB, s *Store, values ...string) {
	t.Helper()
	for _, v := range values {
		if err := put(s, v); err != nil {
			t.Fatal(err)
		}
	}
}

// stored is what a partition of "t" holds.
func stored(t testing.TB, s *Store, partition int32) (values []string) {
	t.Helper()
	for m, err := range s.Browse(context.Background(), "t", partition, 0) {
		if err != nil {
			t.Fatal(err)
		}
		values = append(values, string(m.Value))
	}
	return values
}

func wantKind(t testing.TB, what string, err error, want errs.Kind) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want kind %q", what, err, want.Code())
	}
}

// eventually waits for a condition that nobody tells of.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	late := time.After(60 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// logFault fails an operation on pebble's log.
func logFault(kinds ...errorfs.OpKind) func(errorfs.Op) error {
	return func(op errorfs.Op) error {
		for _, k := range kinds {
			if op.Kind == k && strings.HasSuffix(op.Path, ".log") {
				return errDisk
			}
		}
		return nil
	}
}

func TestFailedLogIsNeverConfirmed(t *testing.T) {
	for name, fault := range map[string]func(errorfs.Op) error{
		"sync":  logFault(errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo),
		"write": logFault(errorfs.OpFileWrite),
	} {
		t.Run(name, func(t *testing.T) {
			g := &gate{}
			cfg := memory(t)
			disk := vfs.NewCrashableMem()
			cfg.FS = errorfs.Wrap(disk, g)
			s := open(t, cfg)
			create(t, s, 1)
			mustPut(t, s, "good")
			g.fail.Store(&fault)
			wantKind(t, "the publish that failed", put(s, "bad"), errs.Uncertain)
			select {
			case <-s.Done():
			default:
				t.Error("Done is not closed")
			}
			if !errors.Is(s.Err(), errDisk) {
				t.Errorf("Err: %v", s.Err())
			}
			g.fail.Store(nil) // a disk that pretends to be well again
			wantKind(t, "a later publish", put(s, "late"), errs.Unavailable)
			wantKind(t, "ping", s.Ping(context.Background()), errs.Unavailable)
			if got := stored(t, s, 0); len(got) != 1 {
				t.Errorf("readers see %q", got)
			}
			if err := s.Close(context.Background()); !errors.Is(err, errDisk) {
				t.Errorf("close: %v", err)
			}
			cfg.FS = disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})
			s = open(t, cfg)
			mustPut(t, s, "after")
			if got := stored(t, s, 0); got[0] != "good" || got[len(got)-1] != "after" {
				t.Errorf("after the restart: %q", got)
			}
		})
	}
}

// TestFaultsAtAnyTime fails the disk from a random operation on, under several publishers. Whatever pebble does then, it
// panics and hangs in places, every caller gets an answer, and what was confirmed is on the disk after a power loss.
func TestFaultsAtAnyTime(t *testing.T) {
	seeds := 60
	if testing.Short() {
		seeds = 15
	}
	for seed := range uint64(seeds) {
		faultAtAnyTime(t, seed)
	}
}

func faultAtAnyTime(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 0))
	disk := vfs.NewCrashableMem()
	g := &gate{}
	s, err := Open(Config{Dir: "data", FS: errorfs.Wrap(disk, g), MemTable: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	create(t, s, 1)
	var left atomic.Int64
	left.Store(rng.Int64N(200))
	fault := func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() == errorfs.OpIsWrite && op.Kind != errorfs.OpFileClose && left.Add(-1) < 0 {
			return errDisk
		}
		return nil
	}
	g.fail.Store(&fault)
	var mu sync.Mutex
	confirmed := map[int64]string{}
	var wg sync.WaitGroup
	for who := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				m := &store.Message{Value: fmt.Appendf(nil, "%d-%d-%s", who, i, strings.Repeat("x", 2000))}
				if err := s.Publish(context.Background(), "t", store.AckAll, m); err != nil {
					if k := errs.Of(err); k != errs.Uncertain && k != errs.Unavailable {
						t.Errorf("seed %d: %v", seed, err)
					}
					return
				}
				mu.Lock()
				confirmed[m.Offset] = string(m.Value)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	<-s.Done()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := s.Close(ctx); errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("seed %d: it does not close", seed)
	}
	again := open(t, Config{Dir: "data", FS: disk.CrashClone(vfs.CrashCloneCfg{}), Log: testLog(t)})
	for m, err := range again.Browse(context.Background(), "t", 0, 0) {
		if err != nil {
			t.Fatal(err)
		}
		if want, was := confirmed[m.Offset]; was && want != string(m.Value) {
			t.Errorf("seed %d: offset %d holds something else than was confirmed", seed, m.Offset)
		}
		delete(confirmed, m.Offset)
	}
	if len(confirmed) > 0 {
		t.Errorf("seed %d: %d confirmed messages are lost", seed, len(confirmed))
	}
	if err := again.Close(context.Background()); err != nil {
		t.Error(err)
	}
}

// A disk that hangs holds up nobody for longer than the caller wants to wait.
func TestHangingDisk(t *testing.T) {
	g := &gate{}
	cfg := memory(t)
	cfg.FS = errorfs.Wrap(cfg.FS, g)
	s := open(t, cfg)
	create(t, s, 1)
	release := g.hold()
	defer release()
	ctx, cancel := context.WithCancel(context.Background())
	first, behind := make(chan error), make(chan error)
	send := func(answer chan error) {
		answer <- s.Publish(ctx, "t", store.AckAll, &store.Message{Value: []byte("v")})
	}
	go send(first)
	eventually(t, "the first is written", func() bool { return g.hung.Load() > 0 })
	go send(behind)
	cancel()
	wantKind(t, "the one that is being synced", <-first, errs.Uncertain)
	if err := <-behind; !errors.Is(err, errs.Uncertain) && !errors.Is(err, errs.Unavailable) {
		t.Errorf("the one behind: %v", err)
	}
	short, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if err := s.Close(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("close: %v", err)
	}
	release()
	if err := s.Close(context.Background()); err != nil {
		t.Errorf("close after the disk went on: %v", err)
	}
}

// Publishes that nobody waits for any more do not pile up without end.
func TestRoomIsBounded(t *testing.T) {
	g := &gate{}
	cfg := memory(t)
	cfg.FS = errorfs.Wrap(cfg.FS, g)
	s := open(t, cfg)
	create(t, s, 1)
	release := g.hold()
	defer release()
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	big := make([]byte, 8<<20)
	var err error
	for range 2 * roomForOps / len(big) {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		err = s.Publish(ctx, "t", store.AckAll, &store.Message{Value: big})
		cancel()
		if errors.Is(err, errs.Unavailable) {
			break
		}
	}
	wantKind(t, "a publish when there is no room", err, errs.Unavailable)
	wantKind(t, "a publish that nobody waits for", s.Publish(gone, "t", store.AckAll, &store.Message{}), errs.Unavailable)
	release()
	mustPut(t, s, "when the disk goes on")
}

func usage(total, avail uint64) vfs.DiskUsage {
	return vfs.DiskUsage{TotalBytes: total, AvailBytes: avail, UsedBytes: total - avail}
}

// TestFullDisk: below the mark messages are refused before pebble sees them; reading and committing go on; with room again,
// so does everything else.
func TestFullDisk(t *testing.T) {
	const total = 1 << 30
	mem := vfs.NewMem()
	mem.TestingSetDiskUsage(usage(total, total))
	cfg := memory(t)
	cfg.FS = mem
	s := open(t, cfg)
	create(t, s, 1)
	mustPut(t, s, "before")
	f, err := s.Subscribe(t.Context(), store.Spec{Topic: "t", Group: "g"})
	if err != nil {
		t.Fatal(err)
	}
	reserve := func() bool {
		info, err := mem.Stat(directory(cfg).Join(disk.ReserveFile))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		return err == nil && info.Size() == disk.MaxReserve
	}
	if !reserve() {
		t.Error("there is no reserve")
	}
	fill := func(avail uint64) {
		mem.TestingSetDiskUsage(usage(total, avail))
		s.space.Look()
	}
	fill(s.space.Mark() - 1)
	wantKind(t, "a publish to a full disk", put(s, "refused"), errs.DiskFull)
	wantKind(t, "ping", s.Ping(t.Context()), errs.DiskFull)
	fill(s.space.Floor() - 1)
	if reserve() {
		t.Error("the reserve is still there though the disk is all but full")
	}
	if got := stored(t, s, 0); len(got) != 1 {
		t.Errorf("stored: %q", got)
	}
	fill(s.space.Floor() + disk.MaxReserve)
	b, err := f.Poll(t.Context(), 10, nil)
	if err != nil || len(b.Messages) != 1 {
		t.Fatalf("%+v, %v", b, err)
	}
	if err := f.Commit(store.Position{Next: 1}); err != nil {
		t.Error(err)
	}
	if err := f.Close(t.Context()); err != nil {
		t.Errorf("a commit on a full disk: %v", err)
	}
	fill(total)
	mustPut(t, s, "after")
	if !reserve() {
		t.Error("there is no reserve again")
	}
	if again := disk.NewSpace(directory(cfg), cfg.MemTable, cfg.Log); !again.Held() {
		t.Error("the next start does not know of the reserve")
	}
	if err := s.Ping(t.Context()); err != nil || s.Err() != nil {
		t.Errorf("ping: %v, %v", err, s.Err())
	}
	if got := stored(t, s, 0); len(got) != 2 {
		t.Errorf("stored: %q", got)
	}
}

// Positions that find no room at all are kept and written when there is some.
func TestFullDiskKeepsPositions(t *testing.T) {
	const total = 1 << 30
	mem := vfs.NewMem()
	mem.TestingSetDiskUsage(usage(total, total))
	cfg := memory(t)
	cfg.FS = mem
	s := open(t, cfg)
	create(t, s, 1)
	mustPut(t, s, "a", "b")
	mem.TestingSetDiskUsage(usage(total, 0))
	s.space.Look()
	wantKind(t, "a seek on a disk without any room", s.Seek(t.Context(), "t", "g", store.Position{Next: 2}), errs.DiskFull)
	mem.TestingSetDiskUsage(usage(total, total))
	s.space.Look()
	eventually(t, "the position is on disk", func() bool {
		_, closer, err := s.db.Get(positionKey(1, "g", 0))
		if err == nil {
			_ = closer.Close()
		}
		return err == nil
	})
}

// TestRealFullDisk fills a real file system, again and again. It needs the right to mount one.
func TestRealFullDisk(t *testing.T) {
	mount := t.TempDir()
	if err := syscall.Mount("tmpfs", mount, "tmpfs", 0, "size=64m"); err != nil {
		t.Skipf("a small file system can't be mounted: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(mount, 0); err != nil {
			t.Error(err)
		}
	})
	const rounds = 3
	other := func(i int) string { return filepath.Join(mount, fmt.Sprint("other", i)) }
	for i := range rounds {
		if err := os.WriteFile(other(i), make([]byte, 8<<20), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, Config{Dir: filepath.Join(mount, "data"), Log: testLog(t)})
	create(t, s, 1)
	value, n := strings.Repeat("x", 10_000), 0
	more := func() bool {
		err := put(s, value)
		if err == nil {
			n++
		} else if !errors.Is(err, errs.DiskFull) {
			t.Fatalf("after %d messages: %v", n, err)
		}
		return err == nil
	}
	for i := range rounds {
		for more() {
		}
		// Others take what is left, so that pebble meets the full disk too.
		if err := os.WriteFile(other(rounds), make([]byte, 64<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("the disk is not full: %v", err)
		}
		if got := len(stored(t, s, 0)); got != n || s.Err() != nil {
			t.Fatalf("round %d: %d of %d messages are there: %v", i, got, n, s.Err())
		}
		if err := errors.Join(os.Remove(other(rounds)), os.Remove(other(i))); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		eventually(t, "messages are taken again", more)
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("round %d: that took %v", i, took)
		}
	}
}
