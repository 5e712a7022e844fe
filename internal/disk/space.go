package disk

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

// MaxReserve is the largest reserve file in bytes.
const MaxReserve = 16 << 20

const (
	maxMemTable = 64 << 20
	minMemTable = 1 << 20
	diskShare   = 16 // memtable and reserve take at most this part of a small disk

	lookEvery = 100 * time.Millisecond // how old what we know of the disk may be
	lookAfter = 1 << 20                // and how much may have been written since
)

// Space keeps pebble from ever meeting a full disk, since it does not survive a failed write of its log. Below a mark
// publishes are refused, and compactions soon after. What else is written, positions above all, is small and goes on; when others fill
// the disk further, a reserve file is given up for it, and made again when there is room.
//
//	mark: the room for the next memtable's flush and log; floor: a sixteenth of it
type Space struct {
	dir      Dir
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

// NewSpace looks at the disk of d. memTable is pebble's; 0 = as large as the disk allows.
func NewSpace(d Dir, memTable uint64, log *slog.Logger) *Space {
	sp := &Space{dir: d, log: log, memTable: maxMemTable}
	if u, err := d.FS.GetDiskUsage(d.Path); err == nil {
		share := u.TotalBytes / diskShare
		sp.memTable = min(max(share, minMemTable), maxMemTable)
		sp.reserve = min(share, MaxReserve)
	} else if !errors.Is(err, vfs.ErrUnsupported) {
		log.Warn("the disk does not tell its free space; when it is full, the store stops", "err", err)
	}
	if memTable != 0 {
		sp.memTable = memTable
	}
	info, err := d.FS.Stat(d.Join(ReserveFile))
	sp.held = err == nil && info.Size() == int64(sp.reserve)
	sp.Look()
	return sp
}

// MemTable is the size of pebble's memtable in bytes.
func (sp *Space) MemTable() uint64 { return sp.memTable }

// Held reports whether the reserve is there.
func (sp *Space) Held() bool {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	return sp.held
}

// Mark is the free space that publishes need besides their own bytes.
func (sp *Space) Mark() uint64 { return sp.memTable + sp.memTable/4 }

// Floor is the free space below which the reserve is given up.
func (sp *Space) Floor() uint64 { return sp.Mark() / 16 }

// Admit says whether a publish of so many bytes may be given to pebble.
func (sp *Space) Admit(bytes uint64) bool {
	if sp.reserve == 0 {
		return true
	}
	sp.mu.Lock()
	defer sp.mu.Unlock()
	sp.freshen(bytes)
	sp.refuse(sp.free < sp.Mark())
	if sp.free < sp.Mark()+2*bytes { // to the log now, and to a table later
		return false
	}
	sp.free -= bytes // until the next look tells better
	return true
}

// admitCompaction says whether a compaction may write so many bytes. It leaves the room for a flush of the messages that
// were taken.
func (sp *Space) admitCompaction(bytes uint64) bool {
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
func (sp *Space) untilRoom() time.Duration {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	return time.Until(sp.crowded.Add(lookEvery))
}

// freshen looks again when what is known is too old to be trusted. Caller holds sp.mu.
func (sp *Space) freshen(bytes uint64) {
	if sp.written += bytes; sp.written >= lookAfter || time.Since(sp.looked) >= lookEvery {
		sp.lookLocked()
	}
}

// Spare says whether there is room for what is small and no publish.
func (sp *Space) Spare() bool {
	if sp.reserve == 0 {
		return true
	}
	sp.mu.Lock()
	defer sp.mu.Unlock()
	sp.freshen(0)
	return sp.held || sp.free >= sp.Floor()
}

func (sp *Space) refuse(yes bool) {
	if sp.refused.Swap(yes) == yes {
		return
	}
	if yes {
		sp.log.Error("disk is full: messages are refused", "dir", sp.dir.Path, "free", sp.free, "needed", sp.Mark())
	} else {
		sp.log.Info("disk has room again: messages are taken", "dir", sp.dir.Path, "free", sp.free)
	}
}

// Refused is what the last look said.
func (sp *Space) Refused() bool { return sp.refused.Load() }

// Tight says whether publishes are refused or may soon be.
func (sp *Space) Tight() bool {
	if sp.reserve == 0 {
		return false
	}
	sp.mu.Lock()
	defer sp.mu.Unlock()
	return sp.refused.Load() || sp.free < 2*sp.Mark()
}

// FullError is the answer to a publish that is not admitted.
func (sp *Space) FullError() error {
	return fmt.Errorf("less than %d MB free in %s; free space, or shorten topics' retention: %w",
		sp.Mark()>>20, sp.dir.Path, errs.DiskFull)
}

// Look asks the file system, and cares for the reserve.
func (sp *Space) Look() {
	if sp.reserve == 0 {
		return
	}
	sp.mu.Lock()
	defer sp.mu.Unlock()
	sp.lookLocked()
	sp.refuse(sp.free < sp.Mark())
	if !sp.held && sp.free >= sp.Mark()+sp.reserve {
		sp.makeReserve()
	}
}

func (sp *Space) lookLocked() {
	u, err := sp.dir.FS.GetDiskUsage(sp.dir.Path)
	if err != nil {
		sp.log.Error("free space can't be asked for; the last known goes on to count", "dir", sp.dir.Path, "err", err)
	} else {
		sp.free = u.AvailBytes
	}
	sp.looked, sp.written = time.Now(), 0
	if sp.held && sp.free < sp.Floor() {
		sp.dropReserve()
	}
}

// giveUp is called when pebble met a full disk in spite of all.
func (sp *Space) giveUp() {
	sp.mu.Lock()
	defer sp.mu.Unlock()
	if sp.held {
		sp.dropReserve()
	}
}

func (sp *Space) dropReserve() {
	if err := sp.dir.FS.Remove(sp.dir.Join(ReserveFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		sp.log.Error("the reserve can't be given up", "dir", sp.dir.Path, "err", err)
		return
	}
	sp.held = false
	sp.log.Warn("disk is nearly full: the reserve is given up so that positions can still be written", "dir", sp.dir.Path, "bytes", sp.reserve)
}

// makeReserve writes the file, so that its blocks are really ours.
func (sp *Space) makeReserve() {
	f, err := sp.dir.FS.Create(sp.dir.Join(ReserveFile), vfs.WriteCategoryUnspecified)
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
		sp.log.Error("no reserve could be made", "dir", sp.dir.Path, "err", err)
		return
	}
	sp.held = true
}
