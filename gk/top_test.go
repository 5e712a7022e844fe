package gk

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func metricsText(published, delivered int64) string {
	return fmt.Sprintf(`# HELP kateway_publish_messages_total Messages stored.
# TYPE kateway_publish_messages_total counter
kateway_publish_messages_total{topic="a/b/v1"} %d
kateway_publish_messages_total{topic="other} 7"} 10
# TYPE kateway_sub_messages_total counter
kateway_sub_messages_total{topic="a/b/v1"} %d
# TYPE kateway_sub_streams gauge
kateway_sub_streams{form="sse"} 2
kateway_sub_streams{form="text"} 1
`, published, delivered)
}

// busy is a gateway whose counters grow with each look.
func busy(t *testing.T) *fake {
	t.Helper()
	f := newFake(t)
	var looks atomic.Int64
	f.answer("GET /v1/gateways", 200, items(`{"id":"gw1","version":"v1","host":"one","load":{"publish_per_second":12.5,"streams":3}}`))
	f.handle("GET /v1/clients", func(w http.ResponseWriter, _ *http.Request) {
		n := looks.Add(1)
		_, _ = fmt.Fprintf(w, `{"items":[%s],"unreachable":["gw2"]}`, strings.Join([]string{
			fmt.Sprintf(`{"gateway":"gw1","kind":"pub","app":"shop","topic":"orders","ver":"v1","remote":"r:1","messages":%d,"bytes":%d}`, n, n*100),
			fmt.Sprintf(`{"gateway":"gw1","kind":"sse","app":"bill","owner":"shop","topic":"orders","ver":"v1","group":"g","remote":"r:2","messages":%d}`, n*1000),
		}, ","))
	})
	f.handle("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(metricsText(looks.Load()*100, looks.Load())))
	})
	return f
}

func TestTopOnce(t *testing.T) {
	f := busy(t)
	o := f.invoke(t, "top", "--once", "--every", "100ms")
	o.contains(t, 0, "published ", "3 streams", "gw2", "it did not answer")
	if strings.Contains(o.out, "\x1b") {
		t.Error("escapes for no terminal")
	}
	if sse := o.fields(t, "sse"); sse[2] != "shop/orders/v1" || sse[len(sse)-1] != "2000" {
		t.Error(sse)
	}
	if strings.Index(o.out, "sse") > strings.Index(o.out, "pub   shop") {
		t.Error("the busiest is not the first")
	}
	o = f.invoke(t, "top", "--once", "--every", "100ms", "--rows", "1", "-o", "json")
	var fr frame
	if err := json.Unmarshal([]byte(o.out), &fr); err != nil || len(fr.Clients) != 1 || fr.Published <= 0 || strings.Count(o.out, "\n") != 1 {
		t.Errorf("%v, %s", err, o.out)
	}
}

func TestTopGoesOn(t *testing.T) {
	f := busy(t)
	frames := 0
	o := f.watch(t, func(text string) { frames = strings.Count(text, "GATEWAY  VERSION") }, []string{"3000", "5000"}, "top", "--every", "100ms")
	if o.code != 0 || frames < 4 {
		t.Errorf("%d frames, %+v", frames, o)
	}
	f.Close()
	f.invoke(t, "top").contains(t, exitUnreachable, "no answer")
}

func TestFrame(t *testing.T) {
	at := time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)
	since := at.Add(-time.Hour)
	before := &sample{at: at, metrics: map[string]float64{"kateway_publish_messages_total": 100, "kateway_sub_messages_total": 50}, uses: []use{
		{Kind: "pub", App: "a", Remote: "r:1", Since: since, Messages: 10, Bytes: 100},
		{Kind: "pub", App: "b", Remote: "r:2", Since: since, Messages: 1000},
	}}
	now := &sample{at: at.Add(2 * time.Second), metrics: map[string]float64{"kateway_publish_messages_total": 300, "kateway_sub_messages_total": 10}, uses: []use{
		{Kind: "pub", App: "a", Remote: "r:1", Since: since, Messages: 30, Bytes: 500},
		{Kind: "pub", App: "b", Remote: "r:2", Since: since, Messages: 1000},
		{Kind: "pub", App: "b", Remote: "r:2", Since: at, Messages: 4}, // a new use on the same connection
	}}
	f := between(before, now, 2)
	if f.Published != 100 || f.Delivered != 0 { // the gateway started anew: its counters are lower
		t.Errorf("%+v", f)
	}
	if len(f.Clients) != 2 || f.Clients[0].Messages != 10 || f.Clients[0].Bytes != 200 || f.Clients[1].Messages != 2 {
		t.Errorf("%+v", f.Clients)
	}
}

func TestSums(t *testing.T) {
	got, err := sums([]byte(metricsText(5, 1)), counted)
	if err != nil || got["kateway_publish_messages_total"] != 15 || got["kateway_sub_streams"] != 3 {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := sums([]byte("<html>"), counted); err == nil {
		t.Error("no metrics, and no error")
	}
}
