package checker

import (
	"fmt"
	"iter"
	"slices"
	"time"
)

// simGroup is a group as it should be: who has what until when.
type simGroup struct {
	*world
	topic *simTopic
	name  string
	spec  Spec
	at    map[place]*entry
	given int // receipts
	saved map[place]entry
}

// entry is a message as the group sees it.
type entry struct {
	m       Message
	attempt int
	holder  string // "" is nobody
	until   time.Duration
	receipt string
	done    bool
	dead    bool
	hidden  bool // by a bug: passed over until the drain
	buried  bool
	said    bool // a client has begun to say something of it
	taken   int  // how many records there were when it was delivered last
}

// fill makes entries of what was stored since.
func (g *simGroup) fill() {
	for _, log := range g.topic.log {
		for _, m := range log {
			if g.at[m.place()] == nil {
				g.at[m.place()] = &entry{m: m, done: !g.spec.wants(m.Tag) && !g.plant("C2 unwanted")}
			}
		}
	}
}

func (g *simGroup) sorted() []*entry {
	var list []*entry
	for _, e := range g.at {
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b *entry) int {
		return int(a.m.Partition-b.m.Partition)*1_000_000 + int(a.m.Offset-b.m.Offset)
	})
	return list
}

func (g *simGroup) finished() bool {
	g.fill()
	return !slices.ContainsFunc(g.sorted(), func(e *entry) bool { return !e.done })
}

// expire ends leases.
func (g *simGroup) expire() {
	for _, e := range g.sorted() {
		if e.holder != "" && e.until <= g.now {
			g.release(e)
		}
	}
}

// release makes a message due again, in fifo mode all of its partition; or dead.
func (g *simGroup) release(e *entry) {
	for _, o := range g.at {
		if o != e && (g.spec.Mode != "fifo" || o.m.Partition != e.m.Partition || o.done) {
			continue
		}
		o.holder = ""
		if most := g.spec.MaxAttempts; most > 0 && o.attempt >= most {
			o.done, o.dead = true, true
		}
	}
}

// leave makes due what a client holds.
func (g *simGroup) leave(client string) {
	for _, e := range g.sorted() {
		if e.holder == client && !e.done {
			g.release(e)
		}
	}
}

// take gives messages to a client.
func (g *simGroup) take(client string, most int) (got []Message) {
	g.fill()
	g.expire()
	stolen := g.spec.Explicit && g.plant("C16")
	busy := map[string]bool{} // keys, and in fifo mode partitions
	for _, e := range g.sorted() {
		slot := fmt.Sprint(e.m.Partition, " ", e.m.Key)
		if g.spec.Mode == "fifo" {
			slot = fmt.Sprint(e.m.Partition)
		}
		switch {
		case e.done, e.hidden, len(got) == most:
			continue
		case stolen && e.holder != "" && e.holder != client && g.spec.Mode != "fifo" && !e.said && e.until-g.now > 3*time.Second:
			stolen = false
		case e.holder != "" && (e.holder != client || g.spec.Mode != "fifo"):
			busy[slot] = true
			continue
		case e.holder != "": // ours already
			continue
		case busy[slot]:
			continue
		}
		if g.spec.Mode == "key" && e.m.Key != "" {
			busy[slot] = true
		}
		g.given++
		e.holder, e.until, e.attempt, e.receipt = client, g.now+g.spec.Lease, e.attempt+1, fmt.Sprintf("%s-%d", g.name, g.given)
		e.said, e.taken = false, len(g.records)
		m := e.m
		m.Attempt = e.attempt
		if g.spec.Explicit {
			m.Receipt = e.receipt
		}
		got = append(got, m)
	}
	if stolen {
		g.planted = false // there was nothing to steal
	}
	if len(got) > 0 {
		got = g.skip(got)
		g.spoil(got)
	}
	return got
}

// skip plants a message that is passed over.
func (g *simGroup) skip(got []Message) []Message {
	for i := 1; i+1 < len(got); i++ {
		if g.spec.Mode == "fifo" && g.spec.Explicit && got[i].Attempt == 1 && !g.draining && got[i-1].Partition == got[i+1].Partition && g.plant("C15") {
			e := g.at[got[i].place()]
			e.hidden, e.holder, e.attempt = true, "", 0
			return slices.Delete(got, i, i+1)
		}
	}
	return got
}

// spoil plants what is wrong with a message itself.
func (g *simGroup) spoil(got []Message) {
	m := &got[g.r.IntN(len(got))]
	switch {
	case g.plant("C2"):
		m.ID.Run = "elsewhere"
	case g.plant("C4 bytes"):
		m.Wrong = "the checksum differs"
	case g.plant("C4 key"):
		m.Key += "x"
	case len(g.world.topic["b.orders.v1"].log[1]) > 0 && g.plant("C22"):
		other := g.world.topic["b.orders.v1"].log[1][0]
		m.ID, m.Key, m.Tag = other.ID, other.Key, other.Tag
	}
}

// settle is what the gateway does with a verb, and whether it takes effect.
func (g *simGroup) settle(n int, op Op, m Message) bool {
	g.expire()
	e := g.at[m.place()]
	switch {
	case e.done && op == Ack:
		return true
	case e.done:
		return false
	case e.receipt != m.Receipt:
		return e.holder != "" && e.taken < n && e.attempt > m.Attempt && !e.said && op == Ack == (g.spec.MaxAttempts == 0) && g.plant("C11")
	case e.holder == "":
		return false
	case op == Ack:
		e.done = true
	case op == Nack:
		g.release(e)
	case op == Bury:
		e.done, e.dead, e.buried = true, true, true
	case op == Extend:
		e.until = g.now + g.spec.Lease
	}
	return true
}

// say sends verbs for some of the messages; the order is the client's.
func (g *simGroup) say(client string, got []Message, step func() bool, all bool) bool {
	for _, m := range got {
		op := Ack
		switch g.r.IntN(10) {
		case 0:
			op = Nack
		case 1:
			op = Extend
		case 2:
			if g.spec.MaxAttempts > 0 {
				op = Bury
			}
		case 3:
			if !all {
				continue // forgotten, until the lease ends
			}
		}
		if all && g.spec.MaxAttempts == 0 {
			op = Ack
		}
		if g.spec.MaxAttempts > 0 && m.ID.Seq%5 == 1 { // poison
			op = Nack
		}
		n := g.note(Record{Op: op, Phase: Invoke, Topic: g.topic.name, Group: g.name, Client: client, Messages: []Message{m}})
		if e := g.at[m.place()]; e.receipt == m.Receipt {
			e.said = true
		}
		if !step() {
			g.end(n, Info)
			return false
		}
		phase, was := Fail, g.planted
		if g.settle(n, op, m) {
			phase = OK
		}
		if was == g.planted && !step() {
			g.end(n, Info)
			return false
		}
		g.end(n, phase)
		if phase == OK && op == Ack && g.plant("C8") {
			*g.at[m.place()] = entry{m: g.at[m.place()].m, attempt: m.Attempt}
		}
	}
	if g.plant("C10") {
		n := g.note(Record{Op: Ack, Phase: Invoke, Topic: g.topic.name, Group: g.name, Client: client, Messages: []Message{{Receipt: "forged"}}})
		g.end(n, OK)
	}
	return true
}

func (g *simGroup) poller(client string) iter.Seq[struct{}] {
	return func(yield func(struct{}) bool) {
		step := func() bool { return yield(struct{}{}) }
		for step() {
			if !g.pollOnce(client, step, false) {
				return
			}
		}
	}
}

func (g *simGroup) pollOnce(client string, step func() bool, all bool) bool {
	n := g.note(Record{Op: Poll, Phase: Invoke, Topic: g.topic.name, Group: g.name, Client: client})
	if !step() {
		g.end(n, Info)
		return false
	}
	was := g.planted
	got := g.take(client, 1+g.r.IntN(4))
	if was == g.planted && !all && g.faulty && g.spec.Explicit && len(got) > 0 && g.chance(6) { // the answer is cut
		g.note(Record{Op: Fault, Phase: Invoke, Client: client, Note: "cut"})
		got[0].Partial = true
		if got[0].Attempt == 1 && g.plant("C25") {
			g.at[got[0].place()].done = true
			g.saved[got[0].place()] = *g.at[got[0].place()]
		}
		g.end(n, Info, got[0])
		g.leave(client)
		return step()
	}
	g.end(n, OK, got...)
	return g.handle(client, got, step, all)
}

// handle acks, by itself or by what the client says.
func (g *simGroup) handle(client string, got []Message, step func() bool, all bool) bool {
	if g.spec.Explicit {
		return g.say(client, got, step, all)
	}
	for _, m := range got {
		g.at[m.place()].done = true
	}
	return true
}

func (g *simGroup) streamer(client string) iter.Seq[struct{}] {
	return func(yield func(struct{}) bool) {
		step := func() bool { return yield(struct{}{}) }
		for step() {
			if !g.stream(client, step) {
				return
			}
		}
	}
}

// stream opens one, reads some chunks and leaves.
func (g *simGroup) stream(client string, step func() bool) bool {
	n := g.note(Record{Op: Stream, Phase: Invoke, Topic: g.topic.name, Group: g.name, Client: client})
	var before []Message
	for range 1 + g.r.IntN(4) {
		if !step() {
			break
		}
		got := g.take(client, 1+g.r.IntN(3))
		if len(got) == 0 {
			continue
		}
		if len(before) > 0 && g.spec.Mode == "fifo" && before[0].Attempt == 1 && g.plant("C14") {
			got = append(got, before[0])
		}
		before = got
		g.note(Record{Op: Chunk, Phase: OK, Of: n, Topic: g.topic.name, Group: g.name, Client: client, Messages: got})
		if !g.handle(client, got, step, false) {
			break
		}
		if g.chance(20) {
			g.now += simLease + time.Second // asleep: leases end
		}
	}
	g.end(n, Info) // noted before it hangs up
	g.leave(client)
	return step()
}

// committer notes what the gateway has committed.
func (g *simGroup) committer() iter.Seq[struct{}] {
	return func(yield func(struct{}) bool) {
		for yield(struct{}{}) {
			g.sample(false)
		}
	}
}

func (g *simGroup) sample(last bool) {
	g.fill()
	var at []Message
	for p := range g.topic.log {
		next := int64(0)
		behind := 0
		var first *entry // that is not done
		for _, e := range g.sorted() {
			if int(e.m.Partition) == p && !e.done {
				if behind++; behind == 1 {
					first = e
				}
			}
			if int(e.m.Partition) == p && behind == 0 {
				next = e.m.Offset + 1
			}
		}
		if first != nil && !first.said && g.spec.Explicit && g.spec.MaxAttempts == 0 && g.plant("C9") {
			next = first.m.Offset + 1
		}
		if last && next > 0 && g.plant("C17 behind") {
			next--
		}
		at = append(at, Message{Partition: int32(p), Offset: next})
	}
	g.saved = map[place]entry{}
	for p, e := range g.at {
		g.saved[p] = *e
	}
	g.note(Record{Op: Committed, Phase: OK, Topic: g.topic.name, Group: g.name, Messages: at})
}

// crash forgets what was done since the last commit.
func (g *simGroup) crash() {
	for p, e := range g.at {
		old, ok := g.saved[p]
		if !ok {
			old = entry{m: e.m, done: !g.spec.wants(e.m.Tag)}
		}
		if e.dead { // in the queue already
			continue
		}
		old.attempt, old.hidden = max(old.attempt, e.attempt-1), e.hidden // what was delivered last is forgotten
		*e = old
		e.holder, e.receipt = "", ""
	}
}
