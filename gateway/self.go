package gateway

import (
	"context"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/kateway/kateway/registry"
)

// loadEvery is how often the rate of publishes is taken.
const loadEvery = 5 * time.Second

// self is this gateway as the others see it.
func (g *Gateway) self() registry.Instance {
	host, err := os.Hostname()
	if err != nil {
		host = g.cfg.ID
	}
	return registry.Instance{
		ID: g.cfg.ID, Version: g.deps.Version, Host: host, Started: g.started,
		Pub: g.advertised(Pub), Sub: g.advertised(Sub), Man: g.advertised(Man), Peer: g.advertised(Peer),
		Load: registry.Load{PublishPerSecond: g.rate.load(), Streams: g.engine.hub.Sessions()},
	}
}

// advertised is where others reach the role: the host that the configuration says, or the address that is listened on, or,
// where that is all addresses, the name of the machine. "" where the role is off.
func (g *Gateway) advertised(r Role) string {
	host, port, err := net.SplitHostPort(g.Addr(r))
	if err != nil {
		return ""
	}
	listened, err := netip.ParseAddr(host)
	switch {
	case err == nil && listened.IsLoopback():
		// Only this machine reaches it, whatever it is called elsewhere.
	case g.cfg.Advertise != "":
		host = g.cfg.Advertise
	case err == nil && listened.IsUnspecified():
		if name, err := os.Hostname(); err == nil {
			host = name
		}
	}
	return net.JoinHostPort(host, port)
}

// rate is how many publishes a second there were lately.
type rate struct {
	mu     sync.Mutex
	before uint64
	at     time.Time
	value  float64
}

// note takes the count of publishes since the start.
func (r *rate) note(count uint64, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if d := now.Sub(r.at).Seconds(); !r.at.IsZero() && d > 0 {
		r.value = float64(count-r.before) / d
	}
	r.before, r.at = count, now
}

func (r *rate) load() float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.value
}

// duties starts what goes on in the background until ctx ends.
func (g *Gateway) duties(ctx context.Context, wg *sync.WaitGroup) {
	wg.Go(func() { g.followClusters(ctx) })
	wg.Go(func() { g.watchSettings(ctx) })
	if g.spools() {
		wg.Go(func() { g.followSpool(ctx) })
	}
	wg.Go(func() { g.options.Follow(ctx, g.cluster.meta) })
	wg.Go(func() {
		for ctx.Err() == nil {
			g.rate.note(g.published.Load(), time.Now())
			wait(ctx, loadEvery)
		}
	})
	if g.cluster.session != nil {
		wg.Go(func() { g.cluster.keepSecrets(ctx) })
	}
	if g.cfg.StoreKind() == "kafka" {
		wg.Go(func() { g.keepPositions(ctx) })
	}
	if !g.cfg.Open() && !g.keyGiven {
		wg.Go(func() {
			g.cluster.untilDone(ctx, "making the admin key", func() error { return makeAdminKey(ctx, g.cluster.meta, g.cfg.Data, g.log) })
		})
	}
}
