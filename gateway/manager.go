package gateway

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/httpx"
	"github.com/kateway/kateway/manager"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/store"
)

// newManager makes the management API. adminKey is the hash of the key that the operator brings, "" where he brings none.
func newManager(g *Gateway, adminKey string) *manager.Handler {
	if g.deps.Level != nil {
		g.options = manager.NewOptions(g.log, manager.LogLevel(g.deps.Level, g.logLevel))
	} else {
		g.options = manager.NewOptions(g.log)
	}
	var rotate func(context.Context) error
	if g.cluster.session != nil {
		rotate = func(ctx context.Context) error { return g.cluster.rotate(ctx, 0) }
	}
	return manager.New(manager.Config{
		ID: g.cfg.ID, Meta: g.cluster.meta, Open: g.cfg.Open(), AdminKeyHash: adminKey,
		Store: g.store, Topics: g.engine.topics, Self: node{g}, Peers: g.cluster.peers, Gateways: g.cluster.gateways,
		Status: g.status, Describe: g.describe, Options: g.options, Changed: g.chain.changed(), Rotate: rotate, Log: g.log, Metrics: g.metrics, Spool: g.spooler(),
	})
}

// logLevel is the one that the configuration names.
func (g *Gateway) logLevel() string {
	g.reloading.Lock()
	defer g.reloading.Unlock()
	return g.cfg.LogLevel
}

// status is this gateway in a few words, and what is to be worried about.
func (g *Gateway) status(ctx context.Context) manager.Status {
	s := manager.Status{
		ID: g.cfg.ID, Version: g.deps.Version, PID: os.Getpid(), Started: g.started,
		Open: g.cfg.Open(), Store: g.cfg.StoreKind(), Spool: g.spoolStatus(),
	}
	for _, r := range g.served() {
		s.Roles = append(s.Roles, string(r))
	}
	s.Circuits = g.openCircuits()
	if g.cfg.Open() && g.cfg.Insecure {
		s.Warnings = append(s.Warnings, "open mode with --insecure: whoever reaches the addresses may publish, read and delete everything; ask for keys by --plugins auth")
	}
	if g.cfg.ZK != "" && g.cfg.address(Peer) == off && len(g.cluster.gateways()) > 1 {
		s.Warnings = append(s.Warnings, "there are other gateways, but this one has no --peer: they can't ask it who is connected, nor have it let go of a group")
	}
	s.Warnings = append(s.Warnings, g.weaknesses(ctx)...)
	return s
}

// maxCircuits is how many circuits that are not closed are listed.
const maxCircuits = 100

// openCircuits are those that are not closed: of clusters first, then of topics, some of them where there are many.
func (g *Gateway) openCircuits() (list []manager.Circuit) {
	for _, o := range g.breaker.Open() {
		list = append(list, manager.Circuit{Cluster: cmp.Or(o.Cluster, meta.DefaultCluster), Topic: o.Topic, Probing: o.Probing})
	}
	slices.SortFunc(list, func(a, b manager.Circuit) int {
		return cmp.Or(cmp.Compare(min(len(a.Topic), 1), min(len(b.Topic), 1)), strings.Compare(a.Cluster, b.Cluster), strings.Compare(a.Topic, b.Topic))
	})
	return list[:min(len(list), maxCircuits)]
}

// describe tells of a cluster's brokers.
func (g *Gateway) describe(ctx context.Context, name string) (store.Cluster, error) {
	if name == meta.DefaultCluster {
		name = ""
	}
	return g.store.DescribeCluster(ctx, name)
}

// maxWarned is how many topics are looked at for settings that weaken the guarantees.
const maxWarned = 10_000

// weaknesses are settings of Kafka, for the topics that are registered, or, in open mode where none is, for all, under which what was acknowledged can be lost.
func (g *Gateway) weaknesses(ctx context.Context) []string {
	var names []string
	for _, r := range g.cluster.meta.Snapshot().List(meta.KindTopic, "", maxWarned) {
		if t, ok := r.(*meta.TopicRecord); ok {
			names = append(names, t.Place())
		}
	}
	if len(names) == 0 && !g.cfg.Open() {
		return nil // none named means all that the brokers have; in open mode any of them may be ours
	}
	list, err := g.store.Warnings(ctx, names...)
	if err != nil {
		list = append(list, fmt.Sprintf("Kafka could not be asked for settings that weaken the guarantees (%s)", errs.Of(err).Title()))
	}
	return list
}

// warnEvery is how often Kafka is asked for settings that weaken the guarantees.
const warnEvery = 10 * time.Minute

// watchSettings logs what weakens the guarantees when it is first seen, and counts it, until ctx ends.
func (g *Gateway) watchSettings(ctx context.Context) {
	gauge := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "kateway_store_warnings",
		Help: "Settings of Kafka under which acknowledged messages can be lost; GET /v1/status has them.",
	})
	g.metrics.MustRegister(gauge)
	told := map[string]bool{}
	for ctx.Err() == nil {
		bounded, cancel := context.WithTimeout(ctx, warnEvery/10)
		list := g.weaknesses(bounded)
		cancel()
		if ctx.Err() != nil {
			return
		}
		gauge.Set(float64(len(list)))
		now := make(map[string]bool, len(list))
		for _, w := range list {
			if now[w] = true; !told[w] {
				g.log.Warn("a setting weakens the guarantees", "setting", w)
			}
		}
		told = now
		wait(ctx, warnEvery)
	}
}

// guardMetrics is what /metrics asks for: a viewer's key, or nothing where the configuration says so.
func (g *Gateway) guardMetrics() func(httpx.Handler) httpx.Handler {
	if g.cfg.OpenMetrics {
		return func(h httpx.Handler) httpx.Handler { return h }
	}
	return func(h httpx.Handler) httpx.Handler { return g.manager.Guard(h, manager.Viewer) }
}

// guardDebug is what pprof asks for: its profiles show what the process has in memory.
func (g *Gateway) guardDebug(h httpx.Handler) httpx.Handler { return g.manager.Guard(h, manager.Admin) }
