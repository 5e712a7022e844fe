package embedded

import (
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/kateway/kateway/internal/disk"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

const (
	maxBlockBytes = 256 << 10 // a block ends when it has reached so many bytes,
	maxBlockCount = 1 << 16   // or so many messages
	overlapBytes  = 64 << 10  // a round is worth a block of its own while the one before it is synced
)

// writer is the one goroutine that writes to pebble, in rounds (disk.Write).
type writer struct {
	s      *Store
	spare  []*blockWriter // for additions, with buffers used before
	failed error          // why nothing is written any more
}

// round is what is written together: a disk.Round.
type round struct {
	w         *writer
	ops       []*op // in the batch
	bytes     int64
	additions []*addition
	batch     *pebble.Batch
	sync      bool
	waiting   []*op // ops to answer after the sync; the others were answered before
	flights   []*op // PublishOnces answered before
	now       int64 // ms
	turned    map[*topic]struct{}
}

// addition is what a round adds to one partition.
type addition struct {
	p      *partition
	watch  bool         // keep the blocks for live readers
	block  *blockWriter // the one that is being filled
	base   int64        // its first offset
	blocks []tailBlock  // those in the batch
	end    mark         // behind them
}

// run ends when the queue is closed and empty and everything in it answered.
func (w *writer) run() {
	defer close(w.s.writing)
	turned := func() map[*topic]struct{} { return map[*topic]struct{}{} }
	disk.Write(w.s.queue, overlapBytes, &round{w: w, turned: turned()}, &round{w: w, turned: turned()})
}

// Begin is disk.Round's, as are the next four.
func (r *round) Begin() {
	clear(r.ops)
	clear(r.waiting)
	clear(r.flights)
	clear(r.turned)
	clear(r.additions)
	*r = round{
		w: r.w, ops: r.ops[:0], additions: r.additions[:0], waiting: r.waiting[:0], flights: r.flights[:0], turned: r.turned,
		now: r.w.s.cfg.Now().UnixMilli(),
	}
}

func (r *round) Add(o *op) {
	if !o.Take() {
		r.w.s.forsake(o)
		return
	}
	r.ops = append(r.ops, o)
	r.bytes += o.bytes
}

func (r *round) Size() (ops int, bytes int64) { return len(r.ops), r.bytes }

// Apply makes the round's batch and gives it to pebble.
func (r *round) Apply() (sync bool) {
	w := r.w
	if w.failed == nil {
		w.failed = w.s.Err()
	}
	if w.failed != nil {
		w.answer(r.ops, fmt.Errorf("the store failed: %w: %w", errs.Unavailable, w.failed))
		return false
	}
	w.place(r)
	if len(r.ops) == 0 {
		return false
	}
	if err := w.apply(r); err != nil {
		w.failed = err
		w.s.fault.Fail(err)
		w.answer(r.ops, fmt.Errorf("the write failed: %w: %w", errs.Uncertain, err))
		return false
	}
	w.answerEarly(r)
	return r.sync
}

// answerEarly answers what does not wait for the sync.
func (w *writer) answerEarly(r *round) {
	for _, o := range r.ops {
		switch {
		case o.fill == nil && o.ack == store.AckLocal && o.flight != nil:
			r.flights = append(r.flights, o) // known to others only when it is durable
			w.s.settle(o, nil)
		case o.fill == nil && o.ack == store.AckLocal, o.lazy, !r.sync:
			w.s.answer(o, nil)
		default:
			r.waiting = append(r.waiting, o)
		}
	}
}

// place decides where messages go and puts everything into the batch. Ops that can't be stored are answered and leave the round.
func (w *writer) place(r *round) {
	r.batch = w.s.db.NewBatchWithSize(int(r.bytes) + len(r.ops)*blockHeadLen + 1024)
	kept := r.ops[:0]
	for _, o := range r.ops {
		var err error
		if o.fill != nil {
			err = w.placeWrite(r, o)
		} else {
			err = w.placePublish(r, o)
		}
		if err != nil {
			w.s.answer(o, err)
			continue
		}
		if o.fill == nil && o.stored == 0 {
			w.s.answer(o, nil) // its outcome says that nothing was stored
			continue
		}
		kept = append(kept, o)
	}
	clear(r.ops[len(kept):])
	r.ops = kept
	for _, add := range r.additions {
		w.close(r, add)
	}
	if len(kept) == 0 {
		_ = r.batch.Close() // an empty batch has nothing to fail at
	}
}

func (w *writer) placeWrite(r *round, o *op) error {
	if !o.frees && !w.s.space.Spare() {
		return w.s.space.FullError()
	}
	if err := o.fill(r.batch); err != nil {
		return err
	}
	r.sync = r.sync || !o.lazy
	return nil
}

// placePublish gives each message of o its offset.
func (w *writer) placePublish(r *round, o *op) error {
	switch {
	case o.topic.dropped:
		return unknown(o.topic.name)
	case !w.s.space.Admit(uint64(o.bytes)):
		return w.s.space.FullError()
	}
	parts := *o.topic.parts.Load()
	if _, turned := r.turned[o.topic]; !turned {
		r.turned[o.topic] = struct{}{}
		o.topic.turn = (o.topic.turn + 1) % int32(len(parts))
	}
	var bad map[int32]bool
	for i, m := range o.msgs {
		n := choose(m, o.topic.turn, int32(len(parts)))
		if err := w.s.check(o.topic, n, m, bad); err != nil {
			if bad == nil {
				bad, o.failed = map[int32]bool{}, make([]error, len(o.msgs))
			}
			bad[n], o.failed[i] = true, err
			o.placed = append(o.placed, placed{})
			continue
		}
		o.placed = append(o.placed, w.add(r, parts[n], m))
		o.stored++
	}
	if o.stored == 0 {
		return nil
	}
	r.sync = true
	if o.flight != nil {
		w.s.remember(r.batch, o, r.now)
	}
	return nil
}

// choose is the partition for a message among n.
func choose(m *store.Message, turn, n int32) int32 {
	switch {
	case m.Partition != store.AnyPartition:
		return m.Partition
	case len(m.Key) > 0:
		return store.PartitionOf(m.Key, n)
	}
	return turn
}

// add gives the message the partition's next offset and puts it into a block.
func (w *writer) add(r *round, p *partition, m *store.Message) placed {
	if p.adding == nil {
		p.adding = &addition{p: p, watch: p.watched.Load() > 0, block: w.blockWriter(), base: p.tip.offset}
		p.adding.block.begin(r.now)
		r.additions = append(r.additions, p.adding)
	}
	at := placed{partition: p.number, offset: p.tip.offset, time: r.now}
	if !m.Time.IsZero() {
		at.time = m.Time.UnixMilli()
	}
	b := p.adding.block
	b.add(m, at.time)
	p.tip.offset++
	p.tip.newest = max(p.tip.newest, at.time)
	p.tip.age = max(p.tip.age, min(at.time, r.now))
	if len(b.buf) >= maxBlockBytes || b.count >= w.s.cfg.blockCount {
		w.cut(r, p.adding)
	}
	return at
}

// cut puts the block into the batch and begins another one.
func (w *writer) cut(r *round, add *addition) {
	p := add.p
	var key [blockKeyLen]byte
	value := add.block.finish(p.blockKey(&key, add.base), &p.tip)
	_ = r.batch.Set(key[:], value, nil) // fails only in a batch that was applied
	add.blocks = append(add.blocks, newTailBlock(add.base, p.tip.offset, value, add.watch))
	add.base = p.tip.offset
	add.block.begin(r.now)
}

// close ends what the round adds to a partition. When the topic was deleted in the same round, after the messages came,
// the last block is left out: it would come behind the deletion and stay for ever.
func (w *writer) close(r *round, add *addition) {
	if add.block.count > 0 && !add.p.topic.dropped {
		w.cut(r, add)
	}
	add.end = add.p.tip
	w.recycle(add.block)
	add.block, add.p.adding = nil, nil
}

// blockWriter is one that was used before, or a new one.
func (w *writer) blockWriter() *blockWriter {
	n := len(w.spare)
	if n == 0 {
		return &blockWriter{}
	}
	b := w.spare[n-1]
	w.spare = w.spare[:n-1]
	return b
}

// recycle keeps a few writers whose buffers are not unusually big.
func (w *writer) recycle(b *blockWriter) {
	if len(w.spare) < 8 && cap(b.buf) <= 2*maxBlockBytes {
		w.spare = append(w.spare, b)
	}
}

// apply gives the batch to pebble.
func (w *writer) apply(r *round) error {
	if r.sync {
		return w.s.db.ApplyNoSyncWait(r.batch, pebble.Sync)
	}
	if err := w.s.db.Apply(r.batch, pebble.NoSync); err != nil {
		return err
	}
	return r.batch.Close()
}

// Finish waits for the sync, shows the messages to readers and answers.
func (r *round) Finish() {
	s := r.w.s
	err := s.fault.Confirm(r.batch.SyncWait())
	if err == nil {
		_ = r.batch.Close() // only gives memory back
		for _, add := range r.additions {
			s.tail.show(add)
		}
	}
	r.w.answer(r.waiting, err)
	for _, o := range r.flights {
		s.onces.land(o, err)
	}
}

func (w *writer) answer(ops []*op, err error) {
	for _, o := range ops {
		w.s.answer(o, err)
	}
}

// answer ends an op. After it, the op belongs to its caller again.
func (s *Store) answer(o *op, err error) {
	if o.flight != nil {
		s.onces.land(o, err)
	}
	s.settle(o, err)
}

func (s *Store) settle(o *op, err error) {
	if o.fill == nil {
		s.room.Release(o.weight())
	}
	o.Answer(err)
}

// forsake ends an op that its caller left before the writer had it.
func (s *Store) forsake(o *op) {
	if o.flight != nil {
		s.onces.land(o, errs.Unavailable)
	}
	if o.fill == nil {
		s.room.Release(o.weight())
	}
}
