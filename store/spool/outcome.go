package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// outcome is what came of a PublishOnce, as far as is known.
type outcome struct {
	seq    uint64 // its place in the order
	time   int64  // ms
	ends   uint64 // number of the topic's ends before it
	digest [32]byte
	each   []one
}

// one is the outcome of a message.
type one struct {
	state     state
	partition int32
	offset    int64
	time      int64 // ms
	code      string
	text      string
}

type state byte

// States of a message. Their numbers are on disk.
const (
	unknown state = iota
	placed
	spooled
	failed
)

func oneOf(m *store.Message, err error) one {
	switch {
	case err == nil && m.Offset == store.Spooled:
		return one{state: spooled, time: m.Time.UnixMilli()}
	case err == nil:
		return one{state: placed, partition: m.Partition, offset: m.Offset, time: m.Time.UnixMilli()}
	case inDoubt(err):
		return one{}
	}
	return one{state: failed, code: errs.Of(err).Code(), text: err.Error()}
}

func (o *outcome) clone() *outcome {
	c := *o
	c.each = slices.Clone(o.each)
	return &c
}

// open is true while the outcome of a message is not known.
func (o *outcome) open() bool {
	for _, e := range o.each {
		if e.state == unknown {
			return true
		}
	}
	return false
}

// nothing is true where it is certain that nothing was stored.
func (o *outcome) nothing() bool {
	for _, e := range o.each {
		if e.state != failed {
			return false
		}
	}
	return true
}

// into puts the outcomes that are known into the messages and the list of errors.
func (o *outcome) into(failures []error, msgs []*store.Message) {
	for i, e := range o.each {
		m := msgs[i]
		switch e.state {
		case placed:
			m.Partition, m.Offset, m.Time = e.partition, e.offset, time.UnixMilli(e.time)
		case spooled:
			m.Partition, m.Offset, m.Time = store.AnyPartition, store.Spooled, time.UnixMilli(e.time)
		case failed:
			if failures[i] == nil {
				failures[i] = &storedFailure{e}
			}
		}
	}
}

// replay gives the outcome to a later call.
func (o *outcome) replay(once store.Once, msgs []*store.Message) error {
	if o.digest != once.Digest || len(o.each) != len(msgs) {
		return mismatch(once.Key)
	}
	list := make([]error, len(msgs))
	o.into(list, msgs)
	return join(list)
}

// storedFailure is an error that was read from disk.
type storedFailure struct{ one }

func (f *storedFailure) Error() string { return f.text }

func (f *storedFailure) Unwrap() error {
	kind, _ := errs.ByCode(f.code)
	return kind
}

// An outcome is stored as
//
//	version 1 byte | sequence | time | ends | digest 32 | number of messages | each: state, then what belongs to it
func (o *outcome) encode() []byte {
	b := binary.AppendUvarint([]byte{1}, o.seq)
	b = binary.AppendVarint(b, o.time)
	b = binary.AppendUvarint(b, o.ends)
	b = append(b, o.digest[:]...)
	b = binary.AppendUvarint(b, uint64(len(o.each)))
	for _, e := range o.each {
		b = append(b, byte(e.state))
		switch e.state {
		case placed:
			b = binary.AppendUvarint(b, uint64(e.partition))
			b = binary.AppendUvarint(b, uint64(e.offset))
			b = binary.AppendVarint(b, e.time)
		case spooled:
			b = binary.AppendVarint(b, e.time)
		case failed:
			b = appendBytes(appendBytes(b, []byte(e.code)), []byte(e.text))
		}
	}
	return b
}

func decodeOutcome(b []byte) (*outcome, error) {
	r := reader{b: b}
	if r.byte() != 1 {
		return nil, errDamaged
	}
	o := &outcome{seq: r.uvarint(), time: r.varint(), ends: r.uvarint()}
	if len(r.b) < len(o.digest) {
		return nil, errDamaged
	}
	r.b = r.b[copy(o.digest[:], r.b):]
	o.each = make([]one, r.count())
	for i := range o.each {
		e := &o.each[i]
		switch e.state = state(r.byte()); e.state {
		case placed:
			e.partition, e.offset, e.time = int32(r.uvarint()), int64(r.uvarint()), r.varint()
		case spooled:
			e.time = r.varint()
		case failed:
			e.code, e.text = string(r.bytes()), string(r.bytes())
		}
	}
	return o, r.err
}

// recall reads what is remembered of the key, nil where that is nothing or too old.
func (s *Spool) recall(f *onceCall) (*outcome, error) {
	if err := s.fault.Err(); err != nil { // what is read may not be on the disk
		return nil, fmt.Errorf("%w: %w", errs.Unavailable, err)
	}
	s.mu.RLock()
	t := s.topics[f.key.topic]
	s.mu.RUnlock()
	if t == nil {
		return nil, nil
	}
	f.topic = t.id
	o, err := s.readOutcome(onceKey(t.id, f.key.key))
	if err != nil || o == nil || s.expired(o) {
		return nil, err
	}
	return o, nil
}

func (s *Spool) readOutcome(key []byte) (*outcome, error) {
	v, closer, err := s.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read an idempotency record: %w: %w", errs.Unavailable, err)
	}
	o, err := decodeOutcome(v)
	return o, errors.Join(err, closer.Close())
}

func (s *Spool) expired(o *outcome) bool {
	return s.cfg.Now().Sub(time.UnixMilli(o.time)) > s.cfg.OnceWindow
}
