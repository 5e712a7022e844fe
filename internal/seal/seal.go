// Package seal makes a log in which nobody can change, remove or insert a line unnoticed: each line, a JSON object, carries a
// MAC over itself and the MAC of the line before. Who does not have the key can only cut lines off the end.
package seal

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
)

// KeySize is the size of a key in bytes.
const KeySize = 32

// maxLine bounds a line that is read, in bytes.
const maxLine = 1 << 20

// mark stands before the MAC, which is the last member of the line's object.
const mark = `,"seal":"`

// Chain seals lines. It is not for concurrent use. The zero last seal is that of a log that begins.
type Chain struct {
	key  []byte
	last [sha256.Size]byte
}

// New makes a chain that goes on behind the line with this seal; nil begins a log.
func New(key, last []byte) *Chain {
	c := &Chain{key: key}
	copy(c.last[:], last)
	return c
}

// Append appends the line, a JSON object that is not empty, with its seal and a line feed.
func (c *Chain) Append(dst, line []byte) []byte {
	c.last = c.mac(line)
	dst = append(dst, line[:len(line)-1]...)
	dst = append(dst, mark...)
	dst = hex.AppendEncode(dst, c.last[:])
	return append(dst, "\"}\n"...)
}

func (c *Chain) mac(line []byte) (sum [sha256.Size]byte) {
	h := hmac.New(sha256.New, c.key)
	h.Write(c.last[:])
	h.Write(line)
	h.Sum(sum[:0])
	return sum
}

// ErrBroken says that a line is not the one that was sealed behind the line before it.
var ErrBroken = errors.New("the log was changed here: the seal does not fit") // read only

// Verify reads the lines of a log and answers how many have the right seal. The first of a log that begins in the midst of a
// longer one, as rotation leaves it, can't be checked by itself: with middle it is taken as it is. An error names the line.
func (c *Chain) Verify(r io.Reader, middle bool) (lines int, err error) {
	in := bufio.NewScanner(r)
	in.Buffer(nil, maxLine)
	for n := 1; in.Scan(); n++ {
		line, sum, ok := Split(in.Bytes())
		if !ok {
			return lines, fmt.Errorf("line %d: no line of a sealed log: %w", n, ErrBroken)
		}
		if want := c.mac(line); !hmac.Equal(want[:], sum) && (n > 1 || !middle) {
			return lines, fmt.Errorf("line %d: %w", n, ErrBroken)
		}
		copy(c.last[:], sum)
		lines++
	}
	if err := in.Err(); err != nil {
		return lines, fmt.Errorf("line %d: %w", lines+1, err)
	}
	return lines, nil
}

// Split parts a line, without its line feed, into the object that was sealed and its seal.
func Split(sealed []byte) (line, sum []byte, ok bool) {
	tail := len(mark) + 2*sha256.Size + len(`"}`)
	at := len(sealed) - tail
	if at < 2 || !bytes.HasPrefix(sealed[at:], []byte(mark)) || !bytes.HasSuffix(sealed, []byte(`"}`)) {
		return nil, nil, false
	}
	sum, err := hex.AppendDecode(nil, sealed[at+len(mark):len(sealed)-2])
	if err != nil {
		return nil, nil, false
	}
	return append(bytes.Clone(sealed[:at]), '}'), sum, true
}
