package filter_test

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/filter"
	"github.com/kateway/kateway/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func message(value string, headers ...string) *store.Message {
	m := &store.Message{Key: []byte("k1"), Value: []byte(value)}
	for i := 0; i < len(headers); i += 2 {
		m.Headers = append(m.Headers, store.Header{Key: headers[i], Value: []byte(headers[i+1])})
	}
	return m
}

func TestMatch(t *testing.T) {
	order := `{"amount":120,"big":9007199254740993,"price":1.5,"city":"Graz","lines":[{"n":1},{"n":2}]}`
	tombstone := message("")
	tombstone.Value = nil
	for _, c := range []struct {
		tags, expr string
		m          *store.Message
		want       bool
	}{
		{"", "", message("x"), true},
		{"a", "", message("x", "tags", "a"), true},
		{"a,b", "", message("x", "tags", "c; b"), true},
		{"a", "", message("x", "tags", "ab"), false},
		{"a", "", message("x"), false},
		{"a", "", message("x", "tags", "b", "tags", "a"), true},
		{"a", `key == "k1"`, message("x", "tags", "a"), true},
		{"a", `key == "k2"`, message("x", "tags", "a"), false},
		{"", `key == ""`, &store.Message{}, true},
		{"", `"a" in tags`, message("x", "tags", "b;a"), true},
		{"", `size(tags) == 0`, message("x"), true},
		{"", `headers["kind"] == "new"`, message("x", "kind", "old", "kind", "new"), true},
		{"", `headers["kind"] == "new"`, message("x"), false}, // fails: not there
		{"", `!("kind" in headers)`, message("x"), true},
		{"", `value == "x"`, message("x"), true},
		{"", `value == null`, tombstone, true},
		{"", `value == b"\xff"`, message("\xff"), true},
		{"", `value.amount > 100`, message(order), true},
		{"", `value.amount > 100.5`, message(order), true},
		{"", `value.amount > 100`, message(order, "content-type", "text/plain"), false},
		{"", `value.amount == 120`, message(order, "content-type", "application/json"), true},
		{"", `value.big == 9007199254740993`, message(order), true},
		{"", `value.big == 9007199254740992`, message(order), false},
		{"", `value.price < 2`, message(order), true},
		{"", `value.lines.exists(l, l.n == 2)`, message(order), true},
		{"", `value.city.startsWith("Gr")`, message(order), true},
		{"", `value.city.matches("^G.*z$")`, message(order), true},
		{"", `value.city.lowerAscii() == "graz"`, message(order), true},
		{"", `has(value.missing)`, message(order), false},
		{"", `value.missing == 1`, message(order), false},
		{"", `value == 5`, message("5", "content-type", "application/json"), true},
		{"", `value == "5"`, message("5"), true},
		{"", `value == "{broken"`, message("{broken"), true},
		{"", `value.a == 1`, message(`{"a":1}{"a":1}`), false}, // more than one
		{"", `value`, message("true", "content-type", "application/json"), true},
		{"", `value`, message("1", "content-type", "application/json"), false},
	} {
		var tags []string
		if c.tags != "" {
			tags = strings.Split(c.tags, ",")
		}
		f, err := filter.Compile(tags, c.expr)
		if err != nil {
			t.Errorf("%s: %v", c.expr, err)
			continue
		}
		if f.Match(c.m) != c.want {
			t.Errorf("tags %q, filter %s on %q %v: want %v", c.tags, c.expr, c.m.Value, c.m.Headers, c.want)
		}
	}
}

func TestBadExpressions(t *testing.T) {
	for expr, want := range map[string]string{
		`key ==`:              "line 1, column 7",
		"key ==\n  nothing":   "line 2, column 3",
		`key + 1 == 2`:        "column 5",
		`key`:                 "must give a boolean",
		`size(tags)`:          "must give a boolean",
		`value.matches("(a")`: "",
		`key.matches("a{")`:   "",
		"key == '" + strings.Repeat("x", filter.MaxExpression) + "'": "at most",
		strings.Repeat("(", 100) + "true" + strings.Repeat(")", 100): "column",
	} {
		f, err := filter.Compile(nil, expr)
		if want == "" { // a pattern that is wrong is found at the latest when it is used
			if err == nil && f.Match(message("a")) {
				t.Errorf("%.40s matches", expr)
			}
			continue
		}
		if !errors.Is(err, errs.InvalidParam) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: %v; want %q in it", expr, err, want)
		}
	}
}

// What costs too much does not match, and ends soon.
func TestCostIsBounded(t *testing.T) {
	list := "[" + strings.TrimSuffix(strings.Repeat("1,", 3000), ",") + "]"
	f, err := filter.Compile(nil, `value.all(a, value.all(b, value.all(c, a + b + c > 0)))`)
	if err != nil {
		t.Fatal(err)
	}
	if f.Match(message(list)) {
		t.Error("27 billion steps were taken")
	}
}

// What a message may cost grows with it, so that many small ones keep no processor busy.
func TestCostGrowsWithTheMessage(t *testing.T) {
	ten := "[0,1,2,3,4,5,6,7,8,9]"
	expr := ten + ".all(a, " + ten + ".all(b, " + ten + ".all(c, " + ten + ".all(d, a + b + c + d + headers.size() >= 0))))"
	f, err := filter.Compile(nil, expr)
	if err != nil {
		t.Fatal(err)
	}
	if yes, err := f.Eval(message("1")); yes || !errors.Is(err, errs.TooLarge) {
		t.Errorf("of one byte: %v, %v", yes, err)
	}
	if yes, err := f.Eval(message(strings.Repeat("1", 100_000))); !yes || err != nil {
		t.Errorf("of 100 kB: %v, %v", yes, err)
	}
}

func TestMatchConcurrently(t *testing.T) {
	f, err := filter.Compile([]string{"a"}, `value.n % 2 == 0`)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Go(func() {
			m := message(`{"n":`+string(rune('0'+n))+`}`, "tags", "a")
			for range 100 {
				if f.Match(m) != (n%2 == 0) {
					t.Errorf("%d", n)
				}
			}
		})
	}
	wg.Wait()
}

func FuzzMatch(f *testing.F) {
	f.Add(`value.a == 1`, []byte(`{"a":1}`))
	f.Add(`key.matches(value)`, []byte("\xff"))
	f.Fuzz(func(_ *testing.T, expr string, value []byte) {
		c, err := filter.Compile(nil, expr)
		if err == nil {
			c.Match(&store.Message{Key: value, Value: value})
		}
	})
}

func BenchmarkMatch(b *testing.B) {
	for name, expr := range map[string]string{"key": `key == "k1"`, "header": `headers["kind"] == "new"`, "value": `value.amount > 100`} {
		b.Run(name, func(b *testing.B) {
			f, _ := filter.Compile(nil, expr)
			m := message(`{"amount":120,"city":"Graz"}`, "kind", "new")
			b.ReportAllocs()
			for b.Loop() {
				if !f.Match(m) {
					b.Fatal(expr)
				}
			}
		})
	}
}
