package gateway

import (
	"context"
	"time"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/internal/online"
	"github.com/kateway/kateway/peer"
)

// node is what this gateway does for the others, and for its own management API.
type node struct{ g *Gateway }

var _ peer.Node = node{}

// Clients is peer.Node's.
func (n node) Clients(context.Context) ([]online.Client, error) {
	list := n.g.online.List()
	for i := range list {
		list[i].Gateway = n.g.cfg.ID
	}
	return list, nil
}

// Group is peer.Node's.
func (n node) Group(_ context.Context, key group.Key) (group.Info, error) {
	info, _ := n.g.engine.hub.Info(key)
	return info, nil
}

// Suspend is peer.Node's.
func (n node) Suspend(ctx context.Context, key group.Key, hold time.Duration) error {
	return n.g.engine.hub.Suspend(ctx, key, hold)
}

// Resume is peer.Node's.
func (n node) Resume(_ context.Context, key group.Key) error {
	n.g.engine.hub.Resume(key)
	return nil
}

// Requeued is peer.Node's.
func (n node) Requeued(_ context.Context, key group.Key) error {
	n.g.engine.hub.Requeued(key)
	return nil
}

// Refresh is peer.Node's.
func (n node) Refresh(ctx context.Context) error {
	n.g.engine.topics.Reset()
	return n.g.cluster.meta.Refresh(ctx)
}
