package wire

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/kateway/kateway/store"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 7_000_000, time.UTC)

func TestAppendObject(t *testing.T) {
	text := []store.Header{{Key: "content-type", Value: []byte("text/plain")}}
	js := []store.Header{{Key: "content-type", Value: []byte("application/json")}}
	const head = `{"partition":3,"offset":42,"timestamp":"2026-11-23T12:00:00.007Z"`
	cases := []struct {
		name string
		m    store.Message
		x    Extra
		want string // after head
	}{
		{"text", store.Message{Key: []byte("k"), Headers: text, Value: []byte("hello")}, Extra{Attempt: 1, Receipt: []byte("r")},
			`,"key":"k","headers":{"content-type":"text/plain"},"value":"hello","attempt":1,"receipt":"r"}`},
		{"nothing but a value", store.Message{Value: []byte("v")}, Extra{}, `,"value":"v"}`},
		{"empty value", store.Message{Value: []byte{}}, Extra{}, `,"value":""}`},
		{"tombstone", store.Message{}, Extra{Base64: true}, `,"value":null}`},
		{"empty key", store.Message{Key: []byte{}, Value: []byte{}}, Extra{}, `,"key":"","value":""}`},
		{"topic of a merged stream", store.Message{Value: []byte("v")}, Extra{Topic: "a/t/v1"}, `,"topic":"a/t/v1","value":"v"}`},
		{"read without a group", store.Message{Value: []byte("v")}, Extra{Cursor: []byte("c-_")}, `,"value":"v","cursor":"c-_"}`},
		{"binary", store.Message{Key: []byte{0xff}, Value: []byte{0xfe, 0}}, Extra{}, `,"key_base64":"/w==","value_base64":"/gA="}`},
		{"forced base64", store.Message{Key: []byte("k"), Headers: js, Value: []byte("1")}, Extra{Base64: true},
			`,"key":"k","headers":{"content-type":"application/json"},"value_base64":"MQ=="}`},
		{"json in place, number untouched", store.Message{Headers: js, Value: []byte(`{"a": 12345678901234567890.10}`)}, Extra{},
			`,"headers":{"content-type":"application/json"},"value":{"a": 12345678901234567890.10}}`},
		{"json on one line", store.Message{Headers: js, Value: []byte(" [1,\r\n \"a b\\\"\", {\"x\" :\ttrue}]\n")}, Extra{},
			`,"headers":{"content-type":"application/json"},"value":[1,"a b\"",{"x":true}]}`},
		{"separators in json", store.Message{Headers: js, Value: []byte("{\"a\":\"\u2028 é\"}")}, Extra{},
			`,"headers":{"content-type":"application/json"},"value":{"a":"\u2028 é"}}`},
		{"a json string stays text", store.Message{Headers: js, Value: []byte(`"hello"`)}, Extra{},
			`,"headers":{"content-type":"application/json"},"value":"\"hello\""}`},
		{"json null is no tombstone", store.Message{Headers: js, Value: []byte(`null`)}, Extra{},
			`,"headers":{"content-type":"application/json"},"value":"null"}`},
		{"broken json is text", store.Message{Headers: js, Value: []byte(`{"a":`)}, Extra{},
			`,"headers":{"content-type":"application/json"},"value":"{\"a\":"}`},
		{"a name twice is text", store.Message{Headers: js, Value: []byte(`{"a":1,"a":2}`)}, Extra{},
			`,"headers":{"content-type":"application/json"},"value":"{\"a\":1,\"a\":2}"}`},
		{"headers of one name", store.Message{Headers: []store.Header{{Key: "a", Value: []byte("1")}, {Key: "b"}, {Key: "a", Value: []byte("2")}}, Value: []byte{}}, Extra{},
			`,"headers":{"a":["1","2"],"b":""},"value":""}`},
		{"binary headers", store.Message{Headers: []store.Header{{Key: "a", Value: []byte("1")}, {Key: "b"}, {Key: "a", Value: []byte{0xff}}, {Key: "c", Value: []byte{0xff}}}, Value: []byte{}}, Extra{},
			`,"headers":{"b":""},"headers_base64":{"a":["MQ==","/w=="],"c":"/w=="},"value":""}`},
		{"names that are no text", store.Message{Headers: []store.Header{{Key: "\xff", Value: []byte("1")}, {Key: "\xfe", Value: []byte("2")}}, Value: []byte{}}, Extra{},
			`,"headers":{"` + "\uFFFD" + `":["1","2"]},"value":""}`},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			c.m.Partition, c.m.Offset, c.m.Time = 3, 42, noon.In(time.FixedZone("", 3600))
			if got := string(AppendObject(nil, &c.m, c.x)); got != head+c.want {
				t.Errorf("got  %s\nwant %s", got, head+c.want)
			}
		})
	}
}

func TestObjectDepthIsBounded(t *testing.T) {
	nested := func(n int) []byte { return []byte(strings.Repeat("[", n) + strings.Repeat("]", n)) }
	m := store.Message{Headers: []store.Header{{Key: "content-type", Value: []byte("application/x+JSON; a=b")}}}
	for n, inPlace := range map[int]bool{MaxDepth - 1: true, MaxDepth: false, 5000: false} {
		m.Value = nested(n)
		line := AppendObject(nil, &m, Extra{})
		if got := strings.Contains(string(line), `"value":[`); got != inPlace {
			t.Errorf("depth %d: in place is %v, want %v", n, got, inPlace)
		}
		var back store.Message
		if err := new(ObjectReader).Read(line, &back); err != nil || !bytes.Equal(back.Value, m.Value) {
			t.Errorf("depth %d does not come back: %v", n, err)
		}
	}
}

// Every character, alone and in company, must come back through a JSON reader that is not ours, from one line.
func TestAppendTextIsJSON(t *testing.T) {
	check := func(s string) {
		t.Helper()
		b := append(appendText([]byte(`"`), s), '"')
		var back string
		if err := json.Unmarshal(b, &back); err != nil || back != s {
			t.Fatalf("%q became %s: %v", s, b, err)
		}
		if strings.ContainsAny(string(b), "\n\r\u0085\u2028\u2029") {
			t.Fatalf("%q became more than a line: %q", s, b)
		}
	}
	var all strings.Builder
	for r := rune(0); r <= utf8.MaxRune; r++ {
		if !utf8.ValidRune(r) {
			continue
		}
		all.WriteRune(r)
		if r < 0x3000 {
			for _, pad := range []string{"", "a", "1234567", "12345678", "é"} {
				check(pad + string(r) + pad)
			}
		}
	}
	check(all.String())
}

func TestAppendTime(t *testing.T) {
	for _, c := range []struct {
		t    time.Time
		want string
	}{
		{noon, "2026-11-23T12:00:00.007Z"},
		{time.Time{}, "0001-01-01T00:00:00.000Z"},
		{time.UnixMilli(-1), "1969-12-31T23:59:59.999Z"},
		{time.Date(2024, 2, 29, 23, 59, 58, 999_999_999, time.UTC), "2024-02-29T23:59:58.999Z"},
		{time.UnixMilli(1<<63 - 1), "9999-12-31T23:59:59.999Z"},
		{time.Date(-3, 1, 1, 0, 0, 0, 0, time.UTC), "0000-01-01T00:00:00.000Z"},
	} {
		if got := string(AppendTime(nil, c.t)); got != c.want {
			t.Errorf("%v: %s, want %s", c.t, got, c.want)
		}
	}
}

func TestAppendObjectDoesNotAllocate(t *testing.T) {
	m := sample()
	dst := make([]byte, 0, 4096)
	if n := testing.AllocsPerRun(100, func() { dst = AppendObject(dst[:0], m, Extra{Attempt: 1, Receipt: []byte("abc")}) }); n > 0 {
		t.Errorf("%v allocations per message", n)
	}
}

func sample() *store.Message {
	return &store.Message{
		Key: []byte("customer-1234"), Partition: 3, Offset: 123456, Time: noon,
		Value:   []byte(strings.Repeat("The quick brown fox. ", 5)[:100]),
		Headers: []store.Header{{Key: "content-type", Value: []byte("text/plain")}, {Key: "tags", Value: []byte("a;b")}},
	}
}

func BenchmarkAppendObject(b *testing.B) {
	run := func(name string, m *store.Message) {
		b.Run(name, func(b *testing.B) {
			dst := make([]byte, 0, 1<<21)
			b.ReportAllocs()
			for b.Loop() {
				dst = AppendObject(dst[:0], m, Extra{Attempt: 1, Receipt: []byte("AQMqAQAAAAAAAAAAAAAA")})
			}
			b.SetBytes(int64(len(dst)))
		})
	}
	run("text100", sample())
	js := sample()
	js.Headers[0].Value = []byte("application/json")
	js.Value = []byte(`{"id":12345,"customer":"c-77","items":[{"sku":"a-1","n":2},{"sku":"b-9","n":1}],"total":129.90,"x":1}`)
	run("json100", js)
	binary := sample()
	binary.Value[0] = 0xff
	run("binary100", binary)
	big := sample()
	big.Value = []byte(strings.Repeat("x", 1<<20))
	run("text1M", big)
}
