package plugins

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/kateway/kateway/internal/errs"
)

// leaver is a link that does not wait for the end.
type leaver struct{ link }

func (leaver) Leaves() {}

// ender is an Ender of a function.
type ender func(error)

func (f ender) End(err error) { f(err) }

// gates are chains of these plugins in every way that a plugin may be called.
func gates(list ...Plugin) map[string]*Gate {
	links := func(limit time.Duration) (out []Link) {
		for _, p := range list {
			out = append(out, Link{Name: "p", Plugin: p, Limit: limit})
		}
		return out
	}
	log := slog.New(slog.DiscardHandler)
	return map[string]*Gate{
		"bare":      NewGate(list),
		"contained": NewContained(links(0), log, prometheus.NewRegistry()),
		"apart":     NewContained(links(time.Minute), log, prometheus.NewRegistry()),
	}
}

// The work may leave a call where it can and nobody in the chain waits for its end.
func TestLeave(t *testing.T) {
	type key struct{}
	deeper := func(ctx context.Context, c *Call, next Handler) error {
		return next(context.WithValue(ctx, key{}, 1), c)
	}
	for _, c := range []struct {
		what  string
		may   bool
		chain []Plugin
		want  bool
	}{
		{"one who leaves", true, []Plugin{leaver{pass}}, true},
		{"two who leave", true, []Plugin{leaver{pass}, leaver{pass}}, true},
		{"one who stays", true, []Plugin{leaver{pass}, link(pass)}, false},
		{"one who stays, first", true, []Plugin{link(pass), leaver{pass}}, false},
		{"a context of its own", true, []Plugin{leaver{pass}, leaver{deeper}}, true},
		{"a call that can't", false, []Plugin{leaver{pass}}, false},
	} {
		for name, g := range gates(c.chain...) {
			call := &Call{App: "shop", Lasting: true, MayLeave: c.may}
			err := g.Pass(httptest.NewRecorder(), request(""), call, func(*http.Request) error {
				ctx, over, ok := call.Leave()
				if ok != c.want {
					t.Errorf("%s, %s: %v", c.what, name, ok)
				}
				if ok {
					if over(nil); ctx == nil {
						t.Errorf("%s, %s: no context", c.what, name)
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

// What plugins have for the end is done when the work has ended: not before, and once, from the innermost to the first, with what
// became of it. Until then their context goes on, whatever becomes of the request, and ends when one of them ends it.
func TestEndOfWhatHasLeft(t *testing.T) {
	why := fmt.Errorf("no longer: %w", errs.Unauthenticated)
	for name, early := range map[string]bool{"it lasts": false, "it ends before the chain has returned": true} {
		var told []string
		var stop context.CancelCauseFunc
		ends := func(who string) link {
			return func(ctx context.Context, c *Call, next Handler) (err error) {
				ctx, cancel := context.WithCancelCause(ctx)
				stop = cancel
				defer func() {
					c.AtEnd(err, ender(func(err error) {
						told = append(told, fmt.Sprint(who, ": ", err))
						cancel(nil)
					}))
				}()
				return next(ctx, c)
			}
		}
		for how, g := range gates(leaver{ends("first")}, leaver{ends("second")}) {
			told = nil
			call := &Call{App: "shop", Lasting: true, MayLeave: true}
			request := request("")
			hurry, hangUp := context.WithCancel(request.Context())
			var ctx context.Context
			var over func(error)
			err := g.Pass(httptest.NewRecorder(), request.WithContext(hurry), call, func(r *http.Request) error {
				var ok bool
				if ctx, over, ok = call.Leave(); !ok || r.Context() != ctx {
					t.Errorf("%s: %v, %v", how, ctx, ok)
				}
				if early {
					over(errs.Overloaded)
				}
				return nil
			})
			hangUp()
			if err != nil {
				t.Fatal(err)
			}
			if !early {
				if ctx.Err() != nil || told != nil {
					t.Fatalf("%s, %s: %v, %q while it lasts", name, how, ctx.Err(), told)
				}
				stop(End(why))
				if got := Ended(ctx); !errors.Is(got, why) {
					t.Errorf("%s, %s: ended for %v", name, how, got)
				}
				over(errs.Overloaded)
			}
			want := []string{"second: " + errs.Overloaded.Error(), "first: " + errs.Overloaded.Error()}
			if !slices.Equal(told, want) || ctx.Err() == nil {
				t.Errorf("%s, %s: %q, %v", name, how, told, ctx.Err())
			}
		}
	}
}

// A call whose work has not left has its end when the chain returns: by an error, or by the work's panic too.
func TestEndOfWhatHasNotLeft(t *testing.T) {
	for what, work := range map[string]func() error{
		"served": func() error { return nil }, "failed": func() error { return errs.Overloaded }, "panics": func() error { panic("at work") },
	} {
		for _, may := range []bool{false, true} {
			told := 0
			deferred := func(ctx context.Context, c *Call, next Handler) (err error) {
				defer func() { c.AtEnd(err, ender(func(error) { told++ })) }()
				return next(ctx, c)
			}
			for how, g := range gates(leaver{deferred}) {
				if what == "panics" && how == "apart" { // it is told of, in another goroutine
					continue
				}
				told = 0
				func() {
					defer func() { _ = recover() }()
					_ = g.Pass(httptest.NewRecorder(), request(""), &Call{App: "shop", MayLeave: may}, func(*http.Request) error { return work() })
				}()
				if told != 1 {
					t.Errorf("%s, %s, may leave %v: told %d times", what, how, may, told)
				}
			}
		}
	}
}

// A plugin that fails at the end of a call does it to nobody but itself.
func TestPluginsThatFailAtTheEnd(t *testing.T) {
	for what, limit := range map[string]time.Duration{"panic": 0, "hang": 10 * time.Millisecond} {
		fail := func() { panic("at the end") }
		if what == "hang" {
			fail = forever(t)
		}
		told := false
		ends := func(f func()) link {
			return func(ctx context.Context, c *Call, next Handler) error {
				err := next(ctx, c)
				c.AtEnd(err, ender(func(error) { f() }))
				return err
			}
		}
		metrics := prometheus.NewRegistry()
		g := NewContained([]Link{
			{Name: "good", Plugin: leaver{ends(func() { told = true })}}, {Name: "bad", Plugin: leaver{ends(fail)}, Limit: limit},
		}, slog.New(slog.DiscardHandler), metrics)
		call := &Call{App: "shop", Lasting: true, MayLeave: true}
		var over func(error)
		if err := g.Pass(httptest.NewRecorder(), request(""), call, func(*http.Request) error { _, over, _ = call.Leave(); return nil }); err != nil {
			t.Fatal(err)
		}
		over(nil)
		if n, err := testutil.GatherAndCount(metrics, "kateway_plugin_failures_total"); err != nil || n == 0 || !told {
			t.Errorf("%s: %d, %v; the other was told: %v", what, n, err, told)
		}
	}
}
