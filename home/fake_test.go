package home

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/internal/httpx"
	"github.com/kateway/kateway/registry"
	"github.com/kateway/kateway/store"
)

// fakeHub gives out sessions that do what the test says, and remembers what it was asked.
type fakeHub struct {
	mu      sync.Mutex
	keys    []group.Key
	here    map[group.Key]int // clients
	opened  []*fakeSession
	refuse  error
	calls   []request
	answer  func(ctx context.Context, verbs []group.Verb) []error
	evicted []group.Key
}

func (h *fakeHub) Open(_ context.Context, ask group.Ask) (group.Session, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.refuse != nil {
		return nil, h.refuse
	}
	s := &fakeSession{ask: ask, come: make(chan batchOr, 100), closed: make(chan struct{})}
	h.opened = append(h.opened, s)
	return s, nil
}

func (h *fakeHub) Settle(ctx context.Context, key group.Key, verbs ...group.Verb) []error {
	h.note(request{key: key, op: opSettle, verbs: verbs})
	if h.answer != nil {
		return h.answer(ctx, verbs)
	}
	return make([]error, len(verbs))
}

func (h *fakeHub) Through(_ context.Context, key group.Key, at ...store.Position) []error {
	h.note(request{key: key, op: opThrough, through: at})
	return make([]error, len(at))
}

func (h *fakeHub) Mark(_ context.Context, key group.Key, at ...group.At) []error {
	h.note(request{key: key, op: opMark, marks: at})
	return make([]error, len(at))
}

func (h *fakeHub) has(keys ...group.Key) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.keys = keys
}

func (h *fakeHub) clients(key group.Key, n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.here[key] = n
}

func (h *fakeHub) refuses(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.refuse = err
}

func (h *fakeHub) note(q request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls = append(h.calls, q)
}

func (h *fakeHub) asked() []request {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.calls)
}

func (h *fakeHub) Receipts(key group.Key) *group.Receipts { return group.NewReceipts(secret, key) }

func (h *fakeHub) Info(key group.Key) (group.Info, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n, here := h.here[key]
	return group.Info{Clients: n}, here
}

func (h *fakeHub) Keys() []group.Key {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.keys)
}

func (h *fakeHub) Evict(key group.Key) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.evicted = append(h.evicted, key)
}

func (h *fakeHub) evictions() []group.Key {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.evicted)
}

// sessions are those that are open.
func (h *fakeHub) sessions() (open []*fakeSession) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.opened {
		select {
		case <-s.closed:
		default:
			open = append(open, s)
		}
	}
	return open
}

// last is the session that was opened last, open or not.
func (h *fakeHub) last(t *testing.T) *fakeSession {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.opened) == 0 {
		t.Fatal("nothing was opened")
	}
	return h.opened[len(h.opened)-1]
}

type batchOr struct {
	group.Batch
	err error
}

// fakeSession answers what is sent into come, however much was asked for.
type fakeSession struct {
	ask    group.Ask
	come   chan batchOr
	closed chan struct{}
	once   sync.Once

	mu      sync.Mutex
	wanted  []int
	settled []group.Verb
	fenced  error
	held    []group.Ref
}

func (s *fakeSession) Held() []group.Ref { return s.held }

func (s *fakeSession) Next(ctx context.Context, most int) (group.Batch, error) {
	s.mu.Lock()
	s.wanted = append(s.wanted, most)
	s.mu.Unlock()
	select {
	case b := <-s.come:
		return b.Batch, b.err
	case <-ctx.Done():
		return group.Batch{}, ctx.Err()
	}
}

func (s *fakeSession) Settle(verbs ...group.Verb) []error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settled = append(s.settled, verbs...)
	return fill(make([]error, len(verbs)), s.fenced)
}

func (s *fakeSession) Close() { s.once.Do(func() { close(s.closed) }) }

func (s *fakeSession) verbs() []group.Verb {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.settled)
}

func (s *fakeSession) asks() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.wanted)
}

// delivered makes deliveries of partition 0 with these offsets.
func delivered(offsets ...int64) (b group.Batch) {
	for _, o := range offsets {
		b.Deliveries = append(b.Deliveries, group.Delivery{
			Message: &store.Message{Value: []byte{byte(o)}, Offset: o}, Ref: group.Ref{Offset: o, Attempt: 1, Hold: 1},
		})
	}
	return b
}

func offsets(list []group.Delivery) (out []int64) {
	for _, d := range list {
		out = append(out, d.Ref.Offset)
	}
	return out
}

// returned are the offsets of verbs that give messages back.
func returned(verbs []group.Verb, op group.Op) (out []int64) {
	for _, v := range verbs {
		if v.Op == op {
			out = append(out, v.Offset)
		}
	}
	return out
}

// network is connections between routers that need no network, so that time can be that of a test.
type network struct {
	mu      sync.Mutex
	routers map[string]http.Handler
	open    map[*pipes]string
	down    map[string]bool          // connections are refused
	frozen  map[string]chan struct{} // nothing passes until it is closed
	dials   int
}

func newNet() *network {
	return &network{routers: map[string]http.Handler{}, open: map[*pipes]string{}, down: map[string]bool{}, frozen: map[string]chan struct{}{}}
}

func (n *network) Reach(id string) (http.RoundTripper, url.URL, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	_, ok := n.routers[id]
	return trip{n, id}, url.URL{Scheme: "http", Host: "x"}, ok
}

// dialed is how many requests were made.
func (n *network) dialed() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dials
}

// links is how many requests are open.
func (n *network) links() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.open)
}

// cut ends the connections to a gateway, and refuses new ones.
func (n *network) cut(id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.down[id] = true
	for p, of := range n.open {
		if of == id {
			p.end(io.ErrUnexpectedEOF)
		}
	}
}

func (n *network) heal(id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.down[id] = false
	if c := n.frozen[id]; c != nil {
		close(c)
		n.frozen[id] = nil
	}
}

// freeze lets nothing pass to or from a gateway.
func (n *network) freeze(id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.frozen[id] = make(chan struct{})
}

func (n *network) pass(ctx context.Context, id string) {
	n.mu.Lock()
	c := n.frozen[id]
	n.mu.Unlock()
	if c != nil {
		select {
		case <-c:
		case <-ctx.Done():
		}
	}
}

type trip struct {
	n  *network
	id string
}

// RoundTrip calls the other side's handler.
func (t trip) RoundTrip(req *http.Request) (*http.Response, error) {
	t.n.mu.Lock()
	t.n.dials++
	h, down := t.n.routers[t.id], t.n.down[t.id]
	t.n.mu.Unlock()
	if down {
		_ = req.Body.Close()
		return nil, errors.New("connection refused")
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(req.Context()))
	p := &pipes{n: t.n, id: t.id, ctx: ctx, cancel: cancel, header: http.Header{}, answered: make(chan int, 1), request: req.Body}
	p.read, p.write = io.Pipe()
	t.n.mu.Lock()
	t.n.open[p] = t.id
	t.n.mu.Unlock()
	r := req.Clone(ctx)
	r.ProtoMajor, r.Body = 2, body{p}
	go func() {
		defer p.end(io.EOF)
		defer func() { _ = recover() }()
		t.n.pass(req.Context(), t.id)
		h.ServeHTTP(p, r)
	}()
	select {
	case status := <-p.answered:
		return &http.Response{StatusCode: status, Header: p.header, Body: p}, nil
	case <-req.Context().Done():
		p.end(context.Canceled)
		return nil, req.Context().Err()
	}
}

// pipes is one request with both its bodies open: the ResponseWriter of one side, the body of the other.
type pipes struct {
	n        *network
	id       string
	ctx      context.Context
	cancel   context.CancelFunc
	header   http.Header
	answered chan int
	request  io.ReadCloser
	read     *io.PipeReader
	write    *io.PipeWriter
	once     sync.Once
}

func (p *pipes) end(err error) {
	_ = p.write.CloseWithError(err)
	p.cancel()
	_ = p.request.Close()
	go func() {
		p.n.mu.Lock()
		defer p.n.mu.Unlock()
		delete(p.n.open, p)
	}()
}

func (p *pipes) Header() http.Header { return p.header }

func (p *pipes) WriteHeader(status int) { p.once.Do(func() { p.answered <- status }) }

func (p *pipes) Write(b []byte) (int, error) {
	p.WriteHeader(http.StatusOK)
	p.n.pass(p.ctx, p.id)
	return p.write.Write(b)
}

func (p *pipes) Flush() {}

func (p *pipes) SetReadDeadline(time.Time) error { return p.request.Close() }

func (p *pipes) SetWriteDeadline(time.Time) error { return p.write.CloseWithError(io.ErrClosedPipe) }

func (p *pipes) Read(b []byte) (int, error) { return p.read.Read(b) }

func (p *pipes) Close() error {
	_ = p.read.Close()
	p.end(io.ErrClosedPipe)
	return nil
}

// body is the request's, as the handler reads it. It ends when the request was cut, and not as if it were complete.
type body struct{ p *pipes }

func (b body) Read(buf []byte) (int, error) {
	n, err := b.p.request.Read(buf)
	b.p.n.pass(b.p.ctx, b.p.id)
	if err == io.EOF && b.p.ctx.Err() != nil {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func (b body) Close() error { return nil }

// fakeGateway is a router over a fake hub.
type fakeGateway struct {
	*Router
	hub *fakeHub
}

// fakes makes routers gw1, gw2, ... that know each other. They end with the test.
func fakes(t *testing.T, n int, tune ...func(*Config)) (*network, []*fakeGateway) {
	t.Helper()
	joined := newNet()
	var list []*fakeGateway
	var all []registry.Instance
	for i := range n {
		id := "gw" + string(rune('1'+i))
		g := &fakeGateway{hub: &fakeHub{here: map[group.Key]int{}}}
		cfg := Config{Self: id, Hub: g.hub, Peers: joined, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()}
		for _, f := range tune {
			f(&cfg)
		}
		g.Router = New(cfg)
		joined.routers[id] = httpx.Wrap("link", g.Routes()[0].Handler, slog.New(slog.DiscardHandler), nobody{})
		list = append(list, g)
		all = append(all, live(id))
	}
	for _, g := range list {
		g.Update(all)
	}
	t.Cleanup(func() {
		for _, g := range list {
			if err := g.Close(context.Background()); err != nil {
				t.Error(err)
			}
		}
	})
	return joined, list
}

func live(id string) registry.Instance { return registry.Instance{ID: id, Sub: "a:1", Peer: "a:2"} }

// keyOf is a group whose home is the gateway.
func keyOf(r *Router, home string) group.Key {
	for i := range 10_000 {
		if key := (group.Key{Topic: "t", Group: "g" + string(rune('a'+i%26)) + string(rune('a'+i/26))}); r.Home(key) == home {
			return key
		}
	}
	panic("no group found")
}
