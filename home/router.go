// Package home finds each group's home, the gateway that serves it for all of them, and lets clients of any gateway be
// clients there. A [Router] is a [group.Opener] for who serves clients: a session that it opens is one of the local hub or
// one of another gateway, changes from one to the other when the home does, and looks the same all the while.
//
// Which gateway is home follows from the list of those that live; Kafka's group protocol is what keeps two that disagree
// from doing harm: both are members then, and share the partitions.
//
// Locks, in the order in which they are taken: session.mu or remote.mu, then Router.mu, link.mu, and view.mu or outbox.mu.
// The hub is called with none of them held.
package home

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/registry"
)

const (
	absence   = 5 * time.Second // after which a gateway that could not be reached is tried again
	otherView = 2 * time.Second // by then all gateways have heard of a change
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
	Peers       Peers                   // nil: others can't be reached, so that all groups are here
	Spread      func(key group.Key) int // how many gateways are home of the group; nil: 1, as for what is below
	Reconnected func() time.Time        // when the connection to the registry was last made anew; nil or zero: never, or not known
	MaxMessage  int                     // bytes of the largest message that gateways pass to each other; 16 MiB at least
	Log         *slog.Logger
	Metrics     prometheus.Registerer
}

// Router brings clients to the homes of their groups. All methods may be called concurrently, but for Update.
type Router struct {
	cfg     Config
	largest int // of a frame, in bytes
	view    *view
	metrics metrics
	ctx     context.Context //nolint:containedctx // the lifetime of links, which outlive every request
	stop    context.CancelFunc
	wg      sync.WaitGroup

	mu       sync.Mutex
	links    map[string]*link
	inbound  map[*inbound]struct{}
	sessions map[*session]struct{}
	strays   map[group.Key]time.Time // see stray
	evicted  map[group.Key]time.Time // groups that went to another home, and when
	leaving  bool                    // no other gateway's clients are taken
	staying  bool                    // since they are taken soon, by the process that follows this one
	draining bool                    // nor our own
	closed   bool
}

var _ group.Opener = (*Router)(nil)

// New makes a router that knows no other gateway: everything is local until Update. Close ends it.
func New(cfg Config) *Router {
	r := &Router{
		cfg: cfg, largest: max(cfg.MaxMessage, minMessage) + messageHead, view: newView(cfg.Self, cfg.Peers == nil, cfg.Reconnected),
		links: map[string]*link{}, inbound: map[*inbound]struct{}{}, sessions: map[*session]struct{}{}, strays: map[group.Key]time.Time{}, evicted: map[group.Key]time.Time{},
	}
	r.ctx, r.stop = context.WithCancel(context.Background())
	r.metrics = newMetrics(cfg.Metrics, r)
	return r
}

// Open is Opener's.
func (r *Router) Open(ctx context.Context, ask group.Ask) (group.Session, error) {
	if n := r.spread(ask.Key); n > 1 {
		return r.openSpread(ctx, ask, n)
	}
	return r.openNth(ctx, &ask, 0)
}

func (r *Router) openNth(ctx context.Context, ask *group.Ask, nth int) (*session, error) {
	s := &session{r: r, ask: *ask, nth: nth}
	if err := r.register(s); err != nil {
		return nil, err
	}
	if err := s.find(ctx); err != nil {
		s.Close()
		if ctx.Err() != nil {
			err = fmt.Errorf("waiting for the group's home: %w: %w", err, errs.Unavailable)
		}
		return nil, err
	}
	return s, nil
}

func (r *Router) register(s *session) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.draining {
		return errs.Draining
	}
	r.sessions[s] = struct{}{}
	return nil
}

func (r *Router) forget(s *session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.sessions, s)
}

// open opens a session at the group's nth home, or, where that can't be reached, at who comes next, ourselves at last. It
// answers whose it is.
func (r *Router) open(ctx context.Context, ask *group.Ask, nth int) (group.Session, string, error) {
	var tried []string
	for rest := firstRest; ; {
		id := r.view.pick(ask.Key, nth, tried)
		inner, err := r.openAt(ctx, id, ask)
		switch {
		case err == nil:
			return inner, id, nil
		case ctx.Err() != nil:
			return nil, "", err
		case errors.Is(err, group.ErrMoved): // it is just leaving the group, and may be home all the same
			if err := sleep(ctx, rest); err != nil {
				return nil, "", err
			}
			rest = min(2*rest, longestRest)
		case id != r.cfg.Self && (errors.Is(err, errAway) || errors.Is(err, errLost)):
			tried = r.next(id, err, tried)
		default:
			return nil, "", err
		}
	}
}

// errAway says of a gateway that nothing can be opened there, whatever is asked for.
var errAway = errors.New("the gateway is no home now")

func (r *Router) openAt(ctx context.Context, id string, ask *group.Ask) (group.Session, error) {
	if id == r.cfg.Self {
		return r.cfg.Hub.Open(ctx, *ask)
	}
	l, err := r.link(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errAway, err)
	}
	s, err := l.open(ctx, ask)
	if errors.Is(err, errs.Draining) {
		err = fmt.Errorf("%w: %w", errAway, err)
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// next decides what a failure at another gateway means for who is asked next, and answers the list of those that are not:
// a connection that broke is tried once more, since the home may be well.
func (r *Router) next(id string, err error, tried []string) []string {
	again := "again " + id // no gateway's id: it has a space
	if errors.Is(err, errLost) && !errors.Is(err, errSilent) && !slices.Contains(tried, again) {
		return append(tried, again)
	}
	r.miss(id)
	return append(tried, id)
}

// link answers the link to the gateway, made now where there is none. It waits until the gateway has answered, bounded by
// ctx. Where it can't be reached it is absent from then on.
func (r *Router) link(ctx context.Context, id string) (*link, error) {
	r.mu.Lock()
	l := r.links[id]
	if l == nil || l.usable() != nil {
		if r.closed {
			r.mu.Unlock()
			return nil, errs.Draining
		}
		if l != nil && errors.Is(l.usable(), errs.Draining) && l.live() {
			r.mu.Unlock()
			return nil, l.usable()
		}
		l = newLink(id, r.largest, func() { r.miss(id) })
		r.links[id] = l
		r.wg.Go(func() { r.runLink(l) })
	}
	r.mu.Unlock()
	select {
	case <-l.ready:
		return l, l.usable()
	case <-ctx.Done():
		return nil, fmt.Errorf("gateway %s has not answered yet: %w: %w", id, ctx.Err(), errs.Unavailable)
	}
}

// runLink is the life of a link.
func (r *Router) runLink(l *link) {
	joined := l.run(r.ctx, r.cfg.Peers, r.cfg.Self)
	r.mu.Lock()
	if r.links[l.id] == l {
		delete(r.links, l.id)
	}
	r.mu.Unlock()
	err := l.usable()
	switch {
	case r.ctx.Err() != nil, errors.Is(err, errUnknown):
	case !joined:
		r.cfg.Log.Warn("another gateway can't be reached: the groups that it is home of are served elsewhere", "gateway", l.id, "error", err)
		r.miss(l.id)
	case errors.Is(err, errSilent):
		r.cfg.Log.Warn("another gateway fell silent: the groups that it is home of are served elsewhere", "gateway", l.id)
	default:
		r.cfg.Log.Debug("link with another gateway ended", "gateway", l.id, "error", err)
	}
	<-l.gone
}

// miss takes a gateway off the homes until it can be reached again, which is tried every 5 s.
func (r *Router) miss(id string) {
	if !r.view.miss(id) {
		return
	}
	r.metrics.absences.Inc()
	r.spawn(func() {
		for r.view.missing(id) && sleep(r.ctx, absence) == nil && r.view.missing(id) {
			if _, err := r.link(r.ctx, id); err == nil {
				r.cfg.Log.Info("a gateway can be reached again", "gateway", id)
				r.view.back(id)
				r.rehome()
				if sleep(r.ctx, otherView) == nil {
					r.follow()
				}
				return
			}
		}
	})
}

// spawn runs f, unless the router is closed already.
func (r *Router) spawn(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.wg.Go(f)
	}
}

// Update takes the list of live gateways, as the registry tells it. Peers has to know them before. It does not wait. One
// caller at a time.
func (r *Router) Update(list []registry.Instance) {
	r.changed(r.view.update(list, time.Now()))
}

// Follow calls Update with what comes until ctx ends or the channel is closed.
func (r *Router) Follow(ctx context.Context, lists <-chan []registry.Instance) {
	for {
		select {
		case <-ctx.Done():
			return
		case list, ok := <-lists:
			if !ok {
				return
			}
			r.Update(list)
		}
	}
}

// changed lets groups and sessions follow a change of the view, once those who have come were found to be reachable, and once more
// when all others have heard of it too: who heard late may have sent clients here meanwhile.
func (r *Router) changed(came []string, changed bool, again time.Time) {
	if !again.IsZero() {
		r.spawn(func() {
			if sleep(r.ctx, time.Until(again)) == nil {
				r.changed(r.view.look(time.Now()))
			}
		})
	}
	if !changed {
		return
	}
	r.spawn(func() {
		var wg sync.WaitGroup
		for _, id := range came {
			r.dropAway(id)
			if id != r.cfg.Self {
				wg.Go(func() { _, _ = r.link(r.ctx, id) }) // where it fails it is absent now
			}
		}
		wg.Wait()
		r.rehome()
		if sleep(r.ctx, otherView) == nil {
			r.rehome()
			r.follow()
		}
	})
}

// dropAway forgets the link with a gateway that has stopped and come back. What goes over it ends by itself.
func (r *Router) dropAway(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if l := r.links[id]; l != nil && errors.Is(l.usable(), errs.Draining) {
		delete(r.links, id)
	}
}

// follow makes forwarded sessions go where their home is now. It is done when all gateways have heard of that: by then a home
// that knows that it is none any more has sent them there itself, with what their clients hold.
func (r *Router) follow() {
	for _, s := range r.openSessions() {
		s.follow()
	}
}

// rehome sends away groups, with their clients, whose home is another gateway now.
func (r *Router) rehome() {
	if r.ctx.Err() != nil {
		return
	}
	for _, key := range r.cfg.Hub.Keys() {
		if !r.view.among(key, r.spread(key)) {
			r.cfg.Log.Debug("a group's home is another gateway now", "topic", key.Topic, "group", key.Group, "home", r.Home(key))
			r.evict(key)
		}
	}
}

// evict sends a group away.
func (r *Router) evict(key group.Key) {
	now := time.Now()
	r.mu.Lock()
	maps.DeleteFunc(r.evicted, func(_ group.Key, at time.Time) bool { return now.Sub(at) > otherView })
	r.evicted[key] = now
	r.mu.Unlock()
	r.metrics.evictions.Inc()
	r.cfg.Hub.Evict(key)
}

// wentAway reports whether the group was here and has just gone to another home: who asks for it here has not heard of that
// yet. A gateway that asks for longer sees it differently, and is served.
func (r *Router) wentAway(key group.Key) bool {
	r.mu.Lock()
	at, known := r.evicted[key]
	r.mu.Unlock()
	return known && time.Since(at) < otherView && !r.view.among(key, r.spread(key))
}

// openSessions are the open sessions.
func (r *Router) openSessions() []*session {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]*session, 0, len(r.sessions))
	for s := range r.sessions {
		list = append(list, s)
	}
	return list
}

// Home is the id of the gateway that is the group's home now, the first where there are several.
func (r *Router) Home(key group.Key) string { return r.view.pick(key, 0, nil) }

// Gone reports whether the gateway with this id no longer lives, as far as the registry can be believed: at once when it
// says so, and, when we have not been connected to it for long, 10 s after that.
func (r *Router) Gone(instance string) bool { return r.view.gone(instance, time.Now()) }

// Receipts is Opener's.
func (r *Router) Receipts(key group.Key) *group.Receipts { return r.cfg.Hub.Receipts(key) }

// spread is how many homes the group has.
func (r *Router) spread(key group.Key) int {
	if r.cfg.Spread == nil {
		return 1
	}
	return max(1, min(r.cfg.Spread(key), r.view.count()))
}
