package sub

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/kateway/kateway/store"
)

const manyPath = "/v1/stream?topic=shop/orders/v1&topic=shop/carts/v1&group=g"

// publishTo stores values in a topic of shop.
func (w *world) publishTo(topic string, values ...string) {
	w.t.Helper()
	for _, v := range values {
		if err := w.store.Publish(w.t.Context(), "shop."+topic+".v1", store.AckAll, &store.Message{Value: []byte(v)}); err != nil {
			w.t.Fatal(err)
		}
	}
}

func manyWorld(t *testing.T) *world {
	t.Helper()
	w := newWorld(t, 1)
	if err := w.store.CreateTopic(t.Context(), store.Topic{Name: "shop.carts.v1", Partitions: 1}); err != nil {
		t.Fatal(err)
	}
	return w
}

// Several topics come in one stream; each keeps its order, says its name, and is done by the group of its own.
func TestManyTopicsInOneStream(t *testing.T) {
	w := manyWorld(t)
	s := serve(t, w.mux, false).stream(manyPath)
	var want []string
	for i := range 3 {
		for _, topic := range []string{"orders", "carts"} {
			w.publishTo(topic, fmt.Sprint(topic, i))
			want = append(want, fmt.Sprintf("shop/%s/v1 %s%d", topic, topic, i))
		}
	}
	var got []string
	for range want {
		o := parseObject(t, s.line())
		got = append(got, o.Topic+" "+o.text())
	}
	for _, topic := range []string{"orders", "carts"} {
		of := func(list []string) (out []string) {
			for _, s := range list {
				if strings.Contains(s, topic) {
					out = append(out, s)
				}
			}
			return out
		}
		if !slices.Equal(of(got), of(want)) {
			t.Errorf("of %s: %q", topic, of(got))
		}
	}
	awaitCommit(t, w, "g", 3)
}

// A receipt is settled at its topic; the limit is that of all topics together, and what is over it stays.
func TestManyTopicsExplicitAndLimited(t *testing.T) {
	w := manyWorld(t)
	w.publishTo("orders", "o0", "o1")
	w.publishTo("carts", "c0", "c1")
	c := serve(t, w.mux, false)
	s := c.stream(manyPath + "&ack=explicit&limit=3&prefetch=2")
	seen := map[string]bool{}
	for range 3 {
		o := parseObject(t, s.line())
		seen[o.text()] = true
		c.put("/v1/msgs/"+o.Topic+"?group=g", `[{"receipt":"`+o.Receipt+`","op":"ack"}]`).want(t, 200)
	}
	if rest, err := s.lines.ReadString('\n'); err == nil {
		t.Errorf("over the limit: %s", rest)
	}
	left := c.stream(manyPath + "&limit=1")
	if o := parseObject(t, left.line()); seen[o.text()] || o.Attempt != 1 {
		t.Errorf("%s again, attempt %d", o.text(), o.Attempt)
	}
}

func TestManyTopicsForms(t *testing.T) {
	w := manyWorld(t)
	w.publishTo("carts", "a b")
	c := serve(t, w.mux, true)
	e := c.stream(manyPath+"1&limit=1", "Accept: text/event-stream").event()
	if e.kind != "message" || e.id != "" || parseObject(t, e.data).Topic != "shop/carts/v1" {
		t.Errorf("%+v", e)
	}
	if got := c.stream(manyPath+"2&limit=1", "Accept: text/plain").line(); got != "a b" {
		t.Error(got)
	}
}

func TestBadManyTopics(t *testing.T) {
	c := serve(t, manyWorld(t).mux, false)
	for path, k := range map[string][2]string{
		"/v1/stream?group=g": {"invalid_param", "topic is required"},
		"/v1/stream?group=g&topic=" + strings.Repeat("&topic=a/b/c", 101): {"invalid_param", "102 topics"},
		"/v1/stream?group=g&topic=shop/orders":                            {"invalid_param", "<app>/<topic>/<version>"},
		"/v1/stream?group=g&topic=shop/or.ders/v1":                        {"invalid_name", "topic"},
		"/v1/stream?group=g&topic=a/b/c&topic=a/b/c":                      {"invalid_param", "twice"},
		"/v1/stream?topic=shop/orders/v1":                                 {"invalid_param", "group"},
		"/v1/stream?topic=shop/orders/v1&group=g&wait=3s":                 {"invalid_param", "wait"},
		"/v1/stream?topic=shop/orders/v1&group=g&mode=x":                  {"invalid_param", "mode"},
	} {
		if detail := c.get(path).problem(t, 400, k[0]); !strings.Contains(detail, k[1]) {
			t.Errorf("%s: %q does not say %q", path, detail, k[1])
		}
	}
}

// Who may not read one of the topics reads none.
func TestManyTopicsAreAllGuarded(t *testing.T) {
	w, p := guardedWorld(t)
	c := serve(t, w.mux, false)
	path := strings.ReplaceAll(manyPath, "group=g", "group=bill1")
	c.get(path).problem(t, http.StatusUnauthorized, "unauthenticated")
	c.get(path, "Subkey: eve").problem(t, http.StatusForbidden, "denied")
	_, before, _ := p.last()
	s := c.stream(path, "Subkey: bill")
	if last, begun, _ := p.last(); begun != before+2 || last.Topic != "carts" || last.Group != "bill1" {
		t.Errorf("%d calls, the last %+v", begun-before, last)
	}
	s.close()
}
