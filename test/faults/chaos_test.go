package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/kateway/kateway/test/checker"
	"github.com/kateway/kateway/test/storm"
)

const (
	app = "chaos"

	// killWindow is how many messages of a partition that were acked may come again after a fault that is not clean: what was
	// acked since the last commit, and no more than a group's window.
	killWindow = 4096

	producers = 6
	pause     = 100 * time.Millisecond // of a producer between two requests

	// progress is how soon after the end of a fault each gateway must store again.
	progress = 60 * time.Second
)

// chaos is one run: rounds of load with one fault after the other, each with a topic of its own, healed, drained and judged at
// its end, so that what has to be remembered is bounded.
type chaos struct {
	*site
	r      *rand.Rand
	seed   uint64
	keeper *zk.Conn
	storm  *storm.Storm // of this round
	deck   []fault
	count  int      // of faults
	weakly [][2]int // from and to where in the history too few replicas were there
	tally  map[string]*tally
	rounds []round
	begun  time.Time
}

// tally is what is told of a kind of fault.
type tally struct {
	hits    int
	slowest time.Duration // from its end to when each gateway stores again
}

// TestFaults is the short run: a fixed set of faults. KATEWAY_TEST_CHAOS=60m goes through all of them again and again, and
// KATEWAY_TEST_CHAOS_REPORT names the file for its report.
func TestFaults(t *testing.T) {
	v := os.Getenv("KATEWAY_TEST_CHAOS")
	if v == "" {
		c := newChaos(t)
		c.deck = c.named("broker: kill -9 of a leader", "gateway: kill -9", "network: gateway does not reach a broker",
			"zookeeper: kill -9 of the leader", "gateway: new process by SIGUSR2", "broker: two of three killed", "client: answers cut")
		c.round(len(c.deck), 10*time.Minute)
		return
	}
	d, err := time.ParseDuration(v)
	if err != nil {
		t.Fatalf("KATEWAY_TEST_CHAOS=%q: %v", v, err)
	}
	c := newChaos(t)
	defer c.report(d)
	for time.Since(c.begun) < d && !t.Failed() {
		c.round(1000, min(4*time.Minute, max(d-time.Since(c.begun), 30*time.Second)))
	}
	for _, f := range table() {
		if c.tally[f.name] == nil && d >= 30*time.Minute {
			t.Errorf("%s never happened", f.name)
		}
	}
}

func newChaos(t *testing.T) *chaos {
	t.Helper()
	c := &chaos{site: newSite(t), seed: uint64(time.Now().UnixNano()), tally: map[string]*tally{}}
	if v := os.Getenv("KATEWAY_TEST_SEED"); v != "" {
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			t.Fatalf("KATEWAY_TEST_SEED=%q: %v", v, err)
		}
		c.seed = n
	}
	t.Logf("seed %d, %d processors", c.seed, runtime.NumCPU())
	c.r = rand.New(rand.NewPCG(c.seed, 1))
	keeper, _, err := zk.Connect(c.zk.Addrs(), 10*time.Second, zk.WithLogInfo(false), zk.WithLogger(quiet{}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(keeper.Close)
	c.keeper = keeper
	if err := c.topic("probe", 3); err != nil {
		t.Fatal(err)
	}
	c.begun = time.Now()
	return c
}

type quiet struct{}

func (quiet) Printf(string, ...any) {}

// named are the faults of these names.
func (c *chaos) named(names ...string) (list []fault) {
	all := table()
	for _, n := range names {
		i := slices.IndexFunc(all, func(f fault) bool { return f.name == n })
		list = append(list, all[i])
	}
	return list
}

// next draws a fault; each comes once before any comes again.
func (c *chaos) next() fault {
	if len(c.deck) == 0 {
		c.deck = table()
		c.r.Shuffle(len(c.deck), func(i, j int) { c.deck[i], c.deck[j] = c.deck[j], c.deck[i] })
	}
	f := c.deck[0]
	c.deck = c.deck[1:]
	return f
}

func (c *chaos) gateway() *gateway { return c.gateways[c.r.IntN(3)] }
func (c *chaos) broker() *host     { return c.brokers[c.r.IntN(3)] }

// hold lets a fault last so many seconds, about.
func (c *chaos) hold(least, most int) {
	d := time.Duration(least)*time.Second + time.Duration(c.r.Int64N(int64(time.Duration(most-least)*time.Second)))
	c.storm.Blow(d)
}

// round puts load on a topic of its own, breaks up to n things for so long, heals, drains and judges.
func (c *chaos) round(n int, d time.Duration) {
	topic := fmt.Sprint("round-", len(c.rounds)+1)
	if err := c.topic(topic, 4); err != nil {
		c.t.Fatal(err)
	}
	c.weakly = nil
	c.storm = storm.New(c.t, storm.Config{App: app, Topic: topic, Ground: storm.KafkaGround(c.kafka.Addrs()), Seed: c.seed + uint64(len(c.rounds))})
	c.storm.Keyed, c.storm.Limit = true, 5*time.Minute
	c.storm.Enter(c.gateways[0].web.Base, c.doors()...)
	for _, mode := range []string{"fifo", "queue", "key"} {
		p := c.storm.Party(mode, checker.Spec{Mode: mode, Explicit: true, Lease: 10 * time.Second, MaxAttempts: 1000})
		for i, kind := range storm.Kinds(true) {
			c.storm.Join(&c.storm.Members, p, storm.Habit{Name: fmt.Sprint(kind, i), Kind: kind, Rotate: true})
		}
	}
	c.storm.Watch(time.Second)
	c.storm.Producers(producers, pause)
	c.storm.WaitProduced(50)
	begun := time.Now()
	faults := 0
	for ; faults < n && time.Since(begun) < d && !c.t.Failed(); faults++ {
		c.strike(c.next())
	}
	c.finish(faults, begun)
}

// strike has one fault happen, and waits until all is well again.
func (c *chaos) strike(f fault) {
	c.count++
	heal := c.storm.Fault(f.name, "", f.unclean)
	begun := time.Now()
	err := f.run(c)
	healed := time.Now()
	if err != nil {
		heal()
		c.t.Errorf("%s: %v", f.name, err)
		return
	}
	err = c.well()
	heal()
	back := time.Since(healed)
	c.t.Logf("%s for %v, well again after %v", f.name, healed.Sub(begun).Round(time.Second), back.Round(10*time.Millisecond))
	if err != nil {
		c.t.Errorf("after %q: %v", f.name, err)
	}
	k := c.tally[f.name]
	if k == nil {
		k = &tally{}
		c.tally[f.name] = k
	}
	k.hits++
	k.slowest = max(k.slowest, back)
	if err := until(3*time.Minute, "all replicas to be in sync", c.inSync); err != nil {
		c.t.Errorf("after %q: %v", f.name, err)
	}
	c.storm.WaitProduced(20)
}

// well waits until each gateway runs and stores again.
func (c *chaos) well() error {
	deadline := time.Now().Add(progress)
	for _, g := range c.gateways {
		said := ""
		web := &storm.Client{HTTP: g.web.HTTP, Base: g.door().Base, App: app}
		err := until(time.Until(deadline), g.name+" to store", func() bool {
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			a, err := web.Exchange(ctx, http.MethodPost, "/v1/msgs/probe/v1", strings.NewReader("x"))
			if err != nil {
				said = err.Error()
				return false
			}
			said = a.String()
			return a.StatusCode == http.StatusCreated
		})
		if !alive(g.process()) {
			return fmt.Errorf("%s has ended by itself\n%s", g.name, tail(g.log))
		}
		if err != nil {
			return fmt.Errorf("%w: %s\n%s", err, said, tail(g.log))
		}
	}
	return nil
}

// finish heals, drains and judges.
func (c *chaos) finish(faults int, begun time.Time) {
	took := time.Since(begun)
	for _, g := range c.gateways {
		left := 0
		err := until(3*time.Minute, "the spool of "+g.name+" to be empty", func() bool { left = g.spooled(); return left == 0 })
		if err != nil {
			c.t.Errorf("%v: %d messages wait\n%s", err, left, tail(g.log))
		}
	}
	c.storm.Calm()
	drain := time.Now()
	c.storm.Drain()
	drained := time.Since(drain)
	r := c.storm.Judge(checker.Limits{Window: killWindow, Stall: 90 * time.Second})
	records := c.storm.H.Records()
	c.strong(records)
	c.note(round{took: took, drained: drained, faults: faults, report: r}, records)
}

// strong checks that nothing was answered as stored that began and ended while too few replicas were there.
func (c *chaos) strong(records []checker.Record) {
	for _, w := range c.weakly {
		stored := 0
		for _, r := range records[w[0]:w[1]] {
			for _, m := range r.Messages {
				if r.Op == checker.Publish && r.Of > w[0] && r.Phase == checker.OK && !m.Nowhere {
					stored++
				}
			}
		}
		if stored > 0 {
			c.t.Errorf("with one replica of three %d messages were answered 201", stored)
		}
	}
}

// tail is the end of a file.
func tail(file string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-6000):])
}
