package manager

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/store"
)

// clusterView is a cluster as it is answered: how it is registered, what lives on it, and what it says of itself.
type clusterView struct {
	*meta.Cluster
	Apps   int       `json:"apps"`
	Topics int       `json:"topics"`
	Live   *liveView `json:"live,omitempty"`
	Fault  string    `json:"fault,omitempty"` // why there is no word of it
}

type liveView struct {
	ID              string       `json:"id"`
	Controller      int32        `json:"controller"` // -1: none
	Brokers         []brokerView `json:"brokers"`
	Topics          int          `json:"topics"`
	Partitions      int          `json:"partitions"`
	Leaderless      int          `json:"leaderless"`
	UnderReplicated int          `json:"under_replicated"`
}

type brokerView struct {
	ID       int32  `json:"id"`
	Host     string `json:"host"`
	Port     int32  `json:"port"`
	Rack     string `json:"rack,omitempty"`
	Leaders  int    `json:"leaders"`
	Replicas int    `json:"replicas"`
}

func viewLive(c store.Cluster) *liveView {
	v := &liveView{
		ID: c.ID, Controller: c.Controller, Brokers: make([]brokerView, len(c.Brokers)),
		Topics: c.Topics, Partitions: c.Partitions, Leaderless: c.Leaderless, UnderReplicated: c.UnderReplicated,
	}
	for i, b := range c.Brokers {
		v.Brokers[i] = brokerView(b)
	}
	return v
}

// viewCluster asks the cluster, for as long as another gateway may take.
func (h *Handler) viewCluster(ctx context.Context, record *meta.Cluster) clusterView {
	s := h.cfg.Meta.Snapshot()
	v := clusterView{Cluster: record, Apps: s.AppsIn(record.Name), Topics: s.TopicsIn(record.Name)}
	if h.cfg.Describe == nil {
		return v
	}
	ctx, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	live, err := h.cfg.Describe(ctx, record.Name)
	if errors.Is(err, errs.NotFound) {
		return v // no cluster of servers, but the embedded store
	}
	if err != nil {
		h.log.Info("a cluster does not tell of itself", "cluster", record.Name, "error", err)
		v.Fault = errs.Of(err).Code()
		return v
	}
	v.Live = viewLive(live)
	return v
}

// defaultCluster stands for the store that the gateways are configured with; meta has no record of it.
func defaultCluster() *meta.Cluster { return &meta.Cluster{Name: meta.DefaultCluster} }

// clustersAtOnce bounds how many are asked at a time.
const clustersAtOnce = 16

func (h *Handler) listClusters(c *call) error {
	p, err := c.page()
	if err != nil {
		return err
	}
	known := []*meta.Cluster{defaultCluster()}
	for r := range every[*meta.Cluster](h.cfg.Meta.Snapshot(), meta.KindCluster, "", "") {
		known = append(known, r)
	}
	slices.SortFunc(known, func(a, b *meta.Cluster) int { return strings.Compare(a.Name, b.Name) })
	some := within(p, known, func(r *meta.Cluster) string { return r.Name })
	views := make([]clusterView, len(some.Items))
	sem := make(chan struct{}, clustersAtOnce)
	var wg sync.WaitGroup
	for i, r := range some.Items {
		sem <- struct{}{}
		wg.Go(func() {
			defer func() { <-sem }()
			views[i] = h.viewCluster(c.ctx, r)
		})
	}
	wg.Wait()
	return c.answer(http.StatusOK, list[clusterView]{views, some.Next})
}

func clusterID(c *call) (meta.ID, error) {
	name := c.param("cluster")
	return meta.ID{Kind: meta.KindCluster, Name: name}, meta.CheckCluster(name)
}

func asCluster(r meta.Record, id meta.ID) (*meta.Cluster, error) {
	switch cluster, ok := r.(*meta.Cluster); {
	case ok:
		return cluster, nil
	case id.Name == meta.DefaultCluster:
		return nil, fmt.Errorf("cluster %s is what the gateways are configured with, and changed there: %w", id.Name, errs.Conflict)
	}
	return nil, fmt.Errorf("there is no cluster %s: %w", id.Name, errs.NotFound)
}

func (h *Handler) getCluster(c *call) error {
	id, err := clusterID(c)
	if err != nil {
		return err
	}
	if id.Name == meta.DefaultCluster {
		return c.answer(http.StatusOK, h.viewCluster(c.ctx, defaultCluster()))
	}
	return h.answerCluster(c, id)
}

func (h *Handler) answerCluster(c *call, id meta.ID) error {
	r, etag := h.cfg.Meta.Snapshot().Record(id)
	cluster, err := asCluster(r, id)
	if err != nil {
		return err
	}
	return c.object(http.StatusOK, etag, h.viewCluster(c.ctx, cluster))
}

// clusterSettings are what a caller may set, and change, of a cluster: its brokers, or the ZooKeeper where they are found, and
// how they are spoken to. What that needs of secrets and files is the gateways', and named by nobody here.
type clusterSettings struct {
	Brokers   []string `json:"brokers"`
	ZooKeeper string   `json:"zookeeper"`
	TLS       bool     `json:"tls"`
	SASL      string   `json:"sasl"`
}

func (h *Handler) createCluster(c *call) error {
	body := struct {
		Name string `json:"cluster"`
		clusterSettings
	}{}
	if err := c.body(&body, "created"); err != nil {
		return err
	}
	if body.Name == meta.DefaultCluster {
		return fmt.Errorf("cluster %s is what the gateways are configured with: %w", body.Name, errs.Conflict)
	}
	cluster := &meta.Cluster{Name: body.Name, Brokers: body.Brokers, ZooKeeper: body.ZooKeeper, TLS: body.TLS, SASL: body.SASL, Created: now()}
	if err := valid(cluster); err != nil {
		return err
	}
	etag, err := h.cfg.Meta.Put(c.ctx, cluster, meta.Absent)
	if err != nil {
		return err
	}
	return c.created("/v1/clusters/"+cluster.Name, etag, h.viewCluster(c.ctx, cluster))
}

func (h *Handler) patchCluster(c *call) error {
	id, err := clusterID(c)
	if err != nil {
		return err
	}
	err = h.edit(c, id, func(present meta.Record) (meta.Record, error) {
		was, err := asCluster(present, id)
		if err != nil {
			return nil, err
		}
		s := clusterSettings{slices.Clone(was.Brokers), was.ZooKeeper, was.TLS, was.SASL}
		if err := c.body(&s, "cluster", "created"); err != nil {
			return nil, err
		}
		next := *was
		next.Brokers, next.ZooKeeper, next.TLS, next.SASL = s.Brokers, s.ZooKeeper, s.TLS, s.SASL
		return &next, valid(&next)
	})
	if err != nil {
		return err
	}
	return h.answerCluster(c, id)
}

func (h *Handler) deleteCluster(c *call) error {
	id, err := clusterID(c)
	if err != nil {
		return err
	}
	err = h.edit(c, id, func(present meta.Record) (meta.Record, error) {
		if _, err := asCluster(present, id); err != nil {
			return nil, err
		}
		s := h.cfg.Meta.Snapshot()
		if apps, topics := s.AppsIn(id.Name), s.TopicsIn(id.Name); apps+topics > 0 {
			return nil, fmt.Errorf("cluster %s has %d apps and %d topics: %w", id.Name, apps, topics, errs.Conflict)
		}
		return nil, nil
	})
	if err != nil {
		return err
	}
	return c.none()
}
