package checker

import (
	"slices"
	"sort"
)

// group looks at what a group got and said.
func (c *check) group(g *group) {
	c.lost(g)
	c.receipts(g)
	c.assignments(g)
	switch {
	case g.spec.Explicit:
		c.acked(g)
		c.skipped(g)
		c.split(g)
		c.attempts(g)
	case c.limits.AutoOnce:
		c.twice(g)
	}
	if c.limits.Receipts {
		c.shared(g)
	}
}

// twice finds messages that come again to a group with ack=auto (C8): the gateway acked them when it had written them.
func (c *check) twice(g *group) {
	for at, list := range g.byPlace {
		for i := 1; i < len(list); i++ {
			if !between(g.seeks, list[i-1].n, list[i].n) {
				c.found("C8", []int{list[i-1].n, list[i].n}, "%s came to %s, which has ack=auto, and came again", c.idAt(g, at), g.name)
			}
		}
	}
}

// owed are the messages that the group must get: those that are stored for certain, and are meant for it.
func (c *check) owed(g *group) (ids []ID) {
	t := c.topics[g.topic]
	for _, id := range c.ids() {
		p := c.sent[id]
		stored := p.outcome() == OK
		if t != nil && t.known && p.outcome() == Info {
			stored = len(t.stored[id]) > 0
		}
		if p.topic == g.topic && stored && g.spec.wants(p.tag) {
			ids = append(ids, id)
		}
	}
	return ids
}

// places are where a message is known to be.
func (c *check) placesOf(id ID) (list []place) {
	if t := c.topics[c.sent[id].topic]; t != nil {
		list = append(list, t.stored[id]...)
	}
	for _, a := range c.sent[id].attempts {
		if a.phase == OK && a.at.partition >= 0 && !slices.Contains(list, a.at) {
			list = append(list, a.at)
		}
	}
	return list
}

// lost finds messages that never came whole (C1), of some of which a part has come (C25).
func (c *check) lost(g *group) {
	for _, id := range c.owed(g) {
		at := c.placesOf(id)
		if len(g.byID[id]) > 0 || slices.ContainsFunc(at, g.moved) {
			continue
		}
		part := []int{c.sent[id].attempts[0].begun}
		for _, p := range at {
			for _, d := range g.byPlace[p] {
				part = append(part, d.n)
			}
		}
		switch {
		case g.spec.Explicit && len(part) > 1:
			c.found("C25", part, "%s: its delivery to %s broke off, and it did not come again", id, g.name)
		case g.spec.Explicit || len(c.faults) == 0:
			c.found("C1", part, "%s is stored and never came to %s, nor is it in its queues", id, g.name)
		default:
			c.report.AutoLost++
		}
	}
}

// settled is when a message was acked: by an answer of 2xx, and at the earliest.
type settled struct {
	ok, attempt int // of the ack that was answered first
	begun       int // of the first ack that may have taken effect
}

// acks answers by place what is known of the acks of single messages and of all up to one.
func (c *check) acks(g *group) map[place]settled {
	done := map[place]settled{}
	note := func(at place, v *verb, attempt int) {
		s, seen := done[at]
		if !seen {
			s = settled{ok: never, begun: never}
		}
		if v.phase != Fail {
			s.begun = min(s.begun, v.begun)
		}
		if v.phase == OK && v.ended < s.ok && v.op != Bury {
			s.ok, s.attempt = v.ended, attempt
		}
		done[at] = s
	}
	for i := range g.verbs {
		v := &g.verbs[i]
		if d := g.byReceipt[v.m.Receipt]; d != nil && (v.op == Ack || v.op == Bury) {
			note(d.place(), v, d.Attempt)
		}
	}
	for i := range g.through {
		v := &g.through[i]
		if t := c.topics[g.topic]; t != nil {
			for _, o := range t.log[v.m.Partition] {
				if o <= v.m.Offset {
					note(place{v.m.Partition, o}, v, int(^uint(0)>>1))
				}
			}
		}
	}
	return done
}

// acked finds messages that come again though they were acked (C8).
func (c *check) acked(g *group) {
	done := c.acks(g)
	excused := map[int32]int{}
	for _, d := range g.got {
		s, ok := done[d.place()]
		if !ok || d.n < s.ok || d.open < s.ok && d.Attempt <= s.attempt || between(g.seeks, s.ok, d.n) || g.postponed(d.place(), s) {
			continue
		}
		if between(c.unclean, 0, d.n) {
			c.report.Again++
			if excused[d.Partition]++; excused[d.Partition] <= c.limits.Window*len(c.unclean) {
				continue
			}
		}
		c.found("C8", []int{s.ok, d.n}, "%s was acked by %s and came again", d.ID, g.name)
	}
}

// postponed reports whether the message was in the retry queue already when it was acked: with its place in the topic it is
// over, whoever says what, and what it said in the queue was another delivery.
func (g *group) postponed(at place, s settled) bool {
	if !slices.ContainsFunc(g.retry[at], func(m Message) bool { return m.Attempt >= s.attempt }) {
		return false
	}
	return slices.ContainsFunc(g.verbs, func(v verb) bool {
		d := g.byReceipt[v.m.Receipt]
		return v.op == Nack && v.phase != Fail && v.begun < s.ok && d != nil && d.place() == at
	})
}

// skipped finds commits above a message that nobody had acked (C9).
func (c *check) skipped(g *group) {
	t := c.topics[g.topic]
	if t == nil {
		return
	}
	done := c.acks(g)
	latest := map[int32][]int{} // by index in the log: when the last of the messages up to there was acked
	for partition, log := range t.log {
		top := 0
		for _, o := range log {
			at := place{partition, o}
			p := c.sent[t.at[at]]
			if p != nil && g.spec.wants(p.tag) && !g.moved(at) {
				if s, ok := done[at]; ok {
					top = max(top, s.begun)
				} else {
					top = never
				}
			}
			latest[partition] = append(latest[partition], top)
		}
	}
	reported := map[int32]bool{}
	for _, r := range g.commits {
		if len(g.seeks) > 0 && r.N > g.seeks[0] {
			return
		}
		for _, m := range r.Messages {
			log := t.log[m.Partition]
			i := sort.Search(len(log), func(i int) bool { return log[i] >= m.Offset })
			if i > 0 && latest[m.Partition][i-1] > r.N && !reported[m.Partition] {
				reported[m.Partition] = true
				c.found("C9", []int{r.N}, "%s committed %d of partition %d, and not all below was acked", g.name, m.Offset, m.Partition)
			}
		}
	}
}

// receipts finds verbs that took effect without a right: on what was never delivered (C10), and on what was delivered again
// since (C11).
func (c *check) receipts(g *group) {
	acks := map[place][]*verb{}
	for i := range g.verbs {
		if v := &g.verbs[i]; v.op == Ack && v.phase != Fail {
			if d := g.byReceipt[v.m.Receipt]; d != nil {
				acks[d.place()] = append(acks[d.place()], v)
			}
		}
	}
	for i := range g.verbs {
		v := &g.verbs[i]
		if v.phase != OK {
			continue
		}
		d := g.byReceipt[v.m.Receipt]
		if d == nil || d.n > v.ended {
			c.found("C10", []int{v.begun, v.ended}, "%s of receipt %.24q was accepted, which %s never gave out", v.op, v.m.Receipt, g.name)
			continue
		}
		if v.op == Ack && g.moved(d.place()) {
			continue // it is over with the message, whoever says what
		}
		if newer := c.newer(g, g.latest(d, v), v, acks[d.place()]); newer != nil {
			c.found("C11", []int{d.n, newer.n, v.ended}, "%s of %s by %s was accepted, though it had been delivered again to %s", v.op, d.ID, v.client, newer.client)
		}
	}
	for i := range g.through {
		v := &g.through[i]
		high := int64(-1)
		for _, d := range g.got {
			if d.Partition == v.m.Partition && d.open < v.ended {
				high = max(high, d.Offset)
			}
		}
		if v.phase == OK && v.m.Offset > high {
			c.found("C10", []int{v.begun, v.ended}, "offset %d of partition %d was accepted as done by %s, which got nothing above %d", v.m.Offset, v.m.Partition, g.name, high)
		}
	}
}

// latest is the last delivery with the receipt of d that the verb can speak of: who forgets deliveries makes a receipt anew.
func (g *group) latest(d *delivery, v *verb) *delivery {
	for _, again := range g.reissued {
		if e := again[1]; e.Receipt == d.Receipt && e.n < v.begun {
			d = e
		}
	}
	return d
}

// shared finds receipts that are of two deliveries (C11), though no gateway has forgotten the first: who has the one could speak for
// who has the other.
func (c *check) shared(g *group) {
	for _, two := range g.reissued {
		if a, b := two[0], two[1]; !c.forgets(a.open, b.n) && !between(c.unclean, 0, a.n) {
			c.found("C11", []int{a.n, b.n}, "%s came to %s and to %s with one receipt", a.ID, a.client, b.client)
		}
	}
}

// newer is a delivery of the same message, read before the verb was sent, by which the verb's own was certainly over. Once
// the message is acked nobody minds who says what.
func (c *check) newer(g *group, d *delivery, v *verb, acks []*verb) *delivery {
	if slices.ContainsFunc(acks, func(w *verb) bool { return w != v && w.begun < v.ended }) {
		return nil
	}
	for _, e := range g.byPlace[d.place()] {
		if e.n >= v.begun || e.Receipt == d.Receipt {
			continue
		}
		if e.open > d.n || e.Attempt > d.Attempt && !between(c.unclean, min(d.open, e.open), v.ended) {
			return e
		}
	}
	return nil
}

// assignments looks at each stream and each answer of a group in fifo mode: offsets ascend but for what comes again (C14),
// and none is passed over (C15).
func (c *check) assignments(g *group) {
	if g.spec.Mode != "fifo" {
		return
	}
	type seat struct {
		open      int
		partition int32
	}
	last := map[seat]*delivery{}
	for _, d := range g.got {
		s := seat{d.open, d.Partition}
		before := last[s]
		last[s] = d
		if before == nil || c.forgets(before.n, d.n) || between(g.seeks, before.n, d.n) {
			continue
		}
		if d.Offset <= before.Offset {
			if d.Attempt <= 1 {
				c.found("C14", []int{before.n, d.n}, "%s got offset %d of partition %d after %d", d.client, d.Offset, d.Partition, before.Offset)
			}
			continue
		}
		if g.spec.Explicit {
			c.passed(g, before, d)
		}
	}
}

// forgets reports whether between two records a fault began, or was going on, by which a gateway may forget.
func (c *check) forgets(from, to int) bool {
	return slices.ContainsFunc(c.faults, func(f fault) bool { return f.unclean && f.begun < to && f.ended > from })
}

// passed finds offsets between two deliveries that nobody had got by then.
func (c *check) passed(g *group, before, d *delivery) {
	t := c.topics[g.topic]
	if t == nil {
		return
	}
	log := t.log[d.Partition]
	i, _ := slices.BinarySearch(log, before.Offset+1)
	for ; i < len(log) && log[i] < d.Offset; i++ {
		at := place{d.Partition, log[i]}
		p := c.sent[t.at[at]]
		if p == nil || !g.spec.wants(p.tag) || g.moved(at) {
			continue
		}
		got := slices.ContainsFunc(g.byPlace[at], func(e *delivery) bool { return e.n < d.n })
		if !got {
			c.found("C15", []int{before.n, d.n}, "%s got offset %d of partition %d after %d, and nobody had got %d", d.client, d.Offset, d.Partition, before.Offset, log[i])
			return
		}
	}
}

// split finds messages that two clients had at a time (C16).
func (c *check) split(g *group) {
	free := map[place][]int{} // when a client gave a message back, or in fifo mode anything of its partition
	whose := func(p place) place {
		if g.spec.Mode == "fifo" {
			p.offset = -1
		}
		return p
	}
	for i := range g.verbs {
		v := &g.verbs[i]
		if d := g.byReceipt[v.m.Receipt]; d != nil && v.op != Extend && v.phase != Fail {
			free[whose(d.place())] = append(free[whose(d.place())], v.begun)
		}
	}
	for _, list := range free {
		slices.Sort(list)
	}
	for _, list := range g.byPlace {
		for i := 1; i < len(list); i++ {
			a, b := list[i-1], list[i]
			closed, over := g.closed[a.open]
			since := a.n
			if g.spec.Mode == "fifo" {
				since = a.open // a nack of another message, sent before this one was read
			}
			switch {
			case a.open == b.open, b.at-a.at >= g.spec.Lease-c.limits.Slack:
			case over && c.records[closed-1].At < b.at+c.limits.Ends:
			case over && closed < b.n:
			case between(g.seeks, a.open, b.n), c.excuses(a, b):
			case between(free[whose(a.place())], since, b.n):
			case b.open < a.n && b.Attempt < a.Attempt: // given to b before a, and read late
			default:
				c.found("C16", []int{a.n, b.n}, "%s had %s for %v of %v when %s got it", a.client, a.ID, b.at-a.at, g.spec.Lease, b.client)
			}
		}
	}
}

// excuses reports whether a fault may have taken the message from the client that had it.
func (c *check) excuses(a, b *delivery) bool {
	return slices.ContainsFunc(c.faults, func(f fault) bool {
		return f.begun < b.n && f.ended >= a.open && (f.client == "" || f.client == a.client)
	})
}

// idAt is the message of a place of the group's topic.
func (c *check) idAt(g *group, at place) ID {
	if t := c.topics[g.topic]; t != nil {
		return t.at[at]
	}
	return g.byPlace[at][0].ID
}

// attempts looks at messages that are not acked again and again (C20).
func (c *check) attempts(g *group) {
	if g.spec.MaxAttempts == 0 {
		return
	}
	buried := map[place]bool{}
	done := c.acks(g)
	for i := range g.verbs {
		v := &g.verbs[i]
		d := g.byReceipt[v.m.Receipt]
		if d == nil || v.op != Bury || v.phase == Fail {
			continue
		}
		buried[d.place()] = true
		forgotten := done[d.place()].ok > v.begun && done[d.place()].ok != never && len(c.unclean) > 0 // it came again, and was acked
		if v.phase == OK && len(g.dead[d.place()]) == 0 && len(c.drained) > 0 && !forgotten {
			c.found("C20", []int{v.begun}, "%s was buried by %s and is not in its dead queue", d.ID, g.name)
		}
	}
	for at, list := range g.byPlace {
		// A kill forgets the attempts since the last commit, of which one that is answered at once may have several.
		id, most, highest, top := c.idAt(g, at), g.spec.MaxAttempts*(1+len(c.unclean)), g.spec.MaxAttempts+len(c.unclean), 0
		for _, d := range list {
			top = max(top, d.Attempt)
		}
		if len(list) > most || top > highest {
			c.found("C20", []int{list[0].n, list[len(list)-1].n}, "%s came to %s %d times, attempt %d, and at most %d are allowed", id, g.name, len(list), top, most)
		}
		if _, acked := done[at]; top >= g.spec.MaxAttempts && !acked && !g.moved(at) && len(c.drained) > 0 {
			c.found("C20", []int{list[0].n}, "%s came to %s for the last time, is not acked and not dead", id, g.name)
		}
	}
	for at, list := range g.dead {
		if len(list) > 1 && len(c.unclean) == 0 && !c.unsure {
			c.found("C20", nil, "%d:%d is %d times in the dead queue of %s", at.partition, at.offset, len(list), g.name)
		}
		for _, m := range list {
			if m.Attempt < g.spec.MaxAttempts && !buried[at] {
				c.found("C20", nil, "%s is dead in %s after %d of %d attempts (%s)", m.ID, g.name, m.Attempt, g.spec.MaxAttempts, m.Cause)
			}
		}
	}
}
