// Command plugin is a kateway with a plugin of its own. docs/plugins.md explains it.
package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/kateway/kateway/cli"
	"github.com/kateway/kateway/plugins"
	"github.com/kateway/kateway/store"
)

func main() { cli.Main(plugins.Table{"stamp": kind()}) }

// options are what the file may say under plugins: stamp.
type options struct {
	Header string        `yaml:"header"` // the record header that is set
	Most   int           `yaml:"most"`   // messages of one publish
	Every  time.Duration `yaml:"every"`  // how often the count is logged
}

// kind reads the options, and says how to make the plugin. Nothing is opened before Make.
func kind() plugins.Kind {
	return plugins.Kind{Read: func(o plugins.Options) (plugins.Make, error) {
		opts := options{Header: "stamp", Most: 100, Every: time.Minute}
		if err := o.Into(&opts); err != nil {
			return nil, err
		}
		if opts.Header == "" || opts.Most < 1 || opts.Every <= 0 {
			return nil, errors.New("header must not be empty; most and every must be above 0")
		}
		return func(_ context.Context, e plugins.Env) (plugins.Plugin, error) { return &stamp{opts: opts, env: e}, nil }, nil
	}}
}

// stamp counts requests, bounds batches and marks messages.
type stamp struct {
	opts  options
	env   plugins.Env
	count atomic.Int64
}

// Each of these is optional, and found by what the plugin has.
var (
	_ plugins.Admitter  = (*stamp)(nil)
	_ plugins.Inspector = (*stamp)(nil)
	_ plugins.Runner    = (*stamp)(nil)
	_ plugins.Answerer  = (*stamp)(nil)
)

// Wrap is called once; what it returns, for every request, before its body is read. A request that is not passed on is
// refused with the error, whose kind decides on the status.
func (s *stamp) Wrap(next plugins.Handler) plugins.Handler {
	return func(ctx context.Context, c *plugins.Call) error {
		if c.Header.Get("X-Stamp") == "never" {
			return fmt.Errorf("this client wants no stamp: %w", plugins.Denied)
		}
		s.count.Add(1)
		return next(ctx, c) // returns when the request is done, a stream when its client has left
	}
}

// Admit decides on the messages of a publish by their number and size: all of them or none.
func (s *stamp) Admit(_ context.Context, c *plugins.Call) error {
	if c.Messages > s.opts.Most {
		return fmt.Errorf("%d messages, %d at most: %w", c.Messages, s.opts.Most, plugins.TooLarge)
	}
	return nil
}

// Inspection says what looks at the messages of a request; nil: nothing does, and they cost nothing.
func (s *stamp) Inspection(c *plugins.Call) plugins.Inspection {
	if c.Op != plugins.Publish {
		return nil
	}
	return func(_ context.Context, m *plugins.Message) error {
		headers := make([]store.Header, 0, len(m.Headers)+1) // a slice of our own: the bytes of m are shared
		headers = append(headers, m.Headers...)
		m.Headers = append(headers, store.Header{Key: s.opts.Header, Value: []byte(s.env.ID)})
		return nil
	}
}

// Run is the plugin's own goroutine, until the gateway ends.
func (s *stamp) Run(ctx context.Context) {
	tick := time.NewTicker(s.opts.Every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.env.Log.Info("requests so far", "here", s.count.Load(), "elsewhere", len(s.env.Others(ctx, nil)))
		case <-ctx.Done():
			return
		}
	}
}

// Answer answers the same plugin of another gateway, which asks by Env.Others.
func (s *stamp) Answer(context.Context, string, []byte) ([]byte, error) {
	return strconv.AppendInt(nil, s.count.Load(), 10), nil
}
