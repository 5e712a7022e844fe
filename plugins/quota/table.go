package quota

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"
)

const (
	shards = 256
	// maxMeters is how many meters a table has. Beyond, whoever is new shares one, registered apps excepted.
	maxMeters = 200_000
	// A meter that has nothing to remember is dropped after idleLife.
	idleLife = time.Minute
	sweepGap = 10 * time.Second
)

// table has the meters of a scope. It is locked in pieces, so that it serves many cores.
type table[K comparable] struct {
	seed   maphash.Seed
	count  atomic.Int64
	crowd  *meter // of those that there is no room for
	shards [shards]shard[K]
}

type shard[K comparable] struct {
	mu     sync.RWMutex
	meters map[K]*meter
	_      [88]byte // to a line of the cache of its own
}

func newTable[K comparable](crowd *meter) *table[K] {
	return &table[K]{seed: maphash.MakeSeed(), crowd: crowd}
}

func (t *table[K]) shard(k K) *shard[K] { return &t.shards[maphash.Comparable(t.seed, k)%shards] }

// get is nil where there is none.
func (t *table[K]) get(k K) *meter {
	s := t.shard(k)
	s.mu.RLock()
	m := s.meters[k]
	s.mu.RUnlock()
	return m
}

// add puts the meter there unless there is one, and answers the one that is there then. k is the table's from then on.
func (t *table[K]) add(k K, fresh *meter, always bool) *meter {
	s := t.shard(k)
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.meters[k]; m != nil {
		return m
	}
	if !always && t.count.Load() >= maxMeters {
		return t.crowd
	}
	if s.meters == nil {
		s.meters = map[K]*meter{}
	}
	t.count.Add(1)
	s.meters[k] = fresh
	return fresh
}

// locked is the meter of k, locked. Where there is none it is made by fresh, with a key that may be kept; always says that
// there is room for it.
func (t *table[K]) locked(k K, always bool, fresh func() (K, *meter)) *meter {
	for {
		m := t.get(k)
		if m == nil {
			own, made := fresh()
			m = t.add(own, made, always)
		}
		m.mu.Lock()
		if !m.gone {
			return m
		}
		m.mu.Unlock()
	}
}

// sweep drops meters that have nothing to remember.
func (t *table[K]) sweep(now int64) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		for k, m := range s.meters {
			m.mu.Lock()
			if m.gone = m.idle(now, idleLife); m.gone {
				delete(s.meters, k)
				t.count.Add(-1)
			}
			m.mu.Unlock()
		}
		s.mu.Unlock()
	}
}

// each calls f with every meter, which is locked. f must not ask the table for anything.
func (t *table[K]) each(f func(k K, m *meter)) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.RLock()
		for k, m := range s.meters {
			m.mu.Lock()
			f(k, m)
			m.mu.Unlock()
		}
		s.mu.RUnlock()
	}
}
