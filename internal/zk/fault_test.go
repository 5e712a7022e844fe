package zk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/testkit"
)

// proxied opens a client with a proxy before its server.
func proxied(t *testing.T, cfg Config) (*Client, *testkit.Proxy) {
	t.Helper()
	p := testkit.NewProxy(t, cfg.Servers[0])
	cfg.Servers = []string{p.Addr()}
	c := open(t, cfg)
	connected(t, c)
	return c, p
}

// fired waits for a watch.
func fired(t *testing.T, what string, changed <-chan struct{}) {
	t.Helper()
	select {
	case <-changed:
	case <-time.After(30 * time.Second):
		t.Fatalf("%s: the watch does not fire", what)
	}
}

func quietly(changed <-chan struct{}) bool {
	select {
	case <-changed:
		return false
	default:
		return true
	}
}

func TestWatches(t *testing.T) {
	server := testkit.ZooKeeper(t)
	c, other := open(t, Config{Servers: []string{server}}), open(t, Config{Servers: []string{server}})
	connected(t, c)
	connected(t, other)
	ctx := t.Context()

	_, _, changed, err := c.Watch(ctx, "/a/b")
	wanted(t, err, errs.NotFound)
	_, children, err := c.WatchChildren(ctx, "/a")
	wanted(t, err, errs.NotFound)
	wanted(t, other.Create(ctx, "/a/b", []byte("1")), nil)
	fired(t, "created", changed)
	fired(t, "parent created", children)

	names, children, err := c.WatchChildren(ctx, "/a")
	if err != nil || len(names) != 1 || names[0] != "b" {
		t.Errorf("children %q, %v", names, err)
	}
	data, version, changed, err := c.Watch(ctx, "/a/b")
	if string(data) != "1" || version != 0 || err != nil {
		t.Errorf("read %q, %d, %v", data, version, err)
	}
	_, err = other.Set(ctx, "/a/b", []byte("2"), -1)
	wanted(t, err, nil)
	fired(t, "set", changed)
	if !quietly(children) {
		t.Error("a child's content is no change of the children")
	}
	_, _, changed, err = c.Watch(ctx, "/a/b")
	wanted(t, err, nil)
	wanted(t, other.Delete(ctx, "/a/b", -1), nil)
	fired(t, "deleted", changed)
	fired(t, "child deleted", children)
	_, children, err = c.WatchChildren(ctx, "/a")
	wanted(t, err, nil)
	wanted(t, other.Delete(ctx, "/a", -1), nil)
	fired(t, "node of the children deleted", children)
}

// A watch that does not fire costs nothing more each time that it is asked for.
func TestWatchesAreShared(t *testing.T) {
	c := open(t, Config{Servers: []string{testkit.ZooKeeper(t)}})
	connected(t, c)
	var first <-chan struct{}
	var wg sync.WaitGroup
	for i := range 200 {
		_, _, changed, err := c.Watch(t.Context(), "/a")
		wanted(t, err, errs.NotFound)
		if i == 0 {
			first = changed
		} else if changed != first {
			t.Fatal("the same watch has another channel")
		}
		wg.Go(func() { _, _, _, _ = c.Watch(t.Context(), "/b") })
	}
	wg.Wait()
	c.mu.Lock()
	if n := len(c.watches); n != 2 {
		t.Errorf("%d watches of two nodes", n)
	}
	c.mu.Unlock()
	wanted(t, c.Create(t.Context(), "/a", nil), nil)
	fired(t, "created", first)
}

func TestNoServer(t *testing.T) {
	c := open(t, Config{Servers: []string{"127.0.0.1:1", "no-such-host.invalid:2181"}})
	before := runtime.NumGoroutine()
	var wg sync.WaitGroup
	const calls = 300
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	for range calls {
		wg.Go(func() {
			_, _, err := c.Get(ctx, "/a")
			wanted(t, err, errs.Unavailable)
			wanted(t, err, context.DeadlineExceeded)
		})
	}
	wg.Wait()
	err := c.Create(t.Context(), "/a", nil)
	wanted(t, err, errs.Unavailable)
	if errors.Is(err, ErrPerhapsDone) {
		t.Errorf("without any server: %v", err)
	}
	if took := time.Since(start); took > 10*patience {
		t.Errorf("it took %v to be Unavailable", took)
	}
	if now := runtime.NumGoroutine(); now > before+calls/10 {
		t.Errorf("%d goroutines after the calls, %d before", now, before)
	}
}

// A server that takes connections and says nothing must not hold anybody up beyond his context, nor more than so many.
func TestSilentServer(t *testing.T) {
	c, p := proxied(t, Config{Servers: []string{testkit.ZooKeeper(t)}})
	wanted(t, c.Create(t.Context(), "/a", nil), nil)
	before := runtime.NumGoroutine()
	p.Freeze()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	var wg sync.WaitGroup
	for range 3 * inFlight {
		wg.Go(func() {
			_, err := c.Set(ctx, "/a", nil, -1)
			wanted(t, err, errs.Unavailable)
			wanted(t, err, context.DeadlineExceeded)
		})
	}
	wg.Wait()
	if now := runtime.NumGoroutine(); now > before+2*inFlight { // some that have ended are counted yet
		t.Errorf("%d goroutines, %d before: more than %d calls are under way", now, before, inFlight)
	}
	p.Heal()
	for { // as soon as the connection is found to work, or replaced
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		_, _, err := c.Get(ctx, "/a")
		cancel()
		if err == nil {
			break
		}
		wanted(t, err, errs.Unavailable)
	}
}

func TestSequenceWhoseNameIsLost(t *testing.T) {
	server := testkit.ZooKeeper(t)
	c, p := proxied(t, Config{Servers: []string{server}})
	witness := open(t, Config{Servers: []string{server}})
	connected(t, witness)
	wanted(t, c.Create(t.Context(), "/s", nil), nil)
	p.Freeze()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	_, err := c.CreateSequence(ctx, "/s/x-", nil)
	cancel()
	wanted(t, err, ErrPerhapsDone)
	names, changed, err := witness.WatchChildren(t.Context(), "/s")
	if err != nil || len(names) != 0 {
		t.Fatalf("children %q, %v: it was to be stuck on its way", names, err)
	}
	p.Heal()
	fired(t, "made late", changed)
	for names, changed, err = witness.WatchChildren(t.Context(), "/s"); len(names) > 0 && err == nil; {
		fired(t, "deleted", changed)
		names, changed, err = witness.WatchChildren(t.Context(), "/s")
	}
	wanted(t, err, nil)
}

func TestSessionEnds(t *testing.T) {
	c, p := proxied(t, Config{Servers: []string{testkit.ZooKeeper(t)}, Credentials: "u:p", Chroot: "/x"})
	ctx := t.Context()
	wanted(t, c.CreateEphemeral(ctx, "/e", nil), nil)
	_, _, data, err := c.Watch(ctx, "/stays")
	wanted(t, err, errs.NotFound)
	_, children, err := c.WatchChildren(ctx, "/")
	wanted(t, err, nil)
	before, _ := c.State()
	if err := p.Expire(); err != nil {
		t.Fatal(err)
	}
	fired(t, "data", data)
	fired(t, "children", children)
	after := reached(t, c, func(s State) bool { return s.Connected && s.Session != before.Session })
	if after.Session == 0 || after.Timeout != defaultSession {
		t.Errorf("the new session is %+v", after)
	}
	_, _, err = c.Get(ctx, "/e")
	wanted(t, err, errs.NotFound)
	wanted(t, c.CreateEphemeral(ctx, "/e", nil), nil) // with the same credentials
	_, _, data, err = c.Watch(ctx, "/e")
	wanted(t, err, nil)
	_, err = c.Set(ctx, "/e", []byte("x"), -1)
	wanted(t, err, nil)
	fired(t, "in the new session", data)
}

func TestNodesAreOursOnly(t *testing.T) {
	server := testkit.ZooKeeper(t)
	ours := open(t, Config{Servers: []string{server}, Credentials: "u:p", Chroot: "/x/y"})
	connected(t, ours)
	wanted(t, ours.Create(t.Context(), "/a", []byte("secret")), nil)
	others := open(t, Config{Servers: []string{server}, Credentials: "u:q", Chroot: "/x/y"})
	connected(t, others)
	_, _, err := others.Get(t.Context(), "/a")
	wanted(t, err, errs.Denied)
	_, err = others.Set(t.Context(), "/a", nil, -1)
	wanted(t, err, errs.Denied)
	wanted(t, others.Create(t.Context(), "/b", nil), errs.Denied)
	same := open(t, Config{Servers: []string{server}, Credentials: "u:p", Chroot: "/x/y"})
	connected(t, same)
	data, _, err := same.Get(t.Context(), "/a")
	if string(data) != "secret" || err != nil {
		t.Errorf("read %q, %v", data, err)
	}
}

func TestLargeNodes(t *testing.T) {
	c := open(t, Config{Servers: []string{testkit.ZooKeeper(t)}})
	connected(t, c)
	before, _ := c.State()
	largest := bytes.Repeat([]byte("x"), maxRequest-300)
	wanted(t, c.Create(t.Context(), "/a", largest), nil)
	if data, _, err := c.Get(t.Context(), "/a"); err != nil || !bytes.Equal(data, largest) {
		t.Errorf("read %d bytes, %v", len(data), err)
	}
	tooLarge := append(largest, largest...)
	wanted(t, c.Create(t.Context(), "/b", tooLarge), errs.TooLarge)
	_, err := c.Set(t.Context(), "/a", tooLarge, -1)
	wanted(t, err, errs.TooLarge)
	var wg sync.WaitGroup
	for i := range 3000 {
		wg.Go(func() {
			wanted(t, c.Create(t.Context(), fmt.Sprintf("/many/%s-%d", strings.Repeat("n", 500), i), nil), nil)
		})
	}
	wg.Wait()
	if names, err := c.Children(t.Context(), "/many"); err != nil || len(names) != 3000 {
		t.Errorf("%d children, %v", len(names), err)
	}
	if after, _ := c.State(); after != before {
		t.Errorf("the connection was lost: %+v, before %+v", after, before)
	}
}

func TestBadPaths(t *testing.T) {
	c := open(t, Config{Servers: []string{testkit.ZooKeeper(t)}})
	connected(t, c)
	for _, path := range []string{"", "a", "/a/", "/a//b", "/../a", "/\x00"} {
		_, _, err := c.Get(t.Context(), path)
		wanted(t, err, errs.InvalidName)
		wanted(t, c.Create(t.Context(), path, nil), errs.InvalidName)
	}
}

// An impostor's answer ends the attempt, and the next is made.
func TestNotAZooKeeper(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan struct{}, 10)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			accepted <- struct{}{}
			_, _ = conn.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
			conn.Close()
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	c := open(t, Config{Servers: []string{ln.Addr().String()}})
	fired(t, "attempt", accepted)
	fired(t, "next attempt", accepted)
	if s, _ := c.State(); s != (State{}) {
		t.Errorf("an impostor makes us %+v", s)
	}
}

// TestNoWatchIsLost follows nodes through many disconnects: what is seen at the end is what is there.
func TestNoWatchIsLost(t *testing.T) {
	const nodes, changes, cuts = 20, 3000, 10 // the changes are those while all is well, and there are more
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	server := testkit.ZooKeeper(t)
	c, p := proxied(t, Config{Servers: []string{server}, Session: 4 * time.Second, Log: slog.New(slog.DiscardHandler)})
	writer := open(t, Config{Servers: []string{server}})
	connected(t, writer)
	last := make([]string, nodes)
	seen := make([]*view, nodes)
	for i := range nodes {
		path := fmt.Sprintf("/n/%d", i)
		wanted(t, writer.Create(t.Context(), path, nil), nil)
		seen[i] = follow(t, c, path)
	}
	n := 0
	change := func() {
		n++
		node := random.IntN(nodes)
		last[node] = fmt.Sprint(n)
		if _, err := writer.Set(t.Context(), fmt.Sprintf("/n/%d", node), []byte(last[node]), -1); err != nil {
			t.Fatal(err)
		}
	}
	away := func() bool { s, _ := c.State(); return !s.Connected }
	for range cuts {
		p.Cut()
		for !away() {
			change()
		}
		p.Heal()
		for away() {
			change()
		}
		for range changes / cuts {
			change()
		}
	}
	t.Logf("%d changes, %d connections", n, p.Attempts())
	for i, v := range seen {
		v.reaches(t, last[i])
	}
}

// view is what a follower has seen last.
type view struct {
	mu      sync.Mutex
	data    string
	changed chan struct{}
}

func follow(t *testing.T, c *Client, path string) *view {
	v := &view{changed: make(chan struct{}, 1)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for t.Context().Err() == nil {
			data, _, changed, err := c.Watch(t.Context(), path)
			if err != nil {
				continue // not connected: Watch itself waits a while
			}
			v.mu.Lock()
			v.data = string(data)
			v.mu.Unlock()
			select {
			case v.changed <- struct{}{}:
			default:
			}
			select {
			case <-changed:
			case <-t.Context().Done():
			}
		}
	}()
	t.Cleanup(func() { <-done })
	return v
}

func (v *view) reaches(t *testing.T, want string) {
	t.Helper()
	limit := time.After(30 * time.Second)
	for {
		v.mu.Lock()
		data := v.data
		v.mu.Unlock()
		if data == want {
			return
		}
		select {
		case <-v.changed:
		case <-limit:
			t.Fatalf("the last that was seen is %q, there is %q", data, want)
		}
	}
}

// One of three servers freezes, then the others are found.
func TestFrozenServer(t *testing.T) {
	e := testkit.ZooKeepers(t, 3)
	c := open(t, Config{Servers: e.Addrs(), Session: 6 * time.Second})
	before := connected(t, c)
	wanted(t, c.Create(t.Context(), "/a", nil), nil)
	if err := e.Pause(slices.Index(e.Addrs(), c.conn.Server())); err != nil {
		t.Fatal(err)
	}
	reached(t, c, func(s State) bool { return !s.Connected })
	after := reached(t, c, func(s State) bool { return s.Connected })
	if before.Session != after.Session {
		t.Errorf("session %d was lost, now it is %d", before.Session, after.Session)
	}
}

func TestAfterClose(t *testing.T) {
	c, p := proxied(t, Config{Servers: []string{testkit.ZooKeeper(t)}})
	_, _, changed, err := c.Watch(t.Context(), "/a")
	wanted(t, err, errs.NotFound)
	p.Freeze()
	start := time.Now()
	c.Close()
	c.Close()
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("Close took %v", took)
	}
	_, _, err = c.Get(t.Context(), "/a")
	wanted(t, err, errs.Unavailable)
	if s, _ := c.State(); s != (State{}) {
		t.Errorf("closed, and %+v", s)
	}
	fired(t, "closed", changed)
}
