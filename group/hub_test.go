package group

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

func TestDeliverAckCommit(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hub(Limits{})
		s := w.open(h, explicit(100))
		w.nothing(s, time.Second)
		w.publish(0, 0, 3)
		got := w.want(s, 10, 0, 1, 2)
		w.settled(s.Settle(verbs(Ack, got[:2]...)...), nil)
		w.pass(150 * time.Millisecond)
		if c := w.committed(); c[0] != 2 {
			t.Errorf("committed %v a while after the ack, want 2", c)
		}
		w.settled(s.Settle(verbs(Ack, got[2])...), nil)
		w.close(h)
		if c := w.committed(); c[0] != 3 {
			t.Errorf("committed %v after Close, want 3", c)
		}
		if _, err := w.get(s, 1, time.Second); !errors.Is(err, errs.Draining) {
			t.Errorf("Next after Close: %v", err)
		}
	})
}

func TestLeaseEndsByItself(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hub(Limits{})
		defer w.close(h)
		w.publish(0, 0, 2)
		a, b := w.open(h, explicit(100)), w.open(h, explicit(100))
		got := w.want(a, 10, 0, 1)
		w.nothing(b, 29500*time.Millisecond)
		again := w.want(b, 10, 0, 1)
		if again[0].Ref.Attempt != 2 {
			t.Errorf("attempt %d", again[0].Ref.Attempt)
		}
		w.settled(a.Settle(verbs(Ack, got...)...), errs.Fenced)
		w.settled(b.Settle(verbs(Ack, again...)...), nil)
	})
}

func TestNackDelayEndsByItself(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hub(Limits{})
		defer w.close(h)
		w.publish(0, 0, 1)
		s := w.open(h, explicit(100))
		got := w.want(s, 10, 0)
		w.settled(s.Settle(Verb{Ref: got[0].Ref, Op: Nack, Delay: time.Hour}), nil)
		s.Close() // the delay keeps the group
		w.pass(59*time.Minute + 500*time.Millisecond)
		s = w.open(h, explicit(100))
		w.nothing(s, 59*time.Second)
		w.want(s, 10, 0)
	})
}

// A poll's receipt may be settled by whoever has it, also after the group has left and after a restart.
func TestSettleOverRestart(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w world) {
		h := w.hub(Limits{})
		for p := range int32(3) {
			w.publish(p, 0, 4)
		}
		poll := explicit(100)
		poll.Stays = true
		s := w.open(h, poll)
		var got []Delivery
		for len(got) < 12 {
			ds, err := w.get(s, 12, time.Second)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, ds...)
		}
		s.Close()
		var odd, even []Delivery
		for _, d := range got {
			if d.Offset%2 == 1 {
				odd = append(odd, d)
			} else {
				even = append(even, d)
			}
		}
		w.settled(h.Settle(t.Context(), key, verbs(Ack, odd...)...), nil)
		w.close(h)
		if c := w.committed(); !slices.Equal(c, []int64{0, 0, 0}) {
			t.Fatalf("committed %v", c)
		}

		w.store = w.store.Reopen()
		h = w.hub(Limits{})
		receipts := h.Receipts(key)
		var back []Delivery
		for _, d := range even {
			ref, err := receipts.Open(string(receipts.Seal(nil, d.Ref)))
			if err != nil {
				t.Fatal(err)
			}
			back = append(back, Delivery{Ref: ref})
		}
		w.settled(h.Settle(t.Context(), key, verbs(Ack, back...)...), nil)
		w.settled(h.Settle(t.Context(), key, verbs(Ack, odd...)...), nil)
		w.nothing(w.open(h, explicit(100)), time.Minute)
		w.close(h)
		if c := w.committed(); !slices.Equal(c, []int64{4, 4, 4}) {
			t.Errorf("committed %v, want all", c)
		}
	})
}

func TestSettleOfAPartitionThatNeverComes(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hub(Limits{})
		defer w.close(h)
		began := time.Now()
		w.settled(h.Settle(t.Context(), key, Verb{Ref: Ref{Partition: 9, Attempt: 1, Hold: 1}}), errs.Fenced)
		w.settled(h.Through(t.Context(), key, store.Position{Partition: 9, Next: 1}), errs.Fenced)
		if took := time.Since(began); took > 2*settleWait {
			t.Errorf("took %v", took)
		}
	})
}

func TestIdleGroupLeavesAndComesBack(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hub(Limits{Linger: 10 * time.Second})
		defer w.close(h)
		joined := func() int {
			h.mu.Lock()
			defer h.mu.Unlock()
			return len(h.slots)
		}
		w.publish(0, 0, 2)
		s := w.open(h, explicit(100))
		got := w.want(s, 1, 0)
		w.settled(s.Settle(verbs(Ack, got...)...), nil)
		w.pass(time.Hour)
		if joined() != 1 {
			t.Fatal("left under a client")
		}
		s.Close()
		w.pass(9 * time.Second)
		synctest.Wait()
		if joined() != 1 {
			t.Error("left before its time")
		}
		w.pass(2 * time.Second)
		synctest.Wait()
		if joined() != 0 {
			t.Error("stays though nobody uses it")
		}
		w.want(w.open(h, explicit(100)), 10, 1)
	})
}

// An idle group sleeps: nothing wakes it but what it waits for.
func TestIdleGroupDoesNotSpin(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hub(Limits{})
		defer w.close(h)
		s := w.open(h, explicit(100))
		w.nothing(s, time.Second)
		h.mu.Lock()
		g := h.slots[key].g
		h.mu.Unlock()
		synctest.Wait()
		g.mu.Lock()
		at := g.alarm
		g.mu.Unlock()
		if !at.IsZero() {
			t.Errorf("looks again at %v, %v from now, with nothing to do", at, time.Until(at))
		}
	})
}

func TestTwoHubsShareAndHandOver(t *testing.T) {
	inWorld(t, 4, func(t *testing.T, w world) {
		one, two := w.hub(Limits{}), w.hub(Limits{})
		defer w.close(two)
		for p := range int32(4) {
			w.publish(p, 0, 50)
		}
		seen := map[string]int{}
		drain := func(s Session) {
			for {
				ds, err := w.get(s, 20, 2*time.Second)
				if err != nil {
					return
				}
				for _, d := range ds {
					seen[fmt.Sprint(d.Partition, "/", d.Offset)]++
				}
				w.settled(s.Settle(verbs(Ack, ds...)...), nil)
			}
		}
		a := w.open(one, explicit(100))
		ds, err := w.get(a, 30, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range ds {
			seen[fmt.Sprint(d.Partition, "/", d.Offset)]++
		}
		w.settled(a.Settle(verbs(Ack, ds...)...), nil)
		b := w.open(two, explicit(100))
		drain(b)
		drain(a)
		w.close(one)
		drain(b)
		for m, n := range seen {
			if n != 1 {
				t.Errorf("%s was delivered %d times over clean moves", m, n)
			}
		}
		if len(seen) != 200 {
			t.Errorf("%d of 200 messages came", len(seen))
		}
	})
}

func TestUncleanLossFences(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hub(Limits{})
		defer w.close(h)
		w.publish(0, 0, 2)
		s := w.open(h, explicit(100))
		got := w.want(s, 10, 0, 1)
		w.store.Evict(key.Topic, key.Group)
		again := w.want(s, 10, 0, 1)
		w.settled(s.Settle(verbs(Ack, got...)...), errs.Fenced)
		w.settled(s.Settle(verbs(Ack, again...)...), nil)
	})
}

func TestRefusedMetadataIsLeftOutByAndBy(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hub(Limits{})
		var tried []string
		w.store.Refuse(func(_, _ string, p store.Position) error {
			tried = append(tried, p.Beyond)
			if p.Beyond != "" {
				return errs.TooLarge
			}
			return nil
		})
		w.publish(0, 0, 5)
		s := w.open(h, explicit(100))
		got := w.want(s, 10, 0, 1, 2, 3, 4)
		w.settled(s.Settle(verbs(Ack, got[0], got[2])...), nil)
		w.pass(time.Second)
		synctest.Wait()
		w.close(h)
		if c := w.committed(); c[0] != 1 || len(tried) < 3 || tried[len(tried)-1] != "" || tried[len(tried)-2] == "" || len(tried[len(tried)-2]) >= len(tried[0]) {
			t.Errorf("committed %v after trying %q", c, tried)
		}
	})
}

func TestStoreFailsAndComesBack(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hub(Limits{})
		defer w.close(h)
		s := w.open(h, explicit(100))
		w.store.FailPoll(func(_, _ string) error { return errs.Unavailable })
		w.publish(0, 0, 1)
		w.nothing(s, time.Minute)
		w.store.FailPoll(nil)
		w.pass(5 * time.Second)
		w.want(s, 10, 0)
	})
}

func TestTopicGone(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hub(Limits{})
		defer w.close(h)
		s := w.open(h, explicit(100))
		if err := w.store.DeleteTopic(t.Context(), key.Topic); err != nil {
			t.Fatal(err)
		}
		if _, err := w.get(s, 1, time.Second); !errors.Is(err, errs.UnknownTopic) {
			t.Errorf("Next: %v", err)
		}
		w.pass(time.Second)
		if _, err := h.Open(t.Context(), Ask{Key: key, Settings: Settings{Mode: Fifo}}); !errors.Is(err, errs.UnknownTopic) {
			t.Errorf("Open: %v", err)
		}
	})
}

func TestModeConflict(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hub(Limits{})
		defer w.close(h)
		w.open(h, explicit(1))
		if _, err := h.Open(t.Context(), Ask{Key: key, Settings: Settings{Mode: Queue}}); !errors.Is(err, errs.Conflict) {
			t.Errorf("another mode: %v", err)
		}
	})
}

func TestDrainSpreadsTheEndAndTakesVerbs(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hub(Limits{})
		w.publish(0, 0, 1)
		poll := explicit(1)
		poll.Stays = true
		p := w.open(h, poll)
		got := w.want(p, 1, 0)
		p.Close()
		ends := make(chan time.Duration, 10)
		began := time.Now()
		for range 10 {
			s := w.open(h, explicit(100))
			go func() {
				if _, err := s.Next(context.Background(), 1); !errors.Is(err, errs.Draining) {
					t.Errorf("Next: %v", err)
				}
				ends <- time.Since(began)
				s.Close()
			}()
		}
		synctest.Wait()
		h.Drain(10 * time.Second)
		if _, err := h.Open(t.Context(), Ask{Key: key, Settings: Settings{Mode: Fifo}}); !errors.Is(err, errs.Draining) {
			t.Errorf("Open while draining: %v", err)
		}
		other := Key{"b.t.v1", "a.g.b.t.v1"}
		if _, err := h.Open(t.Context(), Ask{Key: other, Settings: Settings{Mode: Fifo}}); !errors.Is(err, errs.Draining) {
			t.Errorf("Open of another group while draining: %v", err)
		}
		w.settled(h.Settle(t.Context(), key, verbs(Ack, got...)...), nil)
		for i := range 10 {
			if at := <-ends; at != time.Duration(i)*time.Second {
				t.Errorf("session %d ended after %v", i, at)
			}
		}
		w.close(h)
	})
}

// One client that does not take its messages stops neither the others nor the commit of other partitions.
func TestSlowClientStopsOnlyItsPartition(t *testing.T) {
	inWorld(t, 2, func(t *testing.T, w world) {
		h := w.hub(Limits{WindowMessages: 20, Fetch: 10})
		defer w.close(h)
		slow, fast := w.open(h, explicit(5)), w.open(h, explicit(100))
		w.publish(0, 0, 1)
		w.want(slow, 1, 0)
		w.publish(0, 1, 500)
		w.publish(1, 0, 500)
		for next := int64(0); next < 500; {
			ds, err := w.get(fast, 50, time.Second)
			if err != nil {
				t.Fatalf("after %d: %v", next, err)
			}
			for _, d := range ds {
				if d.Partition != 1 || d.Offset != next {
					t.Fatalf("partition %d offset %d, want 1 and %d", d.Partition, d.Offset, next)
				}
				next++
			}
			w.settled(fast.Settle(verbs(Ack, ds...)...), nil)
		}
		slow.Close()
		for next := int64(0); next < 500; {
			ds, err := w.get(fast, 50, time.Second)
			if err != nil {
				t.Fatalf("after %d of the slow one's: %v", next, err)
			}
			next += int64(len(ds))
			w.settled(fast.Settle(verbs(Ack, ds...)...), nil)
		}
	})
}
