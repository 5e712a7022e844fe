package broadcast

import (
	"encoding/base64"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

const topic = "shop.orders.v1"

func textOf(kind byte, at ...store.Position) string {
	v := NewVector(topic)
	v.kind = kind
	for _, p := range at {
		v.set(p.Partition, p.Next)
	}
	return string(v.Append(nil))
}

func TestCursorComesBack(t *testing.T) {
	for _, at := range [][]store.Position{
		{{Partition: 0}},
		{{Partition: 0, Next: 1}, {Partition: 1, Next: 127}, {Partition: 2, Next: 128}, {Partition: 200, Next: math.MaxInt64}},
		{{Partition: 7, Next: 1 << 40}},
	} {
		for _, kind := range []byte{ofAll, ofSome} {
			text := textOf(kind, at...)
			c, err := ParseCursor(text, topic)
			if err != nil || !slices.Equal(c.at, at) || c.some != (kind == ofSome) || c.IsZero() {
				t.Errorf("%v came back as %+v, %v", at, c, err)
			}
			if strings.Trim(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
				t.Errorf("%q does not go through a URL as it is", text)
			}
		}
	}
	if c := At(3, 42); !c.some || c.IsZero() || !slices.Equal(c.at, []store.Position{{Partition: 3, Next: 42}}) {
		t.Errorf("%+v", c)
	}
	empty := NewVector(topic)
	if b := empty.Append(nil); len(b) > 0 || !(Cursor{}).IsZero() {
		t.Errorf("nowhere has the text %q", b)
	}
}

// Nothing but what was written is taken: neither a part of it, which would read the partitions that are cut off from
// their oldest message, nor another way to write the same.
func TestCursorIsStrict(t *testing.T) {
	good := textOf(ofAll, store.Position{Partition: 0, Next: 300}, store.Position{Partition: 1, Next: 5}, store.Position{Partition: 2, Next: 7})
	refused := func(what, text string) {
		t.Helper()
		if c, err := ParseCursor(text, topic); !errors.Is(err, errs.InvalidParam) {
			t.Errorf("%s: %q is taken for %+v, %v", what, text, c, err)
		}
	}
	if _, err := ParseCursor(good, "shop.orders.v2"); !errors.Is(err, errs.InvalidParam) {
		t.Errorf("another topic's: %v", err)
	}
	for i := range good {
		refused("cut", good[:i])
		refused("cut", good[i+1:])
		for _, c := range []byte("A_9 \n=") {
			if good[i] != c {
				refused("changed", good[:i]+string(c)+good[i+1:])
			}
		}
		refused("line break", good[:i]+"\n"+good[i:])
	}
	refused("padded", good+"=")
	refused("longer", good+"AAAA")
	refused("huge", strings.Repeat("A", maxCursorText+4))
	raw, _ := base64.RawURLEncoding.DecodeString(good)
	signed := func(body ...byte) string {
		v := NewVector(topic)
		return base64.RawURLEncoding.EncodeToString(appendSum(body, checksum(v.topic, body)))
	}
	if signed(raw[:len(raw)-sumBytes]...) != good {
		t.Fatal("the test signs in another way")
	}
	refused("no partition", signed(ofAll))
	refused("no partition", signed(ofSome))
	refused("unknown kind", signed(3, 0, 1))
	refused("a partition twice", signed(ofAll, 0, 1, 0, 1))
	refused("descending", signed(ofAll, 1, 1, 0, 1))
	refused("no offset", signed(ofAll, 0, 1, 1))
	refused("not the shortest form", signed(ofAll, 0, 0x81, 0x00))
	refused("partition too large", signed(ofAll, 0xff, 0xff, 0xff, 0xff, 0x0f, 1))
	refused("offset too large", signed(ofAll, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1))
	refused("number too long", signed(ofAll, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1))
}

func appendSum(b []byte, sum uint32) []byte {
	return append(slices.Clone(b), byte(sum>>24), byte(sum>>16), byte(sum>>8), byte(sum))
}

func FuzzParseCursor(f *testing.F) {
	f.Add(textOf(ofAll, store.Position{Partition: 0, Next: 300}, store.Position{Partition: 1, Next: 5}))
	f.Add(textOf(ofSome, store.Position{Partition: 7, Next: 1 << 40}))
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ParseCursor(text, topic)
		if err != nil {
			return
		}
		kind := byte(ofAll)
		if c.some {
			kind = ofSome
		}
		if len(c.at) == 0 || c.at[len(c.at)-1].Partition > 1<<20 { // the vector of such a partition is large, see Reader.resume
			return
		}
		if again := textOf(kind, c.at...); again != text {
			t.Fatalf("%q is taken, but is written as %q", text, again)
		}
	})
}

func BenchmarkAppendCursor(b *testing.B) {
	v := NewVector(topic)
	for p := range int32(12) {
		v.set(p, 1_000_000+int64(p))
	}
	var dst []byte
	b.ReportAllocs()
	for b.Loop() {
		dst = v.Append(dst[:0])
	}
}
