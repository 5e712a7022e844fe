package spool

import (
	"time"

	"github.com/kateway/kateway/store"
)

// topic is one that has messages in the spool, or had, or whose publishes were to happen once.
type topic struct {
	id   uint32
	name string

	slots int32            // partitions that messages are told apart by; 0 = unknown: all go into one lane
	lanes map[uint32]*lane // that hold messages
	ends  ends
	err   error // of the last attempt to drain that failed
}

// Lanes that are no partition's.
const (
	keylessLane = ^uint32(0)     // messages that may go to any partition
	topicLane   = ^uint32(0) - 1 // all messages, of a topic whose partitions are not known
)

// laneOf is where a message queues. What it answers for a message stays the same for as long as a lane of the topic holds one.
func (t *topic) laneOf(m *store.Message) uint32 {
	switch {
	case t.slots == 0:
		return topicLane
	case m.Partition != store.AnyPartition:
		return uint32(m.Partition)
	case len(m.Key) > 0:
		return uint32(store.PartitionOf(m.Key, t.slots))
	}
	return keylessLane
}

// lane is a queue on disk. It exists while it holds messages.
type lane struct {
	t       *topic
	no      uint32
	emptied chan struct{} // closed when it is taken out of the table

	// Guarded by Spool.mu.
	next    uint64    // the sequence number that the next message gets
	synced  uint64    // those below it are on disk
	count   int64     // messages, those on their way included
	bytes   int64     // of them
	oldest  time.Time // when the first was accepted
	working bool      // its goroutine runs
	more    chan struct{}

	// Its goroutine's own.
	head uint64 // the first that is not drained
}

// lane finds the topic's lane, or makes it. Caller holds s.mu.
func (s *Spool) lane(t *topic, no uint32, now time.Time) *lane {
	l := t.lanes[no]
	if l == nil {
		l = &lane{t: t, no: no, emptied: make(chan struct{}), oldest: now, more: make(chan struct{}, 1)}
		if t.lanes == nil {
			t.lanes = map[uint32]*lane{}
		}
		t.lanes[no] = l
		s.busy.Add(1)
	}
	return l
}

// wake sees to it that the lane's goroutine looks at what is synced. Caller holds s.mu.
func (s *Spool) wake(l *lane) {
	if s.closed {
		return
	}
	if !l.working {
		l.working = true
		s.work.Go(func() { s.drain(l) })
		return
	}
	select {
	case l.more <- struct{}{}:
	default:
	}
}

// took notes that messages left the lane, and takes it away when it holds none.
func (s *Spool) took(l *lane, messages int, bytes int64, oldest time.Time) (empty bool) {
	s.bytes.Add(-bytes)
	s.mu.Lock()
	defer s.mu.Unlock()
	l.count -= int64(messages)
	l.bytes -= bytes
	if !oldest.IsZero() {
		l.oldest = oldest
	}
	if messages > 0 {
		l.t.err = nil
	}
	if l.count > 0 {
		return false
	}
	delete(l.t.lanes, l.no)
	s.busy.Add(-1)
	close(l.emptied)
	return true
}
