package kafka

import (
	"context"
	"flag"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/kateway/kateway/internal/testkit"
	"github.com/kateway/kateway/store"
)

var failover = flag.Bool("failover", false, "measure how fast a group moves to another member (8 minutes)")

const (
	figurePartitions = 12
	figureRounds     = 7
)

// TestFailoverFigures prints how long a group of twelve partitions, under load, is without messages when it moves from one
// gateway to another, for each group protocol, on three brokers with Kafka's own settings:
//
//	go test ./store/kafka -run TestFailoverFigures -failover -v -timeout 20m
func TestFailoverFigures(t *testing.T) {
	if !*failover {
		t.Skip("only with -failover: it takes eight minutes")
	}
	c := testkit.Kafka(t, testkit.Brokers(3))
	t.Logf("%-46s %-9s %8s %8s", "until the next member's first message, after", "protocol", "median", "longest")
	for _, p := range []string{ProtocolClassic, ProtocolConsumer} {
		cfg := Config{Brokers: c.Addrs(), Protocol: p}
		figure(t, p, figureRounds, func(t *testing.T) []time.Duration { return firstMember(t, cfg) }, "a group's first member")
		figure(t, p, figureRounds, func(t *testing.T) []time.Duration { return moved(t, cfg, stopped, true) }, "a clean stop")
		figure(t, p, figureRounds, func(t *testing.T) []time.Duration { return moved(t, cfg, killed, true) }, "a kill, its place is given up")
		figure(t, p, 2, func(t *testing.T) []time.Duration { return moved(t, cfg, killed, false) }, "a kill, its session ends")
		figure(t, p, figureRounds, func(t *testing.T) []time.Duration { return rebalanced(t, cfg) },
			"a member joins: until it has its share", "the same: longest silence of a partition", "it leaves: until the other has all")
	}
}

// figure measures some times, each round in a test of its own, so that nothing of it is left for the next, and prints a
// row for each.
func figure(t *testing.T, protocol string, rounds int, measure func(*testing.T) []time.Duration, rows ...string) {
	times := make([][]time.Duration, len(rows))
	for range rounds {
		t.Run(protocol, func(t *testing.T) {
			for i, d := range measure(t) {
				times[i] = append(times[i], d)
			}
		})
	}
	for i, what := range rows {
		slices.Sort(times[i])
		if n := len(times[i]); n > 0 {
			t.Logf("%-46s %-9s %8v %8v", what, protocol, times[i][n/2].Round(time.Millisecond), times[i][n-1].Round(time.Millisecond))
		}
	}
}

// TestIdleMemberFigures prints what a member costs that has nothing to do:
//
//	go test ./store/kafka -run TestIdleMemberFigures -failover -v
func TestIdleMemberFigures(t *testing.T) {
	if !*failover {
		t.Skip("only with -failover")
	}
	c := cluster.Get(t)
	s := open(t, Config{Brokers: c.Addrs()})
	const members = 50
	for _, partitions := range []int32{1, figurePartitions} {
		topic := newTopic(t, s, partitions)
		before, routines := memory(), runtime.NumGoroutine()
		for i := range members {
			subscribe(t, s, store.Spec{Topic: topic, Group: fmt.Sprint(topic, ".g", i), Instance: "a"}, int(partitions))
		}
		t.Logf("an idle member of %2d partitions on three brokers: %d KiB and %d goroutines", partitions,
			(memory()-before)/members/1024, (runtime.NumGoroutine()-routines)/members)
	}
}

// memory is what is in use after a collection.
func memory() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// load publishes to all partitions of a topic, each every 20 ms, until the test ends.
func load(t *testing.T, s *Store, topic string) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			var msgs []*store.Message
			for p := range int32(figurePartitions) {
				msgs = append(msgs, text(p, "load"))
			}
			_ = s.Publish(ctx, topic, store.AckAll, msgs...)
			<-tick.C
		}
	})
	return func() { cancel(); wg.Wait() }
}

// silence is the longest time in which none of a group's members got a message of a partition.
type silence struct {
	mu      sync.Mutex
	last    map[int32]time.Time
	longest time.Duration
}

func (s *silence) heard(p int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if before, ok := s.last[p]; ok {
		s.longest = max(s.longest, now.Sub(before))
	}
	s.last[p] = now
}

// reset begins anew; it answers what there was.
func (s *silence) reset() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.longest
	s.longest = 0
	return was
}

// watched is a member that is polled all the time; it commits what it reads.
type watched struct {
	*feed
	all  *silence
	stop func()

	mu   sync.Mutex
	held map[int32]bool
	seen int
}

func watch(t *testing.T, f store.Feed, all *silence) *watched {
	ctx, cancel := context.WithCancel(t.Context())
	w := &watched{feed: f.(*feed), all: all, held: map[int32]bool{}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			b, err := f.Poll(ctx, 1000, nil)
			if err == nil {
				w.apply(b)
			}
		}
	})
	w.stop = func() { cancel(); wg.Wait() }
	t.Cleanup(w.stop)
	return w
}

func (w *watched) apply(b store.Batch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range b.Lost {
		delete(w.held, p)
	}
	for _, p := range b.Gained {
		w.held[p.Partition] = true
	}
	for _, m := range b.Messages {
		w.all.heard(m.Partition)
		w.seen++
		_ = w.Commit(store.Position{Partition: m.Partition, Next: m.Offset + 1})
	}
}

func (w *watched) holds() int { w.mu.Lock(); defer w.mu.Unlock(); return len(w.held) }
func (w *watched) read() int  { w.mu.Lock(); defer w.mu.Unlock(); return w.seen }

// await is eventually with a finer look and more patience.
func await(t *testing.T, what string, is func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for !is() {
		if !pause(ctx, time.Millisecond) {
			t.Fatal("never: ", what)
		}
	}
}

// settledGroup is a topic under load with a member that reads it for a while.
func settledGroup(t *testing.T, cfg Config) (a, b *Store, spec store.Spec, w *watched, end func()) {
	a, b = open(t, cfg), open(t, cfg)
	spec = store.Spec{Topic: newTopic(t, a, figurePartitions), Instance: "a", Gone: func(id string) bool { return id == "a" }}
	spec.Group = spec.Topic + ".g"
	stop := load(t, b, spec.Topic)
	f, err := a.Subscribe(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	w = watch(t, f, &silence{last: map[int32]time.Time{}})
	n := 100 * figurePartitions // two seconds of reading: what the cluster does when a group begins is over
	await(t, "the group is under way", func() bool { return w.holds() == figurePartitions && w.read() > n })
	return a, b, spec, w, stop
}

func stopped(t *testing.T, w *watched) {
	if err := w.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func killed(_ *testing.T, w *watched) { w.crash() }

// firstMember is how long a new group takes until its first message, from Subscribe on.
func firstMember(t *testing.T, cfg Config) []time.Duration {
	s := open(t, cfg)
	topic := newTopic(t, s, figurePartitions)
	stop := load(t, s, topic)
	defer stop()
	from := time.Now()
	f, err := s.Subscribe(t.Context(), store.Spec{Topic: topic, Group: topic + ".g", Instance: "a"})
	if err != nil {
		t.Fatal(err)
	}
	w := watch(t, f, &silence{last: map[int32]time.Time{}})
	await(t, "the first message", func() bool { return w.read() > 0 })
	defer stopped(t, w)
	return []time.Duration{time.Since(from)}
}

// moved is the time from the end of a group's only member to the first message of the next one.
func moved(t *testing.T, cfg Config, end func(*testing.T, *watched), evict bool) []time.Duration {
	_, b, spec, w, stop := settledGroup(t, cfg)
	defer stop()
	from := time.Now()
	end(t, w)
	spec.Instance = "b"
	if !evict {
		spec.Gone = nil
	}
	f, err := b.Subscribe(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	next := watch(t, f, w.all)
	await(t, "the next member's first message", func() bool { return next.read() > 0 })
	defer stopped(t, next)
	return []time.Duration{time.Since(from)}
}

// rebalanced measures a second member that comes and goes.
func rebalanced(t *testing.T, cfg Config) []time.Duration {
	_, b, spec, one, stop := settledGroup(t, cfg)
	defer stop()
	one.all.reset()
	spec.Instance, spec.Gone = "b", nil
	from := time.Now()
	f, err := b.Subscribe(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	two := watch(t, f, one.all)
	await(t, "both have their share", func() bool {
		return one.holds() == figurePartitions/2 && two.holds() == figurePartitions/2 && two.read() > 0
	})
	shared := time.Since(from)
	n, m := one.read(), two.read()
	await(t, "both go on", func() bool { return one.read() > n+100 && two.read() > m+100 })
	silent := one.all.reset()
	from = time.Now()
	stopped(t, two)
	await(t, "the first has all again", func() bool { return one.holds() == figurePartitions })
	gathered := time.Since(from)
	stopped(t, one)
	return []time.Duration{shared, silent, gathered}
}
