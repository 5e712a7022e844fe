package group

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// intake is one of a group's two feeds: the topic's, or that of its retry queue.
type intake struct {
	g     *group
	retry bool
	feed  store.Feed
	log   *slog.Logger

	// Guarded by group.mu.
	paused   []int32            // what the Poll under way passes over
	wakePoll context.CancelFunc // ends the Poll under way, so that the next has another list
}

func newIntake(g *group, retry bool, feed store.Feed) *intake {
	log := g.log
	if retry {
		log = log.With("queue", g.policy.Retry)
	}
	return &intake{g: g, retry: retry, feed: feed, log: log}
}

// fetch moves messages from the feed into the ledger and never waits for a client. It returns nil when ctx has ended, and
// an error when the feed has.
func (in *intake) fetch(ctx context.Context) error {
	backoff := 100 * time.Millisecond
	for ctx.Err() == nil {
		poll, cancel := context.WithCancel(ctx)
		b, err := in.feed.Poll(poll, in.g.cfg.Limits.Fetch, in.pause(cancel))
		interrupted := poll.Err() != nil
		cancel()
		switch {
		case err == nil:
			backoff = 100 * time.Millisecond
			in.apply(&b)
		case interrupted && errors.Is(err, context.Canceled):
		case errors.Is(err, errs.UnknownTopic), errors.Is(err, store.ErrClosed):
			return err
		default:
			in.log.Warn("reading from the store; trying again", "error", err, "in", backoff)
			if !sleep(ctx, backoff) {
				return nil
			}
			backoff = min(2*backoff, 5*time.Second)
		}
	}
	return nil
}

// pause answers the partitions that the next Poll passes over, and notes how that is ended.
func (in *intake) pause(wake context.CancelFunc) []int32 {
	g := in.g
	g.mu.Lock()
	defer g.mu.Unlock()
	in.paused = g.ledger.full(g.cfg.Limits, in.retry, nil)
	in.wakePoll = wake
	return in.paused
}

// unpause ends the Poll under way when it passes over a partition that has room again. The caller holds the lock.
func (in *intake) unpause() {
	if len(in.paused) == 0 {
		return
	}
	still := in.g.ledger.full(in.g.cfg.Limits.half(), in.retry, make([]int32, 0, len(in.paused)))
	for _, p := range in.paused {
		if _, full := slices.BinarySearch(still, p); !full {
			in.paused = nil
			in.wakePoll()
			return
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
func (in *intake) apply(b *store.Batch) {
	g := in.g
	if len(b.Lost) > 0 {
		g.mover.await(lossWait) // what is in the other queue by then need not be moved again
	}
	now := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range b.Lost {
		w := g.ledger.windows[spot{in.retry, p}]
		if w != nil && g.cfg.Roams {
			g.ledger.goAlong(w)
		}
		if w != nil && w.dirty {
			in.commit(w, now)
		}
		g.ledger.lose(in.retry, p)
	}
	for _, p := range b.Gained {
		g.ledger.gain(in.retry, p, g.hold, now)
		g.hold += 2 // stays odd, so never 0
	}
	if len(b.Lost)+len(b.Gained) > 0 {
		g.signal()
	}
	for _, r := range b.Refused {
		in.refused(r)
	}
	for _, gap := range b.Gaps {
		in.log.Warn("messages are gone that the group had not done", "partition", gap.Partition, "from", gap.From, "to", gap.To)
		g.ledger.gap(in.retry, gap, now)
	}
	g.ledger.add(in.retry, b.Messages, now)
	g.look(g.ledger.nextDeadline(now))
	g.touched(now)
}

func (in *intake) refused(r store.Refusal) {
	w := in.g.ledger.windows[spot{in.retry, r.Partition}]
	if w == nil {
		return
	}
	if errors.Is(r.Err, errs.TooLarge) {
		w.plain++
	}
	w.dirty = true
	in.log.Warn("a commit did not take; the newest follows", "partition", r.Partition, "error", r.Err)
}

// commit hands a window's position to the feed; the caller holds the lock.
func (in *intake) commit(w *window, now time.Time) {
	w.dirty = false
	if err := in.feed.Commit(w.position(now)); err != nil && !errors.Is(err, store.ErrClosed) {
		// A partition that was lost comes as Lost in the next Poll; there is nothing to do for it.
		in.log.Debug("commit", "partition", w.partition, "error", err)
	}
}
