package test

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/kateway/kateway/test/checker"
	"github.com/kateway/kateway/test/storm"
)

// eachGround runs a storm over the embedded store, over the protocol of Kafka in this process, and over a real Kafka.
func eachGround(t *testing.T, scenario func(t *testing.T, s *site, g storm.Ground)) {
	t.Helper()
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		scenario(t, &site{"embedded", []string{"--data", dir, "--log-level", "info", "--id", "gw1"}, appOf(t)}, storm.DiskGround(dir))
	})
	t.Run("kfake", func(t *testing.T) {
		t.Parallel()
		fake := newFake(t)
		scenario(t, &site{"kfake", []string{"--data", t.TempDir(), "--kafka", strings.Join(fake, ","), "--log-level", "info", "--id", "gw1"}, appOf(t)}, storm.KafkaGround(fake))
	})
	t.Run("kafka", func(t *testing.T) {
		t.Parallel()
		scenario(t, &site{"kafka", []string{"--data", t.TempDir(), "--kafka", brokers(t), "--log-level", "info", "--id", "gw1"}, appOf(t)}, storm.KafkaGround(cluster.Get(t).Addrs()))
	})
}

// newStorm makes a storm with a topic of its own, and sends its clients to the gateway.
func newStorm(t *testing.T, app, topic string, g storm.Ground, partitions, maxAttempts int, first *gateway) *storm.Storm {
	t.Helper()
	s := storm.New(t, storm.Config{App: app, Topic: topic, Ground: g})
	enter(s, first)
	first.manager().send(http.StatusCreated, "POST", "/v1/topics",
		map[string]any{"app": app, "topic": topic, "ver": "v1", "partitions": partitions, "replicas": 1, "max_attempts": maxAttempts})
	return s
}

// enter sends clients to these gateways from now on.
func enter(s *storm.Storm, gateways ...*gateway) {
	var doors []storm.Door
	for i, g := range gateways {
		doors = append(doors, storm.Door{Name: fmt.Sprintf("gw%d", i+1), Base: g.pub})
	}
	s.Enter(gateways[0].man, doors...)
}

// judge stops the gateways first.
func judge(s *storm.Storm, limits checker.Limits, stop ...*gateway) *checker.Report {
	s.T.Helper()
	for _, g := range stop {
		g.stop()
	}
	return s.Judge(limits)
}

// newFake is a Kafka in this process.
func newFake(t *testing.T) []string {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(3), kfake.GroupMinSessionTimeout(100*time.Millisecond), kfake.WithLogger(kfake.BasicLogger(io.Discard, kfake.LogLevelNone)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c.ListenAddrs()
}

// can is what the gateway offers.
type can map[string]bool

func (c can) read(kind string) bool { return !strings.HasPrefix(kind, "ws") || c["ws"] }

// capabilities asks for what every gateway must have.
func capabilities(t *testing.T, g *gateway, app string) can {
	t.Helper()
	cl, c := g.client(app), can{}
	cl.want(http.StatusCreated, "POST", "/v1/msgs/can/v1", strings.NewReader("x"))
	a, err := cl.do("GET", "/v1/ws/msgs/"+app+"/can/v1?group=g", nil)
	c["ws"] = err == nil && a.StatusCode == http.StatusUpgradeRequired
	for what, there := range c {
		if !there {
			t.Logf("the gateway has no %s", what)
		}
	}
	return c
}

// metric is the sum of all series of a name, as /metrics has them.
func (g *gateway) metric(name string) int {
	a, err := g.manager().do("GET", "/metrics", nil)
	if err != nil || a.StatusCode != http.StatusOK {
		return -1
	}
	sum := 0.0
	for line := range strings.Lines(string(a.body)) {
		series, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if series, _, _ = strings.Cut(series, "{"); series != name {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return -1
		}
		sum += v
	}
	return int(sum)
}
