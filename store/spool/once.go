package spool

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/kateway/kateway/internal/disk"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

const maxOnceKey = 128

// Record headers of messages that were published once: the key, and which message of the batch it is.
const (
	headerOnce = "idempotency-key"
	headerPart = "idempotency-part"
)

// window is what keeps publishes from happening twice: outcomes on disk, and those under way in memory.
type window struct {
	mu      sync.Mutex
	flights map[flightKey]*onceCall

	first, next uint64 // sequence numbers of outcomes on disk; guarded by mu
}

type flightKey struct{ topic, key string }

// onceCall is a PublishOnce under way.
type onceCall struct {
	key    flightKey
	digest [32]byte
	msgs   []*store.Message // the caller's

	// Set once something is noted on disk.
	topic uint32
	note  *outcome         // what is known without what is sent now; its seq is 0 before
	sent  []*store.Message // copies of those messages that have no outcome yet, with the headers that tell them
	at    []int            // which of msgs they are
	stuck bool             // the spool's disk did not answer: what it may write is newer than what we know

	// Set before done is closed.
	done   chan struct{}
	answer error    // to who began it
	known  *outcome // nil = nothing was stored
	err    error    // nobody knows whether something was stored
}

// PublishOnce is store.OncePublisher's. Before anything is sent, it is noted on disk with where the topic ended: whoever comes
// after a crash, or after an answer that never came, finds by that what the store has. It goes on without its caller, so that
// the next one with the key need not guess.
func (s *Spool) PublishOnce(ctx context.Context, name string, ack store.Ack, once store.Once, msgs ...*store.Message) error {
	if len(once.Key) == 0 || len(once.Key) > maxOnceKey {
		return fmt.Errorf("idempotency key of %d bytes, 1 to %d are allowed: %w", len(once.Key), maxOnceKey, errs.InvalidParam)
	}
	for {
		f, first := s.once.begin(flightKey{name, once.Key}, once.Digest)
		if first {
			if err := s.enter(); err != nil {
				s.once.land(f)
				return err
			}
			f.msgs = msgs
			go func() {
				defer s.leave()
				s.fly(ctx, f, ack)
			}()
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return fmt.Errorf("waiting for the publish with key %q: %w: %w", once.Key, errs.Uncertain, ctx.Err())
		}
		switch {
		case first:
			return f.answer
		case f.digest != once.Digest:
			return mismatch(once.Key)
		case f.err != nil:
			return f.err
		case f.known != nil:
			return f.known.replay(once, msgs)
		}
	}
}

func mismatch(key string) error {
	return fmt.Errorf("key %q was used for another publish: %w", key, errs.IdempotencyMismatch)
}

// begin finds the flight with the key, or starts it.
func (w *window) begin(k flightKey, digest [32]byte) (f *onceCall, first bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if f = w.flights[k]; f != nil {
		return f, false
	}
	f = &onceCall{key: k, digest: digest, done: make(chan struct{})}
	if w.flights == nil {
		w.flights = map[flightKey]*onceCall{}
	}
	w.flights[k] = f
	return f, true
}

func (w *window) land(f *onceCall) {
	w.mu.Lock()
	delete(w.flights, f.key)
	w.mu.Unlock()
	close(f.done)
}

// number is the sequence number of a new record.
func (w *window) number() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.next++
	return w.next - 1
}

// fly is a PublishOnce from its beginning to an outcome.
func (s *Spool) fly(caller context.Context, f *onceCall, ack store.Ack) {
	defer s.once.land(f)
	ctx, cancel := context.WithCancel(context.WithoutCancel(caller))
	defer cancel()
	unhook := context.AfterFunc(s.ctx, cancel)
	defer unhook()
	before, err := s.recall(f)
	switch {
	case err != nil:
		f.answer, f.err = err, err
	case before != nil && before.digest != f.digest || before != nil && len(before.each) != len(f.msgs):
		f.answer, f.known = mismatch(f.key.key), before
	case before != nil && !before.open():
		f.known = before
		f.answer = before.replay(store.Once{Key: f.key.key, Digest: f.digest}, f.msgs)
	default:
		s.publishOnce(ctx, caller, f, ack, before)
	}
}

// publishOnce publishes those messages that have no outcome yet. before is what is known of them, nil for a first publish.
func (s *Spool) publishOnce(ctx, caller context.Context, f *onceCall, ack store.Ack, before *outcome) {
	f.copy()
	if before != nil {
		if err := s.clear(ctx, f, before); err != nil { // nothing is sent while it is not known what was
			f.answer, f.err = err, err
			return
		}
	}
	f.ask()
	var err error
	if len(f.sent) > 0 {
		if err = s.begin(caller, f); err == nil {
			err = s.send(ctx, caller, f, ack)
		} else if f.note.seq != 0 { // the store can't be asked where it ends
			err = s.rescue(caller, f.key.topic, f, f.sent, err)
		}
	}
	s.ended(f, err)
}

// copy makes the messages that are sent. Those of the caller stay as they are: they may be published again, or be gone.
func (f *onceCall) copy() {
	f.note = &outcome{digest: f.digest, each: make([]one, len(f.msgs))}
	for i, m := range f.msgs {
		c := *m
		c.Headers = append(c.Headers[:len(c.Headers):len(c.Headers)], store.Header{Key: headerOnce, Value: []byte(f.key.key)})
		if len(f.msgs) > 1 {
			c.Headers = append(c.Headers, store.Header{Key: headerPart, Value: strconv.AppendInt(nil, int64(i), 10)})
		}
		f.sent, f.at = append(f.sent, &c), append(f.at, i)
	}
}

// ask leaves in sent what has no outcome yet.
func (f *onceCall) ask() {
	sent, at := f.sent[:0:0], f.at[:0:0]
	for i, e := range f.note.each {
		if e.state == unknown {
			sent, at = append(sent, f.sent[i]), append(at, i)
		}
	}
	f.sent, f.at = sent, at
}

// send publishes like Publish. The caller's time is what it may wait in a queue; what was sent is waited for as long as it takes.
func (s *Spool) send(ctx, caller context.Context, f *onceCall, ack store.Ack) error {
	patient := store.WithPatience(ctx, store.PatientAnswer)
	if s.busy.Load() != 0 {
		return s.behind(patient, caller, f.key.topic, ack, f, f.sent)
	}
	err := s.cfg.Next.Publish(patient, f.key.topic, ack, f.sent...)
	return s.rescue(caller, f.key.topic, f, f.sent, err)
}

// ended tells what became of it, and remembers it as far as there is something to remember. err is the outcome of what was sent.
func (s *Spool) ended(f *onceCall, err error) {
	out := f.note.clone()
	list := make([]error, len(f.msgs))
	for i, n := range f.at {
		e := store.Each(err, i)
		out.each[n], list[n] = oneOf(f.sent[i], e), e
	}
	out.into(list, f.msgs)
	f.answer = join(list)
	if errs.Of(err) == errs.UnknownTopic && err != nil {
		s.forgetEnds(f.key.topic)
	}
	switch {
	case out.open():
		f.err = f.answer
	case !out.nothing():
		f.known = out
	}
	if out.seq == 0 || f.stuck {
		return
	}
	s.lazily(func(b *pebble.Batch) {
		if out.nothing() {
			_ = b.Delete(onceKey(f.topic, f.key.key), nil) // fails only in a batch that was applied
		} else {
			_ = b.Set(onceKey(f.topic, f.key.key), out.encode(), nil)
		}
	})
}

func (s *Spool) forgetEnds(name string) {
	s.mu.RLock()
	t := s.topics[name]
	s.mu.RUnlock()
	if t != nil {
		t.ends.forget()
	}
}

// lazily writes what need not be synced: after a power loss the note of the beginning is there, and the store is asked.
func (s *Spool) lazily(fill func(*pebble.Batch)) {
	if s.fault.Err() != nil {
		return
	}
	b := s.db.NewBatch()
	fill(b)
	if err := s.db.Apply(b, pebble.NoSync); err != nil {
		s.fault.Fail(err)
		return
	}
	_ = b.Close() // only gives memory back
}

// clear finds out what of an earlier publish, whose outcome nobody knows, the store has.
func (s *Spool) clear(ctx context.Context, f *onceCall, before *outcome) error {
	copy(f.note.each, before.each)
	from, err := s.savedEnds(f.topic, before.ends)
	if err != nil {
		return err
	}
	there, err := s.find(ctx, f.key.topic, from, f.sent, samePart)
	if err != nil {
		return fmt.Errorf("whether an earlier publish with this key was stored can't be found out now: %w: %w", errs.Uncertain, err)
	}
	for i, m := range there {
		if m != nil && f.note.each[i].state == unknown {
			f.note.each[i] = one{state: placed, partition: m.Partition, offset: m.Offset, time: m.Time.UnixMilli()}
		}
	}
	return nil
}

// samePart is what makes two messages of one publish the same. Trace headers may differ from one try to the next.
func samePart(m *store.Message) [32]byte {
	b := appendBytes(nil, m.Value)
	if len(m.Key) > 0 {
		b = appendBytes(b, m.Key)
	} else {
		b = append(b, 0)
	}
	for _, h := range m.Headers {
		if h.Key == headerOnce || h.Key == headerPart {
			b = appendBytes(appendBytes(b, []byte(h.Key)), h.Value)
		}
	}
	return sha256.Sum256(b)
}

// begin notes on disk that the publish begins, and where the topic ended before. When only that is not known, the place of the note
// is still taken.
func (s *Spool) begin(caller context.Context, f *onceCall) error {
	t, err := s.named(caller, f.key.topic)
	if err != nil {
		return err
	}
	f.topic = t.id
	n := f.note
	n.seq, n.time = s.once.number(), s.cfg.Now().UnixMilli()
	list, err := s.endsOf(caller, t)
	if err != nil {
		return err
	}
	e := &t.ends
	e.mu.Lock()
	fresh := e.number == 0 || time.Since(e.saved) >= endsAge
	if fresh {
		e.number, e.saved = max(e.number+1, uint64(n.time)), time.Now()
	}
	n.ends = e.number
	e.mu.Unlock()
	err = s.put(caller, &op{Op: disk.NewOp(), fill: func(b *pebble.Batch) {
		if fresh {
			_ = b.Set(endsKey(t.id, n.ends), appendPositions(nil, list), nil) // fails only in a batch that was applied
		}
		f.record(b, n)
	}})
	if err != nil {
		n.seq = 0
		if fresh {
			e.forget()
		}
		if errs.Of(err) == errs.Uncertain { // nothing was sent
			err = fmt.Errorf("the note before a publish could not be written: %v: %w", err, errs.Unavailable) //nolint:errorlint // the kind is another one now
		}
	}
	return err
}

// record puts an outcome, and its place in the order, into a batch.
func (f *onceCall) record(b *pebble.Batch, o *outcome) {
	_ = b.Set(onceKey(f.topic, f.key.key), o.encode(), nil) // fails only in a batch that was applied
	_ = b.Set(numberKey(tagOnceOrder, o.seq), append(binary.BigEndian.AppendUint32(nil, f.topic), f.key.key...), nil)
}

// spooled adds the outcome to the batch that spools messages of it.
func (f *onceCall) spooled(b *pebble.Batch, o *op) {
	if f.note.seq == 0 {
		return
	}
	out := f.note.clone()
	next := 0
	for i, n := range f.at {
		out.each[n] = oneOf(o.msgs[i], o.outcome[i])
		if next < len(o.items) && o.items[next].index == i {
			if o.items[next].kept {
				out.each[n] = one{state: spooled, time: o.at}
			}
			next++
		}
	}
	f.record(b, out)
}

// named finds a topic's row, or makes it.
func (s *Spool) named(ctx context.Context, name string) (*topic, error) {
	for {
		s.mu.RLock()
		t := s.topics[name]
		s.mu.RUnlock()
		if t != nil {
			return t, nil
		}
		if err := s.put(ctx, &op{name: name, Op: disk.NewOp()}); err != nil {
			return nil, err
		}
	}
}

// savedEnds are the ends that were noted under a number.
func (s *Spool) savedEnds(topic uint32, number uint64) ([]store.Position, error) {
	v, closer, err := s.db.Get(endsKey(topic, number))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil // from the beginning
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errs.Unavailable, err)
	}
	r := reader{b: v}
	list := r.positions()
	return list, errors.Join(r.err, closer.Close())
}
