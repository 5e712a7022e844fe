// Package zk is the registry on ZooKeeper. Below the client's chroot:
//
//	/gateways/<id>        ephemeral: an Instance as JSON
//	/leader/<duty>/<seq>  ephemeral, in sequence: who wants the duty; the first has it
package zk

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/zk"
	"github.com/kateway/kateway/registry"
)

const (
	gateways = "/gateways"
	leaders  = "/leader"

	refresh  = 5 * time.Second        // between two looks at what is to be told: our own instance, and those of others
	retry    = 500 * time.Millisecond // after an error that a new connection need not end
	farewell = 2 * time.Second        // to take ourselves off; what is left then goes when ZooKeeper is back
)

// Registry is the gateway's part in the registry. Its methods may be called concurrently.
type Registry struct {
	zk   *zk.Client
	log  *slog.Logger
	heir bool
}

var _ registry.Registry = (*Registry)(nil)

// New uses the client's session; it is closed by who opened it.
func New(c *zk.Client, log *slog.Logger) *Registry { return &Registry{zk: c, log: log} }

// TakeOver says that Announce takes the place of the gateway that has its id. It is to be called before that, where the
// other one is known to have stopped announcing, with the cause registry.ErrKeep.
func (r *Registry) TakeOver() { r.heir = true }

// connected waits for a connection, and answers the channel that tells of its end.
func (r *Registry) connected(ctx context.Context) (s zk.State, changed <-chan struct{}, err error) {
	for {
		s, changed = r.zk.State()
		if s.Connected {
			return s, changed, ctx.Err()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return s, changed, ctx.Err()
		}
	}
}

// pause waits a moment.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// remove deletes a node of ours, also when ctx has ended; where ZooKeeper is away, as soon as it is back.
func (r *Registry) remove(ctx context.Context, path string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
	defer cancel()
	s, _ := r.zk.State()
	owner, err := r.zk.Owner(ctx, path)
	if err == nil && owner == s.Session {
		err = r.zk.Delete(ctx, path, -1)
	}
	if err != nil && !errors.Is(err, errs.NotFound) {
		r.zk.Discard(path)
	}
}
