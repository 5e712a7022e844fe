package spool

import (
	"bytes"
	"testing"
	"time"

	"github.com/kateway/kateway/store"
)

// FuzzRecord: whatever is on the disk is read to an error or to what would be written so, and never by more memory than it takes.
func FuzzRecord(f *testing.F) {
	m := &store.Message{Partition: 3, Key: []byte("k"), Value: []byte("v"), Headers: []store.Header{{Key: "a", Value: []byte("b")}, {Key: "c"}}}
	f.Add(appendMessage(nil, m, time.UnixMilli(5)))
	f.Add((&outcome{seq: 7, time: 8, ends: 9, each: []one{{state: placed, partition: 1, offset: 2, time: 3}, {state: spooled, time: 4}, {state: failed, code: "c", text: "t"}}}).encode())
	f.Add(appendPositions(nil, []store.Position{{Partition: 1, Next: 2}}))
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f})
	f.Fuzz(func(t *testing.T, b []byte) {
		if o, err := decodeOutcome(b); err == nil {
			if len(o.each) > len(b) {
				t.Fatalf("%d messages of %d bytes", len(o.each), len(b))
			}
			again := o.encode()
			if o2, err := decodeOutcome(again); err != nil || !bytes.Equal(o2.encode(), again) {
				t.Fatalf("%x is read, and %x that is written of it is not: %v", b, again, err)
			}
		}
		if a, err := decodeAside(1, b); err == nil && len(a.Message.Value)+len(a.Message.Key) > len(b) {
			t.Fatalf("a message of %d bytes is longer", len(b))
		}
		r := reader{b: b}
		if list := r.positions(); r.err == nil && len(list) > len(b) {
			t.Fatalf("%d positions of %d bytes", len(list), len(b))
		}
	})
}
