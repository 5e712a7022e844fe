package auth

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/plugins"
)

const (
	expiryEvery = 2 * time.Second // how often streams are looked at whose time is limited
	sweepRest   = time.Second     // between two looks at all of them
)

// streams are the calls that last or wait: they are judged again meanwhile, since what they had shown may end, or what they may.
// One goroutine does that for all of them.
type streams struct {
	wake  chan struct{} // something has changed that is not in meta; one token
	ended prometheus.Counter

	mu   sync.Mutex
	open map[*stream]struct{}
}

// stream is one of them.
type stream struct {
	who    identity
	call   plugins.Call // what it wants; nothing but that
	cancel context.CancelCauseFunc
	of     *streams
}

// End is plugins.Ender's.
func (st *stream) End(error) {
	st.of.remove(st)
	st.cancel(nil)
}

// check has all of them judged again soon.
func (s *streams) check() {
	select {
	case s.wake <- struct{}{}:
	default: // it is to be done already
	}
}

func (s *streams) add(st *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = map[*stream]struct{}{}
	}
	s.open[st] = struct{}{}
}

func (s *streams) remove(st *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, st)
}

// list is all that are open.
func (s *streams) list(into []*stream) []*stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	for st := range s.open {
		into = append(into, st)
	}
	return into
}

// last does the rest of a call that lasts or waits. It ends, by its context, when the caller may no longer do it.
func (p *Plugin) last(ctx context.Context, c *plugins.Call, who identity, next plugins.Handler) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	st := &stream{of: &p.streams, who: who, cancel: cancel, call: plugins.Call{Op: c.Op, App: c.App, Owner: c.Owner, Topic: c.Topic, Ver: c.Ver, Group: c.Group}}
	p.streams.add(st)
	defer func() { c.AtEnd(err, st) }()
	err = next(ctx, c)
	if why := plugins.Ended(ctx); why != nil && errors.Is(err, context.Canceled) {
		return why // it had not begun yet, or has nowhere to say why it ends
	}
	return err
}

// sweep judges them again when something has changed, or time has passed, until ctx ends.
func (p *Plugin) sweep(ctx context.Context) {
	tick := time.NewTicker(expiryEvery)
	defer tick.Stop()
	var list []*stream
	for {
		changed := p.meta.Changed()
		snap, now := p.meta.Snapshot(), time.Now()
		list = p.streams.list(list[:0])
		for _, st := range list {
			p.review(snap, st, now)
		}
		clear(list) // those that have ended are not to be kept
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				return
			case <-changed:
				waiting = false
			case <-p.streams.wake:
				waiting = false
			case <-tick.C:
				p.expire()
			}
		}
		select { // what changes often is not looked at each time
		case <-ctx.Done():
			return
		case <-time.After(sweepRest):
		}
	}
}

// review ends the stream where it would not be let in any more.
func (p *Plugin) review(snap *meta.Snapshot, st *stream, now time.Time) {
	v, err := still(snap, &st.who, st.call.Op, now), error(nil)
	if v == passed && st.who.token != nil && !p.tokens.still(st.who.token) {
		v = badToken
	}
	if v == passed {
		v, err = permit(snap, &st.call, st.who.only)
	}
	if v != passed {
		p.end(st, v, err)
	}
}

// expire ends the streams whose time is over.
func (p *Plugin) expire() {
	now := time.Now()
	p.streams.mu.Lock()
	defer p.streams.mu.Unlock()
	for st := range p.streams.open {
		if !st.who.expires.IsZero() && !now.Before(st.who.expires) {
			p.end(st, expired, nil)
		}
	}
}

// end ends a stream: err says why, nil where what it had shown does not count any more.
func (p *Plugin) end(st *stream, v verdict, err error) {
	if err == nil {
		err = fmt.Errorf("what this call had shown does not count any more: %w", errs.Unauthenticated)
	}
	p.streams.ended.Inc()
	p.log.Debug("a stream is ended", "reason", names[v], "app", st.who.app)
	st.cancel(plugins.End(err))
}
