// Package storm puts load on a topic of a gateway, over HTTP as its users do, and notes all that it does in a history for
// the checker. What runs the gateways, and what is done to them, is its caller's.
package storm

import (
	"cmp"
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

// Storm is load on one topic: producers, groups with members of every kind, readers without a group, and faults. All they
// do goes into a history, which is judged when everything is healed, drained and read beside the gateway.
type Storm struct {
	T        *testing.T
	seed     uint64
	H        *checker.History
	run      string
	App      string
	Topic    string
	ground   Ground
	doors    atomic.Pointer[[]Door] // where clients go
	managing *http.Client
	Man      atomic.Pointer[string] // the base URL of a management API
	Groups   []*Party

	mu       sync.Mutex
	Failed   []string // answers that no client should ever get
	Faults   int
	stocks   int
	Produced atomic.Int64  // publishes answered 2xx
	Keyed    bool          // every other producer sends idempotency keys, and repeats what has no answer
	Limit    time.Duration // of a drain; default 2*Patience
	Strict   bool          // a connection that fails is a failed request too

	Load, Members Crew
}

// Door is an address that clients go to: of a gateway, of a proxy before it, or of a load balancer before many.
type Door struct{ Name, Base string }

// Config is what a storm blows over.
type Config struct {
	App, Topic string // a topic that is there, in version v1
	Ground     Ground
	Seed       uint64 // 0: a new one, or that of KATEWAY_TEST_SEED
}

// Party is a group, and what is promised to it.
type Party struct {
	Name string
	spec checker.Spec
}

// Crew is goroutines that end together. The zero value is ready.
type Crew struct {
	once sync.Once
	ctx  context.Context //nolint:containedctx // it is the crew's life
	stop context.CancelFunc
	Wg   sync.WaitGroup
}

// Life begins it where it has not begun, and ends with it, with the test at the latest.
func (c *Crew) Life(t *testing.T) context.Context {
	c.once.Do(func() {
		c.ctx, c.stop = context.WithCancel(context.Background())
		t.Cleanup(c.End)
	})
	return c.ctx
}

// End tells all to end, and waits for them.
func (c *Crew) End() {
	if c.stop != nil {
		c.stop()
	}
	c.Wg.Wait()
}

// New makes a storm that has not begun. KATEWAY_TEST_SEED makes the same choices again, as far as the machine lets it.
func New(t *testing.T, c Config) *Storm {
	t.Helper()
	s := &Storm{T: t, seed: c.Seed, H: checker.NewHistory(), App: c.App, Topic: c.Topic, ground: c.Ground, managing: NewHTTP(t)}
	if s.seed == 0 {
		s.seed = uint64(time.Now().UnixNano())
	}
	if v := os.Getenv("KATEWAY_TEST_SEED"); v != "" && c.Seed == 0 {
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			t.Fatalf("KATEWAY_TEST_SEED=%q: %v", v, err)
		}
		s.seed = n
	}
	t.Logf("seed %d", s.seed)
	s.run = fmt.Sprintf("%x", s.seed)
	return s
}

// Enter sends clients to these doors from now on; man is the base URL of a management API.
func (s *Storm) Enter(man string, doors ...Door) {
	s.doors.Store(&doors)
	s.Man.Store(&man)
}

// Manage asks the management API.
func (s *Storm) Manage(ctx context.Context, path string) (Reply, error) {
	return (&Client{HTTP: s.managing, Base: *s.Man.Load()}).Exchange(ctx, http.MethodGet, path, nil)
}

// Random is a source of its own for each who uses it.
func (s *Storm) Random(name string) *rand.Rand {
	var sum uint64
	for _, b := range []byte(name) {
		sum = sum*31 + uint64(b)
	}
	return rand.New(rand.NewPCG(s.seed, sum))
}

// InStore is the topic's name there.
func (s *Storm) InStore() string { return s.App + "." + s.Topic + ".v1" }

func (p *Party) inStore(s *Storm) string { return s.App + "." + p.Name + "." + s.InStore() }

func (p *Party) queue(s *Storm, q string) string {
	return s.InStore() + "." + s.App + "." + p.Name + "." + q
}

// Party declares a group.
func (s *Storm) Party(name string, spec checker.Spec) *Party {
	if spec.Lease == 0 {
		spec.Lease = 30 * time.Second
	}
	p := &Party{name, spec}
	s.Groups = append(s.Groups, p)
	s.H.Note(checker.Record{Op: checker.Declare, Phase: checker.OK, Topic: s.InStore(), Group: name, Spec: &spec})
	return p
}

// Fault notes that one begins; the answer notes its end. It hits all, or the client named.
func (s *Storm) Fault(what, client string, unclean bool) (heal func()) {
	s.mu.Lock()
	s.Faults++
	s.mu.Unlock()
	n := s.H.Note(checker.Record{Op: checker.Fault, Phase: checker.Invoke, Client: client, Unclean: unclean, Note: what})
	return func() { s.H.End(n, checker.OK, what) }
}

// fail notes an answer that should not be.
func (s *Storm) fail(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Failed = append(s.Failed, fmt.Sprintf(format, args...))
}

// broke notes a connection that failed: that is an answer that should not be where there is always somebody to answer.
func (s *Storm) broke(who string, err error) {
	if s.Strict {
		s.fail("%s: %v", who, err)
	}
}

// NoFailures fails the test when a request failed.
func (s *Storm) NoFailures() {
	s.T.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, f := range s.Failed {
		if i == 5 {
			s.T.Errorf("and %d more failed requests", len(s.Failed)-i)
			return
		}
		s.T.Errorf("failed request: %s", f)
	}
}

// lag is how many messages the group has not done, as the management API says. Negative: nobody knows.
func (s *Storm) lag(p *Party) int {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	a, err := s.Manage(ctx, "/v1/groups/"+s.App+"/"+s.Topic+"/v1/"+p.Name)
	if err != nil || a.StatusCode != http.StatusOK {
		return -1
	}
	var g struct {
		Lag int `json:"lag"`
	}
	if json.Unmarshal(a.Bytes, &g) != nil {
		return -1
	}
	return g.Lag
}

// idle waits until each group has done everything, and reports whether that came in time.
func (s *Storm) idle(limit time.Duration) (left string, ok bool) {
	deadline := time.Now().Add(limit)
	for _, p := range s.Groups {
		if some, ok := s.IdleParty(p, time.Until(deadline)); !ok {
			left += some
		}
	}
	return left, left == ""
}

// IdleParty is idle for one group.
func (s *Storm) IdleParty(p *Party, limit time.Duration) (left string, ok bool) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(limit)
	for n := s.lag(p); n != 0; n = s.lag(p) {
		if time.Now().After(deadline) {
			return fmt.Sprintf("%s: %d; ", p.Name, n), false
		}
		<-tick.C
	}
	return "", true
}

// Calm ends the load, lets the members finish what is there, and sends them away.
func (s *Storm) Calm() {
	s.Load.End()
	if left, ok := s.idle(Patience); !ok {
		s.T.Logf("the members leave with something undone: %s", left)
	}
	s.Members.End()
}

// Drain lets fresh members do what is left.
func (s *Storm) Drain() {
	n := s.H.Note(checker.Record{Op: checker.Drain, Phase: checker.Invoke})
	var fresh Crew
	for _, p := range s.Groups {
		for i := range 2 {
			s.Join(&fresh, p, Habit{Name: fmt.Sprintf("fresh%d", i), Kind: "lines", Batch: 100, Wait: "500ms"})
		}
	}
	left, ok := s.idle(cmp.Or(s.Limit, 2*Patience))
	fresh.End()
	if ok {
		s.H.End(n, checker.OK, "")
	} else {
		s.H.End(n, checker.Fail, left)
	}
}

// Judge reads the truth, which asks for all gateways to be stopped where the store is a disk's, and fails the test for each
// anomaly.
func (s *Storm) Judge(limits checker.Limits) *checker.Report {
	s.T.Helper()
	s.truth()
	records := s.H.Records()
	r := checker.Check(records, limits)
	s.T.Logf("%d faults, %d records: %v", s.Faults, len(records), r)
	if len(r.Anomalies) > 0 {
		s.T.Errorf("%d anomalies; the history is in %s", len(r.Anomalies), s.dump(records))
	}
	return r
}

// dump keeps the history of a run that failed.
func (s *Storm) dump(records []checker.Record) string {
	dir := os.Getenv("KATEWAY_TEST_HISTORY")
	if dir == "" {
		dir = os.TempDir()
	}
	f, err := os.Create(filepath.Join(dir, fmt.Sprintf("kateway-%s-%s.jsonl", s.App, s.run)))
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if err := checker.Dump(f, records); err != nil {
		return err.Error()
	}
	return f.Name()
}

// StormTime is how long a storm blows: short by default, longer by KATEWAY_TEST_STORM=3m.
func StormTime(t *testing.T, short time.Duration) time.Duration {
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

// Blow lets so much time pass, or less when the test ends.
func (s *Storm) Blow(d time.Duration) {
	select {
	case <-time.After(d):
	case <-s.T.Context().Done():
	}
}

// WaitProduced waits until n more messages are stored: the load is really there.
func (s *Storm) WaitProduced(n int64) {
	s.T.Helper()
	from := s.Produced.Load()
	WaitFor(s.T, fmt.Sprintf("%d more messages", n), func() bool { return s.Produced.Load() >= from+n })
}
