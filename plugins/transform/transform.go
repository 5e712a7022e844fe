// Package transform changes messages by rules of the configuration, on their way in and on their way out: it renames, removes,
// masks and redacts what stands in JSON, sets headers, drops messages and sends them to other topics. What no rule touches
// stays as it is, byte for byte.
package transform

import (
	"context"
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/filter"
	"github.com/kateway/kateway/plugins"
)

var _ plugins.Inspector = (*Plugin)(nil)

// Plugin has the rules.
type Plugin struct {
	in, out []*rule

	changed, failed, dropped, routed prometheus.Counter
}

// rule is one that was read.
type rule struct {
	name           string
	app, topic, to pattern // of the owner, the topic, its version
	when           *filter.Filter
	steps          []step
}

// step does something to a message. It never writes to what a slice of it holds.
type step func(m *plugins.Message) error

// Kind is the plugin as the configuration has it.
func Kind() plugins.Kind {
	return plugins.Kind{Read: func(o plugins.Options) (plugins.Make, error) {
		var opts Options
		if err := o.Into(&opts); err != nil {
			return nil, err
		}
		in, out, err := opts.compile()
		if err != nil {
			return nil, err
		}
		return func(_ context.Context, e plugins.Env) (plugins.Plugin, error) {
			return newPlugin(in, out, e.Metrics), nil
		}, nil
	}}
}

func newPlugin(in, out []*rule, r prometheus.Registerer) *Plugin {
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kateway_transform_messages_total", Help: "Messages that a rule of the plugin transform applied to, by what came of it."}, []string{"result"})
	r.MustRegister(vec)
	of := vec.WithLabelValues
	return &Plugin{in: in, out: out, changed: of("changed"), failed: of("failed"), dropped: of("dropped"), routed: of("routed")}
}

// Leaves is plugins.Leaver's.
func (*Plugin) Leaves() {}

// Wrap lets everything pass: what is changed are messages.
func (*Plugin) Wrap(next plugins.Handler) plugins.Handler { return next }

// Inspection is plugins.Inspector's: the rules for the topic and the direction.
func (p *Plugin) Inspection(c *plugins.Call) plugins.Inspection {
	rules := p.in
	switch c.Op {
	case plugins.Publish:
	case plugins.Subscribe:
		rules = p.out
	default:
		return nil
	}
	owner := c.Owner
	if owner == "" {
		owner = c.App
	}
	var mine []*rule
	for _, r := range rules {
		if r.app.matches(owner) && r.topic.matches(c.Topic) && r.to.matches(c.Ver) {
			mine = append(mine, r)
		}
	}
	if mine == nil {
		return nil
	}
	return func(_ context.Context, m *plugins.Message) error { return p.apply(mine, m) }
}

// apply has every rule that the message meets do its work, in their order, until one drops it or sends it elsewhere. A rule
// that can't do its work refuses the message: what it was to hide must not pass.
func (p *Plugin) apply(rules []*rule, m *plugins.Message) error {
	topic, ver, met := m.Topic, m.Ver, false
	for _, r := range rules {
		meets, err := r.when.Eval(&m.Message)
		if err == nil && meets {
			met = true
			err = r.run(m)
		}
		if err != nil {
			p.failed.Inc()
			return fmt.Errorf("rule %s: %w", r.name, err)
		}
		switch {
		case m.Dropped:
			p.dropped.Inc()
			return nil
		case m.Topic != topic || m.Ver != ver:
			p.routed.Inc()
			return nil
		}
	}
	if met {
		p.changed.Inc()
	}
	return nil
}

func (r *rule) run(m *plugins.Message) error {
	for _, s := range r.steps {
		if err := s(m); err != nil {
			return err
		}
	}
	return nil
}

// onJSON is a step that edits the value. A tombstone has none.
func onJSON(e *edit) step {
	return func(m *plugins.Message) error {
		if m.Value == nil {
			return nil
		}
		v, err := e.apply(m.Value)
		if err != nil {
			return asInvalid(err)
		}
		m.Value = v
		return nil
	}
}

// asInvalid gives the error a kind: it is what was sent that is not right for the rule.
func asInvalid(err error) error {
	if errors.Is(err, errs.TooLarge) {
		return err
	}
	return fmt.Errorf("%w: %w", err, errs.InvalidBody)
}
