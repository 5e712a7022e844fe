package sub

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kateway/kateway/store"
)

// object is a line of NDJSON.
type object struct {
	Partition  int32
	Offset     int64
	Timestamp  time.Time
	Key        *string
	Value      *json.RawMessage
	ValueBytes []byte `json:"value_base64"`
	Attempt    int
	Receipt    string
	Cursor     string
	Topic      string
	Event      string
	Ranges     []struct {
		Partition int32
		From, To  int64
	}
}

func parseObject(tb testing.TB, line string) object {
	tb.Helper()
	var o object
	if err := json.Unmarshal([]byte(line), &o); err != nil {
		tb.Fatalf("line %q: %v", line, err)
	}
	return o
}

// text is the value of an object that is a JSON string.
func (o object) text() string {
	var s string
	if o.Value == nil || json.Unmarshal(*o.Value, &s) != nil {
		return fmt.Sprintf("not a string: %s", *o.Value)
	}
	return s
}

func objects(tb testing.TB, body string) []object {
	tb.Helper()
	var list []object
	for line := range strings.Lines(body) {
		list = append(list, parseObject(tb, line))
	}
	return list
}

func TestPollGivesOneMessageAsItIs(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		w := newWorld(t, 1)
		c := serve(t, w.mux, h2)
		w.publishMessages(&store.Message{
			Key: []byte("k"), Value: []byte("hello"),
			Headers: []store.Header{{Key: "content-type", Value: []byte("text/plain")}, {Key: "tags", Value: []byte("a;b")}, {Key: "colour", Value: []byte("red")}},
		})
		r := c.get(topicPath+"?group=g", "Appid: bill").want(t, 200)
		want := map[string]string{
			"X-Partition": "0", "X-Offset": "0", "X-Key": "k", "X-Tag": "a;b", "X-Msg-Colour": "red", "X-Attempt": "1",
			"Content-Type": "text/plain", "Content-Length": "5", "Cache-Control": "no-store", "Vary": "Accept-Encoding",
			"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox", "X-Receipt": "", "X-Gap": "",
		}
		for name, value := range want {
			if got := r.Header.Get(name); got != value {
				t.Errorf("h2=%v: %s: %q, want %q", h2, name, got, value)
			}
		}
		if r.body != "hello" {
			t.Errorf("h2=%v: body %q", h2, r.body)
		}
		groups, err := w.store.Groups(t.Context(), topicName)
		if err != nil || len(groups) != 1 || groups[0] != "bill.g.shop.orders.v1" {
			t.Errorf("groups in the store: %v %v", groups, err)
		}
	}
}

func TestPollAcksByItself(t *testing.T) {
	w := newWorld(t, 1)
	c := serve(t, w.mux, false)
	w.publish("a", "b", "c")
	for _, want := range []string{"a", "b", "c"} {
		if r := c.get(topicPath+"?group=g&wait=5s").want(t, 200); r.body != want || r.Header.Get("X-Attempt") != "1" {
			t.Errorf("%q at attempt %s, want %q at 1", r.body, r.Header.Get("X-Attempt"), want)
		}
	}
	r := c.get(topicPath+"?group=g&wait=0s").want(t, 204)
	if r.body != "" || r.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("204 with %q %v", r.body, r.Header)
	}
}

func TestPollOfManyIsNDJSON(t *testing.T) {
	w := newWorld(t, 1)
	c := serve(t, w.mux, false)
	w.publish("a", "b", "c", "d", "e")
	r := c.get(topicPath+"?group=g&batch=3&ack=explicit").want(t, 200)
	list := objects(t, r.body)
	if len(list) != 3 || r.Header.Get("Content-Type") != typeJSONLines || r.ContentLength != int64(len(r.body)) {
		t.Fatalf("%d objects, %v: %s", len(list), r.Header, r.body)
	}
	for i, o := range list {
		if o.Offset != int64(i) || o.text() != string(rune('a'+i)) || o.Attempt != 1 || o.Receipt == "" {
			t.Errorf("object %d: %+v", i, o)
		}
	}
	r = c.get(topicPath+"?group=h&value=base64", "Accept: */*").want(t, 200)
	if list := objects(t, r.body); len(list) != 1 || string(list[0].ValueBytes) != "a" || list[0].Receipt != "" {
		t.Errorf("value=base64: %s", r.body)
	}
}

func TestPollOfFrames(t *testing.T) {
	w := newWorld(t, 1)
	c := serve(t, w.mux, false)
	w.publishMessages(&store.Message{Value: []byte("one")}, &store.Message{Value: []byte{}}, &store.Message{})
	r := c.get(topicPath+"?group=g&batch=10", "Accept: application/octet-stream").want(t, 200)
	b := []byte(r.body)
	for i, want := range []struct {
		size  int32
		value string
	}{{3, "one"}, {0, ""}, {-1, ""}} {
		if len(b) < 16 {
			t.Fatalf("frame %d: %d bytes left of %q", i, len(b), r.body)
		}
		partition, offset, size := binary.BigEndian.Uint32(b), binary.BigEndian.Uint64(b[4:]), int32(binary.BigEndian.Uint32(b[12:]))
		b = b[16:]
		n := max(size, 0)
		if partition != 0 || offset != uint64(i) || size != want.size || string(b[:n]) != want.value {
			t.Errorf("frame %d: %d %d %d %q", i, partition, offset, size, b[:n])
		}
		b = b[n:]
	}
	if len(b) > 0 || r.Header.Get("Content-Type") != typeBytes {
		t.Errorf("%d bytes behind the frames, %v", len(b), r.Header)
	}
}

// An answer over many chunks is neither cut nor held in memory as a whole.
func TestPollOfBigMessagesGoesInChunks(t *testing.T) {
	w := newWorld(t, 1)
	c := serve(t, w.mux, false)
	var values []string
	for i := range 20 {
		values = append(values, strings.Repeat(string(rune('a'+i)), 50_000))
	}
	w.publish(values...)
	for _, coding := range []string{"identity", "gzip", "zstd"} {
		got := 0
		for got < len(values) {
			r := c.get(topicPath+"?batch=20&group="+coding, "Accept-Encoding: "+coding).want(t, 200)
			for _, o := range objects(t, decoded(t, r.Response, r.body)) {
				if o.text() != values[got] {
					t.Fatalf("%s: message %d is not what was stored", coding, got)
				}
				got++
			}
		}
	}
}

func TestPollExplicitIsDeliveredAgainAfterItsLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		c, stop := servePipes(t, w.mux)
		defer stop()
		w.publish("a", "b")
		first := c.get(topicPath+"?group=g&ack=explicit&lease=40s").want(t, 200)
		if first.Header.Get("X-Receipt") == "" {
			t.Fatal("no receipt")
		}
		start := time.Now()
		// In fifo mode the partition waits for its un-acked message, whoever asks.
		c.get(topicPath+"?group=g&ack=explicit&wait=30s").want(t, 204)
		again := c.get(topicPath+"?group=g&ack=explicit&wait=30s").want(t, 200)
		if again.body != "a" || again.Header.Get("X-Attempt") != "2" || time.Since(start) != 40*time.Second {
			t.Errorf("%q at attempt %s after %v, want a at 2 after 40s", again.body, again.Header.Get("X-Attempt"), time.Since(start))
		}
		c.put(topicPath+"?group=g&op=ack", "", "X-Receipt: "+first.Header.Get("X-Receipt")).problem(t, 409, "fenced")
		c.put(topicPath+"?group=g&op=ack", "", "X-Receipt: "+again.Header.Get("X-Receipt")).want(t, 200)
		if r := c.get(topicPath+"?group=g").want(t, 200); r.body != "b" {
			t.Errorf("%q after the ack of a, want b", r.body)
		}
	})
}

func TestTheSameClientGetsWhatFollows(t *testing.T) {
	w := newWorld(t, 1)
	c := serve(t, w.mux, false)
	w.publish("a", "b")
	path := topicPath + "?group=g&ack=explicit&wait=0s"
	c.get(path+"&client=me").want(t, 200)
	c.get(path+"&client=other").want(t, 204)
	if r := c.get(path+"&client=me").want(t, 200); r.body != "b" {
		t.Errorf("%q, want b", r.body)
	}
}

func TestPollAcksWhatWasJustProcessed(t *testing.T) {
	w := newWorld(t, 1)
	c := serve(t, w.mux, false)
	w.publish("a", "b", "c")
	path := topicPath + "?group=g&ack=explicit"
	receipt := c.get(path).want(t, 200).Header.Get("X-Receipt")
	r := c.get(path, "X-Receipt: "+receipt).want(t, 200)
	if r.body != "b" || r.Header.Get("X-Receipt-Fenced") != "" {
		t.Errorf("%q %v, want b and no stale receipt", r.body, r.Header)
	}
	stale := "bm90IGEgcmVjZWlwdA"
	r = c.get(path, "X-Receipt: "+stale+", "+r.Header.Get("X-Receipt")+",no%receipt").want(t, 200)
	if r.body != "c" || r.Header.Get("X-Receipt-Fenced") != stale+",no%25receipt" {
		t.Errorf("%q, stale %q", r.body, r.Header.Get("X-Receipt-Fenced"))
	}
	r = c.get(path+"&wait=0s", "X-Receipt: "+stale).want(t, 204)
	if r.Header.Get("X-Receipt-Fenced") != stale {
		t.Errorf("a 204 does not list the stale receipt: %v", r.Header)
	}
}

func TestPollWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		c, stop := servePipes(t, w.mux)
		defer stop()
		for _, k := range []struct {
			query string
			want  time.Duration
		}{{"", 30 * time.Second}, {"&wait=5m", 5 * time.Minute}, {"&wait=90", 90 * time.Second}, {"&wait=0s", minLook}} {
			start := time.Now()
			c.get(topicPath+"?group=g"+k.query).want(t, 204)
			if took := time.Since(start); took != k.want {
				t.Errorf("%q took %v, want %v", k.query, took, k.want)
			}
		}
		go func() {
			pass(7 * time.Second)
			w.publish("late")
		}()
		start := time.Now()
		if r := c.get(topicPath+"?group=g").want(t, 200); r.body != "late" || time.Since(start) != 7*time.Second {
			t.Errorf("%q after %v, want it at once after 7s", r.body, time.Since(start))
		}
	})
}

func TestPollStartsWhereResetSays(t *testing.T) {
	w := newWorld(t, 1)
	c := serve(t, w.mux, false)
	w.publish("old")
	c.get(topicPath+"?group=g&reset=newest&wait=0s").want(t, 204)
	w.publish("new")
	if r := c.get(topicPath+"?group=g&reset=oldest").want(t, 200); r.body != "new" {
		t.Errorf("%q: reset acts once, and the 204 had committed the position", r.body)
	}
}

func TestPollTellsAGap(t *testing.T) {
	w := newWorld(t, 1)
	c := serve(t, w.mux, false)
	w.publish("a", "b", "c", "d", "e")
	c.get(topicPath+"?group=g").want(t, 200)
	awaitCommit(t, w, "g", 1)
	forgetGroups(t, w)
	if err := w.store.Trim(topicName, 0, 3); err != nil {
		t.Fatal(err)
	}
	c = serve(t, w.mux, false)
	r := c.get(topicPath+"?group=g").want(t, 200)
	if r.body != "d" || r.Header.Get("X-Gap") != "0:1-3" {
		t.Errorf("%q with X-Gap %q, want d with 0:1-3", r.body, r.Header.Get("X-Gap"))
	}
}

func TestPollCountsItsMessages(t *testing.T) {
	w := newWorld(t, 1)
	c := serve(t, w.mux, false)
	w.publish("a", "b")
	c.get(topicPath+"?group=g&batch=2").want(t, 200)
	c.get(topicPath+"?group=g&wait=0s").want(t, 204)
	for name, want := range map[string]float64{
		`kateway_sub_messages_total{topic="shop/orders/v1"}`: 2, `kateway_sub_polls_total{answer="messages"}`: 1, `kateway_sub_polls_total{answer="empty"}`: 1,
	} {
		if got := metric(t, w.metrics, name); got != want {
			t.Errorf("%s = %v, want %v", name, got, want)
		}
	}
}

func TestOtherMethodsAreNotRouted(t *testing.T) {
	c := serve(t, newWorld(t, 1).mux, false)
	for _, method := range []string{http.MethodHead, http.MethodDelete, http.MethodPatch} {
		c.whole(method, topicPath+"?group=g", "").want(t, 405)
	}
}
