package embedded

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// topic is one topic. A deleted one is never found again; one that is made anew under its name has another id.
type topic struct {
	id    uint64
	name  string
	parts atomic.Pointer[[]*partition] // only grows
	limit atomic.Pointer[limits]
	gone  atomic.Bool // deleted

	// The writer's own.
	dropped bool  // its deletion is written
	turn    int32 // the partition for messages without a key

	mu     sync.Mutex
	groups map[string]*group // those in use
}

// limits is a topic's retention; negative is none.
type limits struct {
	age   time.Duration
	bytes int64
}

// partition is one partition's log.
type partition struct {
	topic  *topic
	number int32
	prefix []byte // of its blocks' keys

	// The writer's own.
	tip    mark      // behind the last message given to pebble
	adding *addition // what the present round adds

	watched atomic.Int32 // readers that hold it

	mu       sync.RWMutex // guards what follows
	start    mark         // before the first message that retention left
	first    mark         // behind the first block, where that is known; see trim
	end      mark         // behind the last message that is synced: what readers see
	tail     []tailBlock  // the blocks up to end that are in memory, without a hole
	watchers []wake
}

func newTopic(id uint64, name string, l limits) *topic {
	t := &topic{id: id, name: name, groups: map[string]*group{}}
	t.parts.Store(&[]*partition{})
	t.limit.Store(&l)
	return t
}

// grow adds partitions, which are empty, up to n. Callers hold Store.admin.
func (t *topic) grow(n int32) {
	parts := append([]*partition{}, *t.parts.Load()...)
	for i := int32(len(parts)); i < n; i++ {
		parts = append(parts, &partition{topic: t, number: i, prefix: partitionKey(tagBlock, t.id, i)})
	}
	t.parts.Store(&parts)
}

func (t *topic) partition(n int32) (*partition, error) {
	parts := *t.parts.Load()
	if n < 0 || int(n) >= len(parts) {
		return nil, fmt.Errorf("topic %q has partitions 0 to %d, not %d: %w", t.name, len(parts)-1, n, errs.InvalidParam)
	}
	return parts[n], nil
}

func (t *topic) describe() store.Topic {
	l := t.limit.Load()
	return store.Topic{
		Name: t.name, Partitions: int32(len(*t.parts.Load())), Replicas: 1, Retention: l.age, RetentionBytes: l.bytes,
		Cleanup: store.CleanupDelete,
	}
}

// bounds are the marks between which readers find messages.
func (p *partition) bounds() (start, end mark) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.start, p.end
}

// wake lets the readers look again.
func (p *partition) wake() {
	p.mu.RLock()
	defer p.mu.RUnlock()
	for _, w := range p.watchers {
		w.nudge()
	}
}

// wake lets the readers of all partitions look again.
func (t *topic) wake() {
	for _, p := range *t.parts.Load() {
		p.wake()
	}
}

// encodeTopic is the value of a topic's key.
func encodeTopic(id uint64, partitions int32, l limits) []byte {
	b := []byte{1} // version of this encoding
	b = binary.AppendUvarint(b, id)
	b = binary.AppendUvarint(b, uint64(partitions))
	b = binary.AppendVarint(b, int64(l.age))
	return binary.AppendVarint(b, l.bytes)
}

func decodeTopic(name string, b []byte) (*topic, error) {
	if len(b) == 0 || b[0] != 1 {
		return nil, fmt.Errorf("the record of topic %q has an unknown encoding", name)
	}
	var err error
	b = b[1:]
	id, b, err := uvarint(b, err)
	partitions, b, err := uvarint(b, err)
	age, b, err := varint(b, err)
	bytes, _, err := varint(b, err)
	if err != nil || partitions == 0 || partitions > maxPartitions {
		return nil, fmt.Errorf("the record of topic %q is damaged", name)
	}
	t := newTopic(id, name, limits{time.Duration(age), bytes})
	t.grow(int32(partitions))
	return t, nil
}

var errShort = errors.New("malformed number")

// uvarint takes a number off the front, unless there was an error before.
func uvarint(b []byte, err error) (uint64, []byte, error) {
	v, n := binary.Uvarint(b)
	if err == nil && n <= 0 {
		err = errShort
	}
	return v, b[max(n, 0):], err
}

func varint(b []byte, err error) (int64, []byte, error) {
	v, n := binary.Varint(b)
	if err == nil && n <= 0 {
		err = errShort
	}
	return v, b[max(n, 0):], err
}

// load reads the topics, finds where their partitions begin and end, and sets right the positions.
func (s *Store) load() error {
	s.nextID = 1
	if v, closer, err := s.db.Get([]byte{tagNextTopic}); err == nil {
		s.nextID = binary.BigEndian.Uint64(v)
		_ = closer.Close() // nothing that it could fail at
	} else if !errors.Is(err, pebble.ErrNotFound) {
		return err
	}
	byID := map[uint64]*topic{}
	err := s.scan([]byte{tagTopic}, func(key, value []byte) error {
		t, err := decodeTopic(string(key[1:]), value)
		if err != nil {
			return err
		}
		s.topics[t.name], byID[t.id] = t, t
		return nil
	})
	if err != nil {
		return err
	}
	for _, t := range byID {
		for _, p := range *t.parts.Load() {
			if err := s.loadPartition(p); err != nil {
				return fmt.Errorf("topic %q, partition %d: %w", t.name, p.number, err)
			}
		}
	}
	if err := s.loadOnces(); err != nil {
		return err
	}
	return s.clampPositions(byID)
}

// scan calls f for each key with the prefix, in order. Key and value are valid during the call.
func (s *Store) scan(prefix []byte, f func(key, value []byte) error) (err error) {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for ok := it.First(); ok; ok = it.Next() {
		value, err := it.ValueAndErr()
		if err != nil {
			return err
		}
		if err := f(it.Key(), value); err != nil {
			return err
		}
	}
	return it.Error()
}

// loadPartition finds the marks by the start that retention left and the last block.
func (s *Store) loadPartition(p *partition) (err error) {
	v, closer, err := s.db.Get(partitionKey(tagStart, p.topic.id, p.number))
	switch {
	case errors.Is(err, pebble.ErrNotFound):
	case err != nil:
		return err
	default:
		p.start, err = readMark(v)
		if err := errors.Join(err, closer.Close()); err != nil {
			return err
		}
	}
	p.end = p.start
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: p.prefix, UpperBound: after(p.prefix)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	if it.Last() {
		p.end, err = s.lastMark(p, it)
	}
	p.tip = p.end
	return errors.Join(err, it.Error())
}

// lastMark is the mark behind the block that it stands on, the last one. When that is damaged, nobody knows how many
// messages it held, so the partition goes on behind as many as could have been there: no offset is given twice.
func (s *Store) lastMark(p *partition, it *pebble.Iterator) (mark, error) {
	value, err := it.ValueAndErr()
	if err != nil {
		return mark{}, err
	}
	b, damage := openBlock(it.Key(), value)
	if damage == nil {
		return b.end, nil
	}
	end := p.start
	if it.Prev() {
		if value, err = it.ValueAndErr(); err != nil {
			return mark{}, err
		}
		if before, err := openBlock(it.Key(), value); err == nil {
			end = before.end
		}
	}
	end.offset = max(end.offset, b.base+maxBlockCount)
	s.log.Error("the last messages of a partition are damaged and lost; it goes on behind them",
		"topic", p.topic.name, "partition", p.number, "from", b.base, "on", end.offset, "err", damage)
	return end, nil
}
