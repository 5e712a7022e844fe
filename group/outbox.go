package group

import (
	"fmt"
	"time"

	"github.com/kateway/kateway/store"
)

// cause is why a message is moved. The numbers are part of commits.
type cause uint8

const (
	causeDelay cause = iota // to the retry queue, until it is due; what follows: to the dead queue
	causeLease
	causeNack
	causeLeft
	causeBury
)

// text is what stands in the record header.
func (c cause) text(attempts uint32) string {
	switch c {
	case causeDelay:
		return "delayed"
	case causeLease:
		return fmt.Sprintf("lease ended, attempt %d", attempts)
	case causeNack:
		return fmt.Sprintf("nacked, attempt %d", attempts)
	case causeLeft:
		return fmt.Sprintf("client left, attempt %d", attempts)
	default:
		return "buried"
	}
}

// move is a message on its way to the group's dead or retry queue. Until the ledger is told how that went, it is neither
// due nor done. Who has got a move from takeMoves answers it by moved or unmoved, each once.
type move struct {
	at       spot
	offset   int64
	msg      *store.Message // as it was published, also where it was read from the retry queue
	attempts uint32
	cause    string
	dead     bool      // to the dead queue; else to the retry queue
	due      time.Time // in the retry queue: not to be delivered before

	entry *entry
}

// exhausted reports whether e was delivered as often as it may be.
func (l *ledger) exhausted(e *entry) bool {
	return l.policy.Dead != "" && l.policy.MaxAttempts > 0 && int64(e.attempt) >= int64(l.policy.MaxAttempts)
}

// condemn sends a pending message to the dead queue. The text stands for the cause where there is one.
func (l *ledger) condemn(e *entry, why cause, text string) {
	if text == "" {
		text = why.text(e.attempt)
	}
	l.send(e, why, &move{cause: text, dead: true})
}

// postpone sends a pending message to the retry queue.
func (l *ledger) postpone(e *entry, due time.Duration) {
	l.send(e, causeDelay, &move{cause: causeDelay.text(e.attempt), due: l.now.Add(due - l.now.Sub(l.base))})
	e.until = due
}

// send puts a pending message into the outbox.
func (l *ledger) send(e *entry, why cause, m *move) {
	w := e.w
	l.unline(e)
	w.due--
	w.moving++
	w.dirty = true
	e.state, e.cause = moving, why
	e.msg = e.msg.Clone() // it may stay for long: it must not pin the whole batch it came with
	m.at, m.offset, m.msg, m.attempts, m.entry = w.spot, e.offset, e.msg, e.attempt, e
	l.moves[e] = m
	l.outbox = append(l.outbox, m)
}

// resume moves a message that an earlier hold was about to move. It reports whether it does: the queue may be gone.
func (l *ledger) resume(e *entry, a ahead) bool {
	switch {
	case a.state != stateMoving:
		return false
	case a.cause == causeDelay && l.policy.Retry != "":
		l.postpone(e, a.until)
	case a.cause != causeDelay && l.policy.Dead != "":
		l.condemn(e, a.cause, a.text)
	default:
		return false
	}
	return true
}

// takeMoves appends what is to be moved and was not handed over yet. Each ledger call may have added to it.
func (l *ledger) takeMoves(dst []*move) []*move {
	for _, m := range l.outbox {
		if l.moves[m.entry] == m {
			dst = append(dst, m)
		}
	}
	clear(l.outbox)
	l.outbox = l.outbox[:0]
	return dst
}

// moved says that the message is in the other queue: it is done here. Nothing happens where it is not ours any more: its
// partition was lost, or it was marked as done.
func (l *ledger) moved(m *move, at time.Time) {
	if l.moves[m.entry] != m {
		return
	}
	now := l.note(at)
	l.finish(m.entry, now)
	l.settled(m.entry.w, now)
	l.dispatch(now)
}

// unmoved says that the message could not be moved: it stays as it is and is handed over again by the next takeMoves.
func (l *ledger) unmoved(m *move, _ time.Time) {
	if l.moves[m.entry] == m {
		l.outbox = append(l.outbox, m)
	}
}
