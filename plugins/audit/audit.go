// Package audit writes down who did what, when, from where, and what came of it: publishes, subscriptions, settles, and
// changes by the management API. A record has names, sizes, places and results; never a payload, a key of a message or a
// secret. The log is sealed (package seal), so that a change of it is found.
package audit

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/httpx"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/plugins"
	"github.com/kateway/kateway/store"
)

const (
	queueLength = 8192             // records that wait to be written
	patience    = time.Second      // how long a request waits for a place in a full queue; then its record is lost, which the log tells
	partEvery   = time.Minute      // a stream or a WebSocket has a record that often while something goes over it
	maxRanges   = 1000             // of offsets in a record; then it is written, and another begun
	maxField    = 256              // bytes of what a client says
	slowClose   = 10 * time.Second // how long the topic may take for the last records
)

var (
	_ plugins.Inspector     = (*Plugin)(nil)
	_ plugins.Leaver        = (*Plugin)(nil)
	_ plugins.Recorder      = (*Plugin)(nil)
	_ plugins.AdminRecorder = (*Plugin)(nil)
	_ plugins.Runner        = (*Plugin)(nil)
)

// Plugin is the audit of one gateway.
type Plugin struct {
	id    string
	wants [nEvents]bool
	queue chan *record
	lost  atomic.Int64 // records since the last that was written
	w     *writer
	log   *slog.Logger

	written, dropped prometheus.Counter
}

func newPlugin(o Options, topic meta.Topic, e plugins.Env) (*Plugin, error) {
	w, err := newWriter(o, topic, e)
	if err != nil {
		return nil, err
	}
	p := &Plugin{
		id: e.ID, wants: o.wants(), queue: make(chan *record, queueLength), w: w, log: e.Log,
		written: prometheus.NewCounter(prometheus.CounterOpts{Name: "kateway_audit_records_total", Help: "Audit records that were written."}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{Name: "kateway_audit_lost_total", Help: "Audit records that could not be written; the log tells where."}),
	}
	e.Metrics.MustRegister(p.written, p.dropped)
	return p, nil
}

type tallyKey struct{}

// Leaves is plugins.Leaver's: the last record of a call is written by its tally.
func (*Plugin) Leaves() {}

// Wrap records a call when it is over, and one that lasts every minute besides.
func (p *Plugin) Wrap(next plugins.Handler) plugins.Handler {
	return func(ctx context.Context, c *plugins.Call) error {
		if !p.wants[c.Op] {
			return next(ctx, c)
		}
		t := &tally{of: p, ctx: ctx, call: c, began: time.Now()}
		err := next(context.WithValue(ctx, tallyKey{}, t), c)
		c.AtEnd(err, t)
		return err
	}
}

// Published is plugins.Recorder's.
func (p *Plugin) Published(ctx context.Context, _ *plugins.Call, err error, msgs []*store.Message) {
	t, ok := ctx.Value(tallyKey{}).(*tally)
	if !ok {
		return
	}
	for i, m := range msgs {
		if failed := store.Each(err, i); failed != nil {
			t.failed(errs.Of(failed))
			continue
		}
		t.add(m)
	}
	p.part(ctx, t)
}

// Inspection is plugins.Inspector's: what is delivered is written down, and let through.
func (p *Plugin) Inspection(c *plugins.Call) plugins.Inspection {
	if c.Op != plugins.Subscribe || !p.wants[c.Op] {
		return nil
	}
	return func(ctx context.Context, m *plugins.Message) error {
		if t, ok := ctx.Value(tallyKey{}).(*tally); ok {
			t.add(&m.Message)
			p.part(ctx, t)
		}
		return nil
	}
}

// part writes a record of a call that goes on, when it is time.
func (p *Plugin) part(ctx context.Context, t *tally) {
	if t.due(time.Now()) {
		p.put(ctx, t.record(ctx, nil, false))
	}
}

// Changed is plugins.AdminRecorder's.
func (p *Plugin) Changed(ctx context.Context, c plugins.Change) {
	if !p.wants[admin] {
		return
	}
	r := &record{
		Time: time.Now().UTC(), Event: events[admin], KeyID: c.KeyID, Role: c.Role, Action: c.Method + " " + short(c.Path),
		Remote: c.Remote, RequestID: httpx.RequestID(ctx), Result: result(c.Err),
	}
	p.put(ctx, r)
}

// put queues a record. A request that finds the queue full waits a moment; the audit must not stop the service for good.
func (p *Plugin) put(ctx context.Context, r *record) {
	select {
	case p.queue <- r:
		return
	default:
	}
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case p.queue <- r:
	case <-t.C:
		p.lost.Add(1)
		p.dropped.Inc()
	case <-ctx.Done():
		select {
		case p.queue <- r:
		default:
			p.lost.Add(1)
			p.dropped.Inc()
		}
	}
}

// Run writes what is queued until ctx ends and the queue is empty.
func (p *Plugin) Run(ctx context.Context) {
	stop := p.w.start()
	defer stop()
	if err := p.w.acquire(ctx); err != nil {
		p.log.Error("the audit log can't be had; records are lost", "error", err)
		p.discard(ctx)
		return
	}
	for {
		select {
		case r := <-p.queue:
			p.write(r)
			continue
		default:
		}
		p.w.flush()
		select {
		case r := <-p.queue:
			p.write(r)
		case <-ctx.Done():
			p.rest()
			return
		}
	}
}

// discard takes records until ctx ends, so that no request waits for a log that can't be had, and counts them.
func (p *Plugin) discard(ctx context.Context) {
	for {
		select {
		case <-p.queue:
			p.dropped.Inc()
		case <-ctx.Done():
			p.dropped.Add(float64(len(p.queue)))
			return
		}
	}
}

// rest writes what is left.
func (p *Plugin) rest() {
	for {
		select {
		case r := <-p.queue:
			p.write(r)
		default:
			p.w.flush()
			return
		}
	}
}

func (p *Plugin) write(r *record) {
	if n := p.lost.Swap(0); n > 0 {
		p.append(&record{Time: r.Time, Event: "lost", Messages: n, Result: "the queue of records was full"})
	}
	p.append(r)
}

func (p *Plugin) append(r *record) {
	r.Gateway = p.id
	if err := p.w.append(r); err != nil {
		p.dropped.Inc()
		p.lost.Add(1)
		p.log.Error("an audit record can't be written", "error", err)
		return
	}
	p.written.Inc()
}

// short is what a client says, in bounds.
func short(s string) string { return s[:min(len(s), maxField)] }

// result is what came of something, in one word that programs know.
func result(err error) string {
	if err == nil {
		return "ok"
	}
	return errs.Of(err).Code()
}

func place(snap *meta.Snapshot, t meta.Topic) string {
	if r := snap.Topic(t); r != nil {
		return r.Place()
	}
	return t.Store()
}

func name(c *plugins.Call) string {
	owner := c.Owner
	if owner == "" {
		owner = c.App
	}
	return fmt.Sprintf("%s/%s/%s", owner, c.Topic, c.Ver)
}
