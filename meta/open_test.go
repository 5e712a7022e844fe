package meta

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// admin is a store of topic names that counts the looks into it.
type admin struct {
	store.Admin

	mu     sync.Mutex
	topics []store.Topic
	looks  atomic.Int32
	err    error         // of CreateTopic
	slow   chan struct{} // Topics waits for it, where it is set
}

func (a *admin) Topics(ctx context.Context) ([]store.Topic, error) {
	a.looks.Add(1)
	if a.slow != nil {
		select {
		case <-a.slow:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.topics), nil
}

func (a *admin) CreateTopic(_ context.Context, t store.Topic) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err == nil {
		a.topics = append(a.topics, t)
	}
	return a.err
}

func orders(t *testing.T) Topic {
	t.Helper()
	topic, err := ParseTopic("shop", "orders", "v1")
	if err != nil {
		t.Fatal(err)
	}
	return topic
}

func TestFirstUseMakesTheTopic(t *testing.T) {
	a := &admin{}
	o := NewOpen(a, store.Topic{Partitions: 7})
	for range 3 {
		name, err := o.Use(t.Context(), orders(t))
		if err != nil || name != "shop.orders.v1" {
			t.Fatalf("%q, %v", name, err)
		}
	}
	if len(a.topics) != 1 || a.topics[0].Name != "shop.orders.v1" || a.topics[0].Partitions != 7 {
		t.Errorf("made %+v", a.topics)
	}
	if n := a.looks.Load(); n != 1 {
		t.Errorf("looked into the store %d times", n)
	}
	o.Forget(orders(t))
	if _, err := o.Use(t.Context(), orders(t)); err != nil || a.looks.Load() != 2 || len(a.topics) != 1 {
		t.Errorf("after Forget: %v, %d looks, %d topics", err, a.looks.Load(), len(a.topics))
	}
}

func TestTopicThatIsThereIsTakenAsItIs(t *testing.T) {
	a := &admin{topics: []store.Topic{{Name: "shop.orders.v1", Partitions: 3}}}
	if _, err := NewOpen(a, store.Topic{Partitions: 7}).Use(t.Context(), orders(t)); err != nil || len(a.topics) != 1 {
		t.Errorf("%v; %+v", err, a.topics)
	}
}

func TestAnotherWasFaster(t *testing.T) {
	a := &admin{err: fmt.Errorf("making it: %w", store.ErrExists)}
	if _, err := NewOpen(a, store.Topic{}).Use(t.Context(), orders(t)); err != nil {
		t.Error(err)
	}
}

func TestFailureIsToldAndNotRemembered(t *testing.T) {
	for _, kind := range []error{errs.Conflict, errs.Unavailable, errs.DiskFull} {
		a := &admin{err: kind}
		o := NewOpen(a, store.Topic{})
		if _, err := o.Use(t.Context(), orders(t)); !errors.Is(err, kind) {
			t.Errorf("%v; want %v", err, kind)
		}
		a.err = nil
		if _, err := o.Use(t.Context(), orders(t)); err != nil {
			t.Errorf("after %v was over: %v", kind, err)
		}
	}
}

func TestOnlySoManyTopicsAreMade(t *testing.T) {
	a := &admin{topics: []store.Topic{{Name: "not-ours"}, {Name: "a.b"}}}
	for i := range MaxOpenTopics - 1 {
		a.topics = append(a.topics, store.Topic{Name: fmt.Sprintf("shop.t%d.v1", i)})
	}
	o := NewOpen(a, store.Topic{})
	if _, err := o.Use(t.Context(), orders(t)); err != nil {
		t.Fatalf("the last that may be made: %v", err)
	}
	if _, err := o.Use(t.Context(), Topic{"shop", "more", "v1"}); !errors.Is(err, errs.Denied) {
		t.Errorf("one too many: %v", err)
	}
	if _, err := o.Use(t.Context(), Topic{"shop", "t5", "v1"}); err != nil {
		t.Errorf("one that is there: %v", err)
	}
}

// Concurrent first uses look once; one that waits for another's look gives up with its own context and harms nobody.
func TestFirstUsesShareALook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &admin{slow: make(chan struct{})}
		o := NewOpen(a, store.Topic{})
		topic := orders(t)
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if _, err := o.Use(t.Context(), topic); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		impatient, cancel := context.WithCancel(t.Context())
		wg.Go(func() {
			if _, err := o.Use(impatient, topic); !errors.Is(err, errs.Unavailable) {
				t.Errorf("gave up with %v", err)
			}
		})
		synctest.Wait()
		cancel()
		synctest.Wait()
		close(a.slow)
		wg.Wait()
		if n := a.looks.Load(); n != 1 || len(a.topics) != 1 {
			t.Errorf("%d looks, topics %+v", n, a.topics)
		}
	})
}
