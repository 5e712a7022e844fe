package embedded

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/kateway/kateway/internal/errs"
)

const (
	maxMemTable = 64 << 20
	minMemTable = 1 << 20
	maxReserve  = 16 << 20
	diskShare   = 16 // memtable and reserve take at most this part of a small disk

	lookEvery = 100 * time.Millisecond // how old what we know of the disk may be
	lookAfter = 1 << 20                // and how much may have been written since
)

// space keeps pebble from ever meeting a full disk, since it does not survive a failed write of its log. Below a mark
// publishes are refused, and compactions soon after. What else is written, positions above all, is small and goes on; when others fill
// the disk further, a reserve file is given up for it, and made again when there is room.
//
//	mark: the room for the next memtable's flush and log; floor: a sixteenth of it
type space struct {
	dir      dir
	log      *slog.Logger
	memTable uint64
	reserve  uint64 // size of the reserve file; 0 = the file system does not tell its free space
	refused  atomic.Bool

	mu      sync.Mutex // guards what follows
	looked  time.Time
	written uint64 // since looked
	free    uint64
	held    bool      // the reserve file is there
	crowded time.Time // a compaction found no room
}

func newSpace(d dir, cfg Config, log *slog.Logger) *space {
	sp := &space{dir: d, log: log, memTable: maxMemTable}
	if u, err := d.fs.GetDiskUsage(d.path); err == nil {
		share := u.TotalBytes / diskShare
		sp.memTable = min(max(share, minMemTable), maxMemTable)
		sp.reserve = min(share, maxReserve)
	} else if !errors.Is(err, vfs.ErrUnsupported) {
		log.Warn("the disk does not tell its free space; when it is full, the store stops", "err", err)
	}
	if cfg.MemTable != 0 {
		sp.memTable = cfg.MemTable
	}
	info, err := d.fs.Stat(d.join(reserveFile))
	sp.held = err == nil && info.Size() == int64(sp.reserve)
	sp.look()
	return sp
}

// mark is the free space that publishes need besides their own bytes.
func (sp *space) mark() uint64 { return sp.memTable + sp.memTable/4 }

// floor is the free space below which the reserve is given up.
func (sp *space) floor() uint64 { return sp.mark() / 16 }

// admit says whether a publish of so many bytes may be given to pebble.
func (sp *space) admit(bytes uint64) bool {
	if sp.reserve == 0 {
		return true
	}
	sp.mu.Lock()
	defer sp.mu.Unlock()
	sp.freshen(bytes)
	sp.refuse(sp.free < sp.mark())
	if sp.free < sp.mark()+2*bytes { // to the log now, and to a table later
		return false
	}
	sp.free -= bytes // until the next look tells better
	return true
}

// admitCompaction says whether a compaction may write so many bytes. It leaves the room for a flush of the messages that
// were taken.
func (sp *space) admitCompaction(bytes uint64) bool {
	if sp.reserve == 0 {
		return true
	}
	sp.mu.Lock()
	defer sp.mu.Unlock()
	sp.freshen(bytes)
	if sp.free >= sp.memTable+bytes {
		return true
	}
	sp.crowded = time.Now()
	return false
}

// untilRoom is how long a compaction is to wait, since one found no room: pebble tries again at once, and a flush
// should have the room first that the failed one gives back.
func (sp *space) untilRoom() time.Duration {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	return time.Until(sp.crowded.Add(lookEvery))
}

// freshen looks again when what is known is too old to be trusted. Caller holds sp.mu.
func (sp *space) freshen(bytes uint64) {
	if sp.written += bytes; sp.written >= lookAfter || time.Since(sp.looked) >= lookEvery {
		sp.lookLocked()
	}
}

// spare says whether there is room for what is small and no publish.
func (sp *space) spare() bool {
	if sp.reserve == 0 {
		return true
	}
	sp.mu.Lock()
	defer sp.mu.Unlock()
	sp.freshen(0)
	return sp.held || sp.free >= sp.floor()
}

func (sp *space) refuse(yes bool) {
	if sp.refused.Swap(yes) == yes {
		return
	}
	if yes {
		sp.log.Error("disk is full: messages are refused", "dir", sp.dir.path, "free", sp.free, "needed", sp.mark())
	} else {
		sp.log.Info("disk has room again: messages are taken", "dir", sp.dir.path, "free", sp.free)
	}
}

// publishesRefused is what the last look said.
func (sp *space) publishesRefused() bool { return sp.refused.Load() }

// tight says whether publishes are refused or may soon be.
func (sp *space) tight() bool {
	if sp.reserve == 0 {
		return false
	}
	sp.mu.Lock()
	defer sp.mu.Unlock()
	return sp.refused.Load() || sp.free < 2*sp.mark()
}

func (sp *space) fullError() error {
	return fmt.Errorf("less than %d MB free in %s; free space, or shorten topics' retention: %w",
		sp.mark()>>20, sp.dir.path, errs.DiskFull)
}

// look asks the file system, and cares for the reserve.
func (sp *space) look() {
	if sp.reserve == 0 {
		return
	}
	sp.mu.Lock()
	defer sp.mu.Unlock()
	sp.lookLocked()
	sp.refuse(sp.free < sp.mark())
	if !sp.held && sp.free >= sp.mark()+sp.reserve {
		sp.makeReserve()
	}
}

func (sp *space) lookLocked() {
	u, err := sp.dir.fs.GetDiskUsage(sp.dir.path)
	if err != nil {
		sp.log.Error("free space can't be asked for; the last known goes on to count", "dir", sp.dir.path, "err", err)
	} else {
		sp.free = u.AvailBytes
	}
	sp.looked, sp.written = time.Now(), 0
	if sp.held && sp.free < sp.floor() {
		sp.dropReserve()
	}
}

// giveUp is called when pebble met a full disk in spite of all.
func (sp *space) giveUp() {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if sp.held {
		sp.dropReserve()
	}
}

func (sp *space) dropReserve() {
	if err := sp.dir.fs.Remove(sp.dir.join(reserveFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		sp.log.Error("the reserve can't be given up", "dir", sp.dir.path, "err", err)
		return
	}
	sp.held = false
	sp.log.Warn("disk is nearly full: the reserve is given up so that positions can still be written", "dir", sp.dir.path, "bytes", sp.reserve)
}

// makeReserve writes the file, so that its blocks are really ours.
func (sp *space) makeReserve() {
	f, err := sp.dir.fs.Create(sp.dir.join(reserveFile), vfs.WriteCategoryUnspecified)
	if err == nil {
		chunk := make([]byte, 1<<20)
		for left := sp.reserve; left > 0 && err == nil; {
			n := min(left, uint64(len(chunk)))
			_, err = f.Write(chunk[:n])
			left -= n
		}
		err = errors.Join(err, f.Sync(), f.Close())
	}
	if err != nil {
		sp.log.Error("no reserve could be made", "dir", sp.dir.path, "err", err)
		return
	}
	sp.held = true
}
