package schema

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"regexp"
	"slices"
)

// shapes of an object.
type members struct {
	named    map[string]any
	patterns map[string]any
	rest     any
}

func membersOf(s map[string]any) members {
	m := members{rest: true}
	m.named, _ = s["properties"].(map[string]any)
	m.patterns, _ = s["patternProperties"].(map[string]any)
	if rest, ok := s["additionalProperties"]; ok {
		m.rest = rest
	}
	return m
}

// of are the schemas that a member of this name must satisfy, all of them.
func (m *members) of(name string) (list []any) {
	if s, ok := m.named[name]; ok {
		list = append(list, s)
	}
	for p, s := range m.patterns {
		if matches(p, name) {
			list = append(list, s)
		}
	}
	if len(list) == 0 {
		list = append(list, m.rest)
	}
	return list
}

func matches(pattern, name string) bool {
	re, err := regexp.Compile(pattern)
	return err == nil && re.MatchString(name)
}

func (c *jsonPair) members(w, r map[string]any, path string, found *faults) {
	mine, theirs := membersOf(w), membersOf(r)
	for _, name := range slices.Sorted(maps.Keys(theirs.named)) {
		c.any(mine.of(name), theirs.named[name], path+pointer(name), found)
	}
	for _, name := range slices.Sorted(maps.Keys(mine.named)) {
		if _, done := theirs.named[name]; done {
			// but patterns of theirs may match too
			for p, s := range theirs.patterns {
				if matches(p, name) {
					c.any(mine.of(name), s, path+pointer(name), found)
				}
			}
			continue
		}
		for _, s := range theirs.of(name) {
			c.any(mine.of(name), s, path+pointer(name), found)
		}
	}
	for _, p := range slices.Sorted(maps.Keys(theirs.patterns)) {
		c.pattern(&mine, p, theirs.patterns[p], path+pointer(p), found)
		for name := range theirs.named { // a name that only the reader knows
			if _, known := mine.named[name]; !known && matches(p, name) {
				c.any(mine.of(name), theirs.patterns[p], path+pointer(name), found)
			}
		}
	}
	for _, p := range slices.Sorted(maps.Keys(mine.patterns)) {
		if _, covered := theirs.patterns[p]; !covered {
			c.within(mine.patterns[p], theirs.rest, path+pointer(p), found)
		}
	}
	c.rest(mine.rest, theirs.rest, path, found)
}

// rest compares what neither a name nor a pattern covers.
func (c *jsonPair) rest(mine, theirs any, path string, found *faults) {
	if isBool(theirs, false) && !isBool(mine, false) {
		found.add(path, "additional properties are possible, and not allowed")
		return
	}
	c.within(mine, theirs, path+"/*", found)
}

// any tells unless one of several schemas that all hold is enough.
func (c *jsonPair) any(all []any, r any, path string, found *faults) {
	if len(all) > 1 && slices.ContainsFunc(all, func(s any) bool { return c.fits(s, r) }) {
		return
	}
	c.within(all[0], r, path, found)
}

// pattern compares the members that a pattern of the reader's may match.
func (c *jsonPair) pattern(mine *members, p string, r any, path string, found *faults) {
	if s, ok := mine.patterns[p]; ok && c.fits(s, r) {
		return
	}
	for _, s := range mine.patterns { // which names both match nobody knows
		c.within(s, r, path, found)
	}
	c.within(mine.rest, r, path, found)
}

func (c *jsonPair) elements(w, r map[string]any, path string, found *faults) {
	mine, _ := w["prefixItems"].([]any)
	theirs, _ := r["prefixItems"].([]any)
	rest := func(s map[string]any) any {
		if v, ok := s["items"]; ok {
			return v
		}
		return true
	}
	at := func(list []any, i int, s map[string]any) any {
		if i < len(list) {
			return list[i]
		}
		return rest(s)
	}
	for i := range max(len(mine), len(theirs)) {
		c.within(at(mine, i, w), at(theirs, i, r), fmt.Sprintf("%s/%d", path, i), found)
	}
	if most, ok := w["maxItems"].(json.Number); ok {
		if n, ok := rational(most); ok && n.Cmp(big.NewRat(int64(max(len(mine), len(theirs))), 1)) <= 0 {
			return // there are no others
		}
	}
	c.within(rest(w), rest(r), path+"/*", found)
}
