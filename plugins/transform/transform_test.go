package transform

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/plugins"
	"github.com/kateway/kateway/store"
)

func edited(t testing.TB, what operation, path string, e edit) *edit {
	t.Helper()
	parts, err := parsePath(path)
	if err != nil {
		t.Fatal(err)
	}
	e.what, e.path = what, parts
	return &e
}

func TestEdits(t *testing.T) {
	name := func(s string) edit { return edit{name: s, with: []byte(`"` + s + `"`)} }
	with := func(s string) edit { return edit{with: []byte(s)} }
	for _, c := range []struct {
		what     operation
		path     string
		e        edit
		in, want string // want "": an error
	}{
		{remove, "/a", edit{}, `{"a":1}`, `{}`},
		{remove, "/a", edit{}, ` { "a" : 1 , "b" : 1.50e3 } `, ` { "b" : 1.50e3 } `},
		{remove, "/b", edit{}, `{"a":1, "b":{"x":[1]} , "c":3}`, `{"a":1 , "c":3}`},
		{remove, "/c", edit{}, `{"a":1, "c":3}`, `{"a":1}`},
		{remove, "/a", edit{}, `{"a":1,"b":2,"a":3}`, `{"b":2}`},
		{remove, "/*", edit{}, `{"a":1,"b":2}`, `{}`},
		{remove, "/1", edit{}, `[1,2,3]`, `[1,3]`},
		{remove, "/*", edit{}, `[1,2,3]`, `[]`},
		{remove, "/a/*/b", edit{}, `{"a":[{"b":1},{"c":2},{"b":1,"c":3}]}`, `{"a":[{},{"c":2},{"c":3}]}`},
		{remove, "/a~1b/c~0", edit{}, `{"a/b":{"c~":1,"d":2}}`, `{"a/b":{"d":2}}`},
		{remove, "/a", edit{}, `{"\u0061":1,"b":1}`, `{"b":1}`},
		{remove, "/a", edit{}, `[{"a":1}]`, `[{"a":1}]`},
		{remove, "/a", edit{}, `"a"`, `"a"`},
		{remove, "/a/b/c", edit{}, `{"a":{"b":1}}`, `{"a":{"b":1}}`},
		{remove, "/a", edit{}, `{"n":123456789012345678901234567890.10,"a":0}`, `{"n":123456789012345678901234567890.10}`},
		{redact, "/a", with(`"x"`), `{"a":{"b":[1,2]},"c":"\u00e4"}`, `{"a":"x","c":"\u00e4"}`},
		{redact, "/*/a", with(`null`), `[{"a":1},{"a":"s"},3]`, `[{"a":null},{"a":null},3]`},
		{redact, "/a", with(`0`), `{"a":1,"a":2}`, `{"a":0,"a":0}`},
		{rename, "/a", name("b"), `{"a": 1,"c":2}`, `{"b": 1,"c":2}`},
		{rename, "/a", name("b"), `{"a":1,"b":2}`, ``},
		{rename, "/a", name("b"), `{"b":2,"a":1}`, ``},
		{rename, "/a", name("b"), `{"a":2,"a":1}`, ``},
		{rename, "/a", name("b"), `{"b":2}`, `{"b":2}`},
		{rename, "/x/a", name("b"), `{"x":{"a":{"a":1}},"b":1}`, `{"x":{"b":{"a":1}},"b":1}`},
		{rename, "/0", name("b"), `["a"]`, `["a"]`},
		{mask, "/a", edit{keep: 4}, `{"a":"4111111111111234"}`, `{"a":"************1234"}`},
		{mask, "/a", edit{keep: 4}, `{"a":"123"}`, `{"a":"***"}`},
		{mask, "/a", edit{keep: 1}, `{"a":"äöü"}`, `{"a":"**ü"}`},
		{mask, "/*", edit{keep: 4}, `[12345,true,null,{"a":1},""]`, `["****","****",null,"****",""]`},
		{remove, "/a", edit{}, `{"a":1`, ``},
		{remove, "/a", edit{}, `{"a":1} x`, ``},
		{remove, "/a", edit{}, `nonsense`, ``},
		{remove, "/a", edit{}, ``, ``},
		{remove, "/a", edit{}, "{\"a\":\"\xff\"}", ``},
		{remove, "/b", edit{}, `{"a":1,}`, ``},
	} {
		in := []byte(c.in)
		got, err := edited(t, c.what, c.path, c.e).apply(in)
		if (err != nil) != (c.want == "") || string(got) != c.want {
			t.Errorf("%d %s of %s: %s, %v; want %s", c.what, c.path, c.in, got, err, c.want)
		}
		if string(in) != c.in {
			t.Errorf("%s was written to", c.in)
		}
		if err != nil && strings.Contains(err.Error(), "1") {
			t.Errorf("%v: has a part of the value", err)
		}
	}
}

func TestResultIsBounded(t *testing.T) {
	e := edited(t, redact, "/*", edit{with: []byte(`"` + strings.Repeat("x", 1000) + `"`)})
	if _, err := e.apply([]byte("[" + strings.Repeat("1,", 20_000) + "1]")); !errors.Is(err, errs.TooLarge) {
		t.Error(err)
	}
}

// model does what an edit does to a decoded value. Names are there once.
func model(v any, e *edit, path []string) any {
	hit := func(name string) bool { return path[0] == any1 || path[0] == name }
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, in := range v {
			switch {
			case !hit(k):
				out[k] = in
			case len(path) > 1:
				out[k] = model(in, e, path[1:])
			case e.what == redact:
				out[k] = "gone"
			}
		}
		return out
	case []any:
		out := []any{}
		for i, in := range v {
			switch {
			case !hit(fmt.Sprint(i)):
				out = append(out, in)
			case len(path) > 1:
				out = append(out, model(in, e, path[1:]))
			case e.what == redact:
				out = append(out, "gone")
			}
		}
		return out
	}
	return v
}

func FuzzEdit(f *testing.F) {
	f.Add("/a/*", `{"a":[1,{"b":null}],"c":"d"}`)
	f.Add("/*/b", `[{"b":1,"c":2},{"b":[]}]`)
	f.Add("/0", ` [ 1 , 2 ] `)
	f.Fuzz(func(t *testing.T, path, value string) {
		parts, err := parsePath(path)
		if err != nil {
			return
		}
		for _, what := range []operation{remove, redact, mask, rename} {
			e := &edit{what: what, path: parts, with: []byte(`"gone"`), name: "gone", keep: 2}
			in := []byte(value)
			got, err := e.apply(in)
			if string(in) != value {
				t.Fatal("the value was written to")
			}
			if err != nil {
				continue
			}
			if !jsontext.Value(got).IsValid(jsontext.AllowDuplicateNames(true)) {
				t.Fatalf("%d %s of %q is %q", what, path, value, got)
			}
			var before, after any
			if what > rename || !jsontext.Value(in).IsValid() || json.Unmarshal(in, &before) != nil || json.Unmarshal(got, &after) != nil {
				continue
			}
			if what == remove || what == redact {
				if want := model(before, e, parts); !reflect.DeepEqual(after, want) {
					t.Fatalf("%d %s of %s is %s, not %v", what, path, value, got, want)
				}
			}
		}
	})
}

func FuzzOptions(f *testing.F) {
	f.Add("rules: [{match: {direction: in}, do: [{remove: /a}]}]")
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := Kind().Read(plugins.ParseOptions(text)); err != nil && err.Error() == "" {
			t.Error("a fault without words")
		}
	})
}

func TestFaultsOfOptions(t *testing.T) {
	rule := func(s string) string { return "rules: [{match: {direction: in}, do: [" + s + "]}]" }
	for text, want := range map[string]string{
		"":                                  "rules: there are none",
		"rules: []":                         "there are none",
		"rule: []":                          "rule",
		"rules: [{do: [{remove: /a}]}]":     `direction: must be in or out, not ""`,
		"rules: [{match: {direction: in}}]": "0 actions",
		"rules: [{match: {direction: in, app: 'a/b'}, do: [{remove: /a}]}]":                                                     "app",
		"rules: [{match: {direction: in, topic: '[a'}, do: [{remove: /a}]}]":                                                    "topic",
		"rules: [{match: {direction: in}, when: 'key ==', do: [{remove: /a}]}]":                                                 "when: filter",
		"rules: [{name: a, match: {direction: in}, do: [{remove: /a}]}, {name: a, match: {direction: in}, do: [{remove: /a}]}]": "rule a: is there twice",
		rule("{}"):                                                      "not 0 of them",
		rule("{remove: /a, drop: true}"):                                "not 2 of them",
		rule("{drop: true}, {remove: /a}"):                              "nothing can follow",
		rule("{remove: a}"):                                             "JSON pointer",
		rule("{remove: /a~2}"):                                          "~0",
		rule("{remove: /" + strings.Repeat("a/", 40) + "}"):             "32 parts",
		rule("{rename: {path: '/a/*', to: b}}"):                         "rename one",
		rule("{rename: {path: /a}}"):                                    "to: must not be empty",
		rule("{mask: {path: /a, keep: 65}}"):                            "keep",
		rule("{redact: {path: /a, with: '{'}}"):                         "JSON value",
		rule("{set_header: {name: 'a b'}}"):                             "visible",
		rule("{set_header: {name: Kateway-Cause}}"):                     "the gateway's own",
		rule("{rename_header: {from: a}}"):                              "header",
		rule("{route: {topic: a.b}}"):                                   "route",
		rule("{route: {}}"):                                             "route",
		"rules: [{match: {direction: out}, do: [{route: {topic: a}}]}]": "direction must be in",
	} {
		if _, err := Kind().Read(plugins.ParseOptions(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %s", text, err, want)
		}
	}
}

func newPluginOf(t testing.TB, text string) *Plugin {
	t.Helper()
	build, err := Kind().Read(plugins.ParseOptions(text))
	if err != nil {
		t.Fatal(err)
	}
	p, err := build(t.Context(), plugins.Env{Metrics: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	return p.(*Plugin)
}

const rules = `
rules:
  - name: spam
    match: {direction: in}
    when: value.kind == "spam"
    do: [{drop: true}]
  - name: cards
    match: {app: shop, topic: "order*", direction: in}
    do:
      - mask: {path: /card}
      - rename: {path: /mail, to: email}
      - set_header: {name: checked, value: "yes"}
      - rename_header: {from: old, to: new}
      - remove_header: secret
  - name: europe
    match: {topic: orders, ver: v1, direction: in}
    when: value.region == "eu"
    do: [{set_header: {name: region, value: eu}}, {route: {topic: orders-eu}}]
  - name: late
    match: {direction: in}
    do: [{set_header: {name: late, value: ""}}]
  - name: notes
    match: {direction: out}
    do: [{redact: {path: /items/*/note}}]
`

// on is what becomes of a message.
func (p *Plugin) on(t testing.TB, c *plugins.Call, value string, headers ...store.Header) (*plugins.Message, error) {
	t.Helper()
	m := &plugins.Message{Message: store.Message{Value: []byte(value), Headers: headers}, Topic: c.Topic, Ver: c.Ver}
	if value == "null" {
		m.Value = nil
	}
	f := p.Inspection(c)
	if f == nil {
		return m, nil
	}
	err := f(t.Context(), m)
	return m, err
}

func call(op plugins.Op, app, topic string) *plugins.Call {
	return &plugins.Call{Op: op, App: app, Topic: topic, Ver: "v1"}
}

func TestRules(t *testing.T) {
	p := newPluginOf(t, rules)
	in := call(plugins.Publish, "shop", "orders")
	shared := []store.Header{{Key: "old", Value: []byte("1")}, {Key: "secret", Value: []byte("2")}, {Key: "a", Value: []byte("3")}}
	m, err := p.on(t, in, `{"card":"41111234","mail":"a@b","n":1.0}`, shared...)
	if err != nil || string(m.Value) != `{"card":"****1234","email":"a@b","n":1.0}` || fmt.Sprintf("%s", m.Headers) != "[{new 1} {a 3} {checked yes} {late }]" {
		t.Errorf("%s %s, %v", m.Value, m.Headers, err)
	}
	if fmt.Sprintf("%s", shared) != "[{old 1} {secret 2} {a 3}]" {
		t.Errorf("shared headers were written to: %s", shared)
	}
	if m, err = p.on(t, in, `{"kind":"spam","card":"41111234"}`); err != nil || !m.Dropped || strings.Contains(string(m.Value), "*") {
		t.Errorf("%+v, %v", m, err)
	}
	if m, err = p.on(t, in, `{"region":"eu"}`); err != nil || m.Topic != "orders-eu" || m.Ver != "v1" || strings.Contains(fmt.Sprintf("%s", m.Headers), "late") {
		t.Errorf("%+v, %v", m, err)
	}
	if _, err = p.on(t, in, `no JSON`); !errors.Is(err, errs.InvalidBody) || !strings.Contains(err.Error(), "rule cards") {
		t.Error(err)
	}
	if m, err = p.on(t, in, "null"); err != nil || m.Value != nil {
		t.Errorf("a tombstone: %v, %v", m, err)
	}
	if m, err = p.on(t, call(plugins.Publish, "bill", "orders"), `no JSON`); err != nil || fmt.Sprintf("%s", m.Headers) != "[{late }]" {
		t.Errorf("another app's: %s, %v", m.Headers, err)
	}
	out := call(plugins.Subscribe, "bill", "orders")
	out.Owner = "shop"
	if m, err = p.on(t, out, `{"card":"1","items":[{"note":"x"}]}`); err != nil || string(m.Value) != `{"card":"1","items":[{"note":"[redacted]"}]}` {
		t.Errorf("%s, %v", m.Value, err)
	}
	if p.Inspection(call(plugins.Settle, "shop", "orders")) != nil {
		t.Error("a settle has no messages")
	}
	if newPluginOf(t, "rules: [{match: {direction: out}, do: [{remove: /a}]}]").Inspection(in) != nil {
		t.Error("there is no rule for what comes in")
	}
	for counter, want := range map[prometheus.Counter]float64{p.changed: 4, p.dropped: 1, p.routed: 1, p.failed: 1} {
		if got := testutil.ToFloat64(counter); got != want {
			t.Errorf("%v: %v, want %v", counter.Desc(), got, want)
		}
	}
}

// A message that costs too much to be judged does not slip through.
func TestCostlyMessageIsRefused(t *testing.T) {
	p := newPluginOf(t, `rules: [{match: {direction: in}, when: "value.all(a, value.all(b, value.all(c, a + b + c > 0)))", do: [{drop: true}]}]`)
	if _, err := p.on(t, call(plugins.Publish, "shop", "orders"), "["+strings.Repeat("1,", 3000)+"1]"); !errors.Is(err, errs.TooLarge) {
		t.Error(err)
	}
}

func BenchmarkTransform(b *testing.B) {
	value := `{"id":123456,"card":"4111111111111234","items":[{"a":1,"note":"x"},{"a":2,"note":"y"}]}`
	b.Run("floor", func(b *testing.B) { // the library's one pass
		b.ReportAllocs()
		for b.Loop() {
			if !jsontext.Value(value).IsValid() {
				b.Fatal("not valid")
			}
		}
	})
	for name, do := range map[string]string{"mask": "{mask: {path: /card}}", "redact": "{redact: {path: /items/*/note}}", "header": "{set_header: {name: a, value: b}}"} {
		b.Run(name, func(b *testing.B) {
			p := newPluginOf(b, "rules: [{match: {direction: in}, do: ["+do+"]}]")
			c := call(plugins.Publish, "shop", "orders")
			b.ReportAllocs()
			for b.Loop() {
				if _, err := p.on(b, c, value); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
