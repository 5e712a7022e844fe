package group

import (
	"cmp"
	"slices"
	"time"
)

// maxDelay is the longest delay that a message waits for in a window; a longer one it waits for in the retry queue, where
// that is.
const maxDelay = time.Minute

// place finds a fetched message its place in a shared window.
func (l *ledger) place(e *entry, a ahead, due, now time.Duration) {
	l.enchain(e, a.state == stateLeased || a.state == stateDelayed || a.state == stateMoving)
	switch {
	case a.state == stateLeased && a.until > now:
		e.w.due--
		e.since = e.w.gained
		c := l.claimant(e)
		if c == nil {
			c = l.orphan
		}
		l.hand(e, c, now, a.until-now)
	case l.exhausted(e):
		l.condemn(e, causeLease, "")
	case a.state == stateDelayed && a.until > now:
		l.offer(e, a.until-now, now)
	default:
		l.offer(e, due-now, now)
	}
}

// enchain puts e behind the messages of its key, in mode key. One that was out before it was fetched here stays so: then
// another of its key may be out too, when the group was in another mode before.
func (l *ledger) enchain(e *entry, out bool) {
	w := e.w
	if w.chains == nil || e.msg.Key == nil {
		return
	}
	c := w.chains[string(e.msg.Key)]
	switch {
	case c == nil:
		c = &chain{key: string(e.msg.Key), first: e}
		w.chains[c.key] = c
		e.chain = c
	case !out:
		e.chain = c
		c.rest.pushBack(e)
	}
}

// unchain lets the next of its key come up after e, which is done.
func (l *ledger) unchain(e *entry, now time.Duration) {
	c := e.chain
	e.chain = nil
	if c == nil || c.first != e {
		return
	}
	c.first = c.rest.head
	if c.first == nil {
		delete(e.w.chains, c.key)
		return
	}
	c.rest.remove(c.first)
	l.offer(c.first, 0, now)
}

// offer makes a pending entry of a shared window due, behind what is due already, at once or after the delay; not while
// another of its key is before it.
func (l *ledger) offer(e *entry, delay, now time.Duration) {
	switch {
	case e.line != nil:
	case delay > 0:
		l.clock.add(e, now, delay)
		if !e.rests() {
			l.delayed++
		}
	default:
		e.until = now
		l.due.pushBack(e)
	}
}

// rests reports whether e, which waits for its time, came with that from the retry queue, where it is written down.
func (e *entry) rests() bool { return e.w.retry && e.attempt == e.came }

// unline takes a pending or leased entry out of the line it is in.
func (l *ledger) unline(e *entry) {
	switch {
	case e.line == nil:
	case !e.line.timed:
		e.line.remove(e)
	default:
		l.clock.remove(e)
		if e.state == pending && !e.rests() {
			l.delayed--
		}
	}
}

// hand gives e to a client.
func (l *ledger) hand(e *entry, c *client, now, lease time.Duration) {
	e.state, e.client, e.hand = leased, c, int32(len(c.hands))
	c.hands = append(c.hands, e)
	c.held++
	e.w.leased++
	l.clock.add(e, now, lease)
}

// unhand takes a leased entry out of its client's hands, and leaves it pending but in no line.
func (l *ledger) unhand(e *entry) {
	l.unline(e)
	c, last := e.client, len(e.client.hands)-1
	c.hands[e.hand] = c.hands[last]
	c.hands[e.hand].hand = e.hand
	c.hands[last] = nil
	c.hands = c.hands[:last]
	c.held--
	e.client, e.state = nil, pending
	e.w.leased--
	e.w.due++
	l.freed(c)
}

// giveDue delivers the message that is due the longest.
func (l *ledger) giveDue(s *waiter, now time.Duration) {
	e := l.due.head
	l.due.remove(e)
	l.deliver(e, s, now)
	l.hand(e, s.c, now, s.c.lease)
}

// again makes a leased message of a shared window due again, or due later, or moves it to where it belongs.
func (l *ledger) again(e *entry, why cause, delay, now time.Duration) {
	w := e.w
	l.count.redelivered++
	if e.state == leased {
		l.unhand(e)
	} else {
		l.unline(e) // a receipt of an earlier hold
	}
	w.dirty = true
	switch {
	case l.exhausted(e):
		l.condemn(e, why, "")
	case delay > maxDelay && l.policy.Retry != "":
		l.postpone(e, now+delay)
	default:
		e.msg = e.msg.Clone() // it outlives its lease: it must not pin the whole batch it came with
		l.offer(e, delay, now)
		l.relieve(w, now)
	}
}

// giveBack makes due what a client held that has left.
func (l *ledger) giveBack(c *client, now time.Duration) {
	hands := slices.Clone(c.hands)
	slices.SortFunc(hands, func(a, b *entry) int {
		return cmp.Or(cmp.Compare(a.w.partition, b.w.partition), cmp.Compare(a.offset, b.offset))
	})
	for _, e := range hands {
		l.again(e, causeLeft, 0, now)
	}
}

// relieve moves the lowest messages of a window to the retry queue while it is they alone that hold it back: it is full by
// its span, so that all but a few of it are done. Only what failed before and is in nobody's hands is moved; a message that
// is at work holds its window for as long as its lease. In mode key the order of its key is given up for it.
func (l *ledger) relieve(w *window, now time.Duration) {
	if !w.held || !w.shared || l.policy.Retry == "" {
		return
	}
	for _, e := range w.entries {
		switch {
		case e.state == done, e.state == moving:
		case e.state == pending && e.attempt > e.came:
			l.postpone(e, max(e.until, now))
		default:
			return
		}
	}
}

// restTime is how long a message waits in the window of a retry queue before it makes room for those behind it.
const restTime = 30 * time.Second

// rotate moves messages that are not due for long to the retry queue's end, when its window is full: behind them may be some
// that are due earlier.
func (l *ledger) rotate(w *window, now time.Duration) {
	if !w.full {
		return
	}
	for _, e := range w.entries {
		switch {
		case e.state == done, e.state == moving:
		case e.state == pending && e.until > now && now-e.since >= restTime:
			l.postpone(e, e.until)
		default:
			return
		}
	}
}

// rotateAt is when rotate has something to do; zero for never.
func (w *window) rotateAt() time.Duration {
	if !w.full || !w.retry {
		return 0
	}
	for _, e := range w.entries {
		if e.state == pending && e.line != nil && e.line.timed {
			return e.since + restTime
		}
		if e.state == leased || e.state == pending {
			break
		}
	}
	return 0
}
