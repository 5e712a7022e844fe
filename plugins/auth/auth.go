// Package auth lets in who shows the key of an app, a token that speaks for it or a certificate that does, and lets that app
// do what it may: publish to its own topics, read its own and those that it was granted. What it knows of apps is in meta's
// snapshot, so that a key that is revoked, an app that is disabled and a grant that is taken away count from the next request
// on; streams and WebSockets that are open end within seconds.
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

var (
	_ plugins.Identifier = (*Plugin)(nil)
	_ plugins.Leaver     = (*Plugin)(nil)
	_ plugins.Runner     = (*Plugin)(nil)
)

// maxSecret is how long a key can be in bytes; a longer one is none, so that nobody makes us hash his whole head.
const maxSecret = 256

// errWho answers whatever is wrong with the credentials: a difference would tell what apps and keys there are.
var errWho = fmt.Errorf("no or wrong credentials: send Appid with Pubkey to publish or Subkey to subscribe, or Authorization with a key or token that is good for it: %w", errs.Unauthenticated)

// Plugin is authentication and authorization.
type Plugin struct {
	meta     plugins.Meta
	log      *slog.Logger
	verdicts [verdicts]prometheus.Counter
	nobody   string // the hash of a key that nobody has: what a secret is compared with where there is nothing else
	tokens   *tokens
	subjects subjects        // of certificates
	secrets  func() [][]byte // the gateways'
	streams  streams
}

// Kind is the plugin as the configuration has it.
func Kind() plugins.Kind {
	return plugins.Kind{Identifies: true, Read: func(o plugins.Options) (plugins.Make, error) {
		cfg, err := readOptions(o)
		return func(_ context.Context, e plugins.Env) (plugins.Plugin, error) { return New(cfg, e) }, err
	}}
}

// New makes a Plugin. It fails where a file that the options name can't be used, and panics where the metrics are registered
// already. Until meta has been read nobody is let in.
func New(o *Options, e plugins.Env) (*Plugin, error) {
	p := &Plugin{meta: e.Meta, log: e.Log, secrets: e.Secrets, subjects: newSubjects(o.Certificates)}
	_, _, p.nobody = meta.NewSecret()
	p.streams.wake = make(chan struct{}, 1)
	var err error
	if p.tokens, err = newTokens(o, e, p.streams.check); err != nil {
		return nil, err
	}
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kateway_auth_total", Help: "Requests by what authentication and authorization made of them."}, []string{"result"})
	ended := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "kateway_auth_ended_total", Help: "Streams, WebSockets and waiting polls ended since what they had shown, or what they may, has ended."})
	e.Metrics.MustRegister(vec, ended)
	p.streams.ended = ended
	for v, name := range names {
		p.verdicts[v] = vec.WithLabelValues(name)
	}
	return p, nil
}

// Identifies says that this plugin knows who calls.
func (*Plugin) Identifies() {}

// Leaves is plugins.Leaver's: what lasts is told of its end by [plugins.Call.AtEnd].
func (*Plugin) Leaves() {}

// Run keeps the keys of issuers up to date, and ends streams whose time is over.
func (p *Plugin) Run(ctx context.Context) {
	stop := p.tokens.follow(ctx)
	p.sweep(ctx)
	stop()
}

// Wrap asks for credentials and rights before next. Kinds: Unauthenticated, the same text for all; Denied, the same for
// what exists and what does not; UnknownTopic for a topic of the caller's own or one granted that is not registered;
// InvalidParam for credentials given twice; Unavailable while nothing is known of anybody.
func (p *Plugin) Wrap(next plugins.Handler) plugins.Handler {
	return func(ctx context.Context, c *plugins.Call) error {
		who, v, err := p.judge(ctx, c)
		p.verdicts[v].Inc()
		switch {
		case err != nil:
			return err
		case c.Lasting, c.Waits:
			return p.last(ctx, c, who, next)
		}
		return next(ctx, c)
	}
}

// identity is who calls, as shown by a key, a token or a certificate.
type identity struct {
	app     string
	keyID   string        // what it was shown by, or what the token was made with; "": something else
	hash    string        // of that key, where it was shown
	token   *token        // nil: no token
	expires time.Time     // zero: never
	leeway  time.Duration // for how long after that one is still let in: clocks differ
	only    *limits       // nil: whatever the app may
}

// judge says who calls, in c too, and whether he may.
func (p *Plugin) judge(ctx context.Context, c *plugins.Call) (identity, verdict, error) {
	shown, err := read(c)
	if err != nil {
		return identity{}, ambiguous, err
	}
	snap := p.meta.Snapshot()
	if snap.Revision() == 0 {
		return identity{}, unready, fmt.Errorf("apps and keys have not been read yet; try again soon: %w", errs.Unavailable)
	}
	who, v := p.identify(snap, c, &shown)
	switch v {
	case passed:
	case unready:
		return who, v, fmt.Errorf("the issuer's keys could not be read yet; try again soon: %w", errs.Unavailable)
	default:
		p.log.DebugContext(ctx, "credentials refused", "reason", names[v], "remote", c.Remote)
		return who, v, errWho
	}
	c.App, c.KeyID, c.Expires = who.app, who.keyID, who.expires
	if v, err = permit(snap, c, who.only); v == passed && who.only != nil && c.Op == plugins.Publish {
		c.Route = who.only.route(c)
	}
	return who, v, err
}

// identify finds whose credentials they are.
func (p *Plugin) identify(snap *meta.Snapshot, c *plugins.Call, shown *credentials) (identity, verdict) {
	var who identity
	var v verdict
	switch {
	case !shown.given:
		who, v = p.byCertificate(c, shown)
	case !shown.token && !looksLikeToken(shown.secret):
		return p.byKey(snap, c, shown)
	default:
		who, v = p.tokens.identify(shown)
	}
	switch {
	case v != passed:
		return who, v
	case shown.claimsOther(who.app):
		return who, otherApp
	}
	return who, still(snap, &who, c.Op, time.Now())
}

// byCertificate is for who shows nothing else: a certificate may also be what lets a proxy in, for others who show keys.
func (p *Plugin) byCertificate(c *plugins.Call, shown *credentials) (identity, verdict) {
	if shown.half {
		return identity{}, missing
	}
	who, v, found := p.subjects.identify(c.TLS)
	if !found {
		return identity{}, missing
	}
	return who, v
}

// byKey compares a hash also where there is no such key, so that the time it takes does not tell which keys there are.
func (p *Plugin) byKey(snap *meta.Snapshot, c *plugins.Call, shown *credentials) (identity, verdict) {
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
		return identity{}, malformed
	case key == nil:
		return identity{}, unknown
	case !same:
		return identity{}, wrong
	case shown.claimsOther(app.Name):
		return identity{}, otherApp
	}
	who := identity{app: app.Name, keyID: key.KeyID, hash: key.Hash}
	if key.Expires != nil {
		who.expires = *key.Expires
	}
	return who, counts(app, key, &who, c.Op, time.Now())
}

// still reports whether what was shown counts by now.
func still(snap *meta.Snapshot, who *identity, op plugins.Op, now time.Time) verdict {
	if who.keyID == "" {
		return counts(snap.App(who.app), nil, who, op, now)
	}
	app, key := snap.Key(who.keyID)
	if key == nil || app.Name != who.app || who.hash != "" && who.hash != key.Hash {
		return unknown
	}
	return counts(app, key, who, op, now)
}

// counts reports whether it does for this app and key, as they are now.
func counts(app *meta.App, key *meta.Key, who *identity, op plugins.Op, now time.Time) verdict {
	switch {
	case app == nil:
		return otherApp
	case app.Disabled:
		return disabled
	case !who.expires.IsZero() && !now.Before(who.expires.Add(who.leeway)):
		return expired
	case key == nil:
		return passed
	case key.Expires != nil && !now.Before(*key.Expires):
		return expired
	case !fits(key.Use, op):
		return otherUse
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

// errNotFor answers who shows a token that is for less than his app may.
func errNotFor(app string) error {
	return fmt.Errorf("the token of app %s is not for this: %w", app, errs.Denied)
}

// permit decides whether the caller, who is known by now, may do it. What it answers about another app's topic depends
// on grants alone, never on whether the topic exists.
func permit(snap *meta.Snapshot, c *plugins.Call, only *limits) (verdict, error) {
	t := meta.Topic{App: c.Owner, Name: c.Topic, Ver: c.Ver}
	if t.App == "" && c.Op == plugins.Publish {
		t.App = c.App
	}
	switch {
	case only != nil && !only.allow(c.Op, t, c.Group):
		return denied, errNotFor(c.App)
	case c.Topic == "": // it is known who calls, and nothing is asked for: what is wrong with the request is told next
		return passed, nil
	case c.Op == plugins.Publish && t.App != c.App:
		return denied, fmt.Errorf("app %s may not publish to %s: an app publishes to its own topics: %w", c.App, t, errs.Denied)
	case c.Op != plugins.Publish && !snap.MayRead(c.App, c.Group, t):
		return denied, fmt.Errorf("app %s may not read %s with group %.64q: it takes a subscription that is granted: %w", c.App, t, c.Group, errs.Denied)
	case snap.Topic(t) == nil:
		return unregistered, fmt.Errorf("topic %s is not registered: %w", t, errs.UnknownTopic)
	}
	return passed, nil
}
