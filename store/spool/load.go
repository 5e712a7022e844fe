package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/kateway/kateway/internal/errs"
)

// load reads what is in the spool: topics, and how long each lane is.
func (s *Spool) load() error {
	names := map[uint32]*topic{}
	err := s.scan([]byte{tagTopic}, func(k, v []byte) error {
		r := reader{b: v}
		r.byte()
		t := &topic{id: binary.BigEndian.Uint32(k[1:]), slots: int32(r.uvarint())}
		t.name = string(r.b)
		names[t.id], s.topics[t.name] = t, t
		s.lastID = max(s.lastID, t.id)
		return r.err
	})
	if err != nil {
		return err
	}
	err = s.scan([]byte{tagMessage}, func(k, v []byte) error { return s.loadMessage(names, k, v) })
	if err != nil {
		return err
	}
	err = s.scan([]byte{tagEnds}, func(k, v []byte) error {
		t := names[binary.BigEndian.Uint32(k[1:])]
		if t == nil {
			return nil
		}
		r := reader{b: v}
		t.ends.number, t.ends.list = binary.BigEndian.Uint64(k[5:]), r.positions() // the last one stays
		return r.err
	})
	if err != nil {
		return err
	}
	err = s.scan([]byte{tagAside}, func(k, v []byte) error {
		s.nextID.Store(binary.BigEndian.Uint64(k[1:]))
		s.asides.Add(1)
		s.bytes.Add(weight(v))
		return nil
	})
	if err != nil {
		return err
	}
	return s.loadOrder()
}

func (s *Spool) loadMessage(names map[uint32]*topic, k, v []byte) error {
	t := names[binary.BigEndian.Uint32(k[1:])]
	if t == nil {
		return fmt.Errorf("a message of a topic that has no name: %w", errs.Internal)
	}
	no, seq := binary.BigEndian.Uint32(k[5:]), binary.BigEndian.Uint64(k[9:])
	l := t.lanes[no]
	if l == nil {
		r := reader{b: v}
		r.byte()
		l = s.lane(t, no, time.UnixMilli(r.varint()))
		l.head = seq
	}
	l.next, l.synced = seq+1, seq+1
	l.count++
	l.bytes += weight(v)
	s.bytes.Add(weight(v))
	return nil
}

// scan calls f with each row whose key begins with the prefix. What f is given is good until it returns.
func (s *Spool) scan(prefix []byte, f func(k, v []byte) error) (err error) {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: after(prefix)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for ok := it.First(); ok; ok = it.Next() {
		v, err := it.ValueAndErr()
		if err != nil {
			return err
		}
		if err := f(it.Key(), v); err != nil {
			return err
		}
	}
	return it.Error()
}

// loadOrder finds both ends of the order of outcomes.
func (s *Spool) loadOrder() (err error) {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{tagOnceOrder}, UpperBound: after([]byte{tagOnceOrder})})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	s.once.next = 1 // 0 is none
	if it.Last() {
		s.once.next = binary.BigEndian.Uint64(it.Key()[1:]) + 1
	}
	return it.Error()
}
