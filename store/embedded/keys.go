package embedded

import (
	"encoding/binary"
	"fmt"
)

// The first byte of a key says what it is. Numbers are big endian, so that keys sort as their numbers do.
const (
	tagBlock     = 'b' // topic id, partition, base offset: a block of messages
	tagOnceOrder = 'i' // sequence number: topic id and key of an idempotency record, in the order of their making
	tagNextTopic = 'n' // the next topic id
	tagOnce      = 'o' // topic id, key: an idempotency record
	tagPosition  = 'p' // topic id, length of the group's name, the name, partition: a position
	tagStart     = 's' // topic id, partition: the mark where retention left the partition
	tagTopic     = 't' // name: a topic
)

const (
	partitionKeyLen = 1 + 8 + 4
	blockKeyLen     = partitionKeyLen + 8
)

func topicPrefix(tag byte, topic uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{tag}, topic)
}

func partitionKey(tag byte, topic uint64, partition int32) []byte {
	return binary.BigEndian.AppendUint32(topicPrefix(tag, topic), uint32(partition))
}

// blockKey puts the key into dst, which saves the hot path an allocation.
func (p *partition) blockKey(dst *[blockKeyLen]byte, base int64) []byte {
	copy(dst[:], p.prefix)
	binary.BigEndian.PutUint64(dst[partitionKeyLen:], uint64(base))
	return dst[:]
}

func blockBase(key []byte) (int64, error) {
	if len(key) != blockKeyLen {
		return 0, fmt.Errorf("a block's key has %d bytes instead of %d", len(key), blockKeyLen)
	}
	return int64(binary.BigEndian.Uint64(key[partitionKeyLen:])), nil
}

func topicKey(name string) []byte { return append([]byte{tagTopic}, name...) }

func onceKey(topic uint64, key string) []byte {
	return append(topicPrefix(tagOnce, topic), key...)
}

func onceOrderKey(seq uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{tagOnceOrder}, seq)
}

func groupPrefix(topic uint64, group string) []byte {
	k := binary.BigEndian.AppendUint16(topicPrefix(tagPosition, topic), uint16(len(group)))
	return append(k, group...)
}

func positionKey(topic uint64, group string, partition int32) []byte {
	return binary.BigEndian.AppendUint32(groupPrefix(topic, group), uint32(partition))
}

// splitPositionKey takes a key of positionKey apart.
func splitPositionKey(key []byte) (topic uint64, group string, partition int32, err error) {
	const head = 1 + 8 + 2
	if len(key) < head+4 || len(key) != head+4+int(binary.BigEndian.Uint16(key[9:])) {
		return 0, "", 0, fmt.Errorf("malformed key of a position: %x", key)
	}
	name, number := key[head:len(key)-4], key[len(key)-4:]
	return binary.BigEndian.Uint64(key[1:]), string(name), int32(binary.BigEndian.Uint32(number)), nil
}

// after is the first key behind all keys with the prefix.
func after(prefix []byte) []byte {
	end := append([]byte{}, prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}
