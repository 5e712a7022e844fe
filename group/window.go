package group

import (
	"slices"
	"sort"
	"time"

	"github.com/kateway/kateway/store"
)

type state uint8

const (
	pending state = iota // due, or due later
	leased               // in a client's hands
	done                 // acked
)

// entry is one message of a window.
type entry struct {
	msg     *store.Message
	offset  int64
	attempt uint32 // deliveries so far, those of earlier holds among them
	state   state
	here    bool          // delivered in this hold, so that only our own receipts count
	since   time.Duration // from the window's gain to the last delivery
}

// window is what the group knows of one partition that it holds: the messages from the commit's offset to the last one
// fetched. In fifo mode the lease is the window's.
type window struct {
	spot
	hold      uint32      // names this time that the partition is ours; goes on over a clean move
	anew      int64       // from this offset on, receipts of earlier holds count for what was not delivered in this one
	gained    time.Time   // when it became ours
	next      int64       // everything below is done: the commit's offset
	end       int64       // one above the last offset fetched
	top       int64       // one above the highest offset ever delivered
	entries   []entry     // a part of buf
	buf       []entry     // the array under entries, used again once it is empty
	bytes     int         // of the messages in entries that are not done
	due       int         // entries that are pending
	leased    int         // entries that are leased
	cursor    int         // no entry below this index is pending
	gaps      []store.Gap // to be told to the next client
	done      []span      // done, not yet fetched
	carried   []carried   // delivered and not acked in an earlier hold, not yet fetched
	owner     *client     // fifo: whose the partition is while something of it is leased
	deadline  time.Time   // of the lease
	lease     time.Duration
	notBefore time.Time // a nack's delay: nothing is due before
	queued    bool      // in the ledger's ready queue
	dirty     bool      // differs from what was committed last
	plain     int       // commits refused for their metadata: after one the done part goes alone, after two none
}

// newWindow takes over a partition from its committed position.
func newWindow(at spot, p store.Position, hold uint32, now time.Time) *window {
	w := &window{spot: at, hold: hold, gained: now, next: p.Next, end: p.Next, top: p.Next}
	b, err := decodeBeyond(p.Beyond, p.Next)
	if err != nil {
		return w // another program's metadata: the offset alone counts
	}
	w.done, w.carried, w.anew = b.done, b.held, b.anew
	if b.hold != 0 {
		w.hold = b.hold
	}
	for _, d := range w.done {
		w.top = max(w.top, d.to)
	}
	for _, c := range w.carried {
		w.top = max(w.top, c.offset+1)
		until := now.Add(c.remaining)
		switch {
		case c.state == stateLeased && until.After(w.deadline):
			w.owner, w.deadline, w.lease = &client{stays: true, orphan: true}, until, c.remaining
		case c.state == stateDelayed && until.After(w.notBefore):
			w.notBefore = until
		}
	}
	return w
}

// add appends fetched messages, in order.
func (w *window) add(m *store.Message) {
	if m.Offset < w.end {
		return // a store that repeats itself must not make us deliver twice
	}
	w.end = m.Offset + 1
	if w.takeDone(m.Offset) {
		w.push(entry{offset: m.Offset, state: done}) // kept above the commit, so that the next one says it again
		w.advance()
		w.dirty = true
		return
	}
	e := entry{msg: m, offset: m.Offset}
	if c, ok := w.takeCarried(m.Offset); ok {
		e.attempt = c.attempt
		if c.state == stateLeased && w.owner != nil && w.owner.orphan {
			e.state = leased
			w.leased++
		}
	}
	if e.state == pending {
		w.due++
	}
	w.bytes += m.Size()
	w.push(e)
}

// push appends to entries, using the array again instead of growing where its front is free.
func (w *window) push(e entry) {
	if len(w.entries) == cap(w.entries) && cap(w.buf) >= 2*len(w.entries) {
		w.entries = append(w.buf[:0], w.entries...)
	}
	grown := len(w.entries) == cap(w.entries)
	w.entries = append(w.entries, e)
	if grown {
		w.buf = w.entries[:0]
	}
}

func (w *window) takeDone(offset int64) bool {
	for len(w.done) > 0 && w.done[0].to <= offset {
		w.done = w.done[1:]
	}
	return len(w.done) > 0 && w.done[0].from <= offset
}

func (w *window) takeCarried(offset int64) (carried, bool) {
	for len(w.carried) > 0 && w.carried[0].offset < offset {
		w.carried = w.carried[1:]
	}
	if len(w.carried) == 0 || w.carried[0].offset != offset {
		return carried{}, false
	}
	c := w.carried[0]
	w.carried = w.carried[1:]
	return c, true
}

// gap moves the window over offsets that no longer exist.
func (w *window) gap(g store.Gap) {
	w.gaps = append(w.gaps, g)
	w.dirty = true
	if g.To < g.From { // another topic of the same name: nothing that we know is true
		w.hold, w.anew = w.hold+1, max(w.anew, w.reach())
		w.entries, w.buf, w.bytes, w.due, w.cursor = nil, nil, 0, 0, 0
		w.next, w.end, w.top, w.done, w.carried = g.To, g.To, g.To, nil, nil
		w.unlease(w.leased)
		return
	}
	if g.To > w.end {
		w.end = g.To
	}
	for i := range w.entries {
		if e := &w.entries[i]; e.offset >= g.From && e.offset < g.To {
			w.finish(e)
		}
	}
	w.advance()
}

// reach is above every offset that was ever delivered: here, or in an earlier hold that went beyond the commit we know.
func (w *window) reach() int64 { return w.top + maxSpan }

// deliver puts pending entries into a client's hands, in order, as many as its session has room for.
func (w *window) deliver(s *waiter, now time.Time) {
	c, out, room := s.c, s.got.Deliveries, s.room()
	s.got.Gaps = append(s.got.Gaps, w.gaps...)
	w.gaps = nil
	before := len(out)
	i := w.cursor
	for ; i < len(w.entries) && len(out)-before < room; i++ {
		e := &w.entries[i]
		if e.state != pending {
			continue
		}
		e.state, e.here = leased, true
		e.attempt++
		e.since = now.Sub(w.gained)
		w.top = max(w.top, e.offset+1)
		out = append(out, Delivery{e.msg, Ref{Retry: w.retry, Partition: w.partition, Offset: e.offset, Attempt: e.attempt, Hold: w.hold}})
	}
	w.cursor = i
	n := len(out) - before
	w.due -= n
	w.leased += n
	c.held += n
	w.owner, w.lease, w.deadline, w.dirty = c, c.lease, now.Add(c.lease), true
	s.got.Deliveries = out
}

// available reports whether something can be delivered to whoever may have the partition.
func (w *window) available(now time.Time) bool {
	return w.due > 0 && !now.Before(w.notBefore)
}

// find is the entry of an offset, nil where there is none. Offsets mostly have no holes, so that the index is known.
func (w *window) find(offset int64) *entry {
	if len(w.entries) == 0 {
		return nil
	}
	if i := offset - w.entries[0].offset; i >= 0 && i < int64(len(w.entries)) && w.entries[i].offset == offset {
		return &w.entries[i]
	}
	i, ok := slices.BinarySearchFunc(w.entries, offset, func(e entry, o int64) int { return int(e.offset - o) })
	if !ok {
		return nil
	}
	return &w.entries[i]
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
		valid = w.isCarried(r)
	case e == nil:
		valid = r.Offset >= w.anew
	case e.state == done:
		valid = true
	case r.Hold == w.hold:
		valid = e.state == leased && e.attempt == r.Attempt
	default: // of an earlier hold, whose end nobody could tell its clients
		valid = r.Offset >= w.anew && !e.here
	}
	if !valid {
		return nil, fencedf("%v offset %d: the lease has ended, the message was or will be delivered again", r.spot(), r.Offset)
	}
	return e, nil
}

// isCarried reports whether the delivery was made in an earlier part of this hold, on another gateway, and its lease goes on.
func (w *window) isCarried(r Ref) bool {
	return slices.ContainsFunc(w.carried, func(c carried) bool {
		return c.offset == r.Offset && c.attempt == r.Attempt && c.state == stateLeased
	})
}

// ack marks what lookup found as done; advance follows.
func (w *window) ack(e *entry, offset int64, now time.Time) error {
	switch {
	case e != nil && e.state == leased:
		w.deadline = now.Add(w.lease)
		w.finish(e)
	case e != nil:
		w.finish(e)
	case offset >= w.end && !w.doneEarly(offset):
		return fencedf("%v offset %d is too far ahead of what is done", w.spot, offset)
	}
	return nil
}

func (w *window) finish(e *entry) {
	switch e.state {
	case done:
		return
	case pending:
		w.due--
	case leased:
		w.unlease(1)
	}
	w.bytes -= e.msg.Size()
	e.state, e.msg = done, nil
}

func (w *window) unlease(n int) {
	w.leased -= n
	if w.owner != nil {
		w.owner.held -= n
	}
	if w.leased == 0 && !w.leaseCarried() {
		w.owner = nil
	}
}

// leaseCarried reports whether messages leased in an earlier hold are still to be fetched.
func (w *window) leaseCarried() bool {
	return slices.ContainsFunc(w.carried, func(c carried) bool { return c.state == stateLeased })
}

// advance moves next over what is done, and drops it.
func (w *window) advance() {
	i := 0
	for i < len(w.entries) && w.entries[i].state == done {
		i++
	}
	w.entries = w.entries[i:]
	w.cursor = max(w.cursor-i, 0)
	next := w.end
	if len(w.entries) > 0 {
		next = w.entries[0].offset
	}
	if next > w.next {
		w.next = next
	}
	for len(w.done) > 0 && w.done[0].to <= w.next {
		w.done = w.done[1:]
	}
	if len(w.entries) == 0 {
		w.entries = w.buf[:0]
	}
}

// release makes everything leased due again, from the lowest: the lease ended, or its client left or nacked. All receipts
// are fenced by that, since a receipt counts only while its entry is leased with its attempt. It answers how many.
func (w *window) release(until time.Time) int {
	n := w.leased
	for i := range w.entries {
		e := &w.entries[i]
		if e.state != leased {
			continue
		}
		e.state = pending
		e.msg = e.msg.Clone() // it outlives its lease: it must not pin the whole batch it came with
		w.cursor = min(w.cursor, i)
	}
	for i := range w.carried {
		w.carried[i].state = stateDue
	}
	w.due += n
	w.unlease(n)
	w.owner = nil
	w.notBefore = until
	w.dirty = true
	return n
}

// doneEarly notes an ack for an offset that is not fetched yet: delivered in an earlier hold.
func (w *window) doneEarly(offset int64) bool {
	if offset >= w.next+maxSpan {
		return false
	}
	w.done = mergeSpan(w.done, span{offset, offset + 1})
	w.carried = slices.DeleteFunc(w.carried, func(c carried) bool { return c.offset == offset })
	w.unlease(0)
	w.dirty = true
	return true
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

// through marks everything below next as done.
func (w *window) through(next int64) {
	for i := range w.entries {
		if e := &w.entries[i]; e.offset < next {
			w.finish(e)
		}
	}
	if next > w.end {
		w.done = mergeSpan(w.done, span{w.end, next})
	}
	w.carried = slices.DeleteFunc(w.carried, func(c carried) bool { return c.offset < next })
	w.unlease(0)
	w.advance()
	w.dirty = true
}

// position is what is to be committed now.
func (w *window) position(now time.Time) store.Position {
	b := beyond{hold: w.hold, anew: w.anew}
	for i := range w.entries {
		e := &w.entries[i]
		if e.state == done {
			b.done = appendSpan(b.done, e.offset)
			continue
		}
		if e.attempt > 0 {
			b.held = append(b.held, w.carry(e, now))
		}
	}
	for _, d := range w.done {
		b.done = mergeSpan(b.done, d)
	}
	b.held = append(b.held, w.carried...)
	switch {
	case w.plain == 1:
		b.held = nil
	case w.plain > 1:
		b.held, b.done, b.anew = nil, nil, 0
	}
	return store.Position{Partition: w.partition, Next: w.next, Beyond: b.encode(w.next)}
}

func appendSpan(spans []span, offset int64) []span {
	if n := len(spans); n > 0 && spans[n-1].to == offset {
		spans[n-1].to++
		return spans
	}
	return append(spans, span{offset, offset + 1})
}

// carry is what the next holder has to know of an entry. The lease of a client that would be gone with us is not kept.
func (w *window) carry(e *entry, now time.Time) carried {
	c := carried{offset: e.offset, attempt: e.attempt}
	switch {
	case e.state == leased && w.owner != nil && w.owner.stays:
		c.state, c.remaining = stateLeased, w.deadline.Sub(now)
	case now.Before(w.notBefore):
		c.state, c.remaining = stateDelayed, w.notBefore.Sub(now)
	}
	return c
}
