package sim

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/kateway/kateway/group"
	regmem "github.com/kateway/kateway/registry/mem"
	"github.com/kateway/kateway/store"
	"github.com/kateway/kateway/store/mem"
	"github.com/kateway/kateway/test/checker"
)

const topicName = "a.t.v1"

var secret = []byte(strings.Repeat("s", 32))

// world is one simulation: a store, a registry, a network, machines, and who uses them.
type world struct {
	t        *testing.T
	seed     uint64
	plan     *plan
	run      string
	mem      *mem.Store
	reg      *regmem.Registry
	net      *network
	h        *checker.History
	machines []*machine
	bugs     bugs
	log      *slog.Logger
	begun    time.Time
	spooled  atomic.Int64

	calm    context.Context // ends when the faults are over
	forever context.Context // ends with the simulation
	wg      sync.WaitGroup  // of what has to end before it does

	mu      sync.Mutex
	over    map[string]int // kinds of weather, and how many faults make it
	counts  map[string]int // what has happened, by kind
	decided []string       // the trace
	failed  []string       // what should not be, beside anomalies
}

func (g *groupPlan) key() group.Key { return group.Key{Topic: topicName, Group: g.name} }

func (w *world) policy(key group.Key) group.Policy {
	for _, g := range w.plan.groups {
		if g.name == key.Group {
			return group.Policy{MaxAttempts: g.attempts, Retry: g.queue("retry"), Dead: g.queue("dead")}
		}
	}
	return group.Policy{}
}

func (g *groupPlan) queue(q string) string { return topicName + "." + g.name + "." + q }

// random is a source of its own for each who uses it, so that nobody's choices depend on what the others do.
func (w *world) random(name string) *rand.Rand {
	h := fnv.New64a()
	_, _ = io.WriteString(h, name)
	return rand.New(rand.NewPCG(w.seed, h.Sum64()))
}

// trace notes what was done to the world, and when.
func (w *world) trace(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.decided = append(w.decided, fmt.Sprintf("%9.3fs ", time.Since(w.begun).Seconds())+fmt.Sprintf(format, args...))
}

// fail notes what should not be.
func (w *world) fail(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failed = append(w.failed, fmt.Sprintf(format, args...))
}

// happened counts a fault that took effect.
func (w *world) happened(kind string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts[kind]++
}

func (w *world) note(r checker.Record) int { return w.h.Note(r) }

func (w *world) sky() weather {
	w.mu.Lock()
	defer w.mu.Unlock()
	return weather{away: w.over["store away"] > 0, unsure: w.over["store unsure"] > 0, slow: w.over["slow store"] > 0, stale: w.over["commit refused"] > 0}
}

func (w *world) change(kind string, by int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over[kind] += by
}

// registry is a session for a new process of the machine.
func (w *world) registry(string) *regmem.Registry { return w.reg.Join() }

// any is a gateway that serves, nil where there is none.
func (w *world) any(r *rand.Rand) *life {
	var up []*life
	for _, m := range w.machines {
		if l := m.current(); l != nil && l.up() {
			up = append(up, l)
		}
	}
	if len(up) == 0 {
		return nil
	}
	return up[r.IntN(len(up))]
}

func (l *life) up() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.serving && !l.link.dead.Load()
}

// simulate runs one seed. It is to be called in a bubble of synctest.
func simulate(t *testing.T, seed uint64, b bugs) (*world, *checker.Report) {
	w := &world{
		t: t, seed: seed, plan: draw(seed), run: fmt.Sprintf("%x", seed), mem: mem.New(), reg: regmem.New(), net: newNetwork(), h: checker.NewHistory(),
		bugs: b.withDefaults(), log: testLog(), begun: time.Now(), over: map[string]int{}, counts: map[string]int{},
	}
	var loaded, done context.CancelFunc
	w.calm, loaded = context.WithCancel(context.Background())
	w.forever, done = context.WithCancel(context.Background())
	if err := w.mem.CreateTopic(context.Background(), store.Topic{Name: topicName, Partitions: w.plan.partitions}); err != nil {
		t.Fatal(err)
	}
	for i := range w.plan.machines {
		w.machines = append(w.machines, &machine{w: w, id: fmt.Sprintf("gw%d", i+1), fs: vfs.NewCrashableMem()})
	}
	var booting sync.WaitGroup
	for _, m := range w.machines {
		booting.Go(m.boot)
	}
	booting.Wait()
	w.declare()
	w.load()
	loaded()
	w.drain()
	done()
	w.truth()
	for _, m := range w.machines {
		w.wg.Go(func() {
			l := m.current()
			if err := l.end(); err != nil {
				w.fail("%s did not end: %v", l.name, err)
			}
			l.unlist()
			l.wg.Wait()
		})
	}
	w.wg.Wait()
	_ = w.mem.Close(context.Background())
	return w, checker.Check(w.h.Records(), checker.Limits{Receipts: true, Window: 1000, Ends: time.Second, Stall: 45 * time.Second})
}

func (w *world) declare() {
	for _, g := range w.plan.groups {
		w.note(checker.Record{Op: checker.Declare, Phase: checker.OK, Topic: topicName, Group: g.name,
			Spec: &checker.Spec{Mode: string(g.mode), Explicit: true, Lease: g.lease, MaxAttempts: g.attempts}})
	}
}

// load is clients and faults, until all faults are over and the producers have nothing left to say.
func (w *world) load() {
	ctx, cancel := context.WithTimeout(context.Background(), w.plan.load)
	defer cancel()
	var members, rest sync.WaitGroup
	for i := range w.plan.groups {
		g := &w.plan.groups[i]
		for n, c := range g.clients {
			members.Go(func() { w.client(g, fmt.Sprint("client ", n), c).run(ctx) })
		}
	}
	for i := range w.plan.producers {
		rest.Go(func() { w.producer(i).run(ctx) })
	}
	for _, f := range w.plan.faults {
		rest.Go(func() {
			pause(w.forever, f.at)
			w.strike(f)
		})
	}
	rest.Wait()
	members.Wait()
}

// strike does a fault and heals it.
func (w *world) strike(f faultPlan) {
	m := w.machines[f.a]
	begin := func(what string) (end func()) {
		w.trace("%s begins", what)
		n := w.note(checker.Record{Op: checker.Fault, Phase: checker.Invoke, Unclean: kinds[f.kind], Unsure: f.kind == "store unsure", Note: what})
		return func() {
			w.trace("%s is over", what)
			w.h.End(n, checker.OK, what)
		}
	}
	switch f.kind {
	case "store away", "store unsure", "slow store", "commit refused":
		end := begin(f.kind)
		w.change(f.kind, 1)
		pause(w.forever, f.dur)
		w.change(f.kind, -1)
		end()
	case "partitions taken":
		end := begin(f.kind)
		w.mem.Evict(topicName, w.plan.groups[f.group].name)
		w.happened(f.kind)
		pause(w.forever, 200*time.Millisecond)
		end()
	case "registry away":
		end := begin("registry away from " + m.id)
		m.mu.Lock()
		m.blind = time.Now().Add(f.dur)
		m.mu.Unlock()
		w.happened(f.kind)
		pause(w.forever, f.dur)
		end()
	case "session expired":
		end := begin("session expired of " + m.id)
		w.reg.Expire(m.id)
		w.happened(f.kind)
		pause(w.forever, time.Second)
		end()
	case "network cut":
		w.part(f, begin)
	case "kill", "power cut", "stop":
		w.fell(f, m, begin)
	}
}

func (w *world) part(f faultPlan, begin func(string) func()) {
	a, b := w.machines[f.a].id, w.machines[f.b].id
	end := begin("network cut between " + a + " and " + b)
	before := w.net.lost()
	heal := w.net.partition(a, b)
	pause(w.forever, f.dur)
	heal()
	if w.net.lost() > before {
		w.happened(f.kind)
	}
	pause(w.forever, time.Second)
	end()
}

func (n *network) lost() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.swallowed
}

// fell takes a gateway down and starts it again.
func (w *world) fell(f faultPlan, m *machine, begin func(string) func()) {
	if !m.falling.CompareAndSwap(false, true) {
		return // another fault has it
	}
	defer m.falling.Store(false)
	l := m.current()
	var end func()
	strike := sync.OnceFunc(func() {
		end = begin(f.kind + " of " + l.name)
		if f.kind != "stop" {
			l.die(f.kind == "power cut")
		}
	})
	switch f.kind {
	case "stop":
		strike()
		l.leave()
	case "kill":
		strike()
		l.bury(false)
	default:
		if l.burn(f.power, strike) {
			w.happened("power cut in a write")
		}
		l.bury(true)
	}
	w.trace("%s is down", l.name)
	w.happened(f.kind)
	pause(w.forever, f.dur)
	m.boot()
	pause(w.forever, time.Second)
	end()
}

// drain has fresh members do what is left.
func (w *world) drain() {
	n := w.note(checker.Record{Op: checker.Drain, Phase: checker.Invoke})
	ctx, cancel := context.WithCancel(context.Background())
	var fresh sync.WaitGroup
	for i := range w.plan.groups {
		g := &w.plan.groups[i]
		fresh.Go(func() { w.client(g, "fresh", clientPlan{batch: 100}).run(ctx) })
	}
	var left string
	for began := time.Now(); ; {
		if left = w.left(); left == "" || time.Since(began) > 8*time.Minute {
			break
		}
		pause(w.forever, 200*time.Millisecond)
	}
	cancel()
	fresh.Wait()
	if left != "" {
		w.h.End(n, checker.Fail, left)
		return
	}
	w.h.End(n, checker.OK, "")
}

// left is what is not done yet.
func (w *world) left() (left string) {
	for _, m := range w.machines {
		if s := m.current().spool.SpoolStatus(); s.Messages > 0 {
			left += fmt.Sprintf("%d messages in the spool of %s; ", s.Messages, m.id)
		}
	}
	for _, g := range w.plan.groups {
		for _, of := range [][2]string{{topicName, g.name}, {g.queue("retry"), g.name + ".retry"}} {
			lags, err := w.mem.Lag(context.Background(), of[0], of[1])
			if err != nil {
				continue // there is no such queue
			}
			for _, l := range lags {
				if l.Lag() > 0 {
					left += fmt.Sprintf("%d of partition %d of %s for %s; ", l.Lag(), l.Partition, of[0], of[1])
				}
			}
		}
	}
	return left
}

// truth notes what the store has.
func (w *world) truth() {
	w.note(checker.Record{Op: checker.Stored, Phase: checker.OK, Topic: topicName, Messages: w.read(topicName)})
	for _, g := range w.plan.groups {
		w.note(checker.Record{Op: checker.Retry, Phase: checker.OK, Topic: topicName, Group: g.name, Messages: w.read(g.queue("retry"))})
		w.note(checker.Record{Op: checker.Dead, Phase: checker.OK, Topic: topicName, Group: g.name, Messages: w.read(g.queue("dead"))})
		lags, err := w.mem.Lag(context.Background(), topicName, g.name)
		r := checker.Record{Op: checker.Committed, Phase: checker.OK, Topic: topicName, Group: g.name}
		for _, l := range lags {
			if l.Committed >= 0 {
				r.Messages = append(r.Messages, checker.Message{Partition: l.Partition, Offset: l.Committed})
			}
		}
		if err == nil {
			w.note(r)
		}
	}
}

func (w *world) read(topic string) (list []checker.Message) {
	topics, _ := w.mem.Topics(context.Background())
	for _, t := range topics {
		for p := range t.Partitions {
			if t.Name != topic {
				continue
			}
			for m, err := range w.mem.Browse(context.Background(), topic, p, 0) {
				if err != nil {
					w.t.Fatal(err)
				}
				list = append(list, recorded(m))
			}
		}
	}
	return list
}

// observed is a message as a client saw it, with what is wrong with it.
func observed(m *store.Message) checker.Message {
	p, err := checker.Parse(m.Value)
	out := checker.Message{ID: p.ID, Partition: m.Partition, Offset: m.Offset, Key: string(m.Key)}
	switch {
	case errors.Is(err, checker.ErrTruncated):
		out.Cut = true
	case err != nil:
		out.Wrong = err.Error()
	case p.Key != out.Key:
		out.Wrong = fmt.Sprintf("it has key %q, and says %q", out.Key, p.Key)
	}
	return out
}

// recorded is a stored message; one of a queue with the place that it comes from.
func recorded(m *store.Message) checker.Message {
	out := observed(m)
	if o, ok := group.Origin(m); ok {
		out.Partition, out.Offset, out.Attempt, out.Cause = o.Partition, o.Offset, int(o.Attempts), o.Cause
	}
	return out
}
