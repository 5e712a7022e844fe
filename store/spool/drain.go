package spool

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

const (
	drainMessages = 1000
	drainBytes    = 512 << 10
	atOnce        = 16              // attempts to one cluster at the same time,
	slow          = 2 * time.Second // not counting those that take longer: a partition without a leader must not hold up the others
	firstPause    = 100 * time.Millisecond
	longestPause  = 2 * time.Second
	goneAfter     = 30 * time.Second // a topic that is unknown for so long is gone: brokers that have just started may not know it yet
)

// crowds bound how many lanes of a cluster drain at the same time, so that the others' memory and the cluster's first
// moments are not theirs alone.
type crowds struct {
	mu sync.Mutex
	of map[string]chan struct{}
}

// enter waits for a place. leave gives it back; a second leave does nothing.
func (c *crowds) enter(ctx context.Context, topic string) (leave func(), err error) {
	cluster, _, found := strings.Cut(topic, ":")
	if !found {
		cluster = ""
	}
	c.mu.Lock()
	if c.of == nil {
		c.of = map[string]chan struct{}{}
	}
	places := c.of[cluster]
	if places == nil {
		places = make(chan struct{}, atOnce)
		c.of[cluster] = places
	}
	c.mu.Unlock()
	select {
	case places <- struct{}{}:
		return sync.OnceFunc(func() { <-places }), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// portion is what is drained together, in order.
type portion struct {
	seqs  []uint64
	sizes []int64
	times []time.Time // when each was accepted
	msgs  []*store.Message
	end   uint64 // behind the last
}

// drain gives the lane's messages to the store until there are none.
func (s *Spool) drain(l *lane) {
	pause := s.cfg.pause
	var unknown time.Time // since when the topic has been
	for s.ctx.Err() == nil {
		p, err := s.next(l)
		if err != nil {
			s.fault.Fail(fmt.Errorf("read the spool: %w", err))
			return
		}
		if len(p.seqs) == 0 {
			if s.idle(l) {
				return
			}
			continue
		}
		left, moved, err := s.attempt(l, p)
		if left {
			return
		}
		if moved {
			pause, unknown = s.cfg.pause, time.Time{}
		}
		if err == nil {
			continue
		}
		if s.isGone(l, err, &unknown) {
			if s.putAside(l, err) {
				return
			}
			continue
		}
		s.wait(pause/2 + rand.N(pause/2))
		pause = min(2*pause, longestPause)
	}
}

func (s *Spool) wait(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-s.ctx.Done():
	}
}

// idle waits until there is more on disk, and is true when the lane's goroutine is to end, since there never will be.
func (s *Spool) idle(l *lane) (over bool) {
	select {
	case <-l.more:
		return false
	case <-s.ctx.Done():
	case <-s.fault.Failed():
	}
	return true
}

// next reads what is to be drained next.
func (s *Spool) next(l *lane) (p portion, err error) {
	s.mu.RLock()
	synced := l.synced
	s.mu.RUnlock()
	if l.head >= synced {
		return p, nil
	}
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: messageKey(l.t.id, l.no, l.head), UpperBound: messageKey(l.t.id, l.no, synced)})
	if err != nil {
		return p, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	bytes := int64(0)
	for ok := it.First(); ok && len(p.seqs) < drainMessages && bytes < drainBytes; ok = it.Next() {
		v, err := it.ValueAndErr()
		if err != nil {
			return p, err
		}
		r := reader{b: append([]byte{}, v...)}
		m := r.message()
		if r.err != nil {
			return p, r.err
		}
		k := it.Key()
		p.seqs = append(p.seqs, binary.BigEndian.Uint64(k[len(k)-8:]))
		p.sizes = append(p.sizes, weight(v))
		p.times = append(p.times, m.Time)
		p.msgs = append(p.msgs, m)
		bytes += weight(v)
	}
	if n := len(p.seqs); n > 0 {
		p.end = p.seqs[n-1] + 1
	} else {
		l.head = synced
	}
	return p, it.Error()
}

// attempt publishes a portion. Before it, what an attempt before it left in doubt is cleared up. left is true when the lane is
// empty now; moved, when at least something left it.
func (s *Spool) attempt(l *lane, p portion) (left, moved bool, err error) {
	leave, err := s.crowds.enter(s.ctx, l.t.name)
	if err != nil {
		return false, false, err
	}
	defer leave()
	timer := time.AfterFunc(slow, leave)
	defer timer.Stop()

	d, err := s.doubt(l)
	if err != nil {
		return false, false, err
	}
	if d != nil {
		return s.settle(l, p, d)
	}
	ends, err := s.endsOf(s.ctx, l.t)
	if err != nil {
		return false, false, err
	}
	if err := s.db.Set(laneKey(tagDrain, l.t.id, l.no), (&doubt{end: p.end, ends: ends}).encode(), s.how()); err != nil {
		return false, false, fmt.Errorf("note a drain: %w: %w", errs.Unavailable, err)
	}
	err = s.cfg.Drain.Publish(store.WithPatience(s.ctx, store.PatientSend), l.t.name, store.AckAll, p.msgs...)
	if s.ctx.Err() != nil && err != nil {
		return false, false, err // the next start looks at what became of it
	}
	return s.result(l, p, err)
}

func (s *Spool) how() *pebble.WriteOptions {
	if s.cfg.noSync {
		return pebble.NoSync
	}
	return pebble.Sync
}

// result removes what the store has of a portion that was published.
func (s *Spool) result(l *lane, p portion, err error) (left, moved bool, _ error) {
	stored := make([]bool, len(p.msgs))
	doubtful := false
	var first error
	for i := range p.msgs {
		e := store.Each(err, i)
		if e == nil {
			stored[i] = true
			l.t.ends.saw(p.msgs[i])
			continue
		}
		if first == nil {
			first = e
		}
		doubtful = doubtful || inDoubt(e)
	}
	left, moved, dropErr := s.remove(l, p, stored, !doubtful)
	return left, moved, errors.Join(dropErr, first)
}

// inDoubt is an outcome after which the store may have the message.
func inDoubt(err error) bool {
	kind := errs.Of(err)
	return kind == errs.Uncertain || kind == errs.Internal
}

// remove takes messages out of the lane, and with them the note that they are being drained, if nothing is in doubt any more.
// That is not synced: after a power loss the note is there with the messages, and the store is asked.
func (s *Spool) remove(l *lane, p portion, gone []bool, certain bool) (left, moved bool, err error) {
	b := s.db.NewBatch()
	n, bytes, prefix := 0, int64(0), true
	head, oldest := l.head, time.Time{}
	for i, seq := range p.seqs {
		if !gone[i] {
			if prefix {
				prefix, head, oldest = false, seq, p.times[i]
			}
			continue
		}
		n++
		bytes += p.sizes[i]
		if !prefix {
			_ = b.Delete(messageKey(l.t.id, l.no, seq), nil) // fails only in a batch that was applied
		}
	}
	if prefix {
		head = p.end
	}
	if head > l.head {
		_ = b.DeleteRange(messageKey(l.t.id, l.no, l.head), messageKey(l.t.id, l.no, head), nil)
	}
	if certain {
		_ = b.Delete(laneKey(tagDrain, l.t.id, l.no), nil)
	}
	if err := s.db.Apply(b, pebble.NoSync); err != nil {
		s.fault.Fail(err)
		return false, false, fmt.Errorf("note what was drained: %w: %w", errs.Unavailable, err)
	}
	_ = b.Close() // only gives memory back
	l.head = head
	s.metrics.drained.Add(float64(n))
	return s.took(l, n, bytes, oldest), n > 0, nil
}

// isGone reports an error after which the first message of the lane will never be taken. A topic that is unknown is made, where
// that is allowed, or has to be unknown for a while.
func (s *Spool) isGone(l *lane, err error, unknown *time.Time) bool {
	if s.ctx.Err() != nil {
		return false
	}
	s.mu.Lock()
	l.t.err = err
	s.mu.Unlock()
	kind := errs.Of(err)
	s.metrics.failed.WithLabelValues(kind.Code()).Inc()
	switch kind {
	case errs.TooLarge, errs.InvalidParam, errs.InvalidName, errs.Denied, errs.SchemaViolation:
		return true
	case errs.UnknownTopic:
		l.t.ends.forget()
		if s.cfg.Make != nil {
			if err := s.cfg.Make(s.ctx, l.t.name); err != nil {
				s.log.Warn("a topic with spooled messages is not there and can't be made", "topic", l.t.name, "error", err)
			}
			return false
		}
		if unknown.IsZero() {
			*unknown = s.cfg.Now()
		}
		return s.cfg.Now().Sub(*unknown) >= goneAfter
	default:
		*unknown = time.Time{}
		return false
	}
}
