package gateway

import (
	"context"
	"time"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/meta"
)

// policy is what becomes of the messages that a group can't do. A reader of a retry or dead queue has none: what it does
// not ack comes again.
func (g *Gateway) policy(key group.Key) group.Policy {
	name, ours := meta.ParseGroup(key.Group)
	if !ours {
		return group.Policy{}
	}
	p := group.Policy{MaxAttempts: meta.DefaultMaxAttempts}
	if t := g.cluster.meta.Snapshot().Topic(name.Topic); t != nil {
		p.MaxAttempts = t.MaxAttempts
	}
	p.Retry, _ = name.Queue(meta.Retry, key.Topic)
	p.Dead, _ = name.Queue(meta.Dead, key.Topic)
	return p
}

// spread is how many gateways are home to a group.
func (g *Gateway) spread(key group.Key) int {
	name, ours := meta.ParseGroup(key.Group)
	if !ours {
		return 1
	}
	if s := g.cluster.meta.Snapshot().Subscription(name.Topic, name.Subscriber); s != nil {
		return max(s.Spread[name.Name], 1)
	}
	return 1
}

const (
	positionsEvery = 24 * time.Hour
	positionsFirst = 10 * time.Minute // after the duty has become ours, for gateways that are restarted every day
)

// keepPositions writes, as one gateway's duty, the positions of groups that nobody uses once a day as they are: Kafka forgets
// those that are not written for offsets.retention.minutes, 7 days by default, and the group would begin anew.
func (g *Gateway) keepPositions(ctx context.Context) {
	g.cluster.untilDone(ctx, "keeping positions", func() error {
		return g.cluster.registry.Lead(ctx, "positions", func(ctx context.Context, _ int64) error {
			for pause := positionsFirst; ; pause = positionsEvery {
				wait(ctx, pause)
				if ctx.Err() != nil {
					return context.Cause(ctx) // the duty was lost: back into the queue for it
				}
				n, err := g.store.Recommit(ctx)
				if err != nil {
					g.log.Warn("positions of groups that nobody uses: not all were written anew", "groups", n, "error", err)
				} else {
					g.log.Info("positions of groups that nobody uses were written anew", "groups", n)
				}
			}
		})
	})
}
