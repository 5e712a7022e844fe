// Package mem keeps the objects of meta in memory: the model that the other sources are compared with, and the source of
// tests.
package mem

import (
	"context"
	"fmt"
	"maps"
	"sync"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/meta"
)

var _ meta.Source = (*Source)(nil)

// shared is what several sources show.
type shared struct {
	mu      sync.Mutex
	objects map[meta.ID][]byte
	changed map[meta.ID]uint64 // when each object was last changed, those that are gone too
	now     uint64             // grows with every change and reload
	away    bool
	news    chan struct{} // closed and replaced when there is something to tell
}

// Source is one gateway's view of the objects.
type Source struct {
	*shared

	// All under shared.mu.
	started  bool   // the whole was told
	told     uint64 // what was changed until then has been told
	toldAway bool
	closed   bool
}

// New makes a source without objects.
func New() *Source {
	return &Source{shared: &shared{objects: map[meta.ID][]byte{}, changed: map[meta.ID]uint64{}, news: make(chan struct{})}}
}

// Another is a source on the same objects, as another gateway has it.
func (s *Source) Another() *Source { return &Source{shared: s.shared} }

// Away makes the objects unreachable for all sources, or reachable again.
func (s *Source) Away(away bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = away
	s.tell()
}

// Corrupt gives the object any content, as an error or an enemy would.
func (s *Source) Corrupt(id meta.ID, content []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if object, err := meta.Compact(content); err == nil {
		content = object
	}
	s.set(id, content)
}

// tell wakes who waits. shared.mu is held.
func (s *shared) tell() {
	close(s.news)
	s.news = make(chan struct{})
}

func (s *shared) set(id meta.ID, data []byte) {
	s.now++
	s.changed[id] = s.now
	if data == nil {
		delete(s.objects, id)
	} else {
		s.objects[id] = data
	}
	s.tell()
}

// Next is meta.Source's.
func (s *Source) Next(ctx context.Context) (meta.Update, error) {
	for {
		s.mu.Lock()
		u, ok, err := s.next()
		news := s.news
		s.mu.Unlock()
		if ok || err != nil {
			return u, err
		}
		select {
		case <-news:
		case <-ctx.Done():
			return meta.Update{}, ctx.Err()
		}
	}
}

// next is what there is to tell now, if there is.
func (s *Source) next() (u meta.Update, ok bool, err error) {
	switch {
	case s.closed:
		return u, false, fmt.Errorf("meta is closed: %w", errs.Unavailable)
	case s.away && !s.toldAway:
		s.toldAway = true
		return u, false, errAway
	case s.away, s.started && !s.toldAway && s.told == s.now:
		return u, false, nil
	}
	u = meta.Update{Objects: map[meta.ID][]byte{}, Whole: !s.started, Faults: map[string]error{}, Through: s.now}
	for id, at := range s.changed {
		data := s.objects[id]
		switch _, err := meta.Compact(data); {
		case data != nil && err != nil:
			u.Faults[s.Place(id)] = err
		case u.Whole && data != nil, !u.Whole && at > s.told:
			u.Objects[id] = data
		}
	}
	s.started, s.toldAway, s.told = true, false, s.now
	return u, true, nil
}

var errAway = fmt.Errorf("meta is away: %w", errs.Unavailable)

// Apply is meta.Source's.
func (s *Source) Apply(ctx context.Context, c meta.Change) (at uint64, err error) {
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("%s: %w: %w", c.ID, errs.Unavailable, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away || s.closed {
		return 0, errAway
	}
	if err := c.Check(s.objects[c.ID]); err != nil {
		return 0, err
	}
	s.set(c.ID, c.Data)
	return s.now, nil
}

// Reload is meta.Source's.
func (s *Source) Reload() (at uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now++
	s.tell()
	return s.now
}

// Place is meta.Source's.
func (s *Source) Place(id meta.ID) string { return id.String() }

// Objects is a copy of what there is.
func (s *Source) Objects() map[meta.ID][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.objects)
}

// Close is meta.Source's.
func (s *Source) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.tell()
	return nil
}
