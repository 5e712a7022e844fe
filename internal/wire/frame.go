package wire

import (
	"encoding/binary"
	"fmt"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// AppendFrame appends the binary frame of a message, big endian: partition (4 bytes), offset (8), size of the value (4),
// value. A tombstone has size -1, as in Kafka's own protocol, and an empty value 0.
func AppendFrame(dst []byte, m *store.Message) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(m.Partition))
	dst = binary.BigEndian.AppendUint64(dst, uint64(m.Offset))
	if m.Value == nil {
		return binary.BigEndian.AppendUint32(dst, ^uint32(0))
	}
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(m.Value)))
	return append(dst, m.Value...)
}

// CutFrame cuts the first frame of a publish, size (4 bytes, big endian) and value, off b. The value shares b's bytes and
// is never nil. Kind InvalidBody where b ends before its frame does.
func CutFrame(b []byte) (value, rest []byte, err error) {
	if len(b) < 4 {
		return nil, nil, fmt.Errorf("%d bytes are left, too few for the 4 of a frame's length: %w", len(b), errs.InvalidBody)
	}
	size, b := binary.BigEndian.Uint32(b), b[4:]
	if uint64(size) > uint64(len(b)) {
		return nil, nil, fmt.Errorf("a frame of %d bytes is announced and %d are left: %w", size, len(b), errs.InvalidBody)
	}
	return b[:size:size], b[size:], nil
}
