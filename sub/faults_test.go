package sub

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/store"
)

// broken is an engine with one fault, and what was asked of it.
type broken struct {
	open, next, use error
	late            bool // Next brings a message although its ctx has ended
	settled         []group.Verb
	closed          int
	forgotten       int
}

var (
	_ group.Opener  = brokenGroups{}
	_ group.Session = (*broken)(nil)
	_ Topics        = (*broken)(nil)
)

func (b *broken) Use(context.Context, meta.Topic) (string, error) { return topicName, b.use }

func (b *broken) Forget(meta.Topic) { b.forgotten++ }

func (b *broken) Close() { b.closed++ }

// A poll whose acks nobody answered says that their outcome is unknown, not that the messages will come again.
func TestUnknownAcksOfAPoll(t *testing.T) {
	receipt := string(brokenGroups{}.Receipts(group.Key{Topic: topicName, Group: "default.g.shop.orders.v1"}).Seal(nil, group.Ref{Attempt: 1}))
	for _, c := range []struct {
		err             error
		fenced, unknown string
	}{
		{errs.Fenced, receipt, ""},
		{context.DeadlineExceeded, "", receipt},
		{errs.Unavailable, "", receipt},
		{nil, "", ""},
	} {
		b := &broken{next: c.err}
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, topicPath+"?group=g&ack=explicit&wait=0s", nil)
		r.Header.Set("X-Receipt", receipt)
		b.handler().ServeHTTP(w, r)
		if f, u := w.Header().Get("X-Receipt-Fenced"), w.Header().Get("X-Receipt-Unknown"); f != c.fenced || u != c.unknown {
			t.Errorf("%v: fenced %q, unknown %q; want %q, %q", c.err, f, u, c.fenced, c.unknown)
		}
	}
}

func (b *broken) handler() http.Handler {
	log := slog.New(slog.DiscardHandler)
	return muxOf(New(Config{Groups: brokenGroups{b}, Topics: b, Log: log, Metrics: prometheus.NewRegistry()}), log)
}

// brokenGroups is the Opener's half: it and a session both have a Settle.
type brokenGroups struct{ b *broken }

func (g brokenGroups) Open(context.Context, group.Ask) (group.Session, error) { return g.b, g.b.open }

func (g brokenGroups) Receipts(key group.Key) *group.Receipts {
	return group.NewReceipts([]byte("secret"), key)
}

func (g brokenGroups) Settle(_ context.Context, _ group.Key, verbs ...group.Verb) []error {
	return slices.Repeat([]error{g.b.next}, len(verbs))
}

func (g brokenGroups) Through(_ context.Context, _ group.Key, at ...store.Position) []error {
	return slices.Repeat([]error{g.b.next}, len(at))
}

func (g brokenGroups) Mark(_ context.Context, _ group.Key, at ...group.At) []error {
	return slices.Repeat([]error{g.b.next}, len(at))
}

func (b *broken) Settle(verbs ...group.Verb) []error {
	b.settled = append(b.settled, verbs...)
	return make([]error, len(verbs))
}

func (b *broken) Next(ctx context.Context, _ int) (group.Batch, error) {
	if b.next != nil {
		return group.Batch{}, b.next
	}
	<-ctx.Done()
	if b.late {
		return group.Batch{Deliveries: []group.Delivery{{Message: &store.Message{Value: []byte("late")}, Ref: group.Ref{Attempt: 1}}}}, nil
	}
	return group.Batch{}, ctx.Err()
}

func TestWhatTheEngineSaysIsAnswered(t *testing.T) {
	wrap := func(k errs.Kind) error { return fmt.Errorf("deep inside: %w", k) }
	cases := []struct {
		name         string
		engine       broken
		poll, stream int
		code         string
		forgotten    int
	}{
		{"draining at open", broken{open: wrap(errs.Draining)}, 204, 503, "draining", 0},
		{"no store at open", broken{open: wrap(errs.Unavailable)}, 503, 503, "unavailable", 0},
		{"no topic at open", broken{open: wrap(errs.UnknownTopic)}, 404, 404, "unknown_topic", 1},
		{"another mode", broken{open: wrap(errs.Conflict)}, 409, 409, "conflict", 0},
		{"no such topic", broken{use: wrap(errs.UnknownTopic)}, 404, 404, "unknown_topic", 0},
		{"not granted", broken{use: wrap(errs.Denied)}, 403, 403, "denied", 0},
		{"draining while waiting", broken{next: wrap(errs.Draining)}, 204, 200, "", 0},
		{"no store while waiting", broken{next: wrap(errs.Unavailable)}, 503, 0, "unavailable", 0},
		{"no topic while waiting", broken{next: wrap(errs.UnknownTopic)}, 404, 200, "unknown_topic", 1},
	}
	for _, k := range cases {
		for path, want := range map[string]int{topicPath: k.poll, feedPath: k.stream} {
			engine := k.engine
			c := serve(t, engine.handler(), false)
			if want == 0 { // the stream has begun: only a cut tells that something failed
				r, err := c.http.Get(c.base + path + "?group=g")
				if err == nil {
					_, err = r.Body.Read(make([]byte, 1))
					r.Body.Close()
				}
				if err == nil || err.Error() == "EOF" {
					t.Errorf("%s: %s: a failure looks like the end: %v", k.name, path, err)
				}
				continue
			}
			r := c.get(path+"?group=g").want(t, want)
			switch {
			case want >= 400:
				r.problem(t, want, k.code)
			case k.code != "" && path == feedPath:
				if end := fmt.Sprintf("{\"event\":\"end\",\"code\":%q}\n", k.code); r.body != end {
					t.Errorf("%s: the stream ends with %q, want %q", k.name, r.body, end)
				}
			}
			if engine.forgotten != k.forgotten {
				t.Errorf("%s: %s: forgotten %d times, want %d", k.name, path, engine.forgotten, k.forgotten)
			}
			if opened := k.engine.open == nil && k.engine.use == nil; opened && engine.closed == 0 {
				t.Errorf("%s: %s: the session was left open", k.name, path)
			}
		}
	}
}

func TestSettleAnswersTheKindOfItsFailure(t *testing.T) {
	engine := broken{next: fmt.Errorf("far away: %w", errs.Unavailable)}
	c := serve(t, engine.handler(), false)
	receipt := brokenGroups{}.Receipts(group.Key{Topic: topicName, Group: "default.g.shop.orders.v1"}).Seal(nil, group.Ref{Attempt: 1})
	r := c.put(topicPath+"?group=g&op=ack", "", "X-Receipt: "+string(receipt))
	if detail := r.problem(t, 503, "unavailable"); detail != "" || r.Header.Get("Retry-After") == "" {
		t.Errorf("our own fault's text is told (%q), or no Retry-After: %v", detail, r.Header)
	}
	engine.next = errs.UnknownTopic
	c.put("/v1/offsets/shop/orders/v1/g", `[{"partition":0,"offset":1}]`).problem(t, 404, "unknown_topic")
	if engine.forgotten != 1 {
		t.Errorf("forgotten %d times, want once", engine.forgotten)
	}
}

// A message that came in the moment the client left is not written, and not acked.
func TestADeliveryToAClientThatHasGoneIsGivenBack(t *testing.T) {
	for query, wantNack := range map[string]bool{
		topicPath + "?group=g": false, topicPath + "?group=g&ack=explicit": true,
		topicPath + "?group=g&batch=9": false, feedPath + "?group=g": false, feedPath + "?group=g&ack=explicit": false,
	} {
		engine := broken{late: true}
		ctx, leave := context.WithCancel(t.Context())
		rec := httptest.NewRecorder()
		done := make(chan struct{})
		go func() {
			defer close(done)
			engine.handler().ServeHTTP(&deadlines{rec}, httptest.NewRequest(http.MethodGet, query, nil).WithContext(ctx))
		}()
		leave()
		<-done
		if rec.Code == 200 && rec.Body.Len() > 0 {
			t.Errorf("%s: %q was written for nobody", query, rec.Body)
		}
		if engine.closed == 0 {
			t.Errorf("%s: the session was left open", query)
		}
		nacked := len(engine.settled) == 1 && engine.settled[0].Op == group.Nack
		if nacked != wantNack || !nacked && len(engine.settled) > 0 {
			t.Errorf("%s: settled %v", query, engine.settled)
		}
	}
}

// deadlines lets a recorder take a write deadline.
type deadlines struct{ *httptest.ResponseRecorder }

func (deadlines) SetWriteDeadline(time.Time) error { return nil }
