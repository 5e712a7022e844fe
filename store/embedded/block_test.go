package embedded

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/kateway/kateway/store"
)

// testBlock encodes messages as a block at base 7 of partition 3.
func testBlock(msgs []*store.Message) (key, value []byte) {
	p := &partition{prefix: partitionKey(tagBlock, 5, 3)}
	var k [blockKeyLen]byte
	end := mark{offset: 7 + int64(len(msgs)), bytes: 100, newest: 2000, age: 1000}
	var w blockWriter
	w.begin(1000)
	for _, m := range msgs {
		w.add(m, m.Time.UnixMilli())
	}
	return p.blockKey(&k, 7), slices.Clone(w.finish(k[:], &end))
}

// readAll decodes all messages of a block.
func readAll(key, value []byte) ([]*store.Message, error) {
	b, err := openBlock(key, value)
	if err != nil {
		return nil, err
	}
	var r blockReader
	r.open(b)
	var msgs []*store.Message
	for !r.done() {
		var m store.Message
		if err := r.read(&m); err != nil {
			return nil, err
		}
		msgs = append(msgs, &m)
	}
	return msgs, nil
}

func genMessage(t *rapid.T) *store.Message {
	nullable := rapid.OneOf(rapid.Just([]byte(nil)), rapid.SliceOfN(rapid.Byte(), 0, 300))
	m := &store.Message{
		Key: nullable.Draw(t, "key"), Value: nullable.Draw(t, "value"),
		Time: time.UnixMilli(rapid.Int64Range(math.MinInt32, math.MaxInt32).Draw(t, "time")),
	}
	for range rapid.IntRange(0, 4).Draw(t, "headers") {
		m.Headers = append(m.Headers, store.Header{
			Key:   string(rapid.SliceOfN(rapid.Byte(), 0, 10).Draw(t, "name")),
			Value: rapid.SliceOfN(rapid.Byte(), 0, 10).Draw(t, "header"),
		})
	}
	return m
}

func TestBlockKeepsEverything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		msgs := rapid.SliceOfN(rapid.Custom(genMessage), 1, 20).Draw(t, "messages")
		got, err := readAll(testBlock(msgs))
		if err != nil {
			t.Fatal(err)
		}
		for i, m := range msgs {
			want := *m
			want.Offset = int64(7 + i)
			if !reflect.DeepEqual(*got[i], want) {
				t.Fatalf("message %d: %+v, want %+v", i, *got[i], want)
			}
		}
	})
}

func TestBlockHeadTellsTheMark(t *testing.T) {
	key, value := testBlock([]*store.Message{{}, {}})
	b, err := openBlock(key, value)
	if want := (mark{offset: 9, bytes: 100 + int64(len(value)), newest: 2000, age: 1000}); err != nil || b.end != want || b.base != 7 {
		t.Errorf("%+v, %v; want %+v", b, err, want)
	}
}

func TestMessagesOfABlockDoNotOverlap(t *testing.T) {
	got, err := readAll(testBlock([]*store.Message{{Key: []byte("a"), Value: []byte("b")}, {Value: []byte("c")}}))
	if err != nil {
		t.Fatal(err)
	}
	_ = append(got[0].Key, "xxxx"...)
	_ = append(got[0].Value, "xxxx"...)
	if string(got[0].Value) != "b" || string(got[1].Value) != "c" {
		t.Error("appending to one message wrote into another")
	}
}

// Each single bit of a block, and each place to cut it off, is covered by the checksum.
func TestBlockDamageIsFound(t *testing.T) {
	key, value := testBlock([]*store.Message{{Key: []byte("k"), Value: []byte("v"), Headers: []store.Header{{Key: "h", Value: []byte("x")}}}})
	for i := range value {
		for bit := range 8 {
			bad := slices.Clone(value)
			bad[i] ^= 1 << bit
			if _, err := openBlock(key, bad); !errors.Is(err, errDamaged) {
				t.Errorf("bit %d of byte %d: %v", bit, i, err)
			}
		}
		if _, err := openBlock(key, value[:i]); !errors.Is(err, errDamaged) {
			t.Errorf("cut off at %d: %v", i, err)
		}
	}
	other := slices.Clone(key)
	other[len(other)-1]++
	if _, err := openBlock(other, value); !errors.Is(err, errDamaged) {
		t.Errorf("a block in another's place: %v", err)
	}
}

// FuzzBlock gives the decoder bytes with a checksum that fits, so that they reach the inner parts.
func FuzzBlock(f *testing.F) {
	key, value := testBlock([]*store.Message{{Key: []byte("k"), Value: []byte("v"), Headers: []store.Header{{Key: "h"}}}, {}})
	f.Add(value)
	f.Add(value[:blockHeadLen])
	f.Add(bytes.Repeat([]byte{0xff}, 60))
	f.Fuzz(func(t *testing.T, value []byte) {
		if _, err := openBlock(key, value); err != nil && !errors.Is(err, errDamaged) {
			t.Errorf("another error than damage: %v", err)
		}
		if len(value) < blockHeadLen {
			return
		}
		sum := blockSum(key, value)
		value[1], value[2], value[3], value[4] = byte(sum), byte(sum>>8), byte(sum>>16), byte(sum>>24)
		msgs, err := readAll(key, value)
		if err != nil && !errors.Is(err, errDamaged) {
			t.Errorf("another error than damage: %v", err)
		}
		size := 0
		for _, m := range msgs {
			size += m.Size()
		}
		if size > len(value) {
			t.Errorf("%d bytes of messages out of a block of %d", size, len(value))
		}
	})
}

func FuzzOutcome(f *testing.F) {
	o := outcome{seq: 3, time: 5, placed: []placed{{1, 2, 3}, {}}, failed: []error{nil, errDamaged}}
	f.Add(o.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if o, err := decodeOutcome(b); err == nil && len(o.placed) > len(b) {
			t.Errorf("%d messages out of %d bytes", len(o.placed), len(b))
		}
	})
}

func FuzzTopicRecord(f *testing.F) {
	f.Add(encodeTopic(7, 3, limits{time.Hour, -1}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := decodeTopic("t", b); err == nil && len(*got.parts.Load()) > maxPartitions {
			t.Errorf("%d partitions", len(*got.parts.Load()))
		}
	})
}

func TestTopicRecord(t *testing.T) {
	got, err := decodeTopic("t", encodeTopic(7, 3, limits{-1, 1 << 40}))
	want := store.Topic{Name: "t", Partitions: 3, Replicas: 1, Retention: -1, RetentionBytes: 1 << 40, Cleanup: store.CleanupDelete}
	if err != nil || got.id != 7 || got.describe() != want {
		t.Errorf("%+v, %v; want %+v", got.describe(), err, want)
	}
}

func TestKeysSortAsTheirNumbers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id, number := rapid.Uint64(), rapid.Int32Range(0, math.MaxInt32)
		t1, t2, p1, p2 := id.Draw(t, "t1"), id.Draw(t, "t2"), number.Draw(t, "p1"), number.Draw(t, "p2")
		less := t1 < t2 || t1 == t2 && p1 < p2
		a, b := partitionKey(tagBlock, t1, p1), partitionKey(tagBlock, t2, p2)
		if (bytes.Compare(a, b) < 0) != less {
			t.Fatalf("%x and %x", a, b)
		}
		if less != (bytes.Compare(after(a), b) <= 0) {
			t.Fatalf("the end of %x is %x, which is not up to %x", a, after(a), b)
		}
	})
}

// No group's positions are found under the prefix of another.
func TestGroupNamesDoNotMix(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.StringN(1, 5, -1).Draw(t, "a"), rapid.StringN(1, 5, -1).Draw(t, "b")
		if a != b && bytes.HasPrefix(positionKey(1, a, 2), groupPrefix(1, b)) {
			t.Fatalf("%q is found under %q", a, b)
		}
		topic, group, partition, err := splitPositionKey(positionKey(1, a, 2))
		if topic != 1 || group != a || partition != 2 || err != nil {
			t.Fatalf("%d %q %d %v", topic, group, partition, err)
		}
	})
}
