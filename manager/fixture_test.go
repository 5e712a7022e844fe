package manager_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/julienschmidt/httprouter"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/httpx"
	"github.com/kateway/kateway/internal/online"
	"github.com/kateway/kateway/manager"
	"github.com/kateway/kateway/meta"
	metamem "github.com/kateway/kateway/meta/mem"
	"github.com/kateway/kateway/peer"
	"github.com/kateway/kateway/registry"
	"github.com/kateway/kateway/store"
	"github.com/kateway/kateway/store/mem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixture is a manager on a store and a meta in memory.
type fixture struct {
	t      *testing.T
	cfg    manager.Config
	shared *metamem.Source // what all gateways see
	source *source         // this one's view of it
	meta   *meta.Directory
	store  *mem.Store
	self   *node
	topics *forgotten
	level  *slog.LevelVar
	log    *logBuffer
	h      *manager.Handler
	router *httprouter.Router
}

// newFixture makes one. change, if not nil, sees the configuration before the manager does.
func newFixture(t *testing.T, change func(*manager.Config)) *fixture {
	t.Helper()
	f := &fixture{t: t, shared: metamem.New(), store: mem.New(), self: &node{}, topics: &forgotten{}, level: &slog.LevelVar{}, log: &logBuffer{}}
	f.source = &source{Source: f.shared}
	log := slog.New(slog.NewJSONHandler(f.log, nil))
	f.meta = follow(t, f.source)
	f.cfg = manager.Config{
		ID: "gw1", Meta: f.meta, Store: f.store, Topics: f.topics, Self: f.self,
		AdminKeyHash: meta.HashSecret(adminKey),
		Peers:        func() []peer.Member { return nil },
		Gateways:     func() []registry.Instance { return []registry.Instance{{ID: "gw1"}} },
		Status: func(context.Context) manager.Status {
			return manager.Status{ID: "gw1", Store: "mem", Roles: []string{"man"}}
		},
		Options: manager.NewOptions(log, manager.LogLevel(f.level, func() string { return "info" })),
		Log:     log, Metrics: prometheus.NewRegistry(),
	}
	if change != nil {
		change(&f.cfg)
	}
	f.h = manager.New(f.cfg)
	f.router = routerOf(f.h, log)
	t.Cleanup(func() { _ = f.store.Close(context.Background()) })
	return f
}

// follow makes a directory of the source that lives as long as the test.
func follow(t *testing.T, s meta.Source) *meta.Directory {
	t.Helper()
	d := meta.NewDirectory(meta.Config{Source: s, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = d.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		_ = s.Close()
	})
	<-d.Loaded()
	return d
}

func routerOf(h *manager.Handler, log *slog.Logger) *httprouter.Router {
	router := httprouter.New()
	for _, r := range h.Routes() {
		e := (&httpx.Shell{Log: log, Seen: unseen{}}).Wrap(r.Method+" "+r.Path, r.Handler)
		router.Handle(r.Method, r.Path, e.Serve)
	}
	return router
}

// adminKey is the one that the configuration names.
const adminKey = "first.0123456789012345678901234567890123456789012"

// reply is an answer.
type reply struct {
	*httptest.ResponseRecorder
	asked string
}

// ask sends a request with the admin key. More are names and values of headers, in turn.
func (f *fixture) ask(method, path, body string, more ...string) reply {
	return ask(f.router, method, path, body, append([]string{"Authorization", "Bearer " + adminKey}, more...)...)
}

func ask(router http.Handler, method, path, body string, header ...string) reply {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	router.ServeHTTP(w, r)
	return reply{w, method + " " + path + " " + body}
}

// must is ask where only one status will do; it answers the body.
func (f *fixture) must(status int, method, path, body string, more ...string) object {
	f.t.Helper()
	return f.ask(method, path, body, more...).want(f.t, status)
}

// object is a JSON object.
type object map[string]any

func (r reply) want(t *testing.T, status int) object {
	t.Helper()
	if r.Code != status {
		t.Fatalf("%s: %d, not %d: %s", r.asked, r.Code, status, r.Body)
	}
	if r.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("%s: may be cached", r.asked)
	}
	if r.Body.Len() == 0 {
		return nil
	}
	var v object
	if err := json.Unmarshal(r.Body.Bytes(), &v); err != nil {
		t.Fatalf("%s: %v: %s", r.asked, err, r.Body)
	}
	return v
}

// problem checks an error answer, and that its text has all the words.
func (r reply) problem(t *testing.T, kind errs.Kind, words ...string) {
	t.Helper()
	p := r.want(t, kind.Status())
	if p["code"] != kind.Code() {
		t.Errorf("%s: code %v, not %s", r.asked, p["code"], kind.Code())
	}
	for _, w := range words {
		if s, _ := p["detail"].(string); !strings.Contains(s, w) {
			t.Errorf("%s: %q does not say %q", r.asked, s, w)
		}
	}
}

func (r reply) etag() string { return r.Header().Get("ETag") }

// names are one field of a list's elements.
func (o object) names(t *testing.T, field string) (out []string) {
	t.Helper()
	items, ok := o["items"].([]any)
	if !ok {
		t.Fatalf("no list: %v", o)
	}
	for _, item := range items {
		out = append(out, fmt.Sprint(item.(map[string]any)[field]))
	}
	return out
}

// fields are a few fields of an object, to be compared.
func (o object) fields(names ...string) string {
	var out []string
	for _, n := range names {
		out = append(out, fmt.Sprint(o[n]))
	}
	return strings.Join(out, " ")
}

// source is meta's source with faults.
type source struct {
	meta.Source
	mu    sync.Mutex
	apply func(meta.Change) error // asked before each change
}

func (s *source) fail(f func(meta.Change) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.apply = f
}

func (s *source) Apply(ctx context.Context, c meta.Change) (uint64, error) {
	s.mu.Lock()
	f := s.apply
	s.mu.Unlock()
	if f != nil {
		if err := f(c); err != nil {
			return 0, err
		}
	}
	return s.Source.Apply(ctx, c)
}

// errStore stands for a store that fails.
type errStore struct {
	manager.Store
	alter error
}

func (s *errStore) AlterTopic(ctx context.Context, t store.Topic) error {
	if s.alter != nil {
		return s.alter
	}
	return s.Store.AlterTopic(ctx, t)
}

// node is a gateway, this one or another.
type node struct {
	mu        sync.Mutex
	clients   []online.Client
	infos     map[group.Key]group.Info
	fail      error // of every call
	hangs     bool  // every call waits until its context ends
	suspended map[group.Key]int
	suspends  int
	refreshed int
	requeued  []group.Key
}

var _ peer.Node = (*node)(nil)

// begin is what every call does first. The caller then holds the lock.
func (n *node) begin(ctx context.Context) error {
	n.mu.Lock()
	if n.hangs {
		n.mu.Unlock()
		<-ctx.Done()
		n.mu.Lock()
		return errors.Join(ctx.Err(), errs.Unavailable)
	}
	return n.fail
}

func (n *node) Clients(ctx context.Context) ([]online.Client, error) {
	defer n.mu.Unlock()
	err := n.begin(ctx)
	return n.clients, err
}

func (n *node) Group(ctx context.Context, key group.Key) (group.Info, error) {
	defer n.mu.Unlock()
	err := n.begin(ctx)
	return n.infos[key], err
}

func (n *node) Suspend(ctx context.Context, key group.Key, hold time.Duration) error {
	defer n.mu.Unlock()
	if err := n.begin(ctx); err != nil {
		return err
	}
	if hold <= 0 || hold > time.Minute {
		return errs.Internal
	}
	if n.suspended == nil {
		n.suspended = map[group.Key]int{}
	}
	n.suspended[key]++
	n.suspends++
	return nil
}

func (n *node) Resume(ctx context.Context, key group.Key) error {
	defer n.mu.Unlock()
	if err := n.begin(ctx); err != nil {
		return err
	}
	n.suspended[key] = 0
	return nil
}

func (n *node) Refresh(ctx context.Context) error {
	defer n.mu.Unlock()
	if err := n.begin(ctx); err != nil {
		return err
	}
	n.refreshed++
	return nil
}

func (n *node) Requeued(ctx context.Context, key group.Key) error {
	defer n.mu.Unlock()
	if err := n.begin(ctx); err != nil {
		return err
	}
	n.requeued = append(n.requeued, key)
	return nil
}

func (n hubNode) Requeued(_ context.Context, key group.Key) error {
	n.Hub.Requeued(key)
	return nil
}

// isSuspended reports whether the group is suspended here.
func (n *node) isSuspended(key group.Key) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.suspended[key] > 0
}

// peersOf makes the other gateways gw2, gw3 ...
func peersOf(nodes ...*node) func() []peer.Member {
	var list []peer.Member
	for i, n := range nodes {
		list = append(list, peer.Member{ID: fmt.Sprintf("gw%d", i+2), Node: n})
	}
	return func() []peer.Member { return list }
}

// forgotten notes which topics were to be forgotten.
type forgotten struct {
	mu   sync.Mutex
	list []meta.Topic
}

func (f *forgotten) Forget(t meta.Topic) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = append(f.list, t)
}

type unseen struct{}

func (unseen) Observe(*http.Request, string, int, int64, time.Duration) {}

// logBuffer is a log that may be read while it is written.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// serve is one request by itself.
func serve(h http.Handler, r *http.Request) reply {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return reply{w, r.Method + " " + r.URL.Path}
}

func handler(h httpx.Handler) http.Handler {
	return httpx.Wrap("x", h, slog.New(slog.DiscardHandler), unseen{})
}
