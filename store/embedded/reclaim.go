package embedded

import (
	"context"
	"fmt"
	"sync"
)

// garbage is what was removed from the log but still takes space: pebble gives back by itself what it finds in the way of
// other work, and on a store where little is written that may be never.
type garbage struct {
	mu     sync.Mutex
	ranges map[string]keyRange // by prefix
}

// keyRange is from a key up to another one.
type keyRange struct {
	from, to []byte
	bytes    int64
}

// add notes that the blocks with the prefix were removed from from on and up to to.
func (g *garbage) add(prefix, from, to []byte, bytes int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ranges == nil {
		g.ranges = map[string]keyRange{}
	}
	k := string(prefix)
	if was, is := g.ranges[k]; is {
		from, bytes = was.from, bytes+was.bytes
	}
	g.ranges[k] = keyRange{from, to, bytes}
}

// take answers all ranges when there are so many bytes in them, and forgets them.
func (g *garbage) take(enough int64) map[string]keyRange {
	g.mu.Lock()
	defer g.mu.Unlock()
	total := int64(0)
	for _, r := range g.ranges {
		total += r.bytes
	}
	if total < enough {
		return nil
	}
	ranges := g.ranges
	g.ranges = nil
	return ranges
}

// reclaim has pebble give space back where that is worth the work: rewriting files of which a part was removed. On a disk that
// is nearly full, that is always.
func (s *Store) reclaim(ctx context.Context) error {
	enough := int64(s.space.MemTable())
	if s.space.Tight() {
		enough = 1
	}
	ranges := s.trash.take(enough)
	for prefix, r := range ranges {
		if err := s.db.Compact(ctx, r.from, r.to, false); err != nil {
			for prefix, r := range ranges {
				s.trash.add([]byte(prefix), r.from, r.to, r.bytes)
			}
			return fmt.Errorf("give space back: %w", err)
		}
		delete(ranges, prefix)
	}
	return nil
}
