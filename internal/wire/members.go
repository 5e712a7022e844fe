package wire

import (
	"encoding/base64"
	"strings"
	"unicode/utf8"

	"github.com/kateway/kateway/store"
)

// fewHeaders is up to how many headers names are compared each with each.
const fewHeaders = 16

// appendHeaders appends the members headers and headers_base64.
func appendHeaders(dst []byte, headers []store.Header) []byte {
	if !simple(headers) {
		return appendGroups(dst, group(headers))
	}
	dst = append(dst, `,"headers":{`...)
	for i := range headers {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, '"')
		dst = appendText(dst, headers[i].Key)
		dst = append(dst, `":"`...)
		dst = appendText(dst, headers[i].Value)
		dst = append(dst, '"')
	}
	return append(dst, '}')
}

// simple reports whether the headers are few, all text, and no name comes twice.
func simple(headers []store.Header) bool {
	if len(headers) > fewHeaders {
		return false
	}
	for i := range headers {
		if !utf8.ValidString(headers[i].Key) || !utf8.Valid(headers[i].Value) {
			return false
		}
		for j := range i {
			if headers[j].Key == headers[i].Key {
				return false
			}
		}
	}
	return true
}

// headerGroup is all values of one name.
type headerGroup struct {
	name   string
	values [][]byte
	binary bool // one of them is not UTF-8
}

// group brings the values of a name together, in the order in which the names come first. A name that is not UTF-8,
// which Kafka's own clients can't have written, is read as they would read it.
func group(headers []store.Header) []headerGroup {
	index := make(map[string]int, len(headers))
	var groups []headerGroup
	for _, h := range headers {
		name := strings.ToValidUTF8(h.Key, "\uFFFD")
		i, seen := index[name]
		if !seen {
			i = len(groups)
			index[name] = i
			groups = append(groups, headerGroup{name: name})
		}
		groups[i].values = append(groups[i].values, h.Value)
		groups[i].binary = groups[i].binary || !utf8.Valid(h.Value)
	}
	return groups
}

func appendGroups(dst []byte, groups []headerGroup) []byte {
	for _, binary := range []bool{false, true} {
		member := `,"headers":{`
		if binary {
			member = `,"headers_base64":{`
		}
		begun := false
		for _, g := range groups {
			if g.binary != binary {
				continue
			}
			dst = append(dst, member...)
			member, begun = ",", true
			dst = appendGroup(dst, g)
		}
		if begun {
			dst = append(dst, '}')
		}
	}
	return dst
}

func appendGroup(dst []byte, g headerGroup) []byte {
	dst = append(dst, '"')
	dst = appendText(dst, g.name)
	dst = append(dst, `":`...)
	if len(g.values) > 1 {
		dst = append(dst, '[')
	}
	for i, v := range g.values {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, '"')
		if g.binary {
			dst = base64.StdEncoding.AppendEncode(dst, v)
		} else {
			dst = appendText(dst, v)
		}
		dst = append(dst, '"')
	}
	if len(g.values) > 1 {
		dst = append(dst, ']')
	}
	return dst
}
