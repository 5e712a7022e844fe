package gateway

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
	"github.com/kateway/kateway/store/embedded"
	"github.com/kateway/kateway/store/kafka"
)

// kafkaPatience is how long a start waits for a cluster; one that comes later is used from then on.
const kafkaPatience = 5 * time.Second

// openStore opens the store that the configuration names.
func openStore(ctx context.Context, c *Config, log *slog.Logger) (store.Store, error) {
	if c.StoreKind() == "kafka" {
		return openKafka(ctx, c, log)
	}
	s, err := embedded.Open(embedded.Config{
		Dir: filepath.Join(c.Data, "store"), Log: log,
		Partitions: c.Partitions, Retention: c.Retention,
		MaxMessage: max(int(c.MaxMessage), 1<<20) + int(c.MaxKey) + int(c.MaxHeader),
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

func openKafka(ctx context.Context, c *Config, log *slog.Logger) (store.Store, error) {
	ctx, cancel := context.WithTimeout(ctx, kafkaPatience)
	defer cancel()
	s, err := kafka.Open(ctx, kafka.Config{Brokers: c.Kafka, Compression: c.KafkaCompression, ClientID: c.ID, Log: log})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// mortal is a store that can come to a point where only a new process can go on.
type mortal interface {
	Done() <-chan struct{} // closed then
	Err() error            // why
}

// storeEnd is closed when the store can't go on; nil for a store that always can.
func (g *Gateway) storeEnd() <-chan struct{} {
	if m, ok := g.store.(mortal); ok {
		return m.Done()
	}
	return nil
}

func (g *Gateway) storeErr() error {
	if m, ok := g.store.(mortal); ok {
		return m.Err()
	}
	return nil
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
