package group

import (
	"context"
	"fmt"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// seat is a client's place in one life of a group. It has the methods of a Session, and the contract of one but for
// ErrMoved: then the client is to find itself another seat.
type seat struct {
	g *group
	*waiter
	over error // why Next answers no more
}

// join adds a client. It answers nil when the group has ended meanwhile, and errs.Conflict when it is in another mode.
func (g *group) join(a *Ask) (*seat, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err != nil {
		return nil, nil
	}
	if g.draining {
		return nil, errs.Draining
	}
	if a.Mode != g.mode {
		return nil, fmt.Errorf("the group is in mode %s, not %s: %w", g.mode, a.Mode, errs.Conflict)
	}
	s := &seat{g: g, waiter: g.ledger.enter(a)}
	g.seats[s] = struct{}{}
	g.idle = time.Time{}
	return s, nil
}

// finish ends the stay with err: nothing more is given to it. The caller holds the lock.
func (s *seat) finish(err error) {
	if s.over == nil {
		s.over = err
		s.g.ledger.unpark(s.waiter)
		s.tell()
	}
}

func (s *seat) Next(ctx context.Context, most int) (Batch, error) {
	g := s.g
	g.mu.Lock()
	defer g.mu.Unlock()
	s.max, s.got = most, Batch{Gaps: s.got.Gaps[:0], Deliveries: s.got.Deliveries[:0]}
	for {
		now := time.Now()
		if s.over == nil && g.ledger.take(s.waiter, now) {
			g.look(now.Add(s.c.lease))
			g.dirtied(now)
			g.unpause()
		}
		switch {
		case len(s.got.Deliveries) > 0: // also what it was given just before it ended
			return s.got, nil
		case s.over != nil:
			return Batch{}, s.over
		case ctx.Err() != nil:
			return Batch{}, ctx.Err()
		}
		g.ledger.park(s.waiter)
		g.mu.Unlock()
		select {
		case <-s.wake:
		case <-ctx.Done():
		}
		g.mu.Lock()
		g.ledger.unpark(s.waiter)
	}
}

func (s *seat) Settle(verbs ...Verb) []error {
	s.g.mu.Lock()
	defer s.g.mu.Unlock()
	return s.g.settle(verbs, make([]error, 0, len(verbs)))
}

// settle applies verbs; the caller holds the lock. After the last commit it is too late for them.
func (g *group) settle(verbs []Verb, out []error) []error {
	if g.sealed {
		for _, v := range verbs {
			out = append(out, fencedf("partition %d offset %d: this gateway has left the group, the message is delivered again", v.Partition, v.Offset))
		}
		return out
	}
	now := time.Now()
	out = g.ledger.settle(verbs, now, out)
	for _, v := range verbs {
		switch v.Op {
		case Nack:
			g.look(now.Add(v.Delay))
		case Extend:
			g.look(now.Add(v.Lease))
		case Ack:
		}
	}
	g.dirtied(now)
	g.unpause()
	return out
}

func (s *seat) Close() {
	g := s.g
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, open := g.seats[s]; !open {
		return
	}
	s.finish(errClosed)
	delete(g.seats, s)
	if g.err != nil {
		return // what it holds is in the last commit
	}
	now := time.Now()
	g.ledger.leave(s.waiter, now)
	g.dirtied(now)
	if len(g.seats) == 0 {
		g.idle = now
		g.look(now.Add(g.limits.Linger))
	}
}

// through marks what is below the positions as done, with an error each in out; the caller holds the lock.
func (g *group) through(at []store.Position, out []error) {
	now := time.Now()
	for i, p := range at {
		out[i] = g.ledger.through(p, now)
	}
	g.dirtied(now)
	g.unpause()
}
