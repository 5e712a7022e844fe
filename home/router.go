// Package home finds each group's home, the gateway that serves it for all of them, and lets clients of any gateway be
// clients there. A [Router] is a [group.Opener] for who serves clients: a session that it opens is one of the local hub or
// one of another gateway, changes from one to the other when the home does, and looks the same all the while.
//
// Which gateway is home follows from the list of those that live; Kafka's group protocol is what keeps two that disagree
// from doing harm: both are members then, and share the partitions.
package home

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/internal/httpx"
	"github.com/kateway/kateway/registry"
	"github.com/kateway/kateway/store"
)

// Local is this gateway's own groups, a *group.Hub.
type Local interface {
	group.Opener
	// Info tells of the group here, and whether there is anything to tell.
	Info(key group.Key) (group.Info, bool)
	// Keys are the groups that are here.
	Keys() []group.Key
	// Evict makes this gateway commit and leave the group; sessions get ErrMoved. It does not wait.
	Evict(key group.Key)
}

// Peers is how other gateways are reached, a *peer.Pool.
type Peers interface {
	// Reach answers what carries an HTTP/2 request to the gateway, and the address that it is made out to.
	Reach(id string) (via http.RoundTripper, base url.URL, ok bool)
}

// Config is what a Router is made of.
type Config struct {
	Self        string                  // this gateway's id in the registry
	Hub         Local                   // this gateway's groups
	Peers       Peers                   // nil: there are no other gateways
	Spread      func(key group.Key) int // how many gateways are home of the group; nil: 1, as for what is below
	Reconnected func() time.Time        // when the connection to the registry was last made anew; nil or zero: never, or not known
	Log         *slog.Logger
	Metrics     prometheus.Registerer
}

// Router brings clients to the homes of their groups. All methods may be called concurrently, but for Update.
type Router struct {
	cfg Config
}

var _ group.Opener = (*Router)(nil)

// New makes a router that knows no other gateway: everything is local until Update. Close ends it.
func New(cfg Config) *Router { return &Router{cfg: cfg} }

// Open is Opener's.
func (r *Router) Open(ctx context.Context, ask group.Ask) (group.Session, error) {
	return r.cfg.Hub.Open(ctx, ask)
}

// Settle is Opener's.
func (r *Router) Settle(ctx context.Context, key group.Key, verbs ...group.Verb) []error {
	return r.cfg.Hub.Settle(ctx, key, verbs...)
}

// Through is Opener's.
func (r *Router) Through(ctx context.Context, key group.Key, at ...store.Position) []error {
	return r.cfg.Hub.Through(ctx, key, at...)
}

// Mark is Opener's.
func (r *Router) Mark(ctx context.Context, key group.Key, at ...group.At) []error {
	return r.cfg.Hub.Mark(ctx, key, at...)
}

// Receipts is Opener's.
func (r *Router) Receipts(key group.Key) *group.Receipts { return r.cfg.Hub.Receipts(key) }

// Update takes the list of live gateways, as the registry tells it. Peers has to know them before. One caller at a time.
func (r *Router) Update([]registry.Instance) {}

// Home is the id of the gateway that is the group's home now.
func (r *Router) Home(group.Key) string { return r.cfg.Self }

// Gone reports whether the gateway with this id no longer lives, as far as the registry can be believed.
func (r *Router) Gone(string) bool { return false }

// Routes serves sessions to other gateways. They belong on a listener that lets in gateways only.
func (r *Router) Routes() []httpx.Route { return nil }

// Drain sends the clients of other gateways to the groups' next homes, and ends forwarded sessions of our own clients with
// errs.Draining, spread over the time given. It does not wait. The hub's own Drain is to follow.
func (r *Router) Drain(time.Duration) {}

// Close ends everything. ctx bounds the wait.
func (r *Router) Close(context.Context) error { return nil }
