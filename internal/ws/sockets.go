package ws

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// Sockets are the connections that a handler serves. The zero value is ready; its methods may be called concurrently.
type Sockets struct {
	mu       sync.Mutex
	conns    map[*Conn]struct{}
	draining bool
	none     chan struct{} // closed when there are none; nil while nobody waits
}

func (s *Sockets) add(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns == nil {
		s.conns = map[*Conn]struct{}{}
	}
	s.conns[c] = struct{}{}
	if s.draining { // it came in the midst of it
		c.StopReading(0)
	}
}

func (s *Sockets) remove(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if len(s.conns) == 0 && s.none != nil {
		close(s.none)
		s.none = nil
	}
}

// Drain stops the reading of all connections, one after the other over the time given. Their writers end them.
func (s *Sockets) Drain(over time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return
	}
	s.draining = true
	step, i := over/time.Duration(max(len(s.conns), 1)), 0
	for c := range s.conns {
		c.StopReading(time.Duration(i) * step)
		i++
	}
}

// Draining reports whether Drain was called.
func (s *Sockets) Draining() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.draining
}

// Wait waits until all connections have ended. When ctx ends first, those that are left are cut off; the error says how
// many they were.
func (s *Sockets) Wait(ctx context.Context) error {
	s.mu.Lock()
	if len(s.conns) == 0 {
		s.mu.Unlock()
		return nil
	}
	if s.none == nil {
		s.none = make(chan struct{})
	}
	none := s.none
	s.mu.Unlock()
	select {
	case <-none:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	left := len(s.conns)
	for c := range s.conns {
		_ = c.conn.Close()
	}
	s.mu.Unlock()
	return fmt.Errorf("%d WebSockets did not end in time: %w", left, ctx.Err())
}
