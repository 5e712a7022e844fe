package gateway

import (
	"context"
	"errors"
	"time"

	"github.com/kateway/kateway/broadcast"
	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/home"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/pub"
	"github.com/kateway/kateway/store"
	"github.com/kateway/kateway/sub"
)

// engine is what serves messages: publish, subscribe, and the groups behind it.
type engine struct {
	topics  *meta.Topics
	pub     *pub.Handler
	sub     *sub.Handler
	hub     *group.Hub     // the groups that are here
	router  *home.Router   // brings clients to where their group is
	readers *broadcast.Hub // of topics without a group
}

func newEngine(g *Gateway, secret func() []byte) *engine {
	var open *meta.Open
	if g.cfg.Open() {
		open = meta.NewOpen(g.store, topicTemplate(&g.cfg))
	}
	topics := meta.NewTopics(g.cluster.meta, open)
	var router *home.Router
	hub := group.NewHub(group.Config{
		Store: g.groupsStore(), Publisher: g.store, Admin: g.store, Policy: g.policy,
		Instance: g.cfg.ID, Roams: g.cluster.pool != nil, Gone: func(instance string) bool { return router.Gone(instance) },
		Secret: secret, Log: g.log, Metrics: g.metrics,
	})
	router = home.New(home.Config{
		Self: g.cfg.ID, Hub: hub, Peers: g.peersOf(), Spread: g.spread, Reconnected: g.cluster.reconnected,
		MaxMessage: int(g.cfg.MaxMessage) + int(g.cfg.MaxKey) + int(g.cfg.MaxHeader), Log: g.log, Metrics: g.metrics,
	})
	readers := broadcast.NewHub(broadcast.Config{Store: g.store, Log: g.log, Metrics: g.metrics})
	return &engine{
		topics:  topics,
		hub:     hub,
		router:  router,
		readers: readers,
		pub:     pub.New(pub.Config{Store: g.toStore, Topics: g.publishTopics(topics), Relay: publishes{g.relay}, Gate: g.chain.gate, Limits: publishLimits(&g.cfg), Log: g.log, Metrics: g.metrics}),
		sub:     sub.New(sub.Config{Groups: laneGroups{router}, Readers: laneReaders{readers}, Topics: topics, Queue: queueMaker(g.store), Merge: merge, Gate: g.chain.gate, Log: g.log, Metrics: g.metrics}),
	}
}

// peersOf is how other gateways are reached; nil where there can be none.
func (g *Gateway) peersOf() home.Peers {
	if g.cluster.pool == nil {
		return nil
	}
	return g.cluster.pool
}

// topicTemplate is what a topic made on first use is like. On Kafka the cluster's own defaults hold.
func topicTemplate(c *Config) store.Topic {
	if c.StoreKind() == "kafka" {
		return store.Topic{}
	}
	return store.Topic{Partitions: c.Partitions, Retention: c.Retention}
}

func publishLimits(c *Config) pub.Limits {
	return pub.Limits{
		Message: int(c.MaxMessage), Key: int(c.MaxKey), Batch: int(c.MaxBatch), Messages: c.MaxBatchMessages,
		Async: int64(c.MaxAsync), Deadline: c.PublishTimeout,
	}
}

// queueMaker makes queues of groups, like those that the groups make when they need one.
func queueMaker(s store.Admin) func(ctx context.Context, topic string) error {
	return func(ctx context.Context, topic string) error {
		err := s.CreateTopic(ctx, group.QueueTopic(topic))
		if errors.Is(err, store.ErrExists) {
			return nil
		}
		return err
	}
}

// merge makes one flow of several topics' sessions.
func merge(sessions ...group.Session) sub.Flow { return home.Merge(true, sessions...) }

// goodbye is how long WebSockets may take to end once they were drained: a client has 3 s to answer a close frame.
const goodbye = 5 * time.Second

// drain ends streams and WebSockets, one after the other over the time given, and waiting polls. What clients hold they may still settle.
func (e *engine) drain(over time.Duration) {
	e.pub.Drain(over)
	e.router.Drain(over)
	e.hub.Drain(over)
	e.readers.Drain(over)
}

// stay is drain at once, for a gateway that goes on in another process: its groups are not sent to other gateways, whose
// clients are served on until the groups are left.
func (e *engine) stay() {
	e.pub.Drain(0)
	e.router.Stay()
	e.readers.Drain(0)
}

// endPublishes waits for WebSockets of publishers, and then for publishes that are queued. It may be called again.
func (e *engine) endPublishes(limit context.Context, goodbye time.Duration) error {
	soon, cancel := context.WithTimeout(limit, goodbye)
	defer cancel()
	return errors.Join(bounded(soon, "WebSockets of publishers", e.pub.Wait), bounded(limit, "publishes", e.pub.Close))
}

// close waits for WebSockets and publishes, then for the groups, which commit and leave.
func (e *engine) close(limit context.Context, goodbye time.Duration) error {
	soon, cancel := context.WithTimeout(limit, goodbye) // clients that do not read must not take the groups' time
	defer cancel()
	return errors.Join(e.endPublishes(limit, goodbye), bounded(soon, "WebSockets of subscribers", e.sub.Close), bounded(limit, "sessions of other gateways", e.router.Close),
		bounded(limit, "groups", e.hub.Close), bounded(limit, "readers without a group", e.readers.Close))
}
