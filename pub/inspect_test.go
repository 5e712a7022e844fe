package pub

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/plugins"
)

// meddler is a plugin that does to messages what they say.
type meddler struct{ anyone }

func (meddler) Inspection(c *plugins.Call) plugins.Inspection {
	return func(_ context.Context, m *plugins.Message) error {
		word, _, _ := strings.Cut(string(m.Value), ":")
		switch word {
		case "bad":
			return &errs.Faults{Err: fmt.Errorf("it is bad: %w", errs.SchemaViolation), List: []errs.Fault{{Path: "/id", Message: "is missing"}}}
		case "drop":
			m.Dropped = true
		case "route":
			m.Topic = "other"
		case "nowhere":
			m.Topic = "no.topic"
		case "up":
			m.Value = bytes.ToUpper(m.Value)
		case "grow":
			m.Value = make([]byte, 2000)
		}
		return nil
	}
}

func meddled(t *testing.T) *gateway {
	return newGateway(t, func(c *Config) {
		c.Gate = plugins.NewGate([]plugins.Plugin{meddler{}})
		c.Limits.Message = 1000
	})
}

func TestInspectedPublish(t *testing.T) {
	g := meddled(t)
	const path = "/v1/msgs/t/v1?partition=1"
	for _, c := range []struct {
		path, body string
		status     int
		want       string // in the answer
	}{
		{path, "up", 201, `{"partition":1,"offset":0}`},
		{path, "bad", 422, `"errors":[{"path":"/id","message":"is missing"}]`},
		{path, "drop", 200, `{"dropped":true}`},
		{path + "&async=1", "drop", 200, `{"dropped":true}`},
		{path + "&key=k", "route:1", 201, `,"topic":"default/other/v1"}`},
		{path, "grow", 413, `too_large`},
		{path, "nowhere", 500, `internal`},
		{path + "&batch=lines", "ok\nbad", 422, `"errors":[{"path":"/1/id","message":"is missing"}]`},
		{path + "&batch=lines", "ok\nbad", 422, `"detail":"message 2: it is bad"`},
		{path + "&batch=lines", "bad", 422, `"path":"/0/id"`},
		{path + "&batch=lines", "drop\ndrop", 200, `{"results":[{"dropped":true},{"dropped":true}]}`},
		{path + "&batch=lines", "drop\nup", 201, `{"results":[{"dropped":true},{"partition":1,"offset":1}]}`},
		{"/v1/msgs/t/v1?partition=99&batch=lines", "drop\nup", 207, `{"results":[{"dropped":true},{"error":`},
	} {
		a := g.post(t, c.path, strings.NewReader(c.body))
		if a.status != c.status || !strings.Contains(a.body, c.want) {
			t.Errorf("%s %q: %d %s", c.path, c.body, a.status, a.body)
		}
	}
	if n := len(g.stored(t, "default.t.v1")); n != 2 {
		t.Errorf("%d are stored", n)
	}
	for _, m := range g.stored(t, "default.t.v1") {
		if string(m.Value) != "UP" {
			t.Errorf("stored %q", m.Value)
		}
	}
	if n := len(g.stored(t, "default.other.v1")); n != 1 {
		t.Errorf("%d went elsewhere", n)
	}
}

// A batch goes to several topics, each message once, by every way.
func TestRoutedBatch(t *testing.T) {
	g := meddled(t)
	const body = "a\nroute:1\ndrop\nb\nroute:2"
	a := g.post(t, "/v1/msgs/t/v1?batch=lines&key=k", strings.NewReader(body), "Idempotency-Key: x")
	if a.status != 201 || strings.Count(a.body, `"topic":"default/other/v1"`) != 2 || strings.Count(a.body, `"offset"`) != 4 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if again := g.post(t, "/v1/msgs/t/v1?batch=lines&key=k", strings.NewReader(body), "Idempotency-Key: x"); again.body != a.body {
		t.Errorf("%d %s, at first %s", again.status, again.body, a.body)
	}
	if a := g.post(t, "/v1/msgs/t/v1?batch=lines&async=1", strings.NewReader(body)); a.status != 202 || a.body != "{\"queued\":true,\"dropped\":1}\n" {
		t.Fatalf("%d %s", a.status, a.body)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := g.handler.queue.close(ctx); err != nil {
		t.Fatal(err)
	}
	for topic, want := range map[string]string{"default.t.v1": "[a b a b]", "default.other.v1": "[route:1 route:2 route:1 route:2]"} {
		count := map[string]int{}
		for _, m := range g.stored(t, topic) {
			count[string(m.Value)]++
		}
		for _, v := range strings.Fields(strings.Trim(want, "[]")) {
			if count[v] != 2 {
				t.Errorf("%s: %v", topic, count)
			}
		}
	}
}

// Where the app may not use the topic that a plugin sends a message to, nothing is stored.
func TestRouteIsAPublish(t *testing.T) {
	g := newGateway(t, func(c *Config) {
		open := c.Topics
		c.Gate = plugins.NewGate([]plugins.Plugin{meddler{}})
		c.Topics = topics(func(ctx context.Context, t meta.Topic) (string, error) {
			if t.Name == "other" {
				return "", errs.UnknownTopic
			}
			return open.Use(ctx, t)
		})
	})
	for path, want := range map[string]int{"/v1/msgs/t/v1": 404, "/v1/msgs/t/v1?async=1": 404} {
		if a := g.post(t, path, strings.NewReader("route")); a.status != want {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
}

func TestInspectedSocket(t *testing.T) {
	g := meddled(t)
	s := g.socket(t, "/v1/ws/pub/t/v1?partition=1", http.Header{})
	for _, text := range []string{"a", "bad", "drop", "up", "route", "grow"} {
		s.say(websocket.TextMessage, text)
	}
	for _, want := range []string{
		`{"seq":1,"partition":1,"offset":0}`, `"errors":[{"path":"/id","message":"is missing"}]`, `{"seq":3,"dropped":true}`,
		`{"seq":4,"partition":1,"offset":1}`, `"topic":"default/other/v1"}`, `"code":"too_large"`,
	} {
		if got := s.answer(); !strings.Contains(got, want) {
			t.Errorf("answered %s, want %s", got, want)
		}
	}
}
