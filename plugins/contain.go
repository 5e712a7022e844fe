package plugins

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// Link is a plugin in a chain whose failures are its own.
type Link struct {
	Name   string
	Plugin Plugin
	// Limit is the longest that each of its steps may take: before it passes a request on, after that, and for each question
	// about messages. It then runs in a goroutine of its own, so that a request whose plugin hangs has an answer in time.
	// 0 is for a plugin that is known never to wait; it is called as it is.
	Limit time.Duration
}

// maxStuck is how many steps of a plugin may hang at a time. Beyond, requests that need it are refused at once.
const maxStuck = 64

// NewContained makes a chain in which a plugin that panics or hangs costs only the request that it does it to: that is
// refused (Internal, Unavailable), never let through. Of a plugin that panics when the work is done the work's own outcome
// counts. What a plugin allocates can't be bounded.
func NewContained(links []Link, log *slog.Logger, metrics prometheus.Registerer) *Gate {
	if len(links) == 0 {
		return nil
	}
	failures := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kateway_plugin_failures_total", Help: "Requests that a plugin failed, by panic or by taking too long.",
	}, []string{"plugin", "failure"})
	metrics.MustRegister(failures)
	var list []Plugin
	g := &Gate{}
	for _, l := range links {
		b := &box{
			Link: l, log: log.With("plugin", l.Name),
			panics: failures.WithLabelValues(l.Name, "panic"), hangs: failures.WithLabelValues(l.Name, "hang"),
		}
		list = append(list, b)
		if _, ok := l.Plugin.(Identifier); ok {
			g.identifies = true
		}
		if _, ok := l.Plugin.(Leaver); !ok {
			g.stays = true
		}
		if a, ok := l.Plugin.(Admitter); ok {
			g.admitters = append(g.admitters, boxedAdmitter{b, a})
		}
		if i, ok := l.Plugin.(Inspector); ok {
			g.inspectors = append(g.inspectors, boxedInspector{b, i})
		}
		if r, ok := l.Plugin.(Recorder); ok {
			g.recorders = append(g.recorders, boxedRecorder{b, r})
		}
	}
	g.chain = Chain(list, work)
	return g
}

// box is what a plugin runs in.
type box struct {
	Link
	log           *slog.Logger
	panics, hangs prometheus.Counter
	stuck         atomic.Int32 // steps that nobody waits for any more
}

// Wrap is Plugin's.
func (b *box) Wrap(next Handler) Handler {
	if b.Limit > 0 {
		return b.apart(next)
	}
	inner := b.Plugin.Wrap(func(ctx context.Context, c *Call) error {
		err := deeper(ctx, c, next)
		c.box = b
		return err
	})
	return func(ctx context.Context, c *Call) (err error) {
		defer b.catch(c, &err)
		return inner(ctx, c)
	}
}

// foreign is a panic of what lies behind the plugin.
type foreign struct{ value any }

// deeper calls what is behind a plugin, whose panics are not the plugin's.
func deeper(ctx context.Context, c *Call, next Handler) error {
	defer func() {
		if p := recover(); p != nil {
			if _, ours := p.(foreign); !ours {
				p = foreign{p}
			}
			panic(p)
		}
	}()
	return next(ctx, c)
}

// catch makes an error of the plugin's panic. It is to be deferred.
func (b *box) catch(c *Call, err *error) {
	p := recover() //nolint:revive // it is what is deferred
	if p == nil {
		return
	}
	if f, ok := p.(foreign); ok {
		panic(f.value)
	}
	if e, ok := p.(error); ok && errors.Is(e, http.ErrAbortHandler) {
		panic(p)
	}
	*err = b.panicked(p)
	if c != nil && c.begun() {
		*err = c.Result
	}
}

// panicError is what a plugin's panic is made into.
type panicError struct{ plugin string }

func (e *panicError) Error() string {
	return "plugin " + e.plugin + " panicked: " + errs.Internal.Error()
}
func (e *panicError) Unwrap() error { return errs.Internal }

// panicked tells of a panic.
func (b *box) panicked(p any) error {
	b.panics.Inc()
	b.log.Error("a plugin panicked", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	return &panicError{b.Name}
}

// hung tells of a step that takes too long.
func (b *box) hung() error {
	b.hangs.Inc()
	b.log.Error("a plugin takes too long; its request is refused", "limit", b.Limit, "hanging", b.stuck.Load())
	return fmt.Errorf("plugin %s took longer than %v: %w", b.Name, b.Limit, errs.Unavailable)
}

// within runs a step of the plugin that has nothing behind it.
func (b *box) within(f func() error) (err error) {
	if b.Limit == 0 {
		defer b.catch(nil, &err)
		return f()
	}
	if b.stuck.Load() >= maxStuck {
		return b.hung()
	}
	done := make(chan error, 1)
	go func() {
		var err error
		defer func() { done <- err }()
		defer b.catch(nil, &err)
		err = f()
	}()
	t := time.NewTimer(b.Limit)
	defer t.Stop()
	select {
	case err := <-done:
		return err
	case <-t.C:
		b.abandon(done)
		return b.hung()
	}
}

// abandon counts a step as hanging until it ends after all.
func (b *box) abandon(done <-chan error) {
	b.stuck.Add(1)
	go func() {
		if err := <-done; err != nil {
			b.log.Debug("a step that hung has ended after all", "error", err)
		}
		b.stuck.Add(-1)
	}()
}

type boxedAdmitter struct {
	*box
	a Admitter
}

func (b boxedAdmitter) Admit(ctx context.Context, c *Call) error {
	if b.Limit == 0 {
		return b.admit(ctx, c)
	}
	theirs := *c // what hangs must not touch ours
	theirs.Answer = http.Header{}
	return b.within(func() error { return b.a.Admit(ctx, &theirs) })
}

// admit asks here and now.
func (b boxedAdmitter) admit(ctx context.Context, c *Call) (err error) {
	defer b.catch(nil, &err)
	return b.a.Admit(ctx, c)
}

type boxedInspector struct {
	*box
	i Inspector
}

func (b boxedInspector) Inspection(c *Call) Inspection {
	var f Inspection
	if err := b.within(func() error { f = b.i.Inspection(c); return nil }); err != nil {
		return func(context.Context, *Message) error { return err }
	}
	if f == nil {
		return nil
	}
	return func(ctx context.Context, m *Message) error {
		theirs := *m
		if err := b.within(func() error { return f(ctx, &theirs) }); err != nil {
			return err
		}
		*m = theirs
		return nil
	}
}

type boxedRecorder struct {
	*box
	r Recorder
}

// Published is called as it is, whatever the limit: the messages are lent for the time of the call only. A panic is told and has no consequence.
func (b boxedRecorder) Published(ctx context.Context, c *Call, outcome error, msgs []*store.Message) {
	var err error
	defer b.catch(nil, &err)
	b.r.Published(ctx, c, outcome, msgs)
}

// visit is one request in a plugin that runs apart: its goroutine asks ours to go on behind it, and waits.
type visit struct {
	pass chan context.Context // the plugin lets it through
	came chan error           // what came of it
	gone chan struct{}        // nobody waits for the plugin any more
}

type visitKey struct{ *box }

// apart runs the plugin in a goroutine of its own, and what is behind it in the request's.
func (b *box) apart(next Handler) Handler {
	inner := b.Plugin.Wrap(func(ctx context.Context, _ *Call) error {
		v, ok := ctx.Value(visitKey{b}).(*visit)
		if !ok {
			return fmt.Errorf("plugin %s passes a request on without its context: %w", b.Name, errs.Internal)
		}
		select {
		case v.pass <- ctx:
			return <-v.came
		case <-v.gone:
			return fmt.Errorf("plugin %s comes too late: %w", b.Name, errs.Unavailable)
		}
	})
	return func(ctx context.Context, c *Call) error {
		if b.stuck.Load() >= maxStuck {
			return b.hung()
		}
		v := &visit{pass: make(chan context.Context), came: make(chan error, 1), gone: make(chan struct{})}
		theirs := *c // what hangs must not touch ours
		theirs.Answer, theirs.box = http.Header{}, b
		done := make(chan error, 1)
		go func() {
			var err error
			defer func() { done <- err }()
			defer b.catch(nil, &err)
			err = inner(context.WithValue(ctx, visitKey{b}, v), &theirs)
		}()
		return b.accompany(v, c, &theirs, done, next)
	}
}

// accompany waits for the plugin's steps. Between them, while the plugin waits for what is behind it, its Call is ours to read.
func (b *box) accompany(v *visit, c, theirs *Call, done <-chan error, next Handler) error {
	t := time.NewTimer(b.Limit)
	defer t.Stop()
	for passed := false; ; {
		select {
		case err := <-done:
			if errors.As(err, new(*panicError)) && passed && c.begun() {
				return c.Result
			}
			return err
		case inner := <-v.pass:
			c.learn(theirs)
			passed = true
			t.Stop()
			v.came <- b.behind(inner, v, c, theirs, next)
			t.Reset(b.Limit)
		case <-t.C:
			close(v.gone)
			b.abandon(done)
			if err := b.hung(); !passed || !c.begun() {
				return err
			}
			return c.Result
		}
	}
}

// behind goes on behind the plugin. When that panics the plugin is told something, since it waits.
func (b *box) behind(ctx context.Context, v *visit, c, theirs *Call, next Handler) (err error) {
	ended := false
	defer func() {
		if !ended {
			v.came <- fmt.Errorf("behind plugin %s: %w", b.Name, errs.Internal)
		}
	}()
	err = next(ctx, c)
	ended = true
	theirs.Result = c.Result
	return err
}

// learn takes over what a plugin may say of a call.
func (c *Call) learn(from *Call) {
	c.App, c.KeyID, c.Expires, c.Route = from.App, from.KeyID, from.Expires, from.Route
	maps.Copy(c.Answer, from.Answer)
}

// begun reports whether the work has.
func (c *Call) begun() bool { return c.work == nil }
