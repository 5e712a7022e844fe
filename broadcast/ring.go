package broadcast

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/kateway/kateway/internal/wire"
	"github.com/kateway/kateway/store"
)

// slotBytes is what an entry of a ring costs beside its message.
const slotBytes = 256

// ring keeps the newest messages of a topic, in the order in which they came, each with a number. Its place is told by two
// vectors: floor, where a reader stands before the first entry, and tip, behind the last. One goroutine writes.
//
// An entry leaves when the ring is full, in messages or bytes, or the entry is old. Nobody waits for a reader: one that has
// not seen it reads it from the store.
type ring struct {
	most  int          // entries
	bytes func() int64 // at most, the newest entry always

	tip   Vector       // the writer's own
	text  []byte       // used again and again
	forms atomic.Int64 // bytes of forms that readers had made

	mu    sync.Mutex
	slots []slot // a circle; its length is a power of two
	first uint64 // the number of the first entry
	next  uint64 // the number of the next to come
	used  int64  // bytes
	floor Vector
	last  Vector        // the tip as the readers may see it
	err   error         // nothing comes any more
	more  chan struct{} // closed by what comes next; nil: nobody waits
}

type slot struct {
	Item
	size int64
	at   time.Time // when it came
}

func newRing(topic string, at []store.Position, most int, bytes func() int64) *ring {
	r := &ring{most: most, bytes: bytes, tip: NewVector(topic), slots: make([]slot, 16)}
	for _, p := range at {
		r.tip.set(p.Partition, p.Next)
	}
	r.floor, r.last = r.tip.clone(), r.tip.clone()
	return r
}

// add appends what a Poll has brought.
func (r *ring) add(b *store.Batch, now time.Time) {
	fresh := make([]slot, 0, len(b.Gaps)+len(b.Messages))
	for _, p := range b.Gained {
		r.tip.set(p.Partition, p.Next)
	}
	for _, g := range b.Gaps {
		r.tip.set(g.Partition, g.To)
		fresh = append(fresh, slot{Item: Item{gap: &g}, size: slotBytes, at: now})
	}
	for _, m := range b.Messages {
		fresh = append(fresh, r.encode(m, now))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range b.Gained { // no entry is of them
		r.floor.set(p.Partition, p.Next)
	}
	for i := range fresh {
		r.push(&fresh[i])
	}
	r.last.next = append(r.last.next[:0], r.tip.next...)
	r.evict(now)
	r.wake()
}

// encode makes the forms that all readers share.
func (r *ring) encode(m *store.Message, now time.Time) slot {
	r.tip.Pass(m.Partition, m.Offset)
	r.text = wire.AppendObject(r.text[:0], m, wire.Extra{})
	n := len(r.text)
	r.text = r.tip.Append(r.text)
	both := append(make([]byte, 0, len(r.text)), r.text...)
	it := Item{Message: m, Object: both[:n:n], Cursor: both[n:], shared: &shared{weight: &r.forms}}
	return slot{Item: it, size: slotBytes + int64(m.Size()+len(both)), at: now}
}

func (r *ring) push(s *slot) {
	if n := uint64(len(r.slots)); r.next-r.first == n {
		grown := make([]slot, 2*n)
		for i := r.first; i < r.next; i++ {
			grown[i%(2*n)] = r.slots[i%n]
		}
		r.slots = grown
	}
	*r.at(r.next) = *s
	r.next++
	r.used += s.size
	if r.next-r.first > uint64(r.most) {
		r.shift()
	}
}

func (r *ring) at(number uint64) *slot { return &r.slots[number%uint64(len(r.slots))] }

// shift drops the first entry.
func (r *ring) shift() {
	s := r.at(r.first)
	if s.gap != nil {
		r.floor.set(s.gap.Partition, s.gap.To)
	} else {
		r.floor.Pass(s.Partition, s.Offset)
		s.shared.leave()
	}
	r.used -= s.size
	*s = slot{}
	r.first++
}

// evict drops what is too much or too old. Caller holds mu.
func (r *ring) evict(now time.Time) {
	for limit := r.bytes(); r.next-r.first > 1 && r.used+r.forms.Load() > limit; {
		r.shift()
	}
	for r.first < r.next && now.Sub(r.at(r.first).at) > maxAge {
		r.shift()
	}
	if r.first == r.next && len(r.slots) > 16 {
		r.slots = make([]slot, 16)
	}
}

// trim drops what is too old.
func (r *ring) trim(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.evict(now)
}

func (r *ring) empty() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.first == r.next
}

func (r *ring) size() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return int(r.used + r.forms.Load())
}

// beyond reports whether a position is behind all that has come: of what is still to come, or of another topic.
func (r *ring) beyond(p store.Position) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return p.Next > r.last.at(p.Partition)
}

// end is where the ring ends, as positions. The writer's own.
func (r *ring) end() (at []store.Position) {
	for p, next := range r.tip.next {
		if next != absent {
			at = append(at, store.Position{Partition: int32(p), Next: next})
		}
	}
	return at
}

// wake lets all that wait look again. Caller holds mu.
func (r *ring) wake() {
	if r.more != nil {
		close(r.more)
		r.more = nil
	}
}

// fail ends the ring: who has read all of it is told why.
func (r *ring) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
	r.wake()
}

// seat finds where in the ring a reader can go on that stands at v: at its first entry, if nothing that the reader lacks has
// left the ring. It answers that entry's number, and which partitions the reader is ahead in: it has seen some of what
// comes.
func (r *ring) seat(v *Vector) (number uint64, ahead map[int32]struct{}, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for p, floor := range r.floor.next {
		if floor != absent && v.reads(int32(p)) && v.at(int32(p)) < floor {
			return 0, nil, false
		}
	}
	for p, next := range v.next {
		if next != absent && next > r.floor.at(int32(p)) {
			if ahead == nil {
				ahead = map[int32]struct{}{}
			}
			ahead[int32(p)] = struct{}{}
		}
	}
	return r.first, ahead, true
}

// behind lists the partitions in which a reader that stands at v lacks what has left the ring, with where the ring begins.
func (r *ring) behind(v *Vector) (list []store.Position) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for p, floor := range r.floor.next {
		if floor != absent && v.reads(int32(p)) && v.at(int32(p)) < floor {
			list = append(list, store.Position{Partition: int32(p), Next: floor})
		}
	}
	return list
}

// from copies at most max entries from the given one on. Where there is none yet, it answers what is closed when there is;
// lost when the entry has left.
func (r *ring) from(number uint64, dst []Item, max int) (items []Item, more <-chan struct{}, lost bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if number < r.first {
		return dst, nil, true, nil
	}
	for ; number < r.next && max > 0; number++ {
		dst = append(dst, r.at(number).Item)
		max--
	}
	if len(dst) > 0 {
		return dst, nil, false, nil
	}
	if r.err != nil {
		return dst, nil, false, r.err
	}
	if r.more == nil {
		r.more = make(chan struct{})
	}
	return dst, r.more, false, nil
}
