package spool

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/kateway/kateway/internal/disk"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// maxCause bounds the text that is kept with a message that was set aside.
const maxCause = 512

// asideChunk is how many are moved at once.
const asideChunk = 1000

// putAside moves the lane's first message out of it, since the store refuses it for good: it must neither vanish nor hold up
// those behind it. It is true when the lane is empty now, or can't be drained any more.
func (s *Spool) putAside(l *lane, cause error) (left bool) {
	p, err := s.next(l)
	if err != nil {
		s.fault.Fail(fmt.Errorf("read the spool: %w", err))
		return true
	}
	if len(p.seqs) == 0 {
		return false
	}
	kind, text := errs.Of(cause), cause.Error()
	v := binary.AppendVarint([]byte{1}, s.cfg.Now().UnixMilli())
	for _, part := range []string{l.t.name, kind.Code(), text[:min(len(text), maxCause)]} {
		v = appendBytes(v, []byte(part))
	}
	v = appendMessage(v, p.msgs[0], p.times[0])
	id := s.nextID.Add(1)
	b := s.db.NewBatch()
	_ = b.Set(numberKey(tagAside, id), v, nil) // fails only in a batch that was applied
	_ = b.Delete(messageKey(l.t.id, l.no, p.seqs[0]), nil)
	if err := s.db.Apply(b, s.how()); err != nil {
		s.fault.Fail(err)
		return true
	}
	_ = b.Close() // only gives memory back
	s.asides.Add(1)
	s.metrics.aside.WithLabelValues(kind.Code()).Inc()
	s.log.Error("the store refuses a spooled message for good, and it was set aside: see gk spool", "topic", l.t.name, "id", id, "error", cause)
	s.bytes.Add(weight(v)) // it stays in the spool
	l.head = p.seqs[0] + 1
	oldest := time.Time{}
	if len(p.times) > 1 {
		oldest = p.times[1]
	}
	return s.took(l, 1, p.sizes[0], oldest)
}

func decodeAside(id uint64, v []byte) (store.Aside, error) {
	r := reader{b: v}
	r.byte()
	a := store.Aside{ID: id, At: time.UnixMilli(r.varint()), Topic: string(r.bytes()), Code: string(r.bytes()), Cause: string(r.bytes())}
	a.Message = r.message()
	return a, r.err
}

// kept is one with what it takes of the spool.
type kept struct {
	store.Aside
	weight int64
}

// Asides is store.Spooler's, as are the methods below.
func (s *Spool) Asides(_ context.Context, after uint64, max int) ([]store.Aside, error) {
	list, err := s.readAsides(after, max)
	asides := make([]store.Aside, len(list))
	for i := range list {
		asides[i] = list[i].Aside
	}
	return asides, err
}

// readAsides reads those behind an id.
func (s *Spool) readAsides(from uint64, max int) (list []kept, err error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: numberKey(tagAside, from+1), UpperBound: after([]byte{tagAside})})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errs.Unavailable, err)
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for ok := it.First(); ok && len(list) < max; ok = it.Next() {
		v, err := it.ValueAndErr()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errs.Unavailable, err)
		}
		a, err := decodeAside(binary.BigEndian.Uint64(it.Key()[1:]), append([]byte{}, v...))
		if err != nil {
			return nil, err
		}
		list = append(list, kept{a, weight(v)})
	}
	return list, it.Error()
}

// Requeue puts messages behind what waits in their lanes.
func (s *Spool) Requeue(ctx context.Context, ids ...uint64) (int, error) {
	return s.eachAside(ids, func(a store.Aside) error {
		m := a.Message
		o := &op{name: a.Topic, msgs: []*store.Message{m}, outcome: []error{errBehind}, Op: disk.NewOp()}
		o.add(0, m, m.Time, "requeued")
		o.fill = func(b *pebble.Batch) { _ = b.Delete(numberKey(tagAside, a.ID), nil) }
		return s.put(ctx, o)
	})
}

// Discard removes messages.
func (s *Spool) Discard(_ context.Context, ids ...uint64) (int, error) {
	return s.eachAside(ids, func(a store.Aside) error {
		if err := s.enter(); err != nil {
			return err
		}
		defer s.leave()
		if err := s.db.Delete(numberKey(tagAside, a.ID), s.how()); err != nil {
			s.fault.Fail(err)
			return fmt.Errorf("%w: %w", errs.Unavailable, err)
		}
		s.log.Warn("a message that was set aside is discarded", "topic", a.Topic, "id", a.ID)
		return nil
	})
}

// eachAside does something with the messages named, or with all, after which they are no longer aside.
func (s *Spool) eachAside(ids []uint64, do func(store.Aside) error) (n int, err error) {
	s.choosing.Lock()
	defer s.choosing.Unlock()
	last := s.nextID.Load() // not those that come back meanwhile
	from, max := uint64(0), asideChunk
	for i := 0; len(ids) == 0 || i < len(ids); i++ {
		if len(ids) > 0 {
			if ids[i] == 0 {
				continue
			}
			from, max, last = ids[i]-1, 1, ids[i]
		}
		list, err := s.readAsides(from, max)
		if err != nil {
			return n, err
		}
		for _, a := range list {
			if a.ID > last {
				break
			}
			if err := do(a.Aside); err != nil {
				return n, err
			}
			n++
			from = a.ID
			s.asides.Add(-1)
			s.bytes.Add(-a.weight)
		}
		if len(ids) == 0 && (len(list) < max || from >= last) {
			break
		}
	}
	return n, nil
}
