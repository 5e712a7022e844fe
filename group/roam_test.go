package group

import (
	"context"
	"errors"
	"sync"
)

// roaming is a client that opens another session wherever its group moved, as those do who serve clients.
type roaming struct {
	hub *Hub
	ask Ask

	mu     sync.Mutex
	now    Session // written by Next alone, which reads it without the lock
	closed bool
	cancel context.CancelFunc // ends a search for another session; nil where there is none
}

func (s *roaming) Next(ctx context.Context, most int) (Batch, error) {
	for {
		b, err := s.now.Next(ctx, most)
		if !errors.Is(err, ErrMoved) {
			return b, err
		}
		if err := s.move(ctx); err != nil {
			return Batch{}, err
		}
	}
}

func (s *roaming) move(ctx context.Context) error {
	s.now.Close()
	search, cancel := context.WithCancel(ctx)
	defer cancel()
	s.mu.Lock()
	s.cancel = cancel
	closed := s.closed
	s.mu.Unlock()
	if closed {
		return errClosed
	}
	next, err := s.hub.Open(search, s.ask)
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
		s.now = next
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return err
}

func (s *roaming) Settle(verbs ...Verb) []error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now.Settle(verbs...)
}

func (s *roaming) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.cancel != nil {
		s.cancel()
	}
	s.now.Close()
}
