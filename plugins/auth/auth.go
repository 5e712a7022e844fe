// Package auth lets in who shows the key of an app, and lets that app do what it may: publish to its own topics, read
// its own and those that it was granted. Everything it knows is in meta's snapshot, so that a key that is revoked, an app
// that is disabled and a grant that is taken away count from the next request on.
package auth

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/plugins"
)

var _ plugins.Identifier = (*Plugin)(nil)

// maxSecret is how long a secret can be in bytes; a longer one is none, so that nobody makes us hash his whole head.
const maxSecret = 256

// errWho answers whatever is wrong with the credentials: a difference would tell what apps and keys there are.
var errWho = fmt.Errorf("no or wrong credentials: send Appid with Pubkey to publish or Subkey to subscribe, or Authorization with a key that is good for it: %w", errs.Unauthenticated)

// Config is what a Plugin stands on. All fields are needed.
type Config struct {
	// Meta knows apps, keys, topics and grants. Until it has read them nobody is let in.
	Meta    interface{ Snapshot() *meta.Snapshot }
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// Kind is the plugin as the configuration has it.
func Kind() plugins.Kind {
	return plugins.Kind{Identifies: true, Read: func(o plugins.Options) (plugins.Make, error) {
		return func(_ context.Context, e plugins.Env) (plugins.Plugin, error) {
			return New(Config{Meta: e.Meta, Log: e.Log, Metrics: e.Metrics}), nil
		}, plugins.None(o)
	}}
}

// Plugin is authentication and authorization.
type Plugin struct {
	meta     interface{ Snapshot() *meta.Snapshot }
	log      *slog.Logger
	verdicts [verdicts]prometheus.Counter
	nobody   string // the hash of a key that nobody has: what a secret is compared with where there is nothing else
}

// New makes a Plugin. It panics where the metrics are registered already.
func New(c Config) *Plugin {
	p := &Plugin{meta: c.Meta, log: c.Log}
	_, _, p.nobody = meta.NewSecret()
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kateway_auth_total", Help: "Requests by what authentication and authorization made of them."}, []string{"result"})
	c.Metrics.MustRegister(vec)
	for v, name := range names {
		p.verdicts[v] = vec.WithLabelValues(name)
	}
	return p
}

// Identifies says that this plugin knows who calls.
func (*Plugin) Identifies() {}

// Wrap asks for credentials and rights before next. Kinds: Unauthenticated, the same text for all; Denied, the same for
// what exists and what does not; UnknownTopic for a topic of the caller's own or one granted that is not registered;
// InvalidParam for credentials given twice; Unavailable while nothing is known of anybody.
func (p *Plugin) Wrap(next plugins.Handler) plugins.Handler {
	return func(ctx context.Context, c *plugins.Call) error {
		v, err := p.judge(ctx, c)
		p.verdicts[v].Inc()
		if err != nil {
			return err
		}
		return next(ctx, c)
	}
}

// judge says who calls, in c, and whether he may.
func (p *Plugin) judge(ctx context.Context, c *plugins.Call) (verdict, error) {
	shown, err := read(c)
	if err != nil {
		return ambiguous, err
	}
	snap := p.meta.Snapshot()
	if snap.Revision() == 0 {
		return unready, fmt.Errorf("apps and keys have not been read yet; try again soon: %w", errs.Unavailable)
	}
	if v := p.identify(snap, c, &shown); v != passed {
		p.log.DebugContext(ctx, "credentials refused", "reason", names[v], "remote", c.Remote)
		return v, errWho
	}
	return permit(snap, c)
}

// identify finds whose credentials they are. It compares a hash also where there is no such key, so that the time it takes
// does not tell which keys there are.
func (p *Plugin) identify(snap *meta.Snapshot, c *plugins.Call, shown *credentials) verdict {
	if !shown.given {
		return missing
	}
	secret := shown.secret
	if len(secret) > maxSecret {
		secret = ""
	}
	id := meta.SecretID(secret)
	app, key := snap.Key(id)
	hash := p.nobody
	if key != nil {
		hash = key.Hash
	}
	same := meta.CheckSecret(secret, hash)
	switch {
	case id == "":
		return malformed
	case key == nil:
		return unknown
	case !same:
		return wrong
	case shown.claimsOther(app.Name):
		return otherApp
	case app.Disabled:
		return disabled
	case key.Expires != nil && !time.Now().Before(*key.Expires):
		return expired
	case !fits(key.Use, c.Op):
		return otherUse
	}
	c.App, c.KeyID = app.Name, key.KeyID
	if key.Expires != nil {
		c.Expires = *key.Expires
	}
	return passed
}

// fits reports whether a key for this use is good for the op.
func fits(use string, op plugins.Op) bool {
	switch op {
	case plugins.Publish:
		return use == meta.UsePub || use == meta.UseBoth
	case plugins.Subscribe, plugins.Settle:
		return use == meta.UseSub || use == meta.UseBoth
	}
	return false
}

// permit decides whether the caller, who is known by now, may do it. What it answers about another app's topic depends
// on grants alone, never on whether the topic exists.
func permit(snap *meta.Snapshot, c *plugins.Call) (verdict, error) {
	t := meta.Topic{App: c.Owner, Name: c.Topic, Ver: c.Ver}
	if t.App == "" && c.Op == plugins.Publish {
		t.App = c.App
	}
	switch {
	case c.Op == plugins.Publish && t.App != c.App:
		return denied, fmt.Errorf("app %s may not publish to %s: an app publishes to its own topics: %w", c.App, t, errs.Denied)
	case c.Op != plugins.Publish && !snap.MayRead(c.App, c.Group, t):
		return denied, fmt.Errorf("app %s may not read %s with group %.64q: it takes a subscription that is granted: %w", c.App, t, c.Group, errs.Denied)
	case snap.Topic(t) == nil:
		return unregistered, fmt.Errorf("topic %s is not registered: %w", t, errs.UnknownTopic)
	}
	return passed, nil
}
