package group

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

func (w world) suspend(h *Hub, hold time.Duration) {
	w.t.Helper()
	if err := h.Suspend(w.t.Context(), key, hold); err != nil {
		w.t.Fatalf("Suspend: %v", err)
	}
}

// seek sets the group's position on a partition, as an operator does.
func (w world) seek(p int32, next int64) {
	w.t.Helper()
	lag, err := w.store.Lag(w.t.Context(), key.Topic, key.Group)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.store.Seek(w.t.Context(), key.Topic, key.Group, SeekPosition(lag[p], next)); err != nil {
		w.t.Fatalf("Seek: %v", err)
	}
}

// answer is what a call in the background answered.
type answer struct {
	offsets []int64
	err     error
	at      time.Duration // after the call
}

// next calls Next in the background.
func next(ctx context.Context, s Session) <-chan answer {
	out, began := make(chan answer, 1), time.Now()
	go func() {
		b, err := s.Next(ctx, 100)
		out <- answer{offsets(b.Deliveries), err, time.Since(began)}
	}()
	return out
}

func poll() *Ask {
	a := explicit(100)
	a.Stays = true
	return a
}

func TestSuspendSeekResume(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hub(Limits{})
		defer w.close(h)
		w.publish(0, 0, 10)
		s := w.open(h, explicit(100))
		got := w.want(s, 100, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
		w.settled(s.Settle(verbs(Ack, got...)...), nil)
		waiting := next(t.Context(), s)
		w.suspend(h, 30*time.Second)
		if c := w.committed(); c[0] != 10 {
			t.Errorf("committed %v when Suspend returned, want 10", c)
		}
		w.publish(0, 10, 11)
		w.seek(0, 7)
		w.pass(20 * time.Second)
		select {
		case a := <-waiting:
			t.Fatalf("Next answered %+v while suspended", a)
		default:
		}
		h.Resume(key)
		if a := <-waiting; a.err != nil || !slices.Equal(a.offsets, []int64{7, 8, 9, 10}) || a.at != 20*time.Second {
			t.Errorf("after the seek: %+v", a)
		}
		h.Resume(key) // nothing to end
	})
}

// A client's wait for messages goes on over a suspension in as many calls as it takes.
func TestShortWaitsWhileSuspended(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hub(Limits{})
		defer w.close(h)
		s := w.open(h, explicit(100))
		w.suspend(h, 30*time.Second)
		w.publish(0, 0, 1)
		for range 29 {
			w.nothing(s, time.Second)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := s.Next(ended, 1); !errors.Is(err, context.Canceled) {
			t.Errorf("Next that may not wait: %v", err)
		}
		w.pass(2 * time.Second) // the hold is over, and nobody is in Next
		w.want(s, 10, 0)
	})
}

func TestHoldEndsByItself(t *testing.T) {
	for hold, want := range map[time.Duration]time.Duration{
		5 * time.Second: 5 * time.Second, time.Hour: maxSuspend, 0: maxSuspend,
	} {
		t.Run(hold.String(), func(t *testing.T) {
			inWorld(t, 1, func(t *testing.T, w world) {
				h := w.hub(Limits{})
				defer w.close(h)
				s := w.open(h, explicit(100))
				w.suspend(h, hold)
				w.publish(0, 0, 1)
				if a := <-next(t.Context(), s); a.err != nil || a.at != want {
					t.Errorf("%+v, want it after %v", a, want)
				}
				if len(h.suspended) != 0 {
					t.Error("the suspension is still kept")
				}
			})
		})
	}
}

func TestTwoSuspensions(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hub(Limits{})
		defer w.close(h)
		s := w.open(h, explicit(100))
		w.publish(0, 0, 2)
		w.suspend(h, 10*time.Second)
		w.pass(5 * time.Second)
		w.suspend(h, time.Second) // ends earlier: changes nothing
		w.nothing(s, 4900*time.Millisecond)
		w.suspend(h, 10*time.Second)
		w.nothing(s, 9900*time.Millisecond)
		got := w.want(s, 1, 0)
		w.settled(s.Settle(verbs(Ack, got...)...), nil)

		w.suspend(h, 10*time.Second)
		w.suspend(h, 20*time.Second)
		h.Resume(key)
		if a := <-next(t.Context(), s); a.err != nil || a.at != 0 || !slices.Equal(a.offsets, []int64{1}) {
			t.Errorf("one Resume ends both, but Next answered %+v", a)
		}
	})
}

func TestOpenWhileSuspended(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hub(Limits{})
		defer w.close(h)
		w.publish(0, 0, 1)
		w.suspend(h, 10*time.Second) // nobody is here yet
		short, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if _, err := h.Open(short, Ask{Key: key, Settings: Settings{Mode: Fifo}}); !errors.Is(err, errs.Unavailable) {
			t.Errorf("Open that waits for 3 s: %v", err)
		}
		began := time.Now()
		w.want(w.open(h, explicit(100)), 10, 0)
		if took := time.Since(began); took != 7*time.Second {
			t.Errorf("Open came back after %v, want 7s", took)
		}
	})
}

func TestSettleWhileSuspended(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hub(Limits{})
		defer w.close(h)
		w.publish(0, 0, 3)
		s := w.open(h, poll())
		got := w.want(s, 100, 0, 1, 2)
		w.suspend(h, 8*time.Second) // longer than verbs look for a partition
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		w.settled(h.Settle(short, key, verbs(Ack, got[0])...), errs.Unavailable)
		w.settled(h.Through(short, key, store.Position{Next: 1}), errs.Unavailable)
		w.settled(s.Settle(verbs(Ack, got[1])...), errs.Fenced) // nobody would commit it
		began := time.Now()
		w.settled(h.Settle(t.Context(), key, verbs(Ack, got[0])...), nil)
		if took := time.Since(began); took != 7*time.Second {
			t.Errorf("Settle came back after %v, want 7s", took)
		}
		w.settled(h.Through(t.Context(), key, store.Position{Next: 2}), nil)
		w.nothing(s, 29500*time.Millisecond) // the lease goes on where it was
		again := w.want(s, 100, 2)
		if again[0].Ref.Attempt != 2 {
			t.Errorf("attempt %d, want 2", again[0].Ref.Attempt)
		}
		w.settled(s.Settle(verbs(Ack, again...)...), nil)
	})
}

// What a receipt of before a seek says is of a delivery that the operator has undone: it must not ack the new one, whether
// that has been made or not, also after the partition has moved on and the gateway was started anew.
func TestReceiptsOfBeforeASeek(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hub(Limits{})
		w.publish(0, 0, 20)
		s := w.open(h, poll())
		old := w.want(s, 10, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9)
		w.settled(s.Settle(verbs(Ack, old[:6]...)...), nil)
		w.suspend(h, time.Minute)
		w.seek(0, 2)
		h.Resume(key)
		w.settled(h.Settle(t.Context(), key, verbs(Ack, old[3], old[8])...), errs.Fenced)
		again := w.want(s, 2, 2, 3)
		w.settled(h.Settle(t.Context(), key, verbs(Ack, old[2], old[3], old[8])...), errs.Fenced)
		w.settled(s.Settle(verbs(Ack, again...)...), nil)

		w.suspend(h, time.Minute)
		h.Resume(key)
		w.settled(h.Settle(t.Context(), key, verbs(Ack, old[8])...), errs.Fenced)
		w.close(h)
		w.store = w.store.Reopen()
		h = w.hub(Limits{})
		defer w.close(h)
		w.settled(h.Settle(t.Context(), key, verbs(Ack, old[8])...), errs.Fenced)
		w.want(w.open(h, poll()), 5, 4, 5, 6, 7, 8)
	})
}

func TestSeekPositionKeepsQuietWhereItCan(t *testing.T) {
	if p := SeekPosition(store.PartitionLag{Partition: 3, End: 10}, 10); p != (store.Position{Partition: 3, Next: 10}) {
		t.Errorf("to the end: %+v", p)
	}
	p := SeekPosition(store.PartitionLag{Partition: 3, End: 1 << 50}, 1)
	b, err := decodeBeyond(p.Beyond, p.Next)
	if err != nil || b.hold == 0 || b.anew != 1+maxDistance || len(b.done)+len(b.held) > 0 {
		t.Errorf("%+v: %+v, %v", p, b, err)
	}
}

func TestClientsThatLeaveWhileSuspended(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hub(Limits{})
		defer w.close(h)
		w.publish(0, 0, 2)
		stream, other := w.open(h, explicit(100)), w.open(h, explicit(100))
		got := w.want(stream, 1, 0)
		closing := next(t.Context(), other)
		w.suspend(h, 30*time.Second)
		hungUp, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if a := <-next(hungUp, stream); !errors.Is(a.err, context.DeadlineExceeded) || a.at != time.Second {
			t.Errorf("who hangs up: %+v", a)
		}
		stream.Close()
		stream.Close()
		other.Close()
		if a := <-closing; !errors.Is(a.err, errClosed) || a.at != time.Second {
			t.Errorf("who is closed in Next: %+v", a)
		}
		if _, err := stream.Next(t.Context(), 1); !errors.Is(err, errClosed) {
			t.Errorf("Next after Close: %v", err)
		}
		if info, some := h.Info(key); some || info.Clients != 0 || h.Sessions() != 0 {
			t.Errorf("%+v, %v, %d sessions when all have gone", info, some, h.Sessions())
		}
		h.Resume(key)
		w.pass(time.Minute)
		if _, some := h.Info(key); some {
			t.Error("the group was joined again though nobody uses it")
		}
		w.settled(h.Settle(t.Context(), key, verbs(Ack, got...)...), errs.Fenced)
		w.want(w.open(h, explicit(100)), 10, 0, 1)
	})
}

func TestDrainWhileSuspended(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hub(Limits{})
		s := w.open(h, explicit(100))
		w.suspend(h, time.Minute)
		waiting := next(t.Context(), s)
		opened := make(chan error, 1)
		go func() {
			_, err := h.Open(t.Context(), Ask{Key: key, Settings: Settings{Mode: Fifo}})
			opened <- err
		}()
		synctest.Wait()
		h.Drain(10 * time.Second)
		if a := <-waiting; !errors.Is(a.err, errs.Draining) || a.at != 0 {
			t.Errorf("Next: %+v", a)
		}
		if err := <-opened; !errors.Is(err, errs.Draining) {
			t.Errorf("Open: %v", err)
		}
		w.suspend(h, time.Minute)
		w.close(h)
	})
}

// A gateway that drains can be asked to leave a group as well: its verbs are committed, and its clients told that it drains.
func TestSuspendWhileDraining(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hub(Limits{})
		w.publish(0, 0, 1)
		one, two := w.open(h, explicit(100)), w.open(h, explicit(100))
		got := w.want(one, 1, 0)
		w.settled(one.Settle(verbs(Ack, got...)...), nil)
		w.pass(time.Second)
		ends := []<-chan answer{next(t.Context(), one), next(t.Context(), two)}
		synctest.Wait()
		h.Drain(time.Hour)
		w.suspend(h, time.Minute)
		w.seek(0, 0)
		for _, end := range ends {
			if a := <-end; !errors.Is(a.err, errs.Draining) || a.at != 0 {
				t.Errorf("Next: %+v", a)
			}
		}
		w.close(h)
	})
}

func TestCloseWhileSuspended(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hub(Limits{})
		s := w.open(h, explicit(100))
		w.suspend(h, time.Minute)
		waiting := next(t.Context(), s)
		synctest.Wait()
		w.close(h)
		if a := <-waiting; !errors.Is(a.err, errs.Draining) || a.at != 0 {
			t.Errorf("Next: %+v", a)
		}
	})
}

func TestTopicGoesWhileSuspended(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hub(Limits{})
		defer w.close(h)
		s := w.open(h, explicit(100))
		w.suspend(h, time.Second)
		if err := w.store.DeleteTopic(t.Context(), key.Topic); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Next(t.Context(), 1); !errors.Is(err, errs.UnknownTopic) {
			t.Errorf("Next: %v", err)
		}
	})
}

// Streams that ack what they got, polls that come and go, and a publisher, while the group is suspended again and again:
// everything is acked, and nothing comes again once its ack was taken.
func TestSuspendUnderLoad(t *testing.T) {
	const partitions, each = 3, 400
	inWorld(t, partitions, func(t *testing.T, w world) {
		h := w.hub(Limits{})
		l := newLoad(w, h)
		for range 2 {
			l.wg.Go(l.stream)
			l.wg.Go(l.polls)
		}
		for i := range each {
			for p := range int32(partitions) {
				w.publish(p, i, i+1)
			}
			w.pass(7 * time.Millisecond)
			if i%25 == 24 {
				w.suspend(h, time.Duration(i)*time.Millisecond)
				w.pass(time.Duration(i%4) * 10 * time.Millisecond)
				if i%50 == 24 {
					h.Resume(key)
				}
			}
		}
		h.Resume(key)
		w.pass(2 * time.Minute) // for leases of deliveries that nobody took
		l.finish(partitions * each)
		w.close(h)
		if c := w.committed(); !slices.Equal(c, []int64{each, each, each}) {
			t.Errorf("committed %v, want %d each", c, each)
		}
	})
}

// Two gateways share the group; an operator sets it back on both.
func TestSuspendOnTwoHubs(t *testing.T) {
	inWorld(t, 4, func(t *testing.T, w world) {
		one, two := w.hub(Limits{}), w.hub(Limits{})
		l, other := newLoad(w, one), newLoad(w, two)
		other.acked = l.acked
		l.wg.Go(l.stream)
		other.wg.Go(other.stream)
		for p := range int32(4) {
			w.publish(p, 0, 50)
		}
		w.pass(10 * time.Second)
		if got := l.acked.count(); got != 200 {
			t.Fatalf("%d of 200 are acked", got)
		}
		w.suspend(one, time.Minute)
		if err := w.store.Seek(t.Context(), key.Topic, key.Group, store.Position{}); !errors.Is(err, errs.Conflict) {
			t.Errorf("Seek with one gateway suspended of two: %v", err)
		}
		w.suspend(two, time.Minute)
		for p := range int32(4) {
			w.seek(p, 40)
			l.acked.undo(p, 40)
		}
		one.Resume(key)
		two.Resume(key)
		w.pass(10 * time.Second)
		other.finish(200)
		l.finish(200)
		w.close(one)
		w.close(two)
	})
}

// It was lengthened while its timer was going off.
func TestLengthenedAtTheLastMoment(t *testing.T) {
	inWorld(t, 1, func(_ *testing.T, w world) {
		h := w.hub(Limits{})
		defer w.close(h)
		w.suspend(h, time.Second)
		w.suspend(h, time.Minute)
		h.expire(key, h.suspended[key])
		if len(h.suspended) != 1 {
			w.t.Error("it is over")
		}
		first := h.suspended[key]
		h.Resume(key)
		w.suspend(h, time.Minute)
		first.until = time.Now()
		h.expire(key, first)
		if len(h.suspended) != 1 {
			w.t.Error("an earlier one's timer ended it")
		}
	})
}

// Whose life has ended gives nothing away: neither what is released then, nor what verbs make due.
func TestNothingIsGivenAfterTheEnd(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hub(Limits{})
		g := newGroup(key, &h.cfg, nil)
		g.ledger.gain(false, store.Position{}, 1, time.Now())
		g.ledger.add(false, messages(0, 0, 4), time.Now())
		var seats []*seat
		for range 2 {
			s, err := g.join(explicit(2), nil)
			if err != nil {
				t.Fatal(err)
			}
			seats = append(seats, s)
		}
		held := g.ledger.next(seats[0].waiter, 2, time.Now())
		waiting := next(t.Context(), seats[1])
		synctest.Wait()
		g.end(ErrMoved)
		seats[0].Settle(verbs(Ack, held...)...)
		seats[0].Close()
		if a := <-waiting; !errors.Is(a.err, ErrMoved) {
			t.Errorf("%+v", a)
		}
		g.sealed = true
		if g.unlessSealed(func(*group) { t.Error("a verb was applied after the last commit") }) {
			t.Error("it says that it was")
		}
		w.close(h)
	})
}
