package embedded

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

const maxOnceKey = 128

// onces is what keeps publishes from happening twice: outcomes on disk, and those under way in memory.
type onces struct {
	mu      sync.Mutex
	flights map[flightKey]*flight

	// The sequence numbers of outcomes on disk. The writer's own.
	first, next uint64
}

type flightKey struct {
	topic uint64
	key   string
}

// flight is a PublishOnce under way. What follows done is set before it is closed.
type flight struct {
	key    flightKey
	digest [32]byte
	done   chan struct{}
	known  *outcome // nil = nothing was stored
	err    error    // nobody knows whether something was stored
}

// outcome is what came of a PublishOnce.
type outcome struct {
	seq    uint64 // its place in the order
	time   int64  // ms
	digest [32]byte
	placed []placed
	failed []error // nil = none
}

// PublishOnce is store.OncePublisher's. The outcome is written with the messages, in one batch.
func (s *Store) PublishOnce(ctx context.Context, name string, ack store.Ack, once store.Once, msgs ...*store.Message) error {
	if len(once.Key) == 0 || len(once.Key) > maxOnceKey {
		return fmt.Errorf("idempotency key of %d bytes, 1 to %d are allowed: %w", len(once.Key), maxOnceKey, errs.InvalidParam)
	}
	t, err := s.topic(ctx, name)
	if err != nil {
		return err
	}
	k := flightKey{t.id, once.Key}
	for {
		f, first := s.onces.begin(k, once.Digest)
		if first {
			return s.publishFirst(ctx, f, t, ack, msgs)
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return fmt.Errorf("waiting for the first publish with key %q: %w: %w", once.Key, errs.Uncertain, ctx.Err())
		}
		switch {
		case f.err != nil:
			return f.err
		case f.known != nil:
			return f.known.replay(once, msgs)
		}
	}
}

// publishFirst looks for the outcome on disk, and publishes where there is none.
func (s *Store) publishFirst(ctx context.Context, f *flight, t *topic, ack store.Ack, msgs []*store.Message) error {
	known, err := s.recall(f.key)
	if err != nil || known != nil {
		s.onces.end(f, known, err)
		if err != nil {
			return err
		}
		return known.replay(store.Once{Key: f.key.key, Digest: f.digest}, msgs)
	}
	o := newPublish(ack)
	o.flight, o.forever = f, true
	if err := s.submit(ctx, t.name, o, msgs); err != nil {
		s.onces.end(f, nil, nil)
		return err
	}
	return s.await(ctx, o, msgs)
}

// begin finds the flight with the key, or starts it.
func (c *onces) begin(k flightKey, digest [32]byte) (f *flight, first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f = c.flights[k]; f != nil {
		return f, false
	}
	f = &flight{key: k, digest: digest, done: make(chan struct{})}
	if c.flights == nil {
		c.flights = map[flightKey]*flight{}
	}
	c.flights[k] = f
	return f, true
}

func (c *onces) end(f *flight, known *outcome, err error) {
	c.mu.Lock()
	delete(c.flights, f.key)
	c.mu.Unlock()
	f.known, f.err = known, err
	close(f.done)
}

// land ends the flight of an op that is done, or never will be.
func (c *onces) land(o *op, err error) {
	switch {
	case errs.Of(err) == errs.Uncertain && err != nil:
		c.end(o.flight, nil, err)
	case err != nil || o.stored == 0:
		c.end(o.flight, nil, nil)
	default:
		c.end(o.flight, &outcome{digest: o.flight.digest, placed: o.placed, failed: o.failed}, nil)
	}
}

// replay gives the outcome to a later call.
func (c *outcome) replay(once store.Once, msgs []*store.Message) error {
	if c.digest != once.Digest || len(c.placed) != len(msgs) {
		return fmt.Errorf("key %q was used for another publish: %w", once.Key, errs.IdempotencyMismatch)
	}
	return deliver(c.placed, c.failed, msgs)
}

// remember adds the outcome of o to the batch that stores its messages.
func (s *Store) remember(b *pebble.Batch, o *op, now int64) {
	k := o.flight.key
	c := outcome{seq: s.onces.next, time: now, digest: o.flight.digest, placed: o.placed, failed: o.failed}
	s.onces.next++
	order := append(binary.BigEndian.AppendUint64(nil, k.topic), k.key...)
	_ = b.Set(onceKey(k.topic, k.key), c.encode(), nil) // fails only in a batch that was applied
	_ = b.Set(onceOrderKey(c.seq), order, nil)
}

// recall reads an outcome that is not too old; nil where there is none.
func (s *Store) recall(k flightKey) (*outcome, error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	c, err := s.readOutcome(onceKey(k.topic, k.key))
	if err != nil || c == nil || s.expired(c) {
		return nil, err
	}
	return c, nil
}

func (s *Store) expired(c *outcome) bool {
	return s.cfg.Now().Sub(time.UnixMilli(c.time)) > s.cfg.OnceWindow
}

func (s *Store) readOutcome(key []byte) (*outcome, error) {
	v, closer, err := s.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read an idempotency record: %w", err)
	}
	c, err := decodeOutcome(bytes.Clone(v))
	return c, errors.Join(err, closer.Close())
}

// An outcome is stored as
//
//	version 1 byte | sequence | time | digest 32 | number of messages | each: kind 0, partition, offset, time or kind, text
func (c *outcome) encode() []byte {
	b := []byte{1}
	b = binary.AppendUvarint(b, c.seq)
	b = binary.AppendVarint(b, c.time)
	b = append(b, c.digest[:]...)
	b = binary.AppendUvarint(b, uint64(len(c.placed)))
	for i, p := range c.placed {
		if c.failed != nil && c.failed[i] != nil {
			b = append(b, failureNumber(c.failed[i]))
			b = appendNullable(b, []byte(c.failed[i].Error()))
			continue
		}
		b = append(b, 0)
		b = binary.AppendUvarint(b, uint64(p.partition))
		b = binary.AppendUvarint(b, uint64(p.offset))
		b = binary.AppendVarint(b, p.time)
	}
	return b
}

func decodeOutcome(b []byte) (*outcome, error) {
	damaged := func(err error) (*outcome, error) {
		return nil, fmt.Errorf("an idempotency record is damaged: %w", errors.Join(err, errs.Internal))
	}
	if len(b) == 0 || b[0] != 1 {
		return damaged(errors.New("unknown version"))
	}
	c := &outcome{}
	var err error
	c.seq, b, err = uvarint(b[1:], err)
	c.time, b, err = varint(b, err)
	if err != nil || len(b) < len(c.digest) {
		return damaged(err)
	}
	b = b[copy(c.digest[:], b):]
	n, b, err := uvarint(b, err)
	if err != nil || n > uint64(len(b)) {
		return damaged(err)
	}
	c.placed = make([]placed, n)
	for i := range c.placed {
		if b, err = c.decodeOne(i, b); err != nil {
			return damaged(err)
		}
	}
	return c, nil
}

// decodeOne decodes the outcome of message i.
func (c *outcome) decodeOne(i int, b []byte) ([]byte, error) {
	if len(b) == 0 {
		return nil, errShort
	}
	number := b[0]
	b = b[1:]
	if number != 0 {
		text, rest, ok := cutNullable(b)
		if !ok {
			return nil, errShort
		}
		if c.failed == nil {
			c.failed = make([]error, len(c.placed))
		}
		c.failed[i] = &storedFailure{failureKind(number), string(text)}
		return rest, nil
	}
	var err error
	partition, b, err := uvarint(b, err)
	offset, b, err := uvarint(b, err)
	at, b, err := varint(b, err)
	c.placed[i] = placed{int32(partition), int64(offset), at}
	return b, err
}

// storedFailure is an error that was read from disk.
type storedFailure struct {
	kind errs.Kind
	text string
}

func (f *storedFailure) Error() string { return f.text }
func (f *storedFailure) Unwrap() error { return f.kind }

// failures are the kinds that a message can fail with beside others that are stored. Their numbers, from 1, are on disk.
var failures = [...]errs.Kind{errs.Internal, errs.InvalidParam, errs.TooLarge, errs.Unavailable} // read only

func failureNumber(err error) byte {
	for i, k := range failures {
		if errs.Of(err) == k {
			return byte(i + 1)
		}
	}
	return 1
}

func failureKind(number byte) errs.Kind {
	if int(number) > len(failures) {
		return errs.Internal
	}
	return failures[number-1]
}

// loadOnces finds both ends of the order.
func (s *Store) loadOnces() (err error) {
	prefix := []byte{tagOnceOrder}
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	if it.First() {
		s.onces.first = binary.BigEndian.Uint64(it.Key()[1:])
	}
	if it.Last() {
		s.onces.next = binary.BigEndian.Uint64(it.Key()[1:]) + 1
	}
	s.onces.first = min(s.onces.first, s.onces.next)
	return it.Error()
}
