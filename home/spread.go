package home

import (
	"context"
	"sync"

	"github.com/kateway/kateway/group"
)

// spread is a client of several homes of one group. Each has partitions of its own.
type spread struct {
	*Merged
	r   *Router
	key group.Key

	mu   sync.Mutex
	from map[place]int // whose partition it was last
}

type place struct {
	retry     bool
	partition int32
}

var _ group.Session = (*spread)(nil)

// openSpread opens a session at each of the first n homes. What the client may hold is shared out among them.
func (r *Router) openSpread(ctx context.Context, ask group.Ask, n int) (group.Session, error) {
	ask.Prefetch = max(1, (ask.Prefetch+n-1)/n)
	open, failed := make([]group.Session, n), make([]error, n)
	var wg sync.WaitGroup
	for nth := range n {
		wg.Go(func() {
			s, err := r.openNth(ctx, &ask, nth)
			if open[nth], failed[nth] = s, err; err != nil {
				open[nth] = nil
			}
		})
	}
	wg.Wait()
	for _, err := range failed {
		if err == nil {
			continue
		}
		for _, s := range open {
			if s != nil {
				s.Close()
			}
		}
		return nil, err
	}
	return &spread{Merged: Merge(!ask.Stays, open...), r: r, key: ask.Key, from: map[place]int{}}, nil
}

// Next is Session's.
func (s *spread) Next(ctx context.Context, most int) (group.Batch, error) {
	from, b, err := s.Merged.Next(ctx, most)
	if err != nil {
		return b, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range b.Deliveries {
		s.from[place{d.Ref.Retry, d.Ref.Partition}] = from
	}
	return b, nil
}

// Settle is Session's.
func (s *spread) Settle(verbs ...group.Verb) []error {
	out := make([]error, len(verbs))
	of := map[int][]int{} // indexes of the verbs by source
	s.mu.Lock()
	for i, v := range verbs {
		from := s.from[place{v.Retry, v.Partition}]
		of[from] = append(of[from], i)
	}
	s.mu.Unlock()
	for from, indexes := range of {
		part := make([]group.Verb, len(indexes))
		for j, i := range indexes {
			part[j] = verbs[i]
		}
		for j, err := range s.Merged.Settle(from, part...) {
			out[indexes[j]] = err
		}
	}
	return out
}
