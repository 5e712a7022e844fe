// Package guard keeps the gateway alive under more load than it can serve, and bad clients from the good ones. It bounds how
// many publishes are in work at a time, how long others wait for their turn, and how much memory bodies take; when
// something must be refused, that is what apps of class besteffort want first, and of class premium last. Who sends one
// faulty request after another is left out for a while.
//
// Streams and polls that wait are no work; they cost what their connection costs.
package guard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"runtime/debug"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/plugins"
)

var (
	_ plugins.Admitter = (*Plugin)(nil)
	_ plugins.Watcher  = (*Plugin)(nil)
	_ plugins.Runner   = (*Plugin)(nil)
)

// Sizes are what a body can have at most.
type Sizes struct{ Message, Batch int64 }

// Options are what can be said of it in the file.
type Options struct {
	InFlight   int64         `yaml:"in_flight"`   // publishes in work at a time
	Queue      int           `yaml:"queue"`       // that wait for their turn
	QueueDelay time.Duration `yaml:"queue_delay"` // how long
	Memory     int64         `yaml:"memory"`      // bytes of bodies; 0: a quarter of the process's limit
	Faults     float64       `yaml:"faults"`      // faulty requests a minute that are put up with; 0: any number
	Block      time.Duration `yaml:"block"`       // for how long who sends more is left out, doubled each time
	MaxBlock   time.Duration `yaml:"max_block"`
}

func defaults() Options {
	return Options{InFlight: 4096, Queue: 4096, QueueDelay: time.Second, Faults: 100, Block: 5 * time.Second, MaxBlock: 5 * time.Minute}
}

func (o *Options) check() error {
	var all []error
	for _, c := range []struct {
		ok   bool
		what string
	}{
		{o.InFlight >= 8, "in_flight must be 8 at least"},
		{o.Queue >= 0 && o.Queue <= 1_000_000, "queue must be between 0 and 1000000"},
		{o.QueueDelay >= time.Millisecond && o.QueueDelay <= time.Minute, "queue_delay must be between 1ms and 1m"},
		{o.Memory >= 0, "memory must be a number of bytes"},
		{o.Faults >= 0, "faults must be a number"},
		{o.Block >= time.Second && o.Block <= o.MaxBlock && o.MaxBlock <= 24*time.Hour, "block and max_block must be between 1s and 24h, the second no shorter than the first"},
	} {
		if !c.ok {
			all = append(all, errors.New(c.what))
		}
	}
	return errors.Join(all...)
}

// Kind is the plugin as the configuration has it.
func Kind(s Sizes) plugins.Kind {
	return plugins.Kind{Read: func(from plugins.Options) (plugins.Make, error) {
		o := defaults()
		if err := from.Into(&o); err != nil {
			return nil, err
		}
		return func(_ context.Context, e plugins.Env) (plugins.Plugin, error) {
			return New(Config{Options: o, Sizes: s, Meta: e.Meta, Log: e.Log, Metrics: e.Metrics}), nil
		}, o.check()
	}}
}

// Config is what a Plugin stands on. All fields are needed.
type Config struct {
	Options Options
	Sizes   Sizes
	Meta    interface{ Snapshot() *meta.Snapshot }
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// Plugin is the guard.
type Plugin struct {
	meta      interface{ Snapshot() *meta.Snapshot }
	sizes     Sizes
	log       *slog.Logger
	turn      *turns
	memory    memory
	addresses *book[netip.Addr]
	apps      *book[string]
	refused   [reasons]prometheus.Counter
}

// reason is why a request is refused.
type reason uint8

const (
	tooLong reason = iota // it waited for its turn
	tooMuch               // memory
	badAddress
	badApp
	reasons
)

// New makes a Plugin. It panics where the metrics are registered already.
func New(c Config) *Plugin {
	o := c.Options
	p := &Plugin{meta: c.Meta, sizes: c.Sizes, log: c.Log, turn: newTurns(o.InFlight, o.Queue, o.QueueDelay)}
	p.memory.limit(memoryFor(o.Memory, c.Sizes))
	p.addresses, p.apps = newBook[netip.Addr](&o), newBook[string](&o)
	refused := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kateway_guard_refused_total",
		Help: "Requests refused to protect the others: no turn in time (queue), no memory for the body (memory), too many faulty ones from the address (address) or of the app (app).",
	}, []string{"reason"})
	c.Metrics.MustRegister(refused)
	for r, name := range [reasons]string{"queue", "memory", "address", "app"} {
		p.refused[r] = refused.WithLabelValues(name)
	}
	for name, g := range map[string]struct {
		help  string
		value func() float64
	}{
		"kateway_guard_in_flight":    {"Publishes in work.", func() float64 { return float64(p.turn.busy.Load()) }},
		"kateway_guard_waiting":      {"Publishes that wait for their turn.", func() float64 { return float64(p.turn.waiting.Load()) }},
		"kateway_guard_memory_bytes": {"Bytes of bodies in memory, as far as announced.", func() float64 { return float64(p.memory.used.Load()) }},
		"kateway_guard_confined":     {"Addresses and apps that are left out for a while.", func() float64 { return float64(p.addresses.blocked() + p.apps.blocked()) }},
	} {
		c.Metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: g.help}, g.value))
	}
	return p
}

// noLimit is what bodies may take where the process has no limit.
const noLimit = 1 << 30

// memoryFor is how many bytes bodies may take: what is configured, or a quarter of what the process may have (GOMEMLIMIT,
// which is the control group's limit where nobody set it), and always enough for a few batches.
func memoryFor(configured int64, s Sizes) int64 {
	if configured > 0 {
		return max(configured, s.Batch)
	}
	if all := debug.SetMemoryLimit(-1); all != math.MaxInt64 {
		return max(all/4, 4*s.Batch)
	}
	return max(noLimit, 4*s.Batch)
}

// Leaves is plugins.Leaver's: a lasting call is judged by whether it was served, and has nothing to give back.
func (*Plugin) Leaves() {}

// Wrap refuses what there is no memory for, and apps that are left out. Kinds: Overloaded, Throttled.
func (p *Plugin) Wrap(next plugins.Handler) plugins.Handler {
	return func(ctx context.Context, c *plugins.Call) error {
		if err := p.confined(c); err != nil {
			return err
		}
		if c.Op != plugins.Publish || c.Lasting {
			return p.judge(c, next(ctx, c))
		}
		if !p.take(c) {
			p.refused[tooMuch].Inc()
			return fmt.Errorf("bodies of other requests take all memory that there is for them: %w", errs.Overloaded)
		}
		defer p.end(c)
		return p.judge(c, next(ctx, c))
	}
}

// Admit waits for the publish's turn. Kind Overloaded.
func (p *Plugin) Admit(ctx context.Context, c *plugins.Call) error {
	var err error
	if c.Lasting { // a WebSocket has no turn to give back, and bounds itself what is under way
		err = p.turn.look(c, p.class)
	} else {
		if less := c.Load.Bytes - c.Bytes; less > 0 { // it was charged for the most that it could have been
			p.memory.give(less)
			c.Load.Bytes -= less
		}
		if err = p.turn.take(ctx, c, p.class); err == nil {
			c.Load.Turn = true
		}
	}
	if err != nil {
		p.refused[tooLong].Inc()
	}
	return err
}

// end gives back what the call has.
func (p *Plugin) end(c *plugins.Call) {
	if c.Load.Turn {
		p.turn.give()
	}
	p.memory.give(c.Load.Bytes)
	c.Load = plugins.Load{}
}

// take asks for memory for the body: as much as is announced, or, where that says nothing, as much as it could be.
func (p *Plugin) take(c *plugins.Call) bool {
	n := c.Size
	if n < 0 || c.Header["Content-Encoding"] != nil {
		n = p.sizes.Message
		if strings.Contains(c.RawQuery, "batch") {
			n = p.sizes.Batch
		}
	}
	n = min(n, p.sizes.Batch) // of a larger one nothing is read
	if !p.memory.take(n, c, p.class) {
		return false
	}
	c.Load.Bytes = n
	return true
}

// class is the class of the calling app. One that is not registered is of the standard one.
func (p *Plugin) class(c *plugins.Call) class {
	a := p.meta.Snapshot().App(c.App)
	switch {
	case a == nil:
	case a.Class == meta.ClassPremium:
		return premium
	case a.Class == meta.ClassBestEffort:
		return bestEffort
	}
	return standard
}

// Run forgets who has behaved for a while.
func (p *Plugin) Run(ctx context.Context) {
	for t := time.NewTicker(sweepEvery); ; {
		select {
		case <-t.C:
			p.addresses.sweep(time.Now())
			p.apps.sweep(time.Now())
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
}
