package group

import (
	"slices"
	"sort"
	"time"

	"github.com/kateway/kateway/store"
)

type state uint8

const (
	pending state = iota // due, or due later, or behind another of its key
	leased               // in a client's hands
	moving               // on its way to the dead or retry queue
	done                 // acked, or moved
)

// entry is one message of a window. Times count from the ledger's base.
type entry struct {
	w       *window
	msg     *store.Message // as it was published; nil once it is done
	offset  int64
	attempt uint32 // deliveries so far, those of earlier holds among them
	came    uint32 // those that the message says itself: of before it came to the retry queue
	state   state
	cause   cause         // moving: why
	here    bool          // delivered in this hold, here or before a clean move, so that only its receipts count
	since   time.Duration // when it was delivered last, or its window gained where that was in an earlier hold; when it was fetched

	// In a shared window only.
	client     *client       // leased: in whose hands
	hand       int32         // leased: where in client.hands
	until      time.Duration // leased: when the lease ends; pending: since when it is due, or when it will be
	line       *line         // due, waiting for its time, or for the one before it of its key
	prev, next *entry        // in line
	chain      *chain        // of its key, in mode key
}

// chain is the messages of one key in a window, in mode key: only the first of them can be due or out.
type chain struct {
	key   string
	first *entry
	rest  line
}

// window is what the group knows of one partition that it holds: the messages from the commit's offset to the last one
// fetched. What is not among the entries in that range is done: acked, filtered out, or a hole that the store left.
type window struct {
	spot
	epoch   time.Time // the ledger's base; times count from there
	gained  time.Duration
	hold    uint32      // names this time that the partition is ours; goes on over a clean move
	anew    int64       // from this offset on, receipts of earlier holds count for what was not delivered in this one
	next    int64       // everything below is done: the commit's offset
	end     int64       // one above the last offset fetched
	top     int64       // one above the highest offset ever delivered
	entries []*entry    // in order; a part of buf
	buf     []*entry    // the array under entries, used again once it is empty
	bytes   int         // of the messages in entries that are not done
	due     int         // entries that are pending
	leased  int         // entries that are leased
	moving  int         // entries that are moving
	spent   int         // entries that are done
	gaps    []store.Gap // to be told to the next client
	done    []span      // done, not yet fetched
	ahead   []ahead     // delivered and not done in an earlier hold, not yet fetched; in order
	early   []*store.Message
	nacked  bool // while provisional: something of it, which in mode fifo makes all of it due
	dirty   bool // differs from what was committed last
	plain   int  // commits refused for their metadata: after one the done part goes alone, after two none
	full    bool // as ledger.full said last
	held    bool // full because of its lowest messages alone
	leaving bool // the next commit is the last: the group goes on elsewhere, and its clients with it

	// A shared window's messages each have a lease of their own; else the lease is the window's, mode fifo.
	shared bool
	chains map[string]*chain // by key; nil but in mode key
	exclusive
}

// stragglers is how many of a window's lowest messages do not count for its span: their places are written down one by one.
const stragglers = 64

// newWindow takes over a partition from its committed position.
func newWindow(at spot, p store.Position, hold uint32, epoch, gained time.Time) *window {
	w := &window{spot: at, epoch: epoch, gained: gained.Sub(epoch), hold: hold, next: p.Next, end: p.Next, top: p.Next}
	b, err := decodeBeyond(p.Beyond, p.Next)
	if err != nil {
		return w // another program's metadata: the offset alone counts
	}
	w.done, w.anew = b.done, b.anew
	if b.hold != 0 {
		w.hold = b.hold
	}
	for _, d := range w.done {
		w.top = max(w.top, d.to)
	}
	for _, c := range b.held {
		w.top = max(w.top, c.offset+1)
		w.ahead = append(w.ahead, ahead{carried: c, until: w.gained + c.remaining})
	}
	return w
}

// push appends to entries, using the array again instead of growing where its front is free.
func (w *window) push(e *entry) {
	if len(w.entries) == cap(w.entries) && cap(w.buf) >= 2*len(w.entries) {
		n := copy(w.buf[:len(w.entries)], w.entries)
		clear(w.entries)
		w.entries = w.buf[:n]
	}
	grown := len(w.entries) == cap(w.entries)
	w.entries = append(w.entries, e)
	if grown {
		w.buf = w.entries[:0]
	}
}

// reach is above every offset that was delivered: here, or in an earlier hold that went beyond the commit we know, by what
// is read between two commits.
func (w *window) reach() int64 { return w.top + maxSpan }

// size is how many messages are not done.
func (w *window) size() int { return len(w.entries) - w.spent }

// find is the entry of an offset, nil where there is none.
func (w *window) find(offset int64) *entry {
	if i := w.index(offset); i >= 0 {
		return w.entries[i]
	}
	return nil
}

// index is where the entry of an offset is, -1 where there is none. Offsets mostly have no holes, from the first on, or
// back from the last, so that the index is known.
func (w *window) index(offset int64) int {
	n := len(w.entries)
	if n == 0 {
		return -1
	}
	if i := offset - w.entries[0].offset; i >= 0 && i < int64(n) && w.entries[i].offset == offset {
		return int(i)
	}
	if i := int64(n-1) - w.entries[n-1].offset + offset; i >= 0 && i < int64(n) && w.entries[i].offset == offset {
		return int(i)
	}
	i, ok := slices.BinarySearchFunc(w.entries, offset, func(e *entry, o int64) int { return int(e.offset - o) })
	if !ok {
		return -1
	}
	return i
}

// lookup finds the entry that a receipt speaks of. Without an entry the message is done, or not fetched yet. Fenced where
// the receipt no longer counts.
func (w *window) lookup(r Ref) (*entry, error) {
	var e *entry
	if r.Offset >= w.next {
		e = w.find(r.Offset)
	}
	var valid bool
	switch {
	case e == nil && r.Offset < w.end: // done, or a hole now, which is the same
		valid = r.Hold == w.hold || r.Offset >= w.anew
	case e == nil && r.Hold == w.hold:
		valid = w.leasedAhead(r) || w.doneAhead(r.Offset)
	case e == nil: // of an earlier hold, and not delivered again in this one
		valid = r.Offset >= w.anew && w.findAhead(r.Offset) == nil
	case e.state == done:
		valid = true
	case r.Hold == w.hold:
		valid = e.state == leased && e.attempt == r.Attempt
	default: // of an earlier hold, whose end nobody could tell its clients
		valid = r.Offset >= w.anew && !e.here && e.state != moving
	}
	if !valid {
		return nil, fencedf("%v offset %d: the lease has ended, the message was or will be delivered again", r.spot(), r.Offset)
	}
	return e, nil
}

// advance moves next over what is done, and drops it.
func (w *window) advance() {
	i := 0
	for i < len(w.entries) && w.entries[i].state == done {
		w.entries[i] = nil
		i++
	}
	w.entries = w.entries[i:]
	w.spent -= i
	w.cursor = max(w.cursor-i, 0)
	if w.spent > 64 && w.spent > len(w.entries)/2 {
		w.compact()
	}
	for len(w.done) > 0 && w.done[0].from <= w.end { // what is fetched of it later is passed over
		w.end = max(w.end, w.done[0].to)
		w.done = w.done[1:]
	}
	for len(w.ahead) > 0 && w.ahead[0].offset < w.end { // it is a hole now
		w.ahead = w.ahead[1:]
	}
	next := w.end
	if len(w.entries) > 0 {
		next = w.entries[0].offset
	} else {
		w.entries = w.buf[:0]
	}
	w.next = max(w.next, next)
}

// compact drops what is done from among the entries.
func (w *window) compact() {
	kept, cursor := w.entries[:0], 0
	for i, e := range w.entries {
		if e.state == done {
			continue
		}
		if i < w.cursor {
			cursor++
		}
		kept = append(kept, e)
	}
	clear(w.entries[len(kept):])
	w.entries, w.cursor, w.spent = kept, cursor, 0
}

// base is where the span begins that is written down bit by bit: at the lowest message that is not done, when the
// stragglers are passed over.
func (w *window) base() int64 {
	n := 0
	for _, e := range w.entries {
		if e.state != done {
			if n++; n > stragglers {
				return e.offset
			}
		}
	}
	last := max(w.next, w.end)
	for _, d := range w.done {
		if d.from > last {
			if n++; n > stragglers {
				return last
			}
		}
		last = max(last, d.to)
	}
	return last
}

// doneEarly notes that an offset is done which is not fetched yet: it was delivered in an earlier hold. It reports whether
// that can be written down.
func (w *window) doneEarly(offset int64) bool {
	if offset >= w.base()+maxSpan {
		return false
	}
	w.done = mergeSpan(w.done, span{offset, offset + 1})
	w.takeAhead(offset)
	w.dirty = true
	return true
}

// doneAhead reports whether a message that is not fetched yet is done.
func (w *window) doneAhead(offset int64) bool {
	i := sort.Search(len(w.done), func(i int) bool { return w.done[i].to > offset })
	return i < len(w.done) && w.done[i].from <= offset
}

// mergeSpan puts s into sorted disjoint spans.
func mergeSpan(spans []span, s span) []span {
	i := sort.Search(len(spans), func(i int) bool { return spans[i].to >= s.from })
	j := i
	for ; j < len(spans) && spans[j].from <= s.to; j++ {
		s.from, s.to = min(s.from, spans[j].from), max(s.to, spans[j].to)
	}
	return slices.Replace(spans, i, j, s)
}

// ahead is a message that was delivered in an earlier hold, and is not fetched yet.
type ahead struct {
	carried
	until time.Duration // when its lease or delay ends
	text  string        // stateMoving: the cause in the client's words
}

// findAhead is what is known of a message that is not fetched yet; nil where that is nothing.
func (w *window) findAhead(offset int64) *ahead {
	i, ok := w.seekAhead(offset)
	if !ok {
		return nil
	}
	return &w.ahead[i]
}

func (w *window) seekAhead(offset int64) (int, bool) {
	return slices.BinarySearchFunc(w.ahead, offset, func(a ahead, o int64) int { return int(a.offset - o) })
}

// takeAhead removes what is known of a message.
func (w *window) takeAhead(offset int64) ahead {
	i, ok := w.seekAhead(offset)
	if !ok {
		return ahead{}
	}
	a := w.ahead[i]
	if i == 0 {
		w.ahead = w.ahead[1:]
	} else {
		w.ahead = slices.Delete(w.ahead, i, i+1)
	}
	return a
}

// putAhead notes what is known of a message.
func (w *window) putAhead(a ahead) {
	i, ok := w.seekAhead(a.offset)
	if ok {
		w.ahead[i] = a
		return
	}
	w.ahead = slices.Insert(w.ahead, i, a)
}

// leasedAhead reports whether the delivery was made in an earlier part of this hold, on another gateway, and its lease goes on.
func (w *window) leasedAhead(r Ref) bool {
	a := w.findAhead(r.Offset)
	return a != nil && a.attempt == r.Attempt && a.state == stateLeased
}
