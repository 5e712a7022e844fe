package group

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// A topic changes under its subscribers.

func TestPartitionsAdded(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hub(Limits{})
		defer w.close(h)
		w.publish(0, 0, 1)
		newest := explicit(100)
		newest.Start = store.Start{Newest: true}
		s := w.open(h, newest)
		w.nothing(s, time.Second)
		if err := w.store.AlterTopic(t.Context(), store.Topic{Name: key.Topic, Partitions: 3}); err != nil {
			t.Fatal(err)
		}
		w.publish(2, 0, 2)
		got := w.want(s, 10, 0, 1) // from their first message on, whatever the group began with
		if got[0].Partition != 2 {
			t.Errorf("from partition %d", got[0].Partition)
		}
		w.settled(s.Settle(verbs(Ack, got...)...), nil)
		w.close(h)
		if c := w.committed(); !slices.Equal(c, []int64{1, 0, 2}) {
			t.Errorf("committed %v", c)
		}
	})
}

// remake deletes the topic and makes one of the same name.
func (w world) remake(partitions int32) {
	w.t.Helper()
	if err := w.store.DeleteTopic(w.t.Context(), key.Topic); err != nil {
		w.t.Fatal(err)
	}
	w.pass(time.Second)
	if err := w.store.CreateTopic(w.t.Context(), store.Topic{Name: key.Topic, Partitions: partitions}); err != nil {
		w.t.Fatal(err)
	}
}

func TestTopicDeletedAndMadeAnew(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hub(Limits{})
		w.publish(0, 0, 20)
		s := w.open(h, poll())
		old := w.want(s, 10, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
		w.settled(s.Settle(verbs(Ack, old[:3]...)...), nil)
		waiting := next(t.Context(), s)
		w.remake(2)
		if a := <-waiting; a.err == nil { // what was left of the old one
			a = <-next(t.Context(), s)
			if !errors.Is(a.err, errs.UnknownTopic) {
				t.Errorf("Next: %+v", a)
			}
		}
		s.Close()
		w.publish(0, 0, 6)
		w.publish(1, 0, 1)
		w.settled(h.Settle(t.Context(), key, verbs(Ack, old[4], old[8])...), errs.Fenced)
		s = w.open(h, poll())
		seen := map[string]bool{}
		for len(seen) < 7 {
			ds, err := w.get(s, 10, time.Second)
			if err != nil {
				t.Fatalf("after %d of 7: %v", len(seen), err)
			}
			for _, d := range ds {
				seen[fmt.Sprint(d.Partition, "/", d.Offset)] = true
			}
			w.settled(s.Settle(verbs(Ack, ds...)...), nil)
		}
		w.close(h)
		w.store = w.store.Reopen()
		h = w.hub(Limits{})
		defer w.close(h)
		w.publish(0, 6, 10)
		w.settled(h.Settle(t.Context(), key, verbs(Ack, old[8])...), errs.Fenced) // also for who did not see it happen
		w.want(w.open(h, poll()), 10, 6, 7, 8, 9)
	})
}

func TestDeletedTopicsThatAreRemembered(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hub(Limits{})
		defer w.close(h)
		gone := func(i int) {
			g := newGroup(key, &h.cfg, nil)
			g.err = fmt.Errorf("group: %w", errs.UnknownTopic)
			g.ledger.gain(false, store.Position{Next: 100}, 1, t0)
			h.remember(Key{Topic: fmt.Sprint(i)}, &slot{g: g})
		}
		for i := range maxAnew + 10 {
			gone(i)
		}
		last := Key{Topic: fmt.Sprint(maxAnew + 9)}
		if len(h.anew) != maxAnew || h.anew[last] != 100+maxSpan {
			t.Errorf("%d are remembered, the last as %d", len(h.anew), h.anew[last])
		}
	})
}

// The position is behind the topic's end: it was set there, or the topic is another one.
func TestPositionBehindTheEnd(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hub(Limits{})
		defer w.close(h)
		w.publish(0, 0, 10)
		if err := w.store.Seek(t.Context(), key.Topic, key.Group, store.Position{Next: 100}); err != nil {
			t.Fatal(err)
		}
		s := w.open(h, explicit(100))
		w.nothing(s, time.Second)
		w.publish(0, 10, 11)
		b, err := s.Next(t.Context(), 10)
		if err != nil || len(b.Deliveries) != 1 || b.Deliveries[0].Offset != 10 || !slices.Equal(b.Gaps, []store.Gap{{From: 100, To: 10}}) {
			t.Errorf("%+v, %v", b, err)
		}
		w.settled(s.Settle(verbs(Ack, b.Deliveries...)...), nil)
		w.pass(time.Second)
		if c := w.committed(); c[0] != 11 {
			t.Errorf("committed %v", c)
		}
	})
}

// A feed may tell of another topic in its place by a gap alone, with messages still in clients' hands.
func TestGapBackwardsFencesForGood(t *testing.T) {
	l := book(1)
	s := l.enter(explicit(100))
	old := l.next(s, 10, t0)
	l.gap(false, store.Gap{From: 10, To: 0}, t0)
	if s.c.held != 0 {
		t.Errorf("the client still counts %d messages of the old topic", s.c.held)
	}
	l.verbs(t, Ack, t0, errs.Fenced, old...)
	l.add(false, messages(0, 0, 5), t0)
	l.verbs(t, Ack, t0, errs.Fenced, old...)
	p := l.windows[spot{}].position(t0)
	l = fifoLedger()
	l.gain(false, p, 99, t0)
	l.verbs(t, Ack, t0, errs.Fenced, old...)
	l.add(false, messages(0, 0, 5), t0)
	l.verbs(t, Ack, t0, errs.Fenced, old...)
	got := l.next(l.enter(explicit(100)), 10, t0)
	expectOffsets(t, "the new topic's", got, 0, 1, 2, 3, 4)
	l.verbs(t, Ack, t0, nil, got...)
}

// Where it can't matter any more, the mark is dropped from the commits.
func TestTheMarkOfABeginGoesByItself(t *testing.T) {
	l := fifoLedger()
	l.gain(false, SeekPosition(store.PartitionLag{End: 3}, 0), 1, t0)
	l.add(false, messages(0, 0, 5), t0)
	got := l.next(l.enter(explicit(100)), 5, t0)
	l.verbs(t, Ack, t0, nil, got[:2]...)
	b, err := decodeBeyond(l.windows[spot{}].position(t0).Beyond, 2)
	if err != nil || b.anew != 3 || b.hold != got[0].Ref.Hold {
		t.Errorf("before the end: %+v, %v", b, err)
	}
	l.verbs(t, Ack, t0, nil, got[2:]...)
	if p := l.windows[spot{}].position(t0); p.Beyond != "" || p.Next != 5 {
		t.Errorf("behind it: %+v", p)
	}
}

// Acks of an earlier hold are repeated by clients that did not see the answer: what they speak of is done.
func TestReceiptsOfAnEarlierHold(t *testing.T) {
	l := fifoLedger()
	l.gain(false, store.Position{Next: 5}, 9, t0)
	earlier := func(offset int64) Delivery { return Delivery{Ref: Ref{Offset: offset, Attempt: 1, Hold: 1}} }
	l.verbs(t, Ack, t0, nil, earlier(4), earlier(6))
	l.add(false, messages(0, 5, 8), t0)
	l.verbs(t, Ack, t0, nil, earlier(4), earlier(6))
	got := l.next(l.enter(explicit(100)), 10, t0)
	expectOffsets(t, "what is left", got, 5, 7)
	l.verbs(t, Ack, t0, errs.Fenced, earlier(7))
}
