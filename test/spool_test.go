package test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kateway/kateway/internal/testkit"
	"github.com/kateway/kateway/test/storm"
)

// steady publishes with one key at a steady rate until it is stopped, each message with an Idempotency-Key. What has no answer,
// or one that says nothing, is sent again, as often as it takes: a client keeps its order.
type steady struct {
	key     string
	quiet   atomic.Bool // it pauses
	sent    int
	told    map[int]placed // where messages were said to be stored
	answers map[int]int    // by status; 0 = none
}

func (s *steady) run(t *testing.T, site *atomic.Pointer[client], stop <-chan struct{}) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		for !s.quiet.Load() {
			c := site.Load()
			a, err := c.do("POST", "/v1/msgs/outage/v1?key="+s.key, strings.NewReader(fmt.Sprint(s.sent)), "Idempotency-Key", fmt.Sprintf("%s-%d", s.key, s.sent))
			status := 0
			if err == nil {
				status = a.StatusCode
			}
			s.answers[status]++
			if status == http.StatusCreated {
				var p placed
				if err := json.Unmarshal(a.body, &p); err != nil {
					t.Errorf("%s: %v", a, err)
				}
				s.told[s.sent] = p
			}
			if status == http.StatusCreated || status == http.StatusAccepted {
				s.sent++
				break
			}
			if err == nil && status != http.StatusGatewayTimeout {
				t.Errorf("%s", a)
			}
			time.Sleep(20 * time.Millisecond) //nolint:forbidigo // a client's pause
		}
	}
}

const (
	inflow      = 500       // messages/s of all publishers
	longGrowth  = 64 << 20  // bytes that the gateway may grow by in an outage of minutes,
	shortGrowth = 128 << 20 // and in a short one with 110,000 messages at once
)

// awayFor is how long Kafka is away before there is more to do than the usual; KATEWAY_TEST_OUTAGE, 0 where that is not set.
func awayFor(t *testing.T) time.Duration {
	if os.Getenv("KATEWAY_TEST_OUTAGE") == "" {
		return 0
	}
	return outage(t)
}

// growth watches the gateway's resident memory for so long, and answers by how much it was over what it was before.
func (g *gateway) growth(d time.Duration, before int) int {
	peak := g.rss()
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(d); time.Now().Before(end); <-tick.C {
		peak = max(peak, g.rss())
	}
	return peak - before
}

// TestKafkaOutage: Kafka goes and comes back under publishers; the gateway is killed meanwhile, with more than 100,000 messages
// in its spool, and starts again while Kafka is away. Everything is accepted, and stored once, each key in order, where it was said to be.
func TestKafkaOutage(t *testing.T) {
	var flags []string
	limit := 2 * time.Second
	kafkaOutage(t, func(f ...string) *gateway {
		flags = f
		begun := time.Now()
		g := launch(t, f...)
		limit = max(limit, 4*time.Since(begun)) // on a machine that is busy an empty gateway takes its time, too
		return g
	}, func(g *gateway, accepts func(*gateway)) *gateway {
		g.kill()
		begun := time.Now()
		g = launchUnready(t, flags...)
		accepts(g)
		took := time.Since(begun)
		t.Logf("it accepts publishes %v after its start", took)
		if took > limit {
			t.Errorf("that is more than %v", limit)
		}
		return g
	})
}

// TestSwapWithAFullSpool: the same, and a new process takes over the spool twice, instead of the kill, while the publishers go on.
func TestSwapWithAFullSpool(t *testing.T) {
	if _, requests := swaps(); requests == 0 {
		t.Skip("in long runs only")
	}
	var l *line
	kafkaOutage(t, func(flags ...string) *gateway {
		l = launchLine(t, flags...)
		return l.gateway
	}, func(g *gateway, accepts func(*gateway)) *gateway {
		for range 2 {
			old := l.pid()
			l.swap(t)
			accepts(g)
			gone(t, old)
		}
		t.Logf("handed over: %s", medians(l.said("handed over"), "took", "ended", "closed", "opened", "groups"))
		return g
	})
}

// kafkaOutage is an outage of Kafka, with a change of the gateway in its midst.
func kafkaOutage(t *testing.T, first func(flags ...string) *gateway, change func(g *gateway, accepts func(*gateway)) *gateway) { //nolint:funlen // one scenario
	kafka := testkit.Kafka(t) // of its own, since it is killed
	g := first("--data", t.TempDir(), "--kafka", kafka.Addrs()[0], "--log-level", "info")
	var site atomic.Pointer[client]
	site.Store(g.client("default"))
	site.Load().publish("outage", "first", "first")
	stop := make(chan struct{})
	var wg sync.WaitGroup
	list := make([]*steady, inflow/100)
	for i := range list {
		list[i] = &steady{key: fmt.Sprint("k", i), told: map[int]placed{}, answers: map[int]int{}}
		wg.Go(func() { list[i].run(t, &site, stop) })
	}
	pass := func(d time.Duration) { time.Sleep(d) } //nolint:forbidigo // a phase of the scenario
	pass(time.Second)
	for _, s := range list[:3] { // they have nothing under way when Kafka goes, whose outcome nobody would know
		s.quiet.Store(true)
	}
	pass(500 * time.Millisecond)
	before := g.rss()
	kafka.Kill(0)
	pass(100 * time.Millisecond)
	for _, s := range list[:3] {
		s.quiet.Store(false)
	}
	grown, bound := g.growth(awayFor(t), before), shortGrowth
	c := site.Load()
	const bulk, lines = 11, 10_000
	body := strings.Repeat(strings.Repeat("x", 99)+"\n", lines)
	for i := range bulk { // the first one finds out that Kafka is away
		a := c.want(http.StatusAccepted, "POST", "/v1/msgs/bulk/v1?batch=lines&key="+url.QueryEscape(fmt.Sprint(i)), strings.NewReader(body))
		if a.Header.Get("X-Spooled") != "1" || strings.Count(string(a.body), `{"spooled":true}`) != lines {
			t.Fatalf("%.200s", a.body)
		}
	}
	spooled := func(c *client) (n int) {
		a, err := (&client{c.t, c.http, g.man, c.app}).do("GET", "/v1/spool", nil)
		if err != nil {
			return -1
		}
		return decode[struct{ Messages int }](t, a.body).Messages
	}
	waitFor(t, "publishers to be spooled", func() bool { return spooled(c) > bulk*lines+100 })
	if awayFor(t) > 0 {
		bound = longGrowth
	} else {
		grown = g.growth(0, before) // with the bulk
	}
	if grown > bound {
		t.Errorf("the gateway grew by %d MB while Kafka was away, at most %d MB are allowed", grown>>20, bound>>20)
	}
	g = change(g, func(g *gateway) {
		c = g.client("default")
		waitFor(t, "the gateway to accept publishes", func() bool {
			a, err := c.do("GET", "/ready?role=pub", nil)
			return err == nil && a.StatusCode == http.StatusOK
		})
	})
	site.Store(c)
	if n := spooled(c); n < bulk*lines+100 {
		t.Errorf("%d messages are spooled", n)
	}
	pass(2 * time.Second)
	if err := kafka.Restart(0); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	waiting := spooled(c)
	waitFor(t, "the spool to be empty", func() bool { return spooled(c) == 0 })
	drained := time.Since(begun)
	rate := float64(waiting) / drained.Seconds()
	if awayFor(t) > 0 && rate < 10*inflow {
		t.Errorf("drained at %.0f messages/s, not ten times the inflow of %d", rate, inflow)
	}
	pass(time.Second)
	close(stop)
	wg.Wait()
	waitFor(t, "the spool to be empty", func() bool { return spooled(c) == 0 })
	c.publish("outage", "last", "last")
	statuses := map[int]int{}
	next := map[string]int{}
	all, err := storm.KafkaGround(kafka.Addrs()).Read(t.Context(), "default.outage.v1")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		if !strings.HasPrefix(string(m.Key), "k") {
			continue
		}
		n := next[string(m.Key)]
		if string(m.Value) != fmt.Sprint(n) {
			t.Fatalf("key %s: %s, and %d was expected", m.Key, m.Value, n)
		}
		s := list[m.Key[1]-'0']
		if p, ok := s.told[n]; ok && (p.Partition != m.Partition || p.Offset != m.Offset) {
			t.Errorf("key %s, %d: at %d of %d, and %+v was told", m.Key, n, m.Offset, m.Partition, p)
		}
		next[string(m.Key)]++
	}
	for _, s := range list {
		if next[s.key] != s.sent {
			t.Errorf("key %s: %d of %d are there", s.key, next[s.key], s.sent)
		}
		for status, n := range s.answers {
			statuses[status] += n
		}
	}
	if statuses[http.StatusAccepted] == 0 {
		t.Error("nothing was spooled")
	}
	many, err := storm.KafkaGround(kafka.Addrs()).Read(t.Context(), "default.bulk.v1")
	if err != nil || len(many) != bulk*lines {
		t.Errorf("%d messages of %d, %v", len(many), bulk*lines, err)
	}
	t.Logf("%d messages drained %v after Kafka was there (%.0f/s); grown by %d MB meanwhile; statuses %v", waiting, drained, rate, grown>>20, statuses)
}
