package kafka

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"
)

// warming is how many topics are asked for at a time.
const warming = 16

// Warm gets ready for publishes, so that the first ones need not wait: it takes the producer's id, connects to every broker,
// and asks for the topics that are named. A topic that can't be found is passed over. It may be called at any time.
func (s *Store) Warm(ctx context.Context, topics ...string) error {
	if err := s.usable(); err != nil {
		return err
	}
	if err := s.Ping(ctx); err != nil { // it would be tried until ctx ends, and hold up the start for nothing
		return err
	}
	var all errgroup.Group
	all.SetLimit(warming)
	all.Go(func() error {
		if _, _, err := s.all.cl.ProducerID(ctx); err != nil {
			return fmt.Errorf("producer id: %w", err)
		}
		return nil
	})
	all.Go(func() error { return s.connect(ctx) })
	for _, name := range topics {
		all.Go(func() error {
			_, _ = s.topic(ctx, name) // who publishes to it is told what is wrong
			return nil
		})
	}
	if err := errors.Join(all.Wait(), ctx.Err()); err != nil {
		return s.failed("warming up", err)
	}
	return nil
}

// connect connects the producer to every broker, once for messages and once for what it asks.
func (s *Store) connect(ctx context.Context) error {
	if err := s.all.cl.EnsureProduceConnectionIsOpen(ctx); err != nil { // it learns of the brokers too
		return err
	}
	var all errgroup.Group
	for _, b := range s.all.cl.DiscoveredBrokers() {
		all.Go(func() error {
			_, err := b.Request(ctx, kmsg.NewPtrApiVersionsRequest())
			return err
		})
	}
	return all.Wait()
}
