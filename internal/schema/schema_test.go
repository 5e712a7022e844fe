package schema

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/hamba/avro/v2"

	"github.com/kateway/kateway/internal/errs"
)

func parse(t testing.TB, kind, text string) *Schema {
	t.Helper()
	s, err := Parse(kind, text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// told is the faults in a line.
func told(list []errs.Fault) string {
	var all []string
	for _, f := range list {
		all = append(all, f.Path+": "+f.Message)
	}
	return strings.Join(all, "; ")
}

const order = `{"$schema":"https://json-schema.org/draft/2020-12/schema","type":"object","required":["id"],"additionalProperties":false,
	"properties":{"id":{"type":"integer","minimum":1},"name":{"type":"string","pattern":"^[a-z]+$"},"next":{"$ref":"#"},
	"tags":{"type":"array","items":{"type":"string"}},"a/b":{"type":"boolean"}}}`

func TestJSON(t *testing.T) {
	s := parse(t, JSON, order)
	for value, want := range map[string]string{
		`{"id":1}`:                            "",
		`{"id":1,"name":"x","next":{"id":2}}`: "",
		`{"id":1.0}`:                          "",
		`{"id":0}`:                            "/id: ",
		`{}`:                                  "/id: is required",
		`{"id":"x"}`:                          "/id: ",
		`{"id":1,"more":2}`:                   "/more: is not allowed",
		`{"id":1,"next":{"name":"X"}}`:        "/next/id: is required; /next/name: ",
		`{"id":1,"tags":["a",2]}`:             "/tags/1: ",
		`{"id":1,"a/b":1}`:                    "/a~1b: ",
		`{"id":1,"id":0}`:                     ": it is no JSON",
		`{"id":1} {}`:                         ": it is no JSON",
		`{"id":1e999999999}`:                  ": it is no JSON: the exponent",
		`{"id":1` + strings.Repeat("0", 2000) + `}`: ": it is no JSON: a number",
		``:                      ": it is no JSON",
		`nonsense`:              ": it is no JSON",
		"{\"id\":1,\"\xff\":1}": ": it is no JSON",
		strings.Repeat(`{"id":1,"next":`, 40) + "1" + strings.Repeat("}", 40): ": it is no JSON: it is nested too deep",
	} {
		if got := told(s.Check([]byte(value))); (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("%.60s: %s; want %s", value, got, want)
		}
	}
}

func TestFaultsAreBounded(t *testing.T) {
	s := parse(t, JSON, `{"items":{"type":"string","pattern":"^a+$"}}`)
	list := s.Check([]byte("[" + strings.Repeat(`"`+strings.Repeat("x", 5000)+`",`, 99) + `1]`))
	if len(list) != MaxFaults {
		t.Errorf("%d faults", len(list))
	}
	for _, f := range list {
		if len(f.Message) > maxMessage+3 {
			t.Errorf("a text of %d bytes", len(f.Message))
		}
	}
}

func TestSchemasThatAreRefused(t *testing.T) {
	for _, c := range []struct{ kind, text, want string }{
		{"xml", "", "there are json, avro and protobuf"},
		{JSON, "", "EOF"},
		{JSON, "[]", "must be a JSON object"},
		{JSON, `{"type":"nothing"}`, "type"},
		{JSON, `{"type":"object","type":"string"}`, "duplicate"},
		{JSON, `{"$ref":"https://example.com/s"}`, "$ref"},
		{JSON, `{"$ref":"file:///etc/passwd"}`, "$ref"},
		{JSON, `{"$ref":"#/$defs/none"}`, "$ref"},
		{JSON, `{"$schema":"http://json-schema.org/draft-07/schema#"}`, "2020-12"},
		{JSON, `{"$schema":"https://example.com/meta"}`, ""},
		{JSON, `{"properties":{"a":{"$id":"https://example.com/"}}}`, "$id"},
		{JSON, `{"$dynamicRef":"#a"}`, "$dynamicRef"},
		{JSON, `{"pattern":"(?<!a)b"}`, "pattern"}, // looks behind: no RE2
		{JSON, `{"pattern":"(a"}`, "pattern"},
		{JSON, `{"$ref":"#"}`, "branches"},
		{JSON, `{"allOf":[{"$ref":"#/$defs/a"}],"$defs":{"a":{"anyOf":[{"$ref":"#/$defs/a"}]}}}`, "branches"},
		{JSON, `{"anyOf":[{"items":{"$ref":"#"}},{"items":{"$ref":"#"}}]}`, "branches"},
		{JSON, strings.Repeat(`{"not":`, 100) + "{}" + strings.Repeat("}", 100), "deep"},
		{Avro, "", "avro schema"},
		{Avro, `{"type":"record"}`, "avro schema"},
		{Avro, `{"type":"record","name":"a","fields":[{"name":"b","type":"no.such"}]}`, "no.such"},
		{Protobuf, "", "no message"},
		{Protobuf, `syntax = "proto3"; message M { int32 a = 1; int32 b = 1; }`, "1"},
		{Protobuf, `syntax = "proto3"; import "other.proto"; message M {}`, "other.proto"},
		{Protobuf, `syntax = "proto3"; import "/etc/passwd"; message M {}`, "passwd"},
		{JSON, `{"description":"` + strings.Repeat("x", MaxText) + `"}`, "at most"},
	} {
		_, err := Parse(c.kind, c.text)
		if err == nil || !strings.Contains(err.Error(), c.want) || errs.Of(err) != errs.InvalidBody && errs.Of(err) != errs.TooLarge {
			t.Errorf("%s %.60s: %v; want %s", c.kind, c.text, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "urn:kateway") {
			t.Errorf("%v: shows our own name", err)
		}
	}
	for _, text := range []string{`true`, `{}`, `{"properties":{"$ref":{"type":"string"},"$id":{}}}`, `{"$id":"https://example.com/order","$ref":"#/$defs/a","$defs":{"a":{}}}`} {
		if _, err := Parse(JSON, text); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// A schema that may be registered can't make a message expensive, in steps or in memory, right or wrong.
func TestCostIsBounded(t *testing.T) {
	s := parse(t, JSON, `{"anyOf":[{"type":"string"},{"type":"array","items":{"$ref":"#"}},{"type":"object","additionalProperties":{"$ref":"#"}}]}`)
	const n = 50_000
	value := []byte(strings.Repeat("[", 31) + strings.Repeat("1,", n) + "1" + strings.Repeat("]", 31))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if got := told(s.Check(value)); !strings.Contains(got, "not told where") {
		t.Error(got)
	}
	runtime.ReadMemStats(&after)
	if each := (after.TotalAlloc - before.TotalAlloc) / n; each > 3000 {
		t.Errorf("a wrong value costs %d bytes", each)
	}
	if got := told(s.Check([]byte("[" + strings.Repeat("1,", maxValues) + "1]"))); !strings.Contains(got, "more than 200000 values") {
		t.Error(got)
	}
}

const avroOrder = `{"type":"record","name":"order","fields":[{"name":"id","type":"long"},{"name":"note","type":["null","string"],"default":null},
	{"name":"tags","type":{"type":"array","items":"string"}},{"name":"by","type":{"type":"map","values":"int"}},
	{"name":"kind","type":{"type":"enum","name":"kind","symbols":["a","b"]}},{"name":"sum","type":{"type":"fixed","name":"md5","size":4}},
	{"name":"next","type":["null","order"],"default":null},{"name":"ok","type":"boolean"},{"name":"f","type":"float"},{"name":"d","type":"double"},{"name":"raw","type":"bytes"}]}`

func avroValue(t testing.TB) []byte {
	one := map[string]any{"id": 7, "note": nil, "tags": []string{"x", "y"}, "by": map[string]any{"k": 1}, "kind": "b", "sum": [4]byte{1, 2, 3, 4},
		"next": nil, "ok": true, "f": float32(1), "d": 2.0, "raw": []byte{9}}
	two := map[string]any{"order": one}
	all := map[string]any{}
	for k, v := range one {
		all[k] = v
	}
	all["next"], all["note"] = two, map[string]any{"string": "hello"}
	b, err := avro.Marshal(avro.MustParse(avroOrder), all)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestAvro(t *testing.T) {
	s, value := parse(t, Avro, avroOrder), avroValue(t)
	if got := s.Check(value); got != nil {
		t.Fatal(told(got))
	}
	for n := range value {
		if s.Check(value[:n]) == nil {
			t.Errorf("the first %d of %d bytes are taken for all", n, len(value))
		}
	}
	if got := told(s.Check(append(value, 0))); !strings.Contains(got, "1 bytes are left") {
		t.Error(got)
	}
	for _, c := range []struct{ schema, value, want string }{
		{`"boolean"`, "\x02", "no boolean"},
		{`"int"`, "\x80\x80\x80\x80\x80\x01", "does not fit an int"},
		{`"string"`, "\x02\xff", "UTF-8"},
		{`"string"`, "\x01", "length of -1"},
		{`["null","int"]`, "\x04", "no branch 2"},
		{`{"type":"enum","name":"e","symbols":["a"]}`, "\x02", "no symbol 1"},
		{`{"type":"record","name":"r","fields":[{"name":"x","type":{"type":"array","items":{"type":"record","name":"q","fields":[{"name":"y","type":"boolean"}]}}}]}`, "\x04\x01\x07", "/x/1/y: 7 is no boolean"},
		{`{"type":"array","items":"null"}`, "\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01\x00", "more than"}, // 2^62 of them in ten bytes
		{`{"type":"array","items":"null"}`, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x00\x00", ""},
		{`{"type":"record","name":"l","fields":[{"name":"n","type":["null","l"]}]}`, strings.Repeat("\x02", 40) + "\x00", "nested deeper"},
	} {
		if got := told(parse(t, Avro, c.schema).Check([]byte(c.value))); got == "" || !strings.Contains(got, c.want) {
			t.Errorf("%s: %s; want %s", c.schema, got, c.want)
		}
	}
}

const protoOrder = `syntax = "proto3"; package shop; import "google/protobuf/timestamp.proto";
	message Order { int64 id = 1; string name = 2; repeated int32 n = 3; repeated Order sub = 4; map<string, Kind> by = 5; Kind kind = 6;
		google.protobuf.Timestamp at = 7; message Line { bool ok = 1; } fixed32 f = 8; }
	enum Kind { A = 0; B = 1; }`

func TestProtobuf(t *testing.T) {
	s := parse(t, Protobuf, protoOrder)
	for value, want := range map[string]string{
		"":                                 "",
		"\x08\x01\x12\x01x":                "",
		"\x1a\x02\x01\x02\x18\x03":         "", // packed and not
		"\x22\x02\x08\x01\x22\x00":         "",
		"\x2a\x05\x0a\x01k\x10\x01":        "",
		"\x30\x63":                         "", // an open enum
		"\x3a\x02\x08\x01":                 "",
		"\x45\x01\x02\x03\x04":             "",
		"\x08":                             "breaks off",
		"\x00":                             "no message",
		"hello":                            "",
		"\x50\x01":                         "/10: the schema has no field 10",
		"\x22\x00\x22\x02\x50\x01":         "/sub/1/10: ",
		"\x12\x01\xff":                     "/name: is not UTF-8",
		"\x0a\x01x":                        "/id: is written as wire type 2",
		"\x3a\x02\x50\x01":                 "/at/10: ",
		"\x1a\x02\x01\xff":                 "/n/0: a packed list breaks off",
		strings.Repeat("\x22\x7f", 1) + "": "breaks off",
	} {
		got := told(s.Check([]byte(value)))
		if value == "hello" {
			want = "field"
		}
		if (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("%q: %s; want %s", value, got, want)
		}
	}
	deep := []byte{}
	for range 40 {
		deep = append(append([]byte{0x22}, binary.AppendUvarint(nil, uint64(len(deep)))...), deep...)
	}
	if got := told(s.Check(deep)); !strings.Contains(got, "nested deeper") {
		t.Error(got)
	}
	old := parse(t, Protobuf, `syntax = "proto2"; message M { required int32 a = 1; optional E e = 2; optional group G = 3 { optional int32 x = 1; } extensions 100 to 200; } enum E { X = 0; }`)
	for value, want := range map[string]string{
		"\x08\x01": "", "": "/a: is required", "\x08\x01\x10\x05": "/e: 5 is no value", "\x08\x01\x1b\x08\x01\x1c": "", "\x08\x01\x1b\x10\x01\x1c": "/g/2: ", "\x08\x01\xa0\x06\x01": "",
	} {
		if got := told(old.Check([]byte(value))); (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("%q: %s; want %s", value, got, want)
		}
	}
}

func TestFrames(t *testing.T) {
	s := parse(t, Protobuf, protoOrder)
	for payload, want := range map[string]string{
		"\x00\x08\x01":          "", // the first message
		"\x02\x00\x08\x01":      "",
		"\x04\x00\x00\x08\x01":  "", // Order.Line
		"\x04\x00\x00\x12\x01x": "no field 2 in shop.Order.Line",
		"\x02\x02":              "no message type [1]",
		"\x04\x00\x0a":          "no message type",
		"":                      "no list of message indexes",
		"\x01":                  "no list",
		"\x80":                  "no list",
		"\xfe\x01":              "no list",
		"\x02\x01":              "no list",
	} {
		if got := told(s.CheckFramed([]byte(payload))); (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("%q: %s; want %s", payload, got, want)
		}
	}
	if id, rest, ok := Unframe([]byte("\x00\x00\x00\x01\x02{}")); id != 258 || string(rest) != "{}" || !ok {
		t.Error(id, rest, ok)
	}
	for _, v := range []string{"", "\x00", "\x00\x00\x00\x00", "{\x00\x00\x00\x00"} {
		if _, _, ok := Unframe([]byte(v)); ok {
			t.Errorf("%q is a frame", v)
		}
	}
	if got := parse(t, JSON, order).CheckFramed([]byte(`{"id":1}`)); got != nil {
		t.Error(told(got))
	}
}

func TestPanicsAreErrors(t *testing.T) {
	s := &Schema{kind: JSON, body: nil}
	if got := s.Check(nil); len(got) != 1 {
		t.Error(got)
	}
}

func FuzzParse(f *testing.F) {
	for _, kind := range []string{JSON, Avro, Protobuf} {
		for _, text := range []string{order, avroOrder, protoOrder, "{}", `"int"`, ""} {
			f.Add(kind, text, []byte("\x00\x00\x00\x00\x01{}"))
		}
	}
	f.Fuzz(func(t *testing.T, kind, text string, value []byte) {
		s, err := Parse(kind, text)
		if err != nil {
			if errs.Of(err) != errs.InvalidBody && !errors.Is(err, errs.TooLarge) {
				t.Error(err)
			}
			return
		}
		s.Check(value)
		s.CheckFramed(value)
		if list := Incompatible(Full, s, s); len(list) > 0 && kind != JSON {
			t.Errorf("not compatible with itself: %s", told(list))
		}
	})
}

func FuzzFrame(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x00\x01\x04\x00\x00x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, rest, ok := Unframe(b); ok && len(rest) != len(b)-5 {
			t.Error(rest)
		}
		if index, rest, ok := cutIndex(b); ok && (len(index) == 0 || len(index) > maxIndex || len(rest) > len(b)) {
			t.Error(index, rest)
		}
	})
}

// What the library's decoder takes and gives back in the same bytes is right, whatever the bytes.
func FuzzAvro(f *testing.F) {
	f.Add(avroValue(f))
	s := avro.MustParse(avroOrder)
	own := parse(f, Avro, avroOrder)
	f.Fuzz(func(t *testing.T, b []byte) {
		var v any
		if len(b) > 1000 || avro.Unmarshal(s, b, &v) != nil {
			return
		}
		again, err := avro.Marshal(s, v)
		if err == nil && bytes.Equal(again, b) && own.Check(b) != nil && !strings.Contains(fmt.Sprint(own.Check(b)), "UTF-8") {
			t.Errorf("%x: %v", b, own.Check(b))
		}
	})
}

func BenchmarkCheck(b *testing.B) {
	for _, c := range []struct {
		kind, schema string
		value        []byte
	}{
		{JSON, order, []byte(`{"id":123456,"name":"abcdef","tags":["a","b","c"],"next":{"id":7}}`)},
		{Avro, avroOrder, avroValue(b)},
		{Protobuf, protoOrder, []byte("\x08\x01\x12\x01x\x1a\x02\x01\x02\x22\x02\x08\x01")},
	} {
		s := parse(b, c.kind, c.schema)
		b.Run(c.kind, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if s.Check(c.value) != nil {
					b.Fatal("it is right")
				}
			}
		})
	}
}
