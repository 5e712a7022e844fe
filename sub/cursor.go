package sub

import (
	"encoding/base64"
	"encoding/binary"
	"hash/fnv"
	"slices"
)

const cursorVersion = 1

// cursor is where a reader stands on every partition that it has seen: version, a hash of the topic, then partition and
// next offset in the order of the partitions, all as varints, in base64url. A group's own position counts more: it is
// given so that a reader that loses its group can go on without one.
type cursor struct {
	topic uint32
	at    []cursorAt // sorted by partition
	raw   []byte     // used again and again
}

type cursorAt struct {
	partition int32
	next      int64
}

func newCursor(topic string) cursor {
	h := fnv.New32a()
	h.Write([]byte(topic))
	return cursor{topic: h.Sum32()}
}

// pass notes that the reader has got past the offset.
func (c *cursor) pass(partition int32, offset int64) {
	for i := range c.at {
		if c.at[i].partition == partition {
			c.at[i].next = offset + 1
			return
		}
	}
	i, _ := slices.BinarySearchFunc(c.at, partition, func(a cursorAt, p int32) int { return int(a.partition) - int(p) })
	c.at = slices.Insert(c.at, i, cursorAt{partition, offset + 1})
}

// append appends the cursor's text to dst.
func (c *cursor) append(dst []byte) []byte {
	b := append(c.raw[:0], cursorVersion)
	b = binary.BigEndian.AppendUint32(b, c.topic)
	for _, a := range c.at {
		b = binary.AppendUvarint(b, uint64(uint32(a.partition)))
		b = binary.AppendUvarint(b, uint64(a.next))
	}
	c.raw = b
	return base64.RawURLEncoding.AppendEncode(dst, b)
}
