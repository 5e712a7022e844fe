package group

import (
	"time"

	"github.com/kateway/kateway/store"
)

// position is what is to be committed now.
func (w *window) position(at time.Time) store.Position {
	now := at.Sub(w.epoch)
	b := beyond{hold: w.hold, anew: w.anew}
	last := w.next
	for _, e := range w.entries {
		if e.state == done {
			continue
		}
		if e.offset > last {
			b.done = append(b.done, span{last, e.offset})
		}
		last = e.offset + 1
		if e.attempt > e.came || e.state == moving {
			b.held = append(b.held, w.carry(e, now))
		}
	}
	if w.end > last {
		b.done = append(b.done, span{last, w.end})
	}
	for _, d := range w.done {
		b.done = mergeSpan(b.done, d)
	}
	for _, a := range w.ahead {
		a.remaining = a.until - now
		b.held = append(b.held, a.carried)
	}
	switch {
	case w.plain == 1:
		b.held = nil
	case w.plain > 1:
		b.held, b.done, b.anew = nil, nil, 0
	}
	return store.Position{Partition: w.partition, Next: w.next, Beyond: b.encode(w.next)}
}

// carry is what the next holder has to know of an entry. The lease of a client that would be gone with us is kept only when the
// group is handed over, and the client goes on as one of the next home.
func (w *window) carry(e *entry, now time.Duration) carried {
	c := carried{offset: e.offset, attempt: e.attempt}
	owner, end, from := w.owner, w.deadline, w.notBefore
	if w.shared {
		owner, end, from = e.client, e.until, e.until
	}
	switch {
	case e.state == moving:
		c.state, c.cause, c.remaining = stateMoving, e.cause, e.until-now
	case e.state == leased && owner != nil && (owner.stays || w.leaving):
		c.state, c.remaining = stateLeased, end-now
	case now < from:
		c.state, c.remaining = stateDelayed, from-now
	}
	return c
}
