package gk

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// relay is a topic that gives each stream what is published after it began.
type relay struct {
	mu      sync.Mutex
	streams map[chan string]bool
}

func (f *fake) relay(drop func(n int) bool) {
	r := &relay{streams: map[chan string]bool{}}
	n := 0
	f.handle("POST /v1/msgs/orders/v1", func(w http.ResponseWriter, req *http.Request) {
		b, _ := io.ReadAll(req.Body)
		lines := strings.Split(string(b), "\n")
		r.mu.Lock()
		for _, l := range lines {
			if n++; drop != nil && drop(n) {
				continue
			}
			for s := range r.streams {
				s <- l
			}
		}
		r.mu.Unlock()
		w.WriteHeader(201)
		_, _ = fmt.Fprintf(w, `{"results":[%s{}]}`, strings.Repeat("{},", len(lines)-1))
	})
	f.handle("GET /v1/stream/shop/orders/v1", func(w http.ResponseWriter, req *http.Request) {
		s := make(chan string, 100_000)
		r.mu.Lock()
		r.streams[s] = true
		r.mu.Unlock()
		_, _ = io.WriteString(w, "{\"value\":\"of somebody else\"}\n\n")
		_ = http.NewResponseController(w).Flush()
		for {
			select {
			case <-req.Context().Done():
				return
			case v := <-s:
				_, _ = fmt.Fprintf(w, "{\"partition\":0,\"value\":%q}\n", v)
				_ = http.NewResponseController(w).Flush()
			}
		}
	})
}

func TestBench(t *testing.T) {
	f := newFake(t)
	f.relay(nil)
	o := f.invoke(t, "bench", "shop/orders/v1", "--pub", f.URL, "--sub", f.URL, "-d", "100ms", "-c", "4", "-b", "10", "--group", "g", "-o", "json")
	var r benchReport
	if err := json.Unmarshal([]byte(o.out), &r); err != nil || o.code != 0 {
		t.Fatalf("%v, %+v", err, o)
	}
	p, s := r.Publish, r.Subscribe
	if p.Messages == 0 || p.Messages != p.Requests*10 || p.Errors != 0 || p.P50 <= 0 || p.P50 > p.P99 || p.P99 > p.Max || p.MessagesPerSecond <= 0 {
		t.Errorf("%+v", p)
	}
	if s == nil || s.Messages != p.Messages || s.Errors != 0 || s.Max <= 0 {
		t.Errorf("%+v of %d", s, p.Messages)
	}
	for _, q := range f.requests() {
		if q.method == "POST" && len(q.body) != 10*100+9 {
			t.Fatalf("a body of %d bytes", len(q.body))
		}
	}
	o = f.invoke(t, "bench", "shop/orders/v1", "--pub", f.URL, "-d", "20ms")
	o.contains(t, 0, "SIDE", "publish", "P99.9")
}

func TestBenchTellsOfFailures(t *testing.T) {
	f := newFake(t)
	f.handle("POST /v1/msgs/orders/v1", func(w http.ResponseWriter, _ *http.Request) { refuse(w, 503, "unavailable", "") })
	f.handle("POST /v1/msgs/part/v1", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(207)
		_, _ = io.WriteString(w, `{"results":[{},{"error":{"code":"disk_full"}}]}`)
	})
	f.invoke(t, "bench", "shop/orders/v1", "--pub", f.URL, "-d", "20ms").contains(t, 1, "publishes failed: map[unavailable:")
	f.invoke(t, "bench", "shop/part/v1", "--pub", f.URL, "-d", "20ms", "-b", "2").contains(t, 1, "map[disk_full:")
	f.invoke(t, "bench", "shop/none/v1", "--pub", f.URL, "--sub", f.URL, "--group", "g").contains(t, 1, "404")
	f.Close()
	f.invoke(t, "bench", "shop/orders/v1", "--pub", f.URL, "-d", "1m").contains(t, 1, "map[unreachable:8]")
}

// What never arrives is told as missing.
func TestBenchMissesMessages(t *testing.T) {
	f := newFake(t)
	f.relay(func(n int) bool { return n == 3 })
	r := &benchRun{bench: &bench{Size: 32, Batch: 1, Topic: topicArg{}, Group: "g"}, began: time.Now(), run: "run1"}
	if err := r.Topic.UnmarshalText([]byte("shop/orders/v1")); err != nil {
		t.Fatal(err)
	}
	tl, err := newTool(&global{Man: f.URL, Timeout: time.Minute}, nil, streams{}, "v1")
	if err != nil {
		t.Fatal(err)
	}
	defer tl.close()
	reader, err := r.subscribe(t.Context(), tl.man)
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if _, err := tl.man.do(t.Context(), request{method: "POST", path: "/v1/msgs/orders/v1", raw: r.fill(nil)}); err != nil {
			t.Fatal(err)
		}
	}
	reader.wait = 50 * time.Millisecond
	if l := reader.finish(t.Context(), 5); l.Messages != 4 || l.Errors != 1 {
		t.Errorf("%+v", l)
	}
}

func TestHistogram(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		values := rapid.SliceOfN(rapid.Int64Range(0, int64(time.Hour)), 1, 200).Draw(rt, "values")
		q := rapid.Float64Range(0, 1).Draw(rt, "q")
		var a, b histogram
		for i, v := range values {
			h := &a
			if i%2 == 1 {
				h = &b
			}
			h.add(time.Duration(v))
		}
		a.merge(&b)
		got := a.quantile(q)
		atMost, below := 0, 0
		for _, v := range values {
			if time.Duration(v) <= got {
				atMost++
			}
			if float64(v)*1.04+1 < float64(got) {
				below++
			}
		}
		n := float64(len(values))
		if float64(atMost)+0.5 < q*n || float64(below) > q*n+0.5 {
			rt.Fatalf("quantile %v of %v is %v: %d at most it, %d well below", q, values, got, atMost, below)
		}
	})
	var none histogram
	if none.quantile(0.99) != 0 {
		t.Error("a quantile of nothing")
	}
	for _, v := range []uint64{0, 1, 31, 32, 63, 64, 65, 1 << 20, 1<<63 - 1} {
		if i := bucket(v); v > upper(i) || i > 0 && v <= upper(i-1) {
			t.Errorf("%d is in bucket %d, up to %d", v, i, upper(i))
		}
	}
}
