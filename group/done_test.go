package group

import (
	"errors"
	"testing"

	"pgregory.net/rapid"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// Marks from outside are what a group would have done itself, whatever their order, and survive being written down.
func TestDone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		start := rapid.Int64Range(0, 50).Draw(t, "start")
		committed := rapid.Int64Range(-1, 80).Draw(t, "committed")
		lag := store.PartitionLag{Partition: 3, Start: start, End: 200, Committed: committed}
		done := map[int64]bool{}
		for o := range max(start, committed) {
			done[o] = true
		}
		for range rapid.IntRange(1, 5).Draw(t, "times") {
			d := NewDone(lag)
			for _, o := range rapid.SliceOf(rapid.Int64Range(start, 199)).Draw(t, "marks") {
				if err := d.Mark(o); err != nil {
					t.Fatal(err)
				}
				done[o] = true
			}
			p := d.Position()
			lag.Committed, lag.Beyond = p.Next, p.Beyond
		}
		d := NewDone(lag)
		for o := range int64(200) {
			if d.Has(o) != done[o] {
				t.Fatalf("offset %d: %v, position %d %q", o, d.Has(o), lag.Committed, lag.Beyond)
			}
		}
		if d.Next() < 200 && done[d.Next()] {
			t.Fatalf("next is %d, which is done", d.Next())
		}
	})
}

func TestDoneFarAhead(t *testing.T) {
	d := NewDone(store.PartitionLag{End: 1 << 40, Committed: 5})
	if err := d.Mark(5 + maxSpan); !errors.Is(err, errs.Conflict) {
		t.Errorf("%v", err)
	}
	if err := d.Mark(4 + maxSpan); err != nil || !d.Has(4+maxSpan) || d.Has(5) {
		t.Errorf("%v", err)
	}
	d.Pass(1 << 30)
	if !d.Has(1<<30-1) || d.Has(1<<30) || d.Position() != (store.Position{Next: 1 << 30}) {
		t.Errorf("%+v", d.Position())
	}
}

// What clients hold they may still ack, but for what was marked.
func TestDoneKeepsDeliveries(t *testing.T) {
	b := beyond{hold: 7, held: []carried{{offset: 2, attempt: 1, state: stateDue}, {offset: 4, attempt: 2, state: stateDue}}}
	d := NewDone(store.PartitionLag{End: 9, Committed: 1, Beyond: b.encode(1)})
	if err := d.Mark(2); err != nil {
		t.Fatal(err)
	}
	back, err := decodeBeyond(d.Position().Beyond, d.Position().Next)
	if err != nil || back.hold != 7 || len(back.held) != 1 || back.held[0].offset != 4 || back.held[0].attempt != 2 {
		t.Errorf("%+v, %v", back, err)
	}
}
