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
		if ga, gb := GroupInStore(a.subscriber, a.group, ta), GroupInStore(b.subscriber, b.group, tb); (a == b) != (ga == gb) {
			t.Fatalf("%+v and %+v: %s and %s", a, b, ga, gb)
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
