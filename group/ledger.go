package group

import (
	"container/list"
	"fmt"
	"math"
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
	unknown  bool      // stands for one of an earlier hold, in mode fifo
	held     int       // messages in its hands
	hands    []*entry  // those of shared windows, in no order
	owns     []*window // those of mode fifo that it holds messages of
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
//
// A verb costs the same however many messages there are, but for a binary search where offsets have holes, and for the heap
// of a clock, which is as large as there are different leases and delays at work.
type ledger struct {
	windows map[spot]*window
	ready   list.List // of *window in mode fifo without owner that have something due; the longest ready first
	due     line      // messages of shared windows that are due; the longest due first
	clock   clock     // messages of shared windows that are leased or delayed
	delayed int       // of the latter those whose delay is known here alone
	waiters list.List // of *waiter with room that are parked; the longest waiting first
	named   map[string]*client
	orphan  *client         // stands for the clients of earlier holds, in shared windows
	claims  map[Ref]*client // what clients hold of an earlier home and is not here yet
	moves   map[*entry]*move
	outbox  []*move // not handed over yet
	anew    int64   // of the partitions that are gained, unless their positions say more; see window.anew
	block   []entry // not used yet
	count   counters

	base, now time.Time // of the first call and the last

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
type counters struct {
	delivered, redelivered, expired, acked, nacked uint64
	filtered                                       uint64 // not wanted
	returned                                       uint64 // deliveries undone
}

func newLedger() *ledger {
	return &ledger{
		windows: map[spot]*window{}, named: map[string]*client{}, moves: map[*entry]*move{}, claims: map[Ref]*client{},
		clock: clock{lines: map[time.Duration]*line{}}, orphan: &client{stays: true},
	}
}

// note notes the present time and answers it as the time since the first call.
func (l *ledger) note(now time.Time) time.Duration {
	if l.base.IsZero() {
		l.base = now
	}
	l.now = now
	return now.Sub(l.base)
}

// begin gives a provisional ledger its settings. Before it, windows hold positions only: every partition is named as full,
// nothing is delivered, and settle, through and mark work on what the positions carried. match nil: all messages.
func (l *ledger) begin(s Settings, p Policy, match func(*store.Message) bool, at time.Time) {
	now := l.note(at)
	l.begun, l.settings, l.policy, l.match = true, s, p, match
	for _, w := range l.windows {
		l.adopt(w, now)
		early := w.early
		w.early = nil
		l.add(w.retry, early, at)
	}
}

// adopt gives a window its mode.
func (l *ledger) adopt(w *window, now time.Duration) {
	w.shared = w.retry || l.settings.Mode != Fifo
	l.prune(w)
	if !w.shared {
		w.adoptFifo(now)
		l.claimed(w)
	} else if l.settings.Mode == ByKey && !w.retry {
		w.chains = map[string]*chain{}
	}
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
func (l *ledger) leave(s *waiter, at time.Time) {
	now := l.note(at)
	l.unpark(s)
	c := s.c
	c.sessions = slices.DeleteFunc(c.sessions, func(o *waiter) bool { return o == s })
	if len(c.sessions) == 0 && !c.stays && len(l.claims) > 0 {
		l.disclaim(c)
	}
	if len(c.sessions) == 0 && !c.stays && c.held+len(c.owns) > 0 {
		for _, w := range slices.Clone(c.owns) {
			l.release(w, causeLeft, now)
			l.serve(w, now)
		}
		l.giveBack(c, now)
		l.dispatch(now)
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
func (l *ledger) gain(retry bool, p store.Position, hold uint32, at time.Time) {
	now := l.note(at)
	w := newWindow(spot{retry, p.Partition}, p, hold, l.base, at)
	if !retry {
		w.anew = max(w.anew, l.anew)
	}
	w.dirty = true
	l.windows[w.spot] = w
	if l.begun {
		l.adopt(w, now)
	}
}

// lose drops a partition. What clients hold of it is no longer theirs, and nothing of it is moved any more.
func (l *ledger) lose(retry bool, partition int32) {
	w := l.windows[spot{retry, partition}]
	if w == nil {
		return
	}
	delete(l.windows, w.spot)
	l.drop(w)
	l.dispatch(l.now.Sub(l.base)) // to whom that gave room
}

// drop forgets all messages of a window.
func (l *ledger) drop(w *window) {
	l.unready(w)
	w.ahead, w.chains = nil, nil
	for _, e := range w.entries {
		switch {
		case e.state == moving:
			delete(l.moves, e)
		case e.state == leased && w.shared:
			l.unhand(e)
		default:
			l.unline(e)
		}
		e.state, e.chain = done, nil
	}
	if w.owner != nil {
		l.unlease(w, w.leased)
	}
	w.entries, w.buf, w.early = nil, nil, nil
	w.bytes, w.due, w.leased, w.moving, w.spent, w.cursor = 0, 0, 0, 0, 0, 0
}

// gap moves a partition over offsets that no longer exist.
func (l *ledger) gap(retry bool, g store.Gap, at time.Time) {
	w := l.windows[spot{retry, g.Partition}]
	if w == nil {
		return // lost meanwhile
	}
	now := l.note(at)
	w.gaps = append(w.gaps, g)
	w.dirty = true
	if g.To < g.From { // another topic of the same name: nothing that we know is true
		reach := w.reach()
		l.drop(w)
		w.hold, w.anew = w.hold+1, max(w.anew, reach)
		w.next, w.end, w.top, w.done = g.To, g.To, g.To, nil
		l.adopt(w, now)
	} else {
		for _, e := range w.entries {
			if e.offset >= g.From && e.offset < g.To {
				l.finish(e, now)
			}
		}
		w.end = max(w.end, g.To)
		w.ahead = slices.DeleteFunc(w.ahead, func(a ahead) bool { return a.offset < g.To })
		l.unlease(w, 0)
	}
	l.settled(w, now)
	l.dispatch(now)
}

// add takes fetched messages, in order per partition.
func (l *ledger) add(retry bool, msgs []*store.Message, at time.Time) {
	now := l.note(at)
	var w *window
	for i, m := range msgs {
		if w == nil || w.partition != m.Partition {
			if w != nil {
				l.settled(w, now)
			}
			if w = l.windows[spot{retry, m.Partition}]; w == nil {
				continue // lost meanwhile
			}
		}
		switch {
		case !l.begun:
			w.early = append(w.early, m)
		case m.Offset >= w.end: // a store that repeats itself must not make us deliver twice
			l.fetched(w, m, len(msgs)-i, now)
		}
	}
	if w != nil {
		l.settled(w, now)
	}
	l.dispatch(now)
}

// fetched takes one message; so many are left of the batch.
func (l *ledger) fetched(w *window, m *store.Message, left int, now time.Duration) {
	offset, due, came := m.Offset, now, uint32(0)
	if w.retry {
		if restored, attempts, until, ok := origin(m); ok {
			m, came, due = restored, attempts, max(now, now+until.Sub(l.now))
		}
	}
	w.end = offset + 1
	a := w.takeAhead(offset)
	if w.doneAhead(offset) {
		return
	}
	if l.match != nil && !l.match(m) {
		l.count.filtered++
		w.dirty = true
		return
	}
	e := l.entry(left)
	*e = entry{w: w, msg: m, offset: offset, attempt: max(came, a.attempt), came: came, here: a.attempt > 0, since: now}
	w.bytes += m.Size()
	w.due++
	w.push(e)
	switch {
	case l.resume(e, a):
		l.enchain(e, true)
	case w.shared:
		l.place(e, a, due, now)
	case a.state == stateLeased && w.owner != nil:
		e.state, e.since = leased, w.gained
		w.due--
		w.leased++
		w.owner.held++
	case l.exhausted(e):
		l.condemn(e, causeLease, "")
	}
}

// entry takes one from a block of as many as are needed, at most 64, so that one message that stays does not keep many.
func (l *ledger) entry(more int) *entry {
	if len(l.block) == 0 {
		l.block = make([]entry, min(more, 64))
	}
	e := &l.block[0]
	l.block = l.block[1:]
	return e
}

// take gives the waiter what is at hand, up to its max, and reports whether it has something.
func (l *ledger) take(s *waiter, at time.Time) bool {
	now := l.note(at)
	for _, w := range s.c.owns {
		if s.room() > 0 && l.available(w, now) {
			l.give(w, s, now)
		}
	}
	l.fill(s, math.MaxInt, now)
	return len(s.got.Deliveries) > 0
}

// fill gives the waiter what is nobody's yet, the longest due first, until it has so many messages or no more room.
func (l *ledger) fill(s *waiter, n int, now time.Duration) {
	for s.room() > 0 && len(s.got.Deliveries) < n {
		front, e := l.ready.Front(), l.due.head
		switch {
		case e != nil && (front == nil || e.until <= front.Value.(*window).readyAt): //nolint:errcheck // nothing else is in it
			l.giveDue(s, now)
		case front != nil:
			w := l.ready.Remove(front).(*window) //nolint:errcheck // nothing else is in it
			w.queued = false
			if l.available(w, now) {
				l.give(w, s, now)
			}
		default:
			return
		}
	}
}

// dispatch gives what is due to those who wait. Many who wait share what there is.
func (l *ledger) dispatch(now time.Duration) {
	for e := l.waiters.Front(); e != nil && (l.due.n > 0 || l.ready.Len() > 0); e = l.waiters.Front() {
		s := e.Value.(*waiter) //nolint:errcheck // nothing else is in it
		if s.room() <= 0 {     // another session of the client was served; freed brings it back
			l.waiters.Remove(e)
			s.place = nil
			continue
		}
		l.fill(s, max(1, l.due.n/l.waiters.Len()), now)
		if len(s.got.Deliveries) > 0 {
			l.served(s)
		}
	}
}

// deliver hands out a pending message.
func (l *ledger) deliver(e *entry, s *waiter, now time.Duration) {
	w := e.w
	if len(w.gaps) > 0 {
		s.got.Gaps = append(s.got.Gaps, w.gaps...)
		w.gaps = nil
	}
	e.state, e.here, e.since = leased, true, now
	e.attempt++
	w.due--
	w.top = max(w.top, e.offset+1)
	w.dirty = true
	l.count.delivered++
	s.got.Deliveries = append(s.got.Deliveries, Delivery{e.msg, Ref{Retry: w.retry, Partition: w.partition, Offset: e.offset, Attempt: e.attempt, Hold: w.hold}})
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

// expire ends the leases and delays whose time has come.
func (l *ledger) expire(at time.Time) {
	now := l.note(at)
	for e := l.clock.first(); e != nil && e.until <= now; e = l.clock.first() {
		if e.state == leased {
			l.count.expired++
			l.again(e, causeLease, 0, now)
			continue
		}
		l.unline(e)
		l.offer(e, 0, now)
	}
	for _, w := range l.windows {
		switch {
		case !l.begun:
		case !w.shared:
			l.expireFifo(w, now)
		case w.retry:
			l.rotate(w, now)
		}
	}
	l.dispatch(now)
}

// nextDeadline is when expire has something to do next; zero for never.
func (l *ledger) nextDeadline(at time.Time) time.Time {
	now, next := at.Sub(l.base), time.Duration(math.MaxInt64)
	if e := l.clock.first(); e != nil {
		next = e.until
	}
	for _, w := range l.windows {
		if w.owner != nil {
			next = min(next, w.deadline)
		}
		if now < w.notBefore {
			next = min(next, w.notBefore)
		}
		if t := w.rotateAt(); t > 0 {
			next = min(next, t)
		}
	}
	if next == math.MaxInt64 {
		return time.Time{}
	}
	return at.Add(next - now)
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
		w.held = w.end-w.next >= limits.span && w.end-w.base() >= limits.span
		w.full = w.held || w.size() >= limits.WindowMessages || w.bytes >= limits.WindowBytes || total >= limits.GroupBytes && w.due > 0
		if w.full || !l.begun {
			out = append(out, w.partition)
		}
	}
	slices.Sort(out)
	return out
}

// reach is above every offset that a receipt can speak of: of ours, and of earlier holds. Those of the retry queue have no part in it.
func (l *ledger) reach() (above int64) {
	for _, w := range l.windows {
		if !w.retry {
			above = max(above, w.reach())
		}
	}
	return above
}

// busy reports whether something waits for a client's word, for its time, or to be moved.
func (l *ledger) busy(now time.Time) bool {
	if !l.begun {
		return false
	}
	if l.delayed > 0 || len(l.moves) > 0 {
		return true
	}
	t := now.Sub(l.base)
	for _, w := range l.windows {
		if w.owner != nil || w.leased > 0 || t < w.notBefore {
			return true
		}
	}
	return false
}

func fencedf(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errs.Fenced)...)
}
