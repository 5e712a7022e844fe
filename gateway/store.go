package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/store"
	"github.com/kateway/kateway/store/clusters"
	"github.com/kateway/kateway/store/embedded"
	"github.com/kateway/kateway/store/kafka"
)

// kafkaPatience is how long a start waits for a cluster; one that comes later is used from then on.
const (
	kafkaPatience = 5 * time.Second
	kafkaHaste    = time.Second // where publishes can be spooled meanwhile
)

// openStore opens the store that the configuration names.
func openStore(ctx context.Context, c *Config, log *slog.Logger) (store.Store, error) {
	if c.StoreKind() == "kafka" {
		return openKafka(ctx, c, c.defaultLink(), log)
	}
	s, err := embedded.Open(embedded.Config{
		Dir: storeDir(c), Log: log,
		Partitions: c.Partitions, Retention: c.Retention,
		MaxMessage: max(int(c.MaxMessage), 1<<20) + int(c.MaxKey) + int(c.MaxHeader),
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// storeDir is where the embedded store is.
func storeDir(c *Config) string { return filepath.Join(c.Data, "store") }

// warmTime is how long getting ready may hold up a start.
const warmTime = 2 * time.Second

// maxWarmed is how many topics a start asks for.
const maxWarmed = 1000

// warm gets the store ready for the first publishes, before anybody can make them.
func (g *Gateway) warm(ctx context.Context) {
	w, ok := g.first.(interface {
		Warm(ctx context.Context, topics ...string) error
	})
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, warmTime)
	defer cancel()
	var topics []string
	if g.cluster != nil {
		select {
		case <-g.cluster.meta.Loaded():
		case <-ctx.Done():
		}
		for _, r := range g.cluster.meta.Snapshot().List(meta.KindTopic, "", maxWarmed) {
			if t, ok := r.(*meta.TopicRecord); ok && !strings.Contains(t.Place(), ":") {
				topics = append(topics, t.Place())
			}
		}
	}
	if err := w.Warm(ctx, topics...); err != nil {
		g.log.Warn("not everything is ready for the first publishes; they may be slower", "error", err)
	}
}

func openKafka(ctx context.Context, c *Config, l kafkaLink, log *slog.Logger) (store.Store, error) {
	patience := kafkaPatience
	if c.Spool != off {
		patience = kafkaHaste
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cfg := kafka.Config{Brokers: l.brokers, Compression: c.KafkaCompression, Protocol: c.KafkaGroups, ClientID: c.ID, Log: log,
		SendTimeout: min(5*time.Second, max(time.Second, c.PublishTimeout/3*2)), // so that what could not be sent is known within the publisher's time
	}
	if err := l.secure(&cfg, log); err != nil {
		return nil, err
	}
	if l.zooKeeper != "" {
		var err error
		if cfg.Brokers, err = brokersFrom(ctx, c, &l, log); err != nil {
			return nil, err
		}
	}
	s, err := kafka.Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// clusters makes one store of the one that the gateway is configured with and those that meta knows.
func (g *Gateway) clusters(first store.Store) *clusters.Stores {
	return clusters.New(clusters.Config{Default: first, Log: g.log, Names: g.clusterNames, Open: func(ctx context.Context, name string) (store.Store, error) {
		c := g.cluster.meta.Snapshot().Cluster(name)
		if c == nil {
			return nil, fmt.Errorf("there is no cluster %q: %w", name, errs.UnknownTopic)
		}
		l, err := g.cfg.linkTo(c)
		if err != nil {
			return nil, err
		}
		return openKafka(ctx, &g.cfg, l, g.log.With("cluster", name))
	}})
}

// clusterNames are those that meta knows.
func (g *Gateway) clusterNames() (names []string) {
	for _, r := range g.cluster.meta.Snapshot().List(meta.KindCluster, "", maxClusters) {
		names = append(names, r.ID().Name)
	}
	return names
}

// followClusters drops the stores of clusters that were changed or removed, so that the next use opens them anew.
func (g *Gateway) followClusters(ctx context.Context) {
	known := map[string]meta.Cluster{}
	for {
		changed, now := g.cluster.meta.Changed(), map[string]meta.Cluster{}
		for _, r := range g.cluster.meta.Snapshot().List(meta.KindCluster, "", maxClusters) {
			if c, ok := r.(*meta.Cluster); ok {
				now[c.Name] = *c
			}
		}
		for name, before := range known {
			if after, there := now[name]; !there || !reflect.DeepEqual(before, after) {
				g.log.Info("cluster changed; connecting anew", "cluster", name)
				g.store.Drop(name)
			}
		}
		known = now
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// maxClusters is more than anybody has.
const maxClusters = 1000

// parts are what the gateway stands on. A disk that is full ends publishing, but what it holds can still be read and acked.
func (g *Gateway) parts() []*part {
	st := &part{name: "store", roles: []Role{Pub, Sub}, probe: func(ctx context.Context) error {
		if err := g.store.Ping(ctx); !errors.Is(err, errs.DiskFull) {
			return err
		}
		return nil
	}}
	list := []*part{st}
	if g.spools() {
		st.roles = []Role{Sub}
		list = append(list, g.spoolPart(st))
	}
	if g.cfg.StoreKind() == "embedded" {
		list = append(list, &part{name: "disk", roles: []Role{Pub}, probe: func(ctx context.Context) error {
			if err := g.store.Ping(ctx); errors.Is(err, errs.DiskFull) {
				return err
			}
			return nil
		}})
	}
	list = append(list, &part{name: "meta", roles: []Role{Pub, Sub}, probe: g.probeMeta})
	if g.cluster.session != nil {
		list = append(list, &part{name: "zookeeper", probe: g.probeZooKeeper})
	}
	return list
}

// probeMeta fails while nothing is known of tenants at all. What is known serves, however old it is.
func (g *Gateway) probeMeta(context.Context) error {
	s := g.cluster.meta.State()
	switch {
	case !s.Loaded:
		return errors.New("nothing is known of apps and topics: ZooKeeper has not said yet, the log may know why, and there is no snapshot of an earlier run")
	case s.Stale:
		return errPartly("what is known of apps and topics is from an earlier run of this gateway, since ZooKeeper has not said yet; the log may know why")
	case len(s.Faults) > 0:
		return errPartly(fmt.Sprintf("%d objects or nodes can't be read; the last good content of each is used, the log and GET /v1/status name them", len(s.Faults)))
	}
	return nil
}

// probeZooKeeper tells of the session. Everything goes on without it but changes to apps, topics and grants.
func (g *Gateway) probeZooKeeper(context.Context) error {
	if s, _ := g.cluster.session.State(); !s.Connected {
		return errors.New("not connected to ZooKeeper")
	}
	return nil
}
