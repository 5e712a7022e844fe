package pub

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// withTime is a context that ends with the test's patience.
func withTime(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestAsyncIsStoredInOrder(t *testing.T) {
	g := newGateway(t, nil)
	release := g.store.Hold()
	for i := range 100 {
		path := "/v1/msgs/t/v1?async=1&partition=0"
		if i%10 == 0 {
			path += "&ack=local"
		}
		a := g.post(t, path, strings.NewReader(fmt.Sprint(i)))
		if a.status != 202 || a.body != "{\"queued\":true}\n" {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	if got := g.stored(t, "default.t.v1"); len(got) > 0 {
		t.Fatalf("%d are stored while the store waits", len(got))
	}
	if n := g.series(t)["kateway_publish_queued_bytes{}"]; n < 100*messageWeight {
		t.Errorf("the gauge says %v bytes", n)
	}
	release()
	if err := g.handler.Close(withTime(t)); err != nil {
		t.Fatal(err)
	}
	got := g.stored(t, "default.t.v1")
	for i, m := range got {
		if string(m.Value) != fmt.Sprint(i) {
			t.Fatalf("message %d is %s", i, m.Value)
		}
	}
	if len(got) != 100 {
		t.Errorf("%d messages", len(got))
	}
	if n := g.series(t)["kateway_publish_queued_bytes{}"]; n != 0 {
		t.Errorf("%v bytes are left", n)
	}
}

func TestAsyncBatch(t *testing.T) {
	g := newGateway(t, nil)
	if a := g.post(t, "/v1/msgs/t/v1?async=1&batch=lines&key=k", strings.NewReader("a\nb")); a.status != 202 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if a := g.post(t, "/v1/msgs/t/v1?async=1&batch=array", strings.NewReader("[")); a.status != 400 {
		t.Errorf("the checks are as usual: %d %s", a.status, a.body)
	}
	if err := g.handler.Close(withTime(t)); err != nil {
		t.Fatal(err)
	}
	if got := shows(g.stored(t, "default.t.v1")); len(got) != 2 || got[0] != "k||a" || got[1] != "k||b" {
		t.Errorf("%q", got)
	}
}

func TestAsyncQueueIsBounded(t *testing.T) {
	g := newGateway(t, func(c *Config) { c.Limits.Async = 10_000 })
	release := g.store.Hold()
	statuses := map[int]int{}
	for range 20 {
		a := g.post(t, "/v1/msgs/t/v1?async=1", strings.NewReader(strings.Repeat("x", 1000)))
		statuses[a.status]++
		if a.status == 503 && (a.code() != "overloaded" || a.header.Get("Retry-After") == "") {
			t.Errorf("%s %v", a.body, a.header)
		}
	}
	if statuses[202] != 7 || statuses[503] != 13 { // 1,024 or so of buffer and 256 each
		t.Errorf("statuses %v", statuses)
	}
	release()
	if err := g.handler.Close(withTime(t)); err != nil {
		t.Fatal(err)
	}
	if got := g.stored(t, "default.t.v1"); len(got) != statuses[202] {
		t.Errorf("%d stored of %d taken", len(got), statuses[202])
	}
}

func TestAsyncAfterCloseIsDraining(t *testing.T) {
	g := newGateway(t, nil)
	if err := g.handler.Close(withTime(t)); err != nil {
		t.Fatal(err)
	}
	if a := g.post(t, "/v1/msgs/t/v1?async=1", strings.NewReader("v")); a.status != 503 || a.code() != "draining" {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := g.post(t, "/v1/msgs/t/v1", strings.NewReader("v")); a.status != 201 {
		t.Errorf("a publish that waits: %d %s", a.status, a.body)
	}
}

func TestCloseGivesUpWithItsContext(t *testing.T) {
	g := newGateway(t, nil)
	release := g.store.Hold()
	defer release()
	for range 3 {
		if a := g.post(t, "/v1/msgs/t/v1?async=1", strings.NewReader("v")); a.status != 202 {
			t.Fatal(a)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := g.handler.Close(ctx); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "given up") {
		t.Errorf("Close: %v", err)
	}
	if err := g.handler.Close(withTime(t)); err != nil { // what was given up ends soon
		t.Errorf("Close again: %v", err)
	}
	if got := g.stored(t, "default.t.v1"); len(got) > 0 {
		t.Errorf("stored after all: %q", shows(got))
	}
	failed := g.series(t)["kateway_publish_failures_total{code=uncertain topic=default/t/v1}"] +
		g.series(t)["kateway_publish_failures_total{code=draining topic=default/t/v1}"]
	if failed != 3 {
		t.Errorf("%v messages counted as failed", failed)
	}
}

func TestAsyncFailuresAreCountedAndLogged(t *testing.T) {
	g := newGateway(t, nil)
	g.store.Fail(func(string) error { return errs.Unavailable })
	for range 5 {
		if a := g.post(t, "/v1/msgs/t/v1?async=1", strings.NewReader("v")); a.status != 202 {
			t.Fatal(a)
		}
	}
	if err := g.handler.Close(withTime(t)); err != nil {
		t.Fatal(err)
	}
	if n := g.series(t)["kateway_publish_failures_total{code=unavailable topic=default/t/v1}"]; n != 5 {
		t.Errorf("%v failures counted", n)
	}
	if log := g.log.String(); strings.Count(log, "messages are lost") != 1 || !strings.Contains(log, "default/t/v1") {
		t.Errorf("log: %s", log)
	}
}

// One bad message must not take those of other requests with it, though they are published together.
func TestAsyncBadMessageHarmsNoOther(t *testing.T) {
	g := newGateway(t, nil)
	release := g.store.Hold()
	for _, p := range []string{"0", "9", "1"} {
		if a := g.post(t, "/v1/msgs/t/v1?async=1&partition="+p, strings.NewReader(p)); a.status != 202 {
			t.Fatal(a)
		}
	}
	release()
	if err := g.handler.Close(withTime(t)); err != nil {
		t.Fatal(err)
	}
	if got := shows(g.stored(t, "default.t.v1")); len(got) != 2 {
		t.Errorf("%q", got)
	}
}

func TestQueueMergesWhatWaits(t *testing.T) {
	g := newGateway(t, nil)
	calls := make(chan int, 100)
	hold := make(chan struct{})
	g.handler.store = publisher(func(ctx context.Context, topic string, ack store.Ack, msgs ...*store.Message) error {
		calls <- len(msgs)
		<-hold
		return g.store.Publish(ctx, topic, ack, msgs...)
	})
	g.post(t, "/v1/msgs/t/v1?async=1", strings.NewReader("v"))
	if n := <-calls; n != 1 {
		t.Fatalf("%d messages in the first call", n)
	}
	for range 50 {
		g.post(t, "/v1/msgs/t/v1?async=1", strings.NewReader("v"))
	}
	close(hold)
	if n := <-calls; n != 50 {
		t.Errorf("%d messages in the second call, 50 were waiting", n)
	}
	if err := g.handler.Close(withTime(t)); err != nil {
		t.Fatal(err)
	}
}
