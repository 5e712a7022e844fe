// Package gateway is the process: configuration, wiring, listeners, health and the order of its end. It starts in a
// test, many times in one process, on port 0.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kateway/kateway/internal/edge"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/handover"
	"github.com/kateway/kateway/internal/httpx"
	"github.com/kateway/kateway/internal/online"
	"github.com/kateway/kateway/manager"
	"github.com/kateway/kateway/peer"
	"github.com/kateway/kateway/registry"
	"github.com/kateway/kateway/store"
	"github.com/kateway/kateway/store/breaker"
	"github.com/kateway/kateway/store/clusters"
	"github.com/kateway/kateway/store/spool"
)

// Deps is what a gateway is given by its surroundings.
type Deps struct {
	Log     *slog.Logger
	Level   *slog.LevelVar // of Log, set anew by Reload; nil if it can't be
	Version string
	Store   store.Store // instead of the one that the configuration names; the gateway closes it
	// Sockets are open already, as systemd hands them over; the addresses of the configuration are not opened then.
	Sockets map[Role]net.Listener
	// Kept are open already since the gateway before us served on them; those that the configuration does not want are closed.
	Kept []handover.Socket
	// Predecessor, if not nil, is the process that this one takes over from, while that still serves.
	Predecessor *handover.Parent
	// Successor says that a gateway of this id was listed a moment ago, and that we are in its place.
	Successor bool
	// AdminKey opens the management API where no file has it; "" is none.
	AdminKey string
	// Notify, if not nil, is told what systemd wants to know: READY=1, STOPPING=1.
	Notify func(state string)
}

// Gateway is one running kateway.
type Gateway struct {
	cfg      Config
	deps     Deps
	log      *slog.Logger
	metrics  *prometheus.Registry
	certs    *certificate // nil without TLS
	clientCA *clientCA    // nil where clients are not asked for certificates
	peerTLS  *peerTLS     // nil where gateways know each other by the cluster's secret
	first    store.Store  // the one that the configuration names
	store    *clusters.Stores
	breaker  *breaker.Breaker // before the store
	spool    *spool.Spool     // before both; nil with the embedded store
	toStore  store.Publisher  // what publishes go to
	cluster  *cluster
	online   *online.Tracker
	chain    *chain
	access   *accessLog // nil where there is none
	engine   *engine
	manager  *manager.Handler
	options  *manager.Options
	health   *health
	tables   map[Role][]httpx.Route
	servers  []*server
	lanes    *server // of requests that come to our predecessor; nil without one
	relay    *relay

	limits      *edge.Limits
	proxies     *edge.Proxies // nil: nobody is believed
	edgeMetrics *edge.Metrics

	taking    *laps // over from our predecessor; nil without one
	started   time.Time
	keyGiven  bool          // the operator brings the admin key
	published atomic.Uint64 // requests to publish
	rate      rate          // of them
	unspooled exclusions
	draining  atomic.Bool
	fatal     chan error // a reason to stop that was not asked for
	handing   chan succession
	over      chan struct{} // closed when Run returns

	background    context.Context //nolint:containedctx // the lifetime of what goes on in the background
	endBackground context.CancelFunc
	work          sync.WaitGroup // in the background

	reloading sync.Mutex // guards cfg after New
}

// startTimeout bounds what New waits for a store.
const startTimeout = 30 * time.Second

// New checks the configuration, opens the store and the listeners; Run serves. A gateway that New returned must be run,
// with a context that has ended if need be, so that all is closed again.
func New(ctx context.Context, cfg Config, deps Deps) (*Gateway, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	g := &Gateway{
		cfg: cfg, deps: deps, log: deps.Log, metrics: prometheus.NewRegistry(), online: online.NewTracker(),
		fatal: make(chan error, 1), started: time.Now().UTC(), relay: newRelay(), handing: make(chan succession), over: make(chan struct{}),
	}
	g.background, g.endBackground = context.WithCancel(context.WithoutCancel(ctx))
	if err := g.open(ctx); err != nil {
		g.abandon()
		return nil, err
	}
	return g, nil
}

// open acquires everything, in the order in which things need each other.
func (g *Gateway) open(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := os.MkdirAll(g.cfg.Data, 0o700); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	secret, err := loadSecret(g.cfg.Data)
	if err != nil {
		return err
	}
	if g.cfg.TLSCert != "" {
		if g.certs, err = loadCertificate(g.cfg.TLSCert, g.cfg.TLSKey, g.log); err != nil {
			return err
		}
	}
	if g.cfg.TLSClientCA != "" {
		if g.clientCA, err = loadClientCA(g.cfg.TLSClientCA, g.cfg.TLSClientAuth, g.log); err != nil {
			return err
		}
	}
	if err = g.newEdge(); err != nil {
		return err
	}
	listeners, err := g.listen(ctx)
	if err != nil {
		return err
	}
	if g.cfg.ID == "" {
		g.cfg.ID = g.defaultID(listeners)
	}
	if err := g.openParts(ctx, secret); err != nil {
		closeAll(listeners)
		return err
	}
	g.serveOn(listeners)
	return nil
}

// openParts opens what the roles stand on. What our predecessor has comes after all else, since nobody can publish
// between its end and ours.
func (g *Gateway) openParts(ctx context.Context, secret []byte) error {
	adminKey, err := givenAdminKey(g.cfg.AdminKeyFile, g.deps.AdminKey)
	if err != nil {
		return err
	}
	g.keyGiven = adminKey != ""
	if g.access, err = openAccessLog(&g.cfg, g.log); err != nil {
		return err
	}
	if err := g.openShared(ctx); err != nil {
		return err
	}
	if err := g.succeed(ctx); err != nil {
		return err
	}
	if err := g.openOwned(ctx); err != nil {
		return err
	}
	g.taking.lap("store")
	g.store = g.clusters(g.first)
	g.breaker = breaker.New(breaker.Config{Store: g.store, Log: g.log, Metrics: g.metrics})
	g.toStore = g.breaker.Publisher()
	if err := g.openSpool(); err != nil {
		return err
	}
	g.taking.lap("spool")
	if g.chain, err = openChain(ctx, g, secret); err != nil {
		return err
	}
	g.taking.lap("plugins")
	g.engine = newEngine(g, g.cluster.receiptSecret(secret))
	g.manager = newManager(g, adminKey)
	return nil
}

// openShared opens what several processes may use at a time.
func (g *Gateway) openShared(ctx context.Context) error {
	if g.cfg.ZK != "" {
		if err := g.openCluster(); err != nil {
			return err
		}
	}
	if g.first = g.deps.Store; g.first == nil && g.cfg.StoreKind() == "kafka" {
		var err error
		if g.first, err = openStore(ctx, &g.cfg, g.log); err != nil {
			return err
		}
	}
	return nil
}

// openOwned opens what one process at a time may use.
func (g *Gateway) openOwned(ctx context.Context) (err error) {
	if g.cluster == nil {
		if err := g.openCluster(); err != nil {
			return err
		}
	}
	if g.first == nil {
		g.first, err = openStore(ctx, &g.cfg, g.log)
	}
	if g.deps.Predecessor == nil {
		g.warm(ctx)
	}
	return err
}

func (g *Gateway) openCluster() (err error) {
	if g.cluster, err = openCluster(g); err != nil {
		return err
	}
	g.cluster.follow(g.background, &g.work)
	if g.cfg.address(Peer) != off {
		g.cluster.pool, err = g.newPool()
	}
	return err
}

// listen opens a socket per address.
func (g *Gateway) listen(ctx context.Context) ([]net.Listener, error) {
	var list []net.Listener
	for _, e := range g.cfg.endpoints() {
		ln, err := g.socket(ctx, e)
		if err != nil {
			closeAll(list)
			return nil, err
		}
		list = append(list, ln)
	}
	for _, k := range g.deps.Kept {
		if !slices.Contains(list, k.Listener) {
			g.log.Info("the configuration no longer names this address", "address", k.Address)
			_ = k.Close()
		}
	}
	return list, nil
}

// socket is the one that was handed over for a role of the endpoint, or a new one.
func (g *Gateway) socket(ctx context.Context, e endpoint) (net.Listener, error) {
	for _, r := range e.roles {
		ln := g.deps.Sockets[r]
		if ln == nil {
			continue
		}
		if c, ok := ln.(syscall.Conn); ok {
			if raw, err := c.SyscallConn(); err == nil {
				_ = setUserTimeout(raw, userTimeout) // where it can't be had, keep-alives have to do
			}
		}
		return ln, nil
	}
	for _, k := range g.deps.Kept {
		if !k.Given && k.Roles[0] == string(e.roles[0]) && (k.Address == e.addr || k.Addr().String() == e.addr) {
			return k.Listener, nil
		}
	}
	return listen(ctx, e.addr)
}

func closeAll(list []net.Listener) {
	for _, ln := range list {
		_ = ln.Close()
	}
}

// defaultID is host name and pub port, or the first port that there is.
func (g *Gateway) defaultID(listeners []net.Listener) string {
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "kateway"
	}
	_, port, _ := net.SplitHostPort(listeners[0].Addr().String())
	return host + "-" + port
}

// serveOn builds the route tables and the servers on the listeners, which stand in the order of the endpoints.
func (g *Gateway) serveOn(listeners []net.Listener) {
	m := newMetrics(g.metrics, g.deps.Version)
	g.tables = map[Role][]httpx.Route{
		Pub: g.engine.pub.Routes(), Sub: g.engine.sub.Routes(), Peer: slices.Concat(peer.Routes(node{g}), []httpx.Route{peer.AskRoute(g.chain)}, g.engine.router.Routes()),
		Man: append(manRoutes(g.metrics, g.guardMetrics()), g.manager.Routes()...),
	}
	g.health = &health{parts: g.parts(), log: g.log, drain: g.draining.Load}
	served := g.served()
	for i, e := range g.cfg.endpoints() {
		t := newTable(newRules(&g.cfg, e.roles, g.proxies).watched(g.chain.watchers), g.wrapper(m, e.roles[0]))
		common := append(g.health.routes(e.roles, served), openAPIRoute())
		if slices.Contains(e.roles, Pub) || slices.Contains(e.roles, Sub) {
			common = append(common, g.tokenRoute())
		}
		g.fill(t, m, e.roles[0], common)
		for _, r := range e.roles {
			g.fill(t, m, r, g.tables[r])
			if r == Man {
				g.fill(t, m, r, debugRoutes(g.guardDebug))
			}
		}
		g.servers = append(g.servers, g.newServer(e, listeners[i], g.relay.guard(e.roles[0], t)))
	}
	g.countConnections()
}

func (g *Gateway) fill(t *table, m *metrics, role Role, routes []httpx.Route) {
	for _, r := range routes {
		t.add(r, g.wrapper(m, role))
	}
}

// wrapper makes endpoints of the role.
func (g *Gateway) wrapper(m *metrics, role Role) wrapper {
	return func(route string, h httpx.Handler) *httpx.Endpoint {
		seen := m.route(role, route)
		if role == Pub && strings.HasPrefix(route, http.MethodPost) {
			seen = counted{seen, &g.published}
		}
		if g.access != nil && role != Peer {
			seen = accessed{seen, g.access}
		}
		shell := &httpx.Shell{Log: g.log, Seen: seen, Before: g.before, Instead: func(w http.ResponseWriter, r *http.Request, err error) bool {
			return errors.Is(err, errs.Draining) && g.relay.again(role, w, r)
		}}
		return shell.Wrap(route, h)
	}
}

// before asks clients, in every answer once a stop has begun, to come back over another connection. On HTTP/2 net/http
// makes a GOAWAY of it.
func (g *Gateway) before(h http.Header) {
	if g.draining.Load() {
		h.Set("Connection", "close")
	}
}

func (g *Gateway) countConnections() {
	for _, s := range g.servers {
		g.metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        "kateway_http_connections",
			Help:        "Open connections, by the roles of their address.",
			ConstLabels: prometheus.Labels{"roles": join(s.roles)},
		}, func() float64 { return float64(s.conns.open.Load()) }))
	}
}

// served are the roles that are on.
func (g *Gateway) served() []Role {
	return slices.DeleteFunc(slices.Clone(roles), func(r Role) bool { return g.cfg.address(r) == off })
}

// Addr is where the role is served, "" where it is off.
func (g *Gateway) Addr(r Role) string {
	for _, s := range g.servers {
		if slices.Contains(s.roles, r) {
			return s.ln.Addr().String()
		}
	}
	return ""
}

// Routes are the documented routes, by role; role peer is no business of anybody else's. Those that stand on every role are
// under "".
func (g *Gateway) Routes() map[Role][]httpx.Route {
	all := map[Role][]httpx.Route{"": append(g.health.routes(nil, nil), openAPIRoute())}
	for r, t := range g.tables {
		if r != Peer {
			all[r] = slices.Clone(t)
		}
	}
	if g.cfg.address(Pub) != off {
		all[Pub] = append(all[Pub], g.tokenRoute())
	} else {
		all[Sub] = append(all[Sub], g.tokenRoute())
	}
	return all
}

// fail stops the gateway in order, since it can't do its work any more.
func (g *Gateway) fail(err error) {
	select {
	case g.fatal <- err:
	default: // one is enough
	}
}

// leaveTime is how long groups may take to go to other gateways before the stop goes on.
const leaveTime = 3 * time.Second

// Run serves until ctx ends or something fails that can't be mended, then stops in order: nil in the first case, the
// reason in the second. It may be called once.
func (g *Gateway) Run(ctx context.Context) error {
	defer close(g.over)
	defer g.endBackground()
	g.cluster.loaded(ctx)
	g.chain.start(ctx)
	listed, unlist := context.WithCancelCause(g.background)
	defer unlist(nil)
	var listing sync.WaitGroup
	g.cluster.join(listed, &listing, g.self, g.engine.router.Update)
	if g.deps.Successor {
		g.cluster.listKnown(ctx)
	}
	g.duties(g.background, &g.work)
	g.work.Go(func() { g.health.run(g.background) })
	g.serve()
	g.announce()
	var reason error
	select {
	case <-ctx.Done():
	case reason = <-g.fatal:
	case <-g.store.Done():
		reason = fmt.Errorf("the store can't go on: %w", g.store.Err())
	case s := <-g.handing:
		unlist(registry.ErrKeep)
		listing.Wait() // it no longer writes what the next one is about to
		return g.giveUp(s)
	}
	if reason != nil {
		g.log.Error("stopping, since it can't go on", "error", reason)
	}
	g.notify("STOPPING=1")
	g.leaveGroups()
	unlist(nil)
	g.work.Go(listing.Wait)
	return errors.Join(reason, g.stop())
}

// serve accepts connections from now on.
func (g *Gateway) serve() {
	for _, s := range g.servers {
		g.work.Go(func() {
			if err := s.serve(); !g.draining.Load() && !errors.Is(err, http.ErrServerClosed) {
				g.fail(fmt.Errorf("serving on %s: %w", s.ln.Addr(), err))
			}
		})
	}
	if p := g.deps.Predecessor; p != nil {
		g.lanes = newServer(&g.cfg, endpoint{}, p.Lanes(), http.HandlerFunc(g.fromLane), nil, g.log)
		g.lanes.http.ConnContext, g.lanes.conns.gone = g.online.ConnContext, g.online.Closed
		g.work.Go(func() { _ = g.lanes.serve() }) // until the predecessor has ended
	}
}

// leaveGroups has our groups commit and go to their next homes while we are still listed: of a gateway that is not listed the
// others believe that it has died, and take its places in the groups away.
func (g *Gateway) leaveGroups() {
	g.engine.router.Leave()
	if len(g.cluster.peers()) == 0 {
		return
	}
	limit, cancel := context.WithTimeout(context.Background(), min(leaveTime, g.cfg.DrainLimit/2))
	defer cancel()
	for len(g.engine.hub.Keys()) > 0 && limit.Err() == nil {
		wait(limit, 10*time.Millisecond)
	}
}

func (g *Gateway) notify(state string) {
	if g.deps.Notify != nil {
		g.deps.Notify(state)
	}
}

// announce tells what runs where.
func (g *Gateway) announce() {
	g.log.Info("kateway serves", "version", g.deps.Version, "id", g.cfg.ID, "store", g.cfg.StoreKind(), "data", g.cfg.Data, "open_mode", g.cfg.Open(), "plugins", g.cfg.chain(), "zookeeper", g.cfg.ZK)
	for _, s := range g.servers {
		g.log.Info("listening", "roles", join(s.roles), "address", s.ln.Addr().String(), "tls", g.certs != nil)
	}
	if g.cfg.Insecure && g.cfg.Open() {
		g.log.Warn("open mode with --insecure: whoever reaches the addresses may publish, read and delete everything")
	}
	g.notify("READY=1")
	if p := g.deps.Predecessor; p != nil {
		if err := p.Serving(); err != nil {
			g.log.Warn("the process before this one is gone already", "error", err)
		}
		g.taking.lap("listed")
		g.log.Info("took over", g.taking.args()...)
	}
}

func join(roles []Role) string {
	names := make([]string, len(roles))
	for i, r := range roles {
		names[i] = string(r)
	}
	return strings.Join(names, ",")
}
