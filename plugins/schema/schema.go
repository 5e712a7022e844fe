// Package schema checks messages by the schemas of their topics before they are stored. Which schema a topic has, the
// management API says; without one, anything goes.
package schema

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/schema"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/plugins"
)

var _ plugins.Inspector = (*Plugin)(nil)

// maxKept bounds the texts of the schemas that are kept ready, in bytes. Beyond it all are forgotten, and made again as they
// are used.
const maxKept = 16 << 20

// Kind is the plugin as the configuration has it.
func Kind() plugins.Kind {
	return plugins.Kind{Read: func(o plugins.Options) (plugins.Make, error) {
		return func(_ context.Context, e plugins.Env) (plugins.Plugin, error) { return New(e), nil }, plugins.None(o)
	}}
}

// Plugin checks messages on their way in. What was stored before there was a schema is not looked at.
type Plugin struct {
	meta plugins.Meta
	log  *slog.Logger

	right, wrong, broken prometheus.Counter

	mu    sync.RWMutex // never held while a schema is made
	ready map[*meta.Schema]*ready
	kept  int // bytes of the texts
}

// ready is a version that messages can be checked by, or why not.
type ready struct {
	schema *schema.Schema
	err    error
}

// New makes a Plugin. It panics where the metrics are registered already.
func New(e plugins.Env) *Plugin {
	p := &Plugin{meta: e.Meta, log: e.Log, ready: map[*meta.Schema]*ready{}}
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kateway_schema_checks_total", Help: "Messages checked by the schema of their topic, by what came of it."}, []string{"result"})
	e.Metrics.MustRegister(vec)
	p.right, p.wrong, p.broken = vec.WithLabelValues("ok"), vec.WithLabelValues("violation"), vec.WithLabelValues("unavailable")
	return p
}

// Leaves is plugins.Leaver's.
func (*Plugin) Leaves() {}

// Wrap lets everything pass: what is checked are messages.
func (*Plugin) Wrap(next plugins.Handler) plugins.Handler { return next }

// Inspection is plugins.Inspector's. While no topic has a schema a request costs nothing; a WebSocket, which may be there
// when one gets its schema, looks each time.
func (p *Plugin) Inspection(c *plugins.Call) plugins.Inspection {
	if c.Op != plugins.Publish || !c.Lasting && p.meta.Snapshot().Len(meta.KindSchema) == 0 {
		return nil
	}
	app := c.Owner
	if app == "" {
		app = c.App
	}
	return func(_ context.Context, m *plugins.Message) error {
		return p.check(meta.Topic{App: app, Name: m.Topic, Ver: m.Ver}, m.Value)
	}
}

// check refuses a value that is not what the topic's schema says. Kinds: SchemaViolation; Unavailable where the schema that
// is registered can't be used here: to let everything pass then would be to have none. A tombstone has no value to check.
func (p *Plugin) check(t meta.Topic, value []byte) error {
	list := p.meta.Snapshot().Schemas(t)
	if len(list) == 0 || value == nil {
		return nil
	}
	now := list[len(list)-1]
	if now.Type == "" {
		return nil
	}
	by, found, err := p.apply(list, now, value)
	switch {
	case err != nil:
		p.broken.Inc()
		return fmt.Errorf("version %d of the schema of %s can't be used: %w: %w", by.Version, t, err, errs.Unavailable)
	case len(found) > 0:
		p.wrong.Inc()
		// The text is for logs too, so that it says nothing of the value.
		return &errs.Faults{List: found, Err: fmt.Errorf("the message is not what version %d of the schema of %s says: %w", by.Version, t, errs.SchemaViolation)}
	}
	p.right.Inc()
	return nil
}

// apply checks a value by the version that its frame names, or, where it has none, by the newest.
func (p *Plugin) apply(list []*meta.Schema, now *meta.Schema, value []byte) (by *meta.Schema, found []errs.Fault, err error) {
	id, payload, framed := schema.Unframe(value)
	if !framed {
		found, err = p.by(now, func(s *schema.Schema) []errs.Fault { return s.Check(value) })
		return now, found, err
	}
	by = now
	found = []errs.Fault{{Message: fmt.Sprintf("its frame names the schema %d, which is none of this topic's", id)}}
	for _, s := range list {
		if s.SchemaID == id && s.Type != "" {
			by = s
			found, err = p.by(s, func(s *schema.Schema) []errs.Fault { return s.CheckFramed(payload) })
		}
	}
	if now.Type != schema.Avro || err == nil && len(found) == 0 {
		return by, found, err
	}
	// Without a frame it may begin with a zero byte as well.
	bare, bareErr := p.by(now, func(s *schema.Schema) []errs.Fault { return s.Check(value) })
	if bareErr == nil && len(bare) == 0 {
		return now, nil, nil
	}
	return by, found, err
}

func (p *Plugin) by(s *meta.Schema, check func(*schema.Schema) []errs.Fault) ([]errs.Fault, error) {
	r := p.get(s)
	if r.err != nil {
		return nil, r.err
	}
	return check(r.schema), nil
}

// get is the schema of a record, made when it is first asked for. Records never change, and are the same ones in every
// snapshot until they do, so that a record's address stands for its content.
func (p *Plugin) get(s *meta.Schema) *ready {
	p.mu.RLock()
	r := p.ready[s]
	p.mu.RUnlock()
	if r != nil {
		return r
	}
	made, err := schema.Parse(s.Type, s.Text)
	if err != nil {
		p.log.Error("a schema that is registered can't be used; messages of its topic are refused", "topic", s.Topic().String(), "version", s.Version, "error", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if r := p.ready[s]; r != nil { // somebody else was faster
		return r
	}
	if p.kept += len(s.Text); p.kept > maxKept {
		clear(p.ready)
		p.kept = len(s.Text)
	}
	r = &ready{made, err}
	p.ready[s] = r
	return r
}
