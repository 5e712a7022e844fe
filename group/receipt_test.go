package group

import (
	"errors"
	"testing"

	"pgregory.net/rapid"

	"github.com/kateway/kateway/internal/errs"
)

func TestReceiptComesBack(t *testing.T) {
	r := NewReceipts([]byte("0123456789abcdef"), Key{"a.t.v1", "a.g.a.t.v1"})
	rapid.Check(t, func(t *rapid.T) {
		want := Ref{Retry: rapid.Bool().Draw(t, "retry"), Partition: rapid.Int32Min(0).Draw(t, "partition"), Offset: rapid.Int64Min(0).Draw(t, "offset"), Attempt: rapid.Uint32().Draw(t, "attempt"), Hold: rapid.Uint32().Draw(t, "hold")}
		got, err := r.Open(string(r.Seal(nil, want)))
		if err != nil || got != want {
			t.Fatalf("got %+v, %v; want %+v", got, err, want)
		}
	})
}

// Whatever a client changes in a receipt, and whatever group it takes it to, it is refused as one that no longer counts.
func TestReceiptForged(t *testing.T) {
	secret, key := []byte("0123456789abcdef"), Key{"a.t.v1", "a.g.a.t.v1"}
	r := NewReceipts(secret, key)
	good := string(r.Seal(nil, Ref{Partition: 3, Offset: 1 << 40, Attempt: 2, Hold: 77}))
	refuse := func(what, receipt string, by *Receipts) {
		t.Helper()
		if ref, err := by.Open(receipt); !errors.Is(err, errs.Fenced) {
			t.Errorf("%s: %+v, %v", what, ref, err)
		}
	}
	for i := range good {
		for _, c := range []byte("A_z0!") {
			if b := []byte(good); b[i] != c {
				b[i] = c
				refuse("a byte changed", string(b), r)
			}
		}
		refuse("cut", good[:i], r)
	}
	refuse("longer", good+"A", r)
	refuse("much longer", good+good+good, r)
	refuse("empty", "", r)
	refuse("another group", good, NewReceipts(secret, Key{key.Topic, "a.h.a.t.v1"}))
	refuse("another topic", good, NewReceipts(secret, Key{"b.t.v1", key.Group}))
	refuse("another secret", good, NewReceipts([]byte("another secret!!"), key))
}

// A receipt is made and read for each message that is delivered and acked.
func BenchmarkReceipt(b *testing.B) {
	r := NewReceipts([]byte("0123456789abcdef"), Key{"a.t.v1", "a.g.a.t.v1"})
	b.ReportAllocs()
	var text []byte
	for i := range b.N {
		text = r.Seal(text[:0], Ref{Partition: 3, Offset: int64(i), Attempt: 1, Hold: 77})
		if _, err := r.Open(string(text)); err != nil {
			b.Fatal(err)
		}
	}
}
