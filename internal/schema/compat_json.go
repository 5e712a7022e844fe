package schema

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"reflect"
	"slices"
	"strings"
)

// compareJSON tells why there may be a value that is right by the writer's schema and wrong by the reader's.
//
// It goes through the reader's schema keyword by keyword and looks for what in the writer's says as much. A keyword that it
// has no rule for must stand there in the same words.
func compareJSON(writer, reader *jsonSchema) (found faults) {
	c := jsonPair{w: writer.text, r: reader.text, anything: map[string]any{}, assumed: map[[2]uintptr]bool{}, budget: maxComparisons}
	c.within(writer.text, reader.text, "", &found)
	return found
}

// maxComparisons bounds the work on one pair of schemas: alternatives are tried against alternatives.
const maxComparisons = 50_000

type jsonPair struct {
	w, r     any // the whole schemas, for references
	anything map[string]any
	assumed  map[[2]uintptr]bool // by the addresses of the two maps
	trail    [][2]uintptr        // those, in the order in which they came
	budget   int
}

// asserts reports whether a keyword decides what is right. The others are for people, or for nobody.
func asserts(keyword string) bool {
	switch keyword {
	case "$ref", "allOf", "anyOf", "oneOf", "not", "if", "then", "else", "type", "enum", "const", "dependencies":
		return true
	}
	return concerns(keyword) != ""
}

// isBool reports whether a schema, or a keyword's value, is this boolean.
func isBool(v any, is bool) bool {
	b, ok := v.(bool)
	return ok && b == is
}

// fits reports whether all values of w are values of r.
func (c *jsonPair) fits(w, r any) bool {
	var found faults
	c.within(w, r, "", &found)
	return len(found) == 0
}

// within tells why not.
func (c *jsonPair) within(w, r any, path string, found *faults) {
	if c.budget--; c.budget < 0 {
		found.add(path, "the schemas are too large to be compared")
		return
	}
	if len(*found) == MaxFaults || isBool(r, true) || isBool(w, false) {
		return
	}
	ro, ok := r.(map[string]any)
	if !ok {
		found.add(path, "nothing is allowed any more")
		return
	}
	wo, ok := w.(map[string]any)
	if !ok { // true
		wo = c.anything
	}
	// A pair that is met again within itself is right if everything else is: a value has an end.
	pair := [2]uintptr{reflect.ValueOf(wo).Pointer(), reflect.ValueOf(ro).Pointer()}
	if c.assumed[pair] {
		return
	}
	c.assumed[pair] = true
	c.trail = append(c.trail, pair)
	before, mark := len(*found), len(c.trail)-1
	c.schema(wo, ro, path, found)
	if len(*found) > before { // what was found on the assumption that this is right is not known any more
		for _, p := range c.trail[mark:] {
			delete(c.assumed, p)
		}
		c.trail = c.trail[:mark]
	}
}

// schema compares two objects. Where the writer's is made of others, one of those that must all hold may be enough, or each
// of its alternatives.
func (c *jsonPair) schema(w, r map[string]any, path string, found *faults) {
	var direct faults
	c.keywords(w, r, path, &direct)
	if len(direct) == 0 {
		return
	}
	for _, part := range c.conjuncts(w) {
		if c.fits(part, r) {
			return
		}
	}
	for _, k := range []string{"anyOf", "oneOf"} {
		if list, ok := w[k].([]any); ok && len(list) > 0 && !slices.ContainsFunc(list, func(s any) bool { return !c.fits(s, r) }) {
			return
		}
	}
	for _, f := range direct {
		found.add(f.Path, "%s", f.Message)
	}
}

// conjuncts are what else a value of w must be.
func (c *jsonPair) conjuncts(w map[string]any) (list []any) {
	if ref, ok := w["$ref"].(string); ok {
		if to, ok := resolve(c.w, ref); ok {
			list = append(list, to)
		}
	}
	all, _ := w["allOf"].([]any)
	return append(list, all...)
}

func (c *jsonPair) keywords(w, r map[string]any, path string, found *faults) {
	for _, k := range slices.Sorted(maps.Keys(r)) {
		if !asserts(k) || irrelevant(w, k) {
			continue
		}
		switch k {
		case "$ref":
			if to, ok := resolve(c.r, fmt.Sprint(r[k])); ok {
				c.within(w, to, path, found)
			}
		case "allOf":
			list, _ := r[k].([]any)
			for _, s := range list {
				c.within(w, s, path, found)
			}
		case "anyOf":
			list, _ := r[k].([]any)
			if !slices.ContainsFunc(list, func(s any) bool { return c.fits(w, s) }) && !c.same(w, r, k) {
				found.add(path, "none of the alternatives of anyOf holds for every value")
			}
		case "type":
			c.types(w, r[k], path, found)
		case "enum", "const":
			c.values(w, r, k, path, found)
		case "required":
			c.required(w, r[k], path, found)
		case "properties", "patternProperties", "additionalProperties":
			// together, below
		case "prefixItems", "items":
			// together, below
		default:
			c.bound(w, r, k, path, found)
		}
	}
	if !irrelevant(w, "properties") {
		c.members(w, r, path, found)
	}
	if !irrelevant(w, "items") {
		c.elements(w, r, path, found)
	}
}

// typesOf is what a value of w may be; all where nothing is said. An integer is a number.
func typesOf(w map[string]any) []string {
	switch t := w["type"].(type) {
	case string:
		return []string{t}
	case []any:
		var list []string
		for _, v := range t {
			list = append(list, fmt.Sprint(v))
		}
		return list
	}
	var list []string
	for _, v := range valuesOf(w) {
		list = append(list, typeOfValue(v))
	}
	if list != nil {
		return list
	}
	return []string{"null", "boolean", "object", "array", "number", "string"}
}

// valuesOf is what a value of w can be where that is listed, nil where it is not.
func valuesOf(w map[string]any) []any {
	if v, ok := w["const"]; ok {
		return []any{v}
	}
	list, _ := w["enum"].([]any)
	return list
}

func typeOfValue(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case bool:
		return "boolean"
	case string:
		return "string"
	case []any:
		return "array"
	case json.Number:
		if n, ok := rational(v); ok && n.IsInt() {
			return "integer"
		}
		return "number"
	}
	return "object"
}

// concerns is the type of value that a keyword says something about.
func concerns(keyword string) string {
	switch keyword {
	case "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf":
		return "number"
	case "minLength", "maxLength", "pattern":
		return "string"
	case "items", "prefixItems", "minItems", "maxItems", "uniqueItems", "contains", "minContains", "maxContains", "unevaluatedItems":
		return "array"
	case "properties", "patternProperties", "additionalProperties", "required", "minProperties", "maxProperties", "propertyNames",
		"dependentRequired", "dependentSchemas", "unevaluatedProperties":
		return "object"
	}
	return ""
}

// irrelevant reports that the keyword says nothing about any value of w.
func irrelevant(w map[string]any, keyword string) bool {
	of := concerns(keyword)
	if of == "" {
		return false
	}
	types := typesOf(w)
	return !slices.Contains(types, of) && (of != "number" || !slices.Contains(types, "integer"))
}

func (c *jsonPair) types(w map[string]any, r any, path string, found *faults) {
	allowed := typesOf(map[string]any{"type": r})
	for _, t := range typesOf(w) {
		if !slices.Contains(allowed, t) && (t != "integer" || !slices.Contains(allowed, "number")) {
			found.add(path, "a %s is possible, and type allows %s", t, strings.Join(allowed, ", "))
			return
		}
	}
}

func (c *jsonPair) values(w, r map[string]any, k, path string, found *faults) {
	allowed := valuesOf(map[string]any{k: r[k]})
	mine := valuesOf(w)
	if mine == nil {
		found.add(path, "%s allows some values only", k)
		return
	}
	for _, v := range mine {
		if !slices.ContainsFunc(allowed, func(a any) bool { return equal(a, v) }) {
			found.add(path, "%.40v is possible, and %s does not have it", v, k)
		}
	}
}

// equal is equality of values, not of how numbers are written.
func equal(a, b any) bool {
	switch a := a.(type) {
	case json.Number:
		n, ok := b.(json.Number)
		if !ok {
			return false
		}
		x, ok1 := rational(a)
		y, ok2 := rational(n)
		return ok1 && ok2 && x.Cmp(y) == 0
	case []any:
		l, ok := b.([]any)
		return ok && slices.EqualFunc(a, l, equal)
	case map[string]any:
		m, ok := b.(map[string]any)
		return ok && maps.EqualFunc(a, m, equal)
	}
	switch b.(type) {
	case json.Number, []any, map[string]any:
		return false
	}
	return a == b
}

func rational(n json.Number) (*big.Rat, bool) { return new(big.Rat).SetString(string(n)) }

func (c *jsonPair) required(w map[string]any, r any, path string, found *faults) {
	names, _ := r.([]any)
	mine, _ := w["required"].([]any)
	for _, n := range names {
		if !slices.Contains(mine, n) {
			found.add(path+pointer(fmt.Sprint(n)), "is required, and may be left out")
		}
	}
}

// bound compares what is a limit, and everything that there is no rule for.
func (c *jsonPair) bound(w, r map[string]any, k, path string, found *faults) {
	limit, _ := r[k].(json.Number)
	n, ok := rational(limit)
	if ok && c.bounded(w, k, n) || c.same(w, r, k) {
		return
	}
	if isBool(r[k], false) && k == "uniqueItems" {
		return
	}
	if ok && strings.HasPrefix(k, "min") && n.Sign() == 0 && k != "minimum" && k != "minContains" {
		return // every length and number is at least 0
	}
	found.add(path, "%s is narrower, or it is not clear that it is not", k)
}

// bounded reports whether w says at least as much by its limit of that name.
func (c *jsonPair) bounded(w map[string]any, k string, r *big.Rat) bool {
	of := func(name string) *big.Rat {
		n, _ := w[name].(json.Number)
		v, ok := rational(n)
		if !ok {
			return nil
		}
		return v
	}
	is := func(name string, signs ...int) bool {
		v := of(name)
		return v != nil && slices.Contains(signs, v.Cmp(r))
	}
	switch k {
	case "minimum":
		return is(k, 0, 1) || is("exclusiveMinimum", 0, 1)
	case "exclusiveMinimum":
		return is(k, 0, 1) || is("minimum", 1)
	case "maximum":
		return is(k, 0, -1) || is("exclusiveMaximum", 0, -1)
	case "exclusiveMaximum":
		return is(k, 0, -1) || is("maximum", -1)
	case "minLength", "minItems", "minProperties":
		return is(k, 0, 1)
	case "maxLength", "maxItems", "maxProperties":
		return is(k, 0, -1)
	case "multipleOf":
		v := of(k)
		return v != nil && r.Sign() != 0 && new(big.Rat).Quo(v, r).IsInt()
	}
	return false
}

// companions are keywords that another one's meaning depends on.
func companions(k string) []string {
	switch k {
	case "if", "then", "else":
		return []string{"if", "then", "else"}
	case "contains", "minContains", "maxContains":
		return []string{"contains", "minContains", "maxContains"}
	}
	return []string{k}
}

// same reports whether the keyword stands in both with the same meaning. What depends on all that stands beside it must
// stand beside the same.
func (c *jsonPair) same(w, r map[string]any, k string) bool {
	if strings.HasPrefix(k, "unevaluated") {
		return equal(w, r) && c.closed(r)
	}
	for _, name := range companions(k) {
		mine, there := w[name]
		theirs, alsoThere := r[name]
		if there != alsoThere || !equal(mine, theirs) || !c.closed(theirs) {
			return false
		}
	}
	return true
}

// closed reports whether the same words mean the same in both schemas: no reference in them, or both schemas alike.
func (c *jsonPair) closed(v any) bool { return !refers(v) || equal(c.w, c.r) }

func refers(v any) bool {
	switch v := v.(type) {
	case []any:
		return slices.ContainsFunc(v, refers)
	case map[string]any:
		for k, in := range v {
			if k == "$ref" || refers(in) {
				return true
			}
		}
	}
	return false
}
