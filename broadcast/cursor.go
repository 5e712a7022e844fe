package broadcast

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// The text of a cursor is base64url, unpadded, of: a byte that says what it is of; partition and next offset of each
// partition, in the order of the partitions, as varints; and a checksum of the topic and all that, big endian. The checksum
// refuses a cursor of another topic, and one that was cut: partitions that a cursor lacks are read from their oldest message.
const (
	ofAll  = 1 // partitions that are not named are read from their oldest message
	ofSome = 2 // partitions that are not named are not read

	sumBytes      = 4
	maxCursorText = 32 << 10 // no longer one gets through a request's head
)

// Cursor is where a reader of a topic stands. The zero value is nowhere: Ask.Start counts.
type Cursor struct {
	some bool // only these partitions are read
	at   []store.Position
}

// IsZero reports whether the cursor is nowhere.
func (c Cursor) IsZero() bool { return len(c.at) == 0 && !c.some }

// At is the cursor that reads one partition only, from an offset on.
func At(partition int32, offset int64) Cursor {
	return Cursor{some: true, at: []store.Position{{Partition: partition, Next: offset}}}
}

// ParseCursor reads the text of a cursor on the topic, which is named as in the store. It takes exactly what Vector.Append
// writes. Kind InvalidParam.
func ParseCursor(text, topic string) (Cursor, error) {
	bad := fmt.Errorf("cursor %.40q is damaged, or another topic's: give one as it was answered for this topic, or none: %w", text, errs.InvalidParam)
	if len(text) > maxCursorText {
		return Cursor{}, bad
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) <= sumBytes || base64.RawURLEncoding.EncodedLen(len(b)) != len(text) { // the decoder passes over line breaks
		return Cursor{}, bad
	}
	b, sum := b[:len(b)-sumBytes], binary.BigEndian.Uint32(b[len(b)-sumBytes:])
	if sum != checksum(checksum(sumSeed, []byte(topic)), b) || b[0] != ofAll && b[0] != ofSome {
		return Cursor{}, bad
	}
	c := Cursor{some: b[0] == ofSome}
	last := int64(-1)
	for b = b[1:]; len(b) > 0; {
		var p, next uint64
		var ok bool
		if p, b, ok = cutUvarint(b); !ok || p > math.MaxInt32 || int64(p) <= last {
			return Cursor{}, bad
		}
		if next, b, ok = cutUvarint(b); !ok || next > math.MaxInt64 {
			return Cursor{}, bad
		}
		c.at, last = append(c.at, store.Position{Partition: int32(p), Next: int64(next)}), int64(p)
	}
	if len(c.at) == 0 {
		return Cursor{}, bad
	}
	return c, nil
}

// cutUvarint takes a number in its shortest form off the front.
func cutUvarint(b []byte) (v uint64, rest []byte, ok bool) {
	v, n := binary.Uvarint(b)
	if n <= 0 || n > 1 && b[n-1] == 0 {
		return 0, nil, false
	}
	return v, b[n:], true
}

const sumSeed = 2166136261 // of FNV-1a, 32 bits

func checksum(h uint32, b []byte) uint32 {
	for _, c := range b {
		h = (h ^ uint32(c)) * 16777619
	}
	return h
}

// Vector is the place of one reader, kept up as it reads. Not for concurrent use.
type Vector struct {
	topic uint32 // its checksum
	kind  byte
	next  []int64 // by partition; absent where nothing is known of it
	raw   []byte  // used again and again
}

const absent = -1

// NewVector is nowhere yet.
func NewVector(topic string) Vector {
	return Vector{topic: checksum(sumSeed, []byte(topic)), kind: ofAll}
}

// Pass notes that the reader has got past the offset.
func (v *Vector) Pass(partition int32, offset int64) { v.set(partition, offset+1) }

func (v *Vector) set(partition int32, next int64) {
	for int(partition) >= len(v.next) {
		v.next = append(v.next, absent)
	}
	v.next[partition] = next
}

// at is absent where nothing is known of the partition.
func (v *Vector) at(partition int32) int64 {
	if int(partition) >= len(v.next) {
		return absent
	}
	return v.next[partition]
}

// reads reports whether the reader reads the partition.
func (v *Vector) reads(partition int32) bool { return v.kind == ofAll || v.at(partition) != absent }

// Append appends the text of the cursor to dst. A vector that is nowhere has none: dst is as it was.
func (v *Vector) Append(dst []byte) []byte {
	b := append(v.raw[:0], v.kind)
	for p, next := range v.next {
		if next != absent {
			b = binary.AppendUvarint(b, uint64(p))
			b = binary.AppendUvarint(b, uint64(next))
		}
	}
	if len(b) > 1 {
		b = binary.BigEndian.AppendUint32(b, checksum(v.topic, b))
		dst = base64.RawURLEncoding.AppendEncode(dst, b)
	}
	v.raw = b
	return dst
}

// clone is one that shares nothing.
func (v *Vector) clone() Vector {
	c := *v
	c.next, c.raw = slices.Clone(v.next), nil
	return c
}
