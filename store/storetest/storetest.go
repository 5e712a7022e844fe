// Package storetest proves the contracts of package store on an implementation:
//
//	func TestStore(t *testing.T) {
//		storetest.Run(t, storetest.Config{
//			New:    func(t *testing.T) store.Store { return ... },
//			Reopen: func(t *testing.T, s store.Store) store.Store { return ... },
//			Absent: map[storetest.Power]string{storetest.Crash: "a member dies only with the process"},
//		})
//	}
//
// It assumes no empty store: topics and groups have names of their own, so that many runs can share one cluster. Every
// wait is for a condition and bounded by Config.Patience. Tests run one after the other, and none leaves a goroutine, unless
// Config.Parallel says otherwise.
package storetest

import (
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kateway/kateway/store"
)

// Power is something that the suite can do to a store, or that only some stores do. Each is either given in Config or
// listed in Config.Absent with the reason: nothing is skipped silently.
type Power string

// The powers.
const (
	Reopen   Power = "Reopen"
	Cut      Power = "Cut"
	Crash    Power = "Crash"
	Trim     Power = "Trim"
	TooLarge Power = "TooLarge"
	Once     Power = "Once"    // the store is a store.OncePublisher
	Compact  Power = "Compact" // a topic may have store.CleanupCompact
	Follow   Power = "Follow"  // the store is a store.Follower
)

// Config describes the store under test.
type Config struct {
	// New opens the store for one test, which closes it.
	New func(t *testing.T) store.Store

	// Shared says that the stores which New opens are handles of the same data, as of several gateways on one cluster. A
	// group's second member then has a handle of its own.
	Shared bool

	// Reopen closes s, if that has not been done, and opens its data again.
	Reopen func(t *testing.T, s store.Store) store.Store

	// Cut breaks the connection: until heal is called no publish of s is answered, whether or not it is stored. It is
	// called when s has published to the topic before.
	Cut func(t *testing.T, s store.Store) (heal func())

	// Crash ends the member behind f, which s made, as the death of its process would: nothing more is written and it
	// does not leave the group. With Shared, s does nothing afterwards but Close.
	Crash func(t *testing.T, s store.Store, f store.Feed)

	// Trim lets retention take messages of a partition: some or all of those below the offset, at least one. It returns
	// when they are gone.
	Trim func(t *testing.T, s store.Store, topic string, partition int32, before int64)

	// TooLarge is the size in bytes of a value that the store refuses as TooLarge; the smaller the faster.
	TooLarge int

	// Absent lists the powers that the store does not have, each with the reason.
	Absent map[Power]string

	// Patience bounds each wait. Default 30 s; a cluster's groups may need more.
	Patience time.Duration

	// Parallel runs the tests beside each other, as many as go test's -parallel allows: against a cluster they wait more than
	// they work. Goroutines that are left behind can't be told then; another run of the suite should look for them.
	Parallel bool

	// Leaks are the goroutines that the environment may leave behind. Those that run before New are known.
	Leaks []goleak.Option
}

// check fails a Config that leaves a power open.
func (c *Config) check(t *testing.T) {
	t.Helper()
	if c.New == nil {
		t.Fatal("storetest: Config.New is missing")
	}
	if c.Patience == 0 {
		c.Patience = 30 * time.Second
	}
	given := map[Power]bool{
		Reopen: c.Reopen != nil, Cut: c.Cut != nil, Crash: c.Crash != nil, Trim: c.Trim != nil,
		TooLarge: c.TooLarge > 0, Once: c.Absent[Once] == "", Compact: c.Absent[Compact] == "",
		Follow: c.Absent[Follow] == "",
	}
	for power, is := range given {
		if is == (c.Absent[power] != "") {
			t.Errorf("storetest: power %s must be either given in Config or listed in Config.Absent with the reason", power)
		}
	}
	for power := range c.Absent {
		if _, known := given[power]; !known {
			t.Errorf("storetest: Config.Absent names %q, which is no power", power)
		}
	}
	if t.Failed() {
		t.FailNow()
	}
}

type test struct {
	name  string
	run   func(e *env)
	needs Power // "" = every store
}

// Run runs the suite, each test as a subtest.
func Run(t *testing.T, cfg Config) {
	cfg.check(t)
	for _, list := range [][]test{publishTests(), byteTests(), startTests(), feedTests(), groupTests(), endTests(), adminTests(), changeTests(), onceTests(), followTests()} {
		for _, test := range list {
			t.Run(test.name, func(t *testing.T) {
				if reason := cfg.Absent[test.needs]; reason != "" {
					t.Skipf("%s is declared absent: %s", test.needs, reason)
				}
				if cfg.Parallel {
					t.Parallel()
				} else {
					verifyLeaks(t, cfg.Leaks)
				}
				e := &env{T: t, cfg: cfg}
				e.s = e.open()
				test.run(e)
			})
		}
	}
}

// verifyLeaks looks for goroutines of the test after its store is closed, and what New has registered.
func verifyLeaks(t *testing.T, known []goleak.Option) {
	known = append([]goleak.Option{goleak.IgnoreCurrent()}, known...)
	t.Cleanup(func() {
		if !t.Failed() {
			goleak.VerifyNone(t, known...)
		}
	})
}
