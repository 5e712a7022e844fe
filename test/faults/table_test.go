package faults

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/kateway/kateway/test/storm"
)

// fault is one thing that breaks: it does it, holds it for a while, proves that it happened, and heals it. An error says that
// it did not happen or could not be healed.
type fault struct {
	name    string
	unclean bool // a gateway may forget what was acked since its last commit
	run     func(c *chaos) error
}

// table has all that can be broken. What a run of many machines can't have is tested by itself: clocks that jump, files that
// can't be synced, bits that flip, a limit of files, plugins that panic.
func table() []fault {
	return []fault{
		{"broker: kill -9 of a leader", true, func(c *chaos) error { return c.killBroker(c.leader()) }},
		{"broker: kill -9 of the controller", true, func(c *chaos) error { return c.killBroker(c.controller()) }},
		{"broker: leader moved", true, (*chaos).moveLeader},
		{"broker: rolling restart by SIGTERM", true, (*chaos).rollBrokers},
		{"broker: SIGSTOP of a leader", true, (*chaos).freezeBroker},
		{"broker: all killed", true, (*chaos).outage},
		{"broker: two of three killed", true, (*chaos).weak},
		{"network: slow broker", true, (*chaos).slowBroker},
		{"network: gateway does not reach a broker", true, func(c *chaos) error { return c.oneWay(c.gateway().host, c.broker()) }},
		{"network: broker does not reach a gateway", true, func(c *chaos) error { return c.oneWay(c.broker(), c.gateway().host) }},
		{"network: brokers split two to one", true, (*chaos).splitBrokers},
		{"network: gateways split", true, (*chaos).splitGateways},
		{"zookeeper: kill -9 of the leader", true, (*chaos).killZooKeeper},
		{"zookeeper: all killed", true, (*chaos).noZooKeeper},
		{"zookeeper: session expires", true, (*chaos).expire},
		{"gateway: kill -9", true, func(c *chaos) error { return c.restart(syscall.SIGKILL) }},
		{"gateway: restart by SIGTERM", true, func(c *chaos) error { return c.restart(syscall.SIGTERM) }},
		{"gateway: new process by SIGUSR2", true, (*chaos).swap},
		{"gateway: SIGSTOP", true, (*chaos).freezeGateway},
		{"gateway: disk full while its brokers are away", true, (*chaos).fullDisk},
		{"client: streams vanish", true, (*chaos).vanish},
		{"client: slow readers", true, (*chaos).slowReaders},
		{"client: answers cut", true, (*chaos).cutAnswers},
		{"client: members join and leave", true, (*chaos).joinAndLeave},
		{"topic: more partitions", true, (*chaos).grow},
		{"topic: messages gone before they are read", true, (*chaos).retention},
	}
}

func (c *chaos) killBroker(i int, err error) error {
	if err != nil {
		return err
	}
	c.kafka.Kill(i)
	if answers(c.kafka.Addrs()[i]) {
		return fmt.Errorf("broker %d still answers", i+1)
	}
	c.hold(5, 15)
	return c.kafka.Start(i)
}

// answers reports whether somebody takes connections there.
func answers(addr string) bool {
	conn, err := net.DialTimeout("tcp", addr, time.Second)
	if err == nil {
		conn.Close()
	}
	return err == nil
}

func (c *chaos) rollBrokers() error {
	for i := range c.brokers {
		c.kafka.Term(i)
		if answers(c.kafka.Addrs()[i]) {
			return fmt.Errorf("broker %d still answers", i+1)
		}
		if err := c.kafka.Start(i); err != nil {
			return err
		}
		if err := until(120*time.Second, "all replicas to be in sync", c.inSync); err != nil {
			return err
		}
	}
	return nil
}

func (c *chaos) freezeBroker() error {
	i, err := c.leader()
	if err != nil {
		return err
	}
	if err := c.kafka.Stop(i); err != nil {
		return err
	}
	c.hold(12, 25) // longer than a broker's session lasts: it wakes up as a leader that is none any more
	now, err := c.leader()
	if err := c.kafka.Cont(i); err != nil {
		return err
	}
	if err == nil && now == i {
		return fmt.Errorf("broker %d is still the leader after it stood still", i+1)
	}
	return err
}

func (c *chaos) outage() error {
	for i := range c.brokers {
		c.kafka.Kill(i)
	}
	for _, a := range c.kafka.Addrs() {
		if answers(a) {
			return fmt.Errorf("%s still answers", a)
		}
	}
	c.hold(15, 25)
	return c.startBrokers(0, 1, 2)
}

// startBrokers starts them at a time, since one alone does not serve.
func (c *chaos) startBrokers(list ...int) error {
	errs := make(chan error, len(list))
	for _, i := range list {
		go func() { errs <- c.kafka.Start(i) }()
	}
	var first error
	for range list {
		if err := <-errs; err != nil && first == nil {
			first = err
		}
	}
	return first
}

// weak leaves one replica where two are asked for: until another is back nothing may be answered as stored.
func (c *chaos) weak() error {
	stay := c.r.IntN(3)
	gone := []int{(stay + 1) % 3, (stay + 2) % 3}
	for _, i := range gone {
		c.kafka.Kill(i)
	}
	from := c.storm.H.Len()
	err := c.noneStored(time.Now().Add(time.Duration(10+c.r.IntN(10)) * time.Second))
	c.weakly = append(c.weakly, [2]int{from, c.storm.H.Len()})
	if e := c.startBrokers(gone...); e != nil {
		return e
	}
	return err
}

// noneStored publishes to each gateway until then, and at least once: none may say 201.
func (c *chaos) noneStored(end time.Time) error {
	for answered := 0; ; {
		for _, g := range c.gateways {
			ctx, cancel := c.ctx()
			web := &storm.Client{HTTP: g.web.HTTP, Base: g.door().Base, App: app}
			a, err := web.Exchange(ctx, http.MethodPost, "/v1/msgs/probe/v1", strings.NewReader("x"))
			cancel()
			switch {
			case err != nil:
			case a.StatusCode == http.StatusCreated:
				return fmt.Errorf("with one replica of three %s answers %s", g.name, a)
			default:
				answered++
			}
		}
		if time.Now().After(end) {
			if answered == 0 {
				return fmt.Errorf("no gateway answers")
			}
			return nil
		}
	}
}

func (c *chaos) slowBroker() error {
	b := c.broker()
	if err := b.slow(80_000); err != nil {
		return err
	}
	c.hold(15, 25)
	sent, err := b.queued()
	if err := b.fast(); err != nil {
		return err
	}
	if err == nil && sent == 0 {
		return fmt.Errorf("nothing went over the slow link")
	}
	return err
}

func (c *chaos) oneWay(from, to *host) error {
	return c.apart([]*host{from}, []*host{to}, false)
}

// apart drops all from one side to the other, in both directions if asked for, and heals that.
func (c *chaos) apart(a, b []*host, both bool) error {
	var did [][2]*host
	var failed error
	for _, x := range a {
		for _, y := range b {
			for _, way := range [][2]*host{{x, y}, {y, x}} {
				if way[0] == y && !both || failed != nil {
					continue
				}
				if failed = way[0].drop(way[1]); failed == nil {
					did = append(did, way)
				}
			}
		}
	}
	if failed == nil && a[0].reaches(b[0], c.portOf(b[0])) {
		failed = fmt.Errorf("%s still reaches %s", a[0].name, b[0].name)
	}
	if failed == nil {
		c.hold(8, 20)
	}
	for _, way := range did {
		if err := way[0].pass(way[1]); err != nil && failed == nil {
			failed = err
		}
	}
	return failed
}

// portOf is one that is open there.
func (c *chaos) portOf(h *host) string {
	for _, a := range append(c.kafka.Addrs(), c.zk.Addrs()...) {
		if ip, port, _ := net.SplitHostPort(a); ip == h.ip {
			return port
		}
	}
	return pubPort
}

func (c *chaos) splitBrokers() error {
	i := c.r.IntN(3)
	return c.apart([]*host{c.brokers[i]}, []*host{c.brokers[(i+1)%3], c.brokers[(i+2)%3]}, true)
}

func (c *chaos) splitGateways() error {
	i := c.r.IntN(3)
	return c.apart([]*host{c.gateways[i].host}, []*host{c.gateways[(i+1)%3].host, c.gateways[(i+2)%3].host}, true)
}

func (c *chaos) killZooKeeper() error {
	i := c.zk.Leader()
	if i < 0 {
		return fmt.Errorf("ZooKeeper has no leader")
	}
	c.zk.Stop(i)
	c.hold(5, 10)
	if now := c.zk.Leader(); now == i {
		return fmt.Errorf("server %d still leads", i+1)
	}
	return c.zk.Start(i)
}

func (c *chaos) noZooKeeper() error {
	c.zk.StopAll()
	c.hold(12, 20)
	if i := c.zk.Leader(); i >= 0 {
		return fmt.Errorf("server %d still leads", i+1)
	}
	return c.zk.StartAll()
}

// expire cuts a gateway off from ZooKeeper for longer than its session lasts.
func (c *chaos) expire() error {
	g := c.gateway()
	before, err := c.owner(g)
	if err != nil {
		return err
	}
	for _, z := range c.zks {
		if err := g.drop(z); err != nil {
			return err
		}
	}
	late := until(60*time.Second, "the session of "+g.name+" to expire", func() bool {
		now, err := c.owner(g)
		return err == nil && now != before
	})
	for _, z := range c.zks {
		if err := g.pass(z); err != nil {
			return err
		}
	}
	if late != nil {
		return late
	}
	return until(60*time.Second, g.name+" to be listed again", func() bool {
		now, err := c.owner(g)
		return err == nil && now != 0
	})
}

// restart ends a gateway, and starts it again a moment later.
func (c *chaos) restart(s syscall.Signal) error {
	g := c.gateway()
	if err := g.end(s); err != nil {
		return err
	}
	c.hold(0, 4)
	return g.start()
}

func (c *chaos) swap() error { return c.gateway().swap() }

func (c *chaos) freezeGateway() error {
	g := c.gateway()
	pid := g.process()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		return err
	}
	c.hold(8, 20) // its session at ZooKeeper and at Kafka may end
	still := !g.ready()
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		return err
	}
	if !still {
		return fmt.Errorf("%s answers though it stands still", g.name)
	}
	return nil
}

// ctx bounds what a fault asks of anybody.
func (c *chaos) ctx() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), 60*time.Second)
}
