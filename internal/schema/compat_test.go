package schema

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

func TestIncompatible(t *testing.T) {
	const closed = `{"type":"object","additionalProperties":false,"required":["id"],"properties":{"id":{"type":"integer"}%s}%s}`
	schema := func(properties, more string) string { return fmt.Sprintf(closed, properties, more) }
	base := schema("", "")
	proto := func(fields string) string {
		return `syntax = "proto3"; package p; message M { ` + fields + ` } enum E { A = 0; B = 1; }`
	}
	record := func(fields string) string { return `{"type":"record","name":"r","fields":[` + fields + `]}` }
	const id = `{"name":"id","type":"int"}`
	for _, c := range []struct {
		name, kind, before, after string
		backward, forward         string // what is told; "": compatible
	}{
		{"the same", JSON, base, base, "", ""},
		{"an optional property of a closed object", JSON, base, schema(`,"a":{"type":"string"}`, ""), "", "/a: "},
		{"wider number", JSON, base, `{"type":"object","additionalProperties":false,"required":["id"],"properties":{"id":{"type":"number"}}}`, "", "/id: who reads by the old"},
		{"required", JSON, schema(`,"a":{}`, ""), `{"type":"object","additionalProperties":false,"required":["id","a"],"properties":{"id":{"type":"integer"},"a":{}}}`, "/a: who reads by the new schema what was written by the old one: is required", ""},
		{"open object gets a property", JSON, `{"type":"object"}`, `{"type":"object","properties":{"a":{"type":"string"}}}`, "/a: ", ""},
		{"narrower", JSON, `{"maximum":9}`, `{"maximum":8}`, "maximum is narrower", ""},
		{"exclusive", JSON, `{"exclusiveMaximum":9}`, `{"maximum":9}`, "", "exclusiveMaximum"},
		{"enum grows", JSON, `{"enum":["a",1]}`, `{"enum":["a",1.0,"b"]}`, "", "b is possible"},
		{"alternatives grow", JSON, `{"type":"string"}`, `{"anyOf":[{"type":"null"},{"type":"string"}]}`, "", "null"},
		{"by reference", JSON, `{"$defs":{"a":{"type":"string"}},"items":{"$ref":"#/$defs/a"}}`, `{"items":{"type":"string"}}`, "", ""},
		{"recursive", JSON, `{"type":"object","properties":{"next":{"$ref":"#"}},"additionalProperties":false}`, `{"type":"object","properties":{"next":{"$ref":"#"},"n":{}},"additionalProperties":false}`, "", "/n: "},
		{"unknown words", JSON, `{"x-owner":"a","title":"b"}`, `{"x-owner":"c"}`, "", ""},
		{"not", JSON, `{"not":{"type":"string"}}`, `{"not":{"type":"string"},"type":["object","array"]}`, "is possible, and type", ""},
		{"everything", JSON, `{"type":"string"}`, `true`, "", "is possible"},
		{"nothing", JSON, `{"type":"string"}`, `false`, "nothing is allowed", ""},
		{"items", JSON, `{"prefixItems":[{"type":"string"}],"items":false}`, `{"items":{"type":"string"}}`, "", "nothing is allowed"},
		{"another type", Avro, record(id), record(id), "", ""},

		{"field with a default", Avro, record(id), record(id + `,{"name":"a","type":"string","default":""}`), "", ""},
		{"field without", Avro, record(id), record(id + `,{"name":"a","type":"string"}`), "a", ""},
		{"promotion", Avro, record(id), record(`{"name":"id","type":"long"}`), "", "long"},
		{"renamed", Avro, record(id), `{"type":"record","name":"q","fields":[` + id + `]}`, "q", "r"},

		{"new field", Protobuf, proto("int32 a = 1;"), proto("int32 a = 1; string b = 2;"), "", ""},
		{"field is gone", Protobuf, proto("int32 a = 1; string b = 2;"), proto("int32 a = 1;"), "", ""},
		{"wider", Protobuf, proto("int32 a = 1;"), proto("int64 a = 1;"), "", "written as int64 and read as int32"},
		{"another number", Protobuf, proto("int32 a = 1;"), proto("sint32 a = 1;"), "written as int32", "written as sint32"},
		{"repeated", Protobuf, proto("int32 a = 1;"), proto("repeated int32 a = 1;"), "was single and is repeated", "was repeated"},
		{"into a oneof", Protobuf, proto("int32 a = 1; int32 b = 2;"), proto("oneof x { int32 a = 1; int32 b = 2; }"), "oneof", "oneof"},
		{"optional", Protobuf, proto("int32 a = 1;"), proto("optional int32 a = 1;"), "", ""},
		{"enum value is gone", Protobuf, proto("E e = 1;"), strings.Replace(proto("E e = 1;"), "B = 1;", "", 1), "does not have the value B", ""},
		{"map", Protobuf, proto("map<string,int32> m = 1;"), proto("map<string,int64> m = 1;"), "", "int64"},
		{"package", Protobuf, proto(""), strings.Replace(proto(""), "package p", "package q", 1), "package", "package"},
		{"message is gone", Protobuf, proto("message N {}"), proto(""), "/M/N: ", ""},
		{"required", Protobuf, `syntax = "proto2"; message M { optional int32 a = 1; }`, `syntax = "proto2"; message M { required int32 a = 1; }`, "/M/a: ", ""},
	} {
		before, after := parse(t, c.kind, c.before), parse(t, c.kind, c.after)
		for mode, want := range map[string]string{Backward: c.backward, Forward: c.forward, Full: c.backward + c.forward} {
			got := told(Incompatible(mode, before, after))
			if (want == "") != (got == "") || mode != Full && !strings.Contains(got, want) {
				t.Errorf("%s, %s: %q; want %q", c.name, mode, got, want)
			}
		}
		if got := Incompatible(None, before, after); got != nil {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	if got := told(Incompatible(Backward, parse(t, JSON, "{}"), parse(t, Avro, `"int"`))); !strings.Contains(got, "from json to avro") {
		t.Error(got)
	}
}

// gen makes small schemas and values at random, of few words, so that they meet.
type gen struct{ *rand.Rand }

func (g gen) pick(list ...any) any { return list[g.IntN(len(list))] }

func (g gen) schema(depth int) any {
	if g.IntN(8) == 0 {
		return g.pick(true, false, map[string]any{})
	}
	s := map[string]any{}
	if g.IntN(2) == 0 {
		s["type"] = g.pick("string", "integer", "number", "object", "array", "null", "boolean", []any{"string", "null"}, []any{"object", "integer"})
	}
	for range g.IntN(3) {
		switch g.IntN(16) {
		case 0:
			s["minimum"] = g.pick(json.Number("0"), json.Number("1"), json.Number("2"))
		case 1:
			s["exclusiveMaximum"] = g.pick(json.Number("1"), json.Number("2"), json.Number("3"))
		case 2:
			s["enum"] = []any{g.pick("a", json.Number("1"), nil), g.pick("b", json.Number("2"))}
		case 3:
			s["const"] = g.pick("a", json.Number("1"), nil, map[string]any{})
		case 4:
			s["required"] = []any{g.pick("a", "b", "ab")}
		case 5:
			s["maxLength"] = g.pick(json.Number("0"), json.Number("1"))
		case 6:
			s["pattern"] = g.pick("a", "^b")
		case 7:
			s["multipleOf"] = g.pick(json.Number("1"), json.Number("2"), json.Number("0.5"))
		case 8:
			s["minItems"] = g.pick(json.Number("1"), json.Number("2"))
		case 9:
			s["uniqueItems"] = g.pick(true, false)
		case 10:
			s["maxItems"] = g.pick(json.Number("0"), json.Number("1"), json.Number("2"))
		case 11:
			s["minContains"], s["contains"] = g.pick(json.Number("0"), json.Number("2")), map[string]any{"type": "string"}
		case 12:
			s["$ref"] = g.pick("#/$defs/x", "#/$defs/y")
		case 13:
			s["maxProperties"] = g.pick(json.Number("0"), json.Number("1"))
		case 14:
			s["dependentRequired"] = map[string]any{"a": []any{"b"}}
		}
	}
	for range g.IntN(3) {
		if depth == 0 {
			break
		}
		sub := func() any { return g.schema(depth - 1) }
		switch g.IntN(12) {
		case 0, 1:
			s["properties"] = map[string]any{g.pick("a", "b").(string): sub(), g.pick("ab", "b").(string): sub()}
		case 2:
			s["additionalProperties"] = g.pick(false, sub())
		case 3:
			s["patternProperties"] = map[string]any{g.pick("a", "b", "^a").(string): sub()}
		case 4:
			s["items"] = sub()
		case 5:
			s["prefixItems"] = []any{sub(), sub()}
		case 6:
			s["anyOf"] = []any{sub(), sub()}
		case 7:
			s["allOf"] = []any{sub(), sub()}
		case 8:
			s["oneOf"] = []any{sub(), sub()}
		case 9:
			s["not"] = sub()
		case 10:
			s["if"], s["then"] = sub(), sub()
		case 11:
			s["unevaluatedProperties"] = g.pick(false, sub())
		}
	}
	return s
}

// near is a schema like another one, but for a place.
func (g gen) near(s any, depth int) any {
	m, ok := s.(map[string]any)
	if !ok || depth == 0 || g.IntN(4) == 0 {
		return g.schema(depth)
	}
	c := map[string]any{}
	changed := g.IntN(len(m) + 1)
	i := 0
	for _, k := range []string{"type", "properties", "items", "anyOf", "allOf", "additionalProperties", "patternProperties", "required", "minimum", "enum", "not", "oneOf", "prefixItems", "const", "$ref"} {
		v, ok := m[k]
		if !ok {
			continue
		}
		if i++; i-1 == changed {
			if sub, ok := v.(map[string]any); ok && (k == "properties" || k == "patternProperties") {
				next := map[string]any{}
				for name, s := range sub {
					next[name] = g.near(s, depth-1)
				}
				c[k] = next
			}
			continue
		}
		c[k] = v
	}
	return c
}

func (g gen) value(depth int) any {
	switch g.IntN(9) {
	case 0:
		return nil
	case 1:
		return true
	case 2, 3:
		return g.pick(json.Number("0"), json.Number("1"), json.Number("2"), json.Number("2.5"), json.Number("1.0"))
	case 4:
		return g.pick("", "a", "b", "ab")
	case 5, 6:
		list := []any{}
		for range g.IntN(4) {
			if depth > 0 {
				list = append(list, g.value(depth-1))
			}
		}
		return list
	}
	m := map[string]any{}
	for range g.IntN(4) {
		if depth > 0 {
			m[g.pick("a", "b", "ab", "c").(string)] = g.value(depth - 1)
		}
	}
	return m
}

// TestCompatibleMeansReadable: whenever two schemas are said to be compatible, no value is right by the one and wrong by the
// other.
func TestCompatibleMeansReadable(t *testing.T) {
	seed := rand.Uint64()
	g := gen{rand.New(rand.NewPCG(seed, 1))}
	rounds := 6000
	if testing.Short() {
		rounds = 1000
	}
	compatible, tried, right := 0, 0, 0
	for range rounds {
		defs := map[string]any{"x": g.schema(1), "y": g.schema(1)}
		first := g.schema(3)
		second := g.near(first, 3)
		texts := [2]string{}
		for i, s := range []any{first, second} {
			m, ok := s.(map[string]any)
			if !ok {
				m = map[string]any{"allOf": []any{s}}
			}
			with := map[string]any{"$defs": defs}
			for k, v := range m {
				with[k] = v
			}
			b, _ := json.Marshal(with)
			texts[i] = string(b)
		}
		w, err := Parse(JSON, texts[0])
		if err != nil {
			continue // a $ref among the definitions may go round in circles
		}
		r, err := Parse(JSON, texts[1])
		if err != nil {
			continue
		}
		tried++
		if Incompatible(Forward, r, w) != nil {
			continue
		}
		compatible++
		for range 60 {
			b, _ := json.Marshal(g.value(3))
			if w.Check(b) != nil {
				continue
			}
			right++
			if why := r.Check(b); why != nil {
				t.Fatalf("seed %d: %s is right by\n%s\nand wrong by\n%s: %s", seed, b, texts[0], texts[1], told(why))
			}
		}
	}
	t.Logf("%d pairs, %d compatible, %d values", tried, compatible, right)
	if compatible < tried/50 || right == 0 {
		t.Error("too few to tell anything")
	}
}
