package embedded

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/kateway/kateway/store"
)

const (
	powerTopic      = "t"
	powerPartitions = 2
	powerLives      = 3 // power losses one after the other, for each seed
)

// place is an offset of a partition.
type place struct {
	partition int32
	offset    int64
}

// facts is what the store has told, and must hold over a power loss.
type facts struct {
	durable map[place]string // answered to a publisher with AckAll, or read by a member
	once    map[string]place // what a PublishOnce with AckAll answered, by key
	tried   map[string]bool  // every value that was ever given to the store
}

func (f facts) clone() facts {
	return facts{maps.Clone(f.durable), maps.Clone(f.once), maps.Clone(f.tried)}
}

// life is a store from its opening to a power loss.
type life struct {
	t    *testing.T
	seed uint64
	rng  *rand.Rand
	fs   *vfs.MemFS
	n    int // of the life, for unique values

	mu    sync.Mutex
	cut   *rand.Rand // what the disk keeps; of its own, since the power goes on any goroutine
	facts facts
	left  int        // file operations until the power goes
	after *vfs.MemFS // the disk after it
	known facts      // at that moment
}

func (l *life) String() string { return "power loss" }

// MaybeError is asked before each file operation. At one of them the power goes: what the disk then holds is kept. The
// store goes on, but nothing that it does or says from here counts.
func (l *life) MaybeError(op errorfs.Op) error {
	if op.Kind.ReadOrWrite() == errorfs.OpIsRead {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.left--; l.left < 0 {
		l.cutLocked()
	}
	return nil
}

func (l *life) cutLocked() {
	if l.after == nil {
		l.known = l.facts.clone()
		l.after = l.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: l.cut.IntN(101), RNG: l.cut})
	}
}

func (l *life) over() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.after != nil
}

func (l *life) note(do func(f *facts)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	do(&l.facts)
}

// value is unique, of a length that varies over several of the disk's blocks.
func (l *life) value(rng *rand.Rand, who string, i int) string {
	v := fmt.Sprintf("%d-%s-%d-", l.n, who, i) + string(make([]byte, rng.IntN(3000)))
	l.note(func(f *facts) { f.tried[v] = true })
	return v
}

func TestPowerLoss(t *testing.T) {
	seeds := 1000
	if testing.Short() {
		seeds = 100
	}
	var wg sync.WaitGroup
	next := make(chan uint64)
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for seed := range next {
				powerLoss(t, seed)
			}
		})
	}
	for seed := range seeds {
		next <- uint64(seed)
	}
	close(next)
	wg.Wait()
}

func powerLoss(t *testing.T, seed uint64) {
	l := &life{t: t, seed: seed, fs: vfs.NewCrashableMem(), facts: facts{map[place]string{}, map[string]place{}, map[string]bool{}}}
	for ; l.n < powerLives && !t.Failed(); l.n++ {
		l.rng = rand.New(rand.NewPCG(seed, uint64(l.n)))
		l.cut = rand.New(rand.NewPCG(l.rng.Uint64(), 1))
		l.left = l.rng.IntN(1 << l.rng.IntN(10)) // often early: in the midst of opening
		l.after = nil
		l.run()
		l.fs, l.facts = l.after, l.known
	}
}

// run opens the store, checks what it must still know, and uses it until the power goes, or all is done.
func (l *life) run() {
	s, err := Open(Config{
		Dir: "data", FS: errorfs.Wrap(l.fs, l), Log: slog.New(slog.DiscardHandler), MemTable: 128 << 10,
		blockCount: 1 + l.rng.IntN(4), CommitEvery: 1,
	})
	if err != nil {
		l.t.Errorf("seed %d, life %d: does not open: %v", l.seed, l.n, err)
		return
	}
	l.check(s)
	err = s.CreateTopic(context.Background(), store.Topic{Name: powerTopic, Partitions: powerPartitions})
	if err != nil && !errors.Is(err, store.ErrExists) {
		l.t.Errorf("seed %d, life %d: %v", l.seed, l.n, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var publishers, reader sync.WaitGroup
	for i := range 3 {
		rng := rand.New(rand.NewPCG(l.rng.Uint64(), 0))
		publishers.Go(func() { l.publish(s, rng, fmt.Sprint(i)) })
	}
	reader.Go(func() { l.read(ctx, s) })
	publishers.Wait()
	cancel()
	reader.Wait()
	l.mu.Lock()
	l.cutLocked() // if there were fewer operations
	l.mu.Unlock()
	if err := s.Close(context.Background()); err != nil {
		l.t.Errorf("seed %d, life %d: close: %v", l.seed, l.n, err)
	}
}

// publish stores in all ways, in small batches.
func (l *life) publish(s *Store, rng *rand.Rand, who string) {
	ctx := context.Background()
	for i := 0; i < 20 && !l.over(); i++ {
		var msgs []*store.Message
		var values []string
		for range 1 + rng.IntN(5) {
			v := l.value(rng, who, i*10+len(values))
			values = append(values, v)
			msgs = append(msgs, &store.Message{Partition: rng.Int32N(powerPartitions), Value: []byte(v)})
		}
		ack := store.Ack(rng.IntN(2))
		key := ""
		var err error
		if rng.IntN(4) == 0 {
			key = fmt.Sprintf("%d-%s-%d", l.n, who, i)
			msgs, values = msgs[:1], values[:1]
			err = s.PublishOnce(ctx, powerTopic, ack, onceOf(key, values[0]), msgs...)
		} else {
			err = s.Publish(ctx, powerTopic, ack, msgs...)
		}
		if err != nil {
			l.t.Errorf("seed %d, life %d: %v", l.seed, l.n, err)
			return
		}
		if ack == store.AckLocal {
			continue // may be lost
		}
		l.note(func(f *facts) {
			for j, m := range msgs {
				f.durable[place{m.Partition, m.Offset}] = values[j]
				if key != "" {
					f.once[key] = place{m.Partition, m.Offset}
				}
			}
		})
	}
}

func onceOf(key, value string) store.Once {
	return store.Once{Key: key, Digest: sha256.Sum256([]byte(value))}
}

// read is a member that commits all that it reads.
func (l *life) read(ctx context.Context, s *Store) {
	f, err := s.Subscribe(ctx, store.Spec{Topic: powerTopic, Group: "g"})
	if err != nil {
		if ctx.Err() == nil {
			l.t.Errorf("seed %d, life %d: subscribe: %v", l.seed, l.n, err)
		}
		return
	}
	for {
		b, err := f.Poll(ctx, 7, nil)
		if err != nil {
			break
		}
		for _, g := range b.Gaps {
			l.t.Errorf("seed %d, life %d: gap %+v: a position was behind the end of the log", l.seed, l.n, g)
		}
		for _, m := range b.Messages {
			l.note(func(f *facts) { f.durable[place{m.Partition, m.Offset}] = string(m.Value) })
			if err := f.Commit(store.Position{Partition: m.Partition, Next: m.Offset + 1}); err != nil {
				l.t.Errorf("seed %d, life %d: commit: %v", l.seed, l.n, err)
			}
		}
	}
	if err := f.Close(context.Background()); err != nil {
		l.t.Errorf("seed %d, life %d: leave: %v", l.seed, l.n, err)
	}
}

// check compares the store with what was known when the power went.
func (l *life) check(s *Store) {
	ctx := context.Background()
	has := map[place]string{}
	at := map[string]place{}
	lag, err := s.Lag(ctx, powerTopic, "g")
	if err != nil && len(l.facts.durable) == 0 {
		return // the topic is gone, and was not confirmed
	}
	for _, p := range lag {
		if p.Committed > p.End {
			l.t.Errorf("seed %d, life %d: position %d is behind the end %d", l.seed, l.n, p.Committed, p.End)
		}
		next := int64(0)
		for m, err := range s.Browse(ctx, powerTopic, p.Partition, 0) {
			if err != nil {
				l.t.Errorf("seed %d, life %d: browse: %v", l.seed, l.n, err)
				return
			}
			if m.Offset != next || !l.facts.tried[string(m.Value)] {
				l.t.Errorf("seed %d, life %d: offset %d where %d should be, or a value that nobody published", l.seed, l.n, m.Offset, next)
			}
			next++
			has[place{p.Partition, m.Offset}], at[string(m.Value)] = string(m.Value), place{p.Partition, m.Offset}
		}
	}
	for where, want := range l.facts.durable {
		if got, is := has[where]; !is || got != want {
			l.t.Errorf("seed %d, life %d: %+v holds %.20q instead of %.20q", l.seed, l.n, where, got, want)
		}
	}
	l.checkOnces(s, at)
}

// checkOnces: an outcome is known exactly when its message is there.
func (l *life) checkOnces(s *Store, at map[string]place) {
	t, err := s.topic(context.Background(), powerTopic)
	if err != nil {
		l.t.Errorf("seed %d, life %d: %v", l.seed, l.n, err)
		return
	}
	for value, where := range at {
		var life, i int
		var who string
		if _, err := fmt.Sscanf(value, "%d-%1s-%d-", &life, &who, &i); err != nil {
			l.t.Errorf("seed %d, life %d: %.20q: %v", l.seed, l.n, value, err)
		}
		o, err := s.recall(flightKey{t.id, fmt.Sprintf("%d-%s-%d", life, who, i/10)})
		if err != nil {
			l.t.Errorf("seed %d, life %d: %v", l.seed, l.n, err)
		}
		if o != nil && (o.placed[0].partition != where.partition || o.placed[0].offset != where.offset) {
			l.t.Errorf("seed %d, life %d: key %s is said to be at %+v, its message is at %+v", l.seed, l.n, value[:8], o.placed[0], where)
		}
	}
	n := 0
	err = s.scan(topicPrefix(tagOnce, t.id), func(_, value []byte) error {
		o, err := decodeOutcome(value)
		n++
		if err == nil {
			if _, end := (*t.parts.Load())[o.placed[0].partition].bounds(); o.placed[0].offset >= end.offset {
				l.t.Errorf("seed %d, life %d: an outcome without its message: %+v", l.seed, l.n, o.placed[0])
			}
		}
		return err
	})
	if err != nil || n < len(l.facts.once) {
		l.t.Errorf("seed %d, life %d: %d outcomes of at least %d: %v", l.seed, l.n, n, len(l.facts.once), err)
	}
	for key, where := range l.facts.once {
		o, err := s.recall(flightKey{t.id, key})
		if err != nil || o == nil || o.placed[0].partition != where.partition || o.placed[0].offset != where.offset {
			l.t.Errorf("seed %d, life %d: key %s answered %+v before: %+v, %v", l.seed, l.n, key, where, o, err)
		}
	}
}
