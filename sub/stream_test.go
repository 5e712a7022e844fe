package sub

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kateway/kateway/store"
)

func TestStreamOfObjects(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		w := newWorld(t, 1)
		c := serve(t, w.mux, h2)
		s := c.stream(feedPath + "?group=g") // returns when the headers are there, before any message
		for name, value := range map[string]string{
			"Content-Type": typeJSONLines, "Cache-Control": "no-store", "X-Accel-Buffering": "no", "Vary": "Accept-Encoding",
			"X-Content-Type-Options": "nosniff", "Content-Encoding": "",
		} {
			if got := s.res.Header.Get(name); got != value {
				t.Errorf("h2=%v: %s: %q, want %q", h2, name, got, value)
			}
		}
		for i := range 3 {
			w.publish(fmt.Sprint("message ", i))
			if o := parseObject(t, s.line()); o.text() != fmt.Sprint("message ", i) || o.Offset != int64(i) || o.Attempt != 1 || o.Receipt != "" {
				t.Errorf("h2=%v: message %d: %+v", h2, i, o)
			}
		}
		awaitCommit(t, w, "g", 3)
		if n := metric(t, w.metrics, `kateway_sub_streams{form="ndjson"}`); n != 1 {
			t.Errorf("h2=%v: %v streams are counted", h2, n)
		}
		s.close()
	}
}

func TestStreamOfText(t *testing.T) {
	w := newWorld(t, 1)
	w.publishMessages(&store.Message{Value: []byte("a b")}, &store.Message{Value: []byte{0, 0xff}}, &store.Message{}, &store.Message{Value: []byte("z")})
	s := serve(t, w.mux, false).stream(feedPath+"?group=g", "Accept: text/plain")
	for _, want := range []string{"a b", "\x00\xff", "", "z"} {
		if got := s.line(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if got := s.res.Header.Get("Content-Type"); got != "text/plain" {
		t.Errorf("Content-Type %q", got)
	}
}

// event is one server-sent event, read as the standard says.
type event struct{ kind, id, data string }

// event reads up to the next event that has data, comments and retry passed over.
func (s *streaming) event() event {
	s.t.Helper()
	var e event
	for {
		switch line := s.line(); {
		case line == "" && e.data != "":
			e.data = strings.TrimSuffix(e.data, "\n")
			return e
		case line == "":
			e = event{}
		default:
			field, value, _ := strings.Cut(line, ":")
			value = strings.TrimPrefix(value, " ")
			switch field {
			case "event":
				e.kind = value
			case "id":
				e.id = value
			case "data":
				e.data += value + "\n"
			}
		}
	}
}

func TestStreamOfEvents(t *testing.T) {
	w := newWorld(t, 2)
	s := serve(t, w.mux, false).stream(feedPath+"?group=g", "Accept: text/event-stream", "Last-Event-ID: nonsense")
	if got := s.line() + s.line(); got != "retry: 1000" || s.res.Header.Get("Content-Type") != typeEvents {
		t.Errorf("it begins with %q, %v", got, s.res.Header)
	}
	var ids []string
	for i, m := range []*store.Message{
		{Partition: 1, Value: []byte("one\r\ntwo\nthree\rfour\u2028five\n\ndata: six")},
		{Partition: 0, Value: []byte("[1,\n2,\r\n3]"), Headers: []store.Header{{Key: "content-type", Value: []byte("application/json")}}},
		{Partition: 1, Value: []byte{}},
	} {
		w.publishMessages(m)
		e := s.event()
		o := parseObject(t, e.data)
		if e.kind != "message" || o.Partition != m.Partition || o.Offset != m.Offset {
			t.Errorf("event %d: %+v", i, e)
		}
		if i != 1 && o.text() != string(m.Value) || i == 1 && string(*o.Value) != "[1,2,3]" {
			t.Errorf("event %d: value %s, want %q", i, *o.Value, m.Value)
		}
		ids = append(ids, e.id)
	}
	want := newCursor(topicName)
	for i, at := range []store.Position{{Partition: 1, Next: 1}, {Partition: 0, Next: 1}, {Partition: 1, Next: 2}} {
		want.pass(at.Partition, at.Next-1)
		if got := string(want.append(nil)); ids[i] != got {
			t.Errorf("id %d: %q, want %q", i, ids[i], got)
		}
	}
}

func TestStreamEndsAtItsLimit(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		for _, encoding := range []string{"identity", "gzip", "zstd"} {
			w := newWorld(t, 1)
			c := serve(t, w.mux, h2)
			w.publish("a", "b", "c", "d")
			r := c.get(feedPath+"?group=g&limit=3", "Accept: text/plain", "Accept-Encoding: "+encoding).want(t, 200)
			if got := decoded(t, r.Response, r.body); got != "a\nb\nc\n" {
				t.Errorf("h2=%v %s: %q", h2, encoding, got)
			}
			if got := c.get(topicPath+"?group=g").want(t, 200); got.body != "d" || got.Header.Get("X-Attempt") != "1" {
				t.Errorf("h2=%v %s: %q after the limit, at attempt %s", h2, encoding, got.body, got.Header.Get("X-Attempt"))
			}
		}
	}
}

// The end of a limited stream must not take the last messages away from a client that is about to ack them.
func TestWhatALimitedExplicitStreamCarriedCanBeAcked(t *testing.T) {
	w := newWorld(t, 1)
	c := serve(t, w.mux, false)
	w.publish("a", "b")
	r := c.get(feedPath+"?group=g&limit=1&ack=explicit").want(t, 200)
	c.put(topicPath+"?group=g&op=ack", "", "X-Receipt: "+objects(t, r.body)[0].Receipt).want(t, 200)
	if got := c.get(topicPath+"?group=g").want(t, 200); got.body != "b" {
		t.Errorf("%q, want b", got.body)
	}
}

func TestPrefetchBoundsWhatAnExplicitStreamHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		c, stop := servePipes(t, w.mux)
		defer stop()
		w.publish("a", "b", "c", "d")
		s := c.stream(feedPath + "?group=g&ack=explicit&prefetch=2&lease=1h")
		first, second := parseObject(t, s.line()), parseObject(t, s.line())
		if heartbeat := s.line(); heartbeat != "" {
			t.Errorf("a third message while two are un-acked: %s", heartbeat)
		}
		c.put(topicPath+"?group=g", fmt.Sprintf(`[{"receipt":%q,"op":"ack"}]`, second.Receipt)).want(t, 200)
		if third := parseObject(t, s.line()); third.text() != "c" {
			t.Errorf("%+v, want c", third)
		}
		s.close()
		synctest.Wait()
		// It left: what it had not acked is due at once.
		r := c.get(topicPath+"?group=g&batch=9&wait=0s").want(t, 200)
		var got []string
		for _, o := range objects(t, r.body) {
			got = append(got, fmt.Sprint(o.text(), o.Attempt))
		}
		if s := strings.Join(got, " "); s != "a2 c2 d1" {
			t.Errorf("after it left: %s, want a2 c2 d1", s)
		}
		c.put(topicPath+"?group=g&op=nack", "", "X-Receipt: "+first.Receipt).problem(t, 409, "fenced")
	})
}

func TestHeartbeats(t *testing.T) {
	for _, k := range []struct{ accept, hello, beat string }{
		{typeJSONLines, "", "\n"}, {typeEvents, retryAdvice, ":\n\n"}, {typeText, "", ""},
	} {
		for _, encoding := range []string{"identity", "gzip", "zstd"} {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1)
				c, stop := servePipes(t, w.mux)
				defer stop()
				s := c.stream(feedPath+"?group=g", "Accept: "+k.accept, "Accept-Encoding: "+encoding)
				read := &timed{start: time.Now()}
				go func() {
					_, _ = io.Copy(read, decoder(t, s.res.Header.Get("Content-Encoding"), s.res.Body))
				}()
				pass(20 * time.Second)
				w.publish("v") // breaks the silence: the next heartbeat is 15 s later
				synctest.Wait()
				pass(50 * time.Second)
				synctest.Wait()
				s.close()
				synctest.Wait()
				want := ""
				if k.hello != "" {
					want = fmt.Sprintf("0s %q\n", k.hello)
				}
				for _, at := range []string{"15s", "20s", "35s", "50s", "1m5s"} {
					switch {
					case at == "20s":
						want += "20s \"message\"\n"
					case k.beat != "":
						want += fmt.Sprintf("%s %q\n", at, k.beat)
					}
				}
				if read.String() != want {
					t.Errorf("%s %s:\n%swant\n%s", k.accept, encoding, read, want)
				}
			})
		}
	}
}

// timed notes when something was read.
type timed struct {
	start time.Time
	log   strings.Builder
}

func (r *timed) Write(b []byte) (int, error) {
	text := string(b)
	if strings.Contains(text, "v") && !strings.Contains(text, "retry") {
		text = "message"
	}
	fmt.Fprintf(&r.log, "%v %q\n", time.Since(r.start), text)
	return len(b), nil
}

func (r *timed) String() string { return r.log.String() }

func TestAStreamTellsAGap(t *testing.T) {
	for accept, want := range map[string]string{
		typeJSONLines: `{"event":"gap","ranges":[{"partition":0,"from":1,"to":3}]}` + "\n",
		typeEvents:    retryAdvice + `event: gap` + "\n" + `data: {"event":"gap","ranges":[{"partition":0,"from":1,"to":3}]}` + "\n\n",
		typeText:      "",
	} {
		w := newWorld(t, 1)
		c := serve(t, w.mux, false)
		w.publish("a", "b", "c", "d")
		c.get(topicPath+"?group=g").want(t, 200)
		awaitCommit(t, w, "g", 1)
		forgetGroups(t, w)
		if err := w.store.Trim(topicName, 0, 3); err != nil {
			t.Fatal(err)
		}
		c = serve(t, w.mux, false)
		r := c.get(feedPath+"?group=g&limit=1", "Accept: "+accept).want(t, 200)
		rest, found := strings.CutPrefix(r.body, want)
		if !found || !strings.Contains(rest, "d") || strings.Contains(rest, "gap") {
			t.Errorf("%s: %q, want %q and then the message", accept, r.body, want)
		}
	}
}

func TestStreamsAreCompressedChunkByChunk(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		for _, encoding := range []string{"gzip", "zstd"} {
			w := newWorld(t, 1)
			s := serve(t, w.mux, h2).stream(feedPath+"?group=g", "Accept-Encoding: "+encoding)
			if got := s.res.Header.Get("Content-Encoding"); got != encoding {
				t.Fatalf("Content-Encoding %q, want %q", got, encoding)
			}
			w.publish("first")
			s.lines = bufio.NewReader(decoder(t, encoding, s.res.Body))
			for i := range 50 {
				if i > 0 {
					w.publish("first")
				}
				if o := parseObject(t, s.line()); o.text() != "first" || o.Offset != int64(i) {
					t.Fatalf("%s: message %d: %+v", encoding, i, o)
				}
			}
			s.close()
		}
	}
}

func TestStreamsAndPollsEndWhenTheGatewayDrains(t *testing.T) {
	w := newWorld(t, 1)
	c := serve(t, w.mux, false)
	var streams []*streaming
	for _, accept := range []string{typeJSONLines, typeEvents, typeText} {
		for _, encoding := range []string{"identity", "gzip", "zstd"} {
			streams = append(streams, c.stream(feedPath+"?group=g", "Accept: "+accept, "Accept-Encoding: "+encoding))
		}
	}
	polled := c.later(topicPath + "?group=g")
	awaitMetric(t, w, "kateway_group_sessions", 10)
	if err := w.hub.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, s := range streams {
		if _, err := io.ReadAll(decoder(t, s.res.Header.Get("Content-Encoding"), s.res.Body)); err != nil {
			t.Errorf("%s %s: does not end in good order: %v", s.res.Header.Get("Content-Type"), s.res.Header.Get("Content-Encoding"), err)
		}
	}
	if r := <-polled; r.StatusCode != 204 {
		t.Errorf("a poll that waited is answered %d, want 204: %s", r.StatusCode, r.body)
	}
	c.get(topicPath+"?group=g").want(t, 204)
	r := c.get(feedPath + "?group=g")
	if r.problem(t, 503, "draining"); r.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
}

// A client that reads nothing is cut off by the deadline of the write, and what it did not get goes to others.
func TestASlowReaderIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		c, stop := servePipes(t, w.mux)
		defer stop()
		s := c.stream(feedPath + "?group=g")
		start := time.Now()
		value := strings.Repeat("x", 100_000) // more than the client's transport reads ahead
		w.publish(value, value)
		synctest.Wait()
		r := c.get(topicPath+"?group=g&wait=2m").want(t, 200)
		if r.body != value || r.Header.Get("X-Offset") != "0" || r.Header.Get("X-Attempt") != "2" {
			t.Errorf("offset %s at attempt %s", r.Header.Get("X-Offset"), r.Header.Get("X-Attempt"))
		}
		if took := time.Since(start); took < renewAt || took > writeTimeout {
			t.Errorf("cut off after %v, want %v to %v", took, renewAt, writeTimeout)
		}
		if _, err := io.ReadAll(s.res.Body); err == nil {
			t.Error("the cut looks like an end in good order")
		}
		s.close()
	})
}

// A message that its client takes longer to read than the lease is not acked, and comes again.
func TestALateAckIsNoAck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		c, stop := servePipes(t, w.mux)
		defer stop()
		s := c.stream(feedPath + "?group=g&lease=2s")
		w.publish(strings.Repeat("x", 100_000)) // more than the client's transport reads ahead
		pass(5 * time.Second)
		if first, second := parseObject(t, s.line()), parseObject(t, s.line()); first.Attempt != 1 || second.Attempt != 2 || second.Offset != 0 {
			t.Errorf("attempts %d and %d of offsets %d and %d", first.Attempt, second.Attempt, first.Offset, second.Offset)
		}
		s.close()
		synctest.Wait()
		if n := metric(t, w.metrics, "kateway_sub_late_total"); n != 1 {
			t.Errorf("%v late messages are counted, want 1", n)
		}
	})
}

// The deadline of the last write must not hit a stream that is merely silent.
func TestSilenceIsNotSlowness(t *testing.T) {
	for _, accept := range []string{typeJSONLines, typeText, typeEvents} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, 1)
			c, stop := servePipes(t, w.mux)
			defer stop()
			s := c.stream(feedPath+"?group=g", "Accept: "+accept)
			go func() {
				pass(time.Hour)
				w.publish("after an hour")
			}()
			for !strings.Contains(s.line(), "after an hour") { // what comes before is read and passed over
			}
			s.close()
		})
	}
}

func TestAStreamOfAVanishedTopicEnds(t *testing.T) {
	w := newWorld(t, 1)
	c := serve(t, w.mux, false)
	s := c.stream(feedPath + "?group=g")
	if err := w.store.DeleteTopic(t.Context(), topicName); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(s.res.Body); err != nil || string(b) != `{"event":"end","code":"unknown_topic"}`+"\n" {
		t.Errorf("%q %v, want the reason and the end in good order", b, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if res := c.do(ctx, http.MethodGet, topicPath+"?group=h&wait=0s", ""); res.StatusCode != 204 { // made anew, since it was forgotten
		t.Errorf("status %d after the topic was deleted, want 204", res.StatusCode)
	} else {
		res.Body.Close()
	}
}
