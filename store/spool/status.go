package spool

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// SpoolStatus is store.Spooler's.
func (s *Spool) SpoolStatus() store.SpoolStatus {
	st := store.SpoolStatus{On: !s.cfg.Off, Bytes: s.bytes.Load(), Limit: s.cfg.MaxBytes, Aside: s.asides.Load(), Fault: s.room()}
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, t := range s.topics {
		if len(t.lanes) == 0 {
			continue
		}
		row := store.SpoolTopic{Topic: t.name, Err: t.err}
		for _, l := range t.lanes {
			row.Messages += l.count
			row.Bytes += l.bytes
			row.Oldest = earlier(row.Oldest, l.oldest)
		}
		st.Messages += row.Messages
		st.Oldest = earlier(st.Oldest, row.Oldest)
		st.Topics = append(st.Topics, row)
	}
	slices.SortFunc(st.Topics, func(a, b store.SpoolTopic) int { return strings.Compare(a.Topic, b.Topic) })
	st.Late = !st.Oldest.IsZero() && s.cfg.Now().Sub(st.Oldest) > s.cfg.MaxAge
	return st
}

// Holds reports whether messages of the topic wait in the spool.
func (s *Spool) Holds(topic string) bool {
	if s.busy.Load() == 0 {
		return false
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	t := s.topics[topic]
	return t != nil && len(t.lanes) > 0
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

// room says why nothing can be spooled now, nil where it can.
func (s *Spool) room() error {
	switch {
	case s.fault.Err() != nil:
		return fmt.Errorf("the spool failed; restart the process: %w: %w", errs.Unavailable, s.fault.Err())
	case s.space.Refused():
		return s.space.FullError()
	case s.bytes.Load() >= s.cfg.MaxBytes:
		return fmt.Errorf("the spool is full with %d bytes: %w", s.bytes.Load(), errs.Unavailable)
	}
	return nil
}
