package embedded

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/kateway/kateway/internal/disk"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

const (
	roomForOps = 64 << 20                   // bytes of messages on their way, those that nobody waits for any more included
	opWeight   = 4 << 10                    // what a publish weighs besides
	maxOps     = roomForOps / opWeight      // so many publishes fit
	spareOps   = 1024                       // room in the queue for what is no publish
	maxPublish = roomForOps - 1024*opWeight // bytes of one Publish

	messageWeight = 64 // what a message takes besides its bytes, roughly
)

// op is one thing that the writer is to do: a publish, or whatever fill puts into the batch.
type op struct {
	disk.Op
	topic   *topic
	ack     store.Ack
	msgs    []*store.Message
	bytes   int64   // what msgs add to the log, roughly
	flight  *flight // of a PublishOnce
	fill    func(*pebble.Batch) error
	lazy    bool // fill: need not be synced
	frees   bool // fill: makes room, and so is done even when there is none
	forever bool // the caller may be gone, so that the op must not be used again

	// What the writer found out. The caller reads it after the answer.
	placed []placed
	failed []error // nil = none
	stored int
}

// placed is where a message is stored.
type placed struct {
	partition int32
	offset    int64
	time      int64 // ms
}

var opPool = sync.Pool{New: func() any { return &op{Op: disk.NewOp()} }} //nolint:gochecknoglobals // spare memory, no state

func newWrite(fill func(*pebble.Batch) error) *op {
	return &op{Op: disk.NewOp(), fill: fill, forever: true}
}

// release gives the op back after its answer.
func (o *op) release() {
	if o.forever {
		return
	}
	clear(o.failed)
	*o = op{Op: o.Renew(), placed: o.placed[:0]}
	opPool.Put(o)
}

// newPublish is an op for a publish.
func newPublish(ack store.Ack) *op {
	o := opPool.Get().(*op) //nolint:errcheck // nothing else is in it
	o.ack = ack
	return o
}

// Publish is store.Publisher's. AckLocal returns when pebble has the messages, which is after the syncs that were under
// way; readers see them when they are synced too.
func (s *Store) Publish(ctx context.Context, name string, ack store.Ack, msgs ...*store.Message) error {
	o := newPublish(ack)
	if err := s.submit(ctx, name, o, msgs); err != nil {
		o.release()
		return err
	}
	return s.await(ctx, o, msgs)
}

// await takes over what came of a publish.
func (s *Store) await(ctx context.Context, o *op, msgs []*store.Message) error {
	answered, err := o.Wait(ctx, s.fault)
	if err == nil {
		err = deliver(o.placed, o.failed, msgs)
	}
	if answered {
		o.release()
	}
	return err
}

// deliver puts an outcome into the messages, and is the error for it.
func deliver(at []placed, failed []error, msgs []*store.Message) error {
	for i, p := range at {
		if failed == nil || failed[i] == nil {
			m := msgs[i]
			m.Partition, m.Offset, m.Time = p.partition, p.offset, time.UnixMilli(p.time)
		}
	}
	switch {
	case failed == nil:
		return nil
	case len(failed) == 1:
		return failed[0]
	}
	return &store.BatchError{Errs: append([]error{}, failed...)}
}

// submit waits for room and queues the op. After an error it is certain that the writer never has it.
func (s *Store) submit(ctx context.Context, name string, o *op, msgs []*store.Message) error {
	o.msgs, o.bytes = msgs, 0
	for _, m := range msgs {
		o.bytes += int64(m.Size()) + messageWeight
	}
	if o.bytes > maxPublish {
		return fmt.Errorf("%d messages with %d bytes in one publish, the limit is %d: %w", len(msgs), o.bytes, maxPublish, errs.TooLarge)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("nothing was stored: %w: %w", errs.Unavailable, err)
	}
	if !s.room.TryAcquire(o.weight()) {
		if err := s.room.Acquire(ctx, o.weight()); err != nil {
			return fmt.Errorf("the disk is behind by %d MB of messages: %w: %w", roomForOps>>20, errs.Unavailable, err)
		}
	}
	err := s.queueFor(name, o)
	if err != nil {
		s.room.Release(o.weight())
	}
	return err
}

func (o *op) weight() int64 { return o.bytes + opWeight }

// queueFor queues a publish for a topic.
func (s *Store) queueFor(name string, o *op) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return store.ErrClosed
	}
	if o.topic = s.topics[name]; o.topic == nil {
		return unknown(name)
	}
	s.queue <- o
	return nil
}

// write has something else than messages written, and waits for it.
func (s *Store) write(ctx context.Context, o *op) error {
	if err := s.enqueue(o); err != nil {
		return err
	}
	_, err := o.Wait(ctx, s.fault)
	return err
}

// check says what is wrong with one message for a partition. bad holds the partitions in which one failed before.
func (s *Store) check(t *topic, p int32, m *store.Message, bad map[int32]bool) error {
	if len(bad) > 0 && bad[p] {
		return fmt.Errorf("an earlier message of partition %d failed: %w", p, errs.Unavailable)
	}
	if size := m.Size(); size > s.cfg.MaxMessage {
		return fmt.Errorf("message of %d bytes, the limit is %d: %w", size, s.cfg.MaxMessage, errs.TooLarge)
	}
	_, err := t.partition(p)
	return err
}
