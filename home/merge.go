package home

import (
	"context"
	"sync"

	"github.com/kateway/kateway/group"
)

// Merged is one flow out of several sessions: of a group's homes, or of several topics on one stream. One goroutine at a
// time may call Next; Settle and Close may be called concurrently with it.
//
// While a session waits for its messages it has a goroutine, also between two calls of Next.
type Merged struct {
	sources []*source
	keep    bool
	ctx     context.Context //nolint:containedctx // ends waits that outlive a Next
	stop    context.CancelFunc
	wake    chan struct{} // one place: a source has something
	wg      sync.WaitGroup

	mu      sync.Mutex
	turn    int  // where Next looks first
	waiting bool // somebody is in Next
	closed  bool
}

// source is one of the sessions. Its fields are guarded by Merged.mu.
type source struct {
	group.Session
	busy bool // in Next
	got  group.Batch
	err  error
}

// Merge makes one flow of open sessions, which belong to it from then on. keep says what becomes of deliveries that came
// while nobody wanted them, because Next had enough already: they are kept for the next one (a stream), or go back at once
// (a poll). In any case they go back when the flow is closed.
func Merge(keep bool, sessions ...group.Session) *Merged {
	m := &Merged{keep: keep, wake: make(chan struct{}, 1)}
	m.ctx, m.stop = context.WithCancel(context.Background())
	for _, s := range sessions {
		m.sources = append(m.sources, &source{Session: s})
	}
	return m
}

// Next is Session's, and says which of the sessions the batch, or the error, is from: its index. -1 with ctx.Err(). With a
// ctx that has ended it answers what came meanwhile. A session that answered an error is asked no more; the others may be.
func (m *Merged) Next(ctx context.Context, most int) (from int, b group.Batch, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.waiting = true
	defer func() { m.waiting = false }()
	for {
		if m.closed {
			return -1, b, errClosed
		}
		if from, b, err = m.take(most); from >= 0 {
			return from, b, err
		}
		if ctx.Err() != nil {
			return -1, b, ctx.Err()
		}
		m.askAll(most)
		m.mu.Unlock()
		select {
		case <-m.wake:
		case <-ctx.Done():
		}
		m.mu.Lock()
	}
}

// take answers what a source has, each in its turn; -1 where none has anything. The caller holds the lock.
func (m *Merged) take(most int) (int, group.Batch, error) {
	for range m.sources {
		i := m.turn
		m.turn = (m.turn + 1) % len(m.sources)
		s := m.sources[i]
		n := min(most, len(s.got.Deliveries))
		switch {
		case n+len(s.got.Gaps) > 0:
			b := group.Batch{Gaps: s.got.Gaps, Deliveries: s.got.Deliveries[:n:n]}
			s.got.Gaps, s.got.Deliveries = nil, s.got.Deliveries[n:]
			if !m.keep {
				s.giveBack()
			}
			return i, b, nil
		case s.err != nil && !s.busy:
			s.busy = true // for good
			return i, group.Batch{}, s.err
		}
	}
	return -1, group.Batch{}, nil
}

// askAll has every source wait for messages that has none and does not yet. The caller holds the lock.
func (m *Merged) askAll(most int) {
	for _, s := range m.sources {
		if s.busy || s.err != nil {
			continue
		}
		s.busy = true
		m.wg.Go(func() { m.await(s, most) })
	}
}

// await is one Next of a source.
func (m *Merged) await(s *source, most int) {
	b, err := s.Next(m.ctx, most)
	m.mu.Lock()
	defer m.mu.Unlock()
	s.busy, s.got, s.err = false, b, err
	if m.closed || !m.keep && !m.waiting {
		s.giveBack()
	}
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// giveBack returns what nobody took. Gaps stay: they are told to one client only.
func (s *source) giveBack() {
	if len(s.got.Deliveries) == 0 {
		return
	}
	verbs := make([]group.Verb, len(s.got.Deliveries))
	for i, d := range s.got.Deliveries {
		verbs[i] = group.Verb{Ref: d.Ref, Op: group.Return}
	}
	s.got.Deliveries = nil
	s.Settle(verbs...)
}

// Settle is that of the session with the index.
func (m *Merged) Settle(from int, verbs ...group.Verb) []error {
	return m.sources[from].Settle(verbs...)
}

// Close closes all sessions. What Next has not answered goes back.
func (m *Merged) Close() {
	m.mu.Lock()
	closed := m.closed
	m.closed = true
	if !closed {
		for _, s := range m.sources {
			if !s.busy {
				s.giveBack()
			}
		}
	}
	m.mu.Unlock()
	m.stop()
	m.wg.Wait()
	for _, s := range m.sources {
		s.Close()
	}
}
