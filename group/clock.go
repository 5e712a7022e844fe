package group

import (
	"container/heap"
	"time"
)

// line is a list of entries. An entry is in one at most, and knows which, so that it can be taken out wherever it stands.
type line struct {
	head, tail *entry
	n          int

	timed bool          // a line of a clock:
	span  time.Duration // how long its entries wait
	place int           // in the clock's heap; -1 while the line is empty
}

func (q *line) pushBack(e *entry) { q.insert(e, q.tail) }

func (q *line) pushFront(e *entry) { q.insert(e, nil) }

// insert puts e behind another, or at the front.
func (q *line) insert(e, behind *entry) {
	e.line, e.prev = q, behind
	if behind == nil {
		e.next, q.head = q.head, e
	} else {
		e.next, behind.next = behind.next, e
	}
	if e.next == nil {
		q.tail = e
	} else {
		e.next.prev = e
	}
	q.n++
}

func (q *line) remove(e *entry) {
	if e.prev == nil {
		q.head = e.next
	} else {
		e.prev.next = e.next
	}
	if e.next == nil {
		q.tail = e.prev
	} else {
		e.next.prev = e.prev
	}
	e.line, e.prev, e.next = nil, nil, nil
	q.n--
}

// clock has the entries that wait for their time: leases and delays. Those that wait equally long stand in one line, which is
// in order by itself, so that what nearly all clients do, one lease for all they get, costs the same however many messages
// are out. A heap has the lines by the time of their first.
type clock struct {
	lines map[time.Duration]*line
	heap  lineHeap
}

// spareLines is how many lines are kept when they run empty.
const spareLines = 16

// add has e wait from now on. Times count from the ledger's base.
func (c *clock) add(e *entry, now, span time.Duration) {
	e.until = now + span
	q := c.lines[span]
	if q == nil {
		q = &line{timed: true, span: span, place: -1}
		c.lines[span] = q
	}
	behind := q.tail
	for behind != nil && behind.until > e.until { // never, as long as time goes forward
		behind = behind.prev
	}
	q.insert(e, behind)
	switch {
	case q.place < 0:
		heap.Push(&c.heap, q)
	case behind == nil:
		heap.Fix(&c.heap, q.place)
	}
}

func (c *clock) remove(e *entry) {
	q := e.line
	first := q.head == e
	q.remove(e)
	switch {
	case q.n == 0:
		heap.Remove(&c.heap, q.place)
		if len(c.lines) > spareLines {
			delete(c.lines, q.span)
		}
	case first && len(c.heap) > 1:
		heap.Fix(&c.heap, q.place)
	}
}

// first is the entry whose time comes first; nil where none waits.
func (c *clock) first() *entry {
	if len(c.heap) == 0 {
		return nil
	}
	return c.heap[0].head
}

// lineHeap is container/heap's, of lines that are not empty.
type lineHeap []*line

func (h lineHeap) Len() int           { return len(h) }
func (h lineHeap) Less(i, j int) bool { return h[i].head.until < h[j].head.until }

func (h lineHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i, j
}

func (h *lineHeap) Push(x any) {
	q := x.(*line) //nolint:errcheck // only lines are pushed
	q.place = len(*h)
	*h = append(*h, q)
}

func (h *lineHeap) Pop() any {
	last := len(*h) - 1
	q := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	q.place = -1
	return q
}
