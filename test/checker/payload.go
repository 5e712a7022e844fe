package checker

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"
)

// ID names a message: the run, the producer within it, and the producer's own count. A publish that is repeated keeps it.
type ID struct {
	Run      string // no spaces
	Producer int
	Seq      int
}

func (id ID) String() string { return fmt.Sprintf("%s/%d/%d", id.Run, id.Producer, id.Seq) }

// MarshalText makes an ID one word in a dumped history.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (id *ID) UnmarshalText(b []byte) error {
	part := strings.Split(string(b), "/")
	if len(part) != 3 {
		return fmt.Errorf("%q is no message id", b)
	}
	var p, s error
	id.Run = part[0]
	id.Producer, p = strconv.Atoi(part[1])
	id.Seq, s = strconv.Atoi(part[2])
	return errors.Join(p, s)
}

// Payload is what a message says of itself.
type Payload struct {
	ID   ID
	Key  string    // "" is none; no spaces
	Sent time.Time // when its first publish began
}

const magic = "kw1"

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)

	// ErrTruncated is Parse's answer for a value that is shorter than it says.
	ErrTruncated = errors.New("the value is shorter than it says")
	// ErrCorrupt is Parse's answer for any other value that is not as it was made.
	ErrCorrupt = errors.New("the value is not what was sent")
)

// Value makes a value of about size bytes, never one with a line feed. Where binary is set its padding is no valid UTF-8.
func (p Payload) Value(size int, binary bool) []byte {
	key := p.Key
	if key == "" {
		key = "-"
	}
	head := fmt.Sprintf("%s %s %s %d ", magic, p.ID, key, p.Sent.UnixNano())
	pad := padding(p.ID, max(size-len(head)-15, 0), binary)
	rest := fmt.Sprintf("%06d", len(head)+6+1+8+1+len(pad))
	sum := crc32.Update(crc32.Checksum([]byte(head+rest), castagnoli), castagnoli, pad)
	return append(fmt.Appendf(nil, "%s%s %08x ", head, rest, sum), pad...)
}

// padding is the same for the same message. It has what encoders like to get wrong: quotes, escapes, control bytes, runes of
// several bytes.
func padding(id ID, n int, binary bool) []byte {
	const some = "abcdefghijklmnopqrstuvwxyz\"\\<>&\x1b\x00\té€\U0001F600\u2028"
	from := []rune(some)
	r := rand.New(rand.NewPCG(uint64(id.Producer), uint64(id.Seq)))
	var pad []byte
	for len(pad) < n {
		if binary && r.IntN(4) == 0 {
			pad = append(pad, 0x80+byte(r.IntN(0x80)))
		} else {
			pad = append(pad, string(from[r.IntN(len(from))])...)
		}
	}
	if binary && n > 0 {
		pad[0] = 0xff
	}
	return pad
}

// Parse reads a value and checks that it is whole. With ErrTruncated, and with ErrCorrupt where the beginning could be read,
// the answer says which message it was.
func Parse(value []byte) (Payload, error) {
	field := bytes.SplitN(value, []byte(" "), 7)
	if len(field) < 4 || string(field[0]) != magic {
		return Payload{}, fmt.Errorf("%.40q: %w", value, ErrCorrupt)
	}
	var p Payload
	if err := p.ID.UnmarshalText(field[1]); err != nil {
		return Payload{}, fmt.Errorf("%w: %w", err, ErrCorrupt)
	}
	if p.Key = string(field[2]); p.Key == "-" {
		p.Key = ""
	}
	if len(field) < 7 {
		return p, fmt.Errorf("%s: %w", p.ID, ErrTruncated)
	}
	sent, err := strconv.ParseInt(string(field[3]), 10, 64)
	if err != nil {
		return p, fmt.Errorf("%s: %w: %w", p.ID, err, ErrCorrupt)
	}
	p.Sent = time.Unix(0, sent)
	size, err := strconv.Atoi(string(field[4]))
	switch {
	case err != nil:
		return p, fmt.Errorf("%s: %w: %w", p.ID, err, ErrCorrupt)
	case len(value) < size:
		return p, fmt.Errorf("%s: %d of %d bytes: %w", p.ID, len(value), size, ErrTruncated)
	}
	head := bytes.Join(field[:5], []byte(" "))
	sum := crc32.Update(crc32.Checksum(head, castagnoli), castagnoli, field[6])
	if len(value) != size || fmt.Sprintf("%08x", sum) != string(field[5]) {
		return p, fmt.Errorf("%s: %w", p.ID, ErrCorrupt)
	}
	return p, nil
}
