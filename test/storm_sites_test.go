package test

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
)

// eachGround runs a storm over the embedded store, over the protocol of Kafka in this process, and over a real Kafka.
func eachGround(t *testing.T, storm func(t *testing.T, s *site, g ground)) {
	t.Helper()
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		storm(t, &site{"embedded", []string{"--data", dir, "--log-level", "info", "--id", "gw1"}, appOf(t)}, diskGround(dir))
	})
	t.Run("kfake", func(t *testing.T) {
		t.Parallel()
		fake := newFake(t)
		storm(t, &site{"kfake", []string{"--data", t.TempDir(), "--kafka", strings.Join(fake, ","), "--log-level", "info", "--id", "gw1"}, appOf(t)}, kafkaGround(fake))
	})
	t.Run("kafka", func(t *testing.T) {
		t.Parallel()
		storm(t, &site{"kafka", []string{"--data", t.TempDir(), "--kafka", brokers(t), "--log-level", "info", "--id", "gw1"}, appOf(t)}, kafkaGround(cluster.Get(t).Addrs()))
	})
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
