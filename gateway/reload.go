package gateway

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/kateway/kateway/plugins"
)

// Reload takes over what can be changed while serving: the log level and the content of the certificate files. Of the
// rest it logs what would need a restart.
func (g *Gateway) Reload(cfg Config) error {
	g.reloading.Lock()
	defer g.reloading.Unlock()
	if err := cfg.Validate(); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	if cfg.ID == "" {
		cfg.ID = g.cfg.ID
	}
	if cfg.LogLevel != g.cfg.LogLevel && g.deps.Level != nil {
		if set := g.cluster.meta.Snapshot().Option("log_level"); set != nil {
			g.log.Warn("the log level was set for all gateways, which the configuration does not change", "option", string(set.Value))
		} else {
			level, _ := ParseLevel(cfg.LogLevel) // validated
			g.deps.Level.Set(level)
			g.log.Info("log level set", "from", g.cfg.LogLevel, "to", cfg.LogLevel)
		}
		g.cfg.LogLevel = cfg.LogLevel
	}
	if changed := differences(g.cfg, cfg); len(changed) > 0 {
		g.log.Warn("these options have changed and need a restart", "options", strings.Join(changed, ", "))
	}
	if g.certs != nil {
		return g.certs.reload()
	}
	return nil
}

// differences names the options that are not the same in a and b, sorted.
func differences(a, b Config) []string {
	before, after := optionsOf(&a), optionsOf(&b)
	return slices.Sorted(func(yield func(string) bool) {
		if !maps.EqualFunc(a.PluginOptions, b.PluginOptions, plugins.Options.Equal) && !yield("plugins (options)") {
			return
		}
		for name, v := range after {
			if !reflect.DeepEqual(v, before[name]) && !yield("--"+name) {
				return
			}
		}
	})
}

// optionsOf are the values of c by the names of their flags.
func optionsOf(c *Config) map[string]any {
	values := map[string]any{}
	for _, f := range kong.Must(c).Model.Flags {
		if f.Name != "help" {
			values[f.Name] = f.Target.Interface()
		}
	}
	return values
}
