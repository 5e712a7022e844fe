package group

import (
	"reflect"
	"testing"

	"github.com/kateway/kateway/store"
)

// FuzzReceipt: nothing is taken for a receipt but what this group has made, letter for letter.
func FuzzReceipt(f *testing.F) {
	r := NewReceipts([]byte("0123456789abcdef"), Key{"a.t.v1", "a.g.a.t.v1"})
	for _, d := range []Ref{{}, {Partition: 7, Offset: 1 << 40, Attempt: 3, Hold: 9}, {Retry: true, Partition: 1<<31 - 1, Offset: 1<<63 - 1, Attempt: 1<<32 - 1, Hold: 1<<32 - 1}} {
		f.Add(string(r.Seal(nil, d)))
	}
	f.Add("")
	f.Add("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	f.Fuzz(func(t *testing.T, text string) {
		if d, err := r.Open(text); err == nil && string(r.Seal(nil, d)) != text {
			t.Fatalf("%q is taken for %+v", text, d)
		}
	})
}

// FuzzOrigin: what a retry or dead queue has as headers is the group's own to the letter, or the message's.
func FuzzOrigin(f *testing.F) {
	for _, h := range marks {
		f.Add(h, "1", "2", "3", "4", "cause", true)
	}
	f.Add("a", "-1", "99999999999999999999", "+3", "04", "\xff", false)
	f.Fuzz(func(t *testing.T, own, partition, offset, at, attempts, cause string, late bool) {
		values := []string{partition, offset, at, attempts, cause}
		list := []store.Header{{Key: own, Value: []byte(own)}}
		for i, name := range marks {
			list = append(list, store.Header{Key: name, Value: []byte(values[i%len(values)])})
		}
		if late {
			list = append(list, store.Header{Key: HeaderDue, Value: []byte(at)})
		}
		o, rest, ok := parse(&store.Message{Headers: list})
		switch {
		case !ok && len(rest) != len(list):
			t.Fatalf("it is none, and has lost headers: %v", rest)
		case ok && (o.Partition < 0 || o.Offset < 0 || !reflect.DeepEqual(rest, list[:1])):
			t.Fatalf("%+v, %v", o, rest)
		}
	})
}
