package gateway

import (
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
