package sim

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/kateway/kateway/group"
)

// plan is all that a seed decides before anything runs.
type plan struct {
	partitions int32
	machines   int
	known      int // 1: gateways know how many partitions the topic has
	groups     []groupPlan
	producers  []producerPlan
	faults     []faultPlan
	load       time.Duration
}

type groupPlan struct {
	name     string
	mode     group.Mode
	lease    time.Duration
	attempts int
	clients  []clientPlan
}

type clientPlan struct {
	stream bool
	batch  int
	// Of a hundred messages. What is left is acked.
	nack, later, bury, extend, never, stale int
	lose                                    int // of a hundred answers, that never arrive
	pause                                   time.Duration
}

type producerPlan struct {
	machine  int
	messages int
	keys     int
	once     bool
	pause    time.Duration
}

type faultPlan struct {
	kind    string
	at, dur time.Duration
	a, b    int // machines
	group   int
	power   int // file operations until the power goes
}

// kinds are the faults that there are. The second is whether what was acked may come again by it.
var kinds = map[string]bool{
	"store away": true, "store unsure": false, "slow store": false, "commit refused": true, "partitions taken": true,
	"registry away": false, "session expired": false, "network cut": false, "kill": true, "power cut": true, "stop": false,
}

func draw(seed uint64) *plan {
	r := rand.New(rand.NewPCG(seed, 1))
	p := &plan{partitions: 1 + r.Int32N(4), machines: 1 + r.IntN(3), known: r.IntN(2), load: time.Duration(8+r.IntN(12)) * time.Second}
	for i := range 1 + r.IntN(2) {
		p.groups = append(p.groups, drawGroup(r, fmt.Sprintf("g%d", i)))
	}
	for range 1 + r.IntN(3) {
		p.producers = append(p.producers, producerPlan{
			machine: r.IntN(p.machines), messages: 5 + r.IntN(30), keys: 1 + r.IntN(3), once: r.IntN(3) == 0, pause: time.Duration(50+r.IntN(600)) * time.Millisecond,
		})
	}
	for range r.IntN(5) {
		f := drawFault(r, p)
		p.faults = append(p.faults, f)
		if f.kind == "power cut" && r.IntN(3) > 0 { // so that the spool is being written
			away := faultPlan{kind: "store away", at: max(f.at-500*time.Millisecond, 0), dur: time.Duration(1+r.IntN(5)) * time.Second}
			p.faults = append(p.faults, away)
		}
	}
	return p
}

func drawGroup(r *rand.Rand, name string) groupPlan {
	g := groupPlan{name: name, mode: []group.Mode{group.Fifo, group.Queue, group.ByKey}[r.IntN(3)], lease: time.Duration(3+r.IntN(6)) * time.Second, attempts: 3 + r.IntN(4)}
	for range 1 + r.IntN(3) {
		c := clientPlan{stream: r.IntN(2) == 0, batch: 1 + r.IntN(12), pause: time.Duration(r.IntN(400)) * time.Millisecond}
		if r.IntN(3) > 0 {
			c.nack, c.later, c.bury, c.extend, c.never, c.stale, c.lose = r.IntN(15), r.IntN(6), r.IntN(5), r.IntN(10), r.IntN(10), r.IntN(10), r.IntN(15)
		}
		g.clients = append(g.clients, c)
	}
	return g
}

func drawFault(r *rand.Rand, p *plan) faultPlan {
	f := faultPlan{at: time.Duration(r.Int64N(int64(p.load))), a: r.IntN(p.machines), group: r.IntN(len(p.groups)), power: 1 + r.IntN(12)}
	f.dur = []time.Duration{200 * time.Millisecond, time.Second, 4 * time.Second, 8 * time.Second}[r.IntN(4)] + time.Duration(r.Int64N(int64(time.Second)))
	f.b = (f.a + 1 + r.IntN(max(p.machines-1, 1))) % p.machines
	of := []string{"store away", "store away", "store unsure", "slow store", "commit refused", "partitions taken", "registry away", "session expired", "kill", "power cut", "power cut", "stop", "network cut"}
	f.kind = of[r.IntN(len(of))]
	if f.kind == "network cut" && p.machines == 1 {
		f.kind = "kill"
	}
	if f.kind == "power cut" && r.IntN(2) == 0 {
		f.power = 1 + r.IntN(200)
	}
	return f
}

func (p *plan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d partitions, %d gateways (partitions known: %d), %v of load\n", p.partitions, p.machines, p.known, p.load)
	for _, g := range p.groups {
		fmt.Fprintf(&b, "group %+v\n", g)
	}
	for i, q := range p.producers {
		fmt.Fprintf(&b, "producer %d %+v\n", i, q)
	}
	for _, f := range p.faults {
		fmt.Fprintf(&b, "fault %+v\n", f)
	}
	return b.String()
}
