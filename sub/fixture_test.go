package sub

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/julienschmidt/httprouter"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/kateway/kateway/broadcast"
	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/home"
	"github.com/kateway/kateway/internal/httpx"
	"github.com/kateway/kateway/internal/online"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/plugins"
	"github.com/kateway/kateway/store"
	"github.com/kateway/kateway/store/mem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	topicPath  = "/v1/msgs/shop/orders/v1"
	feedPath   = "/v1/stream/shop/orders/v1"
	socketPath = "/v1/ws/msgs/shop/orders/v1"
	topicName  = "shop.orders.v1"
)

// quiet observes nothing.
type quiet struct{}

func (quiet) Observe(*http.Request, string, int, int64, time.Duration) {}

// world is a gateway's subscribe side on a store in memory.
type world struct {
	t       testing.TB
	store   *mem.Store
	hub     *group.Hub
	readers *broadcast.Hub
	metrics *prometheus.Registry
	plugins []plugins.Plugin // for the next start
	sub     *Handler
	mux     http.Handler
}

// newWorld has a topic of so many partitions.
func newWorld(tb testing.TB, partitions int32) *world {
	tb.Helper()
	w := &world{t: tb, store: mem.New()}
	if err := w.store.CreateTopic(tb.Context(), store.Topic{Name: topicName, Partitions: partitions}); err != nil {
		tb.Fatal(err)
	}
	w.start()
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := errors.Join(w.hub.Close(ctx), w.readers.Close(ctx), w.sub.Close(ctx)); err != nil {
			tb.Error(err)
		}
		if err := w.store.Close(ctx); err != nil {
			tb.Error(err)
		}
	})
	return w
}

// start makes hub and handler anew, on the store as it is.
func (w *world) start() {
	log := slog.New(slog.NewTextHandler(w.t.Output(), &slog.HandlerOptions{Level: slog.LevelError}))
	w.metrics = prometheus.NewRegistry()
	w.hub = group.NewHub(group.Config{Store: w.store, Secret: func() []byte { return []byte("0123456789abcdef") }, Log: log, Metrics: w.metrics})
	w.readers = broadcast.NewHub(broadcast.Config{Store: w.store, Log: log, Metrics: w.metrics})
	w.sub = New(Config{Groups: w.hub, Readers: w.readers, Topics: meta.NewOpen(w.store, store.Topic{Partitions: 1}), Queue: w.makeQueue, Merge: merge, Gate: plugins.NewGate(w.plugins), Log: log, Metrics: w.metrics})
	w.mux = muxOf(w.sub, log)
}

func merge(sessions ...group.Session) Flow { return home.Merge(true, sessions...) }

func (w *world) makeQueue(ctx context.Context, topic string) error {
	return w.store.CreateTopic(ctx, store.Topic{Name: topic, Partitions: 1})
}

func muxOf(h *Handler, log *slog.Logger) http.Handler {
	mux := httprouter.New()
	shell := &httpx.Shell{Log: log, Seen: quiet{}}
	for _, r := range h.Routes() {
		mux.Handle(r.Method, r.Path, shell.Wrap(r.Path, r.Handler).Serve)
	}
	return mux
}

// publish stores values, one message each, on partition 0.
func (w *world) publish(values ...string) {
	w.t.Helper()
	msgs := make([]*store.Message, len(values))
	for i, v := range values {
		msgs[i] = &store.Message{Value: []byte(v)}
	}
	w.publishMessages(msgs...)
}

func (w *world) publishMessages(msgs ...*store.Message) {
	w.t.Helper()
	if err := w.store.Publish(w.t.Context(), topicName, store.AckAll, msgs...); err != nil {
		w.t.Fatal(err)
	}
}

// committed is what the group has done on partition 0, in the store's eyes, with all acks given so far.
func (w *world) committed(name string) int64 {
	w.t.Helper()
	lag, err := w.store.Lag(w.t.Context(), topicName, meta.Group{Subscriber: "default", Name: name, Topic: meta.Topic{App: "shop", Name: "orders", Ver: "v1"}}.Store())
	if err != nil {
		w.t.Fatal(err)
	}
	return lag[0].Committed
}

// client speaks HTTP with a handler over a real socket.
type client struct {
	t      testing.TB
	base   string
	http   *http.Client
	online *online.Tracker
}

// serve starts a server; h2 lets the client speak HTTP/2 in clear text.
func serve(tb testing.TB, h http.Handler, h2 bool) *client {
	tb.Helper()
	srv := httptest.NewUnstartedServer(h)
	var both, one http.Protocols
	both.SetHTTP1(true)
	both.SetUnencryptedHTTP2(true)
	one.SetHTTP1(!h2)
	one.SetUnencryptedHTTP2(h2)
	srv.Config.Protocols = &both
	tracker := online.NewTracker()
	srv.Config.ConnContext = tracker.ConnContext
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	srv.Start()
	tr := &http.Transport{Protocols: &one, DisableCompression: true}
	tb.Cleanup(func() { tr.CloseIdleConnections(); srv.Close() })
	return &client{t: tb, base: srv.URL, http: &http.Client{Transport: tr}, online: tracker}
}

// do sends a request; header lines are "Name: value".
func (c *client) do(ctx context.Context, method, path, body string, header ...string) *http.Response {
	c.t.Helper()
	r, err := http.NewRequestWithContext(ctx, method, c.base+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	for _, line := range header {
		name, value, _ := strings.Cut(line, ": ")
		r.Header.Add(name, value)
	}
	res, err := c.http.Do(r)
	if err != nil {
		c.t.Fatal(err)
	}
	return res
}

// reply is a whole answer.
type reply struct {
	*http.Response
	body string
}

func (c *client) whole(method, path, body string, header ...string) reply {
	c.t.Helper()
	res := c.do(c.t.Context(), method, path, body, header...)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return reply{res, string(b)}
}

func (c *client) get(path string, header ...string) reply {
	c.t.Helper()
	return c.whole(http.MethodGet, path, "", header...)
}

func (c *client) put(path, body string, header ...string) reply {
	c.t.Helper()
	return c.whole(http.MethodPut, path, body, header...)
}

// later sends a GET and gives the answer when it is there; without Response where there was none.
func (c *client) later(path string) <-chan reply {
	answer := make(chan reply, 1)
	go func() {
		r, err := http.NewRequestWithContext(c.t.Context(), http.MethodGet, c.base+path, nil)
		if err != nil {
			answer <- reply{&http.Response{}, err.Error()}
			return
		}
		res, err := c.http.Do(r)
		if err != nil {
			answer <- reply{&http.Response{}, err.Error()}
			return
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			res.StatusCode = 0
		}
		answer <- reply{res, string(b)}
	}()
	return answer
}

// pass lets fake time pass.
func pass(d time.Duration) { <-time.After(d) }

// want fails the test unless the answer has the status.
func (r reply) want(tb testing.TB, status int) reply {
	tb.Helper()
	if r.StatusCode != status {
		tb.Fatalf("%s %s: status %d, want %d: %s", r.Request.Method, r.Request.URL, r.StatusCode, status, r.body)
	}
	return r
}

// problem checks that the answer is a problem of this code, and answers its detail.
func (r reply) problem(tb testing.TB, status int, code string) string {
	tb.Helper()
	r.want(tb, status)
	var p httpx.Problem
	if err := json.Unmarshal([]byte(r.body), &p); err != nil {
		tb.Fatalf("%s: %v", r.body, err)
	}
	if p.Code != code || p.Status != status || r.Header.Get("Content-Type") != "application/problem+json" {
		tb.Errorf("%s: %+v (%s), want code %s", r.Request.URL, p, r.Header.Get("Content-Type"), code)
	}
	return p.Detail
}

// streaming is a stream that is read line by line.
type streaming struct {
	t     testing.TB
	res   *http.Response
	lines *bufio.Reader
	leave context.CancelFunc
}

func (c *client) stream(path string, header ...string) *streaming {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.t.Context())
	res := c.do(ctx, http.MethodGet, path, "", header...)
	if res.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(res.Body)
		cancel()
		c.t.Fatalf("%s: status %d: %s", path, res.StatusCode, b)
	}
	s := &streaming{t: c.t, res: res, lines: bufio.NewReader(res.Body), leave: cancel}
	c.t.Cleanup(s.close)
	return s
}

func (s *streaming) close() {
	s.leave()
	_ = s.res.Body.Close()
}

// line reads one line without its end.
func (s *streaming) line() string {
	s.t.Helper()
	line, err := s.lines.ReadString('\n')
	if err != nil {
		s.t.Fatalf("reading the stream: %v (after %q)", err, line)
	}
	return line[:len(line)-1]
}

// pipes is a listener without sockets, for tests on fake time.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), done: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { close(p.done); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

func (p *pipes) dial(context.Context, string, string) (net.Conn, error) {
	here, there := net.Pipe()
	p.conns <- there
	return here, nil
}

// servePipes is serve in a bubble of fake time; the test calls stop before the bubble ends.
func servePipes(tb testing.TB, h http.Handler) (c *client, stop func()) {
	tb.Helper()
	l := newPipes()
	tracker := online.NewTracker()
	srv := &http.Server{Handler: h, ConnContext: tracker.ConnContext, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	served := make(chan struct{})
	go func() { defer close(served); _ = srv.Serve(l) }()
	tr := &http.Transport{DialContext: l.dial, DisableCompression: true}
	return &client{t: tb, base: "http://gateway", http: &http.Client{Transport: tr}, online: tracker}, func() {
		tr.CloseIdleConnections()
		_ = srv.Close()
		<-served
	}
}

// awaitCommit waits until the store has the group's position on partition 0.
func awaitCommit(tb testing.TB, w *world, name string, next int64) {
	tb.Helper()
	for w.committed(name) != next {
		if tb.Context().Err() != nil {
			tb.Fatalf("the position of %s never became %d", name, next)
		}
		runtime.Gosched() // the store has no way to tell
	}
}

// forgetGroups lets all groups leave, and serves from a new hub.
func forgetGroups(tb testing.TB, w *world) {
	tb.Helper()
	if err := errors.Join(w.hub.Close(tb.Context()), w.readers.Close(tb.Context()), w.sub.Close(tb.Context())); err != nil {
		tb.Fatal(err)
	}
	w.start()
}

// metric is the value of a series, as name{label="value"}.
func metric(tb testing.TB, from prometheus.Gatherer, series string) float64 {
	tb.Helper()
	families, err := from.Gather()
	if err != nil {
		tb.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+strconv.Quote(l.GetValue()))
			}
			name := f.GetName()
			if len(labels) > 0 {
				name += "{" + strings.Join(labels, ",") + "}"
			}
			if name == series {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	tb.Fatalf("there is no series %s", series)
	return 0
}

// awaitMetric waits until a series has the value.
func awaitMetric(tb testing.TB, w *world, series string, want float64) {
	tb.Helper()
	for metric(tb, w.metrics, series) != want {
		if tb.Context().Err() != nil {
			tb.Fatalf("%s never became %v", series, want)
		}
		runtime.Gosched()
	}
}
