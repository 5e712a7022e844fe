package gateway

import (
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/plugins"
	"github.com/kateway/kateway/plugins/audit"
	"github.com/kateway/kateway/plugins/auth"
	"github.com/kateway/kateway/plugins/callout"
	"github.com/kateway/kateway/plugins/guard"
	"github.com/kateway/kateway/plugins/quota"
	"github.com/kateway/kateway/plugins/schema"
	"github.com/kateway/kateway/plugins/transform"
)

// kinds are the plugins that there are: the gateway's, and those that its main brings.
func (c *Config) kinds() plugins.Table {
	table := plugins.Table{
		"audit":     audit.Kind(),
		"auth":      auth.Kind(),
		"callout":   callout.Kind(),
		"guard":     guard.Kind(guard.Sizes{Message: int64(c.MaxMessage), Batch: int64(c.MaxBatch)}),
		"schema":    schema.Kind(),
		"quota":     quota.Kind(),
		"transform": transform.Kind(),
	}
	maps.Copy(table, c.OwnPlugins)
	return table
}

// chain are the plugins by their names, in order.
func (c *Config) chain() []string {
	if len(c.Plugins) == 1 && c.Plugins[0] == "none" {
		return nil
	}
	return c.Plugins
}

// checkPlugins looks at the chain, and at the options of every plugin that has some: one that is switched off by a flag keeps
// its options in the file.
func (c *Config) checkPlugins(f *faults) {
	table := c.kinds()
	known := strings.Join(slices.Sorted(maps.Keys(table)), ", ")
	for i, name := range c.chain() {
		_, found := table[name]
		f.unless(found, "plugins", "there is no plugin %q; there is %s", name, known)
		f.unless(!slices.Contains(c.Plugins[:i], name), "plugins", "%s is named twice", name)
		if _, given := c.PluginOptions[name]; found && !given {
			_, err := table[name].Read(plugins.Options{})
			f.unless(err == nil, "plugins", "%s: %v", name, err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.PluginOptions)) {
		kind, found := table[name]
		if !found {
			f.unless(slices.Contains(c.Plugins, name), "plugins", "there is no plugin %q, which has options; there is %s", name, known)
			continue
		}
		_, err := kind.Read(c.PluginOptions[name])
		f.unless(err == nil, "plugins", "%s: %v", name, err)
	}
}

// chain is what every request of the data roles passes.
type chain struct {
	gate     *plugins.Gate // nil without plugins
	plugins  map[string]plugins.Plugin
	minter   plugins.Minter // nil where none makes tokens
	watchers []plugins.Watcher
	stop     context.CancelFunc
	running  sync.WaitGroup
}

// openChain makes the plugins of the configuration, in its order.
func openChain(ctx context.Context, g *Gateway, secret []byte) (*chain, error) {
	c := &chain{plugins: map[string]plugins.Plugin{}, stop: func() {}}
	table := g.cfg.kinds()
	var list []plugins.Link
	for _, name := range g.cfg.chain() {
		build, err := table[name].Read(g.cfg.PluginOptions[name])
		if err != nil { // Validate has read them
			return nil, fmt.Errorf("plugin %s: %w", name, err)
		}
		p, err := build(ctx, g.pluginEnv(name, g.cluster.pluginSecrets(secret)))
		if err != nil {
			return nil, fmt.Errorf("plugin %s: %w", name, err)
		}
		c.plugins[name] = p
		link := plugins.Link{Name: name, Plugin: p}
		if _, own := g.cfg.OwnPlugins[name]; own { // ours never wait longer than they say
			link.Limit = g.cfg.PluginTimeout
		}
		list = append(list, link)
	}
	c.gate = plugins.NewContained(list, g.log, g.metrics)
	for _, l := range list {
		if m, ok := l.Plugin.(plugins.Minter); ok {
			c.minter = m
		}
		if w, ok := l.Plugin.(plugins.Watcher); ok {
			c.watchers = append(c.watchers, w)
		}
	}
	return c, nil
}

// pluginEnv is what the plugin of that name stands on.
func (g *Gateway) pluginEnv(name string, secrets func() [][]byte) plugins.Env {
	return plugins.Env{
		ID: g.cfg.ID, Meta: g.cluster.meta, Store: g.toStore, Log: g.log.With("plugin", name), Metrics: g.metrics,
		Data: filepath.Join(g.cfg.Data, "plugins", name), Secrets: derived(secrets, "plugin "+name),
		Others: func(ctx context.Context, ask []byte) map[string][]byte { return g.askOthers(ctx, name, ask) },
	}
}

// derived are secrets for one purpose, made of those that serve several: who learns one purpose's learns no other's.
func derived(from func() [][]byte, purpose string) func() [][]byte {
	type made struct{ of, secrets [][]byte }
	var known atomic.Pointer[made]
	return func() [][]byte {
		of := from()
		if k := known.Load(); k != nil && slices.EqualFunc(k.of, of, bytes.Equal) {
			return k.secrets
		}
		k := &made{of: of}
		for _, s := range of {
			one, err := hkdf.Key(sha256.New, s, nil, purpose, secretSize)
			if err != nil { // it is of no size that fails
				panic(err)
			}
			k.secrets = append(k.secrets, one)
		}
		known.Store(k)
		return k.secrets
	}
}

// askOthers asks a plugin at every other gateway.
func (g *Gateway) askOthers(ctx context.Context, name string, ask []byte) map[string][]byte {
	answers := map[string][]byte{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, m := range g.cluster.peers() {
		wg.Go(func() {
			answer, err := m.Ask(ctx, name, g.cfg.ID, ask)
			if err != nil {
				g.log.Debug("a plugin of another gateway does not answer", "plugin", name, "gateway", m.ID, "error", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			answers[m.ID] = answer
		})
	}
	wg.Wait()
	return answers
}

// Ask is peer.Asker's.
func (c *chain) Ask(ctx context.Context, name, from string, ask []byte) ([]byte, error) {
	p, ok := c.plugins[name].(plugins.Answerer)
	if !ok {
		return nil, fmt.Errorf("there is no plugin %.64q here that answers: %w", name, errs.NotFound)
	}
	return p.Answer(ctx, from, ask)
}

// changed tells those plugins of changes that want to know; nil where none does.
func (c *chain) changed() func(context.Context, string, string, *http.Request, error) {
	var list []plugins.AdminRecorder
	for _, p := range c.plugins {
		if r, ok := p.(plugins.AdminRecorder); ok {
			list = append(list, r)
		}
	}
	if len(list) == 0 {
		return nil
	}
	return func(ctx context.Context, keyID, role string, r *http.Request, err error) {
		for _, p := range list {
			p.Changed(ctx, plugins.Change{KeyID: keyID, Role: role, Method: r.Method, Path: r.URL.Path, Remote: r.RemoteAddr, Err: err})
		}
	}
}

// start begins what plugins do in the background, until end.
func (c *chain) start(ctx context.Context) {
	ctx, c.stop = context.WithCancel(context.WithoutCancel(ctx))
	for _, p := range c.plugins {
		if r, ok := p.(plugins.Runner); ok {
			c.running.Go(func() { r.Run(ctx) })
		}
	}
}

// end ends it, and waits.
func (c *chain) end(context.Context) error {
	c.stop()
	c.running.Wait()
	return nil
}
