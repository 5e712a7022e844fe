package gateway

import (
	"context"
	"errors"
	"log/slog"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// openStore opens the store that the configuration names. failed is called when it can't go on.
func openStore(_ context.Context, c *Config, _ *slog.Logger, _ func(error)) (store.Store, error) {
	return nil, errors.New("store " + c.StoreKind() + " is not there yet")
}

// parts are what the gateway stands on. A disk that is full ends publishing, but what it holds can still be read and acked.
func (g *Gateway) parts() []*part {
	list := []*part{{name: "store", roles: []Role{Pub, Sub}, probe: func(ctx context.Context) error {
		if err := g.store.Ping(ctx); !errors.Is(err, errs.DiskFull) {
			return err
		}
		return nil
	}}}
	if g.cfg.StoreKind() == "embedded" {
		list = append(list, &part{name: "disk", roles: []Role{Pub}, probe: func(ctx context.Context) error {
			if err := g.store.Ping(ctx); errors.Is(err, errs.DiskFull) {
				return err
			}
			return nil
		}})
	}
	return list
}
