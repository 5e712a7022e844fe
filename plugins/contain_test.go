package plugins

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// boxed is a chain of one plugin in a box.
func boxed(p Plugin, limit time.Duration) *Gate {
	return NewContained([]Link{{Name: "p", Plugin: p, Limit: limit}}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
}

func pass(ctx context.Context, c *Call, next Handler) error { return next(ctx, c) }

// forever hangs until the test ends.
func forever(t *testing.T) (hang func()) {
	end := make(chan struct{})
	t.Cleanup(func() { close(end) })
	return func() { <-end }
}

// Whatever a plugin does to a request, it is answered, in time, and without credentials having been checked nothing is done.
func TestPluginsThatFail(t *testing.T) {
	for _, limit := range []time.Duration{0, time.Second} {
		for name, tc := range map[string]struct {
			plugin func(hang func()) link
			apart  bool // only a plugin that runs apart may do that
			kind   error
			worked int
		}{
			"passes":        {func(func()) link { return pass }, false, nil, 1},
			"refuses":       {func(func()) link { return func(context.Context, *Call, Handler) error { return errs.Denied } }, false, errs.Denied, 0},
			"panics before": {func(func()) link { return func(context.Context, *Call, Handler) error { panic("no") } }, false, errs.Internal, 0},
			"panics after": {func(func()) link {
				return func(ctx context.Context, c *Call, next Handler) error { _ = next(ctx, c); panic("no") }
			}, false, nil, 1},
			"hangs before": {func(hang func()) link { return func(context.Context, *Call, Handler) error { hang(); return nil } }, true, errs.Unavailable, 0},
			"hangs after": {func(hang func()) link {
				return func(ctx context.Context, c *Call, next Handler) error { _ = next(ctx, c); hang(); return nil }
			}, true, nil, 1},
			"comes too late": {func(func()) link {
				return func(ctx context.Context, c *Call, next Handler) error { <-time.After(time.Minute); return next(ctx, c) }
			}, true, errs.Unavailable, 0},
			"foreign context": {func(func()) link {
				return func(_ context.Context, c *Call, next Handler) error { return next(context.Background(), c) }
			}, true, errs.Internal, 0},
			"neither nor": {func(func()) link { return func(context.Context, *Call, Handler) error { return nil } }, false, errs.Internal, 0},
			"passes it twice": {func(func()) link {
				return func(ctx context.Context, c *Call, next Handler) error { _ = next(ctx, c); return next(ctx, c) }
			}, false, errs.Internal, 1},
			"panics with abort": {func(func()) link { return func(context.Context, *Call, Handler) error { panic(errors.New("abort")) } }, false, errs.Internal, 0},
		} {
			if tc.apart && limit == 0 {
				continue
			}
			synctest.Test(t, func(t *testing.T) {
				worked, began := 0, time.Now()
				g := boxed(tc.plugin(forever(t)), limit)
				err := g.Pass(httptest.NewRecorder(), request(""), &Call{App: "shop"}, func(*http.Request) error { worked++; return nil })
				if !errors.Is(err, tc.kind) || (err == nil) != (tc.kind == nil) || worked != tc.worked {
					t.Errorf("%s, limit %v: %v, worked %d times", name, limit, err, worked)
				}
				if took := time.Since(began); took > time.Second {
					t.Errorf("%s, limit %v: answered after %v", name, limit, took)
				}
				<-time.After(time.Hour) // whoever is late comes now
				if worked != tc.worked {
					t.Errorf("%s, limit %v: worked later", name, limit)
				}
			})
		}
	}
}

func TestPanicsOfTheWorkAreNotThePlugins(t *testing.T) {
	for _, limit := range []time.Duration{0, time.Second} {
		func() {
			defer func() {
				if p := recover(); p != http.ErrAbortHandler {
					t.Errorf("limit %v: %v", limit, p)
				}
			}()
			g := NewContained([]Link{{Name: "a", Plugin: link(pass), Limit: limit}, {Name: "b", Plugin: link(pass), Limit: limit}}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
			_ = g.Pass(httptest.NewRecorder(), request(""), &Call{App: "shop"}, func(*http.Request) error { panic(http.ErrAbortHandler) })
		}()
	}
}

// A plugin that says who calls does so from its box, too.
func TestIdentityComesOutOfTheBox(t *testing.T) {
	who := identifier{func(ctx context.Context, c *Call, next Handler) error {
		c.App, c.KeyID = "proven", "k1"
		err := next(ctx, c)
		if !errors.Is(c.Result, errs.Conflict) {
			t.Errorf("the plugin sees the result %v", c.Result)
		}
		return err
	}}
	for _, limit := range []time.Duration{0, time.Second} {
		c := &Call{App: "claimed"}
		err := boxed(who, limit).Pass(httptest.NewRecorder(), request(""), c, func(*http.Request) error { return errs.Conflict })
		if c.App != "proven" || c.KeyID != "k1" || !errors.Is(err, errs.Conflict) {
			t.Errorf("limit %v: %+v, %v", limit, c, err)
		}
	}
}

// What a plugin sets in the answer's header comes out of its box, but for what it sets when nobody waits for it any more.
func TestHeaderOfTheAnswerComesOutOfTheBox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		set := link(func(ctx context.Context, c *Call, next Handler) error {
			c.Answer.Set("X-Early", "1")
			err := next(ctx, c)
			<-time.After(time.Minute)
			c.Answer.Set("X-Late", "1")
			return err
		})
		w := httptest.NewRecorder()
		err := boxed(set, time.Second).Pass(w, request(""), &Call{App: "shop"}, func(*http.Request) error { return nil })
		<-time.After(time.Hour)
		if h := w.Header(); err != nil || h.Get("X-Early") != "1" || h.Get("X-Late") != "" {
			t.Errorf("%v, %v", h, err)
		}
	})
}

// One that hangs every time does not pile up goroutines without end, and is used again when it is well.
func TestHangingPluginIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end := make(chan struct{})
		var calls atomic.Int32
		g := boxed(link(func(ctx context.Context, c *Call, next Handler) error {
			calls.Add(1)
			<-end
			return next(ctx, c)
		}), time.Second)
		ask := func() error {
			return g.Pass(httptest.NewRecorder(), request(""), &Call{App: "shop"}, func(*http.Request) error { return nil })
		}
		for range 2 * maxStuck {
			if err := ask(); !errors.Is(err, errs.Unavailable) {
				t.Fatal(err)
			}
		}
		if n := calls.Load(); n != maxStuck {
			t.Errorf("it was called %d times", n)
		}
		close(end)
		synctest.Wait()
		if err := ask(); err != nil {
			t.Error(err)
		}
	})
}

func TestQuestionsAboutMessagesThatFail(t *testing.T) {
	for _, limit := range []time.Duration{0, time.Second} {
		for name, f := range map[string]func(hang func()){
			"panic": func(func()) { panic("no") },
			"hang":  func(hang func()) { hang() },
		} {
			if name == "hang" && limit == 0 {
				continue
			}
			synctest.Test(t, func(t *testing.T) {
				hang := forever(t)
				p := failing{link(pass), func() { f(hang) }}
				g := boxed(p, limit)
				if err := g.Admit(t.Context(), &Call{}); err == nil {
					t.Errorf("%s: admitted", name)
				}
				m := &Message{Message: store.Message{Value: []byte("v")}}
				if err := g.Inspection(&Call{})(t.Context(), m); err == nil || string(m.Value) != "v" {
					t.Errorf("%s: %v, %q", name, err, m.Value)
				}
				p.f = func() { f(hang) }
				if inspect := boxed(blind{p}, limit).Inspection(&Call{}); inspect == nil || inspect(t.Context(), m) == nil {
					t.Errorf("%s: messages pass that nobody has looked at", name)
				}
			})
		}
	}
}

// failing fails at every question about messages; blind already when it is asked whether it looks.
type failing struct {
	link
	f func()
}

func (p failing) Admit(context.Context, *Call) error { p.f(); return nil }
func (p failing) Inspection(*Call) Inspection {
	return func(_ context.Context, m *Message) error {
		m.Value = []byte("changed")
		p.f()
		return nil
	}
}

type blind struct{ failing }

func (p blind) Inspection(*Call) Inspection { p.f(); return nil }

func BenchmarkBox(b *testing.B) {
	for _, bench := range []struct {
		name string
		gate *Gate
	}{
		{"bare", NewGate([]Plugin{link(pass)})},
		{"prompt", boxed(link(pass), 0)},
		{"apart", boxed(link(pass), time.Second)},
	} {
		b.Run(bench.name, func(b *testing.B) {
			w, r := httptest.NewRecorder(), request("")
			b.ReportAllocs()
			for b.Loop() {
				c := Call{App: "shop"}
				if err := bench.gate.Pass(w, r, &c, func(*http.Request) error { return nil }); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
