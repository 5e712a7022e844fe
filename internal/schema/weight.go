package schema

import "reflect"

// weigher counts how often subschemas are applied along one path into a message, at worst: a value that is an array has no
// members, and one that is an object has no elements. A cycle of references that leads to no member or element is counted as
// too much.
type weigher struct {
	doc   any
	known map[weighed]int
}

type weighed struct {
	schema uintptr // of the map
	depth  int
	array  bool
}

func newWeigher(doc any) *weigher { return &weigher{doc, map[weighed]int{}} }

const tooMuch = maxEvaluations + 1

// schema is the count for a value that may be nested so deep.
func (w *weigher) schema(s any, depth int) int {
	return max(w.of(s, depth, false), w.of(s, depth, true))
}

// of is the count for an array, or for an object.
func (w *weigher) of(s any, depth int, array bool) int {
	obj, ok := s.(map[string]any)
	if !ok || depth < 0 {
		return 1
	}
	key := weighed{reflect.ValueOf(obj).Pointer(), depth, array}
	if n, ok := w.known[key]; ok {
		return n
	}
	w.known[key] = tooMuch // until we are through: who meets it before goes round in circles
	n := 1
	add := func(s any) { n = min(n+w.of(s, depth, array), tooMuch) }
	if ref, ok := obj["$ref"].(string); ok {
		if to, ok := resolve(w.doc, ref); ok {
			add(to)
		}
	}
	for _, k := range inPlaceOne {
		if s, ok := obj[k]; ok {
			add(s)
		}
	}
	for _, k := range inPlaceList {
		list, _ := obj[k].([]any)
		for _, s := range list {
			add(s)
		}
	}
	for _, k := range inPlaceMap {
		m, _ := obj[k].(map[string]any)
		for _, s := range m {
			add(s)
		}
	}
	if array {
		n += w.elements(obj, depth-1)
	} else {
		n += w.members(obj, depth-1)
	}
	n = min(n, tooMuch)
	w.known[key] = n
	return n
}

// members is the count for a member: one property by its name, all patterns, and the rest.
func (w *weigher) members(obj map[string]any, depth int) int {
	named := 0
	properties, _ := obj["properties"].(map[string]any)
	for _, s := range properties {
		named = max(named, w.schema(s, depth))
	}
	n := named
	patterns, _ := obj["patternProperties"].(map[string]any)
	for _, s := range patterns {
		n += w.schema(s, depth)
	}
	return n + w.each(obj, depth, "additionalProperties", "unevaluatedProperties")
}

// elements is the count for an element: one of the first, and the rest.
func (w *weigher) elements(obj map[string]any, depth int) int {
	n := 0
	list, _ := obj["prefixItems"].([]any)
	for _, s := range list {
		n = max(n, w.schema(s, depth))
	}
	return n + w.each(obj, depth, "items", "contains", "unevaluatedItems")
}

func (w *weigher) each(obj map[string]any, depth int, keywords ...string) (n int) {
	for _, k := range keywords {
		if s, ok := obj[k]; ok {
			n += w.schema(s, depth)
		}
	}
	return n
}
