package spool

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

const (
	sweepEvery = 10 * time.Second
	onceSweep  = 10_000 // outcomes forgotten at once
)

// sweepLoop forgets outcomes that are too old or too many, looks at the disk, and says when messages wait for too long.
func (s *Spool) sweepLoop() {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	var told time.Time
	for {
		select {
		case <-tick.C:
		case <-s.ctx.Done():
			return
		case <-s.fault.Failed():
			return
		}
		s.space.Look()
		if err := s.expire(); err != nil {
			s.log.Error("forgetting idempotency keys", "error", err)
		}
		if st := s.SpoolStatus(); st.Late && time.Since(told) > 10*time.Minute {
			told = time.Now()
			s.log.Error("messages wait in the spool for longer than they should; nothing is dropped", "oldest", st.Oldest, "limit", s.cfg.MaxAge, "messages", st.Messages)
		}
	}
}

// expire forgets outcomes, and where topics ended when the oldest that is left began.
func (s *Spool) expire() error {
	for {
		n, err := s.expireSome()
		if err != nil || n < onceSweep {
			return errors.Join(err, s.expireEnds())
		}
	}
}

func (s *Spool) expireSome() (n int, err error) {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: numberKey(tagOnceOrder, s.once.first), UpperBound: after([]byte{tagOnceOrder})})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	b := s.db.NewBatch()
	defer func() { err = errors.Join(err, s.db.Apply(b, pebble.NoSync)) }()
	for ok := it.First(); ok && n < onceSweep; ok = it.Next() {
		order, err := it.ValueAndErr()
		if err != nil {
			return n, err
		}
		seq := binary.BigEndian.Uint64(it.Key()[1:])
		record := append([]byte{tagOnce}, order...)
		o, err := s.readOutcome(record)
		switch {
		case err != nil:
			return n, err
		case o == nil || o.seq != seq: // it came to nothing, or was renewed
		case !s.expired(o) && s.once.count(seq) <= uint64(s.cfg.OnceKeys):
			return n, it.Error()
		case s.flying(order):
			return n, it.Error()
		default:
			_ = b.Delete(record, nil) // fails only in a batch that was applied
		}
		_ = b.Delete(it.Key(), nil)
		s.once.first = seq + 1
		n++
	}
	return n, it.Error()
}

// count is how many records there are from seq on.
func (w *window) count(seq uint64) uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.next - seq
}

// flying reports that a publish with the key is under way.
func (s *Spool) flying(order []byte) bool {
	id, key := binary.BigEndian.Uint32(order), string(order[4:])
	s.once.mu.Lock()
	defer s.once.mu.Unlock()
	for k := range s.once.flights {
		if k.key == key {
			s.mu.RLock()
			t := s.topics[k.topic]
			s.mu.RUnlock()
			if t != nil && t.id == id {
				return true
			}
		}
	}
	return false
}

// expireEnds removes ends that no outcome refers to any more.
func (s *Spool) expireEnds() error {
	old := s.cfg.Now().Add(-s.cfg.OnceWindow - time.Minute).UnixMilli()
	s.mu.RLock()
	ids := make([]uint32, 0, len(s.topics))
	for _, t := range s.topics {
		ids = append(ids, t.id)
	}
	s.mu.RUnlock()
	b := s.db.NewBatch()
	n := 0
	var gone [][]byte
	for _, id := range ids {
		prefix := endsKey(id, 0)[:5]
		err := s.scan(prefix, func(k, _ []byte) error {
			if int64(binary.BigEndian.Uint64(k[5:])) < old {
				gone = append(gone, append([]byte{}, k...))
			}
			return nil
		})
		if err != nil {
			return errors.Join(err, b.Close())
		}
	}
	for _, k := range gone {
		_ = b.Delete(k, nil) // fails only in a batch that was applied
		n++
	}
	if n == 0 {
		return b.Close()
	}
	return s.db.Apply(b, pebble.NoSync)
}
