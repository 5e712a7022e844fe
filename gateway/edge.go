package gateway

import (
	"net"
	"slices"

	"github.com/kateway/kateway/internal/edge"
)

// Of the files that the process may have open the connections take three quarters at most, so that the store, which needs
// some for its work, is not without when they are many. The management address may have some more than that, so that it
// answers when all others are taken.
const (
	leastFiles = 128
	spareConns = 32
)

// newEdge makes what listeners share.
func (g *Gateway) newEdge() error {
	var err error
	if g.proxies, err = edge.ParseProxies(g.cfg.TrustedProxies); err != nil {
		return err
	}
	total := g.cfg.MaxConnections
	if total == 0 {
		total = connectionsOf(fileLimit())
	}
	g.limits = edge.NewLimits(total, g.cfg.MaxConnectionsPerAddress)
	g.edgeMetrics = edge.NewMetrics(g.metrics)
	return nil
}

// connectionsOf is how many connections there may be with that many files; 0, which is no limit, where there is no such number.
func connectionsOf(files int64) int64 {
	if files <= 0 {
		return 0
	}
	return max(files-max(files/4, leastFiles), 16)
}

// edge is what gives connections on ln to net/http.
func (g *Gateway) edge(roles []Role, ln net.Listener) net.Listener {
	c := edge.Config{
		Limits: g.limits, Proxies: g.proxies, ProxyProtocol: g.cfg.ProxyProtocol, HeaderTime: g.cfg.ReadHeaderTimeout, Metrics: g.edgeMetrics,
	}
	if !slices.ContainsFunc(roles, func(r Role) bool { return r != Man }) {
		c.Spare = spareConns
	}
	if g.certs != nil {
		c.TLS = g.certs.config()
		if g.clientCA != nil && (slices.Contains(roles, Pub) || slices.Contains(roles, Sub)) {
			g.clientCA.ask(c.TLS)
		}
	}
	return edge.Listen(ln, c)
}
