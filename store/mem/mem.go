// Package mem keeps topics and groups in memory. It is the reference that the contracts of package store are read
// against, and the store of other packages' tests: short and plain before fast. Nothing is ever thrown away but by Trim
// and DeleteTopic. There is one lock, and no goroutine.
//
// Its faults are methods beyond store.Store: Hold, Cut, Fail, Refuse, FailPoll, Evict, Crash and Trim.
package mem

import (
	"context"
	"fmt"
	"sync"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

const (
	// MaxMessage is the largest message in bytes, as store.Message.Size counts.
	MaxMessage = 16 << 20
	// DefaultPartitions is what a topic gets that asks for none.
	DefaultPartitions = 3
)

var (
	_ store.Store         = (*Store)(nil)
	_ store.OncePublisher = (*Store)(nil)
)

// Store is a store.Store and a store.OncePublisher.
type Store struct {
	mu      sync.Mutex
	topics  map[string]*topic
	changed chan struct{} // closed and made anew whenever a waiting Poll should look again
	closed  chan struct{}
	faults  faults
}

// topic and all below it are guarded by Store.mu; a stored message is never written to.
type topic struct {
	store.Topic
	logs   []partition
	groups map[string]*group
	once   map[string]outcome
	turn   int32 // where the next call's messages without a key go
}

// partition holds the offsets from start on.
type partition struct {
	start    int64
	messages []*store.Message
}

func (l *partition) end() int64 { return l.start + int64(len(l.messages)) }

// from is what there is at the offset and above, at most n.
func (l *partition) from(offset int64, n int) []*store.Message {
	rest := l.messages[min(max(offset, l.start), l.end())-l.start:]
	return rest[:min(n, len(rest))]
}

// New makes an empty store.
func New() *Store {
	return &Store{topics: map[string]*topic{}, changed: make(chan struct{}), closed: make(chan struct{})}
}

// Ping answers nil until Close.
func (s *Store) Ping(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.usable(ctx)
}

// Close ends feeds and waiting publishes at once. A second one does nothing.
func (s *Store) Close(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isClosed() {
		return nil
	}
	close(s.closed)
	s.wake()
	return nil
}

// Reopen closes the store and answers a new one with the same messages, positions and outcomes, as after a restart.
func (s *Store) Reopen() *Store {
	_ = s.Close(context.Background()) // never fails
	s.mu.Lock()
	defer s.mu.Unlock()
	again := New()
	again.topics, s.topics = s.topics, nil
	for _, t := range again.topics {
		for _, g := range t.groups {
			g.members = nil
			g.rebalance()
		}
	}
	return again
}

func (s *Store) isClosed() bool {
	select {
	case <-s.closed:
		return true
	default:
		return false
	}
}

// usable is asked first by every call. Caller holds s.mu.
func (s *Store) usable(ctx context.Context) error {
	if s.isClosed() {
		return store.ErrClosed
	}
	return ctx.Err()
}

// topic finds a topic in a usable store. Caller holds s.mu.
func (s *Store) topic(ctx context.Context, name string) (*topic, error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	t := s.topics[name]
	if t == nil {
		return nil, fmt.Errorf("topic %q: %w", name, errs.UnknownTopic)
	}
	return t, nil
}

// partition answers an error for a number that the topic does not have.
func (t *topic) partition(p int32) (*partition, error) {
	if p < 0 || int(p) >= len(t.logs) {
		return nil, fmt.Errorf("topic %q has partitions 0 to %d, not %d: %w", t.Name, len(t.logs)-1, p, errs.InvalidParam)
	}
	return &t.logs[p], nil
}

// wake lets every waiting Poll look again. Caller holds s.mu.
func (s *Store) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}
