// Package spool is a store.Publisher around another one that keeps on the local disk what the other can't take now, and gives
// it over in order when it can: hinted handoff. It also keeps publishes from happening twice, on stores that do not do that
// themselves. docs/design.md has the picture; these are the paths through this package:
//
//	publish    spool.go (what goes where) -> lane.go (which queue) -> writer.go (to disk)
//	drain      drain.go (one goroutine per lane) -> aside.go (what is refused for good)
//	once       once.go, outcome.go, window.go
//	doubt      tail.go: what of it the store has, by a look at the ends of its partitions
//	upkeep     load.go (at the start), status.go, metrics.go
//
// A lane is a queue of messages that are drained one after the other: those of one partition. While it holds a message,
// later ones for it queue behind. All that is put into the spool is written by one goroutine, the writer, whose rounds share a
// sync; lanes remove what they drained themselves. Spool.mu guards the tables of topics and lanes, and is never held while
// waiting for the disk or the store.
package spool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/kateway/kateway/internal/disk"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// Reader is what of the store behind is needed to see whether it has a message.
type Reader interface {
	Resolve(ctx context.Context, topic string, start store.Start) ([]store.Position, error)
	Browse(ctx context.Context, topic string, partition int32, offset int64) iter.Seq2[*store.Message, error]
}

// Config says what is spooled and how much. Zero fields mean the default.
type Config struct {
	Dir string // made with mode 0700 if it is not there; its parent must be
	FS  vfs.FS // nil = the disk

	Next   store.Publisher // where messages belong
	Drain  store.Publisher // the same for what is drained: not through what keeps publishes from a store that fails, since a drain waits; nil = Next
	Reader Reader          // of the same topics
	// Partitions is how many partitions a topic has, as far as that is known without asking; 0 where it is not. May be nil.
	Partitions func(topic string) int32
	// Make makes a topic that is not there while a message for it is drained, in open mode; nil: such a message is refused for good.
	Make func(ctx context.Context, topic string) error
	// Excluded reports a topic that was told not to be spooled. May be nil.
	Excluded func(topic string) bool

	Off      bool          // nothing more is spooled; what is there is drained
	MaxBytes int64         // of all that is in the spool; default 1 GiB
	MaxAge   time.Duration // after which a message that is still here is an alarm; default 24h

	OnceWindow time.Duration // how long an outcome is remembered at the most; default 10m
	OnceKeys   int           // how many outcomes are remembered at the most, somewhat exceeded between sweeps; default 1,000,000

	MemTable uint64 // pebble's memtable; default 8 MB
	Log      *slog.Logger
	Metrics  prometheus.Registerer // nil: none
	Now      func() time.Time

	noSync   bool          // for a benchmark to compare with
	pause    time.Duration // after the first failure of a drain; default 100 ms
	patience time.Duration // that a publish has for the disk at the least, though its time is over; default 2s
}

func (c Config) withDefaults() Config {
	orDefault(&c.MaxBytes, 1<<30)
	orDefault(&c.MaxAge, 24*time.Hour)
	orDefault(&c.OnceWindow, 10*time.Minute)
	orDefault(&c.OnceKeys, 1_000_000)
	orDefault(&c.MemTable, 8<<20)
	orDefault(&c.pause, firstPause)
	orDefault(&c.patience, 2*time.Second)
	orDefault(&c.Log, slog.New(slog.DiscardHandler))
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Drain == nil {
		c.Drain = c.Next
	}
	if c.Partitions == nil {
		c.Partitions = func(string) int32 { return 0 }
	}
	if c.Excluded == nil {
		c.Excluded = func(string) bool { return false }
	}
	return c
}

func orDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

var (
	_ store.Publisher     = (*Spool)(nil)
	_ store.OncePublisher = (*Spool)(nil)
	_ store.Spooler       = (*Spool)(nil)
)

// Spool is a store.Publisher, a store.OncePublisher and a store.Spooler. It owns its directory until Close.
type Spool struct {
	cfg   Config
	log   *slog.Logger
	lock  io.Closer
	db    *disk.Engine
	space *disk.Space
	fault *disk.Fault

	busy     atomic.Int64 // lanes with messages: 0 as a rule, and then a publish only passes through
	bytes    atomic.Int64 // in the spool, or on the way there
	metrics  metrics
	once     window
	asides   atomic.Int64
	nextID   atomic.Uint64 // of what is set aside
	choosing sync.Mutex    // one Requeue or Discard at a time
	crowds   crowds

	queue   chan *op        // to the writer
	writing chan struct{}   // closed when the writer has ended
	ctx     context.Context // ends when Close begins
	stop    context.CancelFunc
	work    sync.WaitGroup // of lanes, publishes that go on without their caller, and the sweeper
	entered sync.WaitGroup // calls that may put something into the queue
	gone    chan struct{}  // closed when Close is through
	goneErr error

	mu     sync.RWMutex // guards what follows
	closed bool
	topics map[string]*topic
	lastID uint32 // of topics
}

// Open opens the spool in cfg.Dir or makes it, and begins to drain what is there. A directory that another process uses, that
// is no spool's or that a newer version wrote is refused, unchanged.
func Open(cfg Config) (*Spool, error) {
	cfg = cfg.withDefaults()
	d := disk.Dir{FS: cfg.FS, Path: cfg.Dir, Kind: "kateway spool", Version: 1}
	if d.FS == nil {
		d.FS, d.OnDisk = vfs.Default, true
	}
	lock, err := d.Acquire()
	if err != nil {
		return nil, fmt.Errorf("open spool in %s: %w", cfg.Dir, err)
	}
	log := cfg.Log.With("database", "spool")
	s := &Spool{
		cfg: cfg, log: log, lock: lock, fault: disk.NewFault(log), topics: map[string]*topic{},
		queue: make(chan *op, maxQueue), writing: make(chan struct{}), gone: make(chan struct{}),
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	if err := s.start(d); err != nil {
		s.stop()
		return nil, errors.Join(fmt.Errorf("open spool in %s: %w", cfg.Dir, err), lock.Close())
	}
	return s, nil
}

func (s *Spool) start(d disk.Dir) error {
	s.space = disk.NewSpace(d, s.cfg.MemTable, s.log)
	db, err := disk.OpenEngine(s.space, s.fault, s.log)
	if err != nil {
		return err
	}
	s.db = db
	if err := s.load(); err != nil {
		return errors.Join(err, db.Close())
	}
	s.metrics.register(s)
	go s.write()
	s.work.Go(s.sweepLoop)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.topics {
		for _, l := range t.lanes {
			s.wake(l)
		}
	}
	return nil
}

// Err says why nothing can be spooled any more until the process is started again: pebble could not write, and nobody knows what
// is on the disk. nil as a rule. Publishes that need no spool go on.
func (s *Spool) Err() error { return s.fault.Err() }

// enter begins a call that needs the disk, which Close then waits for. leave ends it.
func (s *Spool) enter() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return store.ErrClosed
	}
	s.entered.Add(1)
	return nil
}

func (s *Spool) leave() { s.entered.Done() }

// Close ends drains where they are, waits for publishes under way and closes the database. It must come before the Close of the
// store behind: what that one answers to drains under way decides what is looked for at the next start. A second Close waits for the first.
func (s *Spool) Close(ctx context.Context) error {
	s.mu.Lock()
	first := !s.closed
	s.closed = true
	s.mu.Unlock()
	if first {
		s.stop()
		go s.shut()
	}
	select {
	case <-s.gone:
		return s.goneErr
	case <-ctx.Done():
		return fmt.Errorf("the spool did not close in time: %w", ctx.Err())
	}
}

func (s *Spool) shut() {
	defer close(s.gone)
	s.work.Wait()
	s.entered.Wait()
	close(s.queue)
	s.fault.AwaitWriter(s.writing)
	if s.fault.IsStuck() {
		s.goneErr = s.Err() // pebble's locks are held for ever: closing it would hang, and so the lock of the directory stays
		return
	}
	s.goneErr = errors.Join(s.db.Close(), s.lock.Close())
}

// Publish is store.Publisher's, and spools what the store behind can't take.
func (s *Spool) Publish(ctx context.Context, name string, ack store.Ack, msgs ...*store.Message) error {
	if s.busy.Load() != 0 {
		return s.behind(ctx, ctx, name, ack, nil, msgs)
	}
	if err := s.cfg.Next.Publish(ctx, name, ack, msgs...); err != nil {
		return s.rescue(ctx, name, nil, msgs, err)
	}
	return nil
}

// behind publishes while there is something in the spool: what a lane with messages would get queues behind them. caller bounds
// the waiting for the spool, ctx that for the store.
func (s *Spool) behind(ctx, caller context.Context, name string, ack store.Ack, k *onceCall, msgs []*store.Message) error {
	waits, err := s.waiting(caller, name, msgs)
	if err != nil {
		return err
	}
	if waits == nil {
		err := s.cfg.Next.Publish(ctx, name, ack, msgs...)
		return s.rescue(caller, name, k, msgs, err)
	}
	var direct []*store.Message
	for i, m := range msgs {
		if !waits[i] {
			direct = append(direct, m)
		}
	}
	if len(direct) > 0 {
		err = s.cfg.Next.Publish(ctx, name, ack, direct...)
	}
	outcome, n := make([]error, len(msgs)), 0
	for i := range msgs {
		if waits[i] {
			outcome[i] = errBehind
		} else {
			outcome[i] = store.Each(err, n)
			n++
		}
	}
	return s.rescue(caller, name, k, msgs, join(outcome))
}

// errBehind is why a message is not even tried.
var errBehind = fmt.Errorf("messages before it wait in the spool: %w", errs.Unavailable)

// join makes one error of the outcomes.
func join(outcome []error) error {
	if len(outcome) == 1 {
		return outcome[0]
	}
	for _, err := range outcome {
		if err != nil {
			return &store.BatchError{Errs: outcome}
		}
	}
	return nil
}

// waiting marks the messages whose lanes hold some, nil where none does. A caller that does not want its messages spooled
// waits until none of them has to queue.
func (s *Spool) waiting(ctx context.Context, name string, msgs []*store.Message) ([]bool, error) {
	for {
		s.mu.RLock()
		var marks []bool
		var emptied chan struct{}
		if t := s.topics[name]; t != nil && len(t.lanes) > 0 {
			for i, m := range msgs {
				l := t.lanes[t.laneOf(m)]
				if l == nil {
					continue
				}
				if marks == nil {
					marks = make([]bool, len(msgs))
				}
				marks[i], emptied = true, l.emptied
			}
		}
		s.mu.RUnlock()
		if marks == nil || s.mayQueue(ctx, name) {
			return marks, nil
		}
		select {
		case <-emptied:
		case <-ctx.Done():
			return nil, fmt.Errorf("%w, and it is not to be spooled: %w", errBehind, ctx.Err())
		case <-s.ctx.Done():
			return nil, store.ErrClosed
		}
	}
}

// mayQueue reports whether the messages of a call may go into the spool.
func (s *Spool) mayQueue(ctx context.Context, name string) bool {
	return !s.cfg.Off && store.MaySpool(ctx) && !s.cfg.Excluded(name)
}

// spoolable is an outcome after which the message is certain not to be stored, for a reason that is not its own.
func spoolable(err error) bool {
	if err == nil {
		return false
	}
	kind := errs.Of(err)
	return kind == errs.Unavailable || kind == errs.CircuitOpen
}

// rescue spools those messages of a publish that answered err which the store could not take. The answer is what is left of err.
func (s *Spool) rescue(ctx context.Context, name string, k *onceCall, msgs []*store.Message, err error) error {
	if err == nil || !s.mayQueue(ctx, name) || s.fault.Err() != nil {
		return err
	}
	outcome := make([]error, len(msgs))
	some := false
	for i := range msgs {
		outcome[i] = store.Each(err, i)
		some = some || spoolable(outcome[i])
	}
	if !some {
		return err
	}
	o := &op{name: name, msgs: apart(msgs), outcome: slices.Clone(outcome), Op: disk.NewOp(), once: k}
	for i, m := range msgs {
		if spoolable(outcome[i]) {
			o.add(i, m, s.cfg.Now(), reasonOf(outcome[i]))
		}
	}
	if len(o.items) == 0 {
		return err
	}
	if failure := s.put(ctx, o); failure != nil {
		kind := errs.Of(failure)
		if k != nil {
			k.stuck = kind == errs.Uncertain
		}
		if kind != errs.Uncertain && kind != errs.DiskFull {
			s.metrics.refused.WithLabelValues(kind.Code()).Add(float64(len(o.items)))
		}
		for i := range o.items { // the writer may have them still
			at := o.items[i].index
			outcome[at] = fmt.Errorf("%w; nor can it be spooled: %w", failure, outcome[at])
		}
		return join(outcome)
	}
	outcome = o.outcome
	for _, it := range o.items { // but for those that an earlier message of their lane keeps out
		if outcome[it.index] == nil {
			m := msgs[it.index]
			m.Partition, m.Offset, m.Time = store.AnyPartition, store.Spooled, time.UnixMilli(o.at)
		}
	}
	return join(outcome)
}

// apart is what the writer needs of the messages, which it may have for longer than their caller waits.
func apart(msgs []*store.Message) []*store.Message {
	list, all := make([]*store.Message, len(msgs)), make([]store.Message, len(msgs))
	for i, m := range msgs {
		all[i] = store.Message{Partition: m.Partition, Offset: m.Offset, Time: m.Time, Key: bytes.Clone(m.Key)}
		list[i] = &all[i]
	}
	return list
}

// reasonOf is the label of the metric.
func reasonOf(err error) string {
	if errors.Is(err, errBehind) {
		return "behind"
	}
	return errs.Of(err).Code()
}
