package ws

import (
	"encoding/binary"
	"math/bits"
)

// headRoom is what Begin leaves for the head of a frame: enough for payloads up to 64 KiB, which nearly all are.
const headRoom = 4

const (
	finBit  = 0x80
	rsv1Bit = 0x40
	maskBit = 0x80

	maxControl = 125 // bytes of a control frame's payload
)

// Begin appends room for the head of a frame. The payload is to be appended to what it returns, and [Conn.End] makes the
// frame of it.
func Begin(dst []byte) []byte { return append(dst, 0, 0, 0, 0) }

// finish makes a frame of the payload that follows the head's room at dst[at:].
func finish(dst []byte, at int, first byte) []byte {
	n := len(dst) - at - headRoom
	switch {
	case n <= 125:
		copy(dst[at+2:], dst[at+headRoom:])
		dst = dst[:at+2+n]
		dst[at+1] = byte(n)
	case n <= 0xFFFF:
		dst[at+1] = 126
		binary.BigEndian.PutUint16(dst[at+2:], uint16(n))
	default:
		dst = append(dst, 0, 0, 0, 0, 0, 0)
		copy(dst[at+10:], dst[at+headRoom:at+headRoom+n])
		dst[at+1] = 127
		binary.BigEndian.PutUint64(dst[at+2:], uint64(n))
	}
	dst[at] = first
	return dst
}

// appendControl appends a control frame. The payload has at most maxControl bytes.
func appendControl(dst []byte, op byte, payload []byte) []byte {
	dst = append(dst, finBit|op, byte(len(payload)))
	return append(dst, payload...)
}

// appendClose appends a close frame; one without a code for noCode. The reason is cut to what fits.
func appendClose(dst []byte, code int, reason string) []byte {
	if code == noCode {
		return appendControl(dst, opClose, nil)
	}
	if len(reason) > maxControl-2 {
		reason = reason[:maxControl-2]
	}
	dst = append(dst, finBit|opClose, byte(2+len(reason)))
	dst = binary.BigEndian.AppendUint16(dst, uint16(code))
	return append(dst, reason...)
}

// head is the head of a frame that a client sent.
type head struct {
	fin, rsv1 bool
	op        byte
	n         int64  // bytes of payload
	key       uint32 // to unmask it, little endian
}

func (h *head) control() bool { return h.op >= opClose }

// unmask takes the mask off bytes of a payload and answers the key for those that follow them.
func unmask(b []byte, key uint32) uint32 {
	wide := uint64(key)<<32 | uint64(key)
	for len(b) >= 8 {
		binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)^wide)
		b = b[8:]
	}
	for i := range b {
		b[i] ^= byte(key)
		key = bits.RotateLeft32(key, -8)
	}
	return key
}

// validCode reports whether a client may send the close code.
func validCode(code int) bool {
	switch {
	case code >= 1000 && code <= 1003, code >= 1007 && code <= 1014, code >= 3000 && code <= 4999:
		return true
	}
	return false
}
