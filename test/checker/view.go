package checker

import (
	"slices"
	"strings"
	"time"
)

// never is an N that no record has reached.
const never = int(^uint(0) >> 1)

// view is a history by what the rules ask of it.
type view struct {
	records []Record
	sent    map[ID]*publish
	topics  map[string]*topic
	groups  []*group
	readers []*reader
	unclean []int // the N of faults after which acks may be forgotten
	unsure  bool  // of a message that went to a queue nobody may know that it is there
	faults  []fault
	drained []Record // how drains ended
	last    int      // the N of the last record
}

// fault is from when it begins to when it has ended; client is the only one that it hits, "" where it may hit all.
type fault struct {
	begun, ended int // N
	to           time.Duration
	client       string
	unclean      bool
}

// publish is all attempts to publish one message.
type publish struct {
	id       ID
	topic    string
	key, tag string
	attempts []attempt
	once     bool
	broken   bool
}

type attempt struct {
	begun, ended int // N; ended is never while nobody knows
	phase        Phase
	via          string
	at           place // of OK; where it was spooled, where the store has it, a partition of -1 for nowhere
	spooled      bool
	of           int // the N of the Invoke
}

// place is where a message is in its topic.
type place struct {
	partition int32
	offset    int64
}

func (m Message) place() place { return place{m.Partition, m.Offset} }

// outcome is what is known of the message: OK where one attempt was, Fail where all were refused.
func (p *publish) outcome() Phase {
	all := Fail
	for _, a := range p.attempts {
		switch a.phase {
		case OK:
			return OK
		case Fail:
		default:
			all = Info
		}
	}
	return all
}

// topic is the ground truth of one.
type topic struct {
	known  bool // the store was read
	stored map[ID][]place
	at     map[place]ID
	log    map[int32][]int64 // offsets, ascending
}

// delivery is a message in a client's hands.
type delivery struct {
	Message
	n      int // of the record with it
	open   int // of the poll or stream that brought it
	client string
	at     time.Duration
	whole  bool
}

// verb is what a client said of a delivery.
type verb struct {
	op           Op
	begun, ended int
	phase        Phase
	client       string
	m            Message
}

// group is a group on a topic.
type group struct {
	topic, name string
	spec        Spec
	got         []*delivery
	byID        map[ID][]*delivery
	byPlace     map[place][]*delivery
	byReceipt   map[string]*delivery // the first with it
	reissued    [][2]*delivery       // the first, and a later one with the same receipt
	verbs       []verb
	through     []verb
	seeks       []int
	commits     []Record
	dead, retry map[place][]Message
	closed      map[int]int // by the N of what opened it: when it was over
	first       map[int]int // by the N of an Invoke: its first entry in verbs or through
}

// reader reads without a group, over as many connections as it likes.
type reader struct {
	topic, client string
	spec          Spec
	got           []*delivery
}

func newView(records []Record) *view {
	v := &view{records: records, sent: map[ID]*publish{}, topics: map[string]*topic{}}
	for i := range records {
		v.last = max(v.last, records[i].N)
		switch records[i].Op {
		case Publish:
			v.publish(&records[i])
		case Stored:
			v.truth(&records[i])
		case Fault:
			v.fault(&records[i])
		case Drain:
			if records[i].Phase != Invoke {
				v.drained = append(v.drained, records[i])
			}
		default:
		}
	}
	v.unspool()
	v.follow()
	return v
}

// unspool finds where the store has what was spooled.
func (v *view) unspool() {
	for _, p := range v.sent {
		for i := range p.attempts {
			if a := &p.attempts[i]; a.spooled {
				a.at = place{-1, -1}
				if t := v.topics[p.topic]; t != nil && len(t.stored[p.id]) > 0 {
					a.at = t.stored[p.id][0]
				}
			}
		}
	}
}

// follow gives each group and reader what was read and said in its name.
func (v *view) follow() {
	groups, readers := map[string]*group{}, map[string]*reader{}
	for i := range v.records {
		r := &v.records[i]
		g, n := groups[r.Topic+" "+r.Group], readers[r.Client]
		switch {
		case r.Op == Declare && r.Group == "":
			n = &reader{topic: r.Topic, client: r.Client, spec: *r.Spec}
			readers[r.Client], v.readers = n, append(v.readers, n)
		case r.Op == Declare:
			g = newGroup(r)
			groups[r.Topic+" "+r.Group], v.groups = g, append(v.groups, g)
		case g != nil && (r.Op == Poll || r.Op == Stream || r.Op == Chunk):
			g.read(v, r)
		case g != nil:
			g.note(r)
		case n != nil && r.Group == "":
			n.got = append(n.got, v.deliveries(r)...)
		}
	}
}

func newGroup(r *Record) *group {
	return &group{
		topic: r.Topic, name: r.Group, spec: *r.Spec, byID: map[ID][]*delivery{}, byPlace: map[place][]*delivery{}, byReceipt: map[string]*delivery{},
		dead: map[place][]Message{}, retry: map[place][]Message{}, closed: map[int]int{}, first: map[int]int{},
	}
}

func (v *view) publish(r *Record) {
	for _, m := range r.Messages {
		p := v.sent[m.ID]
		if p == nil {
			p = &publish{id: m.ID, topic: r.Topic, key: m.Key, tag: m.Tag}
			v.sent[m.ID] = p
		}
		if r.Phase == Invoke {
			p.attempts = append(p.attempts, attempt{begun: r.N, ended: never, phase: Info, via: r.Via, of: r.N})
			p.once, p.broken = p.once || r.Once, p.broken || r.Broken
			continue
		}
		for i := range p.attempts {
			if a := &p.attempts[i]; a.of == r.Of {
				a.phase, a.at, a.spooled = r.Phase, m.place(), m.Nowhere
				if r.Phase != Info {
					a.ended = r.N
				}
			}
		}
	}
}

func (v *view) truth(r *Record) {
	t := v.topics[r.Topic]
	if t == nil {
		t = &topic{stored: map[ID][]place{}, at: map[place]ID{}, log: map[int32][]int64{}}
		v.topics[r.Topic] = t
	}
	t.known = true
	for _, m := range r.Messages {
		if m.Wrong == "" || m.Cut {
			t.stored[m.ID] = append(t.stored[m.ID], m.place())
		}
		t.at[m.place()] = m.ID
		t.log[m.Partition] = append(t.log[m.Partition], m.Offset)
	}
	for _, log := range t.log {
		slices.Sort(log)
	}
}

func (v *view) fault(r *Record) {
	if r.Phase == Invoke {
		v.faults = append(v.faults, fault{begun: r.N, ended: r.N, to: r.At, client: r.Client, unclean: r.Unclean})
		if r.Unclean {
			v.unclean = append(v.unclean, r.N)
		}
		v.unsure = v.unsure || r.Unsure
		return
	}
	for i := range v.faults {
		if f := &v.faults[i]; f.begun == r.Of {
			f.ended, f.to = r.N, r.At
		}
	}
}

// deliveries are those of a poll's end or a chunk.
func (v *view) deliveries(r *Record) (list []*delivery) {
	if r.Phase == Invoke || r.Op != Poll && r.Op != Chunk {
		return nil
	}
	for _, m := range r.Messages {
		if m.Nowhere {
			m.Partition, m.Offset = v.locate(r.Topic, m.ID)
		}
		list = append(list, &delivery{Message: m, n: r.N, open: r.Of, client: r.Client, at: r.At, whole: !m.Partial})
	}
	return list
}

// locate is where the message is as far as anybody knows; a partition of -1 is nowhere.
func (v *view) locate(topic string, id ID) (partition int32, offset int64) {
	if t := v.topics[topic]; t != nil && len(t.stored[id]) > 0 {
		return t.stored[id][0].partition, t.stored[id][0].offset
	}
	if p := v.sent[id]; p != nil {
		for _, a := range p.attempts {
			if a.phase == OK && !a.spooled {
				return a.at.partition, a.at.offset
			}
		}
	}
	return -1, int64(id.Producer)<<32 | int64(id.Seq)
}

func (g *group) read(v *view, r *Record) {
	for _, d := range v.deliveries(r) {
		g.got = append(g.got, d)
		if d.whole {
			g.byID[d.ID] = append(g.byID[d.ID], d)
		}
		g.byPlace[d.place()] = append(g.byPlace[d.place()], d)
		if d.Receipt != "" && d.whole {
			if first := g.byReceipt[d.Receipt]; first == nil {
				g.byReceipt[d.Receipt] = d
			} else {
				g.reissued = append(g.reissued, [2]*delivery{first, d})
			}
		}
	}
	if r.Op == Stream && r.Phase != Invoke {
		g.closed[r.Of] = r.N
	}
}

// note takes a record of the group that is no delivery.
func (g *group) note(r *Record) {
	switch r.Op {
	case Seek:
		if r.Phase == Invoke {
			g.seeks = append(g.seeks, r.N)
		}
	case Committed:
		if r.Phase == OK {
			g.commits = append(g.commits, *r)
		}
	case Dead, Retry:
		queue := g.dead
		if r.Op == Retry {
			queue = g.retry
		}
		for _, m := range r.Messages {
			queue[m.place()] = append(queue[m.place()], m)
		}
	case Ack, Nack, Extend, Bury, Through:
		g.say(r)
	}
}

func (g *group) say(r *Record) {
	list := &g.verbs
	if r.Op == Through {
		list = &g.through
	}
	if r.Phase == Invoke {
		g.first[r.N] = len(*list)
		for _, m := range r.Messages {
			*list = append(*list, verb{op: r.Op, begun: r.N, ended: never, phase: Info, client: r.Client, m: m})
		}
		return
	}
	for _, m := range r.Messages {
		for i := g.first[r.Of]; i < len(*list) && (*list)[i].begun == r.Of; i++ {
			if w := &(*list)[i]; w.m.Receipt == m.Receipt && w.m.place() == m.place() {
				w.phase, w.ended = r.Phase, r.N
			}
		}
	}
}

// wants reports whether a message with this tag is for the group.
func (s *Spec) wants(tag string) bool {
	if len(s.Tags) == 0 {
		return true
	}
	for _, t := range strings.FieldsFunc(tag, func(r rune) bool { return r == ';' || r == ',' }) {
		if slices.Contains(s.Tags, t) {
			return true
		}
	}
	return false
}

// moved reports whether the message of that place went to a queue of the group.
func (g *group) moved(at place) bool { return len(g.dead[at]) > 0 || len(g.retry[at]) > 0 }

// between reports whether one of the sorted numbers lies in from < n < to.
func between(list []int, from, to int) bool {
	i, _ := slices.BinarySearch(list, from+1)
	return i < len(list) && list[i] < to
}

// ids are the published messages in the order of their first publish.
func (v *view) ids() []ID {
	ids := make([]ID, 0, len(v.sent))
	for id := range v.sent {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b ID) int { return v.sent[a].attempts[0].begun - v.sent[b].attempts[0].begun })
	return ids
}
