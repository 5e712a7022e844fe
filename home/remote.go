package home

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"sync"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/internal/errs"
)

// remote is a session at a home that is another gateway. The home sends against credit: one Next here is one Next there,
// so that never more than one batch is under way.
type remote struct {
	l     *link
	id    uint32
	stays bool
	wake  chan struct{} // one place: told when one of the fields below has changed

	mu     sync.Mutex
	opened bool
	asked  bool        // the home has credit
	got    group.Batch // to be handed out
	part   group.Batch // of a batch whose last frame is still to come
	over   error       // comes after what is in got
	held   []group.Ref // by the client, as the home said at the end
	seen   uint64      // deliveries handed out
	closed bool
}

var (
	_ group.Session = (*remote)(nil)
	_ group.Holder  = (*remote)(nil)
)

// opening waits for the home's word that the session is open.
func (s *remote) opening(ctx context.Context) error {
	for {
		s.mu.Lock()
		opened, err := s.opened, s.over
		s.mu.Unlock()
		switch {
		case opened:
			return nil
		case err != nil:
			return err
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
			return fmt.Errorf("waiting for the group's home: %w", errs.Unavailable)
		}
	}
}

// receive takes a frame of the home.
func (s *remote) receive(f frame) error {
	d := decoder{b: f.payload}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch f.kind {
	case frameOpened:
		s.opened = true
	case frameEnd:
		if err := d.error(); s.over == nil {
			s.over, s.held = err, d.refs()
		}
		if s.over == nil {
			d.fail()
		}
	case frameDeliver:
		more := d.bool()
		s.part.Gaps = d.gaps(s.part.Gaps)
		s.part.Deliveries = d.deliveries(s.part.Deliveries)
		if more {
			return d.err()
		}
		s.got.Gaps = append(s.got.Gaps, s.part.Gaps...)
		s.got.Deliveries = append(s.got.Deliveries, s.part.Deliveries...)
		s.part, s.asked = group.Batch{}, false
	}
	s.tell()
	return d.err()
}

func (s *remote) tell() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// fail ends the session with err; what came before is still handed out.
func (s *remote) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over == nil {
		s.over = err
	}
	s.tell()
}

// Next is Session's.
func (s *remote) Next(ctx context.Context, most int) (group.Batch, error) {
	for {
		b, ask, err := s.take(most)
		switch {
		case err != nil || len(b.Gaps)+len(b.Deliveries) > 0:
			return b, err
		case ctx.Err() != nil:
			return group.Batch{}, ctx.Err()
		case ask && s.credit(most) != nil:
			s.fail(errLost)
			continue
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
		}
	}
}

// take answers what is at hand, or why nothing will be, or that the home is to be asked.
func (s *remote) take(most int) (b group.Batch, ask bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := min(most, len(s.got.Deliveries))
	if n+len(s.got.Gaps) > 0 {
		b = group.Batch{Gaps: s.got.Gaps, Deliveries: s.got.Deliveries[:n:n]}
		s.got.Gaps, s.got.Deliveries = nil, s.got.Deliveries[n:]
		if len(s.got.Deliveries) == 0 {
			s.got.Deliveries = nil
		}
		s.see(n)
		return b, false, nil
	}
	if s.over != nil {
		return b, false, s.over
	}
	ask = !s.asked
	s.asked = true
	return b, ask, nil
}

// see notes what was handed out. The home of a client whose messages stay leased hears of it at once: it must not take
// them back when the link breaks. Of others the next credit tells, and what they hold goes back either way.
func (s *remote) see(n int) {
	s.seen += uint64(n)
	if s.stays && n > 0 && !s.closed {
		_ = s.l.out.put(frameSeen, s.id, s.appendSeen) // fails where the link has ended
	}
}

func (s *remote) appendSeen(b []byte) []byte { return binary.AppendUvarint(b, s.seen) }

func (s *remote) credit(most int) error {
	return s.l.out.add(func(b []byte) []byte {
		return appendFrame(b, frameCredit, s.id, func(b []byte) []byte { return binary.AppendUvarint(b, uint64(min(most, math.MaxInt32))) })
	})
}

// Settle is Session's. ErrMoved is that of the home's session. errLost: what became of the verbs is not known.
func (s *remote) Settle(verbs ...group.Verb) []error {
	out := make([]error, 0, len(verbs))
	for len(verbs) > 0 {
		part := verbs[:min(len(verbs), maxVerbs)]
		verbs = verbs[len(part):]
		list, err := s.l.ask(context.Background(), frameSettle, s.id, len(part), func(b []byte) []byte { return appendVerbs(b, part) })
		for i := range part {
			if err != nil {
				out = append(out, err)
			} else {
				out = append(out, list[i])
			}
		}
	}
	return out
}

// Held is Holder's.
func (s *remote) Held() []group.Ref {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held
}

// Close is Session's. What was not handed out goes back.
func (s *remote) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	s.l.forget(s)
	_ = s.l.out.put(frameClose, s.id, s.appendSeen) // fails where the link has ended: the home notices that too
	if s.over == nil {
		s.over = errClosed
	}
	s.got, s.part = group.Batch{}, group.Batch{}
	s.tell()
}

// errClosed is what Next answers after Close.
var errClosed = fmt.Errorf("session is closed: %w", errs.Unavailable)
