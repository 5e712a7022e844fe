package faults

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kateway/kateway/internal/testkit"
	"github.com/kateway/kateway/test/storm"
)

// site is all there is: three brokers, three servers of ZooKeeper, three gateways, and a machine for clients that vanish.
type site struct {
	t        *testing.T
	brokers  []*host
	zks      []*host
	far      *host
	kafka    *testkit.Cluster
	zk       *testkit.Ensemble
	gateways []*gateway
	client   *kgo.Client
	admin    *kadm.Client
}

func newSite(t *testing.T) *site {
	t.Helper()
	if testing.Short() {
		t.Skip("short")
	}
	hosts := newLAN(t, "kafka1", "kafka2", "kafka3", "zk1", "zk2", "zk3", "gw1", "gw2", "gw3", "far")
	s := &site{t: t, far: hosts["far"]}
	for i := range 3 {
		s.brokers = append(s.brokers, hosts[fmt.Sprint("kafka", i+1)])
		s.zks = append(s.zks, hosts[fmt.Sprint("zk", i+1)])
	}
	at := func(list []*host) testkit.Places {
		return func(i int) (string, []string) { return list[i].ip, list[i].command() }
	}
	var err error
	if s.zk, err = testkit.StartZooKeepers(3, at(s.zks)); err != nil {
		testkit.Missing(t, "ZooKeeper", err)
	}
	t.Cleanup(s.zk.Close)
	s.kafka = testkit.Kafka(t, testkit.Brokers(3), testkit.At(at(s.brokers)))
	c, err := kgo.NewClient(kgo.SeedBrokers(s.kafka.Addrs()...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	s.client, s.admin = c, kadm.NewClient(c)
	dir := t.TempDir()
	for i := range 3 {
		g := newGateway(t, hosts[fmt.Sprint("gw", i+1)], dir, strings.Join(s.kafka.Addrs(), ","), s.zk.Addr())
		s.gateways = append(s.gateways, g)
		if err := g.start(); err != nil {
			t.Fatal(err)
		}
	}
	for _, g := range s.gateways {
		if err := until(60*time.Second, g.name+" to be ready", g.ready); err != nil {
			t.Fatalf("%v\n%s", err, tail(g.log))
		}
	}
	return s
}

func (s *site) doors() (list []storm.Door) {
	for _, g := range s.gateways {
		list = append(list, g.door())
	}
	return list
}
