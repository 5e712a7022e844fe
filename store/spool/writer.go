package spool

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/kateway/kateway/internal/disk"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

const (
	itemWeight = 48   // what a message takes besides its bytes, roughly
	maxQueue   = 4096 // of those that wait for the writer, who is then behind: they wait to get in
)

// op is one thing that the writer is to do: messages to be spooled, or whatever fill puts into the batch.
type op struct {
	disk.Op
	name    string
	msgs    []*store.Message
	outcome []error // of each of msgs; the writer clears it where it spools the message
	items   []item  // of msgs, those to be spooled, in order
	once    *onceCall
	fill    func(*pebble.Batch)
	bytes   int64
	at      int64 // ms
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

// await hands the op to the writer and waits for its answer, for as long as ctx lasts and a little longer, whether it is cancelled or not.
func (s *Spool) await(ctx context.Context, o *op) error {
	limit := s.cfg.patience
	if d, ok := ctx.Deadline(); ok {
		limit = max(limit, time.Until(d))
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	select {
	case s.queue <- o:
		answered, err := o.Wait(ctx, s.fault)
		if !answered && o.once != nil && errs.Of(err) == errs.Uncertain {
			// Its caller has left in time. The next one with the key waits: it must not see what is not synced, nor miss what will be.
			_, err = o.Wait(context.WithoutCancel(ctx), s.fault)
		}
		return err
	case <-ctx.Done():
		return fmt.Errorf("the disk is behind: %w", errs.Unavailable)
	case <-s.fault.Failed():
		return fmt.Errorf("%w: %w", errs.Unavailable, s.fault.Err())
	}
}

// write is the writer. It ends when the queue is closed and empty. A small round costs little here, so that none waits to grow.
func (s *Spool) write() {
	defer close(s.writing)
	disk.Write(s.queue, 0, &round{s: s}, &round{s: s}, &round{s: s}, &round{s: s})
}

// round is what is written together: a disk.Round.
type round struct {
	s     *Spool
	ops   []*op
	bytes int64
	batch *pebble.Batch
}

// Begin is disk.Round's, as are the next four.
func (r *round) Begin() {
	clear(r.ops)
	*r = round{s: r.s, ops: r.ops[:0]}
}

func (r *round) Add(o *op) {
	if o.Take() {
		r.ops = append(r.ops, o)
		r.bytes += o.bytes
	}
}

func (r *round) Size() (ops int, bytes int64) { return len(r.ops), r.bytes }

// Apply puts what the ops hold into a batch and gives it to pebble.
func (r *round) Apply() (sync bool) {
	s := r.s
	if err := s.fault.Err(); err != nil {
		r.answer(fmt.Errorf("%w: %w", errs.Unavailable, err))
		return false
	}
	if r.admit(); len(r.ops) == 0 {
		return false
	}
	r.batch = s.db.NewBatchWithSize(int(r.bytes) + len(r.ops)*itemWeight)
	s.assign(r.batch, r.ops)
	for _, o := range r.ops {
		s.fillBatch(r.batch, o)
	}
	var err error
	if s.cfg.noSync {
		err = s.db.Apply(r.batch, pebble.NoSync)
	} else {
		err = s.db.ApplyNoSyncWait(r.batch, pebble.Sync)
	}
	if err != nil {
		s.fault.Fail(err)
		r.answer(fmt.Errorf("the write failed: %w: %w", errs.Uncertain, err))
		return false
	}
	if s.cfg.noSync {
		r.Finish()
	}
	return !s.cfg.noSync
}

// admit leaves in the round what there is room for.
func (r *round) admit() {
	kept := r.ops[:0]
	for _, o := range r.ops {
		if o.fill == nil && !r.s.space.Admit(uint64(o.bytes)) {
			o.Answer(r.s.space.FullError())
			continue
		}
		kept = append(kept, o)
	}
	clear(r.ops[len(kept):])
	r.ops = kept
}

// Finish waits for the sync, lets the lanes see what is there and answers.
func (r *round) Finish() {
	err := r.s.fault.Confirm(r.batch.SyncWait())
	if err == nil {
		_ = r.batch.Close() // only gives memory back
		r.s.show(r.ops)
	}
	r.answer(err)
}

func (r *round) answer(err error) {
	for _, o := range r.ops {
		o.Answer(err)
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
