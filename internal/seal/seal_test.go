package seal

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
)

func sealed(n int) []byte {
	c := New([]byte("key"), nil)
	var log []byte
	for i := range n {
		log = c.Append(log, fmt.Appendf(nil, `{"seq":%d,"event":"publish"}`, i))
	}
	return log
}

func TestAnIntactLogIsIntact(t *testing.T) {
	log := sealed(10)
	if n, err := New([]byte("key"), nil).Verify(bytes.NewReader(log), false); n != 10 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	lines := bytes.SplitAfter(log, []byte("\n"))
	rest := bytes.Join(lines[3:], nil)
	if n, err := New([]byte("key"), nil).Verify(bytes.NewReader(rest), true); n != 7 || err != nil {
		t.Errorf("from the middle: %d, %v", n, err)
	}
	_, last, _ := Split(bytes.TrimSpace(lines[2]))
	if n, err := New([]byte("key"), last).Verify(bytes.NewReader(rest), false); n != 7 || err != nil {
		t.Errorf("behind its first part: %d, %v", n, err)
	}
}

// Every bit counts, and so do all lines and their order.
func TestChangesAreFound(t *testing.T) {
	log := sealed(4)
	find := func(what string, b []byte) {
		t.Helper()
		if _, err := New([]byte("key"), nil).Verify(bytes.NewReader(b), false); !errors.Is(err, ErrBroken) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for i := range len(log) - 1 { // but for the line feed at the end
		b := bytes.Clone(log)
		b[i] ^= 1
		find(fmt.Sprintf("bit of byte %d (%q)", i, log[i]), b)
	}
	lines := bytes.SplitAfter(log, []byte("\n"))
	find("first line removed", bytes.Join(lines[1:], nil))
	find("line removed", bytes.Join([][]byte{lines[0], lines[2], lines[3]}, nil))
	find("lines swapped", bytes.Join([][]byte{lines[0], lines[2], lines[1], lines[3]}, nil))
	find("line twice", bytes.Join([][]byte{lines[0], lines[1], lines[1], lines[2]}, nil))
	if _, err := New([]byte("other"), nil).Verify(bytes.NewReader(log), false); !errors.Is(err, ErrBroken) {
		t.Errorf("another key: %v", err)
	}
}

func FuzzSplit(f *testing.F) {
	f.Add(bytes.TrimSpace(sealed(1)))
	f.Add([]byte(`{"seal":"00"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		line, sum, ok := Split(b)
		if !ok {
			return
		}
		c := New([]byte("key"), nil)
		if again := c.Append(nil, line); len(again) != len(b)+1 || len(sum) != 32 {
			t.Errorf("%q: %q, %x", b, line, sum)
		}
	})
}
