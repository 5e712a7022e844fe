package group

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/filter"
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

// A group is this process's membership in one consumer group on one topic, with its clients. These goroutines work for it:
// one fetches from the topic, one finds the group's retry queue and fetches from it, one moves messages to the retry and
// dead queues (the last two where the group has such queues), and tend does what time brings: leases that end, commits, and
// leaving when nobody is left. None of them waits for a client.
type group struct {
	key    Key
	cfg    *Config
	policy Policy
	log    *slog.Logger
	topic  *intake
	mover  *mover
	hold   uint32 // of the next partition gained; guarded by mu, like what follows

	mu       sync.Mutex
	ledger   *ledger
	retry    *intake // nil while there is no retry queue, or it is not joined
	noRetry  bool    // the last look found no retry queue
	filter   *filter.Filter
	bound    kept // by the settings of an earlier life, until this one has its own
	seats    map[*seat]struct{}
	err      error         // why it ended; set once
	sealed   bool          // the last commit is made: no verb counts any more
	parted   chan struct{} // closed when the group has ended and its last client has gone
	draining bool          // takes no new sessions
	idle     time.Time     // since when nobody uses it; zero while somebody does
	changed  chan struct{} // closed and made anew when partitions come or go
	commitAt time.Time     // when what is dirty is to be committed; zero: nothing is
	alarm    time.Time     // when tend has to look next; zero: when told

	kick     chan struct{} // one place: alarm has moved forward
	requeued chan struct{} // one place: the retry queue may be there now
}

func newGroup(key Key, cfg *Config, feed store.Feed) *group {
	g := &group{
		key: key, cfg: cfg, policy: cfg.policy(key), hold: newHold(),
		log:    cfg.Log.With("topic", key.Topic, "group", key.Group),
		ledger: newLedger(), seats: map[*seat]struct{}{},
		idle: time.Now(), changed: make(chan struct{}), parted: make(chan struct{}), kick: make(chan struct{}, 1), requeued: make(chan struct{}, 1),
	}
	g.noRetry = g.policy.Retry == ""
	g.topic = newIntake(g, false, feed)
	g.mover = newMover(g)
	return g
}

// run serves the group until ctx ends, the topic is gone, or nobody uses it; then it commits and leaves. closing bounds
// that last part. It answers an error when the store did not say that we have left.
func (g *group) run(ctx context.Context, closing time.Duration) error {
	working, stop := context.WithCancel(ctx)
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := g.topic.fetch(working); err != nil {
			g.end(fmt.Errorf("group %s: %w", g.key.Group, err))
		}
	})
	if g.policy.Retry != "" {
		wg.Go(func() { g.readRetries(working) })
	}
	if g.policy.Retry != "" || g.policy.Dead != "" {
		wg.Go(func() { g.mover.run(working) })
	}
	g.tend(working)
	g.farewell()
	stop()
	wg.Wait()
	g.commitAll()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), closing)
	defer cancel()
	return g.leave(last)
}

// partTime is how long a group that moves waits for its clients before its last commit.
const partTime = 500 * time.Millisecond

// farewell waits, where the group goes on elsewhere, until its clients have gone: they settle what they were just writing, and
// give back what did not reach them. Whoever takes longer settles at the next home.
func (g *group) farewell() {
	g.mu.Lock()
	moves, timer := errors.Is(g.err, errEvicted), time.NewTimer(partTime)
	g.part()
	g.mu.Unlock()
	defer timer.Stop()
	if !moves {
		return
	}
	select {
	case <-g.parted:
	case <-timer.C:
	}
}

// part notes that the last client of a group that has ended is gone, when it is. The caller holds the lock.
func (g *group) part() {
	if len(g.seats) > 0 {
		return
	}
	select {
	case <-g.parted:
	default:
		close(g.parted)
	}
}

// leave closes the feeds, both at once: each may take as long as ctx allows.
func (g *group) leave(ctx context.Context) error {
	retry := make(chan error, 1)
	go func() {
		if g.retry == nil {
			retry <- nil
			return
		}
		retry <- g.retry.feed.Close(ctx)
	}()
	err := errors.Join(g.topic.feed.Close(ctx), <-retry)
	if err != nil {
		g.log.Warn("leaving the group: the last commit may be missing; what it held comes again", "error", err)
	}
	return err
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

// tend does what time brings, until the group has ended or ctx has.
func (g *group) tend(ctx context.Context) {
	timer := time.NewTimer(g.cfg.Limits.Linger)
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
	g.mover.take()
	if len(g.seats) > 0 || g.ledger.busy(now) {
		g.idle = time.Time{}
		return false
	}
	if g.idle.IsZero() {
		g.idle = now
	}
	leave := g.idle.Add(g.cfg.Limits.Linger)
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
		g.commitAt = now.Add(g.cfg.Limits.CommitEvery)
		g.look(g.commitAt)
	}
}

// commitAll is the last commit.
func (g *group) commitAll() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if errors.Is(g.err, errEvicted) {
		g.ledger.handOver()
	}
	g.commit(time.Now())
	g.sealed = true
}

// commit hands the positions that changed to the feeds.
func (g *group) commit(now time.Time) {
	g.commitAt = time.Time{}
	for _, w := range g.ledger.windows {
		if w.dirty {
			g.intake(w.retry).commit(w, now)
		}
	}
}

// intake is the feed of a window.
func (g *group) intake(retry bool) *intake {
	if retry {
		return g.retry
	}
	return g.topic
}

// touched follows whatever may have changed the ledger but for the passing of time: positions are committed soon, feeds that
// have room again are read, and what is to be moved is. The caller holds the lock.
func (g *group) touched(now time.Time) {
	g.dirtied(now)
	g.topic.unpause()
	if g.retry != nil {
		g.retry.unpause()
	}
	g.mover.take()
}

// A group's life ends with one of these, or for good: with errs.Draining or with what the store says.
var (
	errIdle = fmt.Errorf("nobody uses the group: %w", errs.Unavailable) // who comes at that moment gets a new one
)

// ErrMoved ends a session whose group this gateway left: it goes on elsewhere, or here after a while. See Hub.Suspend, Hub.Evict.
var ErrMoved = fmt.Errorf("this gateway left the group: %w", errs.Unavailable)

// errEvicted is ErrMoved of a group that goes on at another gateway, with its clients.
var errEvicted = fmt.Errorf("its home is another now: %w", ErrMoved)

// again reports whether another life may follow one that ended with err.
func again(err error) bool { return errors.Is(err, errIdle) || errors.Is(err, ErrMoved) }

// reason is why a group ends whose context has ended.
func reason(ctx context.Context) error {
	if cause := context.Cause(ctx); errors.Is(cause, ErrMoved) {
		return cause
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
