package pub

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/store"
)

// publisher is a store.Publisher of its own making.
type publisher func(ctx context.Context, topic string, ack store.Ack, msgs ...*store.Message) error

func (f publisher) Publish(ctx context.Context, topic string, ack store.Ack, msgs ...*store.Message) error {
	return f(ctx, topic, ack, msgs...)
}

// topics is a Topics of its own making.
type topics func(ctx context.Context, t meta.Topic) (string, error)

func (f topics) Use(ctx context.Context, t meta.Topic) (string, error) { return f(ctx, t) }
func (topics) Forget(meta.Topic)                                       {}

func TestStoresErrorsBecomeStatuses(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
		retry  bool
	}{
		{errs.UnknownTopic, 404, false},
		{errs.TooLarge, 413, false},
		{errs.Unavailable, 503, true},
		{errs.CircuitOpen, 503, true},
		{errs.Overloaded, 503, true},
		{errs.Draining, 503, true},
		{errs.Uncertain, 504, false},
		{errs.DiskFull, 507, false},
		{context.DeadlineExceeded, 504, false},
		{store.ErrClosed, 503, true},
		{errors.New("anything"), 500, false},
		{&store.BatchError{Errs: []error{errs.DiskFull}}, 507, false},
	} {
		for _, query := range []string{"", "?batch=lines"} {
			g := newGateway(t, nil)
			g.store.Fail(func(string) error { return fmt.Errorf("broker kafka-7: %w", c.err) })
			a := g.post(t, "/v1/msgs/t/v1"+query, strings.NewReader("v"))
			if a.status != c.status || (a.header.Get("Retry-After") != "") != c.retry {
				t.Errorf("%v: %d, Retry-After %q", c.err, a.status, a.header.Get("Retry-After"))
			}
			if c.status >= 500 && strings.Contains(a.body, "kafka-7") {
				t.Errorf("%v: the answer names what is behind: %s", c.err, a.body)
			}
			g.store.Fail(nil)
		}
	}
}

func TestBatchOutcomes(t *testing.T) {
	u, d, v, n := errs.Uncertain, errs.DiskFull, errs.Unavailable, error(nil)
	for _, c := range []struct {
		errs   []error
		status int
	}{
		{[]error{n, n, n}, 201},
		{[]error{n, v, v}, 207},
		{[]error{v, n, u}, 207},
		{[]error{v, v, v}, 503},
		{[]error{d, v, v}, 507},
		{[]error{v, d, u}, 504},
		{[]error{u, u, u}, 504},
	} {
		p := publisher(func(_ context.Context, _ string, _ store.Ack, msgs ...*store.Message) error {
			for i, m := range msgs {
				m.Partition, m.Offset = 1, int64(10+i)
			}
			return &store.BatchError{Errs: c.errs}
		})
		g := newGateway(t, func(cfg *Config) { cfg.Store = p })
		a := g.post(t, "/v1/msgs/t/v1?batch=lines", strings.NewReader("a\nb\nc"))
		if a.status != c.status {
			t.Errorf("%v: %d %s", c.errs, a.status, a.body)
		}
		if a.status >= 300 {
			continue
		}
		for i, r := range parseResults(t, a).Results {
			switch want := c.errs[i]; {
			case want == nil && (r.Error != nil || r.Partition != 1 || r.Offset != int64(10+i)):
				t.Errorf("%v: result %d is %+v", c.errs, i, r)
			case want != nil && (r.Error == nil || r.Error.Status != errs.Of(want).Status() || r.Error.Code != errs.Of(want).Code()):
				t.Errorf("%v: result %d is %+v", c.errs, i, r)
			}
		}
	}
}

func TestDeadline(t *testing.T) {
	g := newGateway(t, func(c *Config) { c.Limits.Deadline = 20 * time.Millisecond })
	if a := g.post(t, "/v1/msgs/t/v1", strings.NewReader("v")); a.status != 201 {
		t.Fatal(a)
	}
	heal := g.store.Cut()
	if a := g.post(t, "/v1/msgs/t/v1", strings.NewReader("v")); a.status != 504 || a.code() != "uncertain" {
		t.Errorf("no answer from the store: %d %s", a.status, a.body)
	}
	heal()
	slow := newGateway(t, func(c *Config) {
		c.Limits.Deadline = 20 * time.Millisecond
		c.Topics = topics(func(ctx context.Context, _ meta.Topic) (string, error) {
			<-ctx.Done()
			return "", ctx.Err()
		})
	})
	if a := slow.post(t, "/v1/msgs/t/v1", strings.NewReader("v")); a.status != 503 {
		t.Errorf("nothing is stored while the topic is looked for, so that is certain: %d %s", a.status, a.body)
	}
}

// A client that hangs up neither ends its own publish nor harms another's.
func TestClientHangsUp(t *testing.T) {
	g := newGateway(t, nil)
	entered, release := make(chan struct{}, 2), make(chan struct{})
	ended := make(chan error, 2)
	g.handler.store = publisher(func(ctx context.Context, topic string, ack store.Ack, msgs ...*store.Message) error {
		entered <- struct{}{}
		<-release
		err := errors.Join(ctx.Err(), g.store.Publish(ctx, topic, ack, msgs...))
		ended <- err
		return err
	})
	ctx, cancel := context.WithCancel(context.Background())
	var gone, stays sync.WaitGroup
	gone.Go(func() {
		if _, err := g.try(ctx, "/v1/msgs/t/v1", strings.NewReader("gone")); !errors.Is(err, context.Canceled) {
			t.Errorf("the client that hung up got %v", err)
		}
	})
	stays.Go(func() {
		if a := g.post(t, "/v1/msgs/t/v1", strings.NewReader("stays")); a.status != 201 {
			t.Errorf("the other one got %d", a.status)
		}
	})
	<-entered
	<-entered
	cancel()
	gone.Wait()
	close(release)
	for range 2 {
		if err := <-ended; err != nil {
			t.Errorf("a publish ended with %v", err)
		}
	}
	stays.Wait()
	if got := g.stored(t, "default.t.v1"); len(got) != 2 {
		t.Errorf("stored %q", shows(got))
	}
}

func TestTopicDeletedOutsideIsMadeAnew(t *testing.T) {
	for _, query := range []string{"", "?batch=lines"} {
		g := newGateway(t, nil)
		for range 2 {
			if a := g.post(t, "/v1/msgs/t/v1"+query, strings.NewReader("v")); a.status != 201 {
				t.Fatalf("%d %s", a.status, a.body)
			}
			if err := g.store.DeleteTopic(context.Background(), "default.t.v1"); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestTopicThatStaysGoneIsAskedForTwice(t *testing.T) {
	asked := 0
	g := newGateway(t, func(c *Config) {
		c.Topics = topics(func(context.Context, meta.Topic) (string, error) { asked++; return "gone", nil })
	})
	if a := g.post(t, "/v1/msgs/t/v1", strings.NewReader("v")); a.status != 404 || a.code() != "unknown_topic" || asked != 2 {
		t.Errorf("%d %s after asking %d times", a.status, a.body, asked)
	}
}

func TestTopicErrors(t *testing.T) {
	for kind, status := range map[errs.Kind]int{errs.Denied: 403, errs.Conflict: 409, errs.Unavailable: 503, errs.UnknownTopic: 404} {
		g := newGateway(t, func(c *Config) {
			c.Topics = topics(func(context.Context, meta.Topic) (string, error) { return "", kind })
		})
		for _, query := range []string{"", "?async=1"} {
			if a := g.post(t, "/v1/msgs/t/v1"+query, strings.NewReader("v")); a.status != status {
				t.Errorf("%v%s: %d %s", kind, query, a.status, a.body)
			}
		}
	}
}

func TestIdempotencyKey(t *testing.T) {
	g := newGateway(t, nil)
	post := func(path, body string, head ...string) answered {
		return g.post(t, "/v1/msgs/"+path, strings.NewReader(body), append(head, "Idempotency-Key: k1")...)
	}
	first := post("t/v1", "v", "traceparent: 1")
	if first.status != 201 {
		t.Fatalf("%d %s", first.status, first.body)
	}
	if again := post("t/v1", "v", "traceparent: 2"); again.status != 201 || again.body != first.body || again.header.Get("X-Offset") != first.header.Get("X-Offset") {
		t.Errorf("the same again: %d %s, first %s", again.status, again.body, first.body)
	}
	for _, other := range []answered{post("t/v1", "w"), post("t/v1?key=k", "v"), post("t/v1", "v", "X-Tag: a"), post("t/v1?batch=lines", "v\nv"), post("t/v1?partition=2", "v")} {
		if other.status != 422 || other.code() != "idempotency_mismatch" {
			t.Errorf("another publish with the same key: %d %s", other.status, other.body)
		}
	}
	if got := g.stored(t, "default.t.v1"); len(got) != 1 || strings.Contains(show(got[0]), "idempotency") {
		t.Errorf("stored %q", shows(got))
	}
	for _, elsewhere := range []answered{post("t/v2", "v"), post("u/v1", "v"), post("t/v1", "v", "Appid: other")} {
		if elsewhere.status != 201 {
			t.Errorf("the same key elsewhere: %d %s", elsewhere.status, elsewhere.body)
		}
	}
	batch := post("b/v1?batch=lines", "a\nb")
	if again := post("b/v1?batch=lines", "a\nb"); batch.status != 201 || again.status != 201 || again.body != batch.body {
		t.Errorf("batch: %d %s, then %d %s", batch.status, batch.body, again.status, again.body)
	}
}

func TestIdempotencyKeyNeedsAStoreThatCan(t *testing.T) {
	g := newGateway(t, func(c *Config) { c.Store = publisher(c.Store.Publish) })
	if a := g.post(t, "/v1/msgs/t/v1", strings.NewReader("v"), "Idempotency-Key: k"); a.status != 400 || a.code() != "invalid_param" {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := g.post(t, "/v1/msgs/t/v1", strings.NewReader("v")); a.status != 201 {
		t.Errorf("without: %d %s", a.status, a.body)
	}
}

func TestDigestTellsPublishesApart(t *testing.T) {
	h := func(k, v string) []store.Header { return []store.Header{{Key: k, Value: []byte(v)}} }
	seen := map[[32]byte]int{}
	for i, msgs := range [][]*store.Message{
		{{}},
		{{Value: []byte{}}},
		{{Key: []byte{}}},
		{{}, {}},
		{{Value: []byte("ab")}},
		{{Key: []byte("a"), Value: []byte("b")}},
		{{Key: []byte("ab"), Value: []byte{}}},
		{{Value: []byte("a")}, {Value: []byte("b")}},
		{{Value: []byte("a"), Headers: h("b", "c")}},
		{{Value: []byte("a"), Headers: h("bc", "")}},
		{{Value: []byte("a"), Headers: append(h("b", ""), h("c", "")...)}},
		{{Value: []byte("a"), Headers: h("b", "")}, {Value: []byte("c")}},
		{{Value: []byte("a"), Partition: 1}},
	} {
		d := digest(msgs)
		if j, twice := seen[d]; twice {
			t.Errorf("publishes %d and %d have the same digest", i, j)
		}
		seen[d] = i
	}
	traced := digest([]*store.Message{{Headers: h("traceparent", "1")}})
	if traced != digest([]*store.Message{{Headers: h("tracestate", "2")}}) || traced != digest([]*store.Message{{}}) {
		t.Error("the trace headers are part of the digest: a client's second try would be refused")
	}
}

// After Uncertain the store keeps the bytes for ever: later publishes must not write into them.
func TestUncertainBytesAreNotUsedAgain(t *testing.T) {
	var kept []*store.Message
	g := newGateway(t, nil)
	g.handler.store = publisher(func(_ context.Context, _ string, _ store.Ack, msgs ...*store.Message) error {
		kept = append(kept, msgs...)
		return errs.Uncertain
	})
	big := func(c string) string { return strings.Repeat(c, 100_000) }
	g.post(t, "/v1/msgs/t/v1", strings.NewReader(big("a")))
	g.post(t, "/v1/msgs/t/v1?batch=lines", strings.NewReader(big("b")+"\n"+big("c")))
	g.handler.store = g.store
	for range 20 {
		g.post(t, "/v1/msgs/t/v1", strings.NewReader(big("x")))
		g.post(t, "/v1/msgs/t/v1?batch=lines", strings.NewReader(big("y")+"\n"+big("z")))
	}
	for i, want := range []string{"a", "b", "c"} {
		if string(kept[i].Value) != big(want) {
			t.Errorf("message %d was overwritten: %.10q", i, kept[i].Value)
		}
	}
}

func TestMetrics(t *testing.T) {
	g := newGateway(t, nil)
	g.post(t, "/v1/msgs/t/v1?key=k", strings.NewReader("12345"))
	g.post(t, "/v1/msgs/t/v1?batch=objects", strings.NewReader(`{"partition":0,"value":"a"}`+"\n"+`{"partition":9,"value":"b"}`))
	g.post(t, "/v1/msgs/t/v1?nonsense", strings.NewReader(""))
	g.post(t, "/v1/msgs/a.b/v1", strings.NewReader(""))
	for series, want := range map[string]float64{
		`kateway_publish_messages_total{topic=default/t/v1}`:                    2,
		`kateway_publish_messages_total{topic=other}`:                           0,
		`kateway_publish_bytes_total{topic=default/t/v1}`:                       7,
		`kateway_publish_failures_total{code=invalid_name topic=other}`:         1,
		`kateway_publish_failures_total{code=invalid_param topic=default/t/v1}`: 2,
		`kateway_publish_duration_seconds{}`:                                    2,
	} {
		if got := g.series(t)[series]; got != want {
			t.Errorf("%s is %v, want %v", series, got, want)
		}
	}
}

func TestTopicLabelsAreBounded(t *testing.T) {
	g := newGateway(t, func(c *Config) {
		c.Store = publisher(func(context.Context, string, store.Ack, ...*store.Message) error { return nil })
		c.Topics = topics(func(_ context.Context, t meta.Topic) (string, error) { return t.Store(), nil })
	})
	for i := range maxTopics + 10 {
		if a := g.post(t, fmt.Sprintf("/v1/msgs/t%d/v1", i), strings.NewReader("v")); a.status != http.StatusCreated {
			t.Fatal(a)
		}
	}
	n := 0
	for name := range g.series(t) {
		if strings.HasPrefix(name, "kateway_publish_messages_total") {
			n++
		}
	}
	if n != maxTopics+1 {
		t.Errorf("%d series", n)
	}
	if n := g.series(t)["kateway_publish_messages_total{topic=other}"]; n != 10 {
		t.Errorf("%v messages of other topics", n)
	}
}
