package group

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/filter"
)

// seat is a Session: a client's place in one life of a group.
type seat struct {
	g *group
	*waiter
	over error  // why Next answers no more
	left func() // called once, when the client has gone; nil: nobody wants to know
}

var (
	_ Session = (*seat)(nil)
	_ Holder  = (*seat)(nil)
)

// errClosed is what Next answers after Close.
var errClosed = fmt.Errorf("session is closed: %w", errs.Unavailable)

// join adds a client, with its filter compiled. It answers nil when the group has ended meanwhile, and errs.Conflict when it
// has other settings.
func (g *group) join(a *Ask, f *filter.Filter) (*seat, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err != nil {
		return nil, nil
	}
	if g.draining {
		return nil, errs.Draining
	}
	if err := g.agree(&a.Settings, f, time.Now()); err != nil || g.err != nil {
		return nil, err
	}
	s := &seat{g: g, waiter: g.ledger.enter(a)}
	g.ledger.claim(s.c, a.Held, time.Now())
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

// End makes Next answer err from now on, once what the client was given already has been handed out.
func (s *seat) End(err error) {
	s.g.mu.Lock()
	defer s.g.mu.Unlock()
	s.finish(err)
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
			g.touched(now)
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
			if errors.Is(g.err, errEvicted) {
				out = append(out, ErrMoved)
				continue
			}
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
		case Ack, Bury, Return:
		}
	}
	g.touched(now)
	return out
}

func (s *seat) Close() {
	if s.stand() && s.left != nil {
		s.left()
	}
}

// stand ends the client's stay, and reports whether that was to be done.
func (s *seat) stand() bool {
	g := s.g
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, open := g.seats[s]; !open {
		return false
	}
	s.finish(errClosed)
	delete(g.seats, s)
	if g.err != nil {
		g.part()
		return true // what it holds is in the last commit
	}
	now := time.Now()
	g.ledger.leave(s.waiter, now)
	g.touched(now)
	if len(g.seats) == 0 {
		g.idle = now
		g.look(now.Add(g.cfg.Limits.Linger))
	}
	return true
}

// Held is Holder's.
func (s *seat) Held() []Ref {
	s.g.mu.Lock()
	defer s.g.mu.Unlock()
	return s.g.ledger.heldBy(s.c)
}
