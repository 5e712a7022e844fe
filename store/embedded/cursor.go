package embedded

import (
	"errors"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

const (
	maxReadBytes = 4 << 20         // blocks of so many bytes in one Poll are enough
	damagedPause = 5 * time.Second // how long a partition that pebble can't read is left alone
)

var errMissing = fmt.Errorf("%w: it is not there", errDamaged)

// cursor reads one partition in order. One goroutine at a time uses it.
type cursor struct {
	p      *partition
	next   int64
	block  blockReader
	told   int64     // where damage begins that was answered as an error, and is skipped next time; -1 = none
	paused time.Time // not to be read before
}

func newCursor(p *partition, next int64) *cursor { return &cursor{p: p, next: next, told: -1} }

// reading is what one Poll or one step of a Browse reads from any number of cursors. It must be closed.
type reading struct {
	s      *Store
	live   bool // may use the tail: the messages share its bytes
	max    int  // messages
	enough int  // bytes of blocks
	bytes  int  // that blocks opened so far had
	msgs   []*store.Message
	gaps   []store.Gap
	again  time.Time // when to look again at the latest; zero = when there is something new

	slab  []store.Message
	arena []byte
	it    *pebble.Iterator
	of    *partition // it reads
}

// full reports that no more is to be read.
func (r *reading) full() bool { return len(r.msgs) >= r.max || r.bytes >= r.enough }

func (r *reading) close() error {
	if r.it == nil {
		return nil
	}
	err := r.it.Close()
	r.it = nil
	return err
}

// read adds messages of the cursor's partition below limit, until there are no more or r is full. An error comes before
// the messages that it concerns; where they are damaged, the next read passes over them with a gap.
func (r *reading) read(c *cursor, limit int64) error {
	for !r.full() && c.next < limit {
		if !c.block.done() && c.block.next == c.next {
			if err := r.take(c, limit); err != nil {
				return r.damage(c, err, c.block.end)
			}
			continue
		}
		if stop, err := r.seek(c); stop || err != nil {
			return err
		}
	}
	return nil
}

// take decodes messages of the open block.
func (r *reading) take(c *cursor, limit int64) error {
	for len(r.msgs) < r.max && !c.block.done() && c.next < limit {
		m := r.message(limit - c.next)
		if err := c.block.read(m); err != nil {
			return err
		}
		m.Partition = c.p.number
		r.msgs = append(r.msgs, m)
		c.next++
	}
	return nil
}

// message cuts one from a larger allocation, of which left more will be wanted at the most.
func (r *reading) message(left int64) *store.Message {
	const slab = 256
	if len(r.slab) == 0 {
		r.slab = make([]store.Message, min(left, int64(r.max-len(r.msgs)), slab))
	}
	m := &r.slab[0]
	r.slab = r.slab[1:]
	return m
}

// seek opens the block that holds c.next, or moves c.next on. stop: there is nothing more to read now.
func (r *reading) seek(c *cursor) (stop bool, err error) {
	c.p.mu.RLock()
	start, end := c.p.start.offset, c.p.end.offset
	cached, inTail := c.p.cached(c.next)
	c.p.mu.RUnlock()
	switch {
	case c.next < start:
		r.skip(c, start)
		return false, nil
	case c.next > end:
		r.skip(c, end)
		return true, nil
	case c.next == end:
		return true, nil
	case !c.paused.IsZero() && time.Now().Before(c.paused):
		r.again = earlier(r.again, c.paused)
		return true, nil
	case inTail && r.live:
		var key [blockKeyLen]byte
		b, err := openBlockHead(c.p.blockKey(&key, cached.base), cached.value)
		if err != nil {
			return false, r.damage(c, err, cached.end)
		}
		return false, r.enter(c, b, len(cached.value))
	}
	return false, r.seekStored(c, end)
}

// skip notes a gap.
func (r *reading) skip(c *cursor, to int64) {
	r.gaps = append(r.gaps, store.Gap{Partition: c.p.number, From: c.next, To: to})
	c.next = to
}

// enter goes to c.next within the block.
func (r *reading) enter(c *cursor, b block, size int) error {
	r.bytes += size
	c.block.open(b)
	var passed store.Message
	for c.block.next < c.next {
		if err := c.block.read(&passed); err != nil {
			return r.damage(c, err, b.end.offset)
		}
	}
	return nil
}

// seekStored is seek in pebble: c.next must be in the last block that does not begin behind it.
func (r *reading) seekStored(c *cursor, end int64) error {
	it, err := r.iterator(c.p)
	if err != nil {
		return err
	}
	var key [blockKeyLen]byte
	if !it.SeekLT(c.p.blockKey(&key, c.next+1)) {
		return r.hole(c, it, end, errMissing)
	}
	value, err := it.ValueAndErr()
	if err != nil {
		return r.unreadable(c, err)
	}
	b, err := openBlock(it.Key(), value)
	if err != nil {
		return r.hole(c, it, end, err)
	}
	if b.end.offset <= c.next {
		return r.hole(c, it, end, errMissing)
	}
	b.body = r.keep(b.body)
	return r.enter(c, b, len(value))
}

// keep copies what pebble will use again.
func (r *reading) keep(b []byte) []byte {
	const chunk = 64 << 10
	if cap(r.arena)-len(r.arena) < len(b) {
		r.arena = make([]byte, 0, max(len(b), min(2*cap(r.arena), chunk)))
	}
	at := len(r.arena)
	r.arena = append(r.arena, b...)
	return r.arena[at:len(r.arena):len(r.arena)]
}

// iterator is over p's blocks. It shows at least what was synced when it was asked for.
func (r *reading) iterator(p *partition) (*pebble.Iterator, error) {
	if r.of == p && r.it != nil {
		return r.it, nil
	}
	if err := r.close(); err != nil {
		return nil, err
	}
	it, err := r.s.db.NewIter(&pebble.IterOptions{LowerBound: p.prefix, UpperBound: after(p.prefix)})
	if err != nil {
		return nil, err
	}
	r.it, r.of = it, p
	return it, nil
}

// hole is where no good block holds c.next, for the given reason. What is lost ends where the next block begins.
func (r *reading) hole(c *cursor, it *pebble.Iterator, end int64, reason error) error {
	if err := it.Error(); err != nil {
		return r.unreadable(c, err)
	}
	if start, _ := c.p.bounds(); c.next < start.offset {
		return nil // retention was here meanwhile
	}
	var key [blockKeyLen]byte
	if it.SeekGE(c.p.blockKey(&key, c.next+1)) {
		if base, err := blockBase(it.Key()); err == nil {
			end = min(base, end)
		}
	} else if err := it.Error(); err != nil {
		return r.unreadable(c, err)
	}
	return r.damage(c, reason, end)
}

// damage answers the error the first time, and skips to the given offset the next.
func (r *reading) damage(c *cursor, err error, to int64) error {
	c.block = blockReader{}
	if c.told == c.next {
		c.told = -1
		r.skip(c, to)
		return nil
	}
	c.told = c.next
	err = fmt.Errorf("topic %q, partition %d: offsets %d to %d are lost: %w: %w",
		c.p.topic.name, c.p.number, c.next, to-1, err, errs.Internal)
	r.s.log.Error("messages are damaged", "err", err)
	return err
}

// unreadable answers pebble's error, and has the partition left alone for a while, so that the others can be read.
func (r *reading) unreadable(c *cursor, err error) error {
	c.paused = time.Now().Add(damagedPause)
	err = fmt.Errorf("topic %q, partition %d, offset %d: %w: %w", c.p.topic.name, c.p.number, c.next, err, errs.Internal)
	r.s.log.Error("messages can't be read", "err", err)
	return errors.Join(err, r.close())
}
