package gk

import (
	"context"
	"net/http"
	"strconv"
)

type gateways struct{}

func (*gateways) Run(ctx context.Context, t *tool) error {
	columns := "ID VERSION HOST PUB SUB MAN PEER STARTED PUBLISHES/S STREAMS"
	return list(t, t.items(ctx, "/v1/gateways", nil), columns, nil, func(g instance) []any {
		return []any{g.ID, g.Version, g.Host, g.Pub, g.Sub, g.Man, g.Peer, g.Started, g.Load.PublishPerSecond, g.Load.Streams}
	})
}

type clients struct {
	Sort string `enum:"messages,bytes,since" default:"messages" help:"messages, bytes or since."`
	App  string `placeholder:"NAME" help:"Only of this app, as caller or owner of the topic."`
}

func (c *clients) Run(ctx context.Context, t *tool) error {
	keep := func(o use) bool { return c.App == "" || o.App == c.App || o.Owner == c.App }
	columns := "GATEWAY KIND APP TOPIC GROUP REMOTE SINCE MESSAGES BYTES"
	return list(t, t.items(ctx, "/v1/clients", query("sort", c.Sort)), columns, keep, func(o use) []any {
		return []any{o.Gateway, o.Kind, o.App, o.topic(), o.Group, o.Remote, o.Since, o.Messages, o.Bytes}
	})
}

type refresh struct{}

func (*refresh) Run(ctx context.Context, t *tool) error {
	return t.call(ctx, request{method: http.MethodPost, path: "/v1/refresh"}, "all gateways have read their metadata anew")
}

type status struct{}

func (*status) Run(ctx context.Context, t *tool) error {
	a, err := t.man.get(ctx, "/v1/status", nil)
	if err != nil {
		return err
	}
	if t.out.json {
		return t.out.object(a)
	}
	if err := t.out.fields("", a.body); err != nil {
		return err
	}
	r, err := ready(ctx, t.man, "")
	if err != nil {
		return err
	}
	t.out.row("ready", r.Status)
	for _, name := range r.names() {
		t.out.row("ready."+name, r.part(name))
	}
	return t.out.flush()
}

const clustersPath = "/v1/clusters"

// clusterInfo is what gk looks at in an element of GET /v1/clusters.
type clusterInfo struct {
	Name      string       `json:"cluster"`
	Brokers   []string     `json:"brokers"` // as registered
	ZooKeeper string       `json:"zookeeper"`
	Apps      int          `json:"apps"`
	Topics    int          `json:"topics"`
	Live      *clusterLive `json:"live"`  // nil where it is not a cluster of servers, or does not answer
	Fault     string       `json:"fault"` // why it does not
}

// clusterLive is what a cluster says of itself.
type clusterLive struct {
	Brokers         []brokerReport `json:"brokers"`
	Leaderless      int            `json:"leaderless"`
	UnderReplicated int            `json:"under_replicated"`
}

// cells are its row: the brokers that live, or else where it is looked for.
func (c clusterInfo) cells() []any {
	brokers, leaderless, lacking := c.Brokers, "", ""
	if c.Live != nil {
		brokers = nil
		for _, b := range c.Live.Brokers {
			brokers = append(brokers, hostPort(b.Host, b.Port))
		}
		leaderless, lacking = strconv.Itoa(c.Live.Leaderless), strconv.Itoa(c.Live.UnderReplicated)
	}
	return []any{c.Name, c.Apps, c.Topics, brokers, c.ZooKeeper, leaderless, lacking, c.Fault}
}

type clustersLs struct{}

func (*clustersLs) Run(ctx context.Context, t *tool) error {
	columns := "CLUSTER APPS TOPICS BROKERS ZOOKEEPER LEADERLESS UNDER-REPLICATED FAULT"
	return list(t, t.items(ctx, clustersPath, nil), columns, nil, clusterInfo.cells)
}

type clusterArg struct {
	Cluster string `arg:"" help:"The cluster's name."`
}

func (a clusterArg) path() string { return at(clustersPath, a.Cluster) }

type clustersGet struct{ clusterArg }

func (c *clustersGet) Run(ctx context.Context, t *tool) error { return t.show(ctx, c.path()) }

// clusterPlace is where a cluster is found.
type clusterPlace struct {
	Bootstrap []string `placeholder:"BROKERS" xor:"place" required:"" help:"Some of its brokers, host:port, comma separated."`
	Zookeeper string   `placeholder:"SERVERS" xor:"place" required:"" help:"The ZooKeeper of a ZooKeeper-mode Kafka, host:port,.../chroot; its brokers are found there."`
	TLS       *bool    `name:"tls" negatable:"" help:"Whether its brokers are spoken to over TLS."`
	SASL      *string  `name:"sasl" placeholder:"NAME" help:"Mechanism of SASL: plain (with --tls), scram-sha-256 or scram-sha-512; the credentials are in --kafka-sasl-dir of the gateways. Empty is none."`
}

func (p clusterPlace) body() body {
	b := body{}
	if p.Zookeeper != "" {
		b["zookeeper"] = p.Zookeeper
	} else {
		b["brokers"] = p.Bootstrap
	}
	p.link(b)
	return b
}

// link sets how its brokers are spoken to, where that is said.
func (p clusterPlace) link(b body) {
	if p.TLS != nil {
		b["tls"] = *p.TLS
	}
	if p.SASL != nil {
		b["sasl"] = *p.SASL
	}
}

type clustersAdd struct {
	clusterArg
	clusterPlace
}

func (c *clustersAdd) Run(ctx context.Context, t *tool) error {
	b := c.body()
	b["cluster"] = c.Cluster
	return t.call(ctx, request{method: http.MethodPost, path: clustersPath, body: b}, "cluster "+c.Cluster+" is registered")
}

type clustersSet struct {
	clusterArg
	clusterPlace
	match
}

func (c *clustersSet) Run(ctx context.Context, t *tool) error {
	b := body{"brokers": append([]string{}, c.Bootstrap...), "zookeeper": c.Zookeeper} // one of them takes the place of the other
	c.link(b)
	return t.call(ctx, change(http.MethodPatch, c.path(), b, c.match), "cluster "+c.Cluster+" is changed")
}

type clustersRm struct {
	clusterArg
	match
}

func (c *clustersRm) Run(ctx context.Context, t *tool) error {
	return t.call(ctx, removal(c.path(), c.match), "cluster "+c.Cluster+" is removed")
}
