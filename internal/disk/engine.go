package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
)

// engineVersion is pebble's format. It is raised by a new formatVersion only, never by a newer pebble alone: a process
// that takes over the directory may have to give it back.
const engineVersion = pebble.FormatTableFormatV6

// Engine is pebble with what guards it.
type Engine struct {
	*pebble.DB
	guard *guardFS
	log   *slog.Logger
}

// OpenEngine opens pebble in its directory. What it recovers of unsynced writes is durable when it returns: a reader
// that sees it will not see something else there after the next power loss.
func OpenEngine(sp *Space, fault *Fault, log *slog.Logger) (*Engine, error) {
	guard, memTable := newGuard(sp, fault), sp.memTable
	cache := pebble.NewCache(int64(2*memTable + memTable/2)) // pebble takes the memtables out of its cache's share
	defer cache.Unref()
	opts := &pebble.Options{
		Cache:                       cache,
		EventListener:               listener(fault, log),
		FS:                          guard,
		FlushDelayDeleteRange:       time.Second, // so that space comes back where nothing is written any more
		FormatMajorVersion:          engineVersion,
		L0CompactionThreshold:       4,
		L0StopWritesThreshold:       24,
		LBaseMaxBytes:               int64(memTable),
		Logger:                      &engineLog{log: log, fault: fault},
		MaxOpenFiles:                500,
		MemTableSize:                memTable,
		MemTableStopWritesThreshold: 4,
		CompactionConcurrencyRange:  func() (int, int) { return 1, 2 },
	}
	// Blocks are big and read in order; compressing them would cost more than all the rest of a publish.
	opts.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionNone })
	opts.TargetFileSizes[0] = int64(memTable) / 2
	for i := range opts.Levels {
		opts.Levels[i].FilterPolicy = bloom.FilterPolicy(10) // for idempotency keys, of which most are new
	}
	if err := sp.dir.checkClosed(); err != nil {
		return nil, err
	}
	if err := keepFormat(sp.dir, opts); err != nil {
		return nil, err
	}
	if err := sp.dir.forgetClosed(); err != nil {
		return nil, err
	}
	db, err := pebble.Open(sp.dir.Join(DatabaseDir), opts)
	if err != nil {
		return nil, err
	}
	if db.Metrics().MemTable.Count > 1 { // what was recovered, unless it is in a table already, as where nothing went wrong
		if err := db.Flush(); err != nil {
			return nil, errors.Join(fmt.Errorf("make what was recovered durable: %w", err), db.Close())
		}
	}
	guard.armed.Store(true)
	return &Engine{DB: db, guard: guard, log: log}, nil
}

// keepFormat leaves the format of a database that is there as it is: the process that had it before may want it back. It
// refuses one whose manifest is damaged.
func keepFormat(d Dir, opts *pebble.Options) error {
	path := d.Join(DatabaseDir)
	if _, err := d.FS.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	there, err := pebble.Peek(path, d.FS)
	if err != nil {
		return err
	}
	if there.Exists {
		opts.FormatMajorVersion = there.FormatMajorVersion
	}
	return d.checkManifest(there)
}

// Close answers also what fails.
func (e *Engine) Close() error {
	e.guard.armed.Store(false)
	if err := e.DB.Close(); err != nil || e.guard.fault.Err() != nil { // after a fault nobody knows what is on the disk
		return err
	}
	if err := e.guard.space.dir.noteClosed(); err != nil {
		e.log.Warn("the next start can't tell whether the files are still what they are now", "err", err)
	}
	return nil
}

func listener(fault *Fault, log *slog.Logger) *pebble.EventListener {
	var last atomic.Int64
	return &pebble.EventListener{
		// Pebble tries again at once: one line a second is enough.
		BackgroundError: func(err error) {
			now := time.Now().Unix()
			if last.Swap(now) != now {
				log.Error("pebble could not flush or compact and tries again", "err", err.Error()) // not its stack
			}
		},
		// Pebble tries a flush for ever, and lets all writes wait for it.
		FlushEnd: func(info pebble.FlushInfo) {
			if broken(info.Err) {
				fault.Fail(fmt.Errorf("flush the memtable: %w", info.Err))
			}
		},
		DataCorruption: func(info pebble.DataCorruptionInfo) {
			log.Error("damaged file", "file", info.Path, "err", info.Details.Error())
		},
		WriteStallBegin: func(info pebble.WriteStallBeginInfo) {
			log.Warn("writes wait for the disk", "reason", info.Reason)
		},
		WriteStallEnd: func() { log.Info("writes go on") },
	}
}

// broken reports an error of the operating system that does not go away when something else is given back.
func broken(err error) bool {
	var errno syscall.Errno
	return errors.As(err, &errno) && !slices.Contains([]syscall.Errno{
		syscall.ENOSPC, syscall.EDQUOT, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EINTR, syscall.EAGAIN,
	}, errno)
}

// Fault is the end of the store before its Close.
type Fault struct {
	log   *slog.Logger
	once  sync.Once
	err   error
	ch    chan struct{} // closed once err is set
	jam   sync.Once
	stuck chan struct{} // closed when locks of pebble are held for ever
}

// NewFault is one that has not happened.
func NewFault(log *slog.Logger) *Fault {
	return &Fault{log: log, ch: make(chan struct{}), stuck: make(chan struct{})}
}

// Fail notes the first reason.
func (f *Fault) Fail(err error) {
	f.once.Do(func() {
		f.err = err
		close(f.ch)
		f.log.Error("the store failed and takes nothing any more; restart the process", "err", err.Error())
	})
}

// Err is nil until Failed is closed, and then the reason.
func (f *Fault) Err() error {
	select {
	case <-f.ch:
		return f.err
	default:
		return nil
	}
}

// halt fails the store and stops the goroutine, one of pebble's or the writer, for ever, with whatever locks it holds.
func (f *Fault) halt(err error) {
	f.Fail(err)
	f.Stick()
	select {}
}

// Failed is closed when nothing is stored any more.
func (f *Fault) Failed() <-chan struct{} { return f.ch }

// Stuck is closed when pebble must not be used, nor closed, any more: it would hang.
func (f *Fault) Stuck() <-chan struct{} { return f.stuck }

// Stick says so.
func (f *Fault) Stick() { f.jam.Do(func() { close(f.stuck) }) }

// IsStuck reports whether Stuck is closed.
func (f *Fault) IsStuck() bool {
	select {
	case <-f.stuck:
		return true
	default:
		return false
	}
}

// engineLog is pebble's logger.
type engineLog struct {
	log   *slog.Logger
	fault *Fault
}

func (l *engineLog) Infof(format string, args ...any) {
	l.log.Debug("pebble", "says", fmt.Sprintf(format, args...))
}

func (l *engineLog) Errorf(format string, args ...any) {
	l.log.Error("pebble", "says", fmt.Sprintf(format, args...))
}

// Fatalf does not return, as pebble would go on from a state that it knows to be wrong.
func (l *engineLog) Fatalf(format string, args ...any) { l.fault.halt(fmt.Errorf(format, args...)) }
