// Package sim runs the core of several gateways (groups, homes, spool, breaker) over a store in memory, in simulated time, with
// faults and clients that a seed decides, and has the whole history judged.
package sim

import (
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"

	"github.com/kateway/kateway/test/checker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func testLog() *slog.Logger {
	if os.Getenv("KATEWAY_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// number reads an environment variable.
func number(t *testing.T, name string, otherwise uint64) (n uint64, given bool) {
	t.Helper()
	v := os.Getenv(name)
	if v == "" {
		return otherwise, false
	}
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		t.Fatalf("%s=%q: %v", name, v, err)
	}
	return n, true
}

// total is what all seeds came to.
type total struct {
	mu                                                  sync.Mutex
	seeds, stored, spooled, delivered, again, anomalies int
	counts                                              map[string]int
}

func (s *total) add(w *world, r *checker.Report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seeds++
	s.stored += r.Stored
	s.spooled += int(w.spooled.Load())
	s.delivered += r.Delivered
	s.again += r.Again
	s.anomalies += len(r.Anomalies)
	for k, n := range w.counts {
		s.counts[k] += n
	}
}

// TestSim runs 1,000 seeds; KATEWAY_TEST_SIMS=n runs n, KATEWAY_TEST_SEED=s begins with that one, and runs no
// other unless a number is given.
func TestSim(t *testing.T) {
	sims, many := number(t, "KATEWAY_TEST_SIMS", 1000)
	first, one := number(t, "KATEWAY_TEST_SEED", 0)
	if one = one && !many; one {
		sims = 1
	}
	sum := &total{counts: map[string]int{}}
	var wg sync.WaitGroup
	next := make(chan uint64)
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for seed := range next {
				t.Run(fmt.Sprint(seed), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { judge(t, seed, sum, one) })
				})
			}
		})
	}
	for seed := range sims {
		next <- first + seed
	}
	close(next)
	wg.Wait()
	t.Logf("%d seeds: %d messages stored, %d of them by the spool, %d deliveries, %d again after an unclean fault, %d anomalies",
		sum.seeds, sum.stored, sum.spooled, sum.delivered, sum.again, sum.anomalies)
	for _, k := range slices.Sorted(maps.Keys(sum.counts)) {
		t.Logf("%8d %s", sum.counts[k], k)
	}
	for _, k := range append(slices.Sorted(maps.Keys(kinds)), "power cut in a write", "lost answer", "never acked", "late ack", "client vanished") {
		if sims >= 1000 && sum.counts[k] == 0 {
			t.Errorf("%s: it never happened", k)
		}
	}
}

func judge(t *testing.T, seed uint64, sum *total, tell bool) {
	w, r := simulate(t, seed, bugs{})
	sum.add(w, r)
	for _, f := range w.failed {
		t.Error(f)
	}
	if len(r.Anomalies) > 0 {
		t.Errorf("seed %d: %v", seed, r)
	}
	if dir := os.Getenv("KATEWAY_TEST_HISTORY"); dir != "" && (t.Failed() || tell) {
		dump(t, filepath.Join(dir, fmt.Sprintf("kateway-sim-%d.jsonl", seed)), w.h.Records())
	}
	if t.Failed() || tell {
		t.Logf("again: KATEWAY_TEST_SEED=%d go test -run '^TestSim$' ./test/sim\n%v%s\n%v", seed, w.plan, strings.Join(w.decided, "\n"), r)
	}
}

// dump keeps a history.
func dump(t *testing.T, name string, records []checker.Record) {
	f, err := os.Create(name)
	if err != nil {
		t.Error(err)
		return
	}
	defer f.Close()
	if err := checker.Dump(f, records); err != nil {
		t.Error(err)
	}
	t.Log("the history is in " + name)
}
