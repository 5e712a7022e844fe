package filter

import (
	"bytes"
	"encoding/json"
	"strings"
	"unicode/utf8"

	"cel.dev/cel-go/interpreter"

	"github.com/kateway/kateway/internal/wire"
	"github.com/kateway/kateway/store"
)

// vars is what an expression sees of one message. What it does not name is never made.
type vars struct {
	m    *store.Message
	json bool
}

var _ interpreter.Activation = (*vars)(nil)

// ResolveName is cel's.
func (v *vars) ResolveName(name string) (any, bool) {
	switch name {
	case "key":
		return text(v.m.Key), true
	case "tags":
		return v.tags(), true
	case "headers":
		return v.headers(), true
	case "value":
		return v.value(), true
	}
	return nil, false
}

// Parent is cel's.
func (v *vars) Parent() interpreter.Activation { return nil }

// text is a string in which what is no UTF-8 is replaced.
func text(b []byte) string { return strings.ToValidUTF8(string(b), "\uFFFD") }

func (v *vars) tags() []string {
	list := []string{}
	for i := range v.m.Headers {
		if h := &v.m.Headers[i]; h.Key == tagsHeader {
			for tag := range bytes.SplitSeq(h.Value, []byte{';'}) {
				if tag = bytes.TrimSpace(tag); len(tag) > 0 {
					list = append(list, text(tag))
				}
			}
		}
	}
	return list
}

func (v *vars) headers() map[string]string {
	all := make(map[string]string, len(v.m.Headers))
	for i := range v.m.Headers {
		all[v.m.Headers[i].Key] = text(v.m.Headers[i].Value)
	}
	return all
}

func (v *vars) value() any {
	b := v.m.Value
	switch {
	case b == nil:
		return nil
	case v.isJSON():
		if decoded, ok := decode(b); ok {
			return decoded
		}
	}
	if !utf8.Valid(b) {
		return b
	}
	return string(b)
}

// isJSON reports whether the value is to be taken for JSON if it is.
func (v *vars) isJSON() bool {
	for i := range v.m.Headers {
		if v.m.Headers[i].Key == wire.ContentType {
			return wire.IsJSON(v.m.Headers[i].Value)
		}
	}
	first := bytes.TrimLeft(v.m.Value, " \t\r\n")
	return len(first) > 0 && (first[0] == '{' || first[0] == '[')
}

// decode reads JSON, integers as such where they fit 64 bits.
func decode(b []byte) (any, bool) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil || d.More() {
		return nil, false
	}
	return numbers(v), true
}

// numbers replaces json.Number by what CEL can compare.
func numbers(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			v[k] = numbers(e)
		}
	case []any:
		for i, e := range v {
			v[i] = numbers(e)
		}
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		f, _ := v.Float64() // too large is infinite
		return f
	}
	return v
}
