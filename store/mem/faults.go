package mem

import (
	"fmt"
	"slices"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// faults is what tests asked for. Guarded by Store.mu.
type faults struct {
	hold, cut chan struct{} // nil = not set; closed = over
	publish   func(topic string) error
	commit    func(topic, group string, p store.Position) error
	poll      func(topic, group string) error
}

// Hold makes publishes wait before anything of them is stored, until release is called. One whose context ends
// meanwhile is Uncertain and is not stored; one that the store's Close ends is ErrClosed.
func (s *Store) Hold() (release func()) { return s.barrier(&s.faults.hold) }

// Cut makes publishes be stored and their answers wait, until heal is called. One whose context or store ends
// meanwhile is Uncertain, and is stored.
func (s *Store) Cut() (heal func()) { return s.barrier(&s.faults.cut) }

func (s *Store) barrier(at *chan struct{}) (lift func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ch := make(chan struct{})
	*at = ch
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if *at == ch {
			*at = nil
			close(ch)
		}
	}
}

// Fail asks f before each publish, and refuses with the error that it answers: nothing is stored. nil ends it.
// f is called under the store's lock and must not call the store.
func (s *Store) Fail(f func(topic string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults.publish = f
}

// Refuse asks f before each commit. Where it answers an error the commit does not take, and Poll tells so. nil ends it.
// f is called under the store's lock and must not call the store.
func (s *Store) Refuse(f func(topic, group string, p store.Position) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults.commit = f
}

// FailPoll asks f before each look of a Poll, with no group for that of a store.Tail, and ends the Poll with the error that it answers; nothing is lost.
// nil ends it. f is called under the store's lock and must not call the store.
func (s *Store) FailPoll(f func(topic, group string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults.poll = f
	s.wake()
}

// Evict takes all partitions from the group's members at once, as a session that timed out does: their commits are
// Fenced from now on, their next Poll tells the loss, and they come back as members by that.
func (s *Store) Evict(topic, group string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.topics[topic]
	if t == nil || t.groups[group] == nil {
		return
	}
	for i := range t.groups[group].shares {
		t.groups[group].shares[i].owner = nil
	}
	s.wake()
}

// Crash ends a feed of this package as the death of its process would. Commits are written at once here, so there is
// none to lose.
func Crash(f store.Feed) { f.(*feed).leave() } //nolint:errcheck // another kind of feed is a fault of the test

// Trim removes the messages of a partition below an offset, as retention does.
func (s *Store) Trim(topic string, p int32, before int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.topics[topic]
	if t == nil {
		return fmt.Errorf("topic %q: %w", topic, errs.UnknownTopic)
	}
	l, err := t.partition(p)
	if err != nil {
		return err
	}
	before = min(before, l.end())
	l.messages = slices.Clone(l.from(before, len(l.messages)))
	l.start = max(l.start, before)
	s.wake()
	return nil
}
