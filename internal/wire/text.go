package wire

import (
	"encoding/binary"
	"math/bits"
	"unsafe"
)

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// appendText appends s as the inside of a JSON string. It must be valid UTF-8. Beside what JSON demands it escapes the
// line separators U+0085, U+2028 and U+2029, at which some languages split lines.
func appendText[S []byte | string](dst []byte, s S) []byte {
	src := bytesOf(s)
	done := 0 // below is copied
	for at := 0; ; {
		at += plain(src[at:])
		if at >= len(src) {
			return append(dst, src[done:]...)
		}
		n, escape := escapeOf(src[at:])
		if escape == "" {
			at += n
			continue
		}
		dst = append(dst, src[done:at]...)
		dst = append(dst, escape...)
		at += n
		done = at
	}
}

// bytesOf is s without a copy; it is only read.
func bytesOf[S []byte | string](s S) []byte {
	switch s := any(s).(type) {
	case []byte:
		return s
	case string:
		return unsafe.Slice(unsafe.StringData(s), len(s))
	}
	return nil
}

// plain is how many bytes at the start of b surely need no escape: it stops at a control byte, a quote, a backslash, and
// at 0xC2 and 0xE2, with which the line separators begin.
func plain(b []byte) int {
	i := 0
	for ; i+8 <= len(b); i += 8 {
		x := binary.LittleEndian.Uint64(b[i:])
		mask := below0x20(x) | has(x, '"') | has(x, '\\')
		if x&highs != 0 {
			mask |= has(x, 0xC2) | has(x, 0xE2)
		}
		if mask != 0 {
			return i + bits.TrailingZeros64(mask)/8
		}
	}
	for ; i < len(b); i++ {
		if c := b[i]; c < 0x20 || c == '"' || c == '\\' || c == 0xC2 || c == 0xE2 {
			break
		}
	}
	return i
}

// below0x20 and has mark bytes of a word in their high bits. Only the lowest mark is exact: a borrow may mark bytes above it.
func below0x20(x uint64) uint64     { return (x - 0x20*ones) &^ x & highs }
func has(x uint64, c uint64) uint64 { x ^= c * ones; return (x - ones) &^ x & highs }

// escapeOf is how many bytes the character at the start of b has, as far as it was looked at, and how it is escaped, ""
// where it is not.
func escapeOf(b []byte) (int, string) {
	switch c := b[0]; {
	case c == '"':
		return 1, `\"`
	case c == '\\':
		return 1, `\\`
	case c < 0x20:
		return 1, controls[c]
	case c == 0xC2 && len(b) > 1 && b[1] == 0x85:
		return 2, `\u0085`
	case c == 0xE2 && len(b) > 2 && b[1] == 0x80 && b[2] == 0xA8:
		return 3, `\u2028`
	case c == 0xE2 && len(b) > 2 && b[1] == 0x80 && b[2] == 0xA9:
		return 3, `\u2029`
	}
	return 1, ""
}

// controls are the escapes of the bytes below 0x20; it is only read.
var controls = [0x20]string{
	`\u0000`, `\u0001`, `\u0002`, `\u0003`, `\u0004`, `\u0005`, `\u0006`, `\u0007`,
	`\b`, `\t`, `\n`, `\u000b`, `\f`, `\r`, `\u000e`, `\u000f`,
	`\u0010`, `\u0011`, `\u0012`, `\u0013`, `\u0014`, `\u0015`, `\u0016`, `\u0017`,
	`\u0018`, `\u0019`, `\u001a`, `\u001b`, `\u001c`, `\u001d`, `\u001e`, `\u001f`,
}
