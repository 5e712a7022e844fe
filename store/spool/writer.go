package spool

import (
	"context"
	"encoding/binary"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

const (
	maxRoundOps   = 4096
	maxRoundBytes = 4 << 20
	itemWeight    = 48              // what a message takes besides its bytes, roughly
	diskPatience  = 2 * time.Second // that a publish has for the disk at the least, though its time is over
)

// op is one thing that the writer is to do: messages to be spooled, or whatever fill puts into the batch.
type op struct {
	name    string
	msgs    []*store.Message
	outcome []error // of each of msgs; the writer clears it where it spools the message
	items   []item  // of msgs, those to be spooled, in order
	once    *onceCall
	fill    func(*pebble.Batch)
	bytes   int64
	at      int64 // ms

	state atomic.Int32
	done  chan error
}

// item is a message to be spooled.
type item struct {
	index  int // in the publish
	record []byte
	reason string
	kept   bool // it was, and here
	lane   *lane
	seq    uint64
}

// States of an op.
const (
	opQueued int32 = iota
	opTaken        // the writer has it: nobody knows the outcome until it is answered
	opLeft         // the caller left first: it is not done
)

func (o *op) add(index int, m *store.Message, now time.Time, reason string) {
	if o.at == 0 {
		o.at = now.UnixMilli()
	}
	record := appendMessage(make([]byte, 0, m.Size()+itemWeight+16*len(m.Headers)), m, now)
	o.items = append(o.items, item{index: index, record: record, reason: reason})
	o.bytes += weight(record)
}

func weight(record []byte) int64 { return int64(len(record)) + itemWeight }

// put has the op written and synced. Unavailable, DiskFull: certain not to be there.
func (s *Spool) put(ctx context.Context, o *op) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	if total := s.bytes.Add(o.bytes); total > s.cfg.MaxBytes && o.bytes > 0 {
		s.bytes.Add(-o.bytes)
		return fmt.Errorf("the spool holds %d bytes, at most %d: %w", total-o.bytes, s.cfg.MaxBytes, errs.Unavailable)
	}
	err := s.await(ctx, o)
	if err != nil && errs.Of(err) != errs.Uncertain {
		s.bytes.Add(-o.bytes)
	}
	return err
}

// await hands the op to the writer and waits for its answer, for as long as ctx lasts and a little longer.
func (s *Spool) await(ctx context.Context, o *op) error {
	limit := diskPatience
	if d, ok := ctx.Deadline(); ok {
		limit = max(limit, time.Until(d))
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	var err error
	select {
	case s.queue <- o:
		select {
		case err := <-o.done:
			return err
		case <-timer.C:
			err = fmt.Errorf("the disk took longer than %v", limit.Round(time.Second))
		case <-s.fault.Failed():
			err = s.fault.Err()
		}
	case <-timer.C:
		return fmt.Errorf("the disk is behind: %w", errs.Unavailable)
	case <-s.fault.Failed():
		return fmt.Errorf("%w: %w", errs.Unavailable, s.fault.Err())
	}
	if o.state.CompareAndSwap(opQueued, opLeft) {
		return fmt.Errorf("nothing was written: %w: %w", errs.Unavailable, err)
	}
	select { // an answer that is there counts
	case err := <-o.done:
		return err
	default:
		return fmt.Errorf("stopped waiting for the disk: %w: %w", errs.Uncertain, err)
	}
}

// write is the writer. It ends when the queue is closed and empty.
func (s *Spool) write() {
	var round []*op
	for o := range s.queue {
		round = s.gather(round[:0], o)
		s.round(round)
		clear(round)
	}
}

// gather takes what is queued now.
func (s *Spool) gather(round []*op, o *op) []*op {
	bytes := int64(0)
	for {
		if o.state.CompareAndSwap(opQueued, opTaken) {
			round, bytes = append(round, o), bytes+o.bytes
		}
		if len(round) == maxRoundOps || bytes >= maxRoundBytes {
			return round
		}
		select {
		case next, open := <-s.queue:
			if !open {
				return round
			}
			o = next
		default:
			return round
		}
	}
}

// round writes and syncs what the ops hold, and answers them.
func (s *Spool) round(ops []*op) {
	if err := s.fault.Err(); err != nil {
		answer(ops, fmt.Errorf("%w: %w", errs.Unavailable, err))
		return
	}
	b := s.db.NewBatch()
	kept := ops[:0]
	for _, o := range ops {
		if o.fill == nil && !s.space.Admit(uint64(o.bytes)) {
			o.done <- s.space.FullError()
			continue
		}
		kept = append(kept, o)
	}
	if len(kept) == 0 {
		_ = b.Close() // nothing is in it
		return
	}
	s.assign(b, kept)
	for _, o := range kept {
		s.fillBatch(b, o)
	}
	how := pebble.Sync
	if s.cfg.noSync {
		how = pebble.NoSync
	}
	err := s.db.Apply(b, how)
	if err == nil {
		err = s.fault.Err() // whatever broke, nothing is confirmed after it
	}
	if err != nil {
		s.fault.Fail(err)
		answer(kept, fmt.Errorf("the write failed: %w: %w", errs.Uncertain, err))
		return
	}
	_ = b.Close() // only gives memory back
	s.show(kept)
	answer(kept, nil)
}

func answer(ops []*op, err error) {
	for _, o := range ops {
		o.done <- err
	}
}

// assign gives each message its place. Where a message of the publish failed that can't be spooled, those after it in its lane
// fail too: the client has that one still and tries it again.
func (s *Spool) assign(b *pebble.Batch, ops []*op) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range ops {
		if o.name == "" {
			continue
		}
		t := s.topicFor(b, o.name)
		s.settleSlots(b, t)
		var out map[uint32]bool
		next := 0
		for i, m := range o.msgs {
			switch {
			case next < len(o.items) && o.items[next].index == i:
				if it := &o.items[next]; out[t.laneOf(m)] {
					s.bytes.Add(-weight(it.record))
				} else {
					s.place(t, o, it)
				}
				next++
			case o.outcome[i] != nil:
				if out == nil {
					out = map[uint32]bool{}
				}
				out[t.laneOf(m)] = true
			}
		}
	}
}

// place puts a message at the end of its lane.
func (s *Spool) place(t *topic, o *op, it *item) {
	l := s.lane(t, t.laneOf(o.msgs[it.index]), time.UnixMilli(o.at))
	it.lane, it.kept, it.seq = l, true, l.next
	l.next++
	l.count++
	l.bytes += weight(it.record)
	o.outcome[it.index] = nil
}

// settleSlots decides by what messages are told apart, where no lane holds any. Caller holds s.mu.
func (s *Spool) settleSlots(b *pebble.Batch, t *topic) {
	if len(t.lanes) > 0 {
		return
	}
	if n := s.cfg.Partitions(t.name); n > 0 && n != t.slots {
		t.slots = n
		t.save(b)
	}
}

// topicFor finds the topic, or makes it. Caller holds s.mu.
func (s *Spool) topicFor(b *pebble.Batch, name string) *topic {
	t := s.topics[name]
	if t == nil {
		s.lastID++
		t = &topic{id: s.lastID, name: name}
		s.topics[name] = t
		t.save(b)
	}
	return t
}

func (t *topic) save(b *pebble.Batch) {
	v := binary.AppendUvarint([]byte{1}, uint64(t.slots))
	_ = b.Set(topicKey(t.id), append(v, t.name...), nil) // fails only in a batch that was applied
}

func (s *Spool) fillBatch(b *pebble.Batch, o *op) {
	if o.fill != nil {
		o.fill(b)
	}
	for i := range o.items {
		if it := &o.items[i]; it.kept {
			_ = b.Set(messageKey(it.lane.t.id, it.lane.no, it.seq), it.record, nil)
		}
	}
	if o.once != nil {
		o.once.spooled(b, o)
	}
}

// show lets the lanes see what is synced.
func (s *Spool) show(ops []*op) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range ops {
		for i := range o.items {
			it := &o.items[i]
			if !it.kept {
				continue
			}
			it.lane.synced = max(it.lane.synced, it.seq+1)
			s.metrics.spooled.WithLabelValues(it.reason).Inc()
			s.wake(it.lane)
		}
	}
}
