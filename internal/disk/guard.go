package disk

import (
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// guardFS stands between pebble and the disk. Pebble has no way to go on after a failed write of its log or its manifest:
// it panics with locks held, or ends the process in the midst of everything. So such an error does not reach it. The store
// fails, every caller gets an answer, and pebble's goroutine waits for the end of the process; nothing is confirmed that was not
// synced. Errors of tables do reach pebble, which tries again. All of that happens where pebble holds no lock that readers need.
type guardFS struct {
	vfs.FS // gives up the reserve when the disk is full
	plain  vfs.FS
	space  *Space
	fault  *Fault
	armed  atomic.Bool // not while pebble opens or closes, which may fail
}

func newGuard(sp *Space, fault *Fault) *guardFS {
	return &guardFS{FS: vfs.OnDiskFull(sp.dir.FS, sp.giveUp), plain: sp.dir.FS, space: sp, fault: fault}
}

// vital reports a file of which pebble can't do without a write.
func (g *guardFS) vital(name string) bool {
	base := g.PathBase(name)
	return strings.HasSuffix(base, ".log") || strings.HasPrefix(base, "MANIFEST-") || isMarker(base)
}

func isMarker(base string) bool { return strings.HasPrefix(base, "marker.") }

// check answers nil, or the error when it is not armed.
func (g *guardFS) check(what, name string, err error) error {
	if err != nil && g.armed.Load() {
		g.fault.halt(fmt.Errorf("%s %s: %w", what, name, err))
	}
	return err
}

// rest ends pebble's background work on a store that failed: it would try the same flush for ever, without a pause.
func (g *guardFS) rest() {
	if err := g.fault.Err(); err != nil && g.armed.Load() {
		g.fault.halt(err)
	}
}

// Create makes what a marker names durable before the marker: pebble syncs the directory only after it has made both, so
// that after a power loss the marker could be there without what it names, and pebble would not open.
func (g *guardFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if category == compactionCategory {
		return g.createCompaction(name)
	}
	if !g.vital(name) {
		g.rest()
		return g.FS.Create(name, category)
	}
	if isMarker(g.PathBase(name)) {
		if err := (Dir{FS: g.FS}).syncDir(g.PathDir(name)); err != nil {
			return nil, g.check("sync the directory of", name, err)
		}
	}
	f, err := g.FS.Create(name, category)
	return g.file(name, f, err)
}

// compactionCategory is what pebble calls the files of its compactions.
const compactionCategory = vfs.DiskWriteCategory("pebble-compaction")

// createCompaction makes a file that has to fit into the room that there is to spare.
func (g *guardFS) createCompaction(name string) (vfs.File, error) {
	g.rest()
	time.Sleep(g.space.untilRoom()) //nolint:forbidigo // pebble gives nothing to be woken by
	f, err := g.plain.Create(name, compactionCategory)
	if err != nil {
		return nil, err
	}
	return &compactionFile{File: f, space: g.space}, nil
}

type compactionFile struct {
	vfs.File
	space *Space
}

func (f *compactionFile) Write(b []byte) (int, error) {
	if !f.space.admitCompaction(uint64(len(b))) {
		return 0, fmt.Errorf("a compaction has to wait for room: %w", syscall.ENOSPC)
	}
	return f.File.Write(b)
}

// ReuseForWrite takes an old log for a new one.
func (g *guardFS) ReuseForWrite(old, name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := g.FS.ReuseForWrite(old, name, category)
	return g.file(name, f, err)
}

// OpenDir is for syncing the directory.
func (g *guardFS) OpenDir(name string) (vfs.File, error) {
	f, err := g.FS.OpenDir(name)
	return g.file(name, f, err)
}

func (g *guardFS) file(name string, f vfs.File, err error) (vfs.File, error) {
	if err := g.check("open", name, err); err != nil {
		return nil, err
	}
	return &guardFile{File: f, guard: g, name: name}, nil
}

// guardFile is a vital file, open for writing.
type guardFile struct {
	vfs.File
	guard *guardFS
	name  string
}

func (f *guardFile) Write(b []byte) (int, error) {
	n, err := f.File.Write(b)
	return n, f.guard.check("write", f.name, err)
}

func (f *guardFile) WriteAt(b []byte, at int64) (int, error) {
	n, err := f.File.WriteAt(b, at)
	return n, f.guard.check("write", f.name, err)
}

func (f *guardFile) Sync() error { return f.guard.check("sync", f.name, f.File.Sync()) }

func (f *guardFile) SyncData() error { return f.guard.check("sync", f.name, f.File.SyncData()) }

func (f *guardFile) SyncTo(length int64) (full bool, err error) {
	full, err = f.File.SyncTo(length)
	return full, f.guard.check("sync", f.name, err)
}

func (f *guardFile) Close() error { return f.guard.check("close", f.name, f.File.Close()) }
