package zk_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kateway/kateway/internal/testkit"
	"github.com/kateway/kateway/internal/zk"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/meta/metatest"
	metazk "github.com/kateway/kateway/meta/zk"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// link is a connection to ZooKeeper that can be cut.
type link struct {
	mu    sync.Mutex
	down  bool
	conns map[net.Conn]bool
}

var errDown = errors.New("the link is down")

func (l *link) dial(network, addr string, timeout time.Duration) (net.Conn, error) {
	l.mu.Lock()
	down := l.down
	l.mu.Unlock()
	if down {
		return nil, errDown
	}
	c, err := net.DialTimeout(network, addr, timeout)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down {
		_ = c.Close()
		return nil, errDown
	}
	l.conns[c] = true
	return c, nil
}

// cut closes what is connected, and answers whether anything was; down: and lets nobody connect again.
func (l *link) cut(down bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = down
	n := len(l.conns)
	for c := range l.conns {
		_ = c.Close()
	}
	clear(l.conns)
	return n > 0
}

// keeper is a part of a ZooKeeper.
type keeper struct {
	addr, chroot string

	mu    sync.Mutex
	links map[meta.Source]*link
}

func (k *keeper) client(t testing.TB, credentials string) (*zk.Client, *link) {
	t.Helper()
	l := &link{conns: map[net.Conn]bool{}}
	c, err := zk.Open(zk.Config{Servers: []string{k.addr}, Chroot: k.chroot, Session: 4 * time.Second, Credentials: credentials,
		Log: slog.New(slog.DiscardHandler), Dial: l.dial})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, l
}

func (k *keeper) open(t testing.TB) *metazk.Source {
	t.Helper()
	c, l := k.client(t, "")
	s := metazk.New(c, slog.New(slog.DiscardHandler))
	t.Cleanup(func() { _ = s.Close() })
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.links == nil {
		k.links = map[meta.Source]*link{}
	}
	k.links[s] = l
	return s
}

func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func apply(t testing.TB, s meta.Source, id meta.ID, data []byte) uint64 {
	t.Helper()
	at, err := s.Apply(within(t), meta.Change{ID: id, Data: data})
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func TestSource(t *testing.T) {
	addr := testkit.ZooKeeper(t)
	number := 0
	metatest.Run(t, metatest.Config{New: func(t *testing.T) metatest.Backend {
		number++
		k := &keeper{addr: addr, chroot: fmt.Sprintf("/suite/t%d", number)}
		other := k.open(t)
		return metatest.Backend{
			Shared: true, Keeps: true,
			Open: func(t *testing.T) meta.Source { return k.open(t) },
			Edit: func(t *testing.T, id meta.ID, data []byte) { apply(t, other, id, data) },
			Away: func(_ *testing.T, s meta.Source, away bool) { k.links[s].cut(away) },
			Spoil: func(t *testing.T, id meta.ID) func() {
				c, _ := k.client(t, "")
				place := other.Place(id)
				was, _, err := c.Get(within(t), place)
				if err != nil {
					t.Fatal(err)
				}
				set := func(data []byte) {
					if _, err := c.Set(within(t), place, data, -1); err != nil {
						t.Fatal(err)
					}
				}
				set(was[:len(was)/2])
				return func() { set(was) }
			},
		}
	}})
}
