package group

import (
	"container/list"
	"fmt"
	"slices"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// client is one that holds messages. It outlives its sessions while it holds messages that stay leased.
type client struct {
	name     string // given by the client itself, or ""
	prefetch int
	lease    time.Duration
	stays    bool
	orphan   bool      // stands for a client of an earlier hold
	held     int       // messages in its hands
	sessions []*waiter // open ones; more than one only with a name
}

// waiter is a session as the ledger sees it.
type waiter struct {
	c      *client
	max    int           // deliveries that the present Next takes
	got    Batch         // what it was given
	wake   chan struct{} // one place: told when got is filled, or when the session ended
	parked bool          // waits for whatever comes
	place  *list.Element // in ledger.waiters
}

// room is how many messages the waiter can be given now.
func (w *waiter) room() int { return min(w.max-len(w.got.Deliveries), w.c.prefetch-w.c.held) }

// ledger knows who holds what of a group. It has no goroutine, no lock and no clock: its owner calls it under a lock, with
// the present time. After each call, clients whose wait was served have been woken.
type ledger struct {
	windows map[spot]*window
	ready   list.List // of *window without owner that have something due; the longest ready first
	waiters list.List // of *waiter with room that are parked; the longest waiting first
	named   map[string]*client
	anew    int64 // of the partitions that are gained, unless their positions say more; see window.anew
	count   counters

	// Given by begin; before it the ledger is provisional.
	begun    bool
	settings Settings
	policy   Policy
	match    func(*store.Message) bool // which messages the group wants; nil: all
}

// spot names a window: a partition of the topic, or one of the group's retry queue.
type spot struct {
	retry     bool
	partition int32
}

func (a spot) String() string {
	if a.retry {
		return fmt.Sprintf("retry partition %d", a.partition)
	}
	return fmt.Sprintf("partition %d", a.partition)
}

// spot is where the delivery's message is.
func (r Ref) spot() spot { return spot{r.Retry, r.Partition} }

// counters are running totals since the start.
type counters struct{ delivered, redelivered, expired, acked, nacked uint64 }

func newLedger() *ledger {
	return &ledger{windows: map[spot]*window{}, named: map[string]*client{}}
}

// begin gives a provisional ledger its settings. Before it, windows hold positions only: every partition is named as full,
// nothing is delivered, and settle, through and mark work on what the positions carried. match nil: all messages.
func (l *ledger) begin(s Settings, p Policy, match func(*store.Message) bool, _ time.Time) {
	l.begun, l.settings, l.policy, l.match = true, s, p, match
}

// enter begins a session.
func (l *ledger) enter(a *Ask) *waiter {
	c := l.named[a.Client]
	if a.Client == "" || c == nil {
		c = &client{name: a.Client}
	}
	if c.name != "" {
		l.named[c.name] = c
	}
	c.prefetch, c.lease, c.stays = a.Prefetch, a.Lease, a.Stays
	s := &waiter{c: c, wake: make(chan struct{}, 1)}
	c.sessions = append(c.sessions, s)
	return s
}

// leave ends a session. What its client holds is due now, unless it stays leased or the client has another session.
func (l *ledger) leave(s *waiter, now time.Time) {
	l.unpark(s)
	c := s.c
	c.sessions = slices.DeleteFunc(c.sessions, func(o *waiter) bool { return o == s })
	if len(c.sessions) > 0 {
		return
	}
	if !c.stays && c.held > 0 {
		for _, w := range l.windows {
			if w.owner == c {
				l.count.redelivered += uint64(w.release(now))
				l.serve(w, now)
			}
		}
	}
	l.forget(c)
}

// forget drops a named client that has neither session nor messages.
func (l *ledger) forget(c *client) {
	if c.name != "" && len(c.sessions) == 0 && c.held == 0 {
		delete(l.named, c.name)
	}
}

// gain takes over a partition, of the topic or of the retry queue.
func (l *ledger) gain(retry bool, p store.Position, hold uint32, now time.Time) {
	w := newWindow(spot{retry, p.Partition}, p, hold, now)
	w.anew = max(w.anew, l.anew)
	w.dirty = true
	l.windows[w.spot] = w
}

// lose drops a partition. What clients hold of it is no longer theirs.
func (l *ledger) lose(retry bool, partition int32) {
	w := l.windows[spot{retry, partition}]
	if w == nil {
		return
	}
	l.unready(w)
	delete(l.windows, w.spot)
	owner := w.owner
	w.carried = nil
	w.unlease(w.leased)
	l.freed(owner)
}

// gap moves a partition over offsets that no longer exist.
func (l *ledger) gap(retry bool, g store.Gap, now time.Time) {
	w := l.windows[spot{retry, g.Partition}]
	if w == nil {
		return // lost meanwhile
	}
	owner := w.owner
	w.gap(g)
	l.released(w, owner, now)
}

// add takes fetched messages, in order per partition. Serve follows when all are added.
func (l *ledger) add(retry bool, msgs []*store.Message, now time.Time) {
	var w *window
	for _, m := range msgs {
		if w == nil || w.partition != m.Partition {
			if w != nil {
				l.serve(w, now)
			}
			if w = l.windows[spot{retry, m.Partition}]; w == nil {
				continue // lost meanwhile
			}
		}
		w.add(m)
	}
	if w != nil {
		l.serve(w, now)
	}
}

// take gives the waiter what is at hand, up to its max, and reports whether it has something.
func (l *ledger) take(s *waiter, now time.Time) bool {
	if s.c.held > 0 {
		for _, w := range l.windows {
			if w.owner == s.c && w.available(now) && s.room() > 0 {
				l.give(w, s, now)
			}
		}
	}
	for e := l.ready.Front(); e != nil && s.room() > 0; e = l.ready.Front() {
		w := l.ready.Remove(e).(*window) //nolint:errcheck // nothing else is in it
		w.queued = false
		if w.available(now) {
			l.give(w, s, now)
		}
	}
	return len(s.got.Deliveries) > 0
}

// park lets the waiter wait until it is served.
func (l *ledger) park(s *waiter) {
	s.parked = true
	l.queue(s)
}

// queue puts a parked waiter with room in line.
func (l *ledger) queue(s *waiter) {
	if s.parked && s.place == nil && s.room() > 0 {
		s.place = l.waiters.PushBack(s)
	}
}

// freed queues c's sessions after it was relieved of messages, and drops it when it is no longer needed.
func (l *ledger) freed(c *client) {
	if c == nil {
		return
	}
	for _, s := range c.sessions {
		l.queue(s)
	}
	l.forget(c)
}

// unpark ends a wait.
func (l *ledger) unpark(s *waiter) {
	s.parked = false
	if s.place != nil {
		l.waiters.Remove(s.place)
		s.place = nil
	}
}

// give delivers from w.
func (l *ledger) give(w *window, s *waiter, now time.Time) {
	before := len(s.got.Deliveries)
	w.deliver(s, now)
	l.count.delivered += uint64(len(s.got.Deliveries) - before)
}

// serve offers what is due in w to whoever may have it, or puts w in line.
func (l *ledger) serve(w *window, now time.Time) {
	if !w.available(now) {
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
	if e := l.waiters.Front(); e != nil {
		s := e.Value.(*waiter) //nolint:errcheck // nothing else is in it
		l.give(w, s, now)
		l.served(s)
		return // it is that client's now, or empty
	}
	if !w.queued {
		w.queued = true
		l.ready.PushBack(w)
	}
}

func (l *ledger) served(s *waiter) {
	l.unpark(s)
	s.tell()
}

// tell wakes a waiter.
func (w *waiter) tell() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (l *ledger) unready(w *window) {
	if !w.queued {
		return
	}
	for e := l.ready.Front(); e != nil; e = e.Next() {
		if e.Value == w {
			l.ready.Remove(e)
			break
		}
	}
	w.queued = false
}

// settle applies verbs in order and appends an error for each to out: nil or Fenced. A run of acks on one partition, as a
// stream makes them, is one step of the window.
func (l *ledger) settle(verbs []Verb, now time.Time, out []error) []error {
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
			out = append(out, l.nackOrExtend(w, verbs[0], now))
		}
		verbs = verbs[n:]
	}
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

func (l *ledger) ack(w *window, verbs []Verb, now time.Time, out []error) []error {
	owner := w.owner
	for _, v := range verbs {
		e, err := w.lookup(v.Ref)
		if err == nil {
			err = w.ack(e, v.Offset, now)
		}
		out = append(out, err)
		if err == nil {
			l.count.acked++
		}
	}
	w.advance()
	w.dirty = true
	l.released(w, owner, now)
	return out
}

func (l *ledger) nackOrExtend(w *window, v Verb, now time.Time) error {
	e, err := w.lookup(v.Ref)
	switch {
	case err != nil:
		return err
	case e == nil && v.Offset < w.end, e != nil && e.state == done:
		return fencedf("%v offset %d is acked already", v.spot(), v.Offset)
	case v.Op == Nack:
		l.count.nacked++
		l.count.redelivered += uint64(w.release(now.Add(v.Delay)))
		l.serve(w, now)
	case v.Op == Extend:
		lease := w.lease
		if v.Lease > 0 {
			lease = v.Lease
		}
		w.deadline, w.dirty = now.Add(lease), true
	}
	return nil
}

func fencedf(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errs.Fenced)...)
}

// released offers w, and the room that its owner has gained, after something of it was settled.
func (l *ledger) released(w *window, owner *client, now time.Time) {
	l.freed(owner)
	l.serve(w, now)
}

// through marks everything below p.Next as done.
func (l *ledger) through(p store.Position, now time.Time) error {
	w := l.windows[spot{partition: p.Partition}]
	switch {
	case w == nil:
		return fencedf("partition %d is not held here", p.Partition)
	case p.Next > w.top:
		return fmt.Errorf("partition %d: offset %d was not delivered yet; the highest that was is %d: %w", p.Partition, p.Next-1, w.top-1, errs.Conflict)
	}
	owner := w.owner
	w.through(p.Next)
	l.released(w, owner, now)
	return nil
}

// expire ends the leases and delays whose time has come.
func (l *ledger) expire(now time.Time) {
	for _, w := range l.windows {
		if c := w.owner; c != nil && !now.Before(w.deadline) {
			n := w.release(now)
			l.count.expired += uint64(n)
			l.count.redelivered += uint64(n)
			l.freed(c)
		}
		l.serve(w, now)
	}
}

// nextDeadline is when expire has something to do next; zero for never.
func (l *ledger) nextDeadline(now time.Time) time.Time {
	var at time.Time
	earlier := func(t time.Time) {
		if at.IsZero() || t.Before(at) {
			at = t
		}
	}
	for _, w := range l.windows {
		if w.owner != nil {
			earlier(w.deadline)
		}
		if now.Before(w.notBefore) {
			earlier(w.notBefore)
		}
	}
	return at
}

// mark marks one message of the topic as done, whoever holds it.
func (l *ledger) mark(at At, _ time.Time) error {
	return fencedf("partition %d is not held here", at.Partition)
}

// full appends the partitions, of the topic or of the retry queue, whose windows hold as much as they may.
func (l *ledger) full(limits Limits, retry bool, out []int32) []int32 {
	total := 0
	for _, w := range l.windows {
		total += w.bytes
	}
	for _, w := range l.windows {
		if w.retry != retry {
			continue
		}
		if !l.begun || len(w.entries) >= limits.WindowMessages || w.bytes >= limits.WindowBytes ||
			w.end-w.next >= limits.span || total >= limits.GroupBytes && w.due > 0 {
			out = append(out, w.partition)
		}
	}
	slices.Sort(out)
	return out
}

// reach is above every offset that a receipt can speak of: of ours, and of earlier holds.
func (l *ledger) reach() (above int64) {
	for _, w := range l.windows {
		above = max(above, w.reach())
	}
	return above
}

// busy reports whether something waits for a client's word or for its time.
func (l *ledger) busy(now time.Time) bool {
	for _, w := range l.windows {
		if w.owner != nil || now.Before(w.notBefore) {
			return true
		}
	}
	return false
}
