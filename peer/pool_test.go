package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/online"
	"github.com/kateway/kateway/registry"
)

// counted counts what a listener accepted.
type counted struct {
	net.Listener
	n atomic.Int32
}

func (c *counted) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err == nil {
		c.n.Add(1)
	}
	return conn, err
}

// gateway serves n behind a handshake with the secret "a".
func gateway(t *testing.T, n Node) (addr string, accepted *counted) {
	t.Helper()
	accepted = &counted{Listener: Secure(local(t), always(secrets("a")), slog.New(slog.DiscardHandler))}
	addr, _ = serve(t, accepted, handler(Routes(n)), nil)
	return addr, accepted
}

// pool makes a pool that follows what is sent into the channel.
func pool(t *testing.T, cfg PoolConfig) (*Pool, chan<- []registry.Instance) {
	t.Helper()
	if cfg.Secrets == nil {
		cfg.Secrets = always(secrets("a"))
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	cfg.Self = "gw1"
	p := NewPool(cfg)
	lists := make(chan []registry.Instance)
	var wg sync.WaitGroup
	wg.Go(func() { p.Follow(t.Context(), lists) })
	t.Cleanup(func() {
		wg.Wait()
		p.Close()
	})
	return p, lists
}

func at(id, addr string) registry.Instance { return registry.Instance{ID: id, Peer: addr} }

// tell sends a list and waits until the pool has taken it: a second, equal one is received after that.
func tell(lists chan<- []registry.Instance, list ...registry.Instance) {
	lists <- list
	lists <- list
}

// only is the pool's member, where there is one.
func only(t *testing.T, p *Pool) Member {
	t.Helper()
	list := p.Members()
	if len(list) != 1 {
		t.Fatalf("%d members", len(list))
	}
	return list[0]
}

var key = group.Key{Topic: "two:shop.orders&x=1.v1", Group: "bill.billing.shop.orders.v1"}

func TestEveryMethod(t *testing.T) {
	n := &fakeNode{
		clients: []online.Client{{Gateway: "gw1", Kind: online.Pub, App: "shop", Topic: "orders", Remote: "10.0.0.7:1", Since: time.Unix(1e9, 0).UTC(), Messages: 3}},
		info:    group.Info{Mode: group.Fifo, Clients: 2, Partitions: []group.PartitionInfo{{Partition: 1, InFlight: 3, OldestUnacked: time.Second}}},
	}
	addr, accepted := gateway(t, n)
	p, lists := pool(t, PoolConfig{})
	tell(lists, at("gw1", "127.0.0.1:1"), at("gw2", addr))
	m := only(t, p)
	ctx := t.Context()

	clients, err := m.Clients(ctx)
	want := slices.Clone(n.clients)
	want[0].Gateway = "gw2" // whatever it says of itself
	if err != nil || !reflect.DeepEqual(clients, want) || n.last(t) != "clients" {
		t.Errorf("clients %+v, %v", clients, err)
	}
	info, err := m.Group(ctx, key)
	if err != nil || !reflect.DeepEqual(info, n.info) || n.last(t) != "group "+key.Topic+" "+key.Group {
		t.Errorf("group %+v, %v", info, err)
	}
	for name, ask := range map[string]func() error{
		"suspend " + key.Topic + " " + key.Group + " 1m30s": func() error { return m.Suspend(ctx, key, 90*time.Second) },
		"resume " + key.Topic + " " + key.Group:             func() error { return m.Resume(ctx, key) },
		"refresh":                                           func() error { return m.Refresh(ctx) },
		"requeued " + key.Topic + " " + key.Group:           func() error { return m.Requeued(ctx, key) },
	} {
		if err := ask(); err != nil || n.last(t) != name {
			t.Errorf("%s: asked %q, %v", name, n.last(t), err)
		}
	}
	if c := accepted.n.Load(); c != 1 {
		t.Errorf("it took %d connections", c)
	}
}

func TestNoClientsAreAnEmptyList(t *testing.T) {
	addr, _ := gateway(t, &fakeNode{})
	p, lists := pool(t, PoolConfig{})
	tell(lists, at("gw2", addr))
	if list, err := only(t, p).Clients(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
}

// An error keeps its kind on the way, and what its text tells a client.
func TestErrorsComeBack(t *testing.T) {
	n := &fakeNode{}
	addr, _ := gateway(t, n)
	p, lists := pool(t, PoolConfig{})
	tell(lists, at("gw2", addr))
	m := only(t, p)
	for _, c := range []struct {
		err  error
		kind errs.Kind
		text string
	}{
		{fmt.Errorf("group x: %w", errs.Conflict), errs.Conflict, "gateway gw2: group x: Conflict"},
		{errs.NotFound, errs.NotFound, "gateway gw2: Not found"},
		{errs.Draining, errs.Draining, "gateway gw2: Stopping"},
		{fmt.Errorf("broker 10.0.0.7: %w", errs.Unavailable), errs.Unavailable, "gateway gw2: Unavailable"},
		{errors.New("anything"), errs.Internal, "gateway gw2: Internal error"},
	} {
		n.err = c.err
		_, err := m.Group(t.Context(), key)
		if errs.Of(err) != c.kind || err.Error() != c.text {
			t.Errorf("%v came back as %v", c.err, err)
		}
	}
}

func TestRefusedRequests(t *testing.T) {
	n := &fakeNode{}
	h := handler(Routes(n))
	for target, want := range map[string]int{
		"GET /peer/v1/clients?x=1":                                400,
		"GET /peer/v1/groups":                                     400,
		"GET /peer/v1/groups?topic=a":                             400,
		"GET /peer/v1/groups?topic=&group=":                       400,
		"GET /peer/v1/groups?topic=a&group=b&hold=1s":             400,
		"PUT /peer/v1/suspensions?topic=a&group=b":                400,
		"PUT /peer/v1/suspensions?topic=a&group=b&hold=":          400,
		"PUT /peer/v1/suspensions?topic=a&group=b&hold=0":         400,
		"PUT /peer/v1/suspensions?topic=a&group=b&hold=11m":       400,
		"PUT /peer/v1/suspensions?topic=a&topic=b&group=b&hold=1": 400,
		"DELETE /peer/v1/suspensions?topic=a":                     400,
		"POST /peer/v1/refresh?x=1":                               400,
		"POST /peer/v1/requeued?topic=a":                          400,
		"GET /peer/v1/refresh":                                    405,
	} {
		method, path, _ := strings.Cut(target, " ")
		w := newResponse()
		r, err := http.NewRequestWithContext(t.Context(), method, path, nil)
		if err != nil {
			t.Fatal(err)
		}
		h.ServeHTTP(w, r)
		if w.status != want {
			t.Errorf("%s: %d, want %d", target, w.status, want)
		}
	}
	if len(n.asked) > 0 {
		t.Errorf("the node was asked %v", n.asked)
	}
}

// response keeps the status of an answer.
type response struct {
	header http.Header
	status int
}

func newResponse() *response { return &response{header: http.Header{}} }

func (r *response) Header() http.Header         { return r.header }
func (r *response) Write(b []byte) (int, error) { return len(b), nil }
func (r *response) WriteHeader(status int)      { r.status = status }

// What answers may be anything; nothing of it is taken for an answer of a gateway.
func TestBadAnswers(t *testing.T) {
	var answer http.HandlerFunc
	ln := Secure(local(t), always(secrets("a")), slog.New(slog.DiscardHandler))
	addr, _ := serve(t, ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answer(w, r) }), nil)
	p, lists := pool(t, PoolConfig{})
	tell(lists, at("gw2", addr))
	m := only(t, p)
	const limit = 1000
	m.Node.(*remote).largest = limit
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		text   string
	}{
		"not JSON":   {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") }, "invalid character"},
		"nothing":    {func(http.ResponseWriter, *http.Request) {}, "EOF"},
		"breaks off": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "INTERNAL_ERROR"},
		"an unknown code": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(418)
			_, _ = io.WriteString(w, `{"code":"teapot"}`)
		}, `418, code "teapot"`},
		"no problem": {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusBadGateway) }, `502, code ""`},
		"another location": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusTemporaryRedirect)
		}, "307"},
		"too large": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"items":[`+strings.Repeat(" ", limit)+`]}`)
		}, "larger than"},
	} {
		t.Run(name, func(t *testing.T) {
			answer = c.answer
			list, err := m.Clients(t.Context())
			if !errors.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), c.text) || !strings.Contains(err.Error(), "gateway gw2") || list != nil {
				t.Errorf("%v, %v", list, err)
			}
		})
	}
}

// One gateway that is down, one that has no listener for others: the rest answers, and both are named.
func TestFanOut(t *testing.T) {
	down := local(t)
	_ = down.Close()
	instances := []registry.Instance{at("gw9", down.Addr().String()), at("gw8", ""), at("gw1", down.Addr().String())}
	for _, id := range []string{"gw3", "gw2"} {
		addr, _ := gateway(t, &fakeNode{clients: []online.Client{{App: "of " + id}}})
		instances = append(instances, at(id, addr))
	}
	p, lists := pool(t, PoolConfig{})
	tell(lists, instances...)
	members := p.Members()
	answers := make([]string, len(members))
	var wg sync.WaitGroup
	for i, m := range members {
		wg.Go(func() {
			list, err := m.Clients(t.Context())
			switch {
			case errors.Is(err, errs.Unavailable) && strings.HasPrefix(err.Error(), "gateway "+m.ID):
				answers[i] = m.ID + " unavailable"
			case err == nil:
				answers[i] = m.ID + " " + list[0].App
			default:
				t.Errorf("%s: %v", m.ID, err)
			}
		})
	}
	wg.Wait()
	want := []string{"gw2 of gw2", "gw3 of gw3", "gw8 unavailable", "gw9 unavailable"}
	if !slices.Equal(answers, want) {
		t.Errorf("%q, want %q", answers, want)
	}
}

// A gateway that takes connections and says nothing, or shakes hands and never answers, costs its time and no more.
func TestSilentGateways(t *testing.T) {
	for name, c := range map[string]struct {
		speaks bool
		ask    func(ctx context.Context, m Member) error
		takes  time.Duration
	}{
		"no handshake": {false, func(ctx context.Context, m Member) error { _, err := m.Clients(ctx); return err }, proveTime},
		"clients":      {true, func(ctx context.Context, m Member) error { _, err := m.Clients(ctx); return err }, answerTime},
		"resume":       {true, func(ctx context.Context, m Member) error { return m.Resume(ctx, key) }, answerTime},
		"refresh":      {true, func(ctx context.Context, m Member) error { return m.Refresh(ctx) }, refreshTime},
		"suspend":      {true, func(ctx context.Context, m Member) error { return m.Suspend(ctx, key, time.Second) }, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				in := newPipes(1)
				if c.speaks {
					serve(t, Secure(in, always(secrets("a")), slog.New(slog.DiscardHandler)), handler(Routes(&fakeNode{hang: true})), nil)
				}
				p, lists := pool(t, PoolConfig{Dial: func(context.Context, string, string) (net.Conn, error) { return in.dial(), nil }})
				tell(lists, at("gw2", "silent:1"))
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				began := time.Now()
				err := c.ask(ctx, only(t, p))
				if took := time.Since(began); !errors.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), "gw2") || took != c.takes {
					t.Errorf("%v after %v", err, took)
				}
			})
		})
	}
}

// The limits on the handshake end with it: a connection is good for as long as it is used now and then.
func TestConnectionsStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := &counted{Listener: newPipes(1)}
		dial := in.Listener.(*pipes).dial
		serve(t, Secure(in, always(secrets("a")), slog.New(slog.DiscardHandler)), handler(Routes(&fakeNode{})), nil)
		p, lists := pool(t, PoolConfig{Dial: func(context.Context, string, string) (net.Conn, error) { return dial(), nil }})
		tell(lists, at("gw2", "gw2:1"))
		ask := func(rest time.Duration, connections int32) {
			t.Helper()
			time.Sleep(rest) //nolint:forbidigo // fake time
			if err := only(t, p).Refresh(t.Context()); err != nil {
				t.Error(err)
			}
			if n := in.n.Load(); n != connections {
				t.Errorf("after a rest of %v: %d connections", rest, n)
			}
		}
		ask(0, 1)
		ask(idleTime/2, 1)
		ask(idleTime/2, 1)
		ask(2*idleTime, 2)
	})
}

func TestConnectionsOutliveTheSecret(t *testing.T) {
	var now atomic.Pointer[[][]byte]
	rotate := func(words ...string) { s := secrets(words...); now.Store(&s) }
	rotate("a")
	current := func() [][]byte { return *now.Load() }
	accepted := &counted{Listener: Secure(local(t), current, slog.New(slog.DiscardHandler))}
	addr, _ := serve(t, accepted, handler(Routes(&fakeNode{})), nil)
	p, lists := pool(t, PoolConfig{Secrets: current})
	tell(lists, at("gw2", addr))
	for i, words := range [][]string{{"a"}, {"b", "a"}, {"c", "b"}} {
		rotate(words...)
		if err := only(t, p).Refresh(t.Context()); err != nil {
			t.Errorf("with %q: %v", words, err)
		}
		if n := accepted.n.Load(); n != 1 {
			t.Errorf("rotation %d: %d connections", i, n)
		}
	}
	later, more := pool(t, PoolConfig{Secrets: always(secrets("d", "c"))})
	tell(more, at("gw2", addr))
	if err := only(t, later).Refresh(t.Context()); err != nil {
		t.Errorf("a gateway that heard of the next secret first: %v", err)
	}
}

func TestWithoutTheSecret(t *testing.T) {
	addr, _ := gateway(t, &fakeNode{})
	other := local(t)
	var wg sync.WaitGroup
	wg.Go(func() {
		if c, err := other.Accept(); err == nil {
			_, _ = io.WriteString(c, "SSH-2.0-OpenSSH_9.2\r\n")
			_ = c.Close()
		}
	})
	defer wg.Wait()
	defer func() { _ = other.Close() }()
	for name, c := range map[string]struct {
		addr    string
		secrets [][]byte
		text    string
		logged  bool
	}{
		"another secret":  {addr, secrets("b"), errHungUp.Error(), true},
		"none yet":        {addr, nil, errNoSecret.Error(), false},
		"not a gateway's": {other.Addr().String(), secrets("a"), errNotPeer.Error(), true},
	} {
		t.Run(name, func(t *testing.T) {
			var log logs
			p, lists := pool(t, PoolConfig{Secrets: always(c.secrets), Log: log.logger()})
			tell(lists, at("gw2", c.addr))
			err := only(t, p).Refresh(t.Context())
			if !errors.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%v", err)
			}
			if got := strings.Contains(log.String(), "level=WARN"); got != c.logged {
				t.Errorf("log %s", &log)
			}
		})
	}
}

func TestFollow(t *testing.T) {
	addr, accepted := gateway(t, &fakeNode{})
	other, _ := gateway(t, &fakeNode{})
	p, lists := pool(t, PoolConfig{})
	ids := func() (list []string) {
		for _, m := range p.Members() {
			list = append(list, m.ID)
		}
		return list
	}
	if got := ids(); len(got) != 0 {
		t.Errorf("at first %q", got)
	}
	tell(lists, at("gw3", addr), at("gw1", addr), at("gw2", addr))
	if got := ids(); !slices.Equal(got, []string{"gw2", "gw3"}) {
		t.Errorf("%q", got)
	}
	was := p.Members()[0]
	if err := was.Refresh(t.Context()); err != nil {
		t.Error(err)
	}
	busy := at("gw2", addr)
	busy.Load.Streams = 7
	tell(lists, busy)
	if m := only(t, p); m != was {
		t.Error("a change of its load made it another")
	}
	if err := was.Refresh(t.Context()); err != nil || accepted.n.Load() != 1 {
		t.Errorf("%v, %d connections", err, accepted.n.Load())
	}
	tell(lists, at("gw2", other))
	if m := only(t, p); m == was || m.Refresh(t.Context()) != nil {
		t.Error("it is not asked at its new address")
	}
	tell(lists)
	if got := ids(); len(got) != 0 {
		t.Errorf("in the end %q", got)
	}
}

// A gateway that comes back at its old address is reached again, without anybody being told.
func TestRestartedGateway(t *testing.T) {
	in := local(t)
	_, server := serve(t, Secure(in, always(secrets("a")), slog.New(slog.DiscardHandler)), handler(Routes(&fakeNode{})), nil)
	p, lists := pool(t, PoolConfig{})
	tell(lists, at("gw2", in.Addr().String()))
	m := only(t, p)
	if err := m.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	_ = server.Close()
	if err := m.Refresh(t.Context()); !errors.Is(err, errs.Unavailable) {
		t.Fatalf("while it is down: %v", err)
	}
	again, err := new(net.ListenConfig).Listen(t.Context(), "tcp", in.Addr().String())
	if err != nil {
		t.Skipf("its port was taken meanwhile: %v", err)
	}
	serve(t, Secure(again, always(secrets("a")), slog.New(slog.DiscardHandler)), handler(Routes(&fakeNode{})), nil)
	if err := m.Refresh(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestCloseOfThePool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := newPipes(1)
		n := &fakeNode{hang: true}
		serve(t, Secure(in, always(secrets("a")), slog.New(slog.DiscardHandler)), handler(Routes(n)), nil)
		p, lists := pool(t, PoolConfig{Dial: func(context.Context, string, string) (net.Conn, error) { return in.dial(), nil }})
		tell(lists, at("gw2", "gw2:1"))
		m := only(t, p)
		failed := make(chan error, 1)
		go func() { failed <- m.Suspend(t.Context(), key, time.Minute) }()
		synctest.Wait()
		if n.last(t) == "" {
			t.Fatal("not asked")
		}
		began := time.Now()
		p.Close()
		if err := <-failed; !errors.Is(err, errs.Unavailable) || time.Since(began) != 0 {
			t.Errorf("under way: %v after %v", err, time.Since(began))
		}
		if err := m.Refresh(t.Context()); !errors.Is(err, errs.Unavailable) || !errors.Is(err, net.ErrClosed) {
			t.Errorf("later: %v", err)
		}
		p.Close()
	})
}

// A member is reached over HTTP by the same connections as by its Node.
func TestReach(t *testing.T) {
	ln := &counted{Listener: Secure(local(t), always(secrets("a")), slog.New(slog.DiscardHandler))}
	addr, _ := serve(t, ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Proto+" "+r.URL.Path)
	}), nil)
	p, lists := pool(t, PoolConfig{})
	tell(lists, at("gw1", addr), at("gw2", addr), at("gw3", ""))
	for _, id := range []string{"gw1", "gw3", "gw4"} { // ourselves, one without a listener, nobody
		if _, _, ok := p.Reach(id); ok {
			t.Errorf("%s is reached", id)
		}
	}
	via, base, ok := p.Reach("gw2")
	if !ok {
		t.Fatal("gw2 is not known")
	}
	for range 2 {
		base.Path = "/x"
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, base.String(), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := via.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil || string(body) != "HTTP/2.0 /x" {
			t.Errorf("%q, %v", body, err)
		}
		_ = resp.Body.Close()
	}
	if n := ln.n.Load(); n != 1 {
		t.Errorf("it took %d connections", n)
	}
	tell(lists, at("gw3", ""))
	if _, _, ok := p.Reach("gw2"); ok {
		t.Error("one that left is reached")
	}
}
