// Package quota is the plugin that limits how much and how fast: of each app, key, topic and client address, so many
// requests, messages and bytes a second, and so much under way at a time. The limits of an app are those of its record,
// else the configuration's. Several gateways split each app's limits by where its demand is; see share.go.
package quota

import (
	"context"
	"fmt"
	"hash/maphash"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/httpx"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/plugins"
)

var (
	_ plugins.Admitter = (*Plugin)(nil)
	_ plugins.Leaver   = (*Plugin)(nil)
	_ plugins.Runner   = (*Plugin)(nil)
	_ plugins.Answerer = (*Plugin)(nil)
)

// Config is what a Plugin stands on. All fields but Options are needed.
type Config struct {
	Options Options
	// Meta knows apps and their limits. A change counts from the next request on.
	Meta interface{ Snapshot() *meta.Snapshot }
	// Others asks the same plugin of every other gateway, as plugins.Env has it.
	Others  func(ctx context.Context, ask []byte) map[string][]byte
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// Kind is the plugin as the configuration has it.
func Kind() plugins.Kind {
	return plugins.Kind{Read: func(o plugins.Options) (plugins.Make, error) {
		var options Options
		if err := o.Into(&options); err != nil {
			return nil, err
		}
		if err := options.check(); err != nil {
			return nil, err
		}
		return func(_ context.Context, e plugins.Env) (plugins.Plugin, error) {
			return New(Config{Options: options, Meta: e.Meta, Others: e.Others, Log: e.Log, Metrics: e.Metrics}), nil
		}, nil
	}}
}

// Plugin limits. Its methods may be called concurrently.
type Plugin struct {
	options Options
	meta    interface{ Snapshot() *meta.Snapshot }
	others  func(ctx context.Context, ask []byte) map[string][]byte
	log     *slog.Logger
	metrics *metrics
	seed    maphash.Seed
	started time.Time
	tickets sync.Pool

	bounds    [scopes]*bounds    // of each key, topic and address; nil where nothing is limited
	classes   map[string]*bounds // of apps without limits of their own; only read
	apps      *table[string]
	keys      *table[string]
	topics    *table[meta.Topic]
	addresses *table[netip.Addr]

	fleet fleet
}

// New makes a Plugin. It panics where the metrics are registered already.
func New(c Config) *Plugin {
	p := &Plugin{
		options: c.Options, meta: c.Meta, others: c.Others, log: c.Log,
		metrics: newMetrics(c.Metrics), seed: maphash.MakeSeed(), started: time.Now(),
		fleet: fleet{reports: map[string]*report{}},
	}
	p.tickets.New = func() any { return &ticket{of: p} }
	p.classes = map[string]*bounds{}
	for _, class := range []string{meta.ClassPremium, meta.ClassStandard, meta.ClassBestEffort} {
		p.classes[class] = newBounds(scopeApp, c.Options.of(&meta.App{Class: class}))
	}
	p.bounds[scopeApp] = p.classes[meta.ClassStandard] // of the crowd
	for s, l := range map[scope]Limits{scopeKey: c.Options.Key, scopeTopic: c.Options.Topic, scopeAddress: c.Options.Address} {
		if b := newBounds(s, l); !b.free() {
			p.bounds[s] = b
		}
	}
	p.apps, p.keys = newTable[string](p.crowd(scopeApp)), newTable[string](p.crowd(scopeKey))
	p.topics, p.addresses = newTable[meta.Topic](p.crowd(scopeTopic)), newTable[netip.Addr](p.crowd(scopeAddress))
	c.Metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "kateway_quota_meters", Help: "Apps, keys, topics and addresses whose use is remembered.",
	}, func() float64 {
		return float64(p.apps.count.Load() + p.keys.count.Load() + p.topics.count.Load() + p.addresses.count.Load())
	}))
	c.Metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "kateway_quota_gateways", Help: "Gateways that share the limits of apps, this one included.",
	}, func() float64 { return float64(p.fleet.size()) }))
	return p
}

// crowd is a meter of all of a scope that have none of their own.
func (p *Plugin) crowd(s scope) *meter {
	b := p.bounds[s]
	if b == nil {
		b = &bounds{}
	}
	return newMeter(s, "", nil, b, 1, 0)
}

// now is the time that meters go by.
func (p *Plugin) now() int64 { return int64(time.Since(p.started)) }

// ticket is what a request has taken.
type ticket struct {
	of *Plugin
	entry
	held [scopes]*meter
	n    int
}

// Wrap counts a request while it is under way. Kinds: Throttled when it is over a limit, with the time after which it is not;
// Denied for a topic more than there may be; Internal where nobody has said who calls.
func (p *Plugin) Wrap(next plugins.Handler) plugins.Handler {
	return func(ctx context.Context, c *plugins.Call) (err error) {
		t, _ := p.tickets.Get().(*ticket)
		defer func() {
			c.Held = nil
			c.AtEnd(err, t)
		}()
		if err := p.enter(c, t); err != nil {
			return err
		}
		return next(ctx, c)
	}
}

// Leaves is plugins.Leaver's: what is under way is given back by the ticket.
func (*Plugin) Leaves() {}

// End gives back what is under way. What was charged to a rate stays charged.
func (t *ticket) End(error) {
	p, now := t.of, int64(0)
	if t.topic != 0 || t.group != 0 { // else nobody asks what time it is
		now = p.now()
	}
	for _, m := range t.held[:t.n] {
		m.mu.Lock()
		m.leave(&t.entry, t.bytes, now)
		m.mu.Unlock()
	}
	*t = ticket{of: p}
	p.tickets.Put(t)
}

// enter asks every scope, those that many share first.
func (p *Plugin) enter(c *plugins.Call, t *ticket) error {
	if c.App == "" {
		return fmt.Errorf("quota is asked before anybody has said who calls; name it behind auth: %w", errs.Internal)
	}
	now := p.now()
	t.publish = c.Op == plugins.Publish
	if c.Lasting {
		t.streams = 1
	} else {
		t.bytes = max(c.Size, 0)
	}
	if b := p.bounds[scopeAddress]; b != nil {
		a := address(c.Remote)
		m := p.addresses.locked(a, false, func() (netip.Addr, *meter) { return a, newMeter(scopeAddress, "", nil, b, 1, now) })
		if err := p.pass(c, t, m, now); err != nil {
			return err
		}
	}
	if b := p.bounds[scopeKey]; b != nil && c.KeyID != "" {
		m := p.keys.locked(c.KeyID, false, func() (string, *meter) { return strings.Clone(c.KeyID), newMeter(scopeKey, "", nil, b, 1, now) })
		if err := p.pass(c, t, m, now); err != nil {
			return err
		}
	}
	if b := p.bounds[scopeTopic]; b != nil {
		m := p.topics.locked(topic(c), false, func() (meta.Topic, *meter) { return clone(topic(c)), newMeter(scopeTopic, "", nil, b, 1, now) })
		if err := p.pass(c, t, m, now); err != nil {
			return err
		}
	}
	if err := p.enterApp(c, t, now); err != nil {
		return err
	}
	c.Held = t
	return nil
}

// enterApp asks the app's own limits, as they are now.
func (p *Plugin) enterApp(c *plugins.Call, t *ticket, now int64) error {
	snap := p.meta.Snapshot()
	m := p.meterOf(c.App, snap, now)
	if m == nil {
		return nil
	}
	t.name(p, m.bounds, snap, c)
	return p.pass(c, t, m, now)
}

// meterOf is the meter of an app, locked, with the bounds that it has now; nil where nothing is limited.
func (p *Plugin) meterOf(name string, snap *meta.Snapshot, now int64) *meter {
	if m := p.apps.get(name); m != nil {
		m.mu.Lock()
		if m.revision == snap.Revision() && !m.gone {
			return m
		}
		m.mu.Unlock()
	}
	app := snap.App(name)
	b := p.plain(app)
	if b != nil && b.free() {
		return nil
	}
	m := p.apps.locked(name, app != nil, func() (string, *meter) {
		own := strings.Clone(name)
		return own, newMeter(scopeApp, own, app, p.own(app), p.fleet.share(own), now)
	})
	switch {
	case m == p.apps.crowd:
		return m
	case b != nil && m.bounds != b:
		m.refit(app, b, now)
	case m.app != app:
		m.refit(app, p.own(app), now)
	}
	m.revision = snap.Revision()
	return m
}

// plain are the bounds of an app that has no limits of its own; nil of one that has.
func (p *Plugin) plain(app *meta.App) *bounds {
	switch {
	case app == nil:
		return p.classes[meta.ClassStandard]
	case app.Limits != (meta.Limits{}):
		return nil
	}
	if b := p.classes[app.Class]; b != nil {
		return b
	}
	return p.classes[meta.ClassStandard]
}

// own are the bounds of an app.
func (p *Plugin) own(app *meta.App) *bounds {
	if b := p.plain(app); b != nil {
		return b
	}
	return newBounds(scopeApp, p.options.of(app))
}

// name says which things that are limited in number the request uses.
func (t *ticket) name(p *Plugin, b *bounds, snap *meta.Snapshot, c *plugins.Call) {
	if b.Topics > 0 && snap.Topic(topic(c)) == nil {
		t.topic = maphash.Comparable(p.seed, topic(c)) | 1
	}
	if b.Groups > 0 && c.Group != "" {
		t.group = maphash.Comparable(p.seed, group{topic(c), c.Group}) | 1
	}
}

type group struct {
	topic meta.Topic
	name  string
}

// pass enters a meter, which is locked, and unlocks it.
func (p *Plugin) pass(c *plugins.Call, t *ticket, m *meter, now int64) error {
	r := m.enter(&t.entry, now)
	if r.what != nothing || !t.publish || c.Lasting { // else Admit knows more
		m.tell(c.Answer, now, r.what != nothing)
	}
	m.mu.Unlock()
	if r.what == nothing {
		t.held[t.n] = m
		t.n++
		return nil
	}
	p.refund(t, [rates]float64{requests: 1})
	return p.refuse(c, m, r)
}

// refund gives back what was charged to the meters that let the request in, after one that did not.
func (*Plugin) refund(t *ticket, n [rates]float64) {
	for _, m := range t.held[:t.n] {
		m.mu.Lock()
		m.add(n, 1)
		m.mu.Unlock()
	}
}

// Admit charges the messages, all of them or none, to every scope that the request has entered. Kind Throttled.
func (p *Plugin) Admit(_ context.Context, c *plugins.Call) error {
	t, ok := c.Held.(*ticket)
	if !ok {
		return fmt.Errorf("quota is asked about messages of a request that it does not know: %w", errs.Internal)
	}
	now := p.now()
	n := [rates]float64{messages: float64(c.Messages), volume: float64(c.Bytes)}
	more := int64(0)
	if !c.Lasting {
		more = max(c.Bytes-t.bytes, 0)
	}
	for i, m := range t.held[:t.n] {
		m.mu.Lock()
		r := m.admit(n, more, now)
		m.tell(c.Answer, now, r.what != nothing)
		m.mu.Unlock()
		if r.what != nothing {
			for _, m := range t.held[:i] {
				m.mu.Lock()
				m.add(n, 1)
				m.counts.bytes -= more
				m.mu.Unlock()
			}
			return p.refuse(c, m, r)
		}
	}
	t.bytes += more
	return nil
}

// refuse makes the error of a refusal.
func (p *Plugin) refuse(c *plugins.Call, m *meter, r refusal) error {
	p.metrics.refused(m, r.what)
	if r.what == overTopics {
		return fmt.Errorf("app %s uses as many topics as it may, and %s would be one more: %w", c.App, topic(c), errs.Denied)
	}
	whose := "this " + scopeNames[m.scope]
	if m.scope == scopeApp {
		whose = "app " + c.App
	}
	return httpx.RetryAfter(fmt.Errorf("%s is over its limit %s; try again in %v: %w",
		whose, limitNames[r.what], max(r.wait, time.Millisecond).Round(time.Millisecond), errs.Throttled), r.wait)
}

// topic is the topic of a call.
func topic(c *plugins.Call) meta.Topic {
	t := meta.Topic{App: c.Owner, Name: c.Topic, Ver: c.Ver}
	if t.App == "" {
		t.App = c.App
	}
	return t
}

// clone does not pin the request.
func clone(t meta.Topic) meta.Topic {
	return meta.Topic{App: strings.Clone(t.App), Name: strings.Clone(t.Name), Ver: strings.Clone(t.Ver)}
}

// address is a client's address, or its network where it has many: who has an address of IPv6 has 2^64 of them. The zero
// value is of those that have none.
func address(remote string) netip.Addr {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Addr{}
	}
	a := ap.Addr().Unmap().WithZone("")
	if a.Is4() {
		return a
	}
	network, err := a.Prefix(64)
	if err != nil {
		return a
	}
	return network.Addr()
}
