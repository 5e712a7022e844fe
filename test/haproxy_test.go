package test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kateway/kateway/internal/testkit"
	"github.com/kateway/kateway/test/checker"
	"github.com/kateway/kateway/test/storm"
)

// G8. Three gateways behind HAProxy, which gives each request to the next of them, are restarted one after the other under
// load, five times: no request fails, nothing that was acked comes again, by its client or by the gateway, nothing is with two
// clients at a time, and no group stands still. A restart is no excuse for any of it.
func TestRollingRestartBehindHAProxy(t *testing.T) {
	t.Parallel()
	const rounds = 5
	f := newFleet(t, "--log-level", "info")
	ids := []string{"gw1", "gw2", "gw3"}
	var all []*gateway
	var addrs []string
	for _, id := range ids {
		addrs = append(addrs, freeAddr(t))
		all = append(all, f.startAt(id, addrs[len(addrs)-1]))
	}
	agree(t, strings.Join(ids, " "), all...)
	front := haproxy(t, addrs)

	st := newStorm(t, f.app, "rolling", storm.KafkaGround(cluster.Get(t).Addrs()), 6, 100, all[0])
	st.Strict = true
	st.Enter(all[0].man, storm.Door{Name: "haproxy", Base: front})
	can := capabilities(t, all[0], f.app)
	for _, mode := range []string{"fifo", "queue", "key"} {
		for _, explicit := range []bool{true, false} {
			p := st.Party(fmt.Sprintf("%s-%t", mode, explicit), checker.Spec{Mode: mode, Explicit: explicit, Lease: 20 * time.Second, MaxAttempts: 100})
			for i, kind := range storm.Kinds(explicit) {
				if can.read(kind) {
					st.Join(&st.Members, p, storm.Habit{Name: fmt.Sprint(kind, i), Kind: kind})
				}
			}
		}
	}
	st.Watch(200 * time.Millisecond)
	st.Producers(3, 50*time.Millisecond)
	for range rounds {
		for i, id := range ids {
			st.WaitProduced(30)
			heal := st.Fault("restart of "+id, "nobody", false)
			all[i].stop()
			all[i] = f.startAt(id, addrs[i])
			st.Man.Store(&all[i].man)
			agree(t, strings.Join(ids, " "), all...)
			heal()
		}
	}
	st.WaitProduced(30)
	st.Calm()
	st.Drain()
	r := judge(st, checker.Limits{AutoOnce: true, Ends: 2 * time.Second}, all...)
	st.NoFailures()
	if st.Faults != rounds*len(ids) || r.Again > 0 || r.Unknown > 0 {
		t.Errorf("%d restarts; %d acked messages came again, %d publishes are unknown", st.Faults, r.Again, r.Unknown)
	}
}

// A client that asks another gateway each time gets every message once, in order, and acks it there: as at one gateway. Polls that
// wait at all of them are served as if they waited at one.
func TestEveryPollAtAnotherGateway(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "--log-level", "info")
	all := []*gateway{f.start("gw1"), f.start("gw2"), f.start("gw3")}
	agree(t, "gw1 gw2 gw3", all...)
	st := newStorm(t, f.app, "alternate", storm.KafkaGround(cluster.Get(t).Addrs()), 3, 100, all[0])
	enter(st, all...)
	p := st.Party("fifo", checker.Spec{Mode: "fifo", Explicit: true, MaxAttempts: 100})
	for i, kind := range []string{"lines", "piggyback", "raw"} {
		st.Join(&st.Members, p, storm.Habit{Name: fmt.Sprint(kind, i), Kind: kind, Batch: 3, Rotate: true})
	}
	st.Watch(200 * time.Millisecond)
	st.Stock(200)
	st.Calm()
	st.Drain()
	if r := judge(st, checker.Limits{}); r.Repeated > 0 || r.Delivered != 200 {
		t.Errorf("%d deliveries, %d of them repeated; want 200 and none", r.Delivered, r.Repeated)
	}
	st.NoFailures()
	waiting(t, f, all)
}

// waiting lets ten polls wait at the gateways in turn, and then publishes a message for each.
func waiting(t *testing.T, f *fleet, all []*gateway) {
	t.Helper()
	s := newStorm(t, f.app, "waiting", storm.KafkaGround(cluster.Get(t).Addrs()), 3, 100, all[0])
	enter(s, all...)
	p := s.Party("waiting", checker.Spec{Mode: "queue", Explicit: true, MaxAttempts: 100})
	var wg sync.WaitGroup
	for i := range 10 {
		m := &storm.Member{Storm: s, Party: p, R: s.Random("waiting"), HTTP: storm.NewHTTP(t), Turn: i, Habit: storm.Habit{Name: fmt.Sprint(i), Kind: "raw", Wait: patience.String()}}
		wg.Go(func() { m.Once(t.Context()) })
	}
	waitFor(t, "ten polls to wait", func() bool {
		n := 0
		for _, c := range list[struct{ Kind, Group string }](all[0].manager(), "/v1/clients?limit=1000") {
			if c.Kind == "poll" && c.Group == "waiting" {
				n++
			}
		}
		return n == 10
	})
	s.Stock(10)
	wg.Wait()
	s.Drain()
	if r := judge(s, checker.Limits{}, all...); r.Delivered != 10 || r.Repeated > 0 {
		t.Errorf("%d deliveries, %d of them repeated; want 10 and none", r.Delivered, r.Repeated)
	}
	s.NoFailures()
}

// startAt is start for a gateway that publishes and subscribes at this address.
func (f *fleet) startAt(id, addr string) *gateway {
	f.t.Helper()
	g := launch(f.t, append(f.args(id), "--pub", addr)...)
	g.id = id
	return g
}

// freeAddr is an address that was free a moment ago. A load balancer has to know it before and after a restart.
func freeAddr(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// haproxy runs one before the addresses, without stickiness, and answers its base URL.
func haproxy(t *testing.T, addrs []string) string {
	t.Helper()
	path, err := exec.LookPath("haproxy")
	if err != nil {
		testkit.Missing(t, "haproxy", err)
	}
	front := freeAddr(t)
	config := `global
  maxconn 4096
defaults
  mode http
  timeout connect 2s
  timeout client 1h
  timeout server 1h
  timeout check 5s
  retries 3
  option redispatch 1
  retry-on conn-failure
listen kateway
  bind ` + front + `
  balance roundrobin
  option httpchk
  http-check send meth GET uri /ready?role=sub ver HTTP/1.1 hdr Host localhost
  default-server check inter 200ms fall 1 rise 1
`
	for i, a := range addrs {
		config += fmt.Sprintf("  server gw%d %s\n", i+1, a)
	}
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "-db", "-f", file)
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("haproxy says:\n%s", log.String())
		}
	})
	base := "http://" + front
	waitFor(t, "HAProxy to find the gateways", func() bool {
		resp, err := storm.NewHTTP(t).Get(base + "/alive")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return base
}
