package group

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
	"github.com/kateway/kateway/store/mem"
)

const (
	retryQueue = "a.t.v1.a.g.retry"
	deadQueue  = "a.t.v1.a.g.dead"
)

// queues is the policy of a group that has both.
var queues = Policy{MaxAttempts: 3, Retry: retryQueue, Dead: deadQueue}

func (w world) hubWith(p Policy) *Hub { return NewHub(w.config(Limits{}, p)) }

// ask is of a client that leaves when its session ends.
func ask(m Mode) *Ask {
	a := explicit(100)
	a.Mode = m
	return a
}

// within lists what a queue holds; none where there is no such topic.
func (w world) held(topic string) (out []*store.Message) {
	w.t.Helper()
	for m, err := range w.store.Browse(context.Background(), topic, 0, 0) {
		if errors.Is(err, errs.UnknownTopic) {
			return nil
		}
		if err != nil {
			w.t.Fatal(err)
		}
		out = append(out, m)
	}
	return out
}

// origins are the offsets in the topic of what a queue holds.
func (w world) origins(topic string) (out []int64) {
	w.t.Helper()
	for _, m := range w.held(topic) {
		o, ok := Origin(m)
		if !ok {
			w.t.Errorf("%s has %+v", topic, m)
		}
		out = append(out, o.Offset)
	}
	return out
}

func (w world) expectQueue(topic string, offsets ...int64) {
	w.t.Helper()
	if got := w.origins(topic); !slices.Equal(got, offsets) {
		w.t.Errorf("%s holds %v, want %v", topic, got, offsets)
	}
}

// done looks that the group has done everything, of the topic or of its retry queue.
func (w world) done(topic, group string) {
	w.t.Helper()
	w.pass(time.Second)
	lag, err := w.store.Lag(context.Background(), topic, group)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, l := range lag {
		if l.Committed != l.End {
			w.t.Errorf("%s: done up to %d of %d", topic, l.Committed, l.End)
		}
	}
}

// A message that is never acked ends in the dead queue, and the others are done by then.
func TestPoison(t *testing.T) {
	for _, mode := range []Mode{Fifo, Queue, ByKey} {
		t.Run(string(mode), func(t *testing.T) {
			inWorld(t, 1, func(t *testing.T, w world) {
				h := w.hubWith(queues)
				defer w.close(h)
				w.publish(0, 0, 10)
				s := w.open(h, ask(mode))
				began, attempts := time.Now(), 0
				for time.Since(began) < 10*time.Minute {
					ds, err := w.get(s, 100, time.Minute)
					if err != nil {
						continue
					}
					for _, d := range ds {
						if d.Offset == 4 {
							attempts++
							continue
						}
						if d.Ref.Attempt > 2 {
							t.Errorf("offset %d suffers for the poisoned one: attempt %d", d.Offset, d.Ref.Attempt)
						}
						s.Settle(verbs(Ack, d)...)
					}
				}
				if attempts != 3 {
					t.Errorf("delivered %d times", attempts)
				}
				w.expectQueue(deadQueue, 4)
				w.done(key.Topic, key.Group)
				dead := w.held(deadQueue)
				if len(dead) == 0 {
					t.Fatal("nothing is in the dead queue")
				}
				o, _ := Origin(dead[0])
				if o.Attempts != 3 || !strings.Contains(o.Cause, "lease ended") || !o.Due.IsZero() {
					t.Errorf("%+v", o)
				}
				if m := dead[0]; string(m.Value) != "4" || len(m.Headers) != len(marks) {
					t.Errorf("%+v", m)
				}
			})
		})
	}
}

func TestBuryThroughTheHub(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hubWith(queues)
		defer w.close(h)
		w.publish(0, 0, 3)
		s := w.open(h, poll())
		got := w.want(s, 10, 0, 1, 2)
		w.settled(s.Settle(verbs(Ack, got[0], got[2])...), nil)
		w.settled(h.Settle(t.Context(), key, Verb{Ref: got[1].Ref, Op: Bury, Cause: "no such customer"}), nil)
		w.done(key.Topic, key.Group)
		w.expectQueue(deadQueue, 1)
		if o, _ := Origin(w.held(deadQueue)[0]); o.Cause != "no such customer" || o.Attempts != 1 {
			t.Errorf("%+v", o)
		}
		topics, err := w.store.Topics(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(topics, func(t store.Topic) bool { return t.Name == deadQueue })
		if i < 0 || topics[i].Partitions != 1 || topics[i].Retention != deadRetention || topics[i].Replicas != 1 {
			t.Errorf("the queue was made as one of %+v", topics)
		}
		if n := testutil.CollectAndCount(h, "kateway_group_dead_total"); n != 1 {
			t.Errorf("%d metrics", n)
		}
		if err := testutil.CollectAndCompare(h, strings.NewReader(`
# HELP kateway_group_dead_total Messages moved to dead queues.
# TYPE kateway_group_dead_total counter
kateway_group_dead_total 1
`), "kateway_group_dead_total"); err != nil {
			t.Error(err)
		}
	})
}

// A queue that cannot be published to loses nothing and holds nobody up.
func TestQueueThatFails(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		var logged bytes.Buffer
		c := w.config(Limits{}, queues)
		c.Log = slog.New(slog.NewTextHandler(&logged, nil))
		h := NewHub(c)
		defer w.close(h)
		refused := 0
		w.store.Fail(func(topic string) error {
			if topic == deadQueue {
				refused++
				return errs.Unavailable
			}
			return nil
		})
		w.publish(0, 0, 100)
		s := w.open(h, ask(Queue))
		got := w.want(s, 100, seq(0, 100)...)
		for i, d := range got {
			op := Ack
			if i%10 == 0 {
				op = Bury
			}
			w.settled(s.Settle(Verb{Ref: d.Ref, Op: op}), nil)
		}
		w.publish(0, 100, 110)
		w.settled(s.Settle(verbs(Ack, w.want(s, 100, seq(100, 110)...)...)...), nil)
		w.pass(10 * time.Minute)
		w.expectQueue(deadQueue)
		if c := w.committed(); c[0] != 0 {
			t.Errorf("committed %v with the first message neither done nor moved", c)
		}
		w.store.Fail(nil)
		if refused == 0 || refused > 40 {
			t.Errorf("tried %d times in 10 minutes", refused)
		}
		w.pass(moveSlowest)
		w.expectQueue(deadQueue, 0, 10, 20, 30, 40, 50, 60, 70, 80, 90)
		w.done(key.Topic, key.Group)
		w.publish(0, 110, 111)
		w.store.Fail(func(string) error { return errs.Uncertain })
		w.settled(s.Settle(verbs(Bury, w.want(s, 1, 110)...)...), nil)
		w.pass(10 * time.Second)
		if n := strings.Count(logged.String(), "trying again"); n != 2 {
			t.Errorf("logged %d times of two streaks: %s", n, &logged)
		}
	})
}

func seq(from, to int64) (out []int64) {
	for ; from < to; from++ {
		out = append(out, from)
	}
	return out
}

// A message that the queue can't take for its size waits, and those behind it do not.
func TestMessageTooLargeForItsQueue(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hubWith(queues)
		large := &store.Message{Partition: 0, Value: make([]byte, mem.MaxMessage)}
		w.publish(0, 0, 1)
		if err := w.store.Publish(t.Context(), key.Topic, store.AckAll, large); err != nil {
			t.Fatal(err)
		}
		w.publish(0, 2, 4)
		s := w.open(h, ask(Queue))
		for got := 0; got < 4; {
			ds, err := w.get(s, 4, time.Second)
			if err != nil {
				t.Fatal(err)
			}
			got += len(ds)
			w.settled(s.Settle(verbs(Bury, ds...)...), nil)
		}
		w.pass(5 * time.Minute)
		held := w.origins(deadQueue)
		slices.Sort(held)
		if !slices.Equal(held, []int64{0, 2, 3}) {
			t.Errorf("the dead queue has %v", held)
		}
		w.pass(time.Second)
		if c := w.committed(); c[0] != 1 {
			t.Errorf("committed %v", c)
		}
		w.close(h)
	})
}

// maker is an admin of a cluster in which another gateway makes the queue at the same moment.
type maker struct {
	store.Admin
	made []store.Topic
}

func (m *maker) Topics(context.Context) ([]store.Topic, error) {
	return []store.Topic{{Name: "other", Replicas: 2}, {Name: key.Topic, Replicas: 3}}, nil
}

func (m *maker) CreateTopic(ctx context.Context, t store.Topic) error {
	m.made = append(m.made, t)
	t.Replicas = 1
	if err := m.Admin.CreateTopic(ctx, t); err != nil {
		return err
	}
	return store.ErrExists
}

func TestQueueThatAnotherGatewayMakes(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		c := w.config(Limits{}, queues)
		m := &maker{Admin: w.store}
		c.Admin = m
		h := NewHub(c)
		defer w.close(h)
		w.publish(0, 0, 1)
		s := w.open(h, ask(Queue))
		w.settled(s.Settle(verbs(Bury, w.want(s, 1, 0)...)...), nil)
		synctest.Wait() // it does not have to be tried again
		w.expectQueue(deadQueue, 0)
		want := store.Topic{Name: deadQueue, Partitions: 1, Replicas: 3, Retention: deadRetention, Cleanup: store.CleanupDelete}
		if !slices.Equal(m.made, []store.Topic{want}) {
			t.Errorf("made %+v, want %+v", m.made, want)
		}
	})
}

// The last commit of a life waits for a move under way; one that takes too long is made again by the next life.
func TestMoveUnderWayAtTheEnd(t *testing.T) {
	for _, late := range []bool{false, true} {
		t.Run(fmt.Sprint(late), func(t *testing.T) {
			inWorld(t, 1, func(t *testing.T, w world) {
				h := w.hubWith(queues)
				if err := w.store.CreateTopic(t.Context(), store.Topic{Name: deadQueue, Partitions: 1}); err != nil {
					t.Fatal(err)
				}
				w.publish(0, 0, 1)
				s := w.open(h, ask(Queue))
				got := w.want(s, 10, 0)
				release := w.store.Hold()
				w.settled(s.Settle(verbs(Bury, got...)...), nil)
				synctest.Wait()
				closed := make(chan time.Duration)
				go func() {
					began := time.Now()
					w.close(h)
					closed <- time.Since(began)
				}()
				w.pass(2 * time.Second)
				if late {
					if took := <-closed; took != moveGrace {
						t.Errorf("closed after %v", took)
					}
					release()
					w.expectQueue(deadQueue)
					h = w.hubWith(queues)
					w.open(h, ask(Queue))
					w.pass(time.Second)
					w.close(h)
				} else {
					release()
					if took := <-closed; took != 2*time.Second {
						t.Errorf("closed after %v", took)
					}
				}
				w.expectQueue(deadQueue, 0)
				w.done(key.Topic, key.Group)
			})
		})
	}
}

// A partition that goes to another gateway waits a little for the move under way, so that it is not made twice.
func TestMoveUnderWayWhenAPartitionGoes(t *testing.T) {
	inWorld(t, 2, func(t *testing.T, w world) {
		one, two := w.hubWith(queues), w.hubWith(queues)
		defer w.close(two)
		defer w.close(one)
		w.publish(1, 0, 1)
		s := w.open(one, ask(Queue))
		got := w.want(s, 10, 0)
		release := w.store.Hold()
		w.settled(s.Settle(verbs(Bury, got...)...), nil)
		synctest.Wait()
		other := w.open(two, ask(Queue))
		w.pass(lossWait / 2)
		release()
		w.nothing(other, time.Minute)
		w.expectQueue(deadQueue, 0)
		w.done(key.Topic, key.Group)
		if info, _ := two.Info(key); len(info.Partitions) != 1 || info.Partitions[0].Partition != 1 {
			t.Errorf("the partition did not go: %+v", info)
		}
	})
}

// What a group that nobody subscribes to has to move waits until somebody does.
func TestMovesOfAGroupWithoutSettings(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hubWith(queues)
		w.store.Fail(func(topic string) error {
			if topic == deadQueue {
				return errs.Unavailable
			}
			return nil
		})
		w.publish(0, 0, 2)
		s := w.open(h, poll())
		got := w.want(s, 10, 0, 1)
		w.settled(s.Settle(verbs(Bury, got[0])...), nil)
		w.close(h)
		w.store.Fail(nil)
		h = w.hubWith(queues)
		defer w.close(h)
		w.settled(h.Settle(t.Context(), key, verbs(Ack, got[1])...), nil)
		w.pass(time.Second)
		w.expectQueue(deadQueue)
		w.nothing(w.open(h, poll()), time.Hour)
		w.expectQueue(deadQueue, 0)
		w.done(key.Topic, key.Group)
	})
}

// A receipt of before a move neither brings the message back nor disturbs the move.
func TestSettleAfterAMove(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hubWith(queues)
		defer w.close(h)
		w.publish(0, 0, 2)
		a := poll()
		a.Mode = Queue
		s := w.open(h, a)
		got := w.want(s, 10, 0, 1)
		w.settled(s.Settle(Verb{Ref: got[0].Ref, Op: Nack, Delay: time.Hour}), nil)
		w.settled(s.Settle(verbs(Bury, got[1])...), nil)
		for range 2 {
			for _, d := range got {
				for _, op := range []Op{Nack, Extend, Bury, Return, Ack} {
					h.Settle(t.Context(), key, Verb{Ref: d.Ref, Op: op})
				}
			}
			w.pass(time.Second)
		}
		w.nothing(s, 50*time.Minute)
		w.expectQueue(deadQueue, 1)
		w.expectQueue(retryQueue, 0)
		w.done(key.Topic, key.Group)
	})
}

// Without the means there are no queues, whatever the policy says.
func TestNoPublisherNoQueues(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		c := w.config(Limits{}, queues)
		c.Publisher = nil
		if p := c.policy(key); p.Retry+p.Dead != "" || p.MaxAttempts != 3 {
			t.Errorf("%+v", p)
		}
		h := NewHub(c)
		defer w.close(h)
		w.publish(0, 0, 1)
		s := w.open(h, ask(Queue))
		got := w.want(s, 1, 0)
		w.settled(s.Settle(verbs(Bury, got...)...), errs.Fenced)
		for range 10 {
			w.settled(s.Settle(verbs(Nack, got...)...), nil)
			got = w.want(s, 1, 0)
		}
	})
}
