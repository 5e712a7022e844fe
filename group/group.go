package group

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// Limits bound what a group keeps in memory. The zero value of a field is its default.
type Limits struct {
	Fetch          int           // messages asked of the store at once; 2,048
	WindowMessages int           // messages kept per partition before it is paused; 4,096, at most 8,192
	WindowBytes    int           // the same in bytes; 4 MiB
	GroupBytes     int           // bytes kept over all partitions of a group; 32 MiB
	CommitEvery    time.Duration // longest wait of an ack for its commit; 100 ms
	Linger         time.Duration // how long a group that nobody uses stays; 10 s

	span int64 // offsets from the commit to the end of a window
}

func (l Limits) withDefaults() Limits {
	def := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&l.Fetch, 2048)
	def(&l.WindowMessages, 4096)
	def(&l.WindowBytes, 4<<20)
	def(&l.GroupBytes, 32<<20)
	l.Fetch = min(l.Fetch, maxSpan/4)
	l.WindowMessages = min(l.WindowMessages, maxSpan/2)
	l.span = maxSpan - int64(l.Fetch)
	if l.CommitEvery <= 0 {
		l.CommitEvery = 100 * time.Millisecond
	}
	if l.Linger <= 0 {
		l.Linger = 10 * time.Second
	}
	return l
}

// half is what a paused partition has to fall below before it is read again, so that it is not for each message.
func (l Limits) half() Limits {
	l.WindowMessages, l.WindowBytes, l.GroupBytes, l.span = l.WindowMessages/2, l.WindowBytes/2, l.GroupBytes/2, l.span/2
	return l
}

// A group is this process's membership in one consumer group on one topic, with its clients. Two goroutines work for it:
// fetch moves messages from the feed into the ledger and never waits for a client; tend does what time brings: leases that
// end, commits, and leaving when nobody is left.
type group struct {
	key    Key
	mode   Mode
	limits Limits
	log    *slog.Logger
	feed   store.Feed
	hold   uint32 // of the next partition gained

	mu       sync.Mutex
	ledger   *ledger
	seats    map[*seat]struct{}
	err      error              // why it ended; set once
	sealed   bool               // the last commit is made: no verb counts any more
	draining bool               // takes no new sessions
	idle     time.Time          // since when nobody uses it; zero while somebody does
	paused   []int32            // what the Poll under way passes over
	wakePoll context.CancelFunc // ends the Poll under way, so that the next has another list
	changed  chan struct{}      // closed and made anew when partitions come or go
	joined   bool               // partitions came once
	commitAt time.Time          // when what is dirty is to be committed; zero: nothing is
	alarm    time.Time          // when tend has to look next; zero: when told
	kick     chan struct{}      // one place: alarm has moved forward

	ended chan struct{} // closed when both goroutines and the feed are gone
}

func newGroup(key Key, mode Mode, feed store.Feed, limits Limits, log *slog.Logger) *group {
	l := newLedger()
	l.begin(Settings{Mode: mode}, Policy{}, nil, time.Now())
	return &group{
		key: key, mode: mode, limits: limits, feed: feed, hold: newHold(),
		log:    log.With("topic", key.Topic, "group", key.Group),
		ledger: l, seats: map[*seat]struct{}{},
		idle: time.Now(), changed: make(chan struct{}), kick: make(chan struct{}, 1), ended: make(chan struct{}),
	}
}

// run serves the group until ctx ends, the topic is gone, or nobody uses it; then it commits and leaves. closing bounds
// that last part. It answers an error when the store did not say that we have left.
func (g *group) run(ctx context.Context, closing time.Duration) error {
	defer close(g.ended)
	fetching, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { g.fetch(fetching) })
	g.tend(fetching)
	stop()
	wg.Wait()
	g.commitAll()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), closing)
	defer cancel()
	if err := g.feed.Close(last); err != nil {
		g.log.Warn("leaving the group: the last commit may be missing; what it held comes again", "error", err)
		return err
	}
	return nil
}

// end makes everybody's Next answer err, and the goroutines stop.
func (g *group) end(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.endLocked(err)
}

func (g *group) endLocked(err error) {
	if g.err != nil {
		return
	}
	g.err = err
	for s := range g.seats {
		s.finish(err)
	}
	g.signal()
	g.look(time.Now())
}

// newHold is odd, so never 0.
func newHold() uint32 { return rand.Uint32() | 1 }

// signal tells those who wait for a partition to look again.
func (g *group) signal() {
	close(g.changed)
	g.changed = make(chan struct{})
}

// fetch moves messages from the feed into the ledger.
func (g *group) fetch(ctx context.Context) {
	backoff := 100 * time.Millisecond
	for ctx.Err() == nil {
		poll, cancel := context.WithCancel(ctx)
		g.mu.Lock()
		g.paused = g.ledger.full(g.limits, false, nil)
		g.wakePoll = cancel
		paused := g.paused
		g.mu.Unlock()
		b, err := g.feed.Poll(poll, g.limits.Fetch, paused)
		interrupted := poll.Err() != nil
		cancel()
		switch {
		case err == nil:
			backoff = 100 * time.Millisecond
			g.apply(b)
		case interrupted && errors.Is(err, context.Canceled):
		case errors.Is(err, errs.UnknownTopic), errors.Is(err, store.ErrClosed):
			g.end(fmt.Errorf("group %s: %w", g.key.Group, err))
			return
		default:
			g.log.Warn("reading from the store; trying again", "error", err, "in", backoff)
			if !sleep(ctx, backoff) {
				return
			}
			backoff = min(2*backoff, 5*time.Second)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// apply puts what a Poll learned into the ledger, in the order of the contract. Partitions that are lost are committed
// first: their positions count until the next Poll.
func (g *group) apply(b store.Batch) {
	now := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range b.Lost {
		if w := g.ledger.windows[spot{partition: p}]; w != nil && w.dirty {
			g.commitOne(w, now)
		}
		g.ledger.lose(false, p)
	}
	for _, p := range b.Gained {
		g.ledger.gain(false, p, g.hold, now)
		g.hold += 2 // stays odd, so never 0
		g.joined = true
	}
	if len(b.Lost)+len(b.Gained) > 0 {
		g.signal()
	}
	for _, r := range b.Refused {
		g.refused(r)
	}
	for _, gap := range b.Gaps {
		g.log.Warn("messages are gone that the group had not done", "partition", gap.Partition, "from", gap.From, "to", gap.To)
		g.ledger.gap(false, gap, now)
	}
	g.ledger.add(false, b.Messages, now)
	g.look(g.ledger.nextDeadline(now))
	g.dirtied(now)
}

func (g *group) refused(r store.Refusal) {
	w := g.ledger.windows[spot{partition: r.Partition}]
	if w == nil {
		return
	}
	if errors.Is(r.Err, errs.TooLarge) {
		w.plain++
	}
	w.dirty = true
	g.log.Warn("a commit did not take; the newest follows", "partition", r.Partition, "error", r.Err)
}

// tend does what time brings, until the group has ended or ctx has.
func (g *group) tend(ctx context.Context) {
	timer := time.NewTimer(g.limits.Linger)
	defer timer.Stop()
	for {
		at, ended := g.attend()
		if ended {
			return
		}
		timer.Reset(max(time.Until(at), 0))
		if at.IsZero() {
			timer.Stop()
		}
		select {
		case <-timer.C:
		case <-g.kick:
		case <-ctx.Done():
			g.end(reason(ctx))
			return
		}
	}
}

// attend does what is due and answers when there is more to do, or that the group has ended.
func (g *group) attend() (at time.Time, ended bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err != nil || g.tick(time.Now()) {
		return time.Time{}, true
	}
	select {
	case <-g.kick: // set by what tick just looked at
	default:
	}
	return g.alarm, false
}

// tick does what is due and sets the next alarm. It reports whether the group has nobody left and ends.
func (g *group) tick(now time.Time) bool {
	g.ledger.expire(now)
	g.alarm = g.ledger.nextDeadline(now)
	if !g.commitAt.IsZero() && !now.Before(g.commitAt) {
		g.commit(now)
	}
	g.look(g.commitAt)
	if len(g.seats) > 0 || g.ledger.busy(now) {
		g.idle = time.Time{}
		return false
	}
	if g.idle.IsZero() {
		g.idle = now
	}
	leave := g.idle.Add(g.limits.Linger)
	if !now.Before(leave) {
		g.endLocked(errIdle)
		return true
	}
	g.look(leave)
	return false
}

// dirtied has positions committed soon.
func (g *group) dirtied(now time.Time) {
	if g.commitAt.IsZero() {
		g.commitAt = now.Add(g.limits.CommitEvery)
		g.look(g.commitAt)
	}
}

// commitAll is the last commit.
func (g *group) commitAll() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.commit(time.Now())
	g.sealed = true
}

// commit hands the positions that changed to the feed.
func (g *group) commit(now time.Time) {
	g.commitAt = time.Time{}
	for _, w := range g.ledger.windows {
		if w.dirty {
			g.commitOne(w, now)
		}
	}
}

func (g *group) commitOne(w *window, now time.Time) {
	w.dirty = false
	if err := g.feed.Commit(w.position(now)); err != nil && !errors.Is(err, store.ErrClosed) {
		// A partition that was lost comes as Lost in the next Poll; there is nothing to do for it.
		g.log.Debug("commit", "partition", w.partition, "error", err)
	}
}

// unpause ends the Poll under way when it passes over a partition that has room again.
func (g *group) unpause() {
	if len(g.paused) == 0 {
		return
	}
	still := g.ledger.full(g.limits.half(), false, make([]int32, 0, len(g.paused)))
	for _, p := range g.paused {
		if _, full := slices.BinarySearch(still, p); !full {
			g.paused = nil
			g.wakePoll()
			return
		}
	}
}

// A group's life ends with one of these, or for good: with errs.Draining or with what the store says.
var (
	errIdle = fmt.Errorf("nobody uses the group: %w", errs.Unavailable) // who comes at that moment gets a new one
)

// ErrMoved ends a session whose group this gateway left: it goes on elsewhere, or here after a while.
var ErrMoved = fmt.Errorf("this gateway left the group: %w", errs.Unavailable)

// again reports whether another life may follow one that ended with err.
func again(err error) bool { return errors.Is(err, errIdle) || errors.Is(err, ErrMoved) }

// reason is why a group ends whose context has ended.
func reason(ctx context.Context) error {
	if cause := context.Cause(ctx); errors.Is(cause, ErrMoved) {
		return ErrMoved
	}
	return errs.Draining
}

// look makes tend look at that time at the latest. Zero is never.
func (g *group) look(at time.Time) {
	if at.IsZero() || !g.alarm.IsZero() && !at.Before(g.alarm) {
		return
	}
	g.alarm = at
	select {
	case g.kick <- struct{}{}:
	default:
	}
}
