package spool

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// How old what is known of a topic's ends may be. They only say where a look at the tail has to begin, so that older ones are
// not wrong but make it longer: the store is asked beside the publish, and no publish waits for a store that is away.
const (
	endsAge     = 5 * time.Second
	endsLongAge = 10 * time.Minute // after which the publish waits for the store,
	endsWait    = time.Second      // for so long
)

// ends are where a topic's partitions ended, as far as is known.
type ends struct {
	mu     sync.Mutex
	list   []store.Position // by partition; a message that is sent from now on is not before it
	looked time.Time
	asking bool      // beside the publishes
	number uint64    // under which list is on disk; 0 = it is not
	saved  time.Time // when
}

// saw notes where a message was stored.
func (e *ends) saw(m *store.Message) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if i := int(m.Partition); i >= 0 && i < len(e.list) {
		e.list[i].Next = max(e.list[i].Next, m.Offset+1)
	}
}

// forget makes the next one look again, since the topic may be another one, or what is known too old to tell messages apart that
// look the same.
func (e *ends) forget() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list, e.looked, e.saved = nil, time.Time{}, time.Time{}
}

// endsOf is where the topic ended at some time before now.
func (s *Spool) endsOf(ctx context.Context, t *topic) ([]store.Position, error) {
	e := &t.ends
	e.mu.Lock()
	list, age := slices.Clone(e.list), time.Since(e.looked)
	fresh, ask := age < endsAge, age < endsLongAge && !e.asking
	known := len(list) > 0
	e.asking = e.asking || known && !fresh && ask
	e.mu.Unlock()
	switch {
	case known && fresh:
		return list, nil
	case known && ask:
		s.beside(func(ctx context.Context) {
			_, _ = s.askEnds(ctx, t) // they stay as they are
			e.mu.Lock()
			e.asking = false
			e.mu.Unlock()
		})
		return list, nil
	case known && age < endsLongAge:
		return list, nil
	case known:
		short, cancel := context.WithTimeout(ctx, endsWait)
		defer cancel()
		now, err := s.askEnds(short, t)
		if err != nil && errs.Of(err) == errs.Unavailable {
			e.mu.Lock()
			e.looked = time.Now().Add(-endsAge) // the next one need not wait again
			e.mu.Unlock()
			return list, nil
		}
		return now, err
	}
	return s.askEnds(ctx, t)
}

// beside runs f in the background until Close.
func (s *Spool) beside(f func(context.Context)) {
	if s.enter() != nil {
		return
	}
	go func() {
		defer s.leave()
		f(s.ctx)
	}()
}

func (s *Spool) askEnds(ctx context.Context, t *topic) ([]store.Position, error) {
	list, err := s.cfg.Reader.Resolve(ctx, t.name, store.Start{Newest: true})
	if err != nil {
		if errs.Of(err) == errs.Uncertain { // nothing was sent, whatever kept it
			err = fmt.Errorf("looking for the ends of topic %q: %v: %w", t.name, err, errs.Unavailable) //nolint:errorlint // the kind is another one now
		}
		return nil, err
	}
	e := &t.ends
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range min(len(list), len(e.list)) { // what was drained meanwhile is behind us
		list[i].Next = max(list[i].Next, e.list[i].Next)
	}
	e.list, e.looked = list, time.Now()
	return slices.Clone(list), nil
}

// doubt notes on disk that messages of a lane are being given to the store.
type doubt struct {
	end  uint64           // behind the last of them
	ends []store.Position // of the topic's partitions before
}

func (d *doubt) encode() []byte {
	return appendPositions(binary.AppendUvarint([]byte{1}, d.end), d.ends)
}

// doubt is the note that an earlier attempt left, nil where there is none.
func (s *Spool) doubt(l *lane) (*doubt, error) {
	v, closer, err := s.db.Get(laneKey(tagDrain, l.t.id, l.no))
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read a note of the spool: %w: %w", errs.Unavailable, err)
	}
	r := reader{b: v}
	r.byte()
	d := &doubt{end: r.uvarint(), ends: r.positions()}
	return d, errors.Join(r.err, closer.Close())
}

// settle removes those messages that an earlier attempt gave to the store.
func (s *Spool) settle(l *lane, p portion, d *doubt) (left, moved bool, err error) {
	in := 0
	for in < len(p.seqs) && p.seqs[in] < d.end {
		in++
	}
	there, err := s.find(s.ctx, l.t.name, d.ends, p.msgs[:in], sameMessage)
	if err != nil {
		return false, false, err
	}
	gone := make([]bool, len(p.seqs))
	found := 0
	for i, at := range there {
		if gone[i] = at != nil; gone[i] {
			found++
		}
	}
	s.log.Info("looked for messages whose outcome was not known", "topic", l.t.name, "messages", in, "stored", found)
	l.t.ends.forget()
	// A portion is as large as that of the attempt or larger, so that all that is in doubt was looked for.
	return s.remove(l, p, gone, true)
}

// find looks for messages behind the positions, and answers where each is, nil where it is not. Messages that look the same
// are told apart by their number. A partition that came later is read from its beginning.
func (s *Spool) find(ctx context.Context, topic string, from []store.Position, msgs []*store.Message, same func(*store.Message) [32]byte) ([]*store.Message, error) {
	found := make([]*store.Message, len(msgs))
	if len(msgs) == 0 {
		return found, nil
	}
	wanted := map[[32]byte][]int{}
	for i, m := range msgs {
		id := same(m)
		wanted[id] = append(wanted[id], i)
	}
	now, err := s.cfg.Reader.Resolve(ctx, topic, store.Start{Newest: true})
	if err != nil {
		return nil, err
	}
	for _, end := range now {
		begin := int64(0)
		for _, p := range from {
			if p.Partition == end.Partition {
				begin = p.Next
			}
		}
		if begin > end.Next {
			begin = 0 // the topic is another one
		}
		if begin == end.Next {
			continue
		}
		for m, err := range s.cfg.Reader.Browse(ctx, topic, end.Partition, begin) {
			if err != nil {
				return nil, fmt.Errorf("reading the tail of %q: %w", topic, err)
			}
			id := same(m)
			if list := wanted[id]; len(list) > 0 {
				found[list[0]], wanted[id] = m, list[1:]
			}
		}
	}
	return found, nil
}

// sameMessage is what makes two messages one: all of it, with the time to the millisecond at which it was accepted.
func sameMessage(m *store.Message) [32]byte {
	return sha256.Sum256(appendMessage(nil, plain(m), m.Time))
}

// plain is the message as it was given to the store, in the form that is compared.
func plain(m *store.Message) *store.Message {
	c := *m
	c.Partition = store.AnyPartition
	if len(c.Key) == 0 {
		c.Key = nil
	}
	c.Headers = slices.Clone(m.Headers)
	for i := range c.Headers {
		if c.Headers[i].Value == nil {
			c.Headers[i].Value = []byte{}
		}
	}
	return &c
}
