package test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// honest publishes all the time, over a connection of its own each time it is asked to, and counts what fails.
type honest struct {
	sent, failed atomic.Int64
	slowest      atomic.Int64 // nanoseconds
	last         atomic.Value
	stop         func()
}

// beside runs an honest client until it is stopped. Each request has a connection of its own: that new ones get in is what is asked.
func beside(g *gateway) *honest {
	h := &honest{}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		tr := &http.Transport{DisableKeepAlives: true}
		c := &http.Client{Transport: tr, Timeout: patience}
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			begun := time.Now()
			resp, err := c.Post(g.pub+"/v1/msgs/honest/v1", "text/plain", strings.NewReader("x"))
			h.sent.Add(1)
			if err == nil {
				resp.Body.Close()
				if resp.StatusCode != http.StatusCreated {
					err = fmt.Errorf("%s", resp.Status)
				}
			}
			if err != nil {
				h.failed.Add(1)
				h.last.Store(err.Error())
			}
			h.slowest.Store(max(h.slowest.Load(), int64(time.Since(begun))))
			<-tick.C
		}
	})
	h.stop = func() { cancel(); wg.Wait() }
	return h
}

// check stops it, and wants that nothing failed.
func (h *honest) check(t *testing.T) {
	t.Helper()
	h.stop()
	if h.failed.Load() > 0 || h.sent.Load() == 0 {
		t.Errorf("%d of %d honest publishes failed, the last: %v", h.failed.Load(), h.sent.Load(), h.last.Load())
	}
	t.Logf("%d honest publishes, the slowest took %v", h.sent.Load(), time.Duration(h.slowest.Load()).Round(time.Millisecond))
}

// slowMode is a way to hold connections with little effort.
type slowMode struct {
	first string        // what is sent at once
	drip  string        // and then again and again
	limit time.Duration // until the gateway has to have hung up; 0: it may hold on
	reads bool          // a byte at a time
}

func slowModes(header, body time.Duration) map[string]slowMode {
	post := "POST /v1/msgs/slow/v1 HTTP/1.1\r\nHost: localhost\r\n"
	return map[string]slowMode{
		"headers":                {first: post, drip: "X-A: b\r\n", limit: header},
		"nothing at all":         {limit: header},
		"half a preface of h2c":  {first: "PRI * HT", limit: header},
		"preface, then nothing":  {first: "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"},
		"body":                   {first: post + "Content-Length: 4096\r\n\r\n", drip: "x", limit: body},
		"chunks":                 {first: post + "Transfer-Encoding: chunked\r\n\r\n", drip: "1\r\nx\r\n", limit: body},
		"answers read slowly":    {first: "GET /v1/msgs/default/big/v1?partition=0&offset=0&batch=100 HTTP/1.1\r\nHost: localhost\r\n\r\n", reads: true},
		"ranges, many":           {first: "GET /openapi.json HTTP/1.1\r\nHost: localhost\r\nRange: bytes=0-" + strings.Repeat(",5-1", 3000) + "\r\n\r\n", reads: true},
		"requests one by one":    {first: "GET /alive HTTP/1.1\r\nHost: localhost\r\n\r\n", drip: "GET /alive HTTP/1.1\r\nHost: localhost\r\n\r\n", reads: true},
		"a stream read slowly":   {first: "GET /v1/stream/default/big/v1?cursor= HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n", reads: true},
		"the connection is shut": {first: post + "Content-Length: 4096\r\n\r\nx", limit: body},
	}
}

// hold keeps a connection as the mode says until the gateway hangs up or ctx ends, and answers how long that was.
func (m slowMode) hold(ctx context.Context, addr string) (held time.Duration, hungUp bool) {
	var d net.Dialer
	begun := time.Now()
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return 0, false
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	_, _ = io.WriteString(conn, m.first)
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			if _, err := io.WriteString(conn, m.drip); err != nil {
				return
			}
			if m.drip == "" {
				return
			}
			<-tick.C
		}
	})
	if m.reads {
		b := make([]byte, 1)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for err = nil; err == nil && ctx.Err() == nil; <-tick.C {
			_, err = conn.Read(b)
		}
	} else {
		_, _ = io.Copy(io.Discard, conn)
	}
	held = time.Since(begun)
	hungUp = ctx.Err() == nil
	_ = conn.Close()
	wg.Wait()
	return held, hungUp
}

// However many hold connections by doing things slowly, others are served, and who says nothing useful is cut off in time.
// KATEWAY_TEST_SLOW is how many connections there are in each mode.
func TestSlowAttackers(t *testing.T) {
	const header, body = 2 * time.Second, 3 * time.Second
	n := 100
	if s := os.Getenv("KATEWAY_TEST_SLOW"); s != "" {
		n, _ = strconv.Atoi(s)
	}
	g := launch(t, "--data", t.TempDir(), "--read-header-timeout", header.String(), "--read-body-timeout", body.String())
	c := g.client("default")
	for range 20 {
		c.publish("big", "", strings.Repeat("x", 100_000))
	}
	h := beside(g)
	ctx, cancel := context.WithTimeout(t.Context(), body+5*time.Second)
	defer cancel()
	addr := strings.TrimPrefix(g.pub, "http://")
	var wg sync.WaitGroup
	for name, m := range slowModes(header, body) {
		for i := range n {
			wg.Go(func() {
				held, hungUp := m.hold(ctx, addr)
				if m.limit > 0 && (!hungUp || held > m.limit+4*time.Second) && i == 0 {
					t.Errorf("%s: held for %v, cut off: %t; the limit is %v", name, held, hungUp, m.limit)
				}
			})
		}
	}
	wg.Wait()
	h.check(t)
	if n := g.rss(); n > 300<<20 {
		t.Errorf("it takes %d MiB", n>>20)
	}
}

// The same by slowhttptest, with as many connections as KATEWAY_TEST_SLOWHTTPTEST says; without it the test is skipped.
func TestSlowhttptest(t *testing.T) {
	n := os.Getenv("KATEWAY_TEST_SLOWHTTPTEST")
	if n == "" {
		t.Skip("KATEWAY_TEST_SLOWHTTPTEST=4000 runs it; it takes minutes")
	}
	length := os.Getenv("KATEWAY_TEST_SLOWHTTPTEST_SECONDS")
	if length == "" {
		length = "240"
	}
	for name, mode := range map[string][]string{
		"headers": {"-H"}, "body": {"-B", "-t", "POST", "-u", "/v1/msgs/slow/v1"}, "range": {"-R"}, "read": {"-X", "-w", "10", "-y", "20", "-n", "5", "-z", "32", "-k", "3"},
	} {
		t.Run(name, func(t *testing.T) {
			g := launch(t, "--data", t.TempDir())
			h := beside(g)
			url := g.pub + "/openapi.json"
			args := append([]string{"-c", n, "-i", "10", "-r", "500", "-l", length, "-p", "3", "-x", "24"}, mode[:1]...)
			if len(mode) > 3 && mode[0] == "-B" {
				args, url = append(args, mode[1:3]...), g.pub+mode[4]
			} else {
				args = append(args, mode[1:]...)
			}
			out, err := exec.CommandContext(t.Context(), "slowhttptest", append(args, "-u", url)...).CombinedOutput()
			if err != nil {
				t.Logf("%v", err)
			}
			text := string(out)
			_, said, _ := strings.Cut(text, "service available:")
			if yes := strings.Count(text, "YES"); yes == 0 || strings.Contains(said, "NO\n") {
				t.Errorf("not available all the time (%d times YES):\n%s", yes, text[max(0, len(text)-1500):])
			}
			h.check(t)
		})
	}
}

// A gateway that may open few files goes on with as many clients as it has room for, turns the others away without
// spending time on them, and takes new ones as soon as there is room.
func TestFewFiles(t *testing.T) {
	g := launchBy(t, []string{"sh", "-c", `ulimit -n 512; exec "$0" "$@"`, binary}, "--data", t.TempDir())
	g.untilReady()
	addr := strings.TrimPrefix(g.pub, "http://")
	c := g.client("default") // its connection is there before
	c.publish("few", "", "before")
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	var d net.Dialer
	for range 2000 {
		conn, err := d.DialContext(t.Context(), "tcp", addr)
		if err != nil {
			t.Fatalf("after %d connections: %v", len(conns), err)
		}
		conns = append(conns, conn)
	}
	waitFor(t, "the surplus to be turned away", func() bool {
		a, err := g.manage("GET", "/metrics")
		return err == nil && metricOf(a, `kateway_connections_refused_total{reason="total"}`) >= 1500
	})
	before, begun := g.cpu(), time.Now()
	for range 20 {
		c.publish("few", "", "while it is full") // the store can still open what it needs
		<-time.After(100 * time.Millisecond)
	}
	if share := float64(g.cpu()-before) / float64(time.Since(begun)); share > 0.2 {
		t.Errorf("it takes %.0f %% of a processor while it is full", 100*share)
	}
	for _, conn := range conns {
		conn.Close()
	}
	freed := time.Now()
	waitFor(t, "room for new connections", func() bool {
		tr := &http.Transport{DisableKeepAlives: true}
		resp, err := (&http.Client{Transport: tr, Timeout: time.Second}).Get(g.pub + "/alive")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	if took := time.Since(freed); took > 5*time.Second { // a second where nothing else runs
		t.Errorf("took %v to take new connections", took)
	}
	g.stop()
}

// manage asks role man.
func (g *gateway) manage(method, path string) (string, error) {
	req, err := http.NewRequestWithContext(g.t.Context(), method, g.man+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

// metricOf is the value of a metric in the text of /metrics; 0 where it is not there.
func metricOf(text, name string) float64 {
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(line, name+" "); ok {
			f, _ := strconv.ParseFloat(strings.TrimSpace(v), 64)
			return f
		}
	}
	return 0
}

// cpu is the processor time that the gateway has taken.
func (g *gateway) cpu() time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", g.cmd.Process.Pid))
	if err != nil {
		g.t.Fatal(err)
	}
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')'):]))
	user, _ := strconv.Atoi(fields[12])
	system, _ := strconv.Atoi(fields[13])
	return time.Duration(user+system) * 10 * time.Millisecond // a tick is a hundredth of a second on Linux
}
