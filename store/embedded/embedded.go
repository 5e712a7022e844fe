// Package embedded is the store on the local disk: topics, messages, positions and outcomes in one pebble database, for
// one process on one machine. docs/design.md has the picture; these are the paths through this package:
//
//	publish    publish.go (caller) -> writer.go (one goroutine encodes, writes; another waits for the sync, answers)
//	subscribe  subscribe.go, group.go (who holds what) -> feed.go (Poll) -> cursor.go (blocks) <- tail.go (what was just stored)
//	follow     follow.go, the same without a group
//	positions  positions.go (noted in memory, written soon)
//	upkeep     sweep.go (retention, expiry of outcomes), reclaim.go (space)
//	disk       internal/disk (directory, room, pebble, rounds)
//
// All writes to pebble are made by one goroutine, the writer. Concurrent publishes share its rounds: one pebble batch, in
// it one block per partition, one sync. Locks are taken in this order: Store.admin, Store.noting, group.mu,
// Store.mu or topic.mu, partition.mu.
package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sync/semaphore"

	"github.com/kateway/kateway/internal/disk"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// Config says where the store is and how much it keeps. Zero fields mean the default.
type Config struct {
	Dir string // made with mode 0700 if it is not there; its parent must be
	FS  vfs.FS // nil = the disk
	Log *slog.Logger
	Now func() time.Time // for messages' times, retention and the window of outcomes

	Partitions     int32         // of a topic that asks for none; default 1
	Retention      time.Duration // of a topic that asks for none; default 168h, negative: no limit
	RetentionBytes int64         // of a topic that asks for none, per partition; default no limit
	MaxMessage     int           // in bytes as store.Message.Size counts; default 16 MB

	OnceWindow time.Duration // how long an outcome is remembered at the most; default 10m
	OnceKeys   int           // how many outcomes are remembered at the most, somewhat exceeded between sweeps; default 1,000,000

	TailBytes   int64         // memory for messages just stored, for live readers of all topics together; default 32 MB
	MemTable    uint64        // pebble's memtable; default 64 MB, or 1/16 of the disk where that is less
	CommitEvery time.Duration // how long a commit stays in memory; default 50ms
	SweepEvery  time.Duration // how often retention is applied; default 10s

	blockCount int // messages in a block at the most; less in tests
}

func (c Config) withDefaults() Config {
	orDefault(&c.Log, slog.New(slog.DiscardHandler))
	if c.Now == nil {
		c.Now = time.Now
	}
	orDefault(&c.Partitions, 1)
	orDefault(&c.Retention, 168*time.Hour)
	orDefault(&c.RetentionBytes, -1)
	orDefault(&c.MaxMessage, 16<<20)
	orDefault(&c.OnceWindow, 10*time.Minute)
	orDefault(&c.OnceKeys, 1_000_000)
	orDefault(&c.TailBytes, 32<<20)
	orDefault(&c.CommitEvery, 50*time.Millisecond)
	orDefault(&c.SweepEvery, 10*time.Second)
	orDefault(&c.blockCount, maxBlockCount)
	return c
}

func orDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

var (
	_ store.Store         = (*Store)(nil)
	_ store.OncePublisher = (*Store)(nil)
	_ store.Follower      = (*Store)(nil)
)

// Store is a store.Store and a store.OncePublisher. It owns its directory until Close.
type Store struct {
	cfg   Config
	log   *slog.Logger
	lock  io.Closer
	db    *disk.Engine
	space *disk.Space
	tail  *tailCache
	fault *disk.Fault
	onces onces
	trash garbage

	queue chan *op            // to the writer; never full, since room admits no more
	room  *semaphore.Weighted // what publishes on their way weigh

	admin  sync.Mutex // one change of topics at a time
	nextID uint64     // of topics; guarded by admin
	noting sync.Mutex // keeps positions in the queue in the order in which they were noted
	dirty  dirtyGroups

	mu     sync.RWMutex // guards what follows
	topics map[string]*topic
	open   map[wake]struct{} // of feeds and tails
	closed bool

	reads   sync.WaitGroup // pebble's iterators in use; begun under mu
	workers sync.WaitGroup // committer and sweeper
	stop    context.CancelFunc
	writing chan struct{} // closed when the writer has ended
	gone    chan struct{} // closed when Close is through
	goneErr error
}

// formatVersion is that of everything in the directory.
const formatVersion = 1

// directory is that of the store.
func directory(cfg Config) disk.Dir {
	return disk.Dir{FS: cfg.FS, Path: cfg.Dir, Kind: "kateway embedded store", Version: formatVersion}
}

// Check looks whether the store in dir could be opened by this version, as far as that can be told without having it. It
// touches nothing.
func Check(dir string) error {
	d := directory(Config{Dir: dir, FS: vfs.Default})
	d.OnDisk = true
	if err := d.Check(); err != nil {
		return fmt.Errorf("store in %s: %w", dir, err)
	}
	return nil
}

// Open opens the store in cfg.Dir or makes it. A directory that another process uses, that is not this store's or that
// a newer version wrote is refused, unchanged.
func Open(cfg Config) (*Store, error) {
	cfg = cfg.withDefaults()
	onDisk := cfg.FS == nil
	if onDisk {
		cfg.FS = vfs.Default
	}
	d := directory(cfg)
	d.OnDisk = onDisk
	lock, err := d.Acquire()
	if err != nil {
		return nil, fmt.Errorf("open store in %s: %w", cfg.Dir, err)
	}
	s := &Store{
		cfg: cfg, log: cfg.Log, lock: lock, fault: disk.NewFault(cfg.Log), topics: map[string]*topic{}, open: map[wake]struct{}{},
		queue: make(chan *op, maxOps+spareOps), room: semaphore.NewWeighted(roomForOps),
		writing: make(chan struct{}), gone: make(chan struct{}),
	}
	s.dirty.wake = make(chan struct{}, 1)
	s.tail = &tailCache{limit: cfg.TailBytes}
	if err := s.start(d); err != nil {
		return nil, errors.Join(fmt.Errorf("open store in %s: %w", cfg.Dir, err), lock.Close())
	}
	return s, nil
}

// start opens pebble, reads the topics and starts the goroutines.
func (s *Store) start(d disk.Dir) error {
	s.space = disk.NewSpace(d, s.cfg.MemTable, s.log)
	db, err := disk.OpenEngine(s.space, s.fault, s.log)
	if err != nil {
		return err
	}
	s.db = db
	if err := s.load(); err != nil {
		return errors.Join(err, db.Close())
	}
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	go (&writer{s: s}).run()
	s.workers.Go(func() { s.commitLoop(ctx) })
	s.workers.Go(func() { s.sweepLoop(ctx) })
	return nil
}

// Done is closed when the store can't go on: pebble could not write, and nobody knows what is on the disk. Nothing is
// stored from then on. The process is to stop and to be started again; Err says what happened.
func (s *Store) Done() <-chan struct{} { return s.fault.Failed() }

// Err is nil until Done is closed, and then the reason.
func (s *Store) Err() error { return s.fault.Err() }

// Relieve writes what is only in memory and in pebble's log to tables, so that a Close that follows soon, and the next
// Open, have little to do.
func (s *Store) Relieve(ctx context.Context) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	flushed, err := s.db.AsyncFlush()
	if err != nil {
		return err
	}
	select {
	case <-flushed:
		return nil
	case <-s.fault.Failed():
		return s.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Ping writes nothing to the log but waits until pebble has synced it.
func (s *Store) Ping(ctx context.Context) error {
	if s.space.Refused() {
		s.space.Look()
	}
	if s.space.Refused() {
		return s.space.FullError()
	}
	o := newWrite(func(b *pebble.Batch) error { return b.LogData([]byte("ping"), nil) })
	return s.write(ctx, o)
}

// Close ends feeds, tails and publishes in flight, writes the positions and closes pebble. A second Close waits for the first.
// When the store failed before, what pebble holds is left to the end of the process.
func (s *Store) Close(ctx context.Context) error {
	s.mu.Lock()
	first := !s.closed
	s.closed = true
	s.mu.Unlock()
	if first {
		go s.shut()
	}
	select {
	case <-s.gone:
		return s.goneErr
	case <-ctx.Done():
		return fmt.Errorf("store did not close in time: %w", ctx.Err())
	}
}

// shut is Close's work. It ends by itself: a disk that hangs is waited for here, not in Close.
func (s *Store) shut() {
	defer close(s.gone)
	s.stop()
	s.wakeAll()
	s.workers.Wait()
	err := s.flushPositions()
	close(s.queue)
	s.fault.AwaitWriter(s.writing)
	if s.fault.IsStuck() {
		s.goneErr = errors.Join(err, s.Err()) // pebble's locks are held for ever: closing it would hang, and so the lock of the directory stays
		return
	}
	s.reads.Wait()
	s.goneErr = errors.Join(err, s.db.Close(), s.lock.Close())
}

// enqueue hands o to the writer. It waits only where the queue is full of what did not have to ask for room.
func (s *Store) enqueue(o *op) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return store.ErrClosed
	}
	s.queue <- o
	return nil
}

// enter begins reading from pebble, which Close then waits for. leave ends it.
func (s *Store) enter() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return store.ErrClosed
	}
	s.reads.Add(1)
	return nil
}

func (s *Store) leave() { s.reads.Done() }

// topic finds a topic of an open store.
func (s *Store) topic(ctx context.Context, name string) (*topic, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return nil, store.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	t := s.topics[name]
	if t == nil {
		return nil, unknown(name)
	}
	return t, nil
}

func unknown(topic string) error { return fmt.Errorf("topic %q: %w", topic, errs.UnknownTopic) }

// isClosed reports that Close was called.
func (s *Store) isClosed() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.closed
}
