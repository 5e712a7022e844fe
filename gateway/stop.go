package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// reserve is the part of the drain limit that is kept for the end: the groups' last commits and the store.
const reserve = 5 * time.Second

// stop ends everything in this order, within the drain limit:
//
//  0. Our groups commit and go to their next homes; then the registry no longer lists us, so that the other gateways look away.
//  1. /ready says no and answers ask their connections to close, while new ones are still taken: load balancers look away.
//  2. The listeners close. Streams end one after the other, waiting polls are answered, publishes go on. A client that
//     keeps a connection open may use it once more; cutting an idle one under a request that is on its way would fail it.
//  3. What is left of the connections is shut down, then cut.
//  4. publishes queued in memory are stored, groups commit and leave, the spool closes where it is, then the store, ZooKeeper last.
//
// It is net/http's keep-alives that must stay on until step 3: switching them off closes idle connections at once.
func (g *Gateway) stop() error {
	began := time.Now()
	limit, cancel := context.WithTimeout(context.Background(), g.cfg.DrainLimit)
	defer cancel()
	g.draining.Store(true)
	g.log.Info("stopping", "connections", g.connected(), "limit", g.cfg.DrainLimit)
	wait(limit, g.cfg.DrainDelay)
	g.hangUp()
	g.log.Debug("listeners closed")
	g.engine.drain(g.cfg.DrainGrace)
	g.letGo(limit)
	g.shutdown(limit)
	g.endBackground()
	err := errors.Join(g.engine.close(limit, goodbye), g.closeOwned(limit), bounded(limit, "access log", g.access.close))
	if err != nil {
		g.log.Error("stopped, not all of it in order", "took", time.Since(began), "error", err)
		return err
	}
	g.log.Info("stopped", "took", time.Since(began))
	return nil
}

// abandon closes what New had opened before it failed.
func (g *Gateway) abandon() {
	ctx, cancel := context.WithTimeout(context.Background(), reserve)
	defer cancel()
	g.endBackground()
	_ = g.closeSpool(ctx)
	switch {
	case g.store != nil:
		_ = g.store.Close(ctx)
	case g.first != nil:
		_ = g.first.Close(ctx)
	}
	_ = bounded(ctx, "background work", func(context.Context) error {
		g.work.Wait()
		return nil
	})
	if g.cluster != nil {
		_ = g.cluster.close(ctx)
	}
	_ = g.access.close(ctx)
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func (g *Gateway) connected() (n int64) {
	for _, s := range g.servers {
		n += s.conns.open.Load()
	}
	return n
}

// hangUp closes the listeners.
func (g *Gateway) hangUp() {
	var wg sync.WaitGroup
	for _, s := range g.servers {
		wg.Go(s.hangUp)
	}
	wg.Wait()
}

// letGo waits until the clients have closed their connections, for the grace time at most.
func (g *Gateway) letGo(limit context.Context) {
	grace, cancel := context.WithTimeout(limit, g.cfg.DrainGrace)
	defer cancel()
	for _, s := range g.servers {
		s.conns.none(grace)
	}
}

// shutdown waits for requests that are being answered, closes idle connections, and cuts what is left when the time is over.
func (g *Gateway) shutdown(limit context.Context) {
	deadline, _ := limit.Deadline()
	ctx, cancel := context.WithDeadline(limit, deadline.Add(-min(reserve, g.cfg.DrainLimit/2)))
	defer cancel()
	var wg sync.WaitGroup
	servers := g.servers
	if g.lanes != nil {
		servers = append(slices.Clone(servers), g.lanes)
	}
	for _, s := range servers {
		wg.Go(func() {
			if s.http.Shutdown(ctx) == nil {
				return
			}
			g.log.Warn("cutting connections that did not end in time", "connections", s.conns.open.Load())
			_ = s.http.Close()
		})
	}
	wg.Wait()
}

// bounded runs f, and leaves it alone when ctx ends and f does not care.
func bounded(ctx context.Context, what string, f func(context.Context) error) error {
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("closing %s: %w", what, err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("closing %s: not done in time", what)
	}
}
