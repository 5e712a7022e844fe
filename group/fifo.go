package group

import (
	"slices"
	"time"
)

// exclusive is what a window is besides in mode fifo: it goes to one client at a time, in order, and the lease is its own.
type exclusive struct {
	cursor    int           // no entry below this index is pending
	owner     *client       // whose the partition is while something of it is leased
	deadline  time.Duration // of the lease
	lease     time.Duration
	notBefore time.Duration // a nack's delay: nothing is due before
	alone     bool          // what is leased is a suspect
	queued    bool          // in ledger.ready
	readyAt   time.Duration // queued: since when
}

// adoptFifo has a window that was gained go on as it was left: the lease of its client, whoever that was, and the delay.
func (w *window) adoptFifo(now time.Duration) {
	if w.nacked {
		w.unleaseAhead()
	}
	for _, a := range w.ahead {
		switch {
		case a.state == stateLeased && a.until > max(w.deadline, now):
			w.owner, w.deadline, w.lease = &client{stays: true, unknown: true}, a.until, max(a.remaining, orphanLease)
		case a.state == stateDelayed:
			w.notBefore = max(w.notBefore, a.until)
		}
	}
	if w.owner == nil {
		w.unleaseAhead()
	}
}

// unleaseAhead has nothing leased of what is still to be fetched.
func (w *window) unleaseAhead() {
	for i := range w.ahead {
		if a := &w.ahead[i]; a.state == stateLeased {
			a.state = stateDue
		}
	}
}

// suspect reports whether e has failed so often that it is delivered alone, so that those behind it do not count failed
// attempts for its sake and die with it.
func (l *ledger) suspect(e *entry) bool {
	n := l.policy.MaxAttempts
	return n > 0 && l.policy.Dead != "" && int(e.attempt) >= max(1, min(2, n-1))
}

// available reports whether something can be delivered to whoever may have the partition.
func (l *ledger) available(w *window, now time.Duration) bool {
	if w.due == 0 || now < w.notBefore {
		return false
	}
	for w.entries[w.cursor].state != pending {
		w.cursor++
	}
	return w.leased == 0 || !w.alone && !l.suspect(w.entries[w.cursor])
}

// give puts pending entries of w into a client's hands, in order, as many as its session has room for.
func (l *ledger) give(w *window, s *waiter, now time.Duration) {
	room, n, i := s.room(), 0, w.cursor
	for ; i < len(w.entries) && n < room; i++ {
		e := w.entries[i]
		if e.state != pending {
			continue
		}
		suspect := l.suspect(e)
		if suspect && w.leased+n > 0 {
			break
		}
		l.deliver(e, s, now)
		n++
		if w.alone = suspect; suspect {
			i++
			break
		}
	}
	w.cursor = i
	w.leased += n
	s.c.held += n
	if w.owner != s.c {
		w.owner = s.c
		s.c.owns = append(s.c.owns, w)
	}
	w.lease, w.deadline = s.c.lease, now+s.c.lease
}

// release makes everything leased due again, from the lowest: the lease ended, or its client left or nacked. What was
// delivered too often goes to the dead queue. All receipts are fenced by that, since a receipt counts only while its entry
// is leased with its attempt.
func (l *ledger) release(w *window, why cause, until time.Duration) {
	n := w.leased
	for i, left := 0, n; left > 0; i++ {
		e := w.entries[i]
		if e.state != leased {
			continue
		}
		left--
		e.state = pending
		w.due++
		w.cursor = min(w.cursor, i)
		if l.exhausted(e) {
			l.condemn(e, why, "")
			continue
		}
		e.msg = e.msg.Clone() // it outlives its lease: it must not pin the whole batch it came with
	}
	w.unleaseAhead()
	l.count.redelivered += uint64(n)
	l.unlease(w, n)
	w.notBefore = until
	w.dirty = true
}

// unlease counts n messages less in the owner's hands. With the last of them the partition is nobody's.
func (l *ledger) unlease(w *window, n int) {
	w.leased -= n
	c := w.owner
	if c == nil {
		return
	}
	c.held -= n
	if w.leased == 0 {
		w.alone = false
		if !w.anyLeasedAhead() {
			w.owner = nil
			c.owns = slices.DeleteFunc(c.owns, func(o *window) bool { return o == w })
		}
	}
	l.freed(c)
}

// anyLeasedAhead reports whether messages leased in an earlier hold are still to be fetched.
func (w *window) anyLeasedAhead() bool {
	return slices.ContainsFunc(w.ahead, func(a ahead) bool { return a.state == stateLeased })
}

// serve offers what is due in w to its owner, or puts w in line for whoever comes; dispatch follows.
func (l *ledger) serve(w *window, now time.Duration) {
	if w.shared || !l.begun || !l.available(w, now) {
		return
	}
	if c := w.owner; c != nil {
		i := slices.IndexFunc(c.sessions, func(s *waiter) bool { return s.parked && s.room() > 0 })
		if i >= 0 {
			l.give(w, c.sessions[i], now)
			l.served(c.sessions[i])
		}
		return
	}
	if !w.queued {
		w.queued, w.readyAt = true, now
		l.ready.PushBack(w)
	}
}

// expireFifo ends the window's lease or delay when its time has come.
func (l *ledger) expireFifo(w *window, now time.Duration) {
	if w.owner != nil && now >= w.deadline {
		l.count.expired += uint64(w.leased)
		l.release(w, causeLease, now)
	}
	l.serve(w, now)
}
