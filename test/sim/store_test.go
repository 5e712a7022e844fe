package sim

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
	"github.com/kateway/kateway/store/mem"
	"github.com/kateway/kateway/test/checker"
)

// weather is what is wrong with the store at present, for all gateways.
type weather struct {
	away, unsure, slow, stale bool // stale: commits are refused
}

// link is the store as one process of a gateway sees it. When the process dies its members vanish, and nothing that it does
// afterwards takes effect.
type link struct {
	store.Admin
	w    *world
	name string
	dead atomic.Bool

	mu    sync.Mutex
	rng   *rand.Rand
	feeds []store.Feed // of mem
}

var (
	errAway   = fmt.Errorf("the store is away: %w", errs.Unavailable)
	errUnsure = fmt.Errorf("no answer came: %w", errs.Uncertain)
)

func newLink(w *world, name string) *link {
	return &link{Admin: w.mem, w: w, name: name, rng: w.random("store of " + name)}
}

func (l *link) roll(n int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rng.IntN(n)
}

// kill ends the process as the store sees it.
func (l *link) kill() {
	if l.dead.Swap(true) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.feeds {
		mem.Crash(f)
	}
}

// reach is asked before everything.
func (l *link) reach(ctx context.Context) error {
	if l.w.sky().slow && l.roll(3) == 0 {
		l.w.happened("slow store")
		pause(ctx, time.Duration(l.roll(1500))*time.Millisecond)
	}
	switch {
	case l.dead.Load():
		return errUnsure
	case l.w.sky().away:
		l.w.happened("store away")
		return errAway
	}
	return ctx.Err()
}

// Publish is store.Publisher's.
func (l *link) Publish(ctx context.Context, topic string, _ store.Ack, msgs ...*store.Message) error {
	switch err := l.reach(ctx); {
	case errors.Is(err, errAway):
		return err
	case err != nil:
		return fmt.Errorf("%w: %w", errUnsure, err)
	}
	if l.w.sky().unsure && l.roll(3) == 0 {
		l.w.happened("store unsure")
		for _, m := range msgs[:l.roll(len(msgs)+1)] {
			if err := l.w.bugs.publish(ctx, l.w.mem, topic, m.Clone()); err != nil {
				return err
			}
		}
		return errUnsure
	}
	err := l.w.bugs.publish(ctx, l.w.mem, topic, msgs...)
	if l.dead.Load() {
		return errUnsure
	}
	return err
}

// CreateTopic is store.Admin's, as are the methods below.
func (l *link) CreateTopic(ctx context.Context, t store.Topic) error {
	if err := l.reach(ctx); err != nil {
		return err
	}
	return l.Admin.CreateTopic(ctx, t)
}

func (l *link) Resolve(ctx context.Context, topic string, start store.Start) ([]store.Position, error) {
	if err := l.reach(ctx); err != nil {
		return nil, err
	}
	return l.Admin.Resolve(ctx, topic, start)
}

func (l *link) Browse(ctx context.Context, topic string, p int32, offset int64) iter.Seq2[*store.Message, error] {
	if err := l.reach(ctx); err != nil {
		return func(yield func(*store.Message, error) bool) { yield(nil, err) }
	}
	return l.Admin.Browse(ctx, topic, p, offset)
}

// Subscribe is store.Subscriber's.
func (l *link) Subscribe(ctx context.Context, spec store.Spec) (store.Feed, error) {
	if err := l.reach(ctx); err != nil {
		return nil, err
	}
	l.w.bugs.subscribe(&spec, l.name)
	inner, err := l.w.mem.Subscribe(ctx, spec)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead.Load() {
		mem.Crash(inner)
		return nil, errAway
	}
	l.feeds = append(l.feeds, inner)
	return &feed{Feed: inner, l: l, spec: spec}, nil
}

// feed is a membership of a process.
type feed struct {
	store.Feed
	l    *link
	spec store.Spec

	mu      sync.Mutex
	refused []store.Refusal
	wake    context.CancelFunc // ends the Poll that waits
}

// Poll is store.Feed's.
func (f *feed) Poll(ctx context.Context, limit int, paused []int32) (store.Batch, error) {
	for {
		if err := f.l.reach(ctx); err != nil {
			if f.l.dead.Load() {
				err = store.ErrClosed
			}
			return store.Batch{}, err
		}
		waiting, cancel := context.WithCancel(ctx)
		if refused := f.takeRefused(cancel); len(refused) > 0 {
			cancel()
			return store.Batch{Refused: refused}, nil
		}
		b, err := f.Feed.Poll(waiting, limit, paused)
		cancel()
		if err != nil && errors.Is(err, context.Canceled) && ctx.Err() == nil {
			continue // a commit was refused
		}
		return b, err
	}
}

func (f *feed) takeRefused(wake context.CancelFunc) []store.Refusal {
	f.mu.Lock()
	defer f.mu.Unlock()
	refused := f.refused
	f.refused, f.wake = nil, wake
	return refused
}

// Commit is store.Feed's. What takes is noted at once: it is the ground truth.
func (f *feed) Commit(p store.Position) error {
	sky := f.l.w.sky()
	switch {
	case f.l.dead.Load():
		return store.ErrClosed
	case (sky.away || sky.stale) && f.l.roll(2) == 0:
		f.l.w.happened("commit refused")
		f.mu.Lock()
		defer f.mu.Unlock()
		f.refused = append(f.refused, store.Refusal{Partition: p.Partition, Err: errAway})
		if f.wake != nil {
			f.wake()
		}
		return nil
	}
	f.l.w.bugs.commit(&p)
	err := f.Feed.Commit(p)
	if err == nil && f.spec.Topic == topicName {
		f.l.w.note(checker.Record{Op: checker.Committed, Phase: checker.OK, Via: f.l.name, Topic: topicName, Group: f.spec.Group,
			Messages: []checker.Message{{Partition: p.Partition, Offset: p.Next}}})
	}
	return err
}

// Close is store.Feed's.
func (f *feed) Close(ctx context.Context) error {
	if f.l.dead.Load() {
		return nil
	}
	return f.Feed.Close(ctx)
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
