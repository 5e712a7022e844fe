package embedded

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/kateway/kateway/store"
)

// A block is what the log keeps under one key: messages of one partition with offsets that follow each other. Its value is
//
//	format 1 byte | checksum 4 | count 4 | bytes 8 | newest 8 | age 8 | time 8 | messages
//
// with numbers little endian. The checksum (CRC-32C) covers the key too, so that a block in another's place is found. A message is
//
//	time less the block's, key, value, number of headers, headers of name and value
//
// with varints; a length is stored plus one where nil differs from empty.
const (
	blockFormat  = 1
	blockHeadLen = 1 + 4 + 4 + 4*8
)

// minMessage is the fewest bytes that a message takes in a block: no more can be in it than there is room for.
const minMessage = 4

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	errDamaged = errors.New("damaged block")
)

// mark is a place in a partition between two blocks. All of its fields only grow along the partition, so that each can
// be found by a binary search.
type mark struct {
	offset int64
	bytes  int64 // of all blocks ever stored before this place
	newest int64 // the latest time of any message before, in ms; the first message with a time t is in the first block whose mark reaches t
	age    int64 // for retention: newest, but without what a publisher's clock was ahead of ours
}

// blockWriter encodes one block at a time into a buffer that it uses again.
type blockWriter struct {
	buf   []byte
	count int
	time  int64
}

// begin starts a block; now is in ms.
func (w *blockWriter) begin(now int64) {
	w.buf = append(w.buf[:0], make([]byte, blockHeadLen)...)
	w.count, w.time = 0, now
}

// add encodes a message with its time in ms.
func (w *blockWriter) add(m *store.Message, time int64) {
	w.count++
	b := binary.AppendVarint(w.buf, time-w.time)
	b = appendNullable(b, m.Key)
	b = appendNullable(b, m.Value)
	b = binary.AppendUvarint(b, uint64(len(m.Headers)))
	for i := range m.Headers {
		b = binary.AppendUvarint(b, uint64(len(m.Headers[i].Key)))
		b = append(b, m.Headers[i].Key...)
		b = binary.AppendUvarint(b, uint64(len(m.Headers[i].Value)))
		b = append(b, m.Headers[i].Value...)
	}
	w.buf = b
}

func appendNullable(b, v []byte) []byte {
	if v == nil {
		return append(b, 0)
	}
	b = binary.AppendUvarint(b, uint64(len(v))+1)
	return append(b, v...)
}

// finish completes the block that is to be stored under key. end is the mark behind it, without the bytes, which it
// adds. The result is valid until the next begin.
func (w *blockWriter) finish(key []byte, end *mark) []byte {
	end.bytes += int64(len(w.buf))
	b := w.buf
	b[0] = blockFormat
	binary.LittleEndian.PutUint32(b[5:], uint32(w.count))
	binary.LittleEndian.PutUint64(b[9:], uint64(end.bytes))
	binary.LittleEndian.PutUint64(b[17:], uint64(end.newest))
	binary.LittleEndian.PutUint64(b[25:], uint64(end.age))
	binary.LittleEndian.PutUint64(b[33:], uint64(w.time))
	binary.LittleEndian.PutUint32(b[1:], blockSum(key, b))
	return b
}

func blockSum(key, block []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, block[5:])
}

// block is a decoded head and the messages still encoded.
type block struct {
	base  int64
	count int
	end   mark
	time  int64
	body  []byte
}

// openBlock checks the block stored under key and decodes its head. The block keeps value.
func openBlock(key, value []byte) (block, error) {
	b, err := openBlockHead(key, value)
	if err == nil && binary.LittleEndian.Uint32(value[1:]) != blockSum(key, value) {
		err = fmt.Errorf("%w at offset %d: its checksum does not match", errDamaged, b.base)
	}
	return b, err
}

// openBlockHead is openBlock without the checksum, for blocks that never left memory.
func openBlockHead(key, value []byte) (block, error) {
	base, err := blockBase(key)
	switch {
	case err != nil:
		return block{}, fmt.Errorf("%w: %w", errDamaged, err)
	case len(value) < blockHeadLen:
		return block{base: base}, fmt.Errorf("%w at offset %d: it has only %d bytes", errDamaged, base, len(value))
	case value[0] != blockFormat:
		return block{base: base}, fmt.Errorf("%w at offset %d: unknown format %d", errDamaged, base, value[0])
	}
	b := block{
		base: base, count: int(binary.LittleEndian.Uint32(value[5:])), time: int64(binary.LittleEndian.Uint64(value[33:])),
		body: value[blockHeadLen:],
		end: mark{
			bytes:  int64(binary.LittleEndian.Uint64(value[9:])),
			newest: int64(binary.LittleEndian.Uint64(value[17:])),
			age:    int64(binary.LittleEndian.Uint64(value[25:])),
		},
	}
	b.end.offset = base + int64(b.count)
	if b.count == 0 || b.count > len(b.body)/minMessage || base < 0 {
		return block{base: base}, fmt.Errorf("%w at offset %d: it can't hold %d messages", errDamaged, base, b.count)
	}
	return b, nil
}

// blockReader decodes the messages of a block one after the other. They share the block's bytes.
type blockReader struct {
	next    int64 // the offset of the next message
	end     int64 // the one behind the last
	time    int64
	rest    []byte
	names   []string // of the last message's headers: the next one's are mostly the same, which saves their allocation
	headers []store.Header
}

// open starts on another block. Its offsets follow from the head; a corrupt body shows when it is read.
func (r *blockReader) open(b block) {
	r.next, r.end, r.time, r.rest = b.base, b.end.offset, b.time, b.body
}

// done reports that there is no message left.
func (r *blockReader) done() bool { return r.next >= r.end }

// read decodes the next message. It must not be called when done.
func (r *blockReader) read(m *store.Message) error {
	b := r.rest
	delta, n := binary.Varint(b)
	if n <= 0 {
		return r.damaged("its time")
	}
	var ok bool
	b = b[n:]
	if m.Key, b, ok = cutNullable(b); !ok {
		return r.damaged("its key")
	}
	if m.Value, b, ok = cutNullable(b); !ok {
		return r.damaged("its value")
	}
	count, n := binary.Uvarint(b)
	if n <= 0 || count > uint64(len(b))/2 {
		return r.damaged("the number of its headers")
	}
	if m.Headers, b, ok = r.readHeaders(b[n:], int(count)); !ok {
		return r.damaged("its headers")
	}
	m.Offset, m.Time = r.next, time.UnixMilli(r.time+delta)
	r.next, r.rest = r.next+1, b
	return nil
}

func (r *blockReader) damaged(part string) error {
	return fmt.Errorf("%w: message at offset %d: %s can't be read", errDamaged, r.next, part)
}

func (r *blockReader) readHeaders(b []byte, n int) (list []store.Header, rest []byte, ok bool) {
	if n == 0 {
		return nil, b, true
	}
	list = r.headerSlab(n)
	for i := range list {
		var name, value []byte
		if name, b, ok = cut(b); !ok {
			return nil, nil, false
		}
		if value, b, ok = cut(b); !ok {
			return nil, nil, false
		}
		list[i] = store.Header{Key: r.intern(i, name), Value: value}
	}
	return list, b, true
}

// headerSlab cuts n headers from a larger allocation.
func (r *blockReader) headerSlab(n int) []store.Header {
	const slab = 64
	if len(r.headers) < n {
		r.headers = make([]store.Header, max(n, slab))
	}
	list := r.headers[:n:n]
	r.headers = r.headers[n:]
	return list
}

// intern answers name as a string, the one of the last message's header i where that is equal.
func (r *blockReader) intern(i int, name []byte) string {
	switch {
	case i >= len(r.names):
		r.names = append(r.names, string(name))
	case r.names[i] != string(name):
		r.names[i] = string(name)
	}
	return r.names[i]
}

// cut takes a length and as many bytes off the front.
func cut(b []byte) (v, rest []byte, ok bool) {
	size, n := binary.Uvarint(b)
	if n <= 0 || size > uint64(len(b)-n) {
		return nil, nil, false
	}
	end := n + int(size)
	return b[n:end:end], b[end:], true
}

// cutNullable is cut for what appendNullable wrote.
func cutNullable(b []byte) (v, rest []byte, ok bool) {
	size, n := binary.Uvarint(b)
	switch {
	case n <= 0 || size > uint64(len(b)-n)+1:
		return nil, nil, false
	case size == 0:
		return nil, b[n:], true
	}
	end := n + int(size) - 1
	return b[n:end:end], b[end:], true
}

func (m mark) append(b []byte) []byte {
	for _, v := range [...]int64{m.offset, m.bytes, m.newest, m.age} {
		b = binary.LittleEndian.AppendUint64(b, uint64(v))
	}
	return b
}

func readMark(b []byte) (m mark, err error) {
	if len(b) != 4*8 {
		return m, fmt.Errorf("a mark has %d bytes instead of 32", len(b))
	}
	for i, v := range [...]*int64{&m.offset, &m.bytes, &m.newest, &m.age} {
		*v = int64(binary.LittleEndian.Uint64(b[i*8:]))
	}
	return m, nil
}
