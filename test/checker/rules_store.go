package checker

import (
	"fmt"
	"slices"
)

// store looks at what the topics hold.
func (c *check) store() {
	for i := range c.records {
		r := &c.records[i]
		switch r.Op {
		case Stored:
			for _, m := range r.Messages {
				c.genuine(r, &m, "stored")
			}
		case Retry, Dead:
			for _, m := range r.Messages {
				c.genuine(r, &m, "in queue "+string(r.Op))
			}
		default:
		}
	}
}

// reads looks at what clients got.
func (c *check) reads() {
	for _, g := range c.groups {
		for _, d := range g.got {
			if !d.whole {
				continue
			}
			c.genuine(&c.records[d.n-1], &d.Message, "delivered")
			if p := c.sent[d.ID]; p != nil && !g.spec.wants(p.tag) {
				c.found("C2", []int{d.n}, "%s has tags %q and came to %s, which wants %q", d.ID, p.tag, g.name, g.spec.Tags)
			}
		}
	}
	for _, n := range c.readers {
		for _, d := range n.got {
			if d.whole {
				c.genuine(&c.records[d.n-1], &d.Message, "delivered")
			}
		}
	}
}

// genuine says what is wrong with a message in itself: C2-C5, C22.
func (c *check) genuine(r *Record, m *Message, how string) {
	p := c.sent[m.ID]
	at := []int{r.N}
	where := fmt.Sprintf("%s at %d:%d of %s", m.ID, m.Partition, m.Offset, r.Topic)
	switch {
	case m.Cut || p != nil && p.broken:
		c.found("C5", at, "%s: a message whose body broke off is %s", where, how)
	case m.Wrong != "":
		c.found("C4", at, "%s: %s", where, m.Wrong)
	case p == nil:
		c.found("C2", at, "%s: nobody published what is %s", where, how)
	case p.topic != r.Topic:
		c.found("C22", at, "%s: %s, but published to %s", where, how, p.topic)
	case p.key != m.Key || m.Tag != "" && m.Tag != p.tag:
		c.found("C4", at, "%s: key %q, tag %q; sent with %q, %q", where, m.Key, m.Tag, p.key, p.tag)
	case p.outcome() == Fail:
		c.found("C3", append(at, p.attempts[0].begun), "%s: the publish was refused, and it is %s", where, how)
	}
}

// places finds places with two messages (C6) and attempts with two places (C7), over answers, deliveries and the store.
func (c *check) places() {
	type spot struct {
		topic string
		place
	}
	type seen struct {
		id ID
		n  int
	}
	at := map[spot]seen{}
	of := map[ID][]place{}
	see := func(r *Record, id ID, p place) {
		s := spot{r.Topic, p}
		if other, taken := at[s]; taken && other.id != id {
			c.found("C6", []int{other.n, r.N}, "%s %d:%d is %s and %s", r.Topic, p.partition, p.offset, other.id, id)
		} else if !taken {
			at[s] = seen{id, r.N}
		}
		if sent := c.sent[id]; sent != nil && sent.topic == r.Topic && !slices.Contains(of[id], p) {
			of[id] = append(of[id], p)
		}
	}
	for i := range c.records {
		r := &c.records[i]
		stored := r.Op == Publish && r.Phase == OK
		read := (r.Op == Poll || r.Op == Chunk) && r.Phase != Invoke
		if !stored && !read && r.Op != Stored {
			continue
		}
		for _, m := range r.Messages {
			if m.Wrong == "" && !m.Partial && !m.Nowhere {
				see(r, m.ID, m.place())
			}
		}
	}
	for _, id := range c.ids() {
		p, allowed := c.sent[id], 1
		for _, a := range p.attempts[1:] {
			if a.phase != Fail && !p.once {
				allowed++
			}
		}
		if len(of[id]) > allowed {
			c.found("C7", []int{p.attempts[0].begun}, "%s was published %d times and is at %d places: %v", id, len(p.attempts), len(of[id]), of[id])
		}
	}
}

// hints finds messages that were spooled and are not in the store when all is drained (C23).
func (c *check) hints() {
	for _, id := range c.ids() {
		p := c.sent[id]
		t := c.topics[p.topic]
		for _, a := range p.attempts {
			if a.spooled && a.phase == OK && a.at.partition < 0 && len(c.drained) > 0 && t != nil && t.known {
				c.found("C23", []int{a.begun, a.ended}, "%s was spooled, and is not in the store after the drain", id)
			}
		}
	}
}

// order looks at messages of one key published one after the other through one gateway: they lie in that order, and groups
// that promise it first see them so (C13).
func (c *check) order() {
	byKey := map[string][]*publish{}
	for _, id := range c.ids() {
		if p := c.sent[id]; p.key != "" && len(p.attempts) == 1 && p.attempts[0].phase == OK {
			// A key moves when its topic gets more partitions.
			k := fmt.Sprint(p.topic, " ", p.attempts[0].via, " ", p.key, " ", p.attempts[0].at.partition)
			byKey[k] = append(byKey[k], p)
		}
	}
	for _, list := range byKey {
		c.ascending(list, "lies at offset", func(p *publish) int { return int(p.attempts[0].at.offset) }) // -1 where it was spooled and is nowhere
		for _, g := range c.groups {
			if g.topic != list[0].topic || g.spec.Mode == "queue" || !g.spec.Explicit {
				continue // with ack=auto two clients may read in another order than they were served
			}
			c.ascending(list, "first came to "+g.name+" in record", func(p *publish) int {
				if g.moved(p.attempts[0].at) {
					return -1
				}
				if got := g.byID[p.id]; len(got) > 0 {
					return got[0].n
				}
				return -1
			})
		}
	}
}

// ascending checks that what ended before another began has the lower rank. Those of rank -1 do not count, and ones that
// overlapped may be in any order.
func (c *check) ascending(list []*publish, what string, rank func(*publish) int) {
	ended := slices.Clone(list)
	slices.SortFunc(ended, func(a, b *publish) int { return a.attempts[0].ended - b.attempts[0].ended })
	var top *publish // of those that ended before p began
	next := 0
	for _, p := range list {
		for ; next < len(ended) && ended[next].attempts[0].ended < p.attempts[0].begun; next++ {
			if e := ended[next]; rank(e) >= 0 && (top == nil || rank(e) > rank(top)) {
				top = e
			}
		}
		if r := rank(p); top != nil && r >= 0 && r < rank(top) {
			c.found("C13", []int{top.attempts[0].begun, p.attempts[0].begun}, "key %q: %s was published before %s, but %s %d and not before %d",
				p.key, top.id, p.id, what, rank(top), r)
		}
	}
}
