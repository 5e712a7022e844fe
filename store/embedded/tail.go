package embedded

import (
	"slices"
	"sync/atomic"
)

// tailBlock is a block just stored. value is nil where it is not kept in memory, since nobody holds the partition.
type tailBlock struct {
	base, end int64
	value     []byte
}

func newTailBlock(base, end int64, value []byte, keep bool) tailBlock {
	b := tailBlock{base: base, end: end}
	if keep {
		b.value = slices.Clone(value)
	}
	return b
}

// tailCache lets live readers have what was just stored without asking pebble, and bounds the memory for that over all
// partitions: the oldest block goes first, wherever it is. show is called by one goroutine, the one that syncs.
type tailCache struct {
	limit int64
	used  atomic.Int64
	order []tailRef // the blocks kept, oldest first, and some that are kept no more
}

type tailRef struct {
	p    *partition
	base int64
}

// show makes what was synced visible to the readers of its partition, and wakes them.
func (c *tailCache) show(add *addition) {
	p := add.p
	p.mu.Lock()
	p.end = add.end
	for _, b := range add.blocks {
		c.keep(p, b)
	}
	for _, w := range p.watchers {
		w.nudge()
	}
	p.mu.Unlock()
	c.evict()
}

// keep adds a block to p's tail, which stays without a hole. Caller holds p.mu.
func (c *tailCache) keep(p *partition, b tailBlock) {
	if n := len(p.tail); n > 0 && (b.value == nil || p.tail[n-1].end != b.base) {
		c.dropLocked(p)
	}
	if b.value == nil || len(p.watchers) == 0 {
		return
	}
	p.tail = append(p.tail, b)
	c.used.Add(int64(len(b.value)))
	c.order = append(c.order, tailRef{p, b.base})
}

func (c *tailCache) evict() {
	n := 0
	for ; c.used.Load() > c.limit && n < len(c.order); n++ {
		ref := c.order[n]
		ref.p.mu.Lock()
		if tail := ref.p.tail; len(tail) > 0 && tail[0].base == ref.base {
			c.used.Add(-int64(len(tail[0].value)))
			tail[0] = tailBlock{}
			ref.p.tail = tail[1:]
		}
		ref.p.mu.Unlock()
	}
	clear(c.order[:n])
	c.order = c.order[n:]
}

// dropLocked forgets p's tail. Caller holds p.mu.
func (c *tailCache) dropLocked(p *partition) {
	for _, b := range p.tail {
		c.used.Add(-int64(len(b.value)))
	}
	p.tail = nil
}

// wake tells who waits in a Poll that something may be new.
type wake chan struct{}

func newWake() wake { return make(wake, 1) }

// nudge has Poll look again.
func (w wake) nudge() {
	select {
	case w <- struct{}{}:
	default:
	}
}

// watch adds a reader that is woken by what comes. Caller must unwatch.
func (p *partition) watch(w wake) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.watchers = append(p.watchers, w)
	p.watched.Store(int32(len(p.watchers)))
}

func (p *partition) unwatch(w wake, c *tailCache) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.watchers = slices.DeleteFunc(p.watchers, func(other wake) bool { return other == w })
	p.watched.Store(int32(len(p.watchers)))
	if len(p.watchers) == 0 {
		c.dropLocked(p)
	}
}

// cached finds the block that holds the offset in the tail. Caller holds p.mu.
func (p *partition) cached(offset int64) (tailBlock, bool) {
	i, found := slices.BinarySearchFunc(p.tail, offset, func(b tailBlock, at int64) int {
		switch {
		case b.end <= at:
			return -1
		case b.base > at:
			return 1
		}
		return 0
	})
	if !found {
		return tailBlock{}, false
	}
	return p.tail[i], true
}
