package meta_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/meta/mem"
	"github.com/kateway/kateway/store"
)

// shelf is a store of topic names.
type shelf struct {
	store.Admin

	mu     sync.Mutex
	topics []store.Topic
}

func (s *shelf) Topics(context.Context) ([]store.Topic, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]store.Topic(nil), s.topics...), nil
}

func (s *shelf) CreateTopic(_ context.Context, t store.Topic) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.topics = append(s.topics, t)
	return nil
}

func (s *shelf) made() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.topics)
}

func TestTopics(t *testing.T) {
	d, _ := follow(t, meta.Config{Source: mem.New()})
	mapped := topic("shop", "orders")
	mapped.StoreTopic = "legacy"
	put(t, d, mapped)
	s := &shelf{}
	strict, open := meta.NewTopics(d, nil), meta.NewTopics(d, meta.NewOpen(s, store.Topic{Partitions: 3}))
	for _, topics := range []*meta.Topics{strict, open} {
		if place, err := topics.Use(t.Context(), mapped.Topic()); err != nil || place != "legacy" || s.made() != 0 {
			t.Errorf("registered: %q, %v, %d made", place, err, s.made())
		}
	}
	other := topic("shop", "other")
	if _, err := strict.Use(t.Context(), other.Topic()); !errors.Is(err, errs.UnknownTopic) {
		t.Errorf("not registered: %v", err)
	}
	if place, err := open.Use(t.Context(), other.Topic()); err != nil || place != "shop.other.v1" || s.made() != 1 {
		t.Errorf("on first use: %q, %v, %d made", place, err, s.made())
	}
	strict.Forget(other.Topic())
	open.Forget(other.Topic())
	if _, err := open.Use(t.Context(), other.Topic()); err != nil || s.made() != 1 {
		t.Errorf("forgotten, and found: %v, %d made", err, s.made())
	}
}

// When a topic is registered and deleted again, open mode does not believe in what it knew before.
func TestOpenModeForgetsDeletedTopics(t *testing.T) {
	source := mem.New()
	d, _ := follow(t, meta.Config{Source: source})
	s := &shelf{}
	topics := meta.NewTopics(d, meta.NewOpen(s, store.Topic{}))
	orders := topic("shop", "orders")
	use := func(makes int) {
		t.Helper()
		before := s.made()
		s.mu.Lock()
		s.topics = nil // whatever was there was deleted
		s.mu.Unlock()
		if _, err := topics.Use(t.Context(), orders.Topic()); err != nil || s.made() != makes {
			t.Errorf("%v, %d made, %d before", err, s.made(), before)
		}
	}
	put(t, d, app("shop"))
	use(1)
	use(0) // known
	put(t, d, orders)
	use(0) // registered: nothing is made
	if err := d.Delete(t.Context(), orders.ID(), ""); err != nil {
		t.Fatal(err)
	}
	use(1)
	put(t, d, orders)
	use(0)
	// Deleted and made anew, and told as one change.
	orders.StoreTopic = "other"
	put(t, d, orders)
	if err := d.Delete(t.Context(), orders.ID(), ""); err != nil {
		t.Fatal(err)
	}
	use(1)
}

func TestTopicsBeforeAnythingIsKnown(t *testing.T) {
	d := meta.NewDirectory(meta.Config{Source: mem.New(), Log: slog.New(slog.DiscardHandler)})
	s := &shelf{}
	for _, topics := range []*meta.Topics{meta.NewTopics(d, nil), meta.NewTopics(d, meta.NewOpen(s, store.Topic{}))} {
		if _, err := topics.Use(t.Context(), topic("shop", "orders").Topic()); !errors.Is(err, errs.Unavailable) || s.made() != 0 {
			t.Errorf("%v, %d made", err, s.made())
		}
	}
}
