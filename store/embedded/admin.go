package embedded

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

const (
	maxPartitions = 4096
	maxTopicName  = 255
	browseBatch   = 256
	firstBrowse   = 32 << 10 // bytes that a Browse reads first, and twice as many each time after: who wants one message has one read
)

// Topics is store.Admin's, as are the methods below.
func (s *Store) Topics(ctx context.Context) ([]store.Topic, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return nil, store.ErrClosed
	}
	var list []store.Topic
	for _, t := range s.topics {
		list = append(list, t.describe())
	}
	slices.SortFunc(list, func(a, b store.Topic) int { return cmp.Compare(a.Name, b.Name) })
	return list, ctx.Err()
}

// CreateTopic makes a topic with at most 4,096 partitions.
func (s *Store) CreateTopic(ctx context.Context, want store.Topic) error {
	orDefault(&want.Partitions, s.cfg.Partitions)
	orDefault(&want.Retention, s.cfg.Retention)
	orDefault(&want.RetentionBytes, s.cfg.RetentionBytes)
	switch {
	case want.Name == "" || len(want.Name) > maxTopicName:
		return fmt.Errorf("topic name of %d bytes, 1 to %d are allowed: %w", len(want.Name), maxTopicName, errs.InvalidName)
	case want.Partitions < 1 || want.Partitions > maxPartitions || want.Replicas < 0:
		return fmt.Errorf("topic %q with %d partitions (1 to %d) and %d replicas: %w", want.Name, want.Partitions, maxPartitions, want.Replicas, errs.InvalidParam)
	}
	if err := checkCleanup(want); err != nil {
		return err
	}
	s.admin.Lock()
	defer s.admin.Unlock()
	if _, err := s.topic(ctx, want.Name); err == nil {
		return fmt.Errorf("topic %q: %w", want.Name, store.ErrExists)
	} else if !errors.Is(err, errs.UnknownTopic) {
		return err
	}
	id := s.nextID
	s.nextID++
	l := limits{want.Retention, want.RetentionBytes}
	err := s.write(ctx, newWrite(func(b *pebble.Batch) error {
		next := binary.BigEndian.AppendUint64(nil, id+1)
		return errors.Join(b.Set([]byte{tagNextTopic}, next, nil), b.Set(topicKey(want.Name), encodeTopic(id, want.Partitions, l), nil))
	}))
	if err != nil {
		return err
	}
	t := newTopic(id, want.Name, l)
	t.grow(want.Partitions)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.topics[want.Name] = t
	return nil
}

// checkCleanup refuses what this store can't do.
func checkCleanup(t store.Topic) error {
	switch t.Cleanup {
	case "", store.CleanupDelete:
		return nil
	case store.CleanupCompact:
		return fmt.Errorf("topic %q: the embedded store can't compact, it keeps messages until a limit of retention is reached: use cleanup delete, or Kafka: %w", t.Name, errs.InvalidParam)
	}
	return fmt.Errorf("topic %q with the cleanup %q, which is neither delete nor compact: %w", t.Name, t.Cleanup, errs.InvalidParam)
}

// AlterTopic changes what is not zero.
func (s *Store) AlterTopic(ctx context.Context, want store.Topic) error {
	s.admin.Lock()
	defer s.admin.Unlock()
	t, err := s.topic(ctx, want.Name)
	if err != nil {
		return err
	}
	if err := checkCleanup(want); err != nil {
		return err
	}
	is := t.describe()
	orDefault(&want.Partitions, is.Partitions)
	orDefault(&want.Retention, is.Retention)
	orDefault(&want.RetentionBytes, is.RetentionBytes)
	if want.Partitions < is.Partitions || want.Partitions > maxPartitions {
		return fmt.Errorf("topic %q has %d partitions and can have up to %d, not %d: %w", t.name, is.Partitions, maxPartitions, want.Partitions, errs.InvalidParam)
	}
	l := limits{want.Retention, want.RetentionBytes}
	err = s.write(ctx, newWrite(func(b *pebble.Batch) error {
		return b.Set(topicKey(t.name), encodeTopic(t.id, want.Partitions, l), nil)
	}))
	if err != nil {
		return err
	}
	t.limit.Store(&l)
	if want.Partitions > is.Partitions {
		t.grow(want.Partitions)
		s.growGroups(t)
		t.wake()
	}
	return nil
}

// growGroups gives the new partitions of a topic to the groups that have members.
func (s *Store) growGroups(t *topic) {
	t.mu.Lock()
	groups := slices.Collect(maps.Values(t.groups))
	t.mu.Unlock()
	for _, g := range groups {
		g.mu.Lock()
		if len(g.members) > 0 {
			g.grow(true)
			s.noted(g)
			g.rebalance(time.Now())
		}
		g.mu.Unlock()
	}
}

// DeleteTopic removes the topic with all that belongs to it. Its space comes back by and by.
func (s *Store) DeleteTopic(ctx context.Context, name string) error {
	s.admin.Lock()
	defer s.admin.Unlock()
	t, err := s.topic(ctx, name)
	if err != nil {
		return err
	}
	o := newWrite(func(b *pebble.Batch) error {
		t.dropped = true // publishes still queued find no topic
		err := b.Delete(topicKey(name), nil)
		for _, tag := range []byte{tagBlock, tagStart, tagPosition, tagOnce} {
			prefix := topicPrefix(tag, t.id)
			err = errors.Join(err, b.DeleteRange(prefix, after(prefix), nil))
		}
		return err
	})
	o.frees = true
	s.noting.Lock() // positions are in the queue before, or find the topic gone
	t.gone.Store(true)
	err = s.enqueue(o)
	s.noting.Unlock()
	if err != nil {
		return err
	}
	s.mu.Lock()
	delete(s.topics, name)
	s.mu.Unlock()
	s.endGroups(t)
	t.wake()
	_, err = o.Wait(ctx, s.fault)
	for _, p := range *t.parts.Load() {
		start, end := p.bounds()
		s.trash.add(p.prefix, p.prefix, after(p.prefix), end.bytes-start.bytes)
	}
	return err
}

func (s *Store) endGroups(t *topic) {
	t.mu.Lock()
	groups := slices.Collect(maps.Values(t.groups))
	t.mu.Unlock()
	for _, g := range groups {
		g.mu.Lock()
		g.nudge()
		g.mu.Unlock()
	}
}

// Groups lists those with a position or a member.
func (s *Store) Groups(ctx context.Context, topic string) ([]string, error) {
	t, err := s.topic(ctx, topic)
	if err != nil {
		return nil, err
	}
	names := map[string]bool{}
	t.mu.Lock()
	for name, g := range t.groups {
		g.mu.Lock()
		names[name] = len(g.members) > 0 || slices.ContainsFunc(g.shares, func(sh share) bool { return sh.known })
		g.mu.Unlock()
	}
	t.mu.Unlock()
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	err = s.scan(topicPrefix(tagPosition, t.id), func(key, _ []byte) error {
		_, group, _, err := splitPositionKey(key)
		names[group] = true
		return err
	})
	maps.DeleteFunc(names, func(_ string, is bool) bool { return !is })
	return slices.Sorted(maps.Keys(names)), err
}

// Lag tells how far the group is.
func (s *Store) Lag(ctx context.Context, topic, group string) ([]store.PartitionLag, error) {
	t, err := s.topic(ctx, topic)
	if err != nil {
		return nil, err
	}
	g, err := s.use(t, group)
	if err != nil {
		return nil, err
	}
	defer s.unuse(g)
	g.mu.Lock()
	defer g.mu.Unlock()
	parts := *t.parts.Load()
	list := make([]store.PartitionLag, len(parts))
	for i, p := range parts {
		start, end := p.bounds()
		list[i] = store.PartitionLag{Partition: int32(i), Start: start.offset, End: end.offset, Committed: -1}
		if i < len(g.shares) && g.shares[i].known {
			list[i].Committed, list[i].Beyond = g.shares[i].position.Next, g.shares[i].position.Beyond
		}
	}
	return list, nil
}

// Seek sets positions, all or none. They are durable when it returns nil.
func (s *Store) Seek(ctx context.Context, topic, name string, to ...store.Position) error {
	t, err := s.topic(ctx, topic)
	if err != nil {
		return err
	}
	for _, p := range to {
		_, err := t.partition(p.Partition)
		if err := cmp.Or(err, checkPosition(p)); err != nil {
			return err
		}
	}
	g, err := s.use(t, name)
	if err != nil {
		return err
	}
	defer s.unuse(g)
	g.mu.Lock()
	if n := len(g.members); n > 0 {
		g.mu.Unlock()
		return fmt.Errorf("group %q has %d members: %w", name, n, errs.Conflict)
	}
	g.grow(false)
	for _, p := range to {
		sh := &g.shares[p.Partition]
		sh.position, sh.known, sh.dirty = p, true, true
	}
	if len(to) > 0 {
		s.noted(g)
	}
	g.mu.Unlock()
	return s.writePositions(ctx, []*group{g}, true)
}

// Resolve tells where start is.
func (s *Store) Resolve(ctx context.Context, topic string, start store.Start) ([]store.Position, error) {
	t, err := s.topic(ctx, topic)
	if err != nil {
		return nil, err
	}
	return s.resolve(t, start)
}

func (s *Store) resolve(t *topic, start store.Start) ([]store.Position, error) {
	parts := *t.parts.Load()
	list := make([]store.Position, len(parts))
	for i, p := range parts {
		first, end := p.bounds()
		list[i] = store.Position{Partition: int32(i), Next: first.offset}
		switch {
		case start.Newest:
			list[i].Next = end.offset
		case !start.Since.IsZero():
			next, err := s.since(p, start.Since)
			if err != nil {
				return nil, err
			}
			list[i].Next = next
		}
	}
	return list, nil
}

// since finds the first message that is not older than t, or the end.
func (s *Store) since(p *partition, t time.Time) (int64, error) {
	ms := t.UnixMilli()
	if time.UnixMilli(ms).Before(t) {
		ms++ // messages' times are whole milliseconds
	}
	at, err := s.search(p, func(m mark) bool { return m.newest >= ms })
	if err != nil {
		return 0, err
	}
	_, end := p.bounds()
	c := newCursor(p, at.offset)
	for c.next < end.offset {
		list, err := s.browse(context.Background(), c, end.offset, maxReadBytes)
		for _, m := range list {
			if !m.Time.Before(t) {
				return m.Offset, nil
			}
		}
		if err != nil && !errors.Is(err, errDamaged) { // what is damaged is passed over the next time
			return 0, err
		}
	}
	return c.next, nil
}

// Browse yields messages with bytes of their own. It holds nothing open between them but what it has read.
func (s *Store) Browse(ctx context.Context, topic string, partition int32, offset int64) iter.Seq2[*store.Message, error] {
	return func(yield func(*store.Message, error) bool) {
		t, err := s.topic(ctx, topic)
		if err != nil {
			yield(nil, err)
			return
		}
		p, err := t.partition(partition)
		if err != nil {
			yield(nil, err)
			return
		}
		start, end := p.bounds()
		c := newCursor(p, max(offset, start.offset))
		for bytes := firstBrowse; c.next < end.offset; bytes = min(2*bytes, maxReadBytes) {
			list, err := s.browse(ctx, c, end.offset, bytes)
			for _, m := range list {
				if !yield(m, nil) {
					return
				}
			}
			if err != nil {
				yield(nil, err)
				return
			}
		}
	}
}

// browse reads the next messages below end; blocks of the given number of bytes are enough.
func (s *Store) browse(ctx context.Context, c *cursor, end int64, bytes int) (list []*store.Message, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if c.p.topic.gone.Load() {
		return nil, unknown(c.p.topic.name)
	}
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	r := &reading{s: s, max: browseBatch, enough: bytes}
	err = r.read(c, end)
	return r.msgs, errors.Join(err, r.close())
}
