package gateway_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kateway/kateway/gateway"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
	"github.com/kateway/kateway/store/mem"
)

// absent is a store that can be away.
type absent struct {
	*mem.Store
	away func() bool
}

var errAway = fmt.Errorf("it is away: %w", errs.Unavailable)

func (a absent) Publish(ctx context.Context, topic string, ack store.Ack, msgs ...*store.Message) error {
	if a.away() {
		return errAway
	}
	return a.Store.Publish(ctx, topic, ack, msgs...)
}

func (a absent) Resolve(ctx context.Context, topic string, s store.Start) ([]store.Position, error) {
	if a.away() {
		return nil, errAway
	}
	return a.Store.Resolve(ctx, topic, s)
}

func (a absent) Topics(ctx context.Context) ([]store.Topic, error) {
	if a.away() {
		return nil, errAway
	}
	return a.Store.Topics(ctx)
}

func (a absent) Ping(context.Context) error {
	if a.away() {
		return errAway
	}
	return nil
}

// spooling runs a gateway that takes the store for a Kafka.
func spooling(t *testing.T, dir string, s store.Store, change func(*gateway.Config)) (*gateway.Gateway, func()) {
	t.Helper()
	cfg := gateway.Default()
	cfg.Pub, cfg.Man, cfg.Data, cfg.Kafka = "127.0.0.1:0", "127.0.0.1:0", dir, []string{"127.0.0.1:1"}
	cfg.DrainDelay, cfg.DrainGrace = 0, 0
	if change != nil {
		change(&cfg)
	}
	g, err := gateway.New(t.Context(), cfg, gateway.Deps{Log: slog.New(slog.DiscardHandler), Version: "test", Store: s})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	return g, func() {
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	}
}

func request(t *testing.T, method, url, body string, head ...string) (int, http.Header, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(head); i += 2 {
		r.Header.Set(head[i], head[i+1])
	}
	resp, err := http.DefaultClient.Do(r) //nolint:forbidigo // its connections are closed at the end
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(b)
}

// TestGatewaySpools: the store goes, the gateway is started anew, for a topic that is new as well, and the store comes back: all is there,
// in order. What the gateway tells of itself meanwhile is true.
func TestGatewaySpools(t *testing.T) {
	dir, m := t.TempDir(), mem.New()
	away := make(chan struct{}, 1)
	s := func() store.Store {
		return absent{m.Reopen(), func() bool { return len(away) > 0 }}
	}
	first := s()
	m = first.(absent).Store
	g, stop := spooling(t, dir, first, nil)
	var want []string
	put := func(topic string, status int) {
		t.Helper()
		value := fmt.Sprint(topic, len(want))
		got, _, body := request(t, "POST", "http://"+g.Addr(gateway.Pub)+"/v1/msgs/"+topic+"/v1?key=k", value)
		if got != status {
			t.Fatalf("%s: %d %s", value, got, body)
		}
		want = append(want, value)
	}
	ready := func(role string) (int, string) {
		code, _, body := request(t, "GET", "http://"+g.Addr(gateway.Man)+"/ready?role="+role, "")
		return code, body
	}
	until := func(what string, f func() bool) {
		t.Helper()
		for limit := time.Now().Add(30 * time.Second); !f(); time.Sleep(10 * time.Millisecond) { //nolint:forbidigo // a wait on a condition
			if time.Now().After(limit) {
				t.Fatal("waited in vain until " + what)
			}
		}
	}
	put("t", 201)
	away <- struct{}{}
	put("t", 202)
	put("t", 202)
	until("the store is told to be down", func() bool { code, _ := ready("sub"); return code == 503 })
	if code, body := ready("pub"); code != 200 || !strings.Contains(body, `"status":"degraded"`) || !strings.Contains(body, `"spool":"ok"`) || !strings.Contains(body, `"store":"down"`) {
		t.Errorf("ready: %d %s", code, body)
	}
	if code, _, body := request(t, "POST", "http://"+g.Addr(gateway.Pub)+"/v1/msgs/other/v1?hh=n", "x"); code != 503 {
		t.Errorf("hh=n: %d %s", code, body)
	}
	stop()
	again := s()
	m = again.(absent).Store
	g, stop = spooling(t, dir, again, nil)
	defer func() { stop() }()
	put("t", 202)
	put("new", 202)
	var st struct {
		Spool struct {
			State           string
			Messages, Aside int64
		}
	}
	_, _, body := request(t, "GET", "http://"+g.Addr(gateway.Man)+"/v1/status", "")
	if err := json.Unmarshal([]byte(body), &st); err != nil || st.Spool.State != "ok" || st.Spool.Messages != 4 {
		t.Errorf("status: %s", body)
	}
	if _, _, body := request(t, "GET", "http://"+g.Addr(gateway.Man)+"/metrics", ""); !strings.Contains(body, "kateway_spool_messages 4") {
		t.Error("the metrics do not tell of the spool")
	}
	<-away
	values := func(topic string) (list []string) {
		for p := range int32(mem.DefaultPartitions) {
			for m, err := range m.Browse(t.Context(), "default."+topic+".v1", p, 0) {
				if err != nil {
					return nil
				}
				list = append(list, string(m.Value))
			}
		}
		return list
	}
	until("all is drained", func() bool { return len(values("t"))+len(values("new")) == len(want) })
	if got := append(values("t"), values("new")...); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	until("publishes go through", func() bool {
		code, _, _ := request(t, "POST", "http://"+g.Addr(gateway.Pub)+"/v1/msgs/t/v1?key=k", "last")
		return code == 201
	})
}

// TestIdempotencyKeysOnAnyStore: also one that does not keep them itself, over a restart.
func TestIdempotencyKeysOnAnyStore(t *testing.T) {
	dir, m := t.TempDir(), mem.New()
	var answers []string
	for range 2 {
		m = m.Reopen()
		g, stop := spooling(t, dir, absent{m, func() bool { return false }}, nil)
		for range 2 {
			code, _, body := request(t, "POST", "http://"+g.Addr(gateway.Pub)+"/v1/msgs/t/v1", "v", "Idempotency-Key", "a-key")
			answers = append(answers, fmt.Sprint(code, body))
		}
		if code, _, body := request(t, "POST", "http://"+g.Addr(gateway.Pub)+"/v1/msgs/t/v1", "other", "Idempotency-Key", "a-key"); code != 422 {
			t.Errorf("%d %s", code, body)
		}
		stop()
	}
	if len(slices.Compact(answers)) != 1 || !strings.HasPrefix(answers[0], "201") {
		t.Errorf("%v", answers)
	}
}

// TestSpoolOff: with --spool off an outage is 503.
func TestSpoolOff(t *testing.T) {
	g, stop := spooling(t, t.TempDir(), absent{mem.New(), func() bool { return true }}, func(c *gateway.Config) { c.Spool = "off" })
	defer stop()
	if code, _, body := request(t, "POST", "http://"+g.Addr(gateway.Pub)+"/v1/msgs/t/v1", "v"); code != 503 {
		t.Errorf("%d %s", code, body)
	}
	if _, _, body := request(t, "GET", "http://"+g.Addr(gateway.Man)+"/v1/spool", ""); !strings.HasPrefix(body, `{"state":"off"`) {
		t.Error(body)
	}
}

// TestSpoolOfTopics: a topic whose record says that it is not to be spooled is 503 in an outage, while its neighbour's messages,
// but for those with hh=n, are accepted; and so on when it is changed back, or the other way.
func TestSpoolOfTopics(t *testing.T) {
	away := make(chan struct{}, 1)
	g, stop := spooling(t, t.TempDir(), absent{mem.New(), func() bool { return len(away) > 0 }}, func(c *gateway.Config) { c.PublishTimeout = 300 * time.Millisecond })
	defer stop()
	man := "http://" + g.Addr(gateway.Man)
	for topic, spool := range map[string]bool{"plain": false, "kept": true} {
		body := fmt.Sprintf(`{"app":"default","topic":%q,"ver":"v1","partitions":1,"spool":%t}`, topic, spool)
		if code, _, answer := request(t, "POST", man+"/v1/topics", body, "Content-Type", "application/json"); code != 201 {
			t.Fatalf("making %s: %d %s", topic, code, answer)
		}
	}
	put := func(path string) int {
		code, head, _ := request(t, "POST", "http://"+g.Addr(gateway.Pub)+"/v1/msgs/"+path, "v")
		if spooled := head.Get("X-Spooled") == "1"; spooled != (code == 202) {
			t.Errorf("%s: %d, X-Spooled %t", path, code, spooled)
		}
		return code
	}
	becomes := func(path string, want int) {
		t.Helper()
		for limit := time.Now().Add(30 * time.Second); put(path) != want; time.Sleep(10 * time.Millisecond) { //nolint:forbidigo // a wait on a condition
			if time.Now().After(limit) {
				t.Fatalf("%s never is %d", path, want)
			}
		}
	}
	for _, path := range []string{"plain/v1", "kept/v1", "kept/v1?hh=n"} {
		if code := put(path); code != 201 {
			t.Errorf("%s: %d", path, code)
		}
	}
	becomes("plain/v1?partition=0", 201)
	away <- struct{}{}
	becomes("plain/v1", 503)
	becomes("kept/v1", 202)
	for path, want := range map[string]int{"plain/v1": 503, "plain/v1?hh=n": 503, "plain/v1?key=k": 503, "kept/v1": 202, "kept/v1?key=k": 202, "kept/v1?hh=n": 503} {
		if code := put(path); code != want {
			t.Errorf("%s while the store is away: %d, want %d", path, code, want)
		}
	}
	for topic, spool := range map[string]bool{"plain": true, "kept": false} {
		code, _, body := request(t, "PATCH", man+"/v1/topics/default/"+topic+"/v1", fmt.Sprintf(`{"spool":%t}`, spool), "Content-Type", "application/json")
		if code != 200 {
			t.Fatalf("changing %s: %d %s", topic, code, body)
		}
	}
	becomes("plain/v1", 202)
}
