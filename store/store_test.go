package store

import (
	"errors"
	"fmt"
	"testing"

	"github.com/kateway/kateway/internal/errs"
)

// The values are those of UtilsTest.testMurmur2 in Apache Kafka.
func TestMurmur2IsKafkas(t *testing.T) {
	for key, want := range map[string]int32{
		"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536,
		"a-little-bit-longer-string": -1486304829, "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
		"abc": 479470107,
	} {
		if got := int32(murmur2([]byte(key))); got != want {
			t.Errorf("murmur2(%q) = %d, want %d", key, got, want)
		}
	}
}

func TestPartitionOfIsNeverNegative(t *testing.T) {
	for i := range 10_000 {
		if p := PartitionOf(fmt.Appendf(nil, "key-%d", i), 7); p < 0 || p > 6 {
			t.Fatalf("key-%d: partition %d of 7", i, p)
		}
	}
}

func TestCloneSharesNothing(t *testing.T) {
	m := &Message{Key: []byte("k"), Value: []byte("v"), Headers: []Header{{"h", []byte("x")}}}
	c := m.Clone()
	m.Key[0], m.Value[0], m.Headers[0].Value[0], m.Headers[0].Key = '!', '!', '!', "!"
	if string(c.Key)+string(c.Value)+c.Headers[0].Key+string(c.Headers[0].Value) != "kvhx" {
		t.Errorf("the clone changed with its original: %+v", c)
	}
	if tomb := (&Message{}).Clone(); tomb.Value != nil || tomb.Key != nil {
		t.Error("a clone of nil bytes is not nil: a tombstone would come back to life")
	}
	if empty := (&Message{Value: []byte{}}).Clone(); empty.Value == nil {
		t.Error("a clone of an empty value is nil: it would become a tombstone")
	}
}

func TestBatchErrorTellsMessagesApart(t *testing.T) {
	err := fmt.Errorf("publish: %w", &BatchError{Errs: []error{nil, errs.TooLarge, errs.Unavailable}})
	if Each(err, 0) != nil || !errors.Is(Each(err, 1), errs.TooLarge) || !errors.Is(Each(err, 2), errs.Unavailable) {
		t.Errorf("Each mixes the entries up: %v %v %v", Each(err, 0), Each(err, 1), Each(err, 2))
	}
	if errs.Of(err) != errs.TooLarge {
		t.Errorf("kind of the batch is %v, want the first one's", errs.Of(err))
	}
	if !errors.Is(Each(errs.DiskFull, 5), errs.DiskFull) {
		t.Error("a plain error does not hold for each message")
	}
}
