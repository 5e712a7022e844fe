package quota

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/meta/mem"
	"github.com/kateway/kateway/plugins"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// unknown is a meta that has nothing.
func unknown() *meta.Directory {
	return meta.NewDirectory(meta.Config{Source: mem.New(), Log: slog.New(slog.DiscardHandler)})
}

func alone(context.Context, []byte) map[string][]byte { return nil }

// limited is a plugin, alone, with these options.
func limited(t testing.TB, o Options) *Plugin {
	t.Helper()
	if err := o.check(); err != nil {
		t.Fatal(err)
	}
	return New(Config{Options: o, Meta: unknown(), Others: alone, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
}

// publish is a publish of so many messages and bytes, by app.
func publish(app string, messages int, bytes int64) *plugins.Call {
	return &plugins.Call{
		Op: plugins.Publish, App: app, Topic: "t", Ver: "v1", Remote: "10.0.0.1:1234", KeyID: "k-" + app,
		Size: bytes, Messages: messages, Bytes: bytes, Answer: http.Header{},
	}
}

// do sends a call through the plugin, as a role does; during is what happens while it is under way.
func do(p *Plugin, c *plugins.Call, during ...func()) error {
	return p.Wrap(func(ctx context.Context, c *plugins.Call) error {
		if c.Op == plugins.Publish && !c.Lasting {
			if err := p.Admit(ctx, c); err != nil {
				return err
			}
		}
		for _, f := range during {
			f()
		}
		return nil
	})(context.Background(), c)
}

// code is what a client sees: "" or a code, and Retry-After.
func code(err error) string {
	if err == nil {
		return ""
	}
	return errs.Of(err).Code()
}

func wait(d time.Duration) { <-time.After(d) }

// admitted is how much of a stream of calls is let in over a time, each every gap.
func admitted(p *Plugin, over, gap time.Duration, call func() *plugins.Call) (n int) {
	for end := time.Now().Add(over); time.Now().Before(end); wait(gap) {
		if do(p, call()) == nil {
			n++
		}
	}
	return n
}

func TestRates(t *testing.T) {
	for name, tc := range map[string]struct {
		limits Limits
		call   func() *plugins.Call
		want   int // of ten seconds at a hundred calls a second
	}{
		"none":              {Limits{}, func() *plugins.Call { return publish("a", 1, 1) }, 1000},
		"requests":          {Limits{Requests: 10}, func() *plugins.Call { return publish("a", 1, 1) }, 110},
		"a long burst":      {Limits{Requests: 10, Burst: 5 * time.Second}, func() *plugins.Call { return publish("a", 1, 1) }, 150},
		"less than one":     {Limits{Requests: 0.5}, func() *plugins.Call { return publish("a", 1, 1) }, 5},
		"messages":          {Limits{Messages: 100}, func() *plugins.Call { return publish("a", 10, 1) }, 110},
		"batch over burst":  {Limits{Messages: 100}, func() *plugins.Call { return publish("a", 250, 1) }, 4}, // at 0, 2.5, 5 and 7.5 s
		"bytes":             {Limits{Bytes: 1000}, func() *plugins.Call { return publish("a", 1, 100) }, 110},
		"the least counts":  {Limits{Requests: 10, Messages: 5, Bytes: 1 << 20}, func() *plugins.Call { return publish("a", 1, 100) }, 55},
		"a poll":            {Limits{Requests: 10, Messages: 1}, func() *plugins.Call { return &plugins.Call{Op: plugins.Subscribe, App: "a", Answer: http.Header{}} }, 110},
		"a refused request": {Limits{Requests: 20, Messages: 5}, func() *plugins.Call { return publish("a", 1, 100) }, 55}, // takes nothing
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := limited(t, Options{Default: tc.limits})
				if n := admitted(p, 10*time.Second, 10*time.Millisecond, tc.call); n < tc.want-1 || n > tc.want {
					t.Errorf("%d of 1000 were let in, not %d", n, tc.want)
				}
			})
		})
	}
}

// A client that waits as long as it is told is let in then, and not before.
func TestRetryAfterIsRight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := limited(t, Options{Default: Limits{Messages: 10}})
		if err := do(p, publish("a", 35, 1)); err != nil {
			t.Fatal(err)
		}
		err := do(p, publish("a", 5, 1))
		if code(err) != "throttled" || !strings.Contains(err.Error(), "app a is over its limit messages_per_second; try again in 2.6s") { // it is asked before its messages are known
			t.Fatal(err)
		}
		wait(2500 * time.Millisecond)
		if err := do(p, publish("a", 1, 1)); err == nil {
			t.Fatal("let in too early")
		}
		wait(100 * time.Millisecond)
		err = do(p, publish("a", 5, 1))
		if err == nil || !strings.Contains(err.Error(), "try again in 400ms") {
			t.Fatal(err)
		}
		wait(400 * time.Millisecond)
		if err := do(p, publish("a", 5, 1)); err != nil {
			t.Fatal(err)
		}
	})
}

// What one scope lets in and another refuses is charged to neither.
func TestRefusedIsNotCharged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := limited(t, Options{
			Default: Limits{Requests: 1, Burst: 60 * time.Second}, Key: Limits{Requests: 100}, Topic: Limits{Messages: 10}, Address: Limits{Messages: 100, Requests: 200, InFlight: 1000},
		})
		for range 100 { // the app's limit lets 60 in
			_ = do(p, publish("a", 0, 1))
		}
		_ = do(p, publish("b", 5, 1))
		for range 50 { // the topic has room for 5 messages
			c := publish("b", 6, 10)
			c.Size = -1
			if do(p, c) == nil {
				t.Fatal("let in")
			}
		}
		m := p.addresses.get(address("10.0.0.1:1"))
		if m.tokens[requests] != 200-60-1-50 || m.tokens[messages] != 100-5 || m.counts != (counts{}) {
			t.Errorf("the address has %v tokens, %+v are under way", m.tokens, m.counts)
		}
		if m := p.keys.get("k-a"); m.tokens[requests] != 100-60 {
			t.Errorf("the key has %v tokens", m.tokens)
		}
	})
}

func TestScopes(t *testing.T) {
	other := func(change func(*plugins.Call)) func() *plugins.Call {
		return func() *plugins.Call { c := publish("a", 1, 1); change(c); return c }
	}
	for name, tc := range map[string]struct {
		options Options
		other   func() *plugins.Call // has a limit of its own
		same    func() *plugins.Call // has not
	}{
		"app":     {Options{Default: Limits{Requests: 1}}, other(func(c *plugins.Call) { c.App = "b" }), other(func(c *plugins.Call) { c.Topic = "u" })},
		"key":     {Options{Key: Limits{Requests: 1}}, other(func(c *plugins.Call) { c.KeyID = "l" }), other(func(c *plugins.Call) { c.Topic = "u" })},
		"no key":  {Options{Key: Limits{Requests: 1}}, other(func(c *plugins.Call) { c.KeyID = "" }), other(func(c *plugins.Call) { c.App = "b" })},
		"topic":   {Options{Topic: Limits{Requests: 1}}, other(func(c *plugins.Call) { c.Ver = "v2" }), other(func(c *plugins.Call) { c.App, c.Owner = "b", "a" })},
		"address": {Options{Address: Limits{Requests: 1}}, other(func(c *plugins.Call) { c.Remote = "10.0.0.2:1" }), other(func(c *plugins.Call) { c.Remote, c.App = "10.0.0.1:9", "b" })},
		"ipv6": {Options{Address: Limits{Requests: 1}}, other(func(c *plugins.Call) { c.Remote = "[2001:db8:0:1::1]:1" }),
			other(func(c *plugins.Call) { c.Remote = "[::ffff:10.0.0.1]:1" })},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := limited(t, tc.options)
			if err := do(p, publish("a", 1, 1)); err != nil {
				t.Fatal(err)
			}
			if err := do(p, tc.same()); code(err) != "throttled" {
				t.Errorf("%s: the same: %v", name, err)
			}
			if err := do(p, tc.other()); err != nil {
				t.Errorf("%s: another one: %v", name, err)
			}
		})
	}
	if address("[2001:db8::1]:1") != address("[2001:db8::2]:1") || address("x") != address("") {
		t.Error("who has a network of addresses has one limit")
	}
}

// What is under way is limited in number, and counts no more when it is over, however it ends.
func TestUnderWay(t *testing.T) {
	stream := func(g string) *plugins.Call {
		return &plugins.Call{Op: plugins.Subscribe, Lasting: true, App: "a", Owner: "b", Topic: "t", Ver: "v1", Group: g, Size: 0, Answer: http.Header{}}
	}
	for name, tc := range map[string]struct {
		limits Limits
		call   func() *plugins.Call // two of them are let in
		free   func() *plugins.Call // is let in besides; nil: nothing is
	}{
		"connections":     {Limits{Calls: 2}, func() *plugins.Call { return publish("a", 1, 1) }, nil},
		"streams":         {Limits{Streams: 2}, func() *plugins.Call { return stream("") }, func() *plugins.Call { return publish("a", 1, 1) }},
		"in_flight_bytes": {Limits{InFlight: 100}, func() *plugins.Call { return publish("a", 1, 40) }, func() *plugins.Call { return publish("a", 1, 20) }},
		"in flight, chunked": {Limits{InFlight: 100}, func() *plugins.Call { c := publish("a", 1, 40); c.Size = -1; return c },
			func() *plugins.Call { return publish("a", 1, 20) }},
		"in flight, compressed": {Limits{InFlight: 100}, func() *plugins.Call { c := publish("a", 1, 40); c.Size = 3; return c },
			func() *plugins.Call { return publish("a", 1, 20) }},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := limited(t, Options{Default: tc.limits})
			var full func(depth int)
			full = func(depth int) {
				if err := do(p, tc.call(), func() {
					if depth < 2 {
						full(depth + 1)
						return
					}
					if err := do(p, tc.call()); code(err) != "throttled" {
						t.Errorf("%s: a third: %v", name, err)
					}
					if tc.free != nil {
						if err := do(p, tc.free()); err != nil {
							t.Errorf("%s: another kind: %v", name, err)
						}
					}
				}); err != nil {
					t.Errorf("%s: number %d: %v", name, depth, err)
				}
			}
			for range 3 {
				full(1)
			}
			func() {
				defer func() { _ = recover() }()
				_ = do(p, tc.call(), func() { panic("no") })
			}()
			full(1)
			if m := p.apps.get("a"); m.counts != (counts{}) {
				t.Errorf("%s: %+v are left", name, m.counts)
			}
		})
	}
}

// A request that is larger than what may be in flight at all is let in by itself.
func TestLargeBody(t *testing.T) {
	p := limited(t, Options{Default: Limits{InFlight: 100}})
	if err := do(p, publish("a", 1, 1000), func() {
		if err := do(p, publish("a", 1, 1)); code(err) != "throttled" {
			t.Errorf("beside it: %v", err)
		}
	}); err != nil {
		t.Error(err)
	}
}

func TestGroupsAndTopics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := limited(t, Options{Default: Limits{Groups: 2, Topics: 3}})
		poll := func(topic, group string) *plugins.Call {
			return &plugins.Call{Op: plugins.Subscribe, App: "a", Owner: "a", Topic: topic, Ver: "v1", Group: group, Answer: http.Header{}}
		}
		step := func(want string, c *plugins.Call) {
			t.Helper()
			if got := code(do(p, c)); got != want {
				t.Errorf("topic %s, group %s: %q, not %q", c.Topic, c.Group, got, want)
			}
		}
		step("", poll("t", "g"))
		step("", poll("t", "g"))
		step("", poll("t", "h"))
		step("throttled", poll("t", "i"))
		step("throttled", poll("u", "g")) // another group of that name
		step("", poll("t", ""))
		_ = do(p, poll("t", "g"), func() {
			wait(2 * time.Minute) // h has nobody now
			step("", poll("t", "i"))
			step("throttled", poll("t", "h"))
		})
		step("", publish("a", 1, 1))
		u := publish("a", 1, 1)
		u.Topic = "u"
		step("", u)
		v := publish("a", 1, 1)
		v.Topic = "v"
		step("", v)
		w := publish("a", 1, 1)
		w.Topic = "w"
		step("denied", w)
		wait(2 * topicLife)
		step("", w)
	})
}

// A batch of a WebSocket is charged whole or refused whole, and the socket goes on.
func TestSocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := limited(t, Options{Default: Limits{Messages: 10, InFlight: 1}})
		c := publish("a", 0, 0)
		c.Lasting, c.Size = true, 0
		err := p.Wrap(func(ctx context.Context, c *plugins.Call) error {
			for i, step := range []struct {
				messages int
				bytes    int64
				ok       bool
			}{{6, 1000, true}, {6, 1, false}, {4, 1, true}, {1, 1, false}} {
				c.Messages, c.Bytes = step.messages, step.bytes
				if err := p.Admit(ctx, c); (err == nil) != step.ok {
					t.Errorf("batch %d: %v", i, err)
				}
			}
			return nil
		})(t.Context(), c)
		if err != nil {
			t.Error(err)
		}
	})
}

// 256 goroutines on one bucket are let in for no more than it holds and gets, and for no less.
func TestManyAtOnce(t *testing.T) {
	const rate, burst = 2000, 100 * time.Millisecond
	p := limited(t, Options{Default: Limits{Messages: rate, Burst: burst}, Address: Limits{Messages: 2 * rate}})
	var in atomic.Int64
	var wg sync.WaitGroup
	began := time.Now()
	for range 256 {
		wg.Go(func() {
			for time.Since(began) < 500*time.Millisecond {
				if do(p, publish("a", 3, 1)) == nil {
					in.Add(3)
				}
			}
		})
	}
	wg.Wait()
	took := time.Since(began).Seconds()
	n, most := float64(in.Load()), rate*(took+burst.Seconds())
	if n > most || n < 0.9*rate*0.5 {
		t.Errorf("%v messages were let in, of %v at most", n, most)
	}
}

func TestLimitsOfMetaAreHot(t *testing.T) {
	src := mem.New()
	dir := meta.NewDirectory(meta.Config{Source: src, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = dir.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait(); _ = src.Close() })
	<-dir.Loaded()
	p := New(Config{
		Options: Options{Default: Limits{Requests: 2, Burst: time.Hour}, Classes: map[string]Limits{"premium": {Requests: 3}}},
		Meta:    dir, Others: alone, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
	})
	rate := func() float64 {
		_ = do(p, publish("shop", 1, 1))
		m := p.apps.get("shop")
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.bounds.rate[requests]
	}
	put := func(a meta.App) {
		t.Helper()
		a.Name = "shop"
		if err := dir.Update(ctx, a.ID(), func(meta.Record) (meta.Record, error) { return &a, nil }); err != nil {
			t.Fatal(err)
		}
	}
	check := func(want float64) {
		t.Helper()
		if got := rate(); got != want {
			t.Errorf("%v requests a second, not %v", got, want)
		}
	}
	check(2)
	put(meta.App{Class: "premium"})
	check(3)
	put(meta.App{Class: "premium", Limits: meta.Limits{RequestsPerSecond: 5}})
	check(5)
	put(meta.App{Class: "standard", Limits: meta.Limits{Streams: 5}})
	check(2)
}

func TestHeaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := limited(t, Options{Default: Limits{Requests: 10, Bytes: 1000, Burst: 2500 * time.Millisecond}, Address: Limits{Requests: 0.25}})
		step := func(c *plugins.Call, limit, policy string) {
			t.Helper()
			err := do(p, c)
			if c.Answer.Get("RateLimit") != limit || c.Answer.Get("RateLimit-Policy") != policy {
				t.Errorf("%v: %v", err, c.Answer)
			}
		}
		const policy = `"requests";q=30;w=3, "bytes";q=3000;qu="content-bytes";w=3`
		step(publish("a", 1, 1), `"requests";r=24;t=1`, policy)
		wait(4 * time.Second)
		step(publish("a", 1, 2000), `"bytes";r=500;t=2`, policy)
		step(publish("a", 1, 2000), `"address-requests";r=0;t=4`, `"address-requests";q=1;w=4`)
		q := limited(t, Options{Default: Limits{Streams: 1}})
		c := publish("a", 1, 1)
		if err := do(q, c); err != nil || len(c.Answer) > 0 {
			t.Errorf("without a rate: %v, %v", err, c.Answer)
		}
	})
}

func TestWithoutACaller(t *testing.T) {
	p := limited(t, Options{})
	worked := false
	if err := do(p, publish("", 1, 1), func() { worked = true }); !errors.Is(err, errs.Internal) || worked {
		t.Error(err)
	}
	if err := p.Admit(t.Context(), publish("a", 1, 1)); !errors.Is(err, errs.Internal) {
		t.Errorf("messages of a request that did not pass: %v", err)
	}
}

func TestOptions(t *testing.T) {
	for text, want := range map[string]string{
		"": "",
		"default: {requests_per_second: 1.5, burst: 2s}\nclasses: {premium: {streams: 9}}\naddress: {bytes_per_second: 1048576}": "",
		"defaults: {}":                         "field defaults not found",
		"default: {requests: 1}":               "field requests not found",
		"default: {burst: -1s}":                "default: burst -1s is not between",
		"key: {streams: -1}":                   "key: streams must be",
		"default: {requests_per_second: .nan}": "default: requests_per_second must be",
		"classes: {gold: {}}":                  `"gold" is none of`,
		"classes: {premium: {jobs: -1}}":       "classes: premium: jobs must be",
		"topic: {groups: 1}":                   "topic: topics, groups and jobs are limits of an app",
	} {
		_, err := Kind().Read(plugins.ParseOptions(text))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// The example of the documentation is one.
func TestOptionsOfTheDocumentation(t *testing.T) {
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, example, _ := strings.Cut(string(text), "  quota:\n")
	example, _, found := strings.Cut(example, "```")
	if _, err := Kind().Read(plugins.ParseOptions(example)); err != nil || !found {
		t.Errorf("%v of:\n%s", err, example)
	}
}

// However many apps there are, the metrics know a thousand.
func TestMetricsAreBounded(t *testing.T) {
	reg := prometheus.NewRegistry()
	p := New(Config{Options: Options{Default: Limits{Requests: 1e-6}, Address: Limits{Calls: 1000}}, Meta: unknown(), Others: alone, Log: slog.New(slog.DiscardHandler), Metrics: reg})
	count := func() int {
		n, err := testutil.GatherAndCount(reg)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := count()
	for i := range 5000 {
		c := publish(fmt.Sprintf("app%d", i), 1, 1)
		c.Remote, c.Topic, c.KeyID = fmt.Sprintf("10.0.%d.%d:1", i/250, i%250), fmt.Sprintf("t%d", i), fmt.Sprintf("k%d", i)
		_ = do(p, c)
		if do(p, c) == nil {
			t.Fatal("let in")
		}
	}
	if n := count() - before; n != maxApps+1 {
		t.Errorf("%d series more", n)
	}
	if n := testutil.ToFloat64(p.metrics.app("other")); n != 4000 {
		t.Errorf("%v refusals of others", n)
	}
}

// Who is not there any more is forgotten when there is nothing to remember; who owes is not.
func TestForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := limited(t, Options{Default: Limits{Messages: 10, Streams: 100}, Address: Limits{Requests: 100}, Topic: Limits{Requests: 10}, Key: Limits{Requests: 10}})
		_ = do(p, publish("owes", 1000, 1))
		_ = do(p, publish("light", 1, 1))
		_ = do(p, publish("stays", 1, 1), func() {
			wait(61 * time.Second)
			p.sweep(p.now())
			for app, there := range map[string]bool{"owes": true, "light": false, "stays": true} {
				if (p.apps.get(app) != nil) != there {
					t.Errorf("app %s is there: %v", app, !there)
				}
			}
		})
		wait(200 * time.Second)
		p.sweep(p.now())
		if n := p.apps.count.Load() + p.keys.count.Load() + p.topics.count.Load() + p.addresses.count.Load(); n != 0 {
			t.Errorf("%d are left", n)
		}
	})
}

// A meter that is dropped while a request is on its way to it does not serve: its bucket would be a second one.
func TestDroppedMeterIsNotUsed(t *testing.T) {
	p := limited(t, Options{Default: Limits{Requests: 1}})
	_ = do(p, publish("a", 1, 1))
	old := p.apps.get("a")
	old.mu.Lock()
	old.gone = true
	old.mu.Unlock()
	done := make(chan error)
	go func() { done <- do(p, publish("a", 1, 1)) }()
	runtime.Gosched() // it looks again and again
	s := p.apps.shard("a")
	s.mu.Lock()
	delete(s.meters, "a")
	s.mu.Unlock()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if m := p.apps.get("a"); m == old || m == nil || m.tokens[requests] > math.Nextafter(0.1, 1) {
		t.Errorf("%+v", m)
	}
}

// A table that is full has one meter for all who are new, and it is limited like any.
func TestFullTable(t *testing.T) {
	p := limited(t, Options{Default: Limits{Requests: 2}})
	p.apps.count.Store(maxMeters)
	for i, want := range []string{"", "", "throttled", "throttled"} {
		if got := code(do(p, publish(fmt.Sprintf("app%d", i), 1, 1))); got != want {
			t.Errorf("number %d: %q", i, got)
		}
	}
}
