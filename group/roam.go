package group

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/kateway/kateway/internal/errs"
)

// session is a client of a group of this process. It outlives the group's life: when that ended for a reason that is not
// final, Next takes a seat in the next life, with the same Ask, and the caller sees a longer wait.
type session struct {
	hub *Hub
	ask Ask

	mu     sync.Mutex
	seat   *seat // written by Next alone, which reads it without the lock
	closed bool
	cancel context.CancelFunc // ends a search for another seat; nil where there is none
}

var _ Session = (*session)(nil)

// Next is Session's.
func (s *session) Next(ctx context.Context, most int) (Batch, error) {
	for {
		b, err := s.seat.Next(ctx, most)
		if !errors.Is(err, ErrMoved) {
			return b, err
		}
		if err := s.move(ctx); err != nil {
			return Batch{}, err
		}
	}
}

// move takes a seat in the group's next life. When ctx ends before there is one, the next Next goes on with it.
func (s *session) move(ctx context.Context) error {
	s.seat.Close()
	search, cancel := context.WithCancel(ctx)
	defer cancel()
	s.mu.Lock()
	s.cancel = cancel
	closed := s.closed
	s.mu.Unlock()
	if closed {
		return errClosed
	}
	next, err := s.hub.sit(search, &s.ask)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cancel = nil
	switch {
	case s.closed:
		if next != nil {
			next.Close()
		}
		return errClosed
	case err == nil:
		s.seat = next
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return err
}

// Settle is Session's.
func (s *session) Settle(verbs ...Verb) []error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seat.Settle(verbs...)
}

// Close is Session's.
func (s *session) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	if s.cancel != nil {
		s.cancel()
	}
	s.seat.Close()
	s.hub.visit(s.ask.Key, -1)
}

// errClosed is what Next answers after Close.
var errClosed = fmt.Errorf("session is closed: %w", errs.Unavailable)
