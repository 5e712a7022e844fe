package group

import "time"

// What a client holds goes with it when its group moves to another home: the old home tells which deliveries that are
// (heldBy) and commits their leases (handOver); the client names them to the new home (claim), and holds them there. What is
// leased and nobody names is an orphan: it comes again when its lease has ended.

// handOver marks the windows as going with their clients: leases are committed whoever holds them.
func (l *ledger) handOver() {
	for _, w := range l.windows {
		w.handOver()
	}
}

func (w *window) handOver() {
	w.leaving = true
	w.dirty = w.dirty || w.leased > 0
}

// goAlong is handOver for a partition that another gateway gets while we stay a member: what of it our clients hold they go on
// holding, there or here when it comes back.
func (l *ledger) goAlong(w *window) {
	w.handOver()
	for _, e := range w.entries {
		if e.state != leased {
			continue
		}
		c := e.client
		if !w.shared {
			c = w.owner
		}
		if c != nil && !c.stays && len(c.sessions) > 0 {
			l.claims[e.ref()] = c
		}
	}
}

// heldBy lists what the client holds, in no order.
func (l *ledger) heldBy(c *client) (refs []Ref) {
	for _, e := range c.hands {
		refs = append(refs, e.ref())
	}
	for _, w := range c.owns {
		for _, e := range w.entries {
			if e.state == leased {
				refs = append(refs, e.ref())
			}
		}
		for _, a := range w.ahead {
			if a.state == stateLeased {
				refs = append(refs, a.ref(w))
			}
		}
	}
	for r, by := range l.claims {
		if by == c {
			refs = append(refs, r)
		}
	}
	return refs
}

func (e *entry) ref() Ref {
	return Ref{Retry: e.w.retry, Partition: e.w.partition, Offset: e.offset, Attempt: e.attempt, Hold: e.w.hold}
}

func (a *ahead) ref(w *window) Ref {
	return Ref{Retry: w.retry, Partition: w.partition, Offset: a.offset, Attempt: a.attempt, Hold: w.hold}
}

// claim gives a client what it held at an earlier home, as far as it is leased and nobody's; what is not here yet, when it
// comes. What it has settled meanwhile it does not get.
func (l *ledger) claim(c *client, refs []Ref, at time.Time) {
	if len(refs) == 0 {
		return
	}
	now := l.note(at)
	for _, r := range refs[:min(len(refs), maxSpan)] {
		w := l.windows[r.spot()]
		switch {
		case w == nil:
			l.claims[r] = c
		case w.hold != r.Hold:
		case !w.shared && w.holds(r):
			l.own(w, c)
		case w.shared && w.leasedAhead(r):
			l.claims[r] = c
		case w.shared:
			l.adoptOrphan(w.find(r.Offset), r, c, now)
		}
	}
}

// adoptOrphan gives a client a message of a shared window, if it is leased by that delivery and nobody's.
func (l *ledger) adoptOrphan(e *entry, r Ref, c *client, now time.Duration) {
	if e == nil || e.state != leased || e.attempt != r.Attempt || e.client != l.orphan {
		return
	}
	left := e.until - now
	l.unhand(e)
	e.w.due--
	l.hand(e, c, now, left)
}

// holds reports whether the delivery is leased still, in a window of mode fifo that has an unknown owner.
func (w *window) holds(r Ref) bool {
	if w.owner == nil || !w.owner.unknown {
		return false
	}
	e := w.find(r.Offset)
	return e != nil && e.state == leased && e.attempt == r.Attempt || e == nil && w.leasedAhead(r)
}

// own makes the client the owner of a window of mode fifo in place of an unknown one.
func (l *ledger) own(w *window, c *client) {
	w.owner, w.lease = c, c.lease
	c.held += w.leased
	c.owns = append(c.owns, w)
}

// claimant is who claims a message that is leased and just fetched; nil where nobody does.
func (l *ledger) claimant(e *entry) *client {
	if len(l.claims) == 0 {
		return nil
	}
	r := e.ref()
	c := l.claims[r]
	delete(l.claims, r)
	return c
}

// claimed finds the owner of a window of mode fifo that was just gained.
func (l *ledger) claimed(w *window) {
	if len(l.claims) == 0 {
		return
	}
	for i := range w.ahead {
		r := w.ahead[i].ref(w)
		if c := l.claims[r]; c != nil && w.holds(r) {
			l.own(w, c)
		}
		delete(l.claims, r)
	}
}

// prune drops claims of a partition that has come of what is not leased any more.
func (l *ledger) prune(w *window) {
	for r := range l.claims {
		if r.spot() == w.spot && (r.Hold != w.hold || !w.leasedAhead(r)) {
			delete(l.claims, r)
		}
	}
}

// disclaim has what the client claimed, and is not here yet, due when it comes.
func (l *ledger) disclaim(c *client) {
	for r, by := range l.claims {
		if by != c {
			continue
		}
		delete(l.claims, r)
		if w := l.windows[r.spot()]; w != nil && w.hold == r.Hold && w.leasedAhead(r) {
			w.findAhead(r.Offset).state = stateDue
			w.dirty = true
		}
	}
}
