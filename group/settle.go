package group

import (
	"fmt"
	"math"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// settle applies verbs in order and appends an error for each to out: nil or Fenced. A run of acks on one partition, as a
// stream makes them, is one step of the window.
func (l *ledger) settle(verbs []Verb, at time.Time, out []error) []error {
	now := l.note(at)
	for len(verbs) > 0 {
		n := ackRun(verbs)
		switch w := l.windows[verbs[0].spot()]; {
		case w == nil:
			n = max(n, 1)
			for _, v := range verbs[:n] {
				out = append(out, fencedf("%v is not held here", v.spot()))
			}
		case n > 0:
			out = l.ack(w, verbs[:n], now, out)
		default:
			n = 1
			out = append(out, l.apply(w, &verbs[0], now))
			l.settled(w, now)
		}
		verbs = verbs[n:]
	}
	l.dispatch(now)
	return out
}

// ackRun is how many of the first verbs are acks on one partition.
func ackRun(verbs []Verb) int {
	n := 0
	for n < len(verbs) && verbs[n].Op == Ack && verbs[n].spot() == verbs[0].spot() {
		n++
	}
	return n
}

func (l *ledger) ack(w *window, verbs []Verb, now time.Duration, out []error) []error {
	for i := range verbs {
		v := &verbs[i]
		e, err := w.lookup(v.Ref)
		switch {
		case err != nil:
		case e != nil:
			if e.state == leased {
				w.deadline = now + w.lease
			}
			l.finish(e, now)
		case v.Offset >= w.end && !w.doneEarly(v.Offset):
			err = fencedf("%v offset %d is too far ahead of what is done", w.spot, v.Offset)
		}
		if err == nil {
			l.count.acked++
		}
		out = append(out, err)
	}
	w.dirty = true
	l.settled(w, now)
	return out
}

// apply applies any verb but Ack.
func (l *ledger) apply(w *window, v *Verb, now time.Duration) error {
	e, err := w.lookup(v.Ref)
	switch {
	case v.Op == Bury && l.buried(w, v.Ref):
		return nil
	case err != nil:
		return err
	case e == nil && w.over(v.Offset), e != nil && e.state == done:
		return fencedf("%v offset %d is done already", w.spot, v.Offset)
	case v.Op == Bury && l.begun && l.policy.Dead == "":
		return fencedf("%v offset %d: the group has no dead queue; ack or nack it", w.spot, v.Offset)
	case v.Op == Return && !w.out(e, v.Ref):
		return fencedf("%v offset %d: the lease has ended", w.spot, v.Offset)
	}
	w.dirty = true
	switch v.Op {
	case Nack:
		l.count.nacked++
		l.nack(w, e, v, now)
	case Extend:
		return l.extend(w, e, v, now)
	case Bury:
		l.bury(w, e, v)
	case Return:
		l.count.returned++
		l.undo(w, e, v, now)
	}
	return nil
}

// over reports whether a message without an entry is done, or about to be moved.
func (w *window) over(offset int64) bool {
	a := w.findAhead(offset)
	return offset < w.end || w.doneAhead(offset) || a != nil && a.state == stateMoving
}

// out reports whether the delivery is in a client's hands, as far as is known.
func (w *window) out(e *entry, r Ref) bool {
	if e == nil {
		return w.leasedAhead(r)
	}
	return e.state == leased && e.attempt == r.Attempt
}

// buried reports whether the delivery is on its way to the dead queue: it was buried before.
func (l *ledger) buried(w *window, r Ref) bool {
	if e := w.find(r.Offset); e != nil {
		return e.state == moving && e.cause == causeBury && e.attempt == r.Attempt
	}
	a := w.findAhead(r.Offset)
	return a != nil && a.state == stateMoving && a.cause == causeBury && a.attempt == r.Attempt
}

// nack makes a message due again, in mode fifo all that is leased of the partition.
func (l *ledger) nack(w *window, e *entry, v *Verb, now time.Duration) {
	a := w.findAhead(v.Offset)
	w.nacked = w.nacked || !l.begun
	switch {
	case l.begun && !w.shared:
		if w.out(e, v.Ref) { // else it is of an earlier hold, and due anyway
			l.release(w, causeNack, now+v.Delay)
		}
	case e != nil && e.blocked(): // the same
	case e != nil:
		l.again(e, causeNack, v.Delay, now)
	case a != nil && v.Delay > 0:
		a.state, a.until = stateDelayed, now+v.Delay
	case a != nil:
		a.state = stateDue
	}
}

// extend starts the lease anew, in mode fifo that of the partition. A message of an earlier hold whose lease is not known is
// leased again where the client says for how long; else it is Fenced, since it is due.
func (l *ledger) extend(w *window, e *entry, v *Verb, now time.Duration) error {
	a := w.findAhead(v.Offset)
	switch {
	case l.begun && !w.shared && w.out(e, v.Ref):
		w.deadline = now + leaseOf(v, w.lease)
	case e != nil && w.shared && e.state == leased:
		usual := e.client.lease
		if e.client == l.orphan {
			usual = max(e.line.span, orphanLease)
		}
		l.clock.remove(e)
		l.clock.add(e, now, leaseOf(v, usual))
	case e != nil && w.shared && !e.blocked() && v.Lease > 0:
		l.unline(e)
		w.due--
		e.attempt = max(e.attempt, v.Attempt)
		l.hand(e, l.orphan, now, v.Lease)
	case a != nil && a.state == stateLeased:
		a.remaining = leaseOf(v, max(a.remaining, orphanLease))
		a.until = now + a.remaining
	default:
		return fencedf("%v offset %d: its lease is not known here, the message will be delivered again", w.spot, v.Offset)
	}
	return nil
}

// orphanLease is what is taken for the lease of a message that was delivered in an earlier hold, unless more is left of it:
// how long it was is not written down.
const orphanLease = 30 * time.Second

func leaseOf(v *Verb, usual time.Duration) time.Duration {
	if v.Lease > 0 {
		return v.Lease
	}
	return usual
}

// bury has a message moved to the dead queue; one that is not fetched yet, when it is.
func (l *ledger) bury(w *window, e *entry, v *Verb) {
	if e == nil {
		w.putAhead(ahead{carried: carried{offset: v.Offset, attempt: v.Attempt, state: stateMoving, cause: causeBury}, text: v.Cause})
		return
	}
	switch {
	case e.state == leased && w.shared:
		l.unhand(e)
	case e.state == leased:
		e.state = pending
		w.due++
		l.unlease(w, 1)
	}
	l.condemn(e, causeBury, v.Cause)
}

// undo takes a delivery back that never reached its client. The message is due before all else; in mode fifo it is the
// lowest of its partition that is.
func (l *ledger) undo(w *window, e *entry, v *Verb, now time.Duration) {
	switch {
	case e == nil:
		a := w.findAhead(v.Offset)
		a.attempt, a.state = a.attempt-1, stateDue
		if a.attempt == 0 {
			w.takeAhead(v.Offset)
		}
		return
	case w.shared:
		l.unhand(e)
		e.attempt--
		e.until = math.MinInt64
		l.due.pushFront(e)
		return
	}
	e.state = pending
	e.attempt--
	w.due++
	w.cursor = min(w.cursor, w.index(e.offset))
	l.unlease(w, 1)
	if w.owner == nil && !w.queued && now >= w.notBefore {
		w.queued, w.readyAt = true, math.MinInt64
		l.ready.PushFront(w)
	}
}

// blocked reports whether e waits for another of its key.
func (e *entry) blocked() bool { return e.chain != nil && e.chain.first != e }

// finish marks a message as done, whatever it was; settled follows.
func (l *ledger) finish(e *entry, now time.Duration) {
	w := e.w
	switch e.state {
	case done:
		return
	case pending:
		l.unline(e)
		w.due--
	case leased:
		if w.shared {
			l.unhand(e)
			w.due--
		} else {
			l.unlease(w, 1)
		}
	case moving:
		delete(l.moves, e)
		w.moving--
	}
	w.bytes -= e.msg.Size()
	w.spent++
	w.dirty = true
	e.state, e.msg = done, nil
	l.unchain(e, now)
}

// settled follows when something of w is done or due: the commit's offset moves, and what is due is offered; dispatch
// follows.
func (l *ledger) settled(w *window, now time.Duration) {
	w.advance()
	if w.shared {
		l.relieve(w, now)
		return
	}
	if w.owner != nil && w.leased == 0 {
		l.unlease(w, 0)
	}
	l.serve(w, now)
}

// through marks everything below p.Next as done.
func (l *ledger) through(p store.Position, at time.Time) error {
	now := l.note(at)
	w := l.windows[spot{partition: p.Partition}]
	switch {
	case w == nil:
		return fencedf("partition %d is not held here", p.Partition)
	case p.Next > w.top:
		return fmt.Errorf("partition %d: offset %d was not delivered yet; the highest that was is %d: %w", p.Partition, p.Next-1, w.top-1, errs.Conflict)
	}
	for _, e := range w.entries {
		if e.offset >= p.Next {
			break
		}
		l.finish(e, now)
	}
	if p.Next > w.end {
		w.done = mergeSpan(w.done, span{w.end, p.Next})
		for len(w.ahead) > 0 && w.ahead[0].offset < p.Next {
			w.ahead = w.ahead[1:]
		}
	}
	w.dirty = true
	l.settled(w, now)
	l.dispatch(now)
	return nil
}

// mark marks one message of the topic as done, whoever holds it. Conflict for one that is too far ahead to be written down.
func (l *ledger) mark(m At, at time.Time) error {
	now := l.note(at)
	w := l.windows[spot{partition: m.Partition}]
	if w == nil {
		return fencedf("partition %d is not held here", m.Partition)
	}
	switch e := w.find(m.Offset); {
	case e != nil:
		l.finish(e, now)
	case m.Offset >= w.end && !w.doneEarly(m.Offset):
		return fmt.Errorf("partition %d offset %d is too far ahead of %d, the first that is not done: do those first: %w",
			m.Partition, m.Offset, w.next, errs.Conflict)
	}
	w.dirty = true
	l.settled(w, now)
	l.dispatch(now)
	return nil
}
