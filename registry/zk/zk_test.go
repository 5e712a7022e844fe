package zk

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kateway/kateway/internal/testkit"
	"github.com/kateway/kateway/internal/zk"
	"github.com/kateway/kateway/registry/registrytest"
)

// session is the shortest that the test servers grant, nearly.
const session = 2 * time.Second

func TestMain(m *testing.M) {
	code := m.Run()
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// member is a gateway whose connections go through proxies.
type member struct {
	*Registry
	client  *zk.Client
	proxies []*testkit.Proxy
}

func (m *member) each(f func(*testkit.Proxy)) {
	for _, p := range m.proxies {
		f(p)
	}
}

// join opens a session below the chroot.
func join(t *testing.T, e *testkit.Ensemble, chroot string, log *slog.Logger) *member {
	t.Helper()
	m := &member{}
	var servers []string
	for _, addr := range e.Addrs() {
		p := testkit.NewProxy(t, addr)
		m.proxies, servers = append(m.proxies, p), append(servers, p.Addr())
	}
	if log == nil {
		log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	c, err := zk.Open(zk.Config{Servers: servers, Chroot: chroot, Session: session, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	m.client, m.Registry = c, New(c, log)
	m.reached(t, func(s zk.State) bool { return s.Connected })
	return m
}

func (m *member) reached(t *testing.T, good func(zk.State) bool) zk.State {
	t.Helper()
	limit := time.After(time.Minute)
	for {
		state, changed := m.client.State()
		if good(state) {
			return state
		}
		select {
		case <-changed:
		case <-limit:
			t.Fatalf("the state stays %+v", state)
		}
	}
}

// lose cuts the member off until the servers have ended its session.
func (m *member) lose(t *testing.T, witness *zk.Client) {
	t.Helper()
	was, _ := m.client.State()
	marker := fmt.Sprintf("/marker/%d", was.Session)
	if err := m.client.CreateEphemeral(t.Context(), marker, nil); err != nil {
		t.Fatal(err)
	}
	m.each((*testkit.Proxy).Freeze)
	for {
		_, _, changed, err := witness.Watch(t.Context(), marker)
		if err != nil {
			break // it is gone
		}
		<-changed
	}
}

func contract(t *testing.T, e *testkit.Ensemble) {
	var n atomic.Int64
	registrytest.Run(t, registrytest.Config{New: func(t *testing.T) func() registrytest.Member {
		chroot := fmt.Sprintf("/r%d", n.Add(1))
		witness := join(t, e, chroot, nil)
		return func() registrytest.Member {
			m := join(t, e, chroot, nil)
			return registrytest.Member{Registry: m, Lose: func(string) func() {
				m.lose(t, witness.client)
				return func() {
					m.each((*testkit.Proxy).Cut) // what was on its way is lost
					m.each((*testkit.Proxy).Heal)
					m.reached(t, func(s zk.State) bool { return s.Connected })
				}
			}}
		}
	}})
}

func TestContractOneServer(t *testing.T)    { contract(t, testkit.ZooKeepers(t, 1)) }
func TestContractThreeServers(t *testing.T) { contract(t, testkit.ZooKeepers(t, 3)) }

// lines counts log lines that hold a text.
type lines struct {
	text string
	n    atomic.Int64
}

func (l *lines) Write(b []byte) (int, error) {
	if strings.Contains(string(b), l.text) {
		l.n.Add(1)
	}
	return len(b), nil
}
