package test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kateway/kateway/test/checker"
)

// A storm is load on one topic: producers, groups with members of every kind, readers without a group, and faults. All they
// do goes into a history, which is judged when everything is healed, drained and read beside the gateway.
type storm struct {
	t      *testing.T
	seed   uint64
	h      *checker.History
	run    string
	app    string
	topic  string
	ground ground
	doors  atomic.Pointer[[]door] // where clients go
	man    atomic.Pointer[client] // a management API
	groups []*party

	mu       sync.Mutex
	failed   []string // answers that no client should ever get
	faults   int
	stocks   int
	produced atomic.Int64 // publishes answered 2xx
	strict   bool         // a connection that fails is a failed request too

	load, members crew
}

// door is an address that clients go to: of a gateway, of a proxy before it, or of a load balancer before many.
type door struct{ name, base string }

// party is a group, and what is promised to it.
type party struct {
	name string
	spec checker.Spec
}

// crew is goroutines that end together. The zero value is ready.
type crew struct {
	once sync.Once
	ctx  context.Context //nolint:containedctx // it is the crew's life
	stop context.CancelFunc
	wg   sync.WaitGroup
}

func (c *crew) life(t *testing.T) context.Context {
	c.once.Do(func() {
		c.ctx, c.stop = context.WithCancel(context.Background())
		t.Cleanup(c.end)
	})
	return c.ctx
}

func (c *crew) end() {
	if c.stop != nil {
		c.stop()
	}
	c.wg.Wait()
}

// newStorm makes a topic for it. KATEWAY_TEST_SEED makes the same choices again, as far as the machine lets it.
func newStorm(t *testing.T, app, topic string, g ground, partitions, maxAttempts int, first *gateway) *storm {
	t.Helper()
	s := &storm{t: t, seed: uint64(time.Now().UnixNano()), h: checker.NewHistory(), app: app, topic: topic, ground: g}
	if v := os.Getenv("KATEWAY_TEST_SEED"); v != "" {
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			t.Fatalf("KATEWAY_TEST_SEED=%q: %v", v, err)
		}
		s.seed = n
	}
	t.Logf("seed %d", s.seed)
	s.run = fmt.Sprintf("%x", s.seed)
	s.enter(first)
	first.manager().send(http.StatusCreated, "POST", "/v1/topics",
		map[string]any{"app": app, "topic": topic, "ver": "v1", "partitions": partitions, "replicas": 1, "max_attempts": maxAttempts})
	return s
}

// enter sends clients to these gateways from now on.
func (s *storm) enter(gateways ...*gateway) {
	var doors []door
	for i, g := range gateways {
		doors = append(doors, door{fmt.Sprintf("gw%d", i+1), g.pub})
	}
	s.doors.Store(&doors)
	s.man.Store(gateways[0].manager())
}

// random is a source of its own for each who uses it.
func (s *storm) random(name string) *rand.Rand {
	var sum uint64
	for _, b := range []byte(name) {
		sum = sum*31 + uint64(b)
	}
	return rand.New(rand.NewPCG(s.seed, sum))
}

// inStore is the topic's name there.
func (s *storm) inStore() string { return s.app + "." + s.topic + ".v1" }

func (p *party) inStore(s *storm) string { return s.app + "." + p.name + "." + s.inStore() }

func (p *party) queue(s *storm, q string) string {
	return s.inStore() + "." + s.app + "." + p.name + "." + q
}

// party declares a group.
func (s *storm) party(name string, spec checker.Spec) *party {
	if spec.Lease == 0 {
		spec.Lease = 30 * time.Second
	}
	p := &party{name, spec}
	s.groups = append(s.groups, p)
	s.h.Note(checker.Record{Op: checker.Declare, Phase: checker.OK, Topic: s.inStore(), Group: name, Spec: &spec})
	return p
}

// fault notes that one begins; the answer notes its end. It hits all, or the client named.
func (s *storm) fault(what, client string, unclean bool) (heal func()) {
	s.mu.Lock()
	s.faults++
	s.mu.Unlock()
	n := s.h.Note(checker.Record{Op: checker.Fault, Phase: checker.Invoke, Client: client, Unclean: unclean, Note: what})
	return func() { s.h.End(n, checker.OK, what) }
}

// fail notes an answer that should not be.
func (s *storm) fail(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = append(s.failed, fmt.Sprintf(format, args...))
}

// broke notes a connection that failed: that is an answer that should not be where there is always somebody to answer.
func (s *storm) broke(who string, err error) {
	if s.strict {
		s.fail("%s: %v", who, err)
	}
}

// noFailures fails the test when a request failed.
func (s *storm) noFailures() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, f := range s.failed {
		if i == 5 {
			s.t.Errorf("and %d more failed requests", len(s.failed)-i)
			return
		}
		s.t.Errorf("failed request: %s", f)
	}
}

// lag is how many messages the group has not done, as the management API says. Negative: nobody knows.
func (s *storm) lag(p *party) int {
	a, err := s.man.Load().do("GET", "/v1/groups/"+s.app+"/"+s.topic+"/v1/"+p.name, nil)
	if err != nil || a.StatusCode != http.StatusOK {
		return -1
	}
	var g struct {
		Lag int `json:"lag"`
	}
	if json.Unmarshal(a.body, &g) != nil {
		return -1
	}
	return g.Lag
}

// idle waits until each group has done everything, and reports whether that came in time.
func (s *storm) idle(limit time.Duration) (left string, ok bool) {
	deadline := time.Now().Add(limit)
	for _, p := range s.groups {
		if some, ok := s.idleParty(p, time.Until(deadline)); !ok {
			left += some
		}
	}
	return left, left == ""
}

// idleParty is idle for one group.
func (s *storm) idleParty(p *party, limit time.Duration) (left string, ok bool) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(limit)
	for n := s.lag(p); n != 0; n = s.lag(p) {
		if time.Now().After(deadline) {
			return fmt.Sprintf("%s: %d; ", p.name, n), false
		}
		<-tick.C
	}
	return "", true
}

// calm ends the load, lets the members finish what is there, and sends them away.
func (s *storm) calm() {
	s.load.end()
	if left, ok := s.idle(patience); !ok {
		s.t.Logf("the members leave with something undone: %s", left)
	}
	s.members.end()
}

// drain lets fresh members do what is left.
func (s *storm) drain() {
	n := s.h.Note(checker.Record{Op: checker.Drain, Phase: checker.Invoke})
	var fresh crew
	for _, p := range s.groups {
		for i := range 2 {
			s.join(&fresh, p, habit{name: fmt.Sprintf("fresh%d", i), kind: "lines", batch: 100, wait: "500ms"})
		}
	}
	left, ok := s.idle(2 * patience)
	fresh.end()
	if ok {
		s.h.End(n, checker.OK, "")
	} else {
		s.h.End(n, checker.Fail, left)
	}
}

// judge reads the truth, with all gateways stopped where the store asks for that, and fails the test for each anomaly.
func (s *storm) judge(limits checker.Limits, stop ...*gateway) *checker.Report {
	s.t.Helper()
	for _, g := range stop {
		g.stop()
	}
	s.truth()
	records := s.h.Records()
	r := checker.Check(records, limits)
	s.t.Logf("%d faults, %d records: %v", s.faults, len(records), r)
	if len(r.Anomalies) > 0 {
		s.t.Errorf("%d anomalies; the history is in %s", len(r.Anomalies), s.dump(records))
	}
	return r
}

// dump keeps the history of a run that failed.
func (s *storm) dump(records []checker.Record) string {
	dir := os.Getenv("KATEWAY_TEST_HISTORY")
	if dir == "" {
		dir = os.TempDir()
	}
	f, err := os.Create(filepath.Join(dir, fmt.Sprintf("kateway-%s-%s.jsonl", appOf(s.t), s.run)))
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if err := checker.Dump(f, records); err != nil {
		return err.Error()
	}
	return f.Name()
}

// stormTime is how long a storm blows: short by default, longer by KATEWAY_TEST_STORM=3m.
func stormTime(t *testing.T, short time.Duration) time.Duration {
	t.Helper()
	v := os.Getenv("KATEWAY_TEST_STORM")
	if v == "" {
		return short
	}
	d, err := time.ParseDuration(v)
	if err != nil {
		t.Fatalf("KATEWAY_TEST_STORM=%q: %v", v, err)
	}
	return max(d, short)
}

// blow lets so much time pass, or less when the test ends.
func (s *storm) blow(d time.Duration) {
	select {
	case <-time.After(d):
	case <-s.t.Context().Done():
	}
}

// waitProduced waits until n more messages are stored: the load is really there.
func (s *storm) waitProduced(n int64) {
	s.t.Helper()
	from := s.produced.Load()
	waitFor(s.t, fmt.Sprintf("%d more messages", n), func() bool { return s.produced.Load() >= from+n })
}
