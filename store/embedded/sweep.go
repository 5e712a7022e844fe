package embedded

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

const (
	onceSweep  = 1000        // outcomes expired at a time
	tightSweep = time.Second // how often to sweep at least when the disk is nearly full
)

// sweepLoop applies the limits every now and then.
func (s *Store) sweepLoop(ctx context.Context) {
	timer := time.NewTimer(s.cfg.SweepEvery)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.fault.Failed():
			return
		case <-timer.C:
		}
		s.space.Look()
		if err := s.sweep(ctx); err != nil && ctx.Err() == nil {
			s.log.Error("old messages or outcomes can't be removed now", "err", err)
		}
		if s.space.Tight() {
			timer.Reset(min(s.cfg.SweepEvery, tightSweep))
		} else {
			timer.Reset(s.cfg.SweepEvery)
		}
	}
}

// sweep removes what is over the limits of its topic, and outcomes.
func (s *Store) sweep(ctx context.Context) error {
	s.mu.RLock()
	topics := slices.Collect(maps.Values(s.topics))
	s.mu.RUnlock()
	var failed error
	for _, t := range topics {
		for _, p := range *t.parts.Load() {
			if err := s.trim(ctx, p); err != nil {
				failed = errors.Join(failed, fmt.Errorf("topic %q, partition %d: %w", t.name, p.number, err))
			}
		}
	}
	return errors.Join(failed, s.expireOnces(ctx), s.reclaim(ctx))
}

// trim removes whole blocks from the front of a partition. The last one that reaches over a limit of size stays.
func (s *Store) trim(ctx context.Context, p *partition) error {
	over := p.overLimits(s.cfg.Now())
	start, end := p.bounds()
	if start.offset == end.offset || !over(p.firstBlock()) {
		return nil
	}
	to, err := s.search(p, func(m mark) bool { return !over(m) })
	if err != nil || to.offset <= start.offset {
		return err
	}
	var from, until [blockKeyLen]byte
	p.blockKey(&from, start.offset)
	p.blockKey(&until, to.offset)
	o := newWrite(func(b *pebble.Batch) error {
		p.mu.Lock()
		p.start = to // before the blocks are gone, so that no reader takes that for damage
		p.mu.Unlock()
		return errors.Join(
			b.DeleteRange(from[:], until[:], nil),
			b.Set(partitionKey(tagStart, p.topic.id, p.number), to.append(nil), nil))
	})
	o.lazy, o.frees = true, true
	if err := s.write(ctx, o); err != nil {
		return err
	}
	p.wake()
	s.trash.add(p.prefix, from[:], until[:], to.bytes-start.bytes)
	return s.noteFirst(p)
}

// overLimits tells by the mark behind a block whether all of it may go.
func (p *partition) overLimits(now time.Time) func(mark) bool {
	_, end := p.bounds()
	l := p.topic.limit.Load()
	return func(m mark) bool {
		return l.age >= 0 && m.age < now.Add(-l.age).UnixMilli() || l.bytes >= 0 && end.bytes-m.bytes >= l.bytes
	}
}

// firstBlock is the mark behind the partition's first block where that is known, else one that is over any limit.
func (p *partition) firstBlock() mark {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.first.offset <= p.start.offset {
		return mark{age: math.MinInt64}
	}
	return p.first
}

// noteFirst spares trim a look at the disk as long as the first block stays.
func (s *Store) noteFirst(p *partition) error {
	start, _ := p.bounds()
	first, err := s.markAt(p, start.offset)
	p.mu.Lock()
	p.first = first
	p.mu.Unlock()
	return err
}

// search finds the first block whose mark has reached something that no mark loses again, and answers the mark before it; the
// end where none has. Of that mark, newest and age may be too low.
func (s *Store) search(p *partition, reached func(mark) bool) (mark, error) {
	if err := s.enter(); err != nil {
		return mark{}, err
	}
	defer s.leave()
	start, end := p.bounds()
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: p.prefix, UpperBound: after(p.prefix)})
	if err != nil {
		return mark{}, err
	}
	found, lo := end, start.offset
	for lo < found.offset && err == nil {
		middle := lo + (found.offset-lo)/2
		var b span
		b, err = spanAt(p, it, middle, end)
		if b.from > middle || !reached(b.end) {
			lo = max(b.end.offset, middle+1)
			continue
		}
		found = mark{offset: max(b.from, start.offset), bytes: b.end.bytes - b.size, newest: start.newest, age: start.age}
	}
	return found, errors.Join(err, it.Close())
}

// span is a block's place.
type span struct {
	from int64
	size int64
	end  mark
}

// spanAt finds the block that holds the offset. A damaged one counts as if it were one with those up to the next good one.
func spanAt(p *partition, it *pebble.Iterator, offset int64, end mark) (span, error) {
	var key [blockKeyLen]byte
	if !it.SeekLT(p.blockKey(&key, offset+1)) {
		return span{from: offset + 1, end: mark{offset: offset + 1}}, it.Error()
	}
	from, err := blockBase(it.Key())
	if err != nil {
		return span{}, err
	}
	for ok := true; ok; ok = it.Next() {
		value, err := it.ValueAndErr()
		if err != nil {
			return span{}, err
		}
		if b, err := openBlock(it.Key(), value); err == nil && b.end.offset <= end.offset {
			return span{from: from, size: int64(len(value)), end: b.end}, nil
		}
	}
	return span{from: from, end: end}, it.Error()
}

// markAt is the mark behind the block that holds the offset.
func (s *Store) markAt(p *partition, offset int64) (mark, error) {
	if err := s.enter(); err != nil {
		return mark{}, err
	}
	defer s.leave()
	_, end := p.bounds()
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: p.prefix, UpperBound: after(p.prefix)})
	if err != nil {
		return mark{}, err
	}
	b, err := spanAt(p, it, offset, end)
	return b.end, errors.Join(err, it.Close())
}

// expireOnces forgets outcomes that are too old or too many.
func (s *Store) expireOnces(ctx context.Context) error {
	for {
		n := 0
		o := newWrite(func(b *pebble.Batch) (err error) {
			n, err = s.fillExpired(b)
			return err
		})
		o.lazy, o.frees = true, true
		if err := s.write(ctx, o); err != nil || n < onceSweep {
			return err
		}
	}
}

// fillExpired adds the removal of the oldest outcomes to the batch. The writer runs it, so that no outcome is renewed
// meanwhile but by a flight that it sees.
func (s *Store) fillExpired(b *pebble.Batch) (n int, err error) {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: onceOrderKey(s.onces.first), UpperBound: after([]byte{tagOnceOrder})})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for ok := it.First(); ok && n < onceSweep; ok = it.Next() {
		order, err := it.ValueAndErr()
		if err != nil {
			return n, err
		}
		seq := binary.BigEndian.Uint64(it.Key()[1:])
		record := append([]byte{tagOnce}, order...)
		c, err := s.readOutcome(record)
		switch {
		case err != nil:
			return n, err
		case c == nil || c.seq != seq: // its topic was deleted, or it was renewed
		case s.onces.flying(order), !s.expired(c) && s.onces.next-seq <= uint64(s.cfg.OnceKeys):
			return n, it.Error()
		default:
			_ = b.Delete(record, nil) // fails only in a batch that was applied
		}
		_ = b.Delete(it.Key(), nil)
		s.onces.first = seq + 1
		n++
	}
	return n, it.Error()
}

// flying reports that a publish with the key is under way.
func (c *onces) flying(order []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.flights[flightKey{binary.BigEndian.Uint64(order), string(order[8:])}] != nil
}
