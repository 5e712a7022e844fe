package checker

import (
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"time"
)

// world is a small gateway that keeps its word, with clients and faults, all in one goroutine and driven by a seed: what it
// notes is a clean history. Its bugs are the anomalies that Check has to find.
type world struct {
	r       *rand.Rand
	now     time.Duration
	records []Record
	faulty  bool   // there are kills, cut answers, failing publishes
	bug     string // which anomaly to plant, once
	planted bool

	topic    map[string]*simTopic
	groups   []*simGroup
	closed   bool // no new messages
	draining bool
}

type simTopic struct {
	name string
	log  [2][]Message // per partition
	next [2]int64
}

const (
	simLease  = 10 * time.Second
	simWindow = 50
)

// chance is true once in n.
func (w *world) chance(n int) bool { return w.r.IntN(n) == 0 }

// plant is true once, when the bug is this one.
func (w *world) plant(bug string) bool {
	if w.bug != bug || w.planted || w.chance(3) {
		return false
	}
	w.planted = true
	return true
}

func (w *world) note(r Record) int {
	w.now += time.Duration(w.r.IntN(int(20 * time.Millisecond)))
	r.N, r.At = len(w.records)+1, w.now
	w.records = append(w.records, r)
	return r.N
}

func (w *world) end(of int, phase Phase, messages ...Message) int {
	r := w.records[of-1]
	r.Of, r.Phase = of, phase
	if len(messages) > 0 {
		r.Messages = messages
	}
	return w.note(r)
}

// simulate makes one history.
func simulate(seed uint64, faulty bool, bug string) *world {
	w := &world{r: rand.New(rand.NewPCG(seed, 1)), faulty: faulty, bug: bug, topic: map[string]*simTopic{}}
	for _, name := range []string{"a.orders.v1", "b.orders.v1"} {
		w.topic[name] = &simTopic{name: name}
	}
	t := w.topic["a.orders.v1"]
	var all []iter.Seq[struct{}]
	for p := range 3 {
		all = append(all, w.producer(t, p))
	}
	all = append(all, w.producer(w.topic["b.orders.v1"], 3))
	for _, spec := range []Spec{
		{Mode: "fifo", Explicit: true, Lease: simLease},
		{Mode: "queue", Explicit: true, Lease: simLease, MaxAttempts: 3},
		{Mode: "key", Explicit: true, Lease: simLease, Tags: []string{"red"}},
		{Mode: "fifo", Lease: simLease},
	} {
		g := &simGroup{world: w, topic: t, spec: spec, name: fmt.Sprintf("g%d", len(w.groups)), at: map[place]*entry{}, saved: map[place]entry{}}
		w.groups = append(w.groups, g)
		w.note(Record{Op: Declare, Phase: OK, Topic: t.name, Group: g.name, Spec: &spec})
		all = append(all, g.poller("poll1"), g.poller("poll2"), g.streamer("stream1"), g.streamer("stream2"), g.committer())
	}
	w.note(Record{Op: Declare, Phase: OK, Topic: t.name, Client: "reader", Spec: &Spec{Mode: "broadcast", Whole: true}})
	all = append(all, w.reader(t, "reader"))
	if faulty && bug != "C25" { // a kill might bring the message after all
		all = append(all, w.killer())
	}
	w.interleave(all)
	w.finish()
	return w
}

// interleave lets all take single steps, in random order, until the producers are done and everybody had some steps more.
func (w *world) interleave(all []iter.Seq[struct{}]) {
	type runner struct {
		next func() (struct{}, bool)
		stop func()
	}
	var live []runner
	for _, seq := range all {
		next, stop := iter.Pull(seq)
		live = append(live, runner{next, stop})
	}
	for step := range 400 {
		if step == 300 {
			w.closed = true
		}
		i := w.r.IntN(len(live))
		if _, more := live[i].next(); !more {
			live = slices.Delete(live, i, i+1)
		}
	}
	for _, r := range live {
		r.stop()
	}
}

// finish drains each group with a fresh client and notes the truth.
func (w *world) finish() {
	n := w.note(Record{Op: Drain, Phase: Invoke})
	w.draining = true
	for _, g := range w.groups {
		for _, e := range g.at {
			e.hidden = false
		}
		for tries := 0; !g.finished(); tries++ {
			if tries == 0 || tries > 10 {
				w.now += simLease // whoever has something still
			}
			g.pollOnce("fresh", func() bool { return true }, true)
			if tries == 1000 {
				panic("the simulated group never ends")
			}
		}
	}
	w.end(n, OK)
	for _, name := range []string{"a.orders.v1", "b.orders.v1"} {
		t := w.topic[name]
		w.note(Record{Op: Stored, Phase: OK, Topic: t.name, Messages: slices.Concat(t.log[0], t.log[1])})
	}
	for _, g := range w.groups {
		g.sample(true)
		var dead []Message
		for _, e := range g.sorted() {
			if e.dead {
				m := e.m
				m.Attempt = e.attempt
				dead = append(dead, m)
			}
		}
		w.note(Record{Op: Dead, Phase: OK, Topic: g.topic.name, Group: g.name, Messages: g.misplace(dead)})
	}
	w.catchUp(w.topic["a.orders.v1"], "reader")
}

// misplace plants what is wrong with a dead queue.
func (g *simGroup) misplace(dead []Message) []Message {
	for i, m := range dead {
		switch {
		case m.ID.Seq%5 == 1 && g.plant("C20 not dead"): // poison: nobody acks it
			return slices.Delete(dead, i, i+1)
		case g.plant("C20 dead twice"):
			return append(dead, m)
		case !g.at[m.place()].buried && g.plant("C20 early"):
			dead[i].Attempt = g.spec.MaxAttempts - 1
		}
	}
	return dead
}

// producer publishes one message after the other; its keys are its own, so that their order is certain.
func (w *world) producer(t *simTopic, p int) iter.Seq[struct{}] {
	return func(yield func(struct{}) bool) {
		step := func() bool { return yield(struct{}{}) }
		for seq := 0; !w.closed; seq++ {
			m := Message{ID: ID{"run", p, seq}, Key: []string{"", "k", "l"}[w.r.IntN(3)], Tag: []string{"red", "blue", ""}[w.r.IntN(3)]}
			if m.Key != "" {
				m.Key += fmt.Sprint(p)
			}
			for again, first := true, true; again; {
				n := w.note(Record{Op: Publish, Phase: Invoke, Topic: t.name, Via: fmt.Sprint("gw", p), Messages: []Message{m}})
				if !step() {
					w.end(n, Info)
					return
				}
				again = w.publish(t, n, m, first)
				first = false
			}
		}
	}
}

// publish stores the message or not, says so or not, and reports whether the client tries again.
func (w *world) publish(t *simTopic, n int, m Message, first bool) (again bool) {
	switch {
	case first && w.plant("C5"):
		w.records[n-1].Broken = true
		m.Cut = true
		t.store(m)
		w.end(n, Fail)
		return false
	case w.faulty && w.chance(8):
		bad := first && w.plant("C3")
		if bad {
			t.store(m)
		}
		w.end(n, Fail)
		return !bad && w.chance(2)
	}
	if w.faulty && w.chance(8) {
		if w.chance(2) {
			t.store(m)
		}
		w.end(n, Info)
		return w.chance(2)
	}
	at := t.store(m)
	if first && w.plant("C7") {
		t.store(m)
	}
	if first && t == w.groups[0].topic && w.plant("C1") { // answered, and gone
		log := &t.log[at.Partition]
		*log = (*log)[:len(*log)-1]
	}
	if first && at.Offset > 0 && w.plant("C6") {
		at.Offset--
	}
	spooled := w.faulty && w.bug != "C6" && m.ID.Seq%8 == 3
	if first && w.plant("C23") { // spooled, and gone
		log := &t.log[at.Partition]
		*log, spooled = (*log)[:len(*log)-1], true
	}
	if spooled {
		at = m
		at.Nowhere = true
	}
	w.end(n, OK, at)
	return false
}

func (t *simTopic) store(m Message) Message {
	m.Partition = int32(m.ID.Producer+len(m.Key)) % 2
	m.Offset = t.next[m.Partition]
	t.next[m.Partition]++
	t.log[m.Partition] = append(t.log[m.Partition], m)
	return m
}

// reader follows the topic without a group, over connections that break.
func (w *world) reader(t *simTopic, name string) iter.Seq[struct{}] {
	return func(yield func(struct{}) bool) {
		for yield(struct{}{}) {
			w.catchUp(t, name)
		}
	}
}

func (w *world) catchUp(t *simTopic, name string) {
	var next [2]int
	for _, r := range w.records {
		if r.Op == Chunk && r.Client == name {
			for _, m := range r.Messages {
				next[m.Partition] = slices.IndexFunc(t.log[m.Partition], func(l Message) bool { return l.Offset == m.Offset }) + 1
			}
		}
	}
	var got []Message
	for p, log := range t.log {
		got = append(got, log[next[p]:]...)
	}
	if len(got) == 0 {
		return
	}
	if len(got) > 1 && got[0].Partition == got[1].Partition && w.plant("C12 missed") {
		got = got[1:]
	}
	if w.plant("C12 repeated") {
		got = append(got, got[0])
	}
	n := w.note(Record{Op: Stream, Phase: Invoke, Topic: t.name, Client: name})
	w.note(Record{Op: Chunk, Phase: OK, Of: n, Topic: t.name, Client: name, Messages: got})
	w.end(n, OK)
}

// killer ends the gateway now and then: what was not committed is forgotten.
func (w *world) killer() iter.Seq[struct{}] {
	return func(yield func(struct{}) bool) {
		for yield(struct{}{}) {
			if !w.chance(4) {
				continue
			}
			n := w.note(Record{Op: Fault, Phase: Invoke, Unclean: true, Note: "kill -9"})
			for _, g := range w.groups {
				g.crash()
			}
			if !yield(struct{}{}) {
				return
			}
			w.end(n, OK)
		}
	}
}
