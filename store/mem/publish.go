package mem

import (
	"context"
	"fmt"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// outcome is what a PublishOnce came to.
type outcome struct {
	digest [32]byte
	stored []store.Message // Partition, Offset and Time alone
	err    error
}

// Publish is store.Publisher's. It waits only for Hold and Cut.
func (s *Store) Publish(ctx context.Context, name string, _ store.Ack, msgs ...*store.Message) error {
	return s.publish(ctx, name, func(t *topic) error { return t.append(msgs) })
}

// PublishOnce is store.OncePublisher's. Outcomes are remembered for as long as the topic exists.
func (s *Store) PublishOnce(ctx context.Context, name string, _ store.Ack, once store.Once, msgs ...*store.Message) error {
	return s.publish(ctx, name, func(t *topic) error {
		if o, known := t.once[once.Key]; known {
			return o.replay(once, msgs)
		}
		err := t.append(msgs)
		o := outcome{digest: once.Digest, err: err}
		stored := false
		for i, m := range msgs {
			o.stored = append(o.stored, store.Message{Partition: m.Partition, Offset: m.Offset, Time: m.Time})
			stored = stored || store.Each(err, i) == nil
		}
		if stored {
			t.once[once.Key] = o
		}
		return err
	})
}

// publish runs do on the topic under the lock, between the waits that tests asked for. What do stores becomes visible
// and, in PublishOnce, known in one step; so a second call needs no other wait for the first than the lock.
func (s *Store) publish(ctx context.Context, name string, do func(*topic) error) error {
	s.mu.Lock()
	hold := s.faults.hold
	s.mu.Unlock()
	if !s.wait(ctx, hold) {
		if s.isClosed() {
			return store.ErrClosed
		}
		return fmt.Errorf("stopped waiting: %w: %w", errs.Uncertain, ctx.Err())
	}
	cut, err := s.locked(name, do)
	if !s.wait(ctx, cut) {
		return fmt.Errorf("no answer came: %w", errs.Uncertain)
	}
	return err
}

func (s *Store) locked(name string, do func(*topic) error) (cut chan struct{}, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.topic(context.Background(), name)
	if err == nil && s.faults.publish != nil {
		err = s.faults.publish(name)
	}
	if err != nil {
		return nil, err
	}
	defer s.wake()
	return s.faults.cut, do(t)
}

// wait answers whether the barrier was lifted before ctx or the store ended. A nil barrier is none.
func (s *Store) wait(ctx context.Context, barrier chan struct{}) bool {
	if barrier == nil {
		return true
	}
	select {
	case <-barrier:
		return true
	case <-ctx.Done():
	case <-s.closed:
	}
	return false
}

// append stores what can be stored. A message that fails takes those behind it in its partition with it.
func (t *topic) append(msgs []*store.Message) error {
	failed := make([]error, len(msgs))
	stuck := map[int32]error{}
	n := 0
	for i, m := range msgs {
		p := t.choose(m)
		switch err := stuck[p]; {
		case err != nil:
			failed[i] = fmt.Errorf("an earlier message of partition %d failed: %w", p, errs.Unavailable)
		default:
			failed[i] = t.put(p, m)
		}
		if failed[i] != nil {
			stuck[p] = failed[i]
			n++
		}
	}
	t.turn++
	switch {
	case n == 0:
		return nil
	case len(msgs) == 1:
		return failed[0]
	}
	return &store.BatchError{Errs: failed}
}

func (t *topic) choose(m *store.Message) int32 {
	n := int32(len(t.logs))
	switch {
	case m.Partition != store.AnyPartition:
		return m.Partition
	case len(m.Key) > 0:
		return store.PartitionOf(m.Key, n)
	}
	return t.turn % n
}

func (t *topic) put(p int32, m *store.Message) error {
	l, err := t.partition(p)
	if err != nil {
		return err
	}
	if m.Size() > MaxMessage {
		return fmt.Errorf("message of %d bytes, the limit is %d: %w", m.Size(), MaxMessage, errs.TooLarge)
	}
	if m.Time.IsZero() {
		m.Time = time.Now()
	}
	m.Partition, m.Offset, m.Time = p, l.end(), time.UnixMilli(m.Time.UnixMilli())
	l.messages = append(l.messages, m.Clone())
	return nil
}

// replay gives the outcome to a later call.
func (o outcome) replay(once store.Once, msgs []*store.Message) error {
	if o.digest != once.Digest || len(o.stored) != len(msgs) {
		return fmt.Errorf("key %q was used for something else: %w", once.Key, errs.IdempotencyMismatch)
	}
	for i, m := range msgs {
		m.Partition, m.Offset, m.Time = o.stored[i].Partition, o.stored[i].Offset, o.stored[i].Time
	}
	return o.err
}
