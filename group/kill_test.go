package group

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
	"github.com/kateway/kateway/store/mem"
)

// mortal is a store as one process sees it, which dies at the step given of those that moving a message takes: its members
// vanish, and nothing that it does afterwards takes effect.
type mortal struct {
	*mem.Store

	mu    sync.Mutex
	feeds []store.Feed
	steps int // left to live
	died  string
}

// step is told of what comes next, and reports whether it may.
func (m *mortal) step(name string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.died != "" {
		return false
	}
	if m.steps--; m.steps > 0 {
		return true
	}
	m.died = name
	for _, f := range m.feeds {
		mem.Crash(f)
	}
	return false
}

func (m *mortal) dead() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.died != ""
}

func (m *mortal) Subscribe(ctx context.Context, spec store.Spec) (store.Feed, error) {
	f, err := m.Store.Subscribe(ctx, spec)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.died != "" {
		mem.Crash(f)
		return nil, errs.Unavailable
	}
	m.feeds = append(m.feeds, f)
	return &mortalFeed{f, m}, nil
}

func (m *mortal) CreateTopic(ctx context.Context, t store.Topic) error {
	if !m.step("before the queue is made") {
		return errs.Unavailable
	}
	err := m.Store.CreateTopic(ctx, t)
	if !m.step("when the queue is made") {
		return errs.Unavailable
	}
	return err
}

func (m *mortal) Publish(ctx context.Context, topic string, ack store.Ack, msgs ...*store.Message) error {
	if !m.step("before the publish") {
		return errs.Unavailable
	}
	err := m.Store.Publish(ctx, topic, ack, msgs...)
	if !m.step("after the publish") {
		return errs.Uncertain
	}
	return err
}

type mortalFeed struct {
	store.Feed
	m *mortal
}

func (f *mortalFeed) Commit(p store.Position) error {
	if !f.m.step("before a commit") {
		return store.ErrClosed
	}
	err := f.Feed.Commit(p)
	f.m.step("after a commit")
	return err
}

func (f *mortalFeed) Close(ctx context.Context) error {
	if f.m.dead() {
		return nil
	}
	return f.Feed.Close(ctx)
}

// TestKillAtAnyStep has clients that do with messages what clients do, in a process that is killed again and again, at any
// step of a move. Every message is acked in the end, or dead.
func TestKillAtAnyStep(t *testing.T) {
	died := map[string]int{}
	for seed := range uint64(100) {
		mode := []Mode{Fifo, Queue, ByKey}[seed%3]
		t.Run(fmt.Sprint(mode, " ", seed), func(t *testing.T) {
			inWorld(t, 2, func(_ *testing.T, w world) {
				v := &victim{world: w, mode: mode, rnd: rand.New(rand.NewPCG(seed, 1)), died: died, acked: map[[2]int64]bool{}}
				w.publish(0, 0, 30)
				w.publish(1, 0, 30)
				for range 12 {
					v.live(1+v.rnd.IntN(25), 20*time.Minute)
				}
				v.kind = true
				v.live(1<<30, 3*time.Hour)
				v.judge()
			})
		})
	}
	for _, step := range []string{"before the queue is made", "when the queue is made", "before the publish", "after the publish", "before a commit", "after a commit"} {
		if died[step] == 0 {
			t.Errorf("nobody died %s", step)
		}
	}
}

// victim is a client of processes that die.
type victim struct {
	world
	mode  Mode
	rnd   *rand.Rand
	kind  bool // acks all
	died  map[string]int
	acked map[[2]int64]bool
}

// live is one life of a process: until the step, or for that time.
func (v *victim) live(steps int, long time.Duration) {
	m := &mortal{Store: v.store, steps: steps}
	c := v.config(Limits{}, queues)
	c.Store, c.Publisher, c.Admin = m, m, m
	h := NewHub(c)
	s := v.open(h, ask(v.mode))
	for began := time.Now(); !m.dead() && time.Since(began) < long; {
		ds, err := v.get(s, 1+v.rnd.IntN(10), time.Minute)
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			if !m.dead() {
				v.t.Errorf("Next: %v", err)
			}
			break
		}
		for _, d := range ds {
			v.settle(s, d, m)
		}
	}
	s.Close()
	v.close(h)
	v.died[m.died]++
}

func (v *victim) settle(s Session, d Delivery, m *mortal) {
	verb := Verb{Ref: d.Ref}
	switch n := v.rnd.IntN(20); {
	case v.kind || n < 8:
	case n < 10:
		verb.Op = Nack
	case n < 14:
		verb.Op, verb.Delay = Nack, 5*time.Minute
	case n < 16:
		verb.Op = Bury
	default:
		return // its lease ends
	}
	err := s.Settle(verb)[0]
	if err != nil && !errors.Is(err, errs.Fenced) && !m.dead() {
		v.t.Errorf("settle: %v", err)
	}
	if err == nil && verb.Op == Ack {
		v.acked[[2]int64{int64(d.Partition), d.Offset}] = true
	}
}

// judge looks at what became of the messages.
func (v *victim) judge() {
	v.t.Helper()
	dead := map[[2]int64]bool{}
	for _, m := range v.held(deadQueue) {
		o, ok := Origin(m)
		if !ok {
			v.t.Errorf("a stranger is dead: %+v", m)
		}
		if want := fmt.Sprint(o.Offset); string(m.Value) != want {
			v.t.Errorf("%s is dead as offset %s", m.Value, want)
		}
		dead[[2]int64{int64(o.Partition), o.Offset}] = true
	}
	for p := range int64(2) {
		for o := range int64(30) {
			if id := [2]int64{p, o}; !v.acked[id] && !dead[id] {
				v.t.Errorf("partition %d offset %d is lost", p, o)
			}
		}
	}
	if c := v.committed(); !slices.Equal(c, []int64{30, 30}) {
		v.t.Errorf("committed %v", c)
	}
	if len(v.held(retryQueue)) > 0 {
		v.done(retryQueue, key.Group+retryGroup)
	}
}
