package home

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/internal/errs"
)

const (
	settleTime  = 5 * time.Second  // for verbs whose session moved, to find their partitions
	lateVerbs   = 30 * time.Second // so long after a move, verbs of deliveries of before are looked for
	firstRest   = 10 * time.Millisecond
	longestRest = time.Second
)

// session is a client of a group wherever that has its home. When the home changes, Next opens another session there, with
// the same Ask, and the caller sees a longer wait.
type session struct {
	r   *Router
	ask group.Ask
	nth int // of the group's homes it is a client of this one

	// Next's alone.
	opened time.Time     // at the present home
	rest   time.Duration // before the next look for a home; grows while none keeps us for long

	mu     sync.Mutex
	inner  group.Session // nil while there is no home; written by Next alone, which reads it without the lock
	home   string        // whose inner is
	moved  time.Time     // when a home was lost last
	held   []group.Ref   // what the client has of a home that has moved, until it has another
	over   error         // final
	search context.CancelFunc
}

var _ group.Session = (*session)(nil)

// Next is Session's.
func (s *session) Next(ctx context.Context, most int) (group.Batch, error) {
	for {
		if s.inner == nil {
			if err := s.find(ctx); err != nil {
				return group.Batch{}, err
			}
		}
		b, err := s.inner.Next(ctx, most)
		if err == nil {
			return b, nil
		}
		if err = s.judge(err); err != nil {
			return group.Batch{}, err
		}
		s.lose()
	}
}

// judge answers nil for an error after which the group goes on elsewhere.
func (s *session) judge(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.over != nil:
		return s.over
	case errors.Is(err, group.ErrMoved), errors.Is(err, errLost):
		return nil
	case errors.Is(err, errs.Draining) && s.home != s.r.cfg.Self:
		s.r.miss(s.home)
		return nil
	}
	return err
}

// lose closes a session whose home is none any more.
func (s *session) lose() {
	var held []group.Ref
	if h, some := s.inner.(group.Holder); some && !s.ask.Stays {
		held = h.Held()
	}
	s.closeInner(s.inner)
	now := time.Now()
	if now.Sub(s.opened) > longestRest {
		s.rest = 0
	} else {
		s.rest = min(max(2*s.rest, firstRest), longestRest)
	}
	s.mu.Lock()
	s.inner, s.home, s.moved, s.held = nil, "", now, held
	s.mu.Unlock()
	s.r.metrics.moves.Inc()
}

// find opens a session at the group's home. When ctx ends before there is one, the next Next goes on with it.
func (s *session) find(ctx context.Context) error {
	search, cancel := context.WithCancel(ctx)
	defer cancel()
	s.mu.Lock()
	over := s.over
	s.search, s.ask.Held = cancel, s.held
	s.mu.Unlock()
	if over != nil {
		return over
	}
	var inner group.Session
	var home string
	err := ctx.Err()
	if err == nil && s.rest > 0 {
		err = sleep(search, s.rest)
	}
	if err == nil {
		inner, home, err = s.r.open(search, &s.ask, s.nth)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.search = nil
	switch {
	case s.over != nil:
		if inner != nil {
			inner.Close()
		}
		return s.over
	case err == nil:
		s.inner, s.home, s.opened = inner, home, time.Now()
		s.ask.First, s.ask.Held, s.held = 0, nil, nil // only the very first Next is known in advance
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return err
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Settle is Session's. Verbs that came after their home was lost, or whose outcome was lost with it, are brought to the new one.
func (s *session) Settle(verbs ...group.Verb) []error {
	s.mu.Lock()
	inner, moved := s.inner, s.moved
	s.mu.Unlock()
	var out []error
	if inner != nil {
		out = inner.Settle(verbs...)
	} else {
		out = fill(make([]error, len(verbs)), errLost)
	}
	late := !moved.IsZero() && time.Since(moved) < lateVerbs
	var again []group.Verb
	var at []int
	for i, err := range out {
		if verbs[i].Op != group.Return && (errors.Is(err, errLost) || errors.Is(err, group.ErrMoved) || late && errors.Is(err, errs.Fenced)) {
			again, at = append(again, verbs[i]), append(at, i)
		}
	}
	if len(again) == 0 {
		return out
	}
	ctx, cancel := context.WithTimeout(s.r.ctx, settleTime)
	defer cancel()
	for i, err := range s.r.Settle(ctx, s.ask.Key, again...) {
		out[at[i]] = err
	}
	return out
}

// Close is Session's.
func (s *session) Close() {
	s.finish(errClosed)
	s.mu.Lock()
	inner, held := s.inner, s.held
	s.held = nil
	s.mu.Unlock()
	if inner != nil {
		s.closeInner(inner)
	}
	if len(held) > 0 {
		s.r.spawn(func() { s.giveBack(held) })
	}
	s.r.forget(s)
}

// giveBack has due what a client held that left while its group moved.
func (s *session) giveBack(held []group.Ref) {
	verbs := make([]group.Verb, len(held))
	for i, r := range held {
		verbs[i] = group.Verb{Ref: r, Op: group.Nack}
	}
	ctx, cancel := context.WithTimeout(s.r.ctx, settleTime)
	defer cancel()
	s.r.Settle(ctx, s.ask.Key, verbs...) // what it had settled, and what was given to others, is fenced
}

// closeInner closes a session at a home.
func (s *session) closeInner(inner group.Session) {
	inner.Close()
	if _, far := inner.(*remote); !far {
		s.r.stray(s.ask.Key)
	}
}

// finish ends the session with err: at once where its home is elsewhere or is being looked for; a local one when the hub
// ends it, as it does by itself when the gateway stops.
func (s *session) finish(err error) {
	s.mu.Lock()
	if s.over == nil {
		s.over = err
	}
	if s.search != nil {
		s.search()
	}
	inner := s.inner
	s.mu.Unlock()
	if far, ok := inner.(*remote); ok {
		far.fail(err)
	}
}

// end is finish at once wherever the home is.
func (s *session) end(err error) {
	s.finish(err)
	s.mu.Lock()
	inner := s.inner
	s.mu.Unlock()
	if near, ok := inner.(interface{ End(err error) }); ok {
		near.End(err)
	}
}

// follow makes a forwarded session look for its home again when that is another one now. Local ones are evicted by the hub.
func (s *session) follow() {
	home := s.r.view.pick(s.ask.Key, s.nth, nil)
	s.mu.Lock()
	inner, elsewhere := s.inner, s.home != home
	s.mu.Unlock()
	if far, ok := inner.(*remote); ok && elsewhere {
		far.fail(group.ErrMoved)
	}
}
