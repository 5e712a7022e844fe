package embedded

import (
	"context"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/kateway/kateway/internal/errs"
)

// ForgetGroup removes the group's positions on the topic, all or none. They are gone from the disk when it returns nil.
func (s *Store) ForgetGroup(ctx context.Context, topic, name string) error {
	t, err := s.topic(ctx, topic)
	if err != nil {
		return err
	}
	g, err := s.use(t, name)
	if err != nil {
		return err
	}
	defer s.unuse(g)
	prefix := groupPrefix(t.id, name)
	o := newWrite(func(b *pebble.Batch) error { return b.DeleteRange(prefix, after(prefix), nil) })
	o.frees = true
	s.noting.Lock() // positions noted before are in the queue before
	had, err := g.forget()
	if err == nil {
		if err = s.enqueue(o); err != nil {
			s.restore(g, had) // before Close collects for the last time
		}
	}
	s.noting.Unlock()
	if err != nil {
		return err
	}
	if _, err := o.Wait(ctx, s.fault); err != nil {
		s.restore(g, had)
		return err
	}
	return nil
}

// forget takes the positions out of memory, and answers what there was.
func (g *group) forget() ([]share, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case len(g.members) > 0:
		return nil, fmt.Errorf("group %q has %d members: %w", g.name, len(g.members), errs.Conflict)
	case !slices.ContainsFunc(g.shares, func(sh share) bool { return sh.known }):
		return nil, fmt.Errorf("group %q has no position on topic %q: %w", g.name, g.topic.name, errs.NotFound)
	}
	had := slices.Clone(g.shares)
	for i := range g.shares {
		sh := &g.shares[i]
		sh.position.Next, sh.position.Beyond, sh.known, sh.dirty = 0, "", false, false
	}
	return had, nil
}

// restore brings positions back that may not have been removed, but not over newer ones.
func (s *Store) restore(g *group, had []share) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, old := range had {
		if sh := &g.shares[i]; old.known && !sh.known {
			sh.position, sh.known, sh.dirty = old.position, true, true
		}
	}
	s.noted(g)
}
