package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// The first byte of a key says what is behind it. Numbers are big endian, so that keys sort by them.
const (
	tagTopic     = 't' // topic -> slots, name
	tagMessage   = 'm' // topic, lane, sequence -> message
	tagDrain     = 'd' // topic, lane -> drain
	tagAside     = 'a' // id -> aside
	tagOnce      = 'o' // topic, key -> outcome
	tagOnceOrder = 'q' // sequence -> topic, key
	tagEnds      = 'e' // topic, number -> positions
)

func topicKey(topic uint32) []byte { return binary.BigEndian.AppendUint32([]byte{tagTopic}, topic) }

func laneKey(tag byte, topic, lane uint32) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32([]byte{tag}, topic), lane)
}

func messageKey(topic, lane uint32, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(laneKey(tagMessage, topic, lane), seq)
}

func numberKey(tag byte, n uint64) []byte { return binary.BigEndian.AppendUint64([]byte{tag}, n) }

func onceKey(topic uint32, key string) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{tagOnce}, topic), key...)
}

func endsKey(topic uint32, n uint64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32([]byte{tagEnds}, topic), n)
}

// after is the first key behind all that begin with the prefix, whose last byte is not 0xff.
func after(prefix []byte) []byte {
	end := append([]byte{}, prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}

var errDamaged = fmt.Errorf("a record of the spool is damaged: %w", errs.Internal)

// A message is stored as
//
//	version 1 byte | time ms | partition wanted | key | value | number of headers | each: key, value
//
// where byte strings have their length plus one before them, 0 being null.
func appendMessage(b []byte, m *store.Message, now time.Time) []byte {
	b = append(b, 1)
	if !m.Time.IsZero() {
		now = m.Time
	}
	b = binary.AppendVarint(b, now.UnixMilli())
	b = binary.AppendVarint(b, int64(m.Partition))
	b = appendBytes(appendBytes(b, m.Key), m.Value)
	b = binary.AppendUvarint(b, uint64(len(m.Headers)))
	for _, h := range m.Headers {
		b = appendBytes(appendBytes(b, []byte(h.Key)), h.Value)
	}
	return b
}

func appendBytes(b, s []byte) []byte {
	if s == nil {
		return append(b, 0)
	}
	return append(binary.AppendUvarint(b, uint64(len(s))+1), s...)
}

// reader reads what was appended; its first error stays.
type reader struct {
	b   []byte
	err error
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	return advance(r, v, n)
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	return advance(r, v, n)
}

func advance[T int64 | uint64](r *reader, v T, n int) T {
	if n <= 0 {
		r.b, r.err = nil, errDamaged
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.err = errDamaged
		return 0
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c
}

// bytes share the record's memory.
func (r *reader) bytes() []byte {
	n := r.uvarint()
	if n == 0 {
		return nil
	}
	if n--; n > uint64(len(r.b)) {
		r.b, r.err = nil, errDamaged
		return nil
	}
	s := r.b[:n:n]
	r.b = r.b[n:]
	return s
}

// count reads a number of things of which each takes a byte at least.
func (r *reader) count() int {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.b, r.err = nil, errDamaged
		return 0
	}
	return int(n)
}

// message shares the record's memory.
func (r *reader) message() *store.Message {
	if r.byte() != 1 {
		r.err = errors.Join(errDamaged, errors.New("unknown version of a message"))
	}
	m := &store.Message{Time: time.UnixMilli(r.varint()), Partition: int32(r.varint())}
	m.Key, m.Value = r.bytes(), r.bytes()
	if n := r.count(); n > 0 {
		m.Headers = make([]store.Header, 0, n)
		for range n {
			m.Headers = append(m.Headers, store.Header{Key: string(r.bytes()), Value: r.bytes()})
		}
	}
	return m
}

func appendPositions(b []byte, list []store.Position) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, p := range list {
		b = binary.AppendVarint(b, int64(p.Partition))
		b = binary.AppendVarint(b, p.Next)
	}
	return b
}

func (r *reader) positions() []store.Position {
	list := make([]store.Position, r.count())
	for i := range list {
		list[i] = store.Position{Partition: int32(r.varint()), Next: r.varint()}
	}
	return list
}
