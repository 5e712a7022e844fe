package checker

import (
	"slices"
	"testing"
	"time"
)

// told is a history of one message that two streams of a group get, the second one so long after the first, which ends so long
// after that.
func told(explicit bool, apart, ends time.Duration) []Record {
	spec := &Spec{Mode: "queue", Explicit: explicit, Lease: 20 * time.Second}
	m := Message{ID: ID{Run: "r", Producer: 1, Seq: 1}, Attempt: 1, Receipt: "a"}
	again := m
	again.Attempt, again.Receipt = 2, "b"
	list := []Record{
		{Op: Declare, Phase: OK, Topic: "t", Group: "g", Spec: spec},
		{Op: Publish, Phase: Invoke, Topic: "t", Messages: []Message{m}},
		{Op: Publish, Phase: OK, Of: 2, Topic: "t", Messages: []Message{m}},
		{Op: Stream, Phase: Invoke, Topic: "t", Group: "g", Client: "one"},
		{Op: Stream, Phase: Invoke, Topic: "t", Group: "g", Client: "two"},
		{Op: Chunk, Phase: OK, Of: 4, Topic: "t", Group: "g", Client: "one", Messages: []Message{m}},
		{Op: Chunk, Phase: OK, Of: 5, Topic: "t", Group: "g", Client: "two", Messages: []Message{again}, At: apart},
		{Op: Stream, Phase: OK, Of: 4, Topic: "t", Group: "g", Client: "one", At: apart + ends},
		{Op: Stored, Phase: OK, Topic: "t", Messages: []Message{m}, At: apart + ends},
	}
	for i := range list {
		list[i].N = i + 1
	}
	return list
}

// With ack=auto a message that comes twice is an anomaly where the run says that nothing excuses it.
func TestAutoOnce(t *testing.T) {
	for _, once := range []bool{true, false} {
		got := slices.ContainsFunc(Check(told(false, time.Second, time.Second), Limits{AutoOnce: once}).Anomalies, func(a Anomaly) bool { return a.Rule == "C8" })
		if got != once {
			t.Errorf("AutoOnce %t: C8 %t", once, got)
		}
	}
}

// A stream that ends just after another client got its message may have ended before, where the run says so; no longer.
func TestEnds(t *testing.T) {
	for _, c := range []struct {
		ends, limit time.Duration
		split       bool
	}{{time.Second, 0, true}, {time.Second, 2 * time.Second, false}, {3 * time.Second, 2 * time.Second, true}} {
		got := slices.ContainsFunc(Check(told(true, time.Second, c.ends), Limits{Ends: c.limit}).Anomalies, func(a Anomaly) bool { return a.Rule == "C16" })
		if got != c.split {
			t.Errorf("ends after %v of %v: C16 %t", c.ends, c.limit, got)
		}
	}
}
