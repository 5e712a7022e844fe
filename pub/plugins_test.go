package pub

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/online"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/plugins"
)

// says is a plugin that takes whoever shows a Pubkey for the app of that name, and lets nobody else in.
type says struct{ seen chan plugins.Call }

func (says) Identifies() {}

func (s says) Wrap(next plugins.Handler) plugins.Handler {
	return func(ctx context.Context, c *plugins.Call) error {
		select {
		case s.seen <- *c:
		default:
		}
		if c.App = c.Header.Get("Pubkey"); c.App == "" {
			return errs.Unauthenticated
		}
		return next(ctx, c)
	}
}

func guarded(t testing.TB) (*gateway, says) {
	t.Helper()
	s := says{make(chan plugins.Call, 1)}
	return newGateway(t, func(c *Config) { c.Gate = plugins.NewGate([]plugins.Plugin{s}) }), s
}

func TestPluginsSeeThePublish(t *testing.T) {
	g, s := guarded(t)
	g.post(t, "/v1/msgs/t/v1?key=k", strings.NewReader("12345"), "Appid: claimed", "Pubkey: shop")
	c := <-s.seen
	if c.Op != plugins.Publish || c.App != "" || c.Owner != "" || c.Topic != "t" || c.Ver != "v1" || c.Size != 5 || c.Header.Get("Pubkey") != "shop" {
		t.Errorf("%+v", c)
	}
	if _, _, err := net.SplitHostPort(c.Remote); err != nil {
		t.Errorf("remote %q", c.Remote)
	}
	g.post(t, "/v1/msgs/t/v1", chunked("12345"), "Pubkey: shop")
	if c := <-s.seen; c.Size != -1 {
		t.Errorf("size of a chunked body: %d", c.Size)
	}
}

// The topic is that of the app that proved to be it, whatever Appid claims.
func TestTopicBelongsToWhoIsKnown(t *testing.T) {
	g, _ := guarded(t)
	for range 2 { // the second time the topic's counters are known
		if a := g.post(t, "/v1/msgs/t/v1", strings.NewReader("v"), "Appid: bill", "Pubkey: shop"); a.status != 201 {
			t.Fatal(a)
		}
	}
	if a := g.post(t, "/v1/msgs/t/v1?partition=99", strings.NewReader("v"), "Pubkey: shop"); a.code() != "invalid_param" {
		t.Fatal(a)
	}
	if len(g.stored(t, "shop.t.v1")) != 2 || len(g.stored(t, "bill.t.v1")) != 0 || len(g.stored(t, "default.t.v1")) != 0 {
		t.Error("not in the topic of the app that is known")
	}
	s := g.series(t)
	if s["kateway_publish_messages_total{topic=shop/t/v1}"] != 2 || s["kateway_publish_failures_total{code=invalid_param topic=shop/t/v1}"] != 1 {
		t.Errorf("%v", s)
	}
}

func TestRefusedPublish(t *testing.T) {
	g, _ := guarded(t)
	if a := g.post(t, "/v1/msgs/t/v1", strings.NewReader("v"), "Pubkey: shop"); a.status != 201 {
		t.Fatal(a)
	}
	for _, c := range []struct {
		path string
		head []string
		code string
	}{
		{"/v1/msgs/t/v1", nil, "unauthenticated"},
		{"/v1/msgs/t/v1", []string{"Appid: shop"}, "unauthenticated"},
		{"/v1/msgs/other/v1", []string{"Appid: shop"}, "unauthenticated"},
		{"/v1/msgs/t/v1?async=1", nil, "unauthenticated"},
		{"/v1/msgs/t/v1?nonsense=1", nil, "unauthenticated"}, // what is wrong is told to those who may
		{"/v1/msgs/t/v1", []string{"Content-Encoding: br"}, "unauthenticated"},
		{"/v1/msgs/t.t/v1", nil, "invalid_name"}, // but names come first
		{"/v1/msgs/t/v1", []string{"Appid: a_b"}, "invalid_name"},
		{"/v1/msgs/t/v1", []string{"Appid: a", "Appid: a"}, "invalid_param"},
	} {
		a := g.post(t, c.path, strings.NewReader("v"), c.head...)
		if a.code() != c.code || (a.header.Get("WWW-Authenticate") != "") != (a.status == 401) {
			t.Errorf("%s %v: %d %s, WWW-Authenticate %q", c.path, c.head, a.status, a.body, a.header.Get("WWW-Authenticate"))
		}
	}
	if n := len(g.stored(t, "shop.t.v1")); n != 1 {
		t.Errorf("%d messages are stored", n)
	}
	s := g.series(t)
	if s["kateway_publish_failures_total{code=unauthenticated topic=other}"] != 6 || s["kateway_publish_failures_total{code=unauthenticated topic=shop/t/v1}"] != 0 {
		t.Errorf("failures count for a topic whose owner did not call: %v", s)
	}
}

// The answer to a publish that is refused comes without a byte of its body, and is the last on its connection.
func TestBodyOfARefusedPublishIsNotRead(t *testing.T) {
	g, _ := guarded(t)
	for _, framing := range []string{"Content-Length: 1000", "Content-Length: 1000000000", "Transfer-Encoding: chunked", "Content-Length: 1000\r\nExpect: 100-continue"} {
		t.Run(framing, func(t *testing.T) {
			t.Parallel() // the connection stays for a second
			conn, err := net.Dial("tcp", g.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			fmt.Fprintf(conn, "POST /v1/msgs/t/v1 HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n", framing)
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			_, err = io.ReadAll(res.Body)
			if res.StatusCode != 401 || !res.Close || err != nil {
				t.Errorf("%s, closes %v, %v", res.Status, res.Close, err)
			}
			if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil {
				t.Errorf("the connection goes on: %d, %v", n, err)
			}
		})
	}
}

// Plugins that do not ask who calls leave that to Appid.
func TestPluginsWithoutIdentity(t *testing.T) {
	seen := make(chan string, 1)
	g := newGateway(t, func(c *Config) { c.Gate = plugins.NewGate([]plugins.Plugin{passing(seen)}) })
	for appid, want := range map[string]string{"": "default", "shop": "shop"} {
		var head []string
		if appid != "" {
			head = append(head, "Appid: "+appid)
		}
		if a := g.post(t, "/v1/msgs/t/v1", strings.NewReader("v"), head...); a.status != 201 {
			t.Fatal(a)
		}
		if app := <-seen; app != want || len(g.stored(t, want+".t.v1")) != 1 {
			t.Errorf("Appid %q: the plugin sees %q", appid, app)
		}
	}
}

// passing is a plugin that lets everybody through and tells of the app.
type passing chan string

func (p passing) Wrap(next plugins.Handler) plugins.Handler {
	return func(ctx context.Context, c *plugins.Call) error {
		p <- c.App
		return next(ctx, c)
	}
}

// who lists the publishers that are online, without what differs from run to run.
func who(g *gateway) map[online.Client]bool {
	list := map[online.Client]bool{}
	for _, c := range g.online.List() {
		list[online.Client{Kind: c.Kind, App: c.App, Owner: c.Owner, Topic: c.Topic, Ver: c.Ver, Messages: c.Messages, Bytes: c.Bytes}] = true
	}
	return list
}

func TestPublishersAreOnline(t *testing.T) {
	g := newGateway(t, nil)
	client := func(app, topic string, messages, bytes int64) online.Client {
		return online.Client{Kind: "pub", App: app, Owner: app, Topic: topic, Ver: "v1", Messages: messages, Bytes: bytes}
	}
	for _, step := range []struct {
		path, body, head string
		status           int
		want             online.Client // what is listed of the topic then
	}{
		{"/v1/msgs/t/v1?key=ab", "123", "X-Tag: x", 201, client("default", "t", 1, 10)}, // with the header "tags" and its value
		{"/v1/msgs/t/v1?batch=lines", "12\n34\n", "X-Nothing: x", 201, client("default", "t", 3, 14)},
		{"/v1/msgs/t/v1?partition=99", "1", "X-Nothing: x", 400, client("default", "t", 3, 14)},
		{"/v1/msgs/t/v1?batch=objects", `{"value":"1","partition":0}` + "\n" + `{"value":"2","partition":99}`, "X-Nothing: x", 207, client("default", "t", 4, 15)},
		{"/v1/msgs/t/v1?async=1", "12345", "X-Nothing: x", 202, client("default", "t", 5, 20)},
		{"/v1/msgs/u/v1", "1", "Appid: shop", 201, client("shop", "u", 1, 1)},
	} {
		if a := g.post(t, step.path, strings.NewReader(step.body), step.head); a.status != step.status {
			t.Fatalf("%s: %d %s", step.path, a.status, a.body)
		}
		if list := who(g); !list[step.want] {
			t.Errorf("%s: %v", step.path, list)
		}
	}
	if n := len(who(g)); n != 2 {
		t.Errorf("%d are listed", n)
	}
}

func TestWhoFailsToPublishIsNotOnline(t *testing.T) {
	g := newGateway(t, nil)
	g.store.Fail(func(string) error { return errs.Unavailable })
	if a := g.post(t, "/v1/msgs/t/v1", strings.NewReader("v")); a.status != 503 {
		t.Fatal(a)
	}
	g.store.Fail(nil)
	if list := who(g); len(list) != 0 {
		t.Errorf("%v", list)
	}
}

func BenchmarkGuarded(b *testing.B) {
	g := newGateway(b, func(c *Config) {
		c.Store, c.Topics = publisher(free), topics(func(context.Context, meta.Topic) (string, error) { return "default.t.v1", nil })
		c.Gate = plugins.NewGate([]plugins.Plugin{anyone{}})
	})
	hammer(b, g.Server, "/v1/msgs/t/v1", strings.Repeat("x", 100))
}

// anyone is a plugin that costs nothing.
type anyone struct{}

func (anyone) Wrap(next plugins.Handler) plugins.Handler { return next }
