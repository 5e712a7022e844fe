package group

import (
	"encoding/base64"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/kateway/kateway/store"
)

// genBeyond draws what a window may know: done ranges and held messages above next, disjoint.
func genBeyond(t *rapid.T, next int64) beyond {
	b := beyond{hold: rapid.Uint32().Draw(t, "hold")}
	if rapid.Bool().Draw(t, "anew") {
		b.anew = next + rapid.Int64Range(1, maxDistance).Draw(t, "until")
	}
	at := next
	for range rapid.IntRange(0, 40).Draw(t, "ranges") {
		from := at + rapid.Int64Range(1, 300).Draw(t, "gap")
		to := from + rapid.Int64Range(1, 80).Draw(t, "length")
		b.done = append(b.done, span{from, to})
		at = to
	}
	at = next
	for range rapid.IntRange(0, 40).Draw(t, "held") {
		h := carried{offset: at, attempt: rapid.Uint32Range(1, 1<<20).Draw(t, "attempt"), state: rapid.Uint8Range(0, 2).Draw(t, "state")}
		if h.state != stateDue {
			h.remaining = time.Duration(rapid.Int64Range(0, 50_000_000).Draw(t, "remaining")) * time.Millisecond
		}
		b.held = append(b.held, h)
		at += rapid.Int64Range(1, 300).Draw(t, "step")
	}
	return b
}

func TestBeyondComesBackWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		next := rapid.Int64Range(0, 1<<50).Draw(t, "next")
		want := genBeyond(t, next)
		got, err := decodeBeyond(want.encode(next), next)
		if err != nil {
			t.Fatal(err)
		}
		if len(want.done)+len(want.held) == 0 && want.anew == 0 {
			want.hold = 0 // nothing to say is ""
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("got  %+v\nwant %+v", got, want)
		}
	})
}

// A window's done part fits whatever was acked, and what does not fit of the rest is cut from the end.
func TestBeyondFitsAlways(t *testing.T) {
	b := beyond{anew: maxDistance}
	for o := int64(1); o < maxSpan; o += 2 { // the worst: every second one
		b.done = append(b.done, span{o, o + 1})
		b.held = append(b.held, carried{offset: o - 1, attempt: 3, state: stateLeased, remaining: time.Hour})
	}
	s := b.encode(0)
	if len(s) > store.MaxBeyond {
		t.Fatalf("%d bytes, more than a commit takes", len(s))
	}
	got, err := decodeBeyond(s, 0)
	if err != nil || got.anew != b.anew || !reflect.DeepEqual(got.done, b.done) {
		t.Fatalf("the done part is not whole (%v): %d of %d ranges", err, len(got.done), len(b.done))
	}
	if n := len(got.held); n == 0 || n == len(b.held) || !reflect.DeepEqual(got.held, b.held[:n]) {
		t.Errorf("kept %d of %d held messages, want the lowest ones that fit", n, len(b.held))
	}
}

// Done ranges far apart, as compaction makes them, fit no bitmap: the last ones are done again.
func TestBeyondDropsFarRangesFromTheEnd(t *testing.T) {
	var b beyond
	for o := int64(1); len(b.done) < 2000; o += 1 << 20 {
		b.done = append(b.done, span{o, o + 1})
	}
	s := b.encode(0)
	got, err := decodeBeyond(s, 0)
	if n := len(got.done); err != nil || len(s) > store.MaxBeyond || n < 500 || !reflect.DeepEqual(got.done, b.done[:n]) {
		t.Errorf("%d bytes, %d ranges, %v", len(s), n, err)
	}
}

func TestBeyondOfOthersIsRefused(t *testing.T) {
	for _, s := range []string{"consumer-1", "%%%", "AQ", base64.RawStdEncoding.EncodeToString([]byte{2, 0, 0, 0, 1, 0, 0}),
		base64.RawStdEncoding.EncodeToString([]byte{1, 0, 0, 0, 1, 7, 0}), base64.RawStdEncoding.EncodeToString([]byte{1, 0, 0, 0, 1, 0, 200})} {
		if b, err := decodeBeyond(s, 5); err == nil {
			t.Errorf("%q was read as %+v", s, b)
		}
	}
}

func FuzzBeyond(f *testing.F) {
	f.Add((&beyond{hold: 1, done: []span{{7, 9}}, held: []carried{{offset: 5, attempt: 1, state: stateLeased, remaining: time.Second}}}).encode(5), int64(5))
	f.Add((&beyond{hold: 1, anew: 500, held: []carried{{offset: 5, attempt: 1}}}).encode(5), int64(5))
	f.Add("", int64(0))
	f.Fuzz(func(t *testing.T, s string, next int64) {
		next = min(max(next, 0), 1<<50)
		b, err := decodeBeyond(s, next)
		if err != nil {
			return
		}
		last := next
		for _, d := range b.done {
			if d.from < last || d.to < d.from {
				t.Fatalf("ranges out of order: %+v", b.done)
			}
			last = d.to
		}
	})
}

// Commits of before there was formSame are read.
func TestBeyondOfBefore(t *testing.T) {
	raw := []byte{beyondVersion, 0, 0, 0, 7, formRanges, 2, 3, 2, 1, 1<<2 | stateLeased, 0xE8, 0x07, 1, 2 << 2}
	b, err := decodeBeyond(base64.RawStdEncoding.EncodeToString(raw), 10)
	if err != nil || b.hold != 7 || !slices.Equal(b.done, []span{{13, 15}}) || !slices.Equal(b.held, []carried{
		{offset: 11, attempt: 1, state: stateLeased, remaining: time.Second}, {offset: 12, attempt: 2},
	}) {
		t.Errorf("%+v, %v", b, err)
	}
}

// What was delivered together takes a byte each, so that the leases of two thousand messages fit beside their acks.
func TestBeyondHoldsManyLeases(t *testing.T) {
	b := beyond{hold: 1}
	for i := range int64(2000) {
		b.done = append(b.done, span{2 * i, 2*i + 1})
		b.held = append(b.held, carried{offset: 2*i + 1, attempt: 1, state: stateLeased, remaining: time.Duration(20+i/100) * time.Second})
	}
	back, err := decodeBeyond(b.encode(0), 0)
	if err != nil || len(back.held) != 2000 || !slices.Equal(back.held, b.held) {
		t.Errorf("%d of 2000 fit, %v", len(back.held), err)
	}
}
