package sub

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/online"
	"github.com/kateway/kateway/plugins"
)

// porter is a plugin that takes who shows a Subkey for the app of that name, lets it read with the groups named after
// it only, and keeps what came by.
type porter struct {
	mu    sync.Mutex
	calls []plugins.Call
	ended int
}

func (*porter) Identifies() {}

func (p *porter) Wrap(next plugins.Handler) plugins.Handler {
	return func(ctx context.Context, c *plugins.Call) error {
		p.mu.Lock()
		p.calls = append(p.calls, *c)
		p.mu.Unlock()
		defer func() {
			p.mu.Lock()
			p.ended++
			p.mu.Unlock()
		}()
		if c.App = c.Header.Get("Subkey"); c.App == "" {
			return fmt.Errorf("who is there: %w", errs.Unauthenticated)
		}
		if !strings.HasPrefix(c.Group, c.App) {
			return errs.Denied
		}
		return next(ctx, c)
	}
}

// last is the newest call, and how many there were and have ended.
func (p *porter) last() (c plugins.Call, begun, ended int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.calls[len(p.calls)-1], len(p.calls), p.ended
}

func guardedWorld(t *testing.T) (*world, *porter) {
	t.Helper()
	w, p := newWorld(t, 1), &porter{}
	w.plugins = []plugins.Plugin{p}
	forgetGroups(t, w)
	return w, p
}

// routes are all requests of this package, by what they want; each with a group of bill's in it.
var routes = []struct {
	method, path, body string
	op                 plugins.Op
	status             int // when it is let through; 0: 200
}{
	{http.MethodGet, topicPath + "?group=bill1&wait=0s", "", plugins.Subscribe, 0},
	{http.MethodGet, feedPath + "?group=bill1&limit=1", "", plugins.Subscribe, 0},
	{http.MethodGet, "/v1/stream?topic=shop/orders/v1&group=bill1&limit=1", "", plugins.Subscribe, 0},
	{http.MethodGet, socketPath + "?group=bill1", "", plugins.Subscribe, http.StatusUpgradeRequired},
	{http.MethodPut, topicPath + "?group=bill1", "[]", plugins.Settle, 0},
	{http.MethodPut, "/v1/offsets/shop/orders/v1/bill1", "[]", plugins.Settle, 0},
}

// TestPluginsGuardEveryRoute on both protocols: who shows nothing is 401, whatever else is wrong but names.
func TestPluginsGuardEveryRoute(t *testing.T) {
	w, p := guardedWorld(t)
	w.publish("a", "b", "c", "d", "e", "f", "g", "h")
	if n := len(w.sub.Routes()); n != len(routes) {
		t.Fatalf("%d routes, %d are tested", n, len(routes))
	}
	for _, h2 := range []bool{false, true} {
		c := serve(t, w.mux, h2)
		for _, k := range routes {
			r := c.whole(k.method, k.path, k.body, "Appid: bill")
			r.problem(t, 401, "unauthenticated")
			if len(r.Header.Values("WWW-Authenticate")) == 0 || r.Close != (!h2 && k.body != "") {
				t.Errorf("%s: WWW-Authenticate %q, closes %v", k.path, r.Header.Values("WWW-Authenticate"), r.Close)
			}
			call, begun, _ := p.last()
			if call.Op != k.op || call.App != "" || call.Owner != "shop" || call.Topic != "orders" || call.Ver != "v1" || call.Group != "bill1" {
				t.Errorf("%s: %+v", k.path, call)
			}
			c.whole(k.method, k.path+moreOf(k.path)+"nonsense=1", k.body).problem(t, 401, "unauthenticated")
			c.whole(k.method, k.path, k.body, "Subkey: audit").problem(t, 403, "denied")
			if _, now, _ := p.last(); now != begun+2 {
				t.Errorf("%s: the plugin was passed %d times", k.path, now-begun)
			}
			c.whole(k.method, strings.Replace(k.path, "orders", "or.ders", 1), k.body).problem(t, 400, "invalid_name")
			c.whole(k.method, strings.Replace(k.path, "bill1", "bi.ll", 1), k.body).problem(t, 400, "invalid_name")
			c.whole(k.method, k.path, k.body, "Appid: a", "Appid: a").problem(t, 400, "invalid_param")
			want := cmp.Or(k.status, http.StatusOK)
			if h2 && want == http.StatusUpgradeRequired { // there is no upgrade
				want = http.StatusBadRequest
			}
			if r := c.whole(k.method, k.path, k.body, "Subkey: bill"); r.StatusCode != want {
				t.Errorf("%s: %d %s", k.path, r.StatusCode, r.body)
			}
		}
	}
}

func moreOf(path string) string {
	if strings.Contains(path, "?") {
		return "&"
	}
	return "?"
}

// TestParametersAreForThoseWhoMay: a request that is wrong is told so when it names its group, and nobody else's.
func TestParametersAreForThoseWhoMay(t *testing.T) {
	w, _ := guardedWorld(t)
	c := serve(t, w.mux, false)
	for query, want := range map[string]int{
		"?group=bill1&nonsense=1":     400,
		"?group=bill1&wait=never":     400,
		"?group=other&nonsense=1":     403,
		"?nonsense=1":                 403,
		"":                            403,
		"?group=bill1&group=bill2":    400,
		"?group=other&group=bill1":    403,
		"?group=bill1&batch=1&wait=0": 204,
	} {
		if r := c.get(topicPath+query, "Subkey: bill"); r.StatusCode != want {
			t.Errorf("%q: %d %s, want %d", query, r.StatusCode, r.body, want)
		}
	}
}

// TestTheGroupIsTheCallers, whatever Appid claims: what one app has read is still there for another.
func TestTheGroupIsTheCallers(t *testing.T) {
	w, _ := guardedWorld(t)
	c := serve(t, w.mux, false)
	w.publish("a", "b")
	read := func(key, claim string) string {
		return c.get(topicPath+"?group=bill1&ack=auto", "Subkey: "+key, "Appid: "+claim).want(t, 200).body
	}
	if got := read("bill", "bill") + read("bil", "bill") + read("bill", "bil"); got != "aab" {
		t.Errorf("read %q", got)
	}
	if err := w.hub.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	groups, err := w.store.Groups(t.Context(), topicName)
	slices.Sort(groups)
	if want := []string{"bil.bill1." + topicName, "bill.bill1." + topicName}; err != nil || !slices.Equal(groups, want) {
		t.Errorf("%q, %v", groups, err)
	}
}

// TestTheChainWrapsTheWholeStream: a plugin has its say again when the stream is over.
func TestTheChainWrapsTheWholeStream(t *testing.T) {
	w, p := guardedWorld(t)
	c := serve(t, w.mux, false)
	w.publish("a")
	s := c.stream(feedPath+"?group=bill1", "Subkey: bill", "Accept: text/plain")
	if s.line() != "a" {
		t.Fatal("no message")
	}
	if _, begun, ended := p.last(); begun != 1 || ended != 0 {
		t.Errorf("%d begun, %d ended while the stream is open", begun, ended)
	}
	s.close()
	for ended := 0; ended == 0; {
		if t.Context().Err() != nil {
			t.Fatal("the plugin never saw the end")
		}
		runtime.Gosched()
		_, _, ended = p.last()
	}
}

// TestTheContextOfTheChainEndsTheStream: what a plugin does to the context counts for the work.
func TestTheContextOfTheChainEndsTheStream(t *testing.T) {
	w, cut := newWorld(t, 1), make(chan context.CancelFunc, 1)
	w.plugins = []plugins.Plugin{cutter(cut)}
	forgetGroups(t, w)
	c := serve(t, w.mux, false)
	s := c.stream(feedPath + "?group=g")
	(<-cut)()
	if _, err := s.lines.ReadString('\n'); err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("the stream goes on: %v", err)
	}
}

// cutter is a plugin whose calls can be ended.
type cutter chan context.CancelFunc

func (c cutter) Wrap(next plugins.Handler) plugins.Handler {
	return func(ctx context.Context, call *plugins.Call) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		c <- cancel
		return next(ctx, call)
	}
}

// listed are the subscribers that are online, without what differs from run to run.
func (c *client) listed() []online.Client {
	var list []online.Client
	for _, u := range c.online.List() {
		list = append(list, online.Client{Kind: u.Kind, App: u.App, Owner: u.Owner, Topic: u.Topic, Ver: u.Ver, Group: u.Group, Messages: u.Messages, Bytes: u.Bytes})
	}
	return list
}

// await waits until exactly this is listed.
func (c *client) await(want ...online.Client) {
	c.t.Helper()
	for !slices.Equal(c.listed(), want) {
		if c.t.Context().Err() != nil {
			c.t.Fatalf("listed %+v, want %+v", c.listed(), want)
		}
		runtime.Gosched()
	}
}

func TestStreamsAreOnline(t *testing.T) {
	for kind, accept := range map[string]string{online.Stream: typeText, online.SSE: typeEvents} {
		w, _ := guardedWorld(t)
		c := serve(t, w.mux, false)
		want := online.Client{Kind: kind, App: "bill", Owner: "shop", Topic: "orders", Ver: "v1", Group: "bill1"}
		s := c.stream(feedPath+"?group=bill1", "Subkey: bill", "Accept: "+accept)
		c.await(want)
		w.publish("12345")
		want.Messages, want.Bytes = 1, 5
		c.await(want)
		s.close()
	}
}

func TestPollsAreOnline(t *testing.T) {
	w := newWorld(t, 1)
	c := serve(t, w.mux, false)
	want := online.Client{Kind: online.Poll, App: "default", Owner: "shop", Topic: "orders", Ver: "v1", Group: "g"}
	answer := c.later(topicPath + "?group=g")
	c.await(want) // it waits, and is there
	w.publish("12345")
	(<-answer).want(t, 200)
	want.Messages, want.Bytes = 1, 5
	c.await(want)
}

// TestWhoIsDoneGoesOffline: a poll and a stream are listed while they last, however long that is, and a minute longer.
func TestWhoIsDoneGoesOffline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		c, stop := servePipes(t, w.mux)
		defer stop()
		for _, path := range []string{topicPath + "?group=g&wait=5m", feedPath + "?group=h&limit=1&reset=newest"} {
			answer := c.later(path)
			pass(4 * time.Minute)
			if n := len(c.listed()); n != 1 {
				t.Errorf("%s: %d are listed while it waits", path, n)
			}
			w.publish("a")
			(<-answer).want(t, 200)
			if n := len(c.listed()); n != 1 {
				t.Errorf("%s: %d are listed right after the end", path, n)
			}
			pass(61 * time.Second)
			if n := len(c.listed()); n != 0 {
				t.Errorf("%s: %d are listed a minute after the end", path, n)
			}
		}
	})
}

func TestManyMessagesAreCounted(t *testing.T) {
	w, _ := guardedWorld(t)
	c := serve(t, w.mux, false)
	w.publish(slices.Repeat([]string{"1234567890"}, 300)...)
	c.get(topicPath+"?group=bill1&batch=300", "Subkey: bill").want(t, 200)
	c.get(feedPath+"?group=bill2&limit=299", "Subkey: bill").want(t, 200)
	poll := online.Client{Kind: "poll", App: "bill", Owner: "shop", Topic: "orders", Ver: "v1", Group: "bill1", Messages: 300, Bytes: 3000}
	stream := online.Client{Kind: "stream", App: "bill", Owner: "shop", Topic: "orders", Ver: "v1", Group: "bill2", Messages: 299, Bytes: 2990}
	c.await(poll, stream)
}

func TestWhoIsRefusedIsNotOnline(t *testing.T) {
	w, _ := guardedWorld(t)
	c := serve(t, w.mux, false)
	c.get(topicPath+"?group=bill1").want(t, 401)
	c.get(topicPath+"?group=bill1&nonsense=1", "Subkey: bill").want(t, 400)
	if list := c.listed(); len(list) > 0 {
		t.Errorf("%+v", list)
	}
}
