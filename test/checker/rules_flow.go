package checker

import (
	"slices"
	"time"
)

// reader looks at one who reads without a group: over all its connections each partition comes without gap or repeat (C12).
func (c *check) reader(n *reader) {
	t := c.topics[n.topic]
	if t == nil {
		return
	}
	next := map[int32]int{} // index in the log
	for partition := range t.log {
		next[partition] = -1
		if n.spec.Whole {
			next[partition] = 0
		}
	}
	for _, d := range n.got {
		if !d.whole {
			continue
		}
		log := t.log[d.Partition]
		i, there := slices.BinarySearch(log, d.Offset)
		want := next[d.Partition]
		switch {
		case !there: // a phantom, or gone by retention
			continue
		case want < 0, i == want:
		case i < want:
			c.found("C12", []int{d.n}, "%s got %d:%d again", n.client, d.Partition, d.Offset)
			continue
		default:
			if c.missed(n, d, log[want:i]) {
				return
			}
		}
		next[d.Partition] = i + 1
	}
	if !n.spec.Whole {
		return
	}
	for partition, log := range t.log {
		if i := next[partition]; i < len(log) && c.missed(n, &delivery{Message: Message{Partition: partition, Offset: log[len(log)-1] + 1}, n: c.last}, log[i:]) {
			return
		}
	}
}

// missed reports the first of the offsets that the reader should have got.
func (c *check) missed(n *reader, d *delivery, offsets []int64) bool {
	t := c.topics[n.topic]
	for _, o := range offsets {
		if p := c.sent[t.at[place{d.Partition, o}]]; p != nil && n.spec.wants(p.tag) {
			c.found("C12", []int{d.n}, "%s never got %d:%d", n.client, d.Partition, o)
			return true
		}
	}
	return false
}

// liveness finds what is stuck (C17): a drain that took too long, a group that is not at the end after it, and one that got
// nothing for long while there was something and no fault.
func (c *check) liveness() {
	for _, r := range c.drained {
		if r.Phase == Fail {
			c.found("C17", []int{r.N}, "the drain took too long: %s", r.Note)
		}
	}
	for _, g := range c.groups {
		if len(c.drained) > 0 && len(g.commits) > 0 {
			c.behind(g)
		}
		c.stalled(g)
	}
}

// behind compares the last commit with the end of the topic.
func (c *check) behind(g *group) {
	t, last := c.topics[g.topic], g.commits[len(g.commits)-1]
	if t == nil || last.N < c.drained[len(c.drained)-1].N {
		return
	}
	for _, m := range last.Messages {
		if log := t.log[m.Partition]; len(log) > 0 && m.Offset <= log[len(log)-1] {
			c.found("C17", []int{last.N}, "%s is at %d of partition %d after the drain, and the topic goes to %d", g.name, m.Offset, m.Partition, log[len(log)-1])
		}
	}
}

func (c *check) stalled(g *group) {
	if len(g.got) == 0 {
		return
	}
	for _, id := range c.owed(g) {
		p, list := c.sent[id], g.byID[id]
		if len(list) == 0 || p.attempts[0].ended == never {
			continue
		}
		d := list[0]
		i, _ := slices.BinarySearchFunc(g.got, d.n, func(e *delivery, n int) int { return e.n - n })
		since := max(c.records[p.attempts[0].ended-1].At, c.records[g.got[0].open-1].At)
		if i > 0 {
			since = max(since, g.got[i-1].at)
		}
		for _, f := range c.faults {
			switch {
			case f.begun > d.n:
			case f.ended > d.n: // it goes on
				since = d.at
			default:
				since = max(since, f.to)
			}
		}
		if d.at-since > c.limits.Stall {
			c.found("C17", []int{p.attempts[0].begun, d.n}, "%s got nothing for %v, though %s was there", g.name, (d.at - since).Round(time.Millisecond), id)
			return
		}
	}
}

// moves finds messages in a group's queues that never were in its topic (C2).
func (c *check) moves() {
	for _, g := range c.groups {
		t := c.topics[g.topic]
		if t == nil {
			continue
		}
		for _, queue := range []map[place][]Message{g.dead, g.retry} {
			for at, list := range queue {
				if id, ok := t.at[at]; !ok || id != list[0].ID {
					c.found("C6", nil, "%s is in a queue of %s as %d:%d, where the topic has %v", list[0].ID, g.name, at.partition, at.offset, id)
				}
			}
		}
	}
}

// count fills the rest of the report.
func (c *check) count() {
	r := c.report
	for _, t := range c.topics {
		r.Stored += len(t.at)
	}
	for _, p := range c.sent {
		if p.outcome() == Info {
			r.Unknown++
		}
	}
	for _, g := range c.groups {
		for _, list := range g.byID {
			r.Delivered += len(list)
			r.Repeated += len(list) - 1
		}
	}
	for _, n := range c.readers {
		r.Delivered += len(n.got)
	}
	ended := map[int]bool{}
	for i := range c.records {
		if c.records[i].Phase != Invoke {
			ended[c.records[i].Of] = true
		}
	}
	for i := range c.records {
		if rec := &c.records[i]; rec.Phase == Invoke && rec.Op != Fault && !ended[rec.N] {
			r.Unfinished++
		}
	}
}
