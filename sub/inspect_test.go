package sub

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/plugins"
	"github.com/kateway/kateway/store"
)

// meddler is a plugin that does to messages what they say.
type meddler struct{ t *testing.T }

func (meddler) Wrap(next plugins.Handler) plugins.Handler { return next }

func (p meddler) Inspection(c *plugins.Call) plugins.Inspection {
	if c.Header.Get("X-Msg-Plain") != "" || strings.Contains(c.RawQuery, "wait=21s") {
		return nil
	}
	return func(_ context.Context, m *plugins.Message) error {
		if m.Topic != "orders" || m.Ver != "v1" {
			p.t.Errorf("of topic %s %s", m.Topic, m.Ver)
		}
		switch string(m.Value) {
		case "bad":
			return fmt.Errorf("it is bad: %w", errs.SchemaViolation)
		case "drop":
			m.Dropped = true
		default:
			m.Value = bytes.ToUpper(m.Value)
		}
		return nil
	}
}

// TestInspectedGroup: what is refused is buried with the cause, what is dropped is done, what is changed is so for this client.
func TestInspectedGroup(t *testing.T) {
	w := newWorld(t, 1)
	w.plugins = []plugins.Plugin{meddler{t}}
	forgetGroups(t, w)
	c := serve(t, w.mux, false)
	w.publish("a", "bad", "drop", "b")
	r := c.get(feedPath+"?group=g&limit=2").want(t, 200)
	var got []string
	for _, o := range objects(t, r.body) {
		got = append(got, o.text())
	}
	if strings.Join(got, " ") != "A B" {
		t.Errorf("%q", got)
	}
	c.get(topicPath+"?group=g&wait=0s").want(t, 204)
}

// settled is a session that notes what is settled.
type settled struct {
	group.Session
	verbs []group.Verb
}

func (s *settled) Next(context.Context, int) (group.Batch, error) {
	var b group.Batch
	for i, v := range []string{"bad", "drop", "a"} {
		b.Deliveries = append(b.Deliveries, group.Delivery{Message: &store.Message{Offset: int64(i), Value: []byte(v)}})
	}
	return b, nil
}

func (s *settled) Settle(verbs ...group.Verb) []error {
	s.verbs = append(s.verbs, verbs...)
	return make([]error, len(verbs))
}

// TestRefusedIsBuriedWithTheCause, and dropped is acked, also when the client has gone meanwhile.
func TestRefusedIsBuriedWithTheCause(t *testing.T) {
	s := new(settled)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	in := &inspected{Session: s, topic: meta.Topic{App: "shop", Name: "orders", Ver: "v1"}, inspect: meddler{t}.Inspection(&plugins.Call{})}
	if b, err := in.Next(ctx, 3); err != nil || len(b.Deliveries) != 1 || string(b.Deliveries[0].Value) != "A" {
		t.Errorf("%v, %v", b, err)
	}
	if len(s.verbs) != 2 || s.verbs[0].Op != group.Bury || !strings.Contains(s.verbs[0].Cause, "it is bad") || s.verbs[1].Op != group.Ack {
		t.Errorf("%+v", s.verbs)
	}
}

// TestInspectedReader: messages of a reader without a group are inspected, those in memory and those read from the store, and
// other readers' are not touched.
func TestInspectedReader(t *testing.T) {
	w := newWorld(t, 1)
	w.plugins = []plugins.Plugin{meddler{t}}
	forgetGroups(t, w)
	c := serve(t, w.mux, false)
	w.publish("a", "bad", "drop", "b")
	for range 2 { // from the store
		r := c.get(topicPath+"?batch=10&cursor="+cursorOf(0)).want(t, 200)
		list := objects(t, r.body)
		if len(list) != 2 || list[0].text() != "A" || list[1].text() != "B" || list[1].Cursor != cursorOf(4) {
			t.Errorf("%s", r.body)
		}
	}
	mine, other := c.later(topicPath+"?wait=20s&cursor="+cursorOf(4)), c.later(topicPath+"?wait=21s&cursor="+cursorOf(4))
	w.publish("drop")
	if r := <-other; r.body != "drop" {
		t.Errorf("who is not inspected got %q", r.body)
	}
	w.publish("c") // both are in memory by now
	if r := <-mine; r.body != "C" || r.Header.Get("X-Cursor") != cursorOf(6) {
		t.Errorf("%q %v", r.body, r.Header)
	}
	if r := c.get(topicPath+"?batch=10&cursor="+cursorOf(4), "X-Msg-Plain: 1"); !strings.Contains(r.body, `"value":"c"`) {
		t.Errorf("what others get has changed: %s", r.body)
	}
}
