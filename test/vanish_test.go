package test

import (
	"bufio"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kateway/kateway/internal/testkit"
	"github.com/kateway/kateway/test/checker"
	"github.com/kateway/kateway/test/storm"
)

// N1. Subscribers vanish without a word: their network is gone, and no FIN comes. The gateway finds out by itself, and gives what
// they held to others. The network is a namespace of its own, of which the way back is taken away, so that nothing is
// acknowledged any more, as when a machine has lost its power.
func TestClientsThatVanish(t *testing.T) {
	t.Parallel()
	far := newNetwork(t)
	dir := t.TempDir()
	s := &site{"embedded", []string{"--data", dir, "--log-level", "info", "--insecure", "--pub", far.here + ":0"}, appOf(t)}
	gw := s.start(t)
	st := newStorm(t, s.app, "vanish", storm.DiskGround(dir), 2, 1000, gw)
	p := st.Party("held", checker.Spec{Mode: "queue", Explicit: true, MaxAttempts: 1000, Lease: 10 * time.Minute})
	const clients = 20
	var conns []net.Conn
	for i := range clients {
		conns = append(conns, far.stream(t, st, p, i))
	}
	st.Stock(200)
	waitFor(t, "the clients to hold everything", func() bool {
		for _, c := range conns {
			if n, _ := unread(c); n > 0 {
				return true
			}
		}
		return false
	})
	if n := gw.metric("kateway_sub_streams"); n != clients {
		t.Fatalf("%d streams; want %d", n, clients)
	}
	heal := st.Fault("the network is gone", "", false)
	far.cut(t)
	begun := time.Now()
	limit := 60 * time.Second // TCP's user timeout of 40 s, after a heartbeat of at most 15 s, and 5 s more
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for gw.metric("kateway_sub_streams") > 0 {
		if time.Since(begun) > limit {
			t.Fatalf("%d of %d clients are still there %v after they vanished", gw.metric("kateway_sub_streams"), clients, limit)
		}
		<-tick.C
	}
	t.Logf("the gateway was rid of %d clients after %v", clients, time.Since(begun).Round(time.Second))
	heal()
	st.Drain() // long before the leases end
	judge(st, checker.Limits{}, gw)
}

// network is a namespace with a wire to this one.
type network struct{ name, here, there string }

func newNetwork(t *testing.T) *network {
	t.Helper()
	number := time.Now().UnixNano()/1000%0x3fff + 1
	id, subnet := fmt.Sprint(number), fmt.Sprintf("10.213.%d.", number>>6)
	n := &network{name: "kw" + id, here: subnet + fmt.Sprint(number&0x3f<<2+1), there: subnet + fmt.Sprint(number&0x3f<<2+2)}
	for _, line := range []string{
		"netns add " + n.name,
		"link add kwa" + id + " type veth peer name kwb" + id,
		"link set kwb" + id + " netns " + n.name,
		"addr add " + n.here + "/30 dev kwa" + id,
		"link set kwa" + id + " up",
		"-n " + n.name + " addr add " + n.there + "/30 dev kwb" + id,
		"-n " + n.name + " link set kwb" + id + " up",
	} {
		if out, err := exec.Command("ip", strings.Fields(line)...).CombinedOutput(); err != nil {
			testkit.Missing(t, "network namespaces", fmt.Errorf("ip %s: %w: %s", line, err, out))
		}
		if line == "netns add "+n.name {
			t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", n.name).Run() })
		}
	}
	return n
}

// cut takes from the far side every way back: what arrives there is not answered.
func (n *network) cut(t *testing.T) {
	t.Helper()
	if out, err := exec.Command("ip", "-n", n.name, "route", "add", "blackhole", n.here+"/32").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// dial connects from the far side.
func (n *network) dial(addr string) (net.Conn, error) {
	return testkit.DialIn("/run/netns/"+n.name, addr, patience)
}

// stream opens one from the far side and reads its head.
func (n *network) stream(t *testing.T, s *storm.Storm, p *storm.Party, i int) net.Conn {
	t.Helper()
	host := hostOf(t, s.Door(0).Base)
	conn, err := n.dial(host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	m := &storm.Member{Storm: s, Party: p}
	if _, err := fmt.Fprintf(conn, "GET /v1/stream/%s/%s/v1%s&prefetch=10 HTTP/1.1\r\nHost: %s\r\nAppid: %s\r\nAccept: %s\r\n\r\n",
		s.App, s.Topic, m.Query(), host, s.App, []string{"text/event-stream", "application/x-ndjson"}[i%2]); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReaderSize(conn, 16).ReadString('\n')
	if err != nil || !strings.Contains(line, "200") {
		t.Fatalf("a stream is answered %q, %v", line, err)
	}
	return conn
}

// unread is how many bytes have come that nobody has read.
func unread(c net.Conn) (n int, err error) {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	e := raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	if e != nil {
		return 0, e
	}
	return n, err
}
