package pub

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/julienschmidt/httprouter"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/kateway/kateway/internal/httpx"
	"github.com/kateway/kateway/internal/online"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/store"
	"github.com/kateway/kateway/store/mem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const partitions = 3

// gateway is a Handler behind a real server, over a store in memory.
type gateway struct {
	*httptest.Server
	handler *Handler
	store   *mem.Store
	metrics *prometheus.Registry
	log     *bytes.Buffer
	online  *online.Tracker
}

type ignore struct{}

func (ignore) Observe(*http.Request, string, int, int64, time.Duration) {}

// newGateway starts one; change, if not nil, may alter what it stands on.
func newGateway(t testing.TB, change func(*Config)) *gateway {
	t.Helper()
	g := &gateway{store: mem.New(), metrics: prometheus.NewRegistry(), log: new(bytes.Buffer), online: online.NewTracker()}
	c := Config{Store: g.store, Topics: meta.NewOpen(g.store, store.Topic{Partitions: partitions}),
		Log: slog.New(slog.NewTextHandler(g.log, nil)), Metrics: g.metrics}
	if change != nil {
		change(&c)
	}
	g.handler = New(c)
	router := httprouter.New()
	for _, r := range g.handler.Routes() {
		router.Handler(r.Method, r.Path, httpx.Wrap(r.Path, r.Handler, slog.New(slog.DiscardHandler), ignore{}))
	}
	g.Server = httptest.NewUnstartedServer(router)
	g.Config.ConnContext = g.online.ConnContext
	g.Start()
	t.Cleanup(func() {
		g.Close()
		if err := g.handler.Close(context.Background()); err != nil {
			t.Error(err)
		}
		if err := g.store.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return g
}

// answered is an answer, read to its end.
type answered struct {
	status int
	header http.Header
	body   string
}

// code is the code of a problem, "" of another answer.
func (a answered) code() string {
	var p httpx.Problem
	_ = json.Unmarshal([]byte(a.body), &p)
	return p.Code
}

// post publishes. Each head is "Name: value"; a body that is no string is sent chunked.
func (g *gateway) post(t testing.TB, path string, body io.Reader, head ...string) answered {
	t.Helper()
	a, err := g.try(context.Background(), path, body, head...)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (g *gateway) try(ctx context.Context, path string, body io.Reader, head ...string) (answered, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, g.URL+path, body)
	if err != nil {
		return answered{}, err
	}
	for _, h := range head {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Add(name, value)
	}
	res, err := g.Client().Do(req)
	if err != nil {
		return answered{}, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return answered{res.StatusCode, res.Header, string(b)}, err
}

// chunked hides the length of a body from the client.
func chunked(s string) io.Reader { return io.MultiReader(strings.NewReader(s)) }

// stored is all of a topic, by partition and offset; nothing where there is no such topic.
func (g *gateway) stored(t testing.TB, topic string) (out []*store.Message) {
	t.Helper()
	for p := range int32(partitions) {
		for m, err := range g.store.Browse(context.Background(), topic, p, 0) {
			if err != nil {
				return nil
			}
			out = append(out, m)
		}
	}
	slices.SortStableFunc(out, func(a, b *store.Message) int {
		return cmp.Or(cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.Offset, b.Offset))
	})
	return out
}

// series is what the metrics say, by name{label=value ...}; of a histogram the count.
func (g *gateway) series(t testing.TB) map[string]float64 {
	t.Helper()
	families, err := g.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			out[f.GetName()+"{"+strings.Join(labels, " ")+"}"] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return out
}

// show makes a message readable: key|headers|value, nil as ~.
func show(m *store.Message) string {
	var b strings.Builder
	if m.Key != nil {
		fmt.Fprintf(&b, "%s", m.Key)
	} else {
		b.WriteByte('~')
	}
	b.WriteByte('|')
	for i, h := range m.Headers {
		if i > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%s=%s", h.Key, h.Value)
	}
	b.WriteByte('|')
	if m.Value != nil {
		fmt.Fprintf(&b, "%s", m.Value)
	} else {
		b.WriteByte('~')
	}
	return b.String()
}

func shows(msgs []*store.Message) (out []string) {
	for _, m := range msgs {
		out = append(out, show(m))
	}
	return out
}

func TestSingle(t *testing.T) {
	for _, c := range []struct {
		name, query, body string
		head              []string
		want              string
	}{
		{"plain", "", "hello", nil, "~||hello"},
		{"empty is no tombstone", "", "", nil, "~||"},
		{"any bytes", "", "\x00\xff\r\n", nil, "~||\x00\xff\r\n"},
		{"key", "?key=k%201", "v", nil, "k 1||v"},
		{"empty key", "?key=", "v", nil, "~||v"},
		{"binary key", "?key=%00%ff%0a", "v", nil, "\x00\xff\n||v"},
		{"all parameters", "?key=k&partition=1&ack=local&hh=n&async=0", "v", nil, "k||v"},
		{"content type", "", "v", []string{"Content-Type: text/plain; charset=utf-8"}, "~|content-type=text/plain; charset=utf-8|v"},
		{"curl's content type", "", "v", []string{"Content-Type: application/x-www-form-urlencoded"}, "~||v"},
		{"tags", "", "v", []string{"X-Tag: a;b"}, "~|tags=a;b|v"},
		{"headers", "", "v", []string{"X-Msg-B: 2", "X-Msg-a: 1", "ce-id: 7", "traceparent: 00", "tracestate: x=y"}, "~|a=1 b=2 ce_id=7 traceparent=00 tracestate=x=y|v"},
		{"app", "", "v", []string{"Appid: default"}, "~||v"},
	} {
		for _, framing := range []string{"length", "chunked"} {
			t.Run(c.name+"/"+framing, func(t *testing.T) {
				g := newGateway(t, nil)
				body := io.Reader(strings.NewReader(c.body))
				if framing == "chunked" {
					body = chunked(c.body)
				}
				a := g.post(t, "/v1/msgs/t/v1"+c.query, body, c.head...)
				got := g.stored(t, "default.t.v1")
				if a.status != 201 || len(got) != 1 || show(got[0]) != c.want {
					t.Fatalf("%d %s, stored %q, want %q", a.status, a.body, shows(got), c.want)
				}
				want := fmt.Sprintf(`{"partition":%d,"offset":%d}`+"\n", got[0].Partition, got[0].Offset)
				if a.body != want || a.header.Get("Content-Type") != "application/json" ||
					a.header.Get("X-Partition") != fmt.Sprint(got[0].Partition) || a.header.Get("X-Offset") != "0" {
					t.Errorf("answer %q %v", a.body, a.header)
				}
				if strings.Contains(c.query, "partition=1") && got[0].Partition != 1 {
					t.Errorf("in partition %d", got[0].Partition)
				}
			})
		}
	}
}

func TestTopicBelongsToTheApp(t *testing.T) {
	g := newGateway(t, nil)
	if a := g.post(t, "/v1/msgs/t/v1", strings.NewReader("v"), "Appid: shop"); a.status != 201 {
		t.Fatal(a)
	}
	if len(g.stored(t, "shop.t.v1")) != 1 || len(g.stored(t, "default.t.v1")) != 0 {
		t.Error("not in the app's own topic")
	}
}

func TestBadHeadIsRefused(t *testing.T) {
	long := strings.Repeat("x", 200)
	for _, c := range []struct {
		path string
		head []string
		code string
		text string
	}{
		{"/v1/msgs/a.b/v1", nil, "invalid_name", "must match"},
		{"/v1/msgs/%2e%2e/v1", nil, "invalid_name", "must match"},
		{"/v1/msgs/%252e/v1", nil, "invalid_name", "must match"},
		{"/v1/msgs/a%00b/v1", nil, "invalid_name", "must match"},
		{"/v1/msgs/a%20b/v1", nil, "invalid_name", "must match"},
		{"/v1/msgs/t%0a/v1", nil, "invalid_name", "must match"},
		{"/v1/msgs/t\u00e4/v1", nil, "invalid_name", "must match"},
		{"/v1/msgs/\uff54/v1", nil, "invalid_name", "must match"},
		{"/v1/msgs/" + long + "/v1", nil, "invalid_name", "must match"},
		{"/v1/msgs/t/v_1", nil, "invalid_name", "must match"},
		{"/v1/msgs/t/12345678901234567", nil, "invalid_name", "must match"},
		{"/v1/msgs/t/v1", []string{"Appid: a_b"}, "invalid_name", "must match"},
		{"/v1/msgs/t/v1", []string{"Appid: ../x"}, "invalid_name", "must match"},
		{"/v1/msgs/t/v1", []string{"Appid: a", "Appid: a"}, "invalid_param", "given 2 times"},
		{"/v1/msgs/a.b/v1?nonsense=1", nil, "invalid_name", "must match"},
		{"/v1/msgs/t/v1?nonsense=1", nil, "invalid_param", `unknown parameter "nonsense"`},
		{"/v1/msgs/t/v1?key=a&key=a", nil, "invalid_param", "given 2 times"},
		{"/v1/msgs/t/v1?key=a&k%65y=b", nil, "invalid_param", "given 2 times"},
		{"/v1/msgs/t/v1?batch=lines&batch=lines", nil, "invalid_param", "given 2 times"},
		{"/v1/msgs/t/v1?key=%zz", nil, "invalid_param", "query"},
		{"/v1/msgs/t/v1?a;b", nil, "invalid_param", "query"},
		{"/v1/msgs/t/v1?partition=-1", nil, "invalid_param", "partition"},
		{"/v1/msgs/t/v1?partition=1.0", nil, "invalid_param", "partition"},
		{"/v1/msgs/t/v1?partition=2147483648", nil, "invalid_param", "partition"},
		{"/v1/msgs/t/v1?partition=", nil, "invalid_param", "partition"},
		{"/v1/msgs/t/v1?partition=3", nil, "invalid_param", "partition"},
		{"/v1/msgs/t/v1?ack=1", nil, "invalid_param", "ack"},
		{"/v1/msgs/t/v1?async=yes", nil, "invalid_param", "async"},
		{"/v1/msgs/t/v1?hh=y", nil, "invalid_param", "hh"},
		{"/v1/msgs/t/v1?batch=xml", nil, "unsupported_encoding", "array, lines, frames and objects"},
		{"/v1/msgs/t/v1?batch=", nil, "unsupported_encoding", "array, lines, frames and objects"},
		{"/v1/msgs/t/v1", []string{"Content-Encoding: br"}, "unsupported_encoding", "gzip and zstd"},
		{"/v1/msgs/t/v1", []string{"Content-Encoding: deflate"}, "unsupported_encoding", "gzip and zstd"},
		{"/v1/msgs/t/v1", []string{"Content-Encoding: gzip, gzip"}, "unsupported_encoding", "one of them"},
		{"/v1/msgs/t/v1", []string{"Content-Encoding: gzip", "Content-Encoding: gzip"}, "invalid_param", "given 2 times"},
		{"/v1/msgs/t/v1", []string{"Content-Type: a/b", "Content-Type: a/b"}, "invalid_param", "given 2 times"},
		{"/v1/msgs/t/v1", []string{"X-Tag: a", "X-Tag: b"}, "invalid_param", "given 2 times"},
		{"/v1/msgs/t/v1", []string{"X-Msg-A: a", "X-Msg-A: b"}, "invalid_param", "given 2 times"},
		{"/v1/msgs/t/v1", []string{"X-Msg-Tags: a"}, "invalid_param", "reserved"},
		{"/v1/msgs/t/v1", []string{"Idempotency-Key: "}, "invalid_param", "1 to 128"},
		{"/v1/msgs/t/v1", []string{"Idempotency-Key: a b"}, "invalid_param", "visible"},
		{"/v1/msgs/t/v1", []string{"Idempotency-Key: \u00e4"}, "invalid_param", "visible"},
		{"/v1/msgs/t/v1", []string{"Idempotency-Key: " + long}, "invalid_param", "1 to 128"},
		{"/v1/msgs/t/v1", []string{"Idempotency-Key: a", "Idempotency-Key: a"}, "invalid_param", "given 2 times"},
		{"/v1/msgs/t/v1?async=1", []string{"Idempotency-Key: a"}, "invalid_param", "async=1"},
		{"/v1/msgs/t/v1?key=" + url.QueryEscape(strings.Repeat("\x00", 4097)), nil, "too_large", "4096 at most"},
	} {
		t.Run(fmt.Sprintf("%.60s %.40s", c.path, c.head), func(t *testing.T) {
			g := newGateway(t, nil)
			a := g.post(t, c.path, strings.NewReader("v"), c.head...)
			if a.code() != c.code || !strings.Contains(a.body, strings.ReplaceAll(c.text, `"`, `\"`)) {
				t.Errorf("%d %s, want %s with %q", a.status, a.body, c.code, c.text)
			}
			if a.header.Get("Content-Type") != "application/problem+json" {
				t.Errorf("Content-Type %q", a.header.Get("Content-Type"))
			}
			if n := len(g.stored(t, "default.t.v1")); n > 0 {
				t.Errorf("%d messages stored", n)
			}
		})
	}
}

// A slash in a name makes it another path, and that has no route.
func TestSlashInANameIsNoRoute(t *testing.T) {
	g := newGateway(t, nil)
	for _, path := range []string{"/v1/msgs/a%2fb/v1", "/v1/msgs/../t/v1", "/v1/msgs//v1", "/v1/msgs/t/"} {
		if a := g.post(t, path, strings.NewReader("v")); a.status < 300 {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
}

func TestUnsupportedEncodingNamesTheSupported(t *testing.T) {
	a := newGateway(t, nil).post(t, "/v1/msgs/t/v1", strings.NewReader("v"), "Content-Encoding: br")
	if a.status != 415 || a.header.Get("Accept-Encoding") != "gzip, zstd" {
		t.Errorf("%d, Accept-Encoding %q", a.status, a.header.Get("Accept-Encoding"))
	}
}

func TestSizesAtTheirEdge(t *testing.T) {
	limits := Limits{Message: 1 << 20, Batch: 2 << 20, Messages: 100, Key: 4096}
	g := newGateway(t, func(c *Config) { c.Limits = limits })
	x := func(n int) string { return strings.Repeat("x", n) }
	for _, c := range []struct {
		name, query, body string
		status            int
	}{
		{"body 0", "", "", 201},
		{"body 1", "", "x", 201},
		{"body max-1", "", x(1<<20 - 1), 201},
		{"body max", "", x(1 << 20), 201},
		{"body max+1", "", x(1<<20 + 1), 413},
		{"body 10*max", "", x(10 << 20), 413},
		{"key max", "?key=" + x(4096), "v", 201},
		{"key max+1", "?key=" + x(4097), "v", 413},
		{"batch max", "?batch=lines", x(1<<20-1) + "\n" + x(1<<20-1) + "\n", 201},
		{"batch max+1", "?batch=lines", x(1<<20-1) + "\n" + x(1<<20-1) + "\n\n", 413},
		{"batch line max", "?batch=lines", x(1<<20) + "\n", 201},
		{"batch line max+1", "?batch=lines", x(1<<20+1) + "\n", 413},
		{"batch frame max+1", "?batch=frames", "\x00\x10\x00\x01" + x(1<<20+1), 413},
		{"batch element max+1", "?batch=array", `["` + x(1<<20+1) + `"]`, 413},
		{"batch object max+1", "?batch=objects", `{"value":"` + x(1<<20+1) + `"}`, 413},
		{"batch object key max", "?batch=objects", `{"value":"","key":"` + x(4096) + `"}`, 201},
		{"batch object key max+1", "?batch=objects", `{"value":"","key":"` + x(4097) + `"}`, 413},
		{"batch object headers max", "?batch=objects", `{"value":"","headers":{"a":"` + x(32767) + `"}}`, 201},
		{"batch object headers max+1", "?batch=objects", `{"value":"","headers":{"a":"` + x(32768) + `"}}`, 413},
		{"batch 0", "?batch=lines", "", 400},
		{"batch 1", "?batch=lines", "x", 201},
		{"batch of max", "?batch=lines", strings.Repeat("x\n", 100), 201},
		{"batch of max+1", "?batch=lines", strings.Repeat("x\n", 101), 413},
		{"frames of max", "?batch=frames", strings.Repeat("\x00\x00\x00\x00", 100), 201},
		{"frames of max+1", "?batch=frames", strings.Repeat("\x00\x00\x00\x00", 101), 413},
		{"array of max+1", "?batch=array", "[" + strings.Repeat("1,", 100) + "1]", 413},
		{"objects of max+1", "?batch=objects", strings.Repeat(`{"value":1}`+"\n", 101), 413},
		{"a lot of empty lines", "?batch=lines", strings.Repeat("\n", 2<<20-1) + "x", 201},
	} {
		for _, framing := range []string{"length", "chunked"} {
			t.Run(c.name+"/"+framing, func(t *testing.T) {
				body := io.Reader(strings.NewReader(c.body))
				if framing == "chunked" {
					body = chunked(c.body)
				}
				before := len(g.stored(t, "default.t.v1"))
				a := g.post(t, "/v1/msgs/t/v1"+c.query, body)
				if a.status != c.status {
					t.Fatalf("%d %.200s, want %d", a.status, a.body, c.status)
				}
				if stored := len(g.stored(t, "default.t.v1")) - before; (stored > 0) != (c.status == 201) {
					t.Errorf("%d messages stored", stored)
				}
			})
		}
	}
}
