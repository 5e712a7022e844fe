// Package manager is the management API, served by role man: tenants and their keys, topics, grants, groups and their
// positions, and who is there. It keeps nothing itself: objects are meta's, messages and positions the store's, and what
// concerns other gateways is asked of them.
package manager

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/httpx"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/peer"
	"github.com/kateway/kateway/registry"
	"github.com/kateway/kateway/store"
)

// requestTimeout bounds one request, whatever it waits for.
const requestTimeout = 30 * time.Second

// Forgetter is told of topics that are no longer what they were.
type Forgetter interface{ Forget(meta.Topic) }

// Config is what the API works on. Functions may be called concurrently.
type Config struct {
	ID   string // of this gateway
	Meta *meta.Directory

	// Open is open mode: apps need no registration, topics of the store that have the form of ours count as there though
	// nobody registered them, and no credentials are asked for, unless there is an AdminKeyHash.
	Open         bool
	AdminKeyHash string // of the admin key that the configuration names, as meta keeps hashes; "" where it names none

	Store    Store // topics by their place, see meta.PlaceIn
	Topics   Forgetter
	Self     peer.Node
	Peers    func() []peer.Member         // the other gateways that can be asked
	Gateways func() []registry.Instance   // all that live, sorted by id
	Status   func(context.Context) Status // of this gateway
	// Describe tells of a cluster's brokers. nil where the store has none.
	Describe func(ctx context.Context, cluster string) (store.Cluster, error)
	Spool    store.Spooler // of this gateway; nil where there is none
	Options  *Options
	// Changed is told of requests that change something, and of those that were refused. nil: nobody wants to know.
	Changed func(ctx context.Context, keyID, role string, r *http.Request, err error)
	Rotate  func(context.Context) error // replaces the secret by which gateways know each other; nil where there is none
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// Store is what the API needs of a store.
type Store interface {
	store.Admin
	store.Publisher
}

// Handler serves the API.
type Handler struct {
	cfg   Config
	log   *slog.Logger
	auth  *prometheus.CounterVec
	seeks chan struct{} // one move of a group at a time: two that overlap would resume each other's gateways
}

// New makes a handler.
func New(c Config) *Handler {
	h := &Handler{cfg: c, log: c.Log, seeks: make(chan struct{}, 1)}
	h.auth = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kateway_manager_auth_total",
		Help: "Requests to the management API by what became of their credentials.",
	}, []string{"result"})
	c.Metrics.MustRegister(h.auth)
	return h
}

// route is one row of the table.
type route struct {
	method, path string
	need         Role
	query        []string // the parameters that it knows
	serve        func(*call) error
}

// paged are the parameters of every list, and what else it knows.
func paged(more ...string) []string { return append([]string{"limit", "after"}, more...) }

func (h *Handler) table() []route {
	const (
		get, post, put, patch, del = http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete

		app    = "/v1/apps/:app"
		topic  = "/v1/topics/:app/:topic/:ver"
		sub    = "/v1/subscriptions/:app/:topic/:ver/:subscriber"
		groups = "/v1/groups/:app/:topic/:ver"
		group  = groups + "/:group"
		dead   = "/v1/dead/:app/:topic/:ver/:group"
	)
	native := []string{"native"}
	return []route{
		{get, "/v1/apps", Viewer, paged(), h.listApps},
		{post, "/v1/apps", Admin, nil, h.createApp},
		{get, app, Viewer, nil, h.getApp},
		{patch, app, Admin, nil, h.patchApp},
		{del, app, Admin, nil, h.deleteApp},
		{get, app + "/keys", Viewer, paged(), h.listKeys},
		{post, app + "/keys", Admin, nil, h.createKey},
		{del, app + "/keys/:id", Admin, nil, h.deleteKey},
		{get, "/v1/topics", Viewer, paged("app"), h.listTopics},
		{post, "/v1/topics", Operator, nil, h.createTopic},
		{get, topic, Viewer, nil, h.getTopic},
		{patch, topic, Operator, nil, h.patchTopic},
		{del, topic, Operator, nil, h.deleteTopic},
		{get, topic + "/schema", Viewer, []string{"version", "id"}, h.getSchema},
		{put, topic + "/schema", Operator, nil, h.putSchema},
		{del, topic + "/schema", Operator, []string{"history"}, h.deleteSchema},
		{get, topic + "/schema/versions", Viewer, paged(), h.listSchemas},
		{get, "/v1/subscriptions", Viewer, paged("app", "subscriber"), h.listSubscriptions},
		{get, sub, Viewer, nil, h.getSubscription},
		{put, sub, Operator, nil, h.putSubscription},
		{del, sub, Operator, nil, h.deleteSubscription},
		{get, groups, Viewer, paged(), h.listGroups},
		{get, group, Viewer, native, h.getGroup},
		{del, group, Operator, native, h.deleteGroup},
		{put, group + "/offsets", Operator, native, h.seekGroup},
		{get, "/v1/peek/:app/:topic/:ver", Viewer, []string{"partition", "offset", "n"}, h.peek},
		{get, dead, Viewer, paged(), h.listDead},
		{post, dead + "/requeue", Operator, nil, h.requeue},
		{del, dead, Operator, nil, h.purge},
		{get, "/v1/clusters", Viewer, paged(), h.listClusters},
		{post, "/v1/clusters", Operator, nil, h.createCluster},
		{get, "/v1/clusters/:cluster", Viewer, nil, h.getCluster},
		{patch, "/v1/clusters/:cluster", Operator, nil, h.patchCluster},
		{del, "/v1/clusters/:cluster", Operator, nil, h.deleteCluster},
		{get, "/v1/options", Viewer, paged(), h.listOptions},
		{get, "/v1/options/:name", Viewer, nil, h.getOption},
		{put, "/v1/options/:name", Operator, nil, h.putOption},
		{post, "/v1/secrets/peer/rotate", Admin, nil, h.rotate},
		{get, "/v1/adminkeys", Admin, paged(), h.listAdminKeys},
		{post, "/v1/adminkeys", Admin, nil, h.createAdminKey},
		{del, "/v1/adminkeys/:id", Admin, nil, h.deleteAdminKey},
	}
}

// process are the routes that need nothing of meta, so that they help to find out why it is away.
func (h *Handler) process() []route {
	return []route{
		{http.MethodGet, "/v1/gateways", Viewer, paged(), h.listGateways},
		{http.MethodGet, "/v1/clients", Viewer, paged("sort", "app"), h.listClients},
		{http.MethodGet, "/v1/status", Viewer, nil, h.status},
		{http.MethodPost, "/v1/refresh", Operator, nil, h.refresh},
		{http.MethodGet, "/v1/spool", Viewer, nil, h.getSpool},
		{http.MethodGet, "/v1/spool/aside", Viewer, paged(), h.listAsides},
		{http.MethodPost, "/v1/spool/aside/requeue", Operator, nil, h.requeueAsides},
		{http.MethodDelete, "/v1/spool/aside", Operator, nil, h.discardAsides},
	}
}

// Routes are the API's, each guarded.
func (h *Handler) Routes() []httpx.Route {
	table := h.process()
	for _, t := range h.table() {
		t.serve = h.known(t.serve)
		table = append(table, t)
	}
	var list []httpx.Route
	for _, t := range table {
		list = append(list, httpx.Route{Method: t.method, Path: t.path, Handler: h.Guard(h.run(t), t.need)})
	}
	return list
}

// call is one request whose caller and query have been checked.
type call struct {
	w   http.ResponseWriter
	r   *http.Request
	ctx context.Context //nolint:containedctx // the request's own, bounded by requestTimeout
	q   httpx.Query
	raw []byte // the body, once it has been read

	refused error // what was answered in more words than an error has
}

func (c *call) param(name string) string { return httpx.Param(c.r, name) }

// run makes the handler of a route.
func (h *Handler) run(t route) httpx.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		w.Header().Set("Cache-Control", "no-store")
		q, err := httpx.ParseQuery(r, t.query...)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
		defer cancel()
		answer := &call{w: w, r: r, ctx: ctx, q: q}
		err = t.serve(answer)
		if t.method != http.MethodGet {
			h.note(r, cmp.Or(err, answer.refused))
		}
		return err
	}
}

var errNotLoaded = fmt.Errorf("nothing has been read from meta yet: %w", errs.Unavailable)

func (h *Handler) isLoaded() bool {
	select {
	case <-h.cfg.Meta.Loaded():
		return true
	default:
		return false
	}
}

// known refuses to speak of what nobody has told us yet, and marks answers that may be outdated.
func (h *Handler) known(serve func(*call) error) func(*call) error {
	return func(c *call) error {
		if !h.isLoaded() {
			return errNotLoaded
		}
		if h.cfg.Meta.Snapshot().Stale() {
			c.w.Header().Set("X-Stale", "1")
		}
		return serve(c)
	}
}

// note logs who changed what. The path has names only; keys travel in headers and bodies.
func (h *Handler) note(r *http.Request, err error) {
	outcome := "done"
	if err != nil {
		outcome = errs.Of(err).Code()
	}
	h.log.Info("management", "request_id", httpx.RequestID(r.Context()), "admin_key", callerOf(r.Context()).id, "method", r.Method,
		"path", r.URL.EscapedPath(), "remote", r.RemoteAddr, "outcome", outcome)
}

// isGone reports that there is nothing left to delete.
func isGone(err error) bool {
	return errors.Is(err, errs.NotFound) || errors.Is(err, errs.UnknownTopic) || errors.Is(err, errs.UnknownApp)
}
