// Package pluginstest is what every plugin has to keep, as a test suite.
package pluginstest

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/meta/mem"
	"github.com/kateway/kateway/plugins"
	"github.com/kateway/kateway/store"
)

// Config is the plugin to be tested.
type Config struct {
	Kind    plugins.Kind
	Options string // YAML
	// Seed writes what the plugin needs to know of tenants; nil: the app shop with the topic orders v1.
	Seed func(t *testing.T, d *meta.Directory)
	// Pass is a request that the plugin lets through; nil: a publish of shop to orders v1.
	Pass func() *http.Request
	// Refuse is one that it refuses; nil: there is none.
	Refuse func() *http.Request
	// Message is one that its inspection, if it has one, does not refuse.
	Message store.Message
}

// Run tests it.
func Run(t *testing.T, c Config) {
	t.Helper()
	for _, test := range []struct {
		name string
		run  func(*testing.T, *Config)
	}{
		{"options are strict", options},
		{"next is called once, by many at a time", concurrent},
		{"what is behind it is answered", results},
		{"a refusal does not go on", refusal},
		{"the body is left alone", body},
		{"an inspection does not write to what is shared", shared},
		{"nothing is left when it ends", ends},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, &c) })
	}
}

// make makes the plugin, in a world of its own.
func (c *Config) make(t *testing.T) plugins.Plugin {
	t.Helper()
	d := directory(t)
	if c.Seed != nil {
		c.Seed(t, d)
	} else {
		seed(t, d)
	}
	build, err := c.Kind.Read(plugins.ParseOptions(c.Options))
	if err != nil {
		t.Fatal(err)
	}
	p, err := build(t.Context(), plugins.Env{
		ID: "gw1", Meta: d, Store: nowhere{}, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(), Data: t.TempDir(),
		Secrets: func() [][]byte { return [][]byte{make([]byte, 32)} },
		Others:  func(context.Context, []byte) map[string][]byte { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	if r, ok := p.(plugins.Runner); ok {
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		wg.Go(func() { r.Run(ctx) })
		t.Cleanup(func() {
			cancel()
			wg.Wait()
		})
	}
	return p
}

func directory(t *testing.T) *meta.Directory {
	t.Helper()
	source := mem.New()
	d := meta.NewDirectory(meta.Config{Source: source, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = d.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		_ = source.Close()
	})
	<-d.Loaded()
	return d
}

// seed registers an app and its topic.
func seed(t *testing.T, d *meta.Directory) {
	t.Helper()
	for _, r := range []meta.Record{
		&meta.App{Name: "shop", Class: meta.ClassStandard},
		&meta.TopicRecord{App: "shop", Name: "orders", Ver: "v1", Partitions: 1, MaxAttempts: meta.DefaultMaxAttempts},
	} {
		if _, err := d.Put(t.Context(), r, ""); err != nil {
			t.Fatal(err)
		}
	}
}

// nowhere is a store that takes everything.
type nowhere struct{}

func (nowhere) Publish(context.Context, string, store.Ack, ...*store.Message) error { return nil }

func (c *Config) request() *http.Request {
	if c.Pass != nil {
		return c.Pass()
	}
	r := httptest.NewRequest(http.MethodPost, "/v1/msgs/orders/v1", http.NoBody)
	r.RemoteAddr = "192.0.2.7:51234"
	return r
}

// pass has a request pass the plugin, and then be done by work.
func pass(g *plugins.Gate, r *http.Request, work func() error) error {
	c := call()
	return g.Pass(httptest.NewRecorder(), r, c, func(*http.Request) error { return work() })
}

func call() *plugins.Call {
	return &plugins.Call{Op: plugins.Publish, App: "shop", Topic: "orders", Ver: "v1"}
}

func options(t *testing.T, c *Config) {
	for _, text := range []string{"no_such_option: 1", "[1, 2]", "just a text", "{unclosed", c.Options + "\nno_such_option: {a: [1]}\n"} {
		if _, err := c.Kind.Read(plugins.ParseOptions(text)); err == nil {
			t.Errorf("%q is taken for options", text)
		}
	}
}

func concurrent(t *testing.T, c *Config) {
	g := plugins.NewGate([]plugins.Plugin{c.make(t)})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 25 {
				var calls atomic.Int32
				err := pass(g, c.request(), func() error { calls.Add(1); return nil })
				if n := calls.Load(); n != 1 || err != nil {
					t.Errorf("next was called %d times: %v", n, err)
				}
			}
		})
	}
	wg.Wait()
}

func results(t *testing.T, c *Config) {
	g := plugins.NewGate([]plugins.Plugin{c.make(t)})
	for _, want := range []error{nil, errs.Conflict, errs.Uncertain, errors.New("without a kind")} {
		if err := pass(g, c.request(), func() error { return want }); !errors.Is(err, want) {
			t.Errorf("%v came, and %v is answered", want, err)
		}
	}
}

func refusal(t *testing.T, c *Config) {
	if c.Refuse == nil {
		t.Skip("it refuses no request by itself")
	}
	g := plugins.NewGate([]plugins.Plugin{c.make(t)})
	err := pass(g, c.Refuse(), func() error { t.Error("next is called"); return nil })
	if k := errs.Of(err); err == nil || k == errs.Internal {
		t.Errorf("refused with %v", err)
	}
}

// untouched is a body that nobody may read before the work does.
type untouched struct{ t *testing.T }

func (b untouched) Read([]byte) (int, error) {
	b.t.Error("the body is read")
	return 0, io.EOF
}

func (b untouched) Close() error { return nil }

func body(t *testing.T, c *Config) {
	g := plugins.NewGate([]plugins.Plugin{c.make(t)})
	requests := []func() *http.Request{c.request}
	if c.Refuse != nil {
		requests = append(requests, c.Refuse)
	}
	for _, request := range requests {
		r := request()
		r.Body = untouched{t}
		_ = pass(g, r, func() error { return nil })
	}
}

func shared(t *testing.T, c *Config) {
	p, ok := c.make(t).(plugins.Inspector)
	if !ok {
		t.Skip("it looks at no messages")
	}
	for _, op := range []plugins.Op{plugins.Publish, plugins.Subscribe} {
		k := call()
		k.Op, k.Owner, k.Header = op, "shop", http.Header{}
		f := p.Inspection(k)
		if f == nil {
			continue
		}
		is := c.Message.Clone()
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() { // the race detector looks too
				m := plugins.Message{Message: *is, Topic: "orders", Ver: "v1"}
				if err := f(context.Background(), &m); err != nil {
					t.Errorf("the message is refused: %v", err)
				}
			})
		}
		wg.Wait()
		if !reflect.DeepEqual(is, c.Message.Clone()) {
			t.Errorf("shared bytes were written to: %+v", is)
		}
	}
}

func ends(t *testing.T, c *Config) {
	before := goleak.IgnoreCurrent()
	t.Run("run", func(t *testing.T) { // which ends it
		g := plugins.NewGate([]plugins.Plugin{c.make(t)})
		if err := pass(g, c.request(), func() error { return nil }); err != nil {
			t.Error(err)
		}
	})
	if err := goleak.Find(before); err != nil {
		t.Error(err)
	}
}
