package disk

import (
	"bytes"
	"encoding/binary"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// seeds is how many damages a test does; KATEWAY_TEST_DAMAGES makes them more.
func seeds(t *testing.T) uint64 {
	n, err := strconv.ParseUint(os.Getenv("KATEWAY_TEST_DAMAGES"), 10, 32)
	if err != nil {
		n = 100
	}
	t.Logf("seeds 0 to %d", n-1)
	return n
}

// base is a directory in memory with a database.
type base struct {
	dir Dir
	fs  *vfs.MemFS

	mu   sync.Mutex
	keys uint32 // 0 to keys-1 were confirmed
}

func newBase() *base {
	fs := vfs.NewCrashableMem()
	return &base{fs: fs, dir: Dir{FS: fs, Path: "data", Kind: "test", Version: 1}}
}

// open opens the database as stores do. The function closes it.
func (b *base) open() (*Engine, func() error, error) {
	lock, err := b.dir.Acquire()
	if err != nil {
		return nil, nil, err
	}
	log := slog.New(slog.DiscardHandler)
	db, err := OpenEngine(NewSpace(b.dir, 64<<10, log), NewFault(log), log)
	if err != nil {
		_ = lock.Close()
		return nil, nil, err
	}
	return db, func() error {
		err := db.Close()
		_ = lock.Close()
		return err
	}, nil
}

// fill writes more keys.
func (b *base) fill(t *testing.T, db *Engine, rng *rand.Rand, n int) {
	t.Helper()
	for range n {
		value := make([]byte, rng.IntN(3000))
		for i := range value {
			value[i] = byte(rng.Uint32())
		}
		if err := db.Set(binary.BigEndian.AppendUint32(nil, b.keys), value, pebble.Sync); err != nil {
			t.Fatal(err)
		}
		b.mu.Lock()
		b.keys++
		b.mu.Unlock()
	}
}

// whole reports whether all that was confirmed is there, or at least an error tells that it is not.
func (b *base) whole(t *testing.T) (there uint32, told error) {
	t.Helper()
	db, end, err := b.open()
	if err != nil {
		return 0, err
	}
	defer func() { _ = end() }()
	it, err := db.NewIter(nil)
	if err != nil {
		return 0, err
	}
	for it.First(); it.Valid(); it.Next() {
		if there != binary.BigEndian.Uint32(it.Key()) {
			break
		}
		if _, err := it.ValueAndErr(); err != nil {
			return there, it.Close()
		}
		there++
	}
	return there, it.Close()
}

// made is a database with some history, closed in order or left as by kill -9.
func made(t *testing.T, rng *rand.Rand, isClosed bool) *base {
	t.Helper()
	b := newBase()
	for range 1 + rng.IntN(3) {
		db, end, err := b.open()
		if err != nil {
			t.Fatal(err)
		}
		b.fill(t, db, rng, 1+rng.IntN(200))
		if !isClosed {
			b.fs = b.fs.CrashClone(vfs.CrashCloneCfg{})
			b.dir.FS = b.fs
		}
		if err := end(); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func (b *base) read(t *testing.T, name string) []byte {
	t.Helper()
	text, err := b.dir.readFile(b.dir.FS.PathJoin(b.dir.Join(DatabaseDir), name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func (b *base) write(t *testing.T, name string, text []byte) {
	t.Helper()
	f, err := b.fs.Create(b.fs.PathJoin(b.dir.Join(DatabaseDir), name), vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(f, bytes.NewReader(text)); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// files are those of pebble's that begin so and are not empty.
func (b *base) files(t *testing.T, prefix string) []string {
	t.Helper()
	names, err := b.fs.List(b.dir.Join(DatabaseDir))
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, name := range names {
		if strings.HasPrefix(name, prefix) && len(b.read(t, name)) > 0 {
			found = append(found, name)
		}
	}
	return found
}

// TestDamageAfterClose: whatever happens to a file while the database is closed, all is there afterwards, or something tells that it is not.
func TestDamageAfterClose(t *testing.T) {
	refused := 0
	for seed := range seeds(t) {
		rng := rand.New(rand.NewPCG(seed, 1))
		b := made(t, rng, true)
		names := b.files(t, [...]string{"", "MANIFEST-", "0"}[rng.IntN(3)])
		name := names[rng.IntN(len(names))]
		text := b.read(t, name)
		at := rng.IntN(len(text))
		what := "cut off"
		switch rng.IntN(3) {
		case 0:
			text = text[:at]
		case 1:
			what = "changed"
			text[at] ^= byte(1 << rng.IntN(8))
		default:
			what = "zeroed"
			clear(text[at:min(at+512, len(text))])
		}
		b.write(t, name, text)
		there, err := b.whole(t)
		if err == nil && there != b.keys {
			t.Errorf("seed %d: %s of %d bytes is %s at %d: %d of %d keys are there, and nothing tells", seed, name, len(text), what, at, there, b.keys)
		}
		if err != nil {
			refused++
		}
	}
	if refused == 0 {
		t.Error("no damage was seen")
	}
}

// TestDamageAfterCrash: of a database that was not closed in order, only the last record of the manifest may be what a crash has left of it.
func TestDamageAfterCrash(t *testing.T) {
	refused := 0
	for seed := range seeds(t) {
		rng := rand.New(rand.NewPCG(seed, 2))
		b := made(t, rng, false)
		there, err := pebble.Peek(b.dir.Join(DatabaseDir), b.fs)
		if err != nil {
			t.Fatal(err)
		}
		name := b.fs.PathBase(there.ManifestFilename)
		text := b.read(t, name)
		last := len(text)
		for whole, end := readRecords(text); ; last-- { // where the last record begins
			if n, _ := readRecords(text[:last]); n < whole || end == 0 {
				break
			}
		}
		_, last = readRecords(text[:last])
		if last == 0 {
			last = len(text) // the only one
		}
		at := rng.IntN(last)
		text[at] ^= byte(1 << rng.IntN(8))
		b.write(t, name, text)
		if n, err := b.whole(t); err == nil && n != b.keys {
			t.Errorf("seed %d: %s of %d bytes is changed at %d: %d of %d keys are there, and nothing tells", seed, name, len(text), at, n, b.keys)
		} else if err != nil {
			refused++
		}
	}
	if refused == 0 {
		t.Error("no damage was seen")
	}
}

// TestLostFiles: the markers and the manifest that they name are missed.
func TestLostFiles(t *testing.T) {
	for _, isClosed := range []bool{true, false} {
		for _, prefix := range []string{"marker.manifest", "MANIFEST-"} {
			b := made(t, rand.New(rand.NewPCG(1, 3)), isClosed)
			names, err := b.fs.List(b.dir.Join(DatabaseDir))
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range names {
				if strings.HasPrefix(name, prefix) {
					if err := b.fs.Remove(b.fs.PathJoin(b.dir.Join(DatabaseDir), name)); err != nil {
						t.Fatal(err)
					}
				}
			}
			if n, err := b.whole(t); err == nil {
				t.Errorf("without %s, closed in order: %v, it opens with %d of %d keys", prefix, isClosed, n, b.keys)
			}
		}
	}
}

// TestUndamaged: a database opens with all that was confirmed when nothing happened to it, and again.
func TestUndamaged(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 4))
		b := made(t, rng, seed%2 == 0)
		for range 2 {
			if n, err := b.whole(t); err != nil || n != b.keys {
				t.Fatalf("seed %d: %d of %d keys, %v", seed, n, b.keys, err)
			}
		}
	}
}

// crash takes the disk at a random change of it, as a power loss leaves it.
type crash struct {
	b     *base
	rng   *rand.Rand
	left  int
	after *vfs.MemFS
	keys  uint32 // confirmed at that moment
}

func (c *crash) String() string { return "power loss" }

// MaybeError is called by pebble's goroutines, too.
func (c *crash) MaybeError(op errorfs.Op) error {
	if op.Kind.ReadOrWrite() == errorfs.OpIsRead {
		return nil
	}
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	if c.left--; c.left < 0 && c.after == nil {
		c.keys = c.b.keys
		c.after = c.b.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: c.rng.IntN(101), RNG: c.rng})
	}
	return nil
}

// TestPowerLossWhileOpeningAndClosing: it is never taken for damage, and nothing that was confirmed is lost.
func TestPowerLossWhileOpeningAndClosing(t *testing.T) {
	happened := 0
	for seed := range seeds(t) {
		rng := rand.New(rand.NewPCG(seed, 5))
		b := made(t, rng, true)
		for range 3 {
			c := &crash{b: b, rng: rand.New(rand.NewPCG(rng.Uint64(), seed)), left: rng.IntN(60)} // its own: others draw meanwhile
			b.dir.FS = errorfs.Wrap(b.fs, c)
			db, end, err := b.open()
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			b.fill(t, db, rng, rng.IntN(3))
			if err := end(); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			b.mu.Lock()
			if c.after != nil {
				happened++
				b.fs, b.keys = c.after, c.keys
			}
			b.mu.Unlock()
			b.dir.FS = b.fs
			n, err := b.whole(t)
			if err != nil || n < b.keys {
				t.Fatalf("seed %d: %d of %d keys, %v", seed, n, b.keys, err)
			}
			b.keys = n
		}
	}
	if happened == 0 {
		t.Error("the power never went")
	}
}
