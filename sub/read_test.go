package sub

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kateway/kateway/plugins"
	"github.com/kateway/kateway/store"
)

// fill publishes n messages to each partition.
func (w *world) fill(n int, partitions ...int32) {
	w.t.Helper()
	for i := range n {
		for _, p := range partitions {
			w.publishMessages(&store.Message{Partition: p, Value: fmt.Appendf(nil, "%d-%d", p, i)})
		}
	}
}

// noGroups fails the test when anything has touched a group.
func (w *world) noGroups() {
	w.t.Helper()
	list, err := w.store.Groups(w.t.Context(), topicName)
	if err != nil || len(list) > 0 {
		w.t.Errorf("there are the groups %q, %v", list, err)
	}
}

// cursorOf is the cursor after these next offsets, by partition.
func cursorOf(next ...int64) string {
	c := newCursor(topicName)
	for p, n := range next {
		c.pass(int32(p), n-1)
	}
	return string(c.append(nil))
}

func TestReadByCursor(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		w := newWorld(t, 2)
		c := serve(t, w.mux, h2)
		w.fill(5, 0, 1)
		seen := map[string]bool{}
		cursor := ""
		for len(seen) < 10 {
			r := c.get(topicPath+"?batch=3&cursor="+cursor).want(t, 200)
			list := objects(t, r.body)
			for _, o := range list {
				key := fmt.Sprint(o.Partition, "-", o.Offset)
				if seen[key] || o.text() != key || o.Attempt != 0 || o.Receipt != "" {
					t.Errorf("%+v after %v", o, seen)
				}
				seen[key] = true
			}
			if cursor = r.Header.Get("X-Cursor"); list[len(list)-1].Cursor != cursor {
				t.Errorf("the last object has cursor %q, the answer %q", list[len(list)-1].Cursor, cursor)
			}
		}
		r := c.get(topicPath+"?wait=0s&cursor="+cursor).want(t, 204)
		if r.Header.Get("X-Cursor") != cursor || cursor != cursorOf(5, 5) {
			t.Errorf("at the end the cursor is %q, %q before", r.Header.Get("X-Cursor"), cursor)
		}
		later := c.later(topicPath + "?cursor=" + cursor)
		w.fill(1, 1)
		r = (<-later).want(t, 200)
		h := r.Header
		if r.body != "1-0" || h.Get("X-Partition") != "1" || h.Get("X-Offset") != "5" || h.Get("X-Cursor") != cursorOf(5, 6) || h.Get("X-Attempt")+h.Get("X-Receipt") != "" || h.Get("Cache-Control") != "no-store" {
			t.Errorf("%q, %v", r.body, h)
		}
		w.noGroups()
	}
}

func TestReadForms(t *testing.T) {
	w := newWorld(t, 1)
	c := serve(t, w.mux, false)
	w.publishMessages(&store.Message{Key: []byte("k"), Value: []byte("v"), Headers: []store.Header{{Key: "content-type", Value: []byte("text/plain")}, {Key: "tags", Value: []byte("a;b")}}})
	w.publish("x")
	r := c.get(topicPath+"?cursor=").want(t, 200)
	if r.body != "v" || r.Header.Get("Content-Type") != "text/plain" || r.Header.Get("X-Key") != "k" || r.Header.Get("X-Tag") != "a;b" {
		t.Errorf("%q, %v", r.body, r.Header)
	}
	r = c.get(topicPath+"?cursor=&batch=10", "Accept: application/octet-stream").want(t, 200)
	if want := string(binary.BigEndian.AppendUint32(make([]byte, 12), 1)) + "v" + string(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint64(make([]byte, 4), 1), 1)) + "x"; r.body != want {
		t.Errorf("frames %q, want %q", r.body, want)
	}
	r = c.get(topicPath+"?cursor=&value=base64").want(t, 200)
	if o := objects(t, r.body)[0]; string(o.ValueBytes) != "v" || o.Cursor != cursorOf(1) {
		t.Errorf("%+v", o)
	}
	for _, encoding := range []string{"gzip", "zstd"} {
		r = c.get(topicPath+"?cursor=&batch=10", "Accept-Encoding: "+encoding).want(t, 200)
		if list := objects(t, decoded(t, r.Response, r.body)); len(list) != 2 || list[1].text() != "x" {
			t.Errorf("%s: %+v", encoding, list)
		}
	}
}

func TestReadOnePartition(t *testing.T) {
	w := newWorld(t, 2)
	c := serve(t, w.mux, false)
	w.fill(5, 0, 1)
	r := c.get(topicPath+"?partition=1&offset=2").want(t, 200)
	if r.body != "1-2" {
		t.Errorf("%q", r.body)
	}
	r = c.get(topicPath+"?batch=10&cursor="+r.Header.Get("X-Cursor")).want(t, 200) // the cursor knows that it is of one partition
	if list := objects(t, r.body); len(list) != 2 || list[0].text() != "1-3" || list[1].text() != "1-4" {
		t.Errorf("%+v", list)
	}
	c.get(topicPath+"?partition=1&offset=5&wait=0s").want(t, 204)
	r = c.get(topicPath+"?partition=0&offset=50").want(t, 200) // of a topic that was here before
	if r.body != "0-0" || r.Header.Get("X-Gap") != "0:50-0" {
		t.Errorf("%q, gap %q", r.body, r.Header.Get("X-Gap"))
	}
	if err := w.store.Trim(topicName, 0, 3); err != nil {
		t.Fatal(err)
	}
	r = c.get(topicPath+"?partition=0&offset=1").want(t, 200)
	if r.body != "0-3" || r.Header.Get("X-Gap") != "0:1-3" {
		t.Errorf("%q, gap %q", r.body, r.Header.Get("X-Gap"))
	}
	w.noGroups()
}

func TestReadStarts(t *testing.T) {
	w := newWorld(t, 1)
	c := serve(t, w.mux, false)
	w.publish("old")
	if r := c.get(topicPath+"?cursor=&reset=newest&wait=0s").want(t, 204); r.Header.Get("X-Cursor") != cursorOf(1) {
		t.Errorf("cursor %q", r.Header.Get("X-Cursor"))
	}
	for _, reset := range []string{"oldest", "2020-01-01T00:00:00Z"} {
		if r := c.get(topicPath+"?cursor=&reset="+reset).want(t, 200); r.body != "old" {
			t.Errorf("reset=%s: %q", reset, r.body)
		}
	}
}

func TestReadRefuses(t *testing.T) {
	w := newWorld(t, 2)
	c := serve(t, w.mux, false)
	good := cursorOf(0, 0)
	sse := "Accept: text/event-stream"
	for _, bad := range []struct{ path, header, want string }{
		{topicPath, "", "group is required"},
		{topicPath + "?batch=10&reset=oldest", "", "cursor= (empty at first)"},
		{topicPath + "?cursor=" + good[1:], "", "cursor"},
		{topicPath + "?cursor=nonsense", "", "cursor"},
		{topicPath + "?cursor=" + good + "&cursor=" + good, "", "given 2 times"},
		{topicPath + "?cursor=&partition=0&offset=0", "", "either cursor, or partition and offset"},
		{topicPath + "?partition=0", "", "either cursor, or partition and offset"},
		{topicPath + "?offset=0", "", "either cursor, or partition and offset"},
		{topicPath + "?partition=2&offset=0", "", "partitions"},
		{topicPath + "?partition=-1&offset=0", "", "partition"},
		{topicPath + "?partition=0&offset=-1", "", "offset"},
		{topicPath + "?cursor=&ack=explicit", "", `parameter "ack" is of a group`},
		{topicPath + "?cursor=&lease=10s", "", `parameter "lease" is of a group`},
		{topicPath + "?cursor=&mode=queue", "", `parameter "mode" is of a group`},
		{topicPath + "?cursor=&q=dead", "", `parameter "q" is of a group`},
		{topicPath + "?cursor=&curse=1", "", "unknown parameter"},
		{topicPath + "?cursor=", "X-Receipt: abc", "X-Receipt"},
		{topicPath + "?cursor=&filter=" + url.QueryEscape("key =="), "", "filter"},
		{topicPath + "?cursor=&tag=", "", "tag"},
		{topicPath + "?cursor=&wait=1h", "", "wait"},
		{topicPath + "?cursor=&batch=0", "", "batch"},
		{topicPath + "?cursor=&value=hex", "", "value"},
		{feedPath, "", "group is required"},
		{feedPath + "?reset=oldest", "Accept: application/x-ndjson", "group is required"},
		{feedPath + "?cursor=", "Accept: text/plain", "group is required"},
		{feedPath + "?prefetch=10", sse, `parameter "prefetch" is of a group`},
		{feedPath + "?cursor=nonsense", sse, "cursor"},
		{feedPath + "?partition=0&offset=0", sse, "unknown parameter"},
		{feedPath + "?limit=0", sse, "limit"},
	} {
		var header []string
		if bad.header != "" {
			header = append(header, bad.header)
		}
		if detail := c.get(bad.path, header...).problem(t, 400, "invalid_param"); !strings.Contains(detail, bad.want) {
			t.Errorf("%s: %q does not say %q", bad.path, detail, bad.want)
		}
	}
	c.get(feedPath+"?cursor="+good, sse, "Last-Event-ID: nonsense").problem(t, 400, "invalid_param")
	c.get(feedPath, sse, "Last-Event-ID: "+good, "Last-Event-ID: "+good).problem(t, 400, "invalid_param")
	if err := w.store.CreateTopic(t.Context(), store.Topic{Name: "shop.carts.v1"}); err != nil {
		t.Fatal(err)
	}
	c.get(strings.Replace(topicPath, "orders", "carts", 1)+"?cursor="+good).problem(t, 400, "invalid_param") // another topic's
	w.noGroups()
}

// Every client sees every message; who was away goes on where it was.
func TestBroadcastEvents(t *testing.T) {
	w := newWorld(t, 2)
	c := serve(t, w.mux, false)
	w.fill(3, 0, 1)
	sse := "Accept: text/event-stream"
	a, b := c.stream(feedPath, sse), c.stream(feedPath+"?reset=oldest", sse)
	for s, at := range map[*streaming]string{a: cursorOf(3, 3), b: cursorOf(0, 0)} {
		if got := s.line() + " " + s.line() + s.line(); got != "retry: 1000 id: "+at || s.res.Header.Get("X-Cursor") != at {
			t.Errorf("it begins with %q and cursor %q, want %q", got, s.res.Header.Get("X-Cursor"), at)
		}
		if h := s.res.Header; h.Get("Content-Type") != typeEvents || h.Get("X-Accel-Buffering") != "no" || h.Get("Cache-Control") != "no-store" {
			t.Errorf("%v", h)
		}
	}
	for range 6 {
		b.event()
	}
	w.fill(2, 1)
	var last event
	for i := range 2 {
		x, y := a.event(), b.event()
		if x != y || x.kind != "message" || x.id != cursorOf(3, int64(4+i)) || parseObject(t, x.data).Offset != int64(3+i) || parseObject(t, x.data).Cursor != "" {
			t.Errorf("%+v and %+v", x, y)
		}
		last = x
	}
	a.close()
	w.fill(1, 0, 1)
	a = c.stream(feedPath+"?cursor="+cursorOf(0, 0), sse, "Last-Event-ID: "+last.id) // the header is the newer one
	for range 2 {
		x, y := a.event(), b.event()
		if x != y {
			t.Errorf("%+v and %+v", x, y)
		}
		last = x
	}
	if last.id != cursorOf(4, 6) {
		t.Errorf("at the end there is %+v", last)
	}
	w.noGroups()
	awaitMetric(t, w, `kateway_sub_streams{form="sse"}`, 2)
}

func TestBroadcastLines(t *testing.T) {
	w := newWorld(t, 1)
	c := serve(t, w.mux, false)
	w.publish("a", "b", "c")
	r := c.get(feedPath+"?cursor=&reset=oldest&limit=2").want(t, 200)
	list := objects(t, r.body)
	if len(list) != 2 || list[0].text() != "a" || list[1].Cursor != cursorOf(2) || r.Header.Get("Content-Type") != typeJSONLines {
		t.Fatalf("%+v", list)
	}
	s := c.stream(feedPath + "?value=base64&cursor=" + list[1].Cursor)
	if o := parseObject(t, s.line()); string(o.ValueBytes) != "c" || o.Cursor != cursorOf(3) {
		t.Errorf("%+v", o)
	}
	if err := w.store.Trim(topicName, 0, 3); err != nil {
		t.Fatal(err)
	}
	w.publish("d")
	s = c.stream(feedPath + "?cursor=" + list[0].Cursor)
	if gap := parseObject(t, s.line()); gap.Event != "gap" || len(gap.Ranges) != 1 || gap.Ranges[0].From != 1 || gap.Ranges[0].To != 3 {
		t.Errorf("%+v", gap)
	}
	if o := parseObject(t, s.line()); o.text() != "d" {
		t.Errorf("%+v", o)
	}
}

func TestBroadcastGapAndEnd(t *testing.T) {
	w := newWorld(t, 1)
	c := serve(t, w.mux, false)
	w.fill(5, 0)
	if err := w.store.Trim(topicName, 0, 2); err != nil {
		t.Fatal(err)
	}
	s := c.stream(feedPath+"?cursor="+cursorOf(1), "Accept: text/event-stream")
	if e := s.event(); e.kind != "gap" || e.id != cursorOf(2) || e.data != `{"event":"gap","ranges":[{"partition":0,"from":1,"to":2}]}` {
		t.Errorf("%+v", e)
	}
	for range 3 {
		s.event()
	}
	if err := w.store.DeleteTopic(t.Context(), topicName); err != nil {
		t.Fatal(err)
	}
	if e := s.event(); e.kind != "end" || e.data != `{"event":"end","code":"unknown_topic"}` {
		t.Errorf("%+v", e)
	}
	if rest, err := io.ReadAll(s.lines); err != nil || len(rest) > 0 {
		t.Errorf("after the end there is %q, %v", rest, err)
	}
}

// What is filtered out is not sent, and after a silence the client learns that it was passed over.
func TestBroadcastFilter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		c, stop := servePipes(t, w.mux)
		defer stop()
		s := c.stream(feedPath+"?tag=b&filter="+url.QueryEscape(`key == "k"`), "Accept: text/event-stream")
		for _, line := range []string{"retry: 1000", "id: " + cursorOf(0), ""} {
			if got := s.line(); got != line {
				t.Errorf("%q, want %q", got, line)
			}
		}
		tagged := func(key, tags, value string) *store.Message {
			return &store.Message{Key: []byte(key), Value: []byte(value), Headers: []store.Header{{Key: "tags", Value: []byte(tags)}}}
		}
		w.publishMessages(tagged("k", "a", "no"), tagged("k", "a;b", "yes"), tagged("other", "b", "no"), tagged("k", "a", "no"))
		if e := s.event(); parseObject(t, e.data).text() != "yes" || e.id != cursorOf(2) {
			t.Errorf("%+v", e)
		}
		for _, line := range []string{":", "id: " + cursorOf(4), "", ":", ""} { // two heartbeats
			if got := s.line(); got != line {
				t.Errorf("%q, want %q", got, line)
			}
		}
		s.close()
	})
}

func TestBroadcastHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		c, stop := servePipes(t, w.mux)
		defer stop()
		began := time.Now()
		for accept, beat := range map[string]string{typeEvents: ":", typeJSONLines: ""} {
			s := c.stream(feedPath+"?cursor="+cursorOf(0), "Accept: "+accept)
			for s.line() != beat || accept == typeEvents && s.line() != "" { // what is before is passed over
			}
			if took := time.Since(began); took != heartbeat {
				t.Errorf("%s: a heartbeat after %v", accept, took)
			}
			began = time.Now()
			s.close()
		}
	})
}

func TestBroadcastDrain(t *testing.T) {
	w := newWorld(t, 1)
	c := serve(t, w.mux, true)
	poll := c.later(topicPath + "?cursor=")
	s := c.stream(feedPath, "Accept: text/event-stream", "Accept-Encoding: zstd")
	awaitMetric(t, w, "kateway_broadcast_readers", 2)
	w.readers.Drain(0)
	body, err := io.ReadAll(s.res.Body)
	if err != nil || !strings.HasPrefix(decoded(t, s.res, string(body)), "retry: 1000\n") {
		t.Errorf("%q, %v", body, err)
	}
	r := (<-poll).want(t, 204)
	if r.Header.Get("X-Cursor") != cursorOf(0) {
		t.Errorf("%v", r.Header)
	}
	c.get(topicPath+"?cursor=").problem(t, 503, "draining")
}

// An EventSource gives up for good when it is answered anything but 200: one that comes back while that can't be is told to
// come again. Others are told the truth.
func TestEventSourceComesAgain(t *testing.T) {
	w := newWorld(t, 1)
	c := serve(t, w.mux, false)
	sse, back := "Accept: text/event-stream", "Last-Event-ID: "+cursorOf(0)
	c.get(feedPath, sse, "Last-Event-ID: nonsense").problem(t, 400, "invalid_param")
	w.readers.Drain(0)
	r := c.get(feedPath, sse, back).want(t, 200)
	if r.body != "retry: 1000\n\n" || r.Header.Get("Content-Type") != typeEvents || r.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%q, %v", r.body, r.Header)
	}
	c.get(feedPath, sse).problem(t, 503, "draining")
	c.get(feedPath+"?cursor="+cursorOf(0)).problem(t, 503, "draining")
	if err := errors.Join(w.hub.Close(t.Context()), w.readers.Close(t.Context()), w.store.Close(t.Context())); err != nil {
		t.Fatal(err)
	}
	w.start()
	c = serve(t, w.mux, false)
	if r := c.get(feedPath, sse, back).want(t, 200); r.body != "retry: 5000\n\n" {
		t.Errorf("%q", r.body)
	}
	c.get(feedPath, sse).problem(t, 503, "unavailable")
}

// A client that reads nothing is cut off, and keeps nobody else waiting.
func TestBroadcastToASlowClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		c, stop := servePipes(t, w.mux)
		defer stop()
		sse := "Accept: text/event-stream"
		slow, good := c.stream(feedPath, sse), c.stream(feedPath, sse)
		came := make(chan event)
		go func() {
			defer close(came)
			for range 4 {
				came <- good.event() // heartbeats are read too
			}
		}()
		for range 3 {
			w.publish(strings.Repeat("x", 100_000)) // more than the client's transport reads ahead
			<-came
		}
		pass(2 * writeTimeout)
		if _, err := io.ReadAll(slow.res.Body); err == nil {
			t.Error("a client that reads nothing is not cut off")
		}
		w.publish("on")
		if e := <-came; parseObject(t, e.data).text() != "on" {
			t.Errorf("%+v", e)
		}
		<-came
		good.close()
		slow.close()
	})
}

// noteCalls remembers what the chain was asked.
type noteCalls struct{ calls []plugins.Call }

func (n *noteCalls) Wrap(next plugins.Handler) plugins.Handler {
	return func(ctx context.Context, c *plugins.Call) error {
		n.calls = append(n.calls, *c)
		return next(ctx, c)
	}
}

func TestReadPassesThePlugins(t *testing.T) {
	w := newWorld(t, 1)
	n := &noteCalls{}
	w.plugins = []plugins.Plugin{n}
	if err := errors.Join(w.hub.Close(t.Context()), w.readers.Close(t.Context())); err != nil {
		t.Fatal(err)
	}
	w.start()
	c := serve(t, w.mux, false)
	c.whole(http.MethodGet, topicPath+"?cursor=&wait=0s", "", "Appid: shop").want(t, 204)
	if len(n.calls) != 1 || n.calls[0].Op != plugins.Subscribe || n.calls[0].Group != "" || n.calls[0].App != "shop" || n.calls[0].Topic != "orders" {
		t.Errorf("%+v", n.calls)
	}
}
