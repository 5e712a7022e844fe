package wire

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

func TestReadObject(t *testing.T) {
	h := func(kv ...string) (out []store.Header) {
		for i := 0; i < len(kv); i += 2 {
			out = append(out, store.Header{Key: kv[i], Value: []byte(kv[i+1])})
		}
		return out
	}
	unset := store.AnyPartition
	cases := []struct {
		line string
		want store.Message
	}{
		{`{"value":"v"}`, store.Message{Partition: unset, Value: []byte("v")}},
		{` { "value" : "" } `, store.Message{Partition: unset, Value: []byte{}}},
		{`{"value":null}`, store.Message{Partition: unset}},
		{`{"value":1.50}`, store.Message{Partition: unset, Value: []byte("1.50")}},
		{`{"value":12345678901234567890123}`, store.Message{Partition: unset, Value: []byte("12345678901234567890123")}},
		{`{"value": {"a" : [1, "\u0041"]} }`, store.Message{Partition: unset, Value: []byte(`{"a" : [1, "\u0041"]}`)}},
		{`{"value":"a\n\u0041\ud83d\ude00\u2028"}`, store.Message{Partition: unset, Value: []byte("a\nA😀\u2028")}},
		{`{"value_base64":"/w=="}`, store.Message{Partition: unset, Value: []byte{0xff}}},
		{`{"value_base64":""}`, store.Message{Partition: unset, Value: []byte{}}},
		{`{"key":"k","value":"v","partition":7}`, store.Message{Partition: 7, Key: []byte("k"), Value: []byte("v")}},
		{`{"key":"","value":"v"}`, store.Message{Partition: unset, Value: []byte("v")}},
		{`{"key":null,"value":"v"}`, store.Message{Partition: unset, Value: []byte("v")}},
		{`{"key_base64":"AP8=","value":"v"}`, store.Message{Partition: unset, Key: []byte{0, 0xff}, Value: []byte("v")}},
		{`{"\u006bey":"k","value":"v"}`, store.Message{Partition: unset, Key: []byte("k"), Value: []byte("v")}},
		{`{"headers":{"a":"1","b":["2","3"],"c":[]},"headers_base64":{"d":"/w==","e":["AA==",""]},"value":"v"}`,
			store.Message{Partition: unset, Value: []byte("v"), Headers: h("a", "1", "b", "2", "b", "3", "d", "\xff", "e", "\x00", "e", "")}},
		{`{"partition":0,"offset":42,"timestamp":"x","topic":"a/b/c","attempt":3,"receipt":"r","cursor":"c","value":"v"}`, store.Message{Value: []byte("v")}},
	}
	var r ObjectReader // one for all: what it made must stay
	got := make([]store.Message, len(cases))
	for i, c := range cases {
		if err := r.Read([]byte(c.line), &got[i]); err != nil {
			t.Errorf("%s: %v", c.line, err)
		}
	}
	for i, c := range cases {
		if !reflect.DeepEqual(got[i], c.want) {
			t.Errorf("%s:\n got %+v\nwant %+v", c.line, got[i], c.want)
		}
	}
}

func TestReadObjectRefuses(t *testing.T) {
	deep := strings.Repeat("[", MaxDepth) + strings.Repeat("]", MaxDepth)
	for line, text := range map[string]string{
		``:                               "EOF",
		`x`:                              "invalid character",
		`[]`:                             "must be a JSON object",
		`"v"`:                            "must be a JSON object",
		`{}`:                             "value is missing",
		`{"key":"k"}`:                    "value is missing",
		`{"value":"v"`:                   "EOF",
		`{"value":"v"}}`:                 "follows",
		`{"value":"v"} {}`:               "follows",
		`{"value":"v"}x`:                 "follows",
		`{"value":"v","value":"w"}`:      "duplicate",
		`{"value":"v","\u0076alue":"w"}`: "duplicate",
		`{"value":{"a":{"b":1,"b":2}}}`:  "duplicate",
		`{"value":"v","headers":{"a":"1","a":"2"}}`: "duplicate",
		`{"value":"v","value_base64":""}`:           "exclude",
		`{"value":null,"value_base64":"/w=="}`:      "exclude",
		`{"key":"","key_base64":"","value":"v"}`:    "exclude",
		`{"value_base64":"/w"}`:                     "value_base64: must be base64",
		`{"value_base64":"_w=="}`:                   "must be base64",
		`{"value_base64":"/x=="}`:                   "must be base64",
		`{"value_base64":null}`:                     "must be a string",
		`{"key":1,"value":"v"}`:                     "key: must be a string",
		`{"key_base64":[],"value":"v"}`:             "key_base64: must be a string",
		`{"headers":[],"value":"v"}`:                "headers: must be an object",
		`{"headers":null,"value":"v"}`:              "headers: must be an object",
		`{"headers":{"a":1},"value":"v"}`:           `headers: "a": must be a string or an array`,
		`{"headers":{"a":["b",null]},"value":1}`:    `headers: "a": must be a string`,
		`{"headers_base64":{"a":"?"},"value":1}`:    `headers_base64: "a": must be base64`,
		`{"partition":-1,"value":"v"}`:              "partition: must be a whole number",
		`{"partition":1.0,"value":"v"}`:             "partition: must be a whole number",
		`{"partition":"1","value":"v"}`:             "partition: must be a whole number",
		`{"partition":2147483648,"value":"v"}`:      "partition: must be a whole number",
		`{"Value":"v"}`:                             `unknown field "Value"`,
		`{"value":"v","ttl":1}`:                     `unknown field "ttl"`,
		"{\"value\":\"\xff\"}":                      "UTF-8",
		`{"value":"\ud800"}`:                        "surrogate",
		`{"value":01}`:                              "invalid character",
		`{"value":` + deep + `}`:                    "33 deep",
		"{\"value\":\"a\nb\"}":                      "invalid character",
	} {
		var m store.Message
		err := new(ObjectReader).Read([]byte(line), &m)
		if errs.Of(err) != errs.InvalidBody || !strings.Contains(fmt.Sprint(err), text) {
			t.Errorf("%s: %v, want %q in an InvalidBody", line, err, text)
		}
		if len(fmt.Sprint(err)) > 400 {
			t.Errorf("%s: an error of %d bytes", line, len(err.Error()))
		}
	}
}

func TestReadObjectTakesDepthUpToTheLimit(t *testing.T) {
	ok := `{"value":` + strings.Repeat("[", MaxDepth-1) + strings.Repeat("]", MaxDepth-1) + `}`
	if err := new(ObjectReader).Read([]byte(ok), new(store.Message)); err != nil {
		t.Error(err)
	}
}

func TestEachElement(t *testing.T) {
	collect := func(src string) (out []string, err error) {
		err = EachElement([]byte(src), func(i int, e []byte) error {
			if i != len(out) {
				t.Errorf("element %d is called %d", len(out), i)
			}
			out = append(out, string(e))
			return nil
		})
		return out, err
	}
	if got, err := collect(` [ "a" , {"b": 1} ,1.0,null ] `); err != nil || !reflect.DeepEqual(got, []string{`"a"`, `{"b": 1}`, `1.0`, `null`}) {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := collect(`[]`); err != nil || got != nil {
		t.Errorf("%q, %v", got, err)
	}
	for _, src := range []string{``, ` `, `{}`, `"a"`, `[`, `[1`, `[1,`, `[1,]`, `[1]]`, `[1] x`, `[{"a":1,"a":2}]`, "[\"\xff\"]", strings.Repeat("[", 33) + strings.Repeat("]", 33)} {
		if _, err := collect(src); errs.Of(err) != errs.InvalidBody {
			t.Errorf("%s: %v", src, err)
		}
	}
	stop := errors.New("stop")
	if err := EachElement([]byte(`[1,2]`), func(int, []byte) error { return stop }); err != stop {
		t.Errorf("the callback's error became %v", err)
	}
}

// normal is m as it comes back from its object: headers grouped by name, names and JSON as the object has them.
func normal(m store.Message) store.Message {
	m.Offset, m.Time = 0, m.Time.Truncate(0)
	if len(m.Key) == 0 {
		m.Key = nil
	}
	var text, binary []store.Header
	for _, g := range group(m.Headers) {
		for _, v := range g.values {
			h := store.Header{Key: g.name, Value: append([]byte{}, v...)}
			if g.binary {
				binary = append(binary, h)
			} else {
				text = append(text, h)
			}
		}
	}
	isJSON := IsJSON(contentType(m.Headers))
	m.Headers = append(text, binary...)
	if m.Value != nil {
		m.Value = append([]byte{}, m.Value...)
	}
	if isJSON {
		if v, ok := appendJSON(nil, m.Value); ok {
			m.Value = v
		}
	}
	return m
}

func checkRoundTrip(t interface{ Fatalf(string, ...any) }, m store.Message, x Extra) {
	line := AppendObject(nil, &m, x)
	if bytes.ContainsAny(line, "\n\r") {
		t.Fatalf("%+v is more than a line: %q", m, line)
	}
	var back store.Message
	if err := new(ObjectReader).Read(line, &back); err != nil {
		t.Fatalf("%+v became %s, which does not parse: %v", m, line, err)
	}
	if x.Base64 && m.Value != nil && !bytes.Equal(m.Value, back.Value) {
		t.Fatalf("%q came back from base64 as %q", m.Value, back.Value)
	}
	want := normal(m)
	if x.Base64 {
		want.Value = m.Value
	}
	back.Time = want.Time
	if fmt.Sprintf("%#v", back) != fmt.Sprintf("%#v", want) {
		t.Fatalf("%s came back as\n%#v\nwant\n%#v", line, back, want)
	}
}

func TestEveryByteComesBack(t *testing.T) {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	for i := range 256 {
		b := all[i : i+1]
		checkRoundTrip(t, store.Message{Key: b, Value: b, Headers: []store.Header{{Key: "h", Value: b}, {Key: string(b), Value: []byte{}}}}, Extra{})
	}
	checkRoundTrip(t, store.Message{Key: all, Value: all, Headers: []store.Header{{Key: "h", Value: all}, {Key: "tags", Value: all}}}, Extra{})
}

func TestRoundTripProperty(t *testing.T) {
	some := rapid.OneOf(rapid.SliceOf(rapid.Byte()), rapid.Map(rapid.String(), func(s string) []byte { return []byte(s) }),
		rapid.SampledFrom([][]byte{nil, {}, []byte("null"), []byte(`"a"`), []byte(` {"a": 1.0}`), []byte("[\n1]"), []byte(`{"a":1,"a":1}`)}))
	names := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"a", "b", "content-type", "tags", "\xff"}))
	values := rapid.OneOf(some, rapid.Just([]byte("application/json")))
	rapid.Check(t, func(t *rapid.T) {
		m := store.Message{Key: some.Draw(t, "key"), Value: some.Draw(t, "value"), Partition: rapid.Int32Min(0).Draw(t, "partition")}
		for range rapid.IntRange(0, 20).Draw(t, "headers") {
			m.Headers = append(m.Headers, store.Header{Key: names.Draw(t, "name"), Value: values.Draw(t, "header")})
		}
		checkRoundTrip(t, m, Extra{Attempt: 1, Receipt: []byte("r"), Topic: "a/b/c", Base64: rapid.Bool().Draw(t, "base64")})
	})
}

func FuzzReadObject(f *testing.F) {
	for _, s := range []string{`{"value":"v"}`, `{"key":"k","headers":{"a":["1"]},"headers_base64":{"b":"AA=="},"value":{"a":1},"partition":3}`,
		`{"value_base64":"/w==","offset":1}`, `{"value":"\ud83d\ude00"}`, `{"value":[[[[]]]]}`, `{"headers":{"a":{}},"value":1}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		var m store.Message
		if err := new(ObjectReader).Read(line, &m); err != nil {
			if errs.Of(err) != errs.InvalidBody {
				t.Fatalf("%q: kind of %v", line, err)
			}
			return
		}
		m.Partition = max(m.Partition, 0)
		checkRoundTrip(t, m, Extra{})
	})
}

func FuzzRoundTrip(f *testing.F) {
	f.Add([]byte("k"), "content-type", []byte("application/json"), []byte(`{"a": 1}`), false)
	f.Add([]byte("\xff"), "a", []byte("\u2028"), []byte("\n"), true)
	f.Add([]byte(""), "content-type", []byte("x/y+json"), []byte("[\"\u0085\\\"\",\t1\n]"), false)
	f.Fuzz(func(t *testing.T, key []byte, name string, header, value []byte, base64 bool) {
		headers := []store.Header{{Key: name, Value: header}, {Key: "b", Value: key}}
		checkRoundTrip(t, store.Message{Key: key, Headers: headers, Value: value}, Extra{Base64: base64})
	})
}

func FuzzEachElement(f *testing.F) {
	f.Add([]byte(`["a",{"b":[1]},null]`))
	f.Add([]byte(`[`))
	f.Fuzz(func(t *testing.T, src []byte) {
		n := 0
		_ = EachElement(src, func(i int, e []byte) error {
			if n++; len(e) == 0 || isSpace(e[0]) || isSpace(e[len(e)-1]) {
				t.Fatalf("element %d of %q is %q", i, src, e)
			}
			return nil
		})
	})
}

func BenchmarkReadObject(b *testing.B) {
	line := AppendObject(nil, sample(), Extra{})
	lines := bytes.Repeat(append(line, '\n'), 1000)
	b.ReportAllocs()
	for b.Loop() {
		var r ObjectReader
		for line := range bytes.Lines(lines) {
			var m store.Message
			if err := r.Read(line, &m); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/message")
}
