package group

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// A long delay is spent in the retry queue, also over a restart.
func TestLongDelay(t *testing.T) {
	for _, mode := range []Mode{Queue, ByKey} {
		for _, restart := range []bool{false, true} {
			t.Run(fmt.Sprint(mode, " ", restart), func(t *testing.T) {
				inWorld(t, 1, func(t *testing.T, w world) {
					h := w.hubWith(queues)
					w.publish(0, 0, 2)
					s := w.open(h, ask(mode))
					got := w.want(s, 10, 0, 1)
					began := time.Now()
					w.settled(s.Settle(Verb{Ref: got[0].Ref, Op: Nack, Delay: time.Hour}), nil)
					w.settled(s.Settle(verbs(Ack, got[1])...), nil)
					w.done(key.Topic, key.Group)
					w.expectQueue(retryQueue, 0)
					if restart {
						w.close(h)
						h = w.hubWith(queues)
						s = w.open(h, ask(mode))
					}
					w.nothing(s, time.Until(began.Add(time.Hour-500*time.Millisecond)))
					again := w.want(s, 10, 0)
					if d := again[0]; !d.Ref.Retry || d.Ref.Attempt != 2 || d.Partition != 0 || !d.Time.Equal(got[0].Time) || len(d.Headers) != 0 || string(d.Value) != "0" {
						t.Errorf("%+v of %+v", d.Ref, d.Message)
					}
					w.settled(s.Settle(verbs(Ack, again...)...), nil)
					w.done(retryQueue, key.Group+retryGroup)
					w.close(h)
				})
			})
		}
	}
}

// A poll's message from the retry queue is settled by whoever has its receipt, also when the group is not here.
func TestSettleInTheRetryQueueOverRestart(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hubWith(queues)
		was := published()
		w.requeue(h, stored((&move{msg: was, attempts: 3, dead: true}).message(), 0))
		s := w.open(h, poll())
		got := w.want(s, 1, was.Offset)
		s.Close()
		w.close(h)
		h = w.hubWith(queues)
		defer w.close(h)
		ref := got[0].Ref
		w.settled(h.Settle(t.Context(), key, Verb{Ref: ref}), nil)
		w.done(retryQueue, key.Group+retryGroup)
		began := time.Now()
		ref.Partition = 5 // there is no such partition: what is waited for is the joining alone
		w.settled(h.Settle(t.Context(), key, Verb{Ref: ref}), errs.Fenced)
		if took := time.Since(began); took > settleWait {
			t.Errorf("took %v", took)
		}
	})
}

// More messages than the window holds are not due for long: those behind them that are due come all the same.
func TestRetryQueueFullOfLater(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := NewHub(w.config(Limits{WindowMessages: 10, Fetch: 5}, queues))
		defer w.close(h)
		if err := w.store.CreateTopic(t.Context(), store.Topic{Name: retryQueue, Partitions: 1}); err != nil {
			t.Fatal(err)
		}
		later := time.Now().Add(10 * time.Hour)
		put := func(offset int64, due time.Time) {
			was := published()
			was.Offset = offset
			if err := w.store.Publish(t.Context(), retryQueue, store.AckAll, (&move{msg: was, attempts: 1, due: due}).message()); err != nil {
				t.Fatal(err)
			}
		}
		for i := range int64(35) {
			put(i, later)
		}
		put(99, time.Now())
		s := w.open(h, ask(Queue))
		began := time.Now()
		got, err := w.get(s, 10, 10*time.Minute)
		if err != nil || len(got) != 1 || got[0].Offset != 99 {
			t.Fatalf("%v, %v", offsets(got), err)
		}
		if took := time.Since(began); took > 5*time.Minute {
			t.Errorf("it came after %v", took)
		}
		w.settled(s.Settle(verbs(Ack, got...)...), nil)
		w.nothing(s, time.Until(later)-time.Second)
		seen := map[int64]int{}
		for len(seen) < 35 {
			ds, err := w.get(s, 10, time.Minute)
			if err != nil {
				t.Fatalf("after %d: %v", len(seen), err)
			}
			for _, d := range ds {
				if seen[d.Offset]++; d.Ref.Attempt != 2 {
					t.Errorf("offset %d: attempt %d", d.Offset, d.Ref.Attempt)
				}
			}
			w.settled(s.Settle(verbs(Ack, ds...)...), nil)
		}
		w.nothing(s, time.Hour)
		w.done(retryQueue, key.Group+retryGroup)
		if len(seen) != 35 {
			t.Errorf("%v", seen)
		}
	})
}

// Where the group has no retry queue nobody waits for one.
func TestSettleInARetryQueueThatIsNotThere(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hubWith(queues)
		defer w.close(h)
		began := time.Now()
		w.settled(h.Settle(t.Context(), key, Verb{Ref: Ref{Retry: true, Attempt: 1, Hold: 1}}), errs.Fenced)
		if took := time.Since(began); took != 0 {
			t.Errorf("took %v", took)
		}
	})
}

// What dies in the retry queue is as dead as if it had in the topic.
func TestPoisonInTheRetryQueue(t *testing.T) {
	for _, mode := range []Mode{Fifo, Queue, ByKey} {
		t.Run(string(mode), func(t *testing.T) {
			inWorld(t, 1, func(t *testing.T, w world) {
				h := w.hubWith(queues)
				defer w.close(h)
				w.publish(0, 0, 6)
				s := w.open(h, ask(mode))
				got := w.want(s, 10, 0, 1, 2, 3, 4, 5)
				w.settled(s.Settle(Verb{Ref: got[5].Ref, Op: Bury, Cause: "once"}), nil)
				w.settled(s.Settle(verbs(Ack, got[:5]...)...), nil)
				w.done(key.Topic, key.Group)
				w.requeue(h, w.held(deadQueue)...)
				for attempt := range uint32(3) {
					d := w.want(s, 10, 5)[0]
					if d.Ref.Attempt != attempt+1 || !d.Ref.Retry {
						t.Errorf("%+v", d.Ref)
					}
					w.settled(s.Settle(verbs(Nack, d)...), nil)
				}
				w.nothing(s, time.Minute)
				w.expectQueue(deadQueue, 5, 5)
				w.done(retryQueue, key.Group+retryGroup)
			})
		})
	}
}

// requeue puts dead messages into the retry queue, as an operator does.
func (w world) requeue(h *Hub, dead ...*store.Message) {
	w.t.Helper()
	var again []*store.Message
	for _, m := range dead {
		again = append(again, Redo(m))
	}
	if err := w.store.CreateTopic(w.t.Context(), store.Topic{Name: retryQueue, Partitions: 1}); err != nil && !errors.Is(err, store.ErrExists) {
		w.t.Fatal(err)
	}
	if err := w.store.Publish(w.t.Context(), retryQueue, store.AckAll, again...); err != nil {
		w.t.Fatal(err)
	}
	h.Requeued(key)
}

func TestRequeuedGroupIsElsewhere(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hubWith(queues)
		defer w.close(h)
		h.Requeued(key)
		if n := len(h.Keys()); n != 0 {
			t.Errorf("%d groups are here", n)
		}
	})
}

// The retry queue is deleted under the group, and made again by the next message that goes there.
func TestRetryQueueThatIsDeleted(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hubWith(queues)
		defer w.close(h)
		w.publish(0, 0, 3)
		s := w.open(h, ask(Queue))
		got := w.want(s, 10, 0, 1, 2)
		w.settled(s.Settle(Verb{Ref: got[0].Ref, Op: Nack, Delay: 2 * time.Minute}), nil)
		w.pass(time.Second)
		w.expectQueue(retryQueue, 0)
		if err := w.store.DeleteTopic(t.Context(), retryQueue); err != nil {
			t.Fatal(err)
		}
		w.pass(time.Second)
		w.settled(s.Settle(Verb{Ref: got[1].Ref, Op: Nack, Delay: 2 * time.Minute}), nil)
		w.settled(s.Settle(verbs(Ack, got[2])...), nil)
		w.nothing(s, 119500*time.Millisecond)
		w.want(s, 10, 1)
	})
}

// specs remembers who joined as what.
type specs struct {
	store.Subscriber
	seen []store.Spec
}

func (s *specs) Subscribe(ctx context.Context, spec store.Spec) (store.Feed, error) {
	s.seen = append(s.seen, spec)
	return s.Subscriber.Subscribe(ctx, spec)
}

func TestInstanceIsToldToTheStore(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		seen := &specs{Subscriber: w.store}
		c := w.config(Limits{}, queues)
		c.Store, c.Instance, c.Gone = seen, "gw1", func(i string) bool { return i == "gw9" }
		h := NewHub(c)
		w.requeue(h, published())
		w.open(h, ask(Queue))
		w.pass(time.Second)
		w.close(h)
		if len(seen.seen) != 2 {
			t.Fatalf("%+v", seen.seen)
		}
		for i, want := range [][2]string{{key.Topic, key.Group}, {retryQueue, key.Group + ".retry"}} {
			got := seen.seen[i]
			if got.Topic != want[0] || got.Group != want[1] || got.Instance != "gw1" || !got.Gone("gw9") || got.Gone("gw1") {
				t.Errorf("%+v, want %v", got, want)
			}
		}
	})
}

// late is a store that does not know the retry queue for a while.
type late struct {
	store.Subscriber
	from  time.Time
	looks atomic.Int32
}

func (l *late) Subscribe(ctx context.Context, spec store.Spec) (store.Feed, error) {
	if spec.Topic == retryQueue {
		if l.looks.Add(1); time.Now().Before(l.from) {
			return nil, errs.UnknownTopic
		}
	}
	return l.Subscriber.Subscribe(ctx, spec)
}

// A queue that was made by another gateway is not known here at once; one that nobody told of is found by and by.
func TestRetryQueueThatIsKnownLate(t *testing.T) {
	for _, told := range []bool{true, false} {
		t.Run(fmt.Sprint(told), func(t *testing.T) {
			inWorld(t, 1, func(t *testing.T, w world) {
				l := &late{Subscriber: w.store, from: time.Now().Add(time.Hour + 3*time.Second)}
				c := w.config(Limits{}, queues)
				c.Store = l
				h := NewHub(c)
				defer w.close(h)
				s := w.open(h, ask(Queue))
				w.pass(time.Hour)
				if l.looks.Load() > 13 {
					t.Errorf("looked for it %d times in an hour", l.looks.Load())
				}
				began := time.Now()
				if told {
					w.requeue(h, published())
				} else {
					w.requeue(w.hub(Limits{}), published())
				}
				got, err := w.get(s, 1, 10*time.Minute)
				if err != nil || len(got) != 1 {
					t.Fatal(err)
				}
				if took := time.Since(began); told && took > 4*time.Second || took > probeRetry {
					t.Errorf("found after %v", took)
				}
			})
		})
	}
}

// Leaving takes as long as the slower of the two queues, and what one could not write is told.
func TestLeavingTheRetryQueue(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		slow := &slow{Subscriber: w.store, only: retryQueue, out: 3 * time.Second, fail: context.DeadlineExceeded}
		c := w.config(Limits{}, queues)
		c.Store = slow
		h := NewHub(c)
		w.requeue(h, published())
		w.open(h, ask(Queue))
		synctest.Wait()
		began := time.Now()
		if err := h.Suspend(t.Context(), key, time.Second); !errors.Is(err, errs.Unavailable) {
			t.Errorf("Suspend: %v", err)
		}
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("took %v", took)
		}
		w.close(h)
	})
}
