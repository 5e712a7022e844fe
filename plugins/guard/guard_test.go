package guard

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/meta/mem"
	"github.com/kateway/kateway/meta/metatest"
	"github.com/kateway/kateway/plugins"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tenants are three apps, one of each class.
func tenants(t testing.TB) *meta.Snapshot {
	t.Helper()
	d := metatest.Directory(t, mem.New())
	for name, class := range map[string]string{"first": meta.ClassPremium, "plain": meta.ClassStandard, "last": meta.ClassBestEffort} {
		if _, err := d.Put(t.Context(), &meta.App{Name: name, Class: class}, ""); err != nil {
			t.Fatal(err)
		}
	}
	return d.Snapshot()
}

type snapshot struct{ s *meta.Snapshot }

func (s snapshot) Snapshot() *meta.Snapshot { return s.s }

func newGuard(t testing.TB, known *meta.Snapshot, change func(*Options)) *Plugin {
	t.Helper()
	o := defaults()
	if change != nil {
		change(&o)
	}
	return New(Config{Options: o, Sizes: Sizes{Message: 1 << 20, Batch: 16 << 20}, Meta: snapshot{known}, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
}

// publish is a call that is in work until it is told to end; over has what came of it.
type publish struct {
	app  string
	end  chan struct{}
	over chan error
}

func begin(p *Plugin, app string, size int64) *publish {
	b := &publish{app: app, end: make(chan struct{}), over: make(chan error, 1)}
	h := p.Wrap(func(ctx context.Context, c *plugins.Call) error {
		c.Messages, c.Bytes = 1, max(size, 0)
		if err := p.Admit(ctx, c); err != nil {
			return err
		}
		<-b.end
		return nil
	})
	go func() {
		b.over <- h(context.Background(), &plugins.Call{Op: plugins.Publish, App: app, Size: size, Header: http.Header{}, Remote: "192.0.2.1:1"})
	}()
	return b
}

// state is "work", or what came of it.
func (b *publish) state() string {
	synctest.Wait()
	select {
	case err := <-b.over:
		b.over <- err
		if err == nil {
			return "done"
		}
		return errs.Of(err).Code()
	default:
		return "under way"
	}
}

func finish(list ...*publish) {
	for _, b := range list {
		close(b.end)
		<-b.over
	}
}

// Under load the lower classes find no room first; who waits comes in the order of class, then of arrival; who waits too long is refused.
func TestTurns(t *testing.T) {
	known := tenants(t)
	synctest.Test(t, func(t *testing.T) {
		p := newGuard(t, known, func(o *Options) { o.InFlight, o.Queue = 20, 4 })
		var work []*publish
		for range 15 { // three quarters
			work = append(work, begin(p, "last", 1))
		}
		synctest.Wait()
		low := begin(p, "last", 1)
		plain := []*publish{begin(p, "plain", 1), begin(p, "plain", 1), begin(p, "plain", 1)}
		synctest.Wait()
		top := []*publish{begin(p, "first", 1), begin(p, "first", 1)}
		synctest.Wait()
		if busy := p.turn.busy.Load(); busy != 20 {
			t.Fatalf("%d are in work", busy)
		}
		waiting := p.turn.waiting.Load()
		if waiting != 1 || low.state() != "under way" {
			t.Fatalf("%d wait, the lowest: %s", waiting, low.state())
		}
		first := begin(p, "first", 1)
		synctest.Wait()
		finish(work[0])
		synctest.Wait()
		if busy, waiting := p.turn.busy.Load(), p.turn.waiting.Load(); busy != 20 || waiting != 1 {
			t.Errorf("%d in work, %d wait", busy, waiting)
		}
		time.Sleep(time.Second + time.Millisecond) //nolint:forbidigo // the bubble's clock
		if got := low.state(); got != "overloaded" {
			t.Errorf("the lowest, after its time: %s", got)
		}
		finish(slices.Concat(work[1:], plain, top, []*publish{first})...)
		if p.turn.busy.Load() != 0 || p.turn.waiting.Load() != 0 || p.memory.used.Load() != 0 {
			t.Errorf("left: %d, %d, %d bytes", p.turn.busy.Load(), p.turn.waiting.Load(), p.memory.used.Load())
		}
	})
}

// A full queue refuses at once, and the newest of a lower class rather than one of a higher.
func TestQueueIsBounded(t *testing.T) {
	known := tenants(t)
	synctest.Test(t, func(t *testing.T) {
		p := newGuard(t, known, func(o *Options) { o.InFlight, o.Queue = 8, 2 })
		var work []*publish
		for range 8 {
			work = append(work, begin(p, "first", 1))
		}
		synctest.Wait()
		one := begin(p, "plain", 1)
		synctest.Wait()
		two := begin(p, "plain", 1)
		synctest.Wait()
		three := begin(p, "plain", 1)
		if got := three.state(); got != "overloaded" {
			t.Errorf("the third: %s", got)
		}
		top := begin(p, "first", 1)
		if got := top.state() + ", " + two.state() + ", " + one.state(); got != "under way, overloaded, under way" {
			t.Errorf("top, two, one: %s", got)
		}
		finish(work...)
		finish(one, top)
	})
}

// Bodies have a bounded memory; where the size is not known they are charged for the most that they can have, until they are read.
func TestMemory(t *testing.T) {
	known := tenants(t)
	synctest.Test(t, func(t *testing.T) {
		p := newGuard(t, known, func(o *Options) { o.Memory = 100 << 20 })
		big := []*publish{begin(p, "last", 16<<20), begin(p, "last", 16<<20), begin(p, "last", 16<<20), begin(p, "last", 16<<20)}
		synctest.Wait()
		no := begin(p, "last", 16<<20)
		if got := no.state(); got != "overloaded" {
			t.Errorf("beyond three quarters: %s", got)
		}
		top := begin(p, "first", 16<<20)
		if got := top.state(); got != "under way" {
			t.Errorf("premium: %s", got)
		}
		finish(append(big, top)...)

		open := make(chan struct{})
		h := p.Wrap(func(ctx context.Context, c *plugins.Call) error {
			if used := p.memory.used.Load(); used != 16<<20 {
				t.Errorf("a batch of unknown size is charged for %d bytes", used)
			}
			c.Bytes, c.Messages = 10, 1
			err := p.Admit(ctx, c)
			if used := p.memory.used.Load(); used != 10 {
				t.Errorf("once it is read it is charged for %d bytes", used)
			}
			close(open)
			return err
		})
		if err := h(t.Context(), &plugins.Call{App: "plain", Size: -1, RawQuery: "batch=lines"}); err != nil || p.memory.used.Load() != 0 {
			t.Errorf("%v, %d bytes are left", err, p.memory.used.Load())
		}
		<-open
	})
}

// A panic of what is behind gives all back.
func TestPanicGivesBack(t *testing.T) {
	known := tenants(t)
	p := newGuard(t, known, nil)
	h := p.Wrap(func(ctx context.Context, c *plugins.Call) error {
		_ = p.Admit(ctx, c)
		panic("ouch")
	})
	func() {
		defer func() { _ = recover() }()
		_ = h(t.Context(), &plugins.Call{App: "plain", Size: 10})
	}()
	if p.turn.busy.Load() != 0 || p.memory.used.Load() != 0 {
		t.Errorf("%d turns, %d bytes are left", p.turn.busy.Load(), p.memory.used.Load())
	}
}

// Streams and settling take no turn; a WebSocket's messages are refused while there is none.
func TestLasting(t *testing.T) {
	known := tenants(t)
	synctest.Test(t, func(t *testing.T) {
		p := newGuard(t, known, func(o *Options) { o.InFlight = 8 })
		for _, c := range []plugins.Call{{Op: plugins.Subscribe}, {Op: plugins.Subscribe, Lasting: true}, {Op: plugins.Settle}, {Op: plugins.Publish, Lasting: true}} {
			c.App = "plain"
			err := p.Wrap(func(context.Context, *plugins.Call) error {
				if p.turn.busy.Load() != 0 {
					t.Errorf("%+v takes a turn", c)
				}
				return nil
			})(t.Context(), &c)
			if err != nil {
				t.Error(err)
			}
		}
		var work []*publish
		for range 8 {
			work = append(work, begin(p, "first", 1))
		}
		synctest.Wait()
		ws := &plugins.Call{Op: plugins.Publish, Lasting: true, App: "first", Messages: 3}
		if err := p.Admit(t.Context(), ws); errs.Of(err) != errs.Overloaded {
			t.Errorf("a WebSocket under load: %v", err)
		}
		finish(work...)
		if err := p.Admit(t.Context(), ws); err != nil {
			t.Error(err)
		}
	})
}

var stranger = netip.MustParseAddr("192.0.2.1")

// guess sends one faulty request if it is let in, and reports that.
func guess(p *Plugin, addr netip.Addr, err error) bool {
	if p.Arrives(addr) > 0 {
		return false
	}
	p.Ended(addr, err)
	return true
}

// Of 10,000 guesses at a key few are looked at, each block is longer than the one before, and the right key does not end one.
func TestBruteForce(t *testing.T) {
	known := tenants(t)
	synctest.Test(t, func(t *testing.T) {
		p := newGuard(t, known, nil)
		looked, start := 0, time.Now()
		for range 10_000 {
			if guess(p, stranger, errs.Unauthenticated) {
				looked++
			}
			time.Sleep(10 * time.Millisecond) //nolint:forbidigo // the bubble's clock
		}
		if spent := time.Since(start); looked > 300 || spent > 2*time.Minute {
			t.Errorf("%d of 10,000 were looked at in %v", looked, spent)
		}
		if guess(p, stranger, nil) {
			t.Error("the right key, at last, is let in while the address is left out")
		}
		if !guess(p, netip.MustParseAddr("192.0.2.2"), nil) {
			t.Error("another address is left out")
		}
		time.Sleep(5 * time.Minute) //nolint:forbidigo // the bubble's clock
		if !guess(p, stranger, nil) {
			t.Error("left out for longer than the longest time")
		}
		time.Sleep(forgiven + sweepEvery) //nolint:forbidigo // the bubble's clock
		p.addresses.sweep(time.Now())
		if !p.addresses.empty() {
			t.Errorf("%d entries are left", p.addresses.entries.Load())
		}
	})
}

// Sound requests make up for faulty ones, but not for guesses at keys.
func TestSoundRequestsMakeUp(t *testing.T) {
	known := tenants(t)
	for name, c := range map[string]struct {
		err  error
		want bool
	}{"faulty": {errs.InvalidParam, true}, "guesses": {errs.Unauthenticated, false}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newGuard(t, known, nil)
				for range 1000 {
					_ = guess(p, stranger, c.err)
					_ = guess(p, stranger, nil)
					_ = guess(p, stranger, nil)
				}
				if got := guess(p, stranger, nil); got != c.want {
					t.Errorf("let in: %t", got)
				}
			})
		})
	}
}

// What does not count: limits, races, and faults of ours.
func TestWhatDoesNotCount(t *testing.T) {
	known := tenants(t)
	for _, err := range []error{errs.Throttled, errs.Conflict, errs.Fenced, errs.PreconditionFailed, errs.Overloaded, errs.Unavailable, errs.CircuitOpen,
		errs.Internal, errs.CrossOrigin, errs.Uncertain, context.Canceled, errors.New("x"), nil} {
		p := newGuard(t, known, nil)
		for range 1000 {
			if !guess(p, stranger, err) {
				t.Fatalf("%v counts", err)
			}
		}
	}
}

// An app that has shown a key is left out for its own faults, from whatever address; on loopback, and where nothing was shown, not.
func TestApp(t *testing.T) {
	known := tenants(t)
	call := func(p *Plugin, app, key, remote string, err error) error {
		return p.Wrap(func(context.Context, *plugins.Call) error { return err })(t.Context(), &plugins.Call{Op: plugins.Settle, App: app, KeyID: key, Remote: remote})
	}
	for name, c := range map[string]struct {
		key, remote string
		want        errs.Kind
	}{"a key": {"k", "192.0.2.1:1", errs.Throttled}, "no key": {"", "192.0.2.1:1", errs.UnknownTopic}, "loopback": {"k", "127.0.0.1:1", errs.UnknownTopic}} {
		t.Run(name, func(t *testing.T) {
			p := newGuard(t, known, nil)
			for range 200 {
				_ = call(p, "plain", c.key, c.remote, errs.UnknownTopic)
			}
			if err := call(p, "plain", c.key, c.remote, errs.UnknownTopic); errs.Of(err) != c.want {
				t.Errorf("%v", err)
			}
			if err := call(p, "first", "k2", c.remote, nil); err != nil {
				t.Errorf("another app: %v", err)
			}
		})
	}
}

// However many addresses misbehave, the table has a bounded size.
func TestTableIsBounded(t *testing.T) {
	known := tenants(t)
	p := newGuard(t, known, nil)
	for i := range 3 * maxEntries {
		_ = guess(p, netip.AddrFrom4([4]byte{byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}), errs.NotFound)
	}
	n := 0
	for i := range p.addresses.parts {
		n += len(p.addresses.parts[i].list)
	}
	if n > maxEntries || int64(n) != p.addresses.entries.Load() {
		t.Errorf("%d entries, counted as %d", n, p.addresses.entries.Load())
	}
}

func TestOptions(t *testing.T) {
	k := Kind(Sizes{1 << 20, 16 << 20})
	if _, err := k.Read(plugins.ParseOptions("{in_flight: 100, queue_delay: 2s, memory: 1000000, faults: 0}")); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"in_flight: 1", "queue: -1", "queue_delay: 0s", "memory: -1", "faults: -1", "block: 1h", "other: 1", "max_block: 48h"} {
		if _, err := k.Read(plugins.ParseOptions("{" + bad + "}")); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}

// All turns come back, whatever the order.
func TestConcurrently(t *testing.T) {
	known := tenants(t)
	p := newGuard(t, known, func(o *Options) { o.InFlight, o.Queue, o.QueueDelay = 8, 16, 5*time.Millisecond })
	var wg sync.WaitGroup
	var most, refused atomic.Int64
	for i := range 64 {
		wg.Go(func() {
			app := [3]string{"first", "plain", "last"}[i%3]
			for range 50 {
				h := p.Wrap(func(ctx context.Context, c *plugins.Call) error {
					c.Bytes = 1
					if err := p.Admit(ctx, c); err != nil {
						return err
					}
					most.Store(max(most.Load(), p.turn.busy.Load()))
					return nil
				})
				if err := h(context.Background(), &plugins.Call{App: app, Size: 5}); err != nil {
					refused.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if p.turn.busy.Load() != 0 || p.turn.waiting.Load() != 0 || p.memory.used.Load() != 0 {
		t.Errorf("left: %d, %d, %d bytes", p.turn.busy.Load(), p.turn.waiting.Load(), p.memory.used.Load())
	}
	t.Logf("at most about %d at a time, %d refused", most.Load(), refused.Load())
}

// What the guard adds to a publish.
func BenchmarkPublish(b *testing.B) {
	known := tenants(b)
	for _, c := range []struct {
		name string
		bad  int // requests of somebody else
	}{{"quiet", 0}, {"somebody is left out", 1000}} {
		b.Run(c.name, func(b *testing.B) {
			p := newGuard(b, known, nil)
			for range c.bad {
				_ = guess(p, stranger, errs.NotFound)
			}
			call := &plugins.Call{App: "plain", Size: 100, Header: http.Header{}, KeyID: "k", Remote: "192.0.2.1:1"}
			h := p.Wrap(func(ctx context.Context, c *plugins.Call) error {
				c.Bytes = 100
				return p.Admit(ctx, c)
			})
			other, ctx := netip.MustParseAddr("192.0.2.77"), b.Context()
			b.ReportAllocs()
			for b.Loop() {
				if p.Arrives(other) > 0 {
					b.Fatal("left out")
				}
				err := h(ctx, call)
				p.Ended(other, err)
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
