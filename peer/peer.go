// Package peer is how gateways of one cluster speak to each other: a listener that lets in only who knows the cluster's
// secret (or shows a certificate of its authority), and the few things that they ask of each other.
package peer

import (
	"context"
	"time"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/internal/online"
)

// Node is what a gateway does for the others. Its methods may be called concurrently; of a remote one every method may
// fail with Unavailable.
type Node interface {
	// Clients lists who publishes and subscribes here now.
	Clients(ctx context.Context) ([]online.Client, error)
	// Group tells of this gateway's membership in a group; the zero Info where it is none.
	Group(ctx context.Context, key group.Key) (group.Info, error)
	// Suspend makes the gateway leave the group: it commits, leaves, and keeps its clients waiting until Resume, for hold at most.
	Suspend(ctx context.Context, key group.Key, hold time.Duration) error
	// Resume ends a Suspend. Without one it does nothing.
	Resume(ctx context.Context, key group.Key) error
	// Refresh reads meta anew and drops what is remembered of topics.
	Refresh(ctx context.Context) error
	// Requeued tells that the group's retry queue has something new, and perhaps exists only now. Where the group is not
	// here it does nothing: who joins looks anyway.
	Requeued(ctx context.Context, key group.Key) error
}

// Asker passes questions on to a part of another gateway by its name, a plugin: what is asked is between those two.
type Asker interface {
	// Ask answers what the part of that name answers. from is the gateway that asks. Kind NotFound where there is none that
	// answers, Unavailable where the gateway can't be reached. Neither side may be longer than [MaxAsk].
	Ask(ctx context.Context, name, from string, ask []byte) ([]byte, error)
}

// MaxAsk is the longest question and answer of an Asker in bytes.
const MaxAsk = 1 << 20

// Member is a gateway of the cluster.
type Member struct {
	ID string
	Node
	Asker
}
