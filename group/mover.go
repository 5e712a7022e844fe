package group

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

const (
	moveMessages = 256              // published at once
	moveBytes    = 1 << 20          // the same in bytes, where it is more than one message
	moveTimeout  = 30 * time.Second // for one publish
	moveGrace    = 5 * time.Second  // the same when the group ends meanwhile
	moveBackoff  = 100 * time.Millisecond
	moveSlowest  = 30 * time.Second // between two tries
	lossWait     = time.Second      // for the publish under way, when a partition is lost
)

// mover publishes to the group's dead and retry queues what the ledger wants moved there. A message is moved before it is
// done here: a kill in between moves it again, and never loses it. What is not moved when the group ends is carried over in
// the positions, and moved by the next holder of its partition.
//
// Its memory is bounded by the windows, which keep the messages until they are moved.
type mover struct {
	g           *group
	retry, dead outlet
	kick        chan struct{} // one place: there is more to move

	taken []*move       // handed over by the ledger, not yet seen by run; guarded by group.mu
	busy  chan struct{} // closed when the publish under way is over; nil where there is none; guarded by group.mu

	count moveCounters
}

// moveCounters are running totals since the start.
type moveCounters struct{ retry, dead, failed atomic.Uint64 }

// outlet is one of the two queues, with what waits for it. It is run's.
type outlet struct {
	topic     string
	retention time.Duration
	log       *slog.Logger
	moved     *atomic.Uint64

	waiting []*move
	again   time.Time     // not before
	backoff time.Duration // of waiting; zero while it does not fail

	large   []*move // refused for their size: set apart until largeAt, so that they hold up nothing else
	largeAt time.Time
	tooMuch bool // that was logged
}

func newMover(g *group) *mover {
	m := &mover{g: g, kick: make(chan struct{}, 1)}
	m.retry = outlet{topic: g.policy.Retry, retention: retryRetention, log: g.log.With("queue", g.policy.Retry), moved: &m.count.retry}
	m.dead = outlet{topic: g.policy.Dead, retention: deadRetention, log: g.log.With("queue", g.policy.Dead), moved: &m.count.dead}
	return m
}

// take has moved what the ledger has to move. The caller holds the group's lock.
func (m *mover) take() {
	before := len(m.taken)
	if m.taken = m.g.ledger.takeMoves(m.taken); len(m.taken) == before {
		return
	}
	select {
	case m.kick <- struct{}{}:
	default:
	}
}

// await waits for the publish under way, if there is one, for that time at most.
func (m *mover) await(limit time.Duration) {
	m.g.mu.Lock()
	busy := m.busy
	m.g.mu.Unlock()
	if busy == nil {
		return
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-busy:
	case <-timer.C:
	}
}

// run moves until ctx ends, and then waits for the publish under way, moveGrace at most.
func (m *mover) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		at := m.work(ctx)
		timer.Reset(time.Until(at))
		if at.IsZero() {
			timer.Stop()
		}
		select {
		case <-m.kick:
		case <-timer.C:
		case <-ctx.Done():
			return
		}
	}
}

// work moves what can be moved now, and answers when to try the rest again; zero where there is none.
func (m *mover) work(ctx context.Context) (at time.Time) {
	outlets := [...]*outlet{&m.retry, &m.dead}
	now := time.Now()
	for _, o := range outlets {
		if len(o.large) > 0 && !now.Before(o.largeAt) {
			o.large = m.giveBack(o.large)
		}
		if o.backoff > 0 && !now.Before(o.again) {
			o.waiting = m.giveBack(o.waiting)
		}
	}
	m.sort()
	for _, o := range outlets {
		for ctx.Err() == nil && len(o.waiting) > 0 && !time.Now().Before(o.again) {
			m.push(ctx, o)
		}
		if len(o.waiting) > 0 {
			at = earliest(at, o.again)
		}
		if len(o.large) > 0 {
			at = earliest(at, o.largeAt)
		}
	}
	return at
}

func earliest(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

// sort puts what was handed over with what waits for the same queue.
func (m *mover) sort() {
	m.g.mu.Lock()
	taken := m.taken
	m.taken = nil
	m.g.mu.Unlock()
	for _, v := range taken {
		o := &m.retry
		if v.dead {
			o = &m.dead
		}
		o.waiting = append(o.waiting, v)
	}
}

// giveBack gives the ledger what was not moved, and has it handed over anew: not, by that, what was lost with its partition
// meanwhile. It answers what is left of the list, nothing.
func (m *mover) giveBack(list []*move) []*move {
	m.g.mu.Lock()
	defer m.g.mu.Unlock()
	now := time.Now()
	for _, v := range list {
		m.g.ledger.unmoved(v, now)
	}
	m.take()
	return nil
}

// push publishes the first of what waits and tells the ledger how that went.
func (m *mover) push(ctx context.Context, o *outlet) {
	batch := o.batch()
	rest := o.waiting[len(batch):]
	err := m.publish(ctx, o, batch)
	var failed []*move
	large := len(o.large)
	m.g.mu.Lock()
	now := time.Now()
	for i, v := range batch {
		switch err := store.Each(err, i); {
		case err == nil:
			m.g.ledger.moved(v, now)
		case errors.Is(err, errs.TooLarge):
			o.large = append(o.large, v)
		default:
			failed = append(failed, v)
		}
	}
	close(m.busy)
	m.busy = nil
	m.g.touched(now)
	m.g.mu.Unlock()
	o.waiting = append(failed, rest...)
	large = len(o.large) - large
	moved := len(batch) - len(failed) - large
	o.moved.Add(uint64(moved))
	m.count.failed.Add(uint64(len(failed) + large))
	if large > 0 {
		o.setApart(large, err)
	}
	o.fared(moved+large > 0, err)
	if o == &m.retry && moved > 0 {
		m.g.lookForRetries()
	}
}

// batch is the first of what waits, as much as is published at once.
func (o *outlet) batch() []*move {
	n, bytes := 0, 0
	for n < min(len(o.waiting), moveMessages) {
		if bytes += o.waiting[n].msg.Size(); n > 0 && bytes > moveBytes {
			break
		}
		n++
	}
	return o.waiting[:n]
}

// publish stores the messages of a batch in the queue, which it makes where there is none. It is not cut off when ctx ends:
// a publish without an outcome would be made again.
func (m *mover) publish(ctx context.Context, o *outlet, batch []*move) error {
	m.g.mu.Lock()
	m.busy = make(chan struct{})
	m.g.mu.Unlock()
	ctx, cancel := outlast(ctx, moveTimeout, moveGrace)
	defer cancel()
	err := m.store(ctx, o, batch)
	if !errors.Is(err, errs.UnknownTopic) {
		return err
	}
	if err := m.create(ctx, o); err != nil {
		return fmt.Errorf("making the topic: %w", err)
	}
	if _, some := errors.AsType[*store.BatchError](err); some {
		return err // some may be stored
	}
	return m.store(ctx, o, batch)
}

// outlast is a context that ends after limit, and a grace after ctx where that is earlier.
func outlast(ctx context.Context, limit, grace time.Duration) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(grace, cancel) })
	return longer, func() { stop(); cancel() }
}

func (m *mover) store(ctx context.Context, o *outlet, batch []*move) error {
	msgs := make([]*store.Message, len(batch))
	for i, v := range batch {
		msgs[i] = v.message()
	}
	return m.g.cfg.Publisher.Publish(ctx, o.topic, store.AckAll, msgs...)
}

// create makes the queue, with as many replicas as the topic has.
func (m *mover) create(ctx context.Context, o *outlet) error {
	queue := store.Topic{Name: o.topic, Partitions: 1, Retention: o.retention, Cleanup: store.CleanupDelete}
	if topics, err := m.g.cfg.Admin.Topics(ctx); err == nil {
		for _, t := range topics {
			if t.Name == m.g.key.Topic {
				queue.Replicas = t.Replicas
			}
		}
	}
	if err := m.g.cfg.Admin.CreateTopic(ctx, queue); err != nil && !errors.Is(err, store.ErrExists) {
		return err
	}
	o.log.Info("made the queue")
	return nil
}

// setApart is told of messages that the queue refused for their size.
func (o *outlet) setApart(n int, err error) {
	o.largeAt = time.Now().Add(moveSlowest)
	if !o.tooMuch {
		o.log.Warn("the queue refuses messages for their size; raise its limit: they are kept, and hold up the group's position, until it takes them",
			"messages", n, "error", err)
	}
	o.tooMuch = true
}

// fared is told whether the publish brought things forward.
func (o *outlet) fared(well bool, err error) {
	switch {
	case well && o.backoff > 0:
		o.log.Info("messages are moved to the queue again")
		fallthrough
	case well:
		o.backoff, o.again = 0, time.Time{}
		o.tooMuch = o.tooMuch && len(o.large) > 0
	default:
		if o.backoff == 0 {
			o.log.Warn("messages can't be moved to the queue; trying again, nothing is lost", "messages", len(o.waiting), "error", err)
		}
		o.backoff = min(max(2*o.backoff, moveBackoff), moveSlowest)
		o.again = time.Now().Add(o.backoff)
	}
}
