package spool

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
	"github.com/kateway/kateway/store/mem"
)

const powerLives = 3 // power losses one after the other, for each seed

// told is what publishers were told, and must hold over a power loss.
type told struct {
	acked map[string][]string // by key, in order: stored or spooled
	once  map[string][2]int64 // by idempotency key: where it was said to be
	open  map[string]bool     // idempotency keys whose publish has no outcome yet
	tried map[string]struct{} // every value that was given to the spool
	at    map[string][2]int64 // where values were said to be
}

func (f told) clone() told {
	c := told{map[string][]string{}, maps.Clone(f.once), maps.Clone(f.open), maps.Clone(f.tried), maps.Clone(f.at)}
	for k, v := range f.acked {
		c.acked[k] = slices.Clone(v)
	}
	return c
}

// life is a spool from its opening to a power loss. The store behind it lives on, and does not hear of the life any more from
// that moment on.
type life struct {
	n    int
	fs   *vfs.MemFS
	mem  *mem.Store
	seed uint64

	mu    sync.Mutex
	rng   *rand.Rand
	told  told
	known told // at the power loss
	left  int
	after *vfs.MemFS
}

func (l *life) String() string { return "power loss" }

// MaybeError is asked before each file operation. At one of them the power goes.
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
		l.known = l.told.clone()
		l.after = l.fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: l.rng.IntN(101), RNG: l.rng})
	}
}

func (l *life) over() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.after != nil
}

// Publish is the store's, which is away at times, and at others does not say whether it has the messages.
func (l *life) Publish(ctx context.Context, topic string, ack store.Ack, msgs ...*store.Message) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	lost := fmt.Errorf("no answer: %w", errs.Uncertain)
	if l.after != nil {
		return lost
	}
	switch chance := l.rng.IntN(10); {
	case chance < 4:
		return errAway
	case chance == 4:
		return lost
	case chance == 5:
		for _, m := range msgs[:l.rng.IntN(len(msgs)+1)] {
			if err := l.mem.Publish(ctx, topic, ack, m.Clone()); err != nil {
				return err
			}
		}
		return lost
	}
	return l.mem.Publish(ctx, topic, ack, msgs...)
}

func (l *life) note(do func(f *told)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	do(&l.told)
}

func (l *life) roll(n int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rng.IntN(n)
}

// publisher publishes with one key, one message after the other, until the power goes. Every second one does it with
// idempotency keys, and begins with those that an earlier life left open.
func (l *life) publisher(s *Spool, who int) {
	key := fmt.Sprint(who)
	for i := 0; i < 40 && !l.over(); i++ {
		value := fmt.Sprintf("%d-%s-%d-", l.n, key, i) + string(make([]byte, l.roll(600)))
		once := ""
		if who%2 == 1 {
			once = fmt.Sprintf("%d-%s-%d", l.n, key, i)
			l.note(func(f *told) {
				for k := range f.open {
					if k[len(k)-1:] == key { // another life's: finish that one first
						once, i = k[:len(k)-2], i-1
					}
				}
				f.open[once+"/"+key] = true
			})
			value = once
		}
		m := &store.Message{Key: []byte(key), Value: []byte(value), Partition: store.AnyPartition}
		l.note(func(f *told) { f.tried[value] = struct{}{} })
		var err error
		if once != "" {
			err = s.PublishOnce(context.Background(), topicName, store.AckAll, store.Once{Key: once, Digest: [32]byte{1}}, m)
		} else {
			err = s.Publish(context.Background(), topicName, store.AckAll, m)
		}
		l.note(func(f *told) {
			if err != nil {
				return
			}
			f.acked[key] = append(f.acked[key], value)
			delete(f.open, once+"/"+key)
			if m.Offset >= 0 {
				f.at[value] = [2]int64{int64(m.Partition), m.Offset}
			}
		})
	}
}

func TestPowerLoss(t *testing.T) {
	seeds := 300
	if n, err := strconv.Atoi(os.Getenv("KATEWAY_TEST_POWER")); err == nil && n > 0 {
		seeds = n
	}
	var wg sync.WaitGroup
	next := make(chan uint64)
	for range 8 * runtime.GOMAXPROCS(0) { // they mostly wait
		wg.Go(func() {
			for seed := range next {
				powerLoss(t, seed)
			}
		})
	}
	for seed := range seeds {
		if t.Failed() {
			break
		}
		next <- uint64(seed)
	}
	close(next)
	wg.Wait()
}

func powerLoss(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 1))
	fs := vfs.NewCrashableMem()
	m := mem.New()
	if err := m.CreateTopic(context.Background(), store.Topic{Name: topicName, Partitions: 2}); err != nil {
		t.Fatal(err)
	}
	facts := told{map[string][]string{}, map[string][2]int64{}, map[string]bool{}, map[string]struct{}{}, map[string][2]int64{}}
	for n := range powerLives {
		l := &life{n: n, fs: fs, mem: m, seed: seed, rng: rng, told: facts, left: 20 + rng.IntN(400)}
		s, err := Open(powerConfig(errorfs.Wrap(fs, l), l, m, rng))
		if err != nil {
			t.Errorf("seed %d, life %d: %v", seed, n, err)
			return
		}
		var wg sync.WaitGroup
		for who := range 4 {
			wg.Go(func() { l.publisher(s, who) })
		}
		wg.Wait()
		l.mu.Lock()
		l.cutLocked()
		l.mu.Unlock()
		_ = s.Close(context.Background())
		fs, facts = l.after, l.known
	}
	s, err := Open(powerConfig(fs, m, m, rng))
	if err != nil {
		t.Errorf("seed %d: the spool does not open: %v", seed, err)
		return
	}
	defer s.Close(context.Background())
	for k := range facts.open { // their clients try again until they know
		once, key := k[:len(k)-2], k[len(k)-1:]
		msg := &store.Message{Key: []byte(key), Value: []byte(once), Partition: store.AnyPartition}
		if err := s.PublishOnce(context.Background(), topicName, store.AckAll, store.Once{Key: once, Digest: [32]byte{1}}, msg); err != nil {
			t.Errorf("seed %d: %s: %v", seed, once, err)
		}
		facts.acked[key] = append(facts.acked[key], once)
		facts.tried[once] = struct{}{}
	}
	eventually(t, fmt.Sprintf("seed %d: the spool is empty", seed), func() bool { return s.SpoolStatus().Messages == 0 })
	judge(t, seed, m, facts)
}

func powerConfig(fs vfs.FS, next store.Publisher, m *mem.Store, rng *rand.Rand) Config {
	known := int32(rng.IntN(2)) * 2
	return Config{Dir: "spool", FS: fs, Next: next, Reader: m, Partitions: func(string) int32 { return known },
		Log: slog.New(slog.DiscardHandler), MemTable: 64 << 10, pause: time.Millisecond}
}

// judge: what was acked is there, once, where it was said to be, and in order; nothing else is there that was not tried, nor twice.
func judge(t *testing.T, seed uint64, m *mem.Store, facts told) {
	t.Helper()
	got := map[string][]string{}
	seen := map[string]bool{}
	for p := range int32(2) {
		for msg, err := range m.Browse(context.Background(), topicName, p, 0) {
			if err != nil {
				t.Fatal(err)
			}
			v := string(msg.Value)
			if seen[v] {
				t.Errorf("seed %d: %.20q is there twice", seed, v)
			}
			seen[v] = true
			if _, ok := facts.tried[v]; !ok {
				t.Errorf("seed %d: %.20q was never published", seed, v)
			}
			if at, ok := facts.at[v]; ok && at != [2]int64{int64(p), msg.Offset} {
				t.Errorf("seed %d: %.20q is at %d of %d, and %v was told", seed, v, msg.Offset, p, at)
			}
			got[string(msg.Key)] = append(got[string(msg.Key)], v)
		}
	}
	for key, want := range facts.acked {
		have := slices.DeleteFunc(slices.Clone(got[key]), func(v string) bool { return !slices.Contains(want, v) })
		if !slices.Equal(have, want) {
			t.Errorf("seed %d: key %s: %d acked, %d there in another order or not at all\nacked %.80q\nthere %.80q", seed, key, len(want), len(have), want, have)
		}
	}
}
