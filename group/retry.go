package group

import (
	"context"
	"errors"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

const (
	retryGroup  = ".retry"        // behind the group's name: who reads the retry queue
	probeRetry  = 5 * time.Minute // a retry queue that is not there is looked for again, if nobody tells of it before
	probeTold   = 10              // looks after somebody told of it: the store may not know it everywhere at once
	probeSoon   = time.Second     // between these
	retryFaster = 100 * time.Millisecond
	retrySlower = 30 * time.Second
)

// lookForRetries has the retry queue looked for, where it was not there before.
func (g *group) lookForRetries() {
	select {
	case g.requeued <- struct{}{}:
	default:
	}
}

// readRetries joins the group's retry queue when there is one, and fetches from it until ctx ends. Its failures are no end of
// the group's: a queue that was deleted is looked for again.
func (g *group) readRetries(ctx context.Context) {
	backoff, soon := retryFaster, 0
	for ctx.Err() == nil {
		err := g.readRetry(ctx)
		wait := probeRetry
		switch {
		case err == nil:
			backoff = retryFaster
			continue // it was joined, and has ended
		case !errors.Is(err, errs.UnknownTopic):
			wait = backoff
			if backoff == retryFaster && ctx.Err() == nil {
				g.log.Warn("joining the retry queue; trying again", "queue", g.policy.Retry, "error", err)
			}
			backoff = min(2*backoff, retrySlower)
		case soon > 0:
			soon--
			wait = probeSoon
		}
		if g.told(ctx, wait) {
			soon = probeTold
		}
	}
}

// told waits for that time at most, and reports whether somebody told of the retry queue.
func (g *group) told(ctx context.Context, wait time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-g.requeued:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

// readRetry joins the retry queue and fetches from it until ctx ends or the queue is gone. An error says that it could not
// be joined.
func (g *group) readRetry(ctx context.Context) error {
	joining, cancel := context.WithTimeout(ctx, subscribeTimeout)
	defer cancel()
	feed, err := g.cfg.Store.Subscribe(joining, g.cfg.spec(store.Spec{Topic: g.policy.Retry, Group: g.key.Group + retryGroup}))
	g.mu.Lock()
	g.noRetry = errors.Is(err, errs.UnknownTopic)
	if g.noRetry {
		g.signal() // nobody need wait for its partitions
	}
	if err != nil {
		g.mu.Unlock()
		return err
	}
	in := newIntake(g, true, feed)
	g.retry = in
	g.mu.Unlock()
	if err := in.fetch(ctx); err != nil {
		g.dropRetry(ctx, err)
	}
	return nil
}

// dropRetry forgets a retry queue whose feed has ended.
func (g *group) dropRetry(ctx context.Context, why error) {
	g.mu.Lock()
	in := g.retry
	for at := range g.ledger.windows {
		if at.retry {
			g.ledger.lose(true, at.partition)
		}
	}
	g.retry = nil
	g.noRetry = true
	g.signal()
	g.mu.Unlock()
	in.log.Warn("the retry queue is gone; what it held is no longer delivered", "error", why)
	last, cancel := outlast(ctx, closeTimeout, closeTimeout)
	defer cancel()
	if err := in.feed.Close(last); err != nil {
		in.log.Debug("leaving the retry queue", "error", err)
	}
}
