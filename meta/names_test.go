package meta

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/kateway/kateway/internal/errs"
)

func TestNames(t *testing.T) {
	for what, c := range map[string]struct {
		check     func(string) error
		longest   int
		underline bool
	}{
		"app":     {CheckApp, 32, false},
		"topic":   {func(s string) error { _, err := ParseTopic("a", s, "v1"); return err }, 100, true},
		"version": {func(s string) error { _, err := ParseTopic("a", "t", s); return err }, 16, false},
		"group":   {CheckGroup, 48, true},
		"client":  {CheckClient, 48, true},
	} {
		t.Run(what, func(t *testing.T) {
			for _, good := range []string{"a", "Z", "0", "-", "a-b", strings.Repeat("x", c.longest)} {
				if err := c.check(good); err != nil {
					t.Errorf("%q: %v", good, err)
				}
			}
			if err := c.check("a_b"); (err == nil) != c.underline {
				t.Errorf("a_b: %v", err)
			}
			for _, bad := range []string{
				"", " ", "a b", "a.b", "a/b", "a~b", "a+b", "a@b", "a%b", "a\x00", "a\n", "\na", "..", "é", "а" /* Cyrillic */, "a\u200b",
				strings.Repeat("x", c.longest+1), strings.Repeat("x", 1<<20),
			} {
				err := c.check(bad)
				if !errors.Is(err, errs.InvalidName) {
					t.Errorf("%.40q: %v", bad, err)
					continue
				}
				if text := err.Error(); !strings.Contains(text, what) || !strings.Contains(text, "[A-Za-z0-9") || len(text) > 1000 {
					t.Errorf("%.40q: %d bytes of text that should tell the rule for %s: %.200s", bad, len(text), what, text)
				}
			}
		})
	}
}

// Different topics and groups never share a name in the store, and what is made there is known again.
func TestNamesInTheStoreNeverCollide(t *testing.T) {
	name := func(chars string, longest int) *rapid.Generator[string] {
		return rapid.StringMatching("[" + chars + "]{1," + string(rune('0'+longest)) + "}")
	}
	type full struct{ subscriber, group, app, topic, ver string }
	draw := func(t *rapid.T) full {
		return full{
			name("ab-", 3).Draw(t, "subscriber"), name("ab_-", 3).Draw(t, "group"),
			name("ab-", 3).Draw(t, "app"), name("ab_-", 3).Draw(t, "topic"), name("ab-", 3).Draw(t, "ver"),
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		a, b := draw(t), draw(t)
		ta, err := ParseTopic(a.app, a.topic, a.ver)
		if err != nil {
			t.Fatal(err)
		}
		tb, err := ParseTopic(b.app, b.topic, b.ver)
		if err != nil {
			t.Fatal(err)
		}
		if (ta == tb) != (ta.Store() == tb.Store()) {
			t.Fatalf("%v and %v: %s and %s", ta, tb, ta.Store(), tb.Store())
		}
		ga, gb := Group{a.subscriber, a.group, ta}, Group{b.subscriber, b.group, tb}
		if (a == b) != (ga.Store() == gb.Store()) {
			t.Fatalf("%+v and %+v: %s and %s", a, b, ga.Store(), gb.Store())
		}
		if back, ok := ParseGroup(ga.Store()); !ok || back != ga {
			t.Fatalf("%s is read as %+v", ga.Store(), back)
		}
		queue, reader := ga.Queue(Dead, ta.Store())
		if other, _ := gb.Queue(Retry, tb.Store()); other == queue || isOurs(queue) {
			t.Fatalf("the queue %s is a topic, or another group's", queue)
		}
		if _, ok := ParseGroup(reader); ok {
			t.Fatalf("%s is taken for a group", reader)
		}
		if !isOurs(ta.Store()) {
			t.Fatalf("%s is not known again", ta.Store())
		}
	})
	for _, foreign := range []string{"", "orders", "a.b", "a.b.c.d", "a..c", "a.b.v_1", "__consumer_offsets", "a b.c.d"} {
		if isOurs(foreign) {
			t.Errorf("%q is taken for a topic of ours", foreign)
		}
	}
}

// The queues of a group lie in the cluster of its topic, and their names fit Kafka's 249 bytes.
func TestQueues(t *testing.T) {
	g := Group{"bill", "mail", Topic{"shop", "orders", "v1"}}
	for place, want := range map[string]string{
		"shop.orders.v1":      "shop.orders.v1.bill.mail.dead",
		"legacy":              "shop.orders.v1.bill.mail.dead",
		"east:shop.orders.v1": "east:shop.orders.v1.bill.mail.dead",
	} {
		if topic, group := g.Queue(Dead, place); topic != want || group != "bill.mail.shop.orders.v1.dead" {
			t.Errorf("of %s: %s read by %s", place, topic, group)
		}
	}
	long := func(n int) string { return strings.Repeat("x", n) }
	g = Group{long(32), long(48), Topic{long(32), long(100), long(16)}}
	if topic, _ := g.Queue(Retry, g.Topic.Store()); len(topic) > 249 {
		t.Errorf("%d bytes", len(topic))
	}
}
