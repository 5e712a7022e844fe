package mem

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// Topics is store.Admin's, as are the methods below.
func (s *Store) Topics(ctx context.Context) ([]store.Topic, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	var list []store.Topic
	for _, t := range s.topics {
		list = append(list, t.Topic)
	}
	slices.SortFunc(list, func(a, b store.Topic) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// CreateTopic makes a topic with the limits that are given, but applies none of them: Trim does.
func (s *Store) CreateTopic(ctx context.Context, want store.Topic) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(ctx); err != nil {
		return err
	}
	switch {
	case want.Name == "":
		return fmt.Errorf("a topic needs a name: %w", errs.InvalidParam)
	case want.Partitions < 0 || want.Replicas < 0:
		return fmt.Errorf("topic %q with %d partitions and %d replicas: %w", want.Name, want.Partitions, want.Replicas, errs.InvalidParam)
	case !known(want.Cleanup):
		return unknownCleanup(want)
	case s.topics[want.Name] != nil:
		return fmt.Errorf("%q: %w", want.Name, store.ErrExists)
	}
	t := &topic{
		Topic:  store.Topic{Name: want.Name, Replicas: 1, Retention: -1, RetentionBytes: -1, Cleanup: store.CleanupDelete},
		groups: map[string]*group{}, once: map[string]outcome{},
	}
	if want.Partitions == 0 {
		want.Partitions = DefaultPartitions
	}
	t.change(want)
	s.topics[want.Name] = t
	return nil
}

// AlterTopic changes what is not zero.
func (s *Store) AlterTopic(ctx context.Context, want store.Topic) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.topic(ctx, want.Name)
	if err != nil {
		return err
	}
	if want.Partitions != 0 && want.Partitions < t.Partitions {
		return fmt.Errorf("topic %q has %d partitions and can't have %d: %w", t.Name, t.Partitions, want.Partitions, errs.InvalidParam)
	}
	if !known(want.Cleanup) {
		return unknownCleanup(want)
	}
	t.change(want)
	for _, g := range t.groups {
		g.grow(t)
		if len(g.members) > 0 {
			g.position(t, store.Start{})
			g.rebalance()
		}
	}
	s.wake()
	return nil
}

func known(cleanup string) bool {
	return cleanup == "" || cleanup == store.CleanupDelete || cleanup == store.CleanupCompact
}

func unknownCleanup(t store.Topic) error {
	return fmt.Errorf("topic %q with the cleanup %q, which is neither delete nor compact: %w", t.Name, t.Cleanup, errs.InvalidParam)
}

// change applies what is not zero.
func (t *topic) change(want store.Topic) {
	set(&t.Partitions, want.Partitions)
	set(&t.Replicas, want.Replicas)
	set(&t.Retention, want.Retention)
	set(&t.RetentionBytes, want.RetentionBytes)
	set(&t.Cleanup, want.Cleanup)
	t.logs = append(t.logs, make([]partition, int(t.Partitions)-len(t.logs))...)
}

func set[T comparable](field *T, want T) {
	var zero T
	if want != zero {
		*field = want
	}
}

// DeleteTopic removes the topic with all that belongs to it; its feeds end.
func (s *Store) DeleteTopic(ctx context.Context, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.topic(ctx, name); err != nil {
		return err
	}
	delete(s.topics, name)
	s.wake()
	return nil
}

// Groups lists those with a position or a member.
func (s *Store) Groups(ctx context.Context, name string) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.topic(ctx, name)
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(t.groups)), nil
}

// Lag tells how far the group is.
func (s *Store) Lag(ctx context.Context, name, group string) ([]store.PartitionLag, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.topic(ctx, name)
	if err != nil {
		return nil, err
	}
	list := make([]store.PartitionLag, len(t.logs))
	g := t.groups[group]
	for i := range t.logs {
		list[i] = store.PartitionLag{Partition: int32(i), Start: t.logs[i].start, End: t.logs[i].end(), Committed: -1}
		if g != nil && i < len(g.shares) && g.shares[i].position != nil {
			list[i].Committed, list[i].Beyond = g.shares[i].position.Next, g.shares[i].position.Beyond
		}
	}
	return list, nil
}

// Seek sets positions, all or none.
func (s *Store) Seek(ctx context.Context, name, group string, to ...store.Position) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.topic(ctx, name)
	if err != nil {
		return err
	}
	for _, p := range to {
		if _, err := t.partition(p.Partition); err != nil {
			return err
		}
		if len(p.Beyond) > store.MaxBeyond {
			return fmt.Errorf("%d bytes beside the position, the limit is %d: %w", len(p.Beyond), store.MaxBeyond, errs.TooLarge)
		}
	}
	if g := t.groups[group]; g != nil && len(g.members) > 0 {
		return fmt.Errorf("group %q has %d members: %w", group, len(g.members), errs.Conflict)
	}
	for _, p := range to {
		t.group(group).shares[p.Partition].position = &p
	}
	return nil
}

// ForgetGroup removes the group.
func (s *Store) ForgetGroup(ctx context.Context, name, group string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.topic(ctx, name)
	if err != nil {
		return err
	}
	g := t.groups[group]
	switch {
	case g == nil:
		return fmt.Errorf("group %q has no position on topic %q: %w", group, name, errs.NotFound)
	case len(g.members) > 0:
		return fmt.Errorf("group %q has %d members: %w", group, len(g.members), errs.Conflict)
	}
	delete(t.groups, group)
	return nil
}

// Resolve tells where start is.
func (s *Store) Resolve(ctx context.Context, name string, start store.Start) ([]store.Position, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.topic(ctx, name)
	if err != nil {
		return nil, err
	}
	return t.resolve(start), nil
}

func (t *topic) resolve(start store.Start) []store.Position {
	list := make([]store.Position, len(t.logs))
	for i := range t.logs {
		l := &t.logs[i]
		list[i] = store.Position{Partition: int32(i), Next: l.start}
		switch {
		case start.Newest:
			list[i].Next = l.end()
		case !start.Since.IsZero():
			for list[i].Next < l.end() && l.messages[list[i].Next-l.start].Time.Before(start.Since) {
				list[i].Next++
			}
		}
	}
	return list
}

// Browse yields copies.
func (s *Store) Browse(ctx context.Context, name string, p int32, offset int64) iter.Seq2[*store.Message, error] {
	return func(yield func(*store.Message, error) bool) {
		list, err := s.slice(ctx, name, p, offset)
		if err != nil {
			yield(nil, err)
			return
		}
		for _, m := range list {
			if err := ctx.Err(); err != nil {
				yield(nil, err)
				return
			}
			if !yield(m.Clone(), nil) {
				return
			}
		}
	}
}

func (s *Store) slice(ctx context.Context, name string, p int32, offset int64) ([]*store.Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.topic(ctx, name)
	if err != nil {
		return nil, err
	}
	l, err := t.partition(p)
	if err != nil {
		return nil, err
	}
	return l.from(offset, len(l.messages)), nil
}
