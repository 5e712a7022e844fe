package wire

import (
	"bytes"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/kateway/kateway/store"
)

// MaxDepth is how deep the JSON of a request body or of an object's line is nested at most.
const MaxDepth = 32

// IsJSON reports whether a content type is application/json or one that ends in +json, whatever its parameters.
func IsJSON(contentType []byte) bool {
	switch string(contentType) {
	case "":
		return false
	case "application/json":
		return true
	}
	t, _, _ := bytes.Cut(contentType, []byte(";"))
	t = bytes.TrimSpace(t)
	return bytes.EqualFold(t, []byte("application/json")) || len(t) > 5 && bytes.EqualFold(t[len(t)-5:], []byte("+json"))
}

// contentType is the first record header of that name, nil where there is none.
func contentType(headers []store.Header) []byte {
	for i := range headers {
		if headers[i].Key == ContentType {
			return headers[i].Value
		}
	}
	return nil
}

// appendJSON appends a JSON object, array, number or boolean on one line. ok is false for what can't stand in an object's
// line as it is; dst then is not to be used.
func appendJSON(dst, src []byte) (whole []byte, ok bool) {
	src = trimSpace(src)
	if len(src) == 0 || src[0] == '"' || src[0] == 'n' {
		return dst, false
	}
	depth, breaks := look(src)
	if depth >= MaxDepth || !jsontext.Value(src).IsValid() {
		return dst, false
	}
	if !breaks {
		return append(dst, src...), true
	}
	return appendOneLine(dst, src), true
}

func trimSpace(b []byte) []byte {
	for len(b) > 0 && isSpace(b[0]) {
		b = b[1:]
	}
	for len(b) > 0 && isSpace(b[len(b)-1]) {
		b = b[:len(b)-1]
	}
	return b
}

func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\r' || c == '\t' }

// look answers how deep a JSON text is nested and whether something in it might be taken for the end of a line. It does
// not check the text.
func look(b []byte) (depth int, breaks bool) {
	level := 0
	inString := false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; c {
		case '"':
			inString = !inString
		case '\\':
			if inString {
				i++
			}
		case '{', '[':
			if !inString {
				level++
				depth = max(depth, level)
			}
		case '}', ']':
			if !inString {
				level--
			}
		case '\n', '\r':
			breaks = true
		case 0xC2, 0xE2:
			_, escape := escapeOf(b[i:])
			breaks = breaks || escape != ""
		}
	}
	return depth, breaks
}

// appendOneLine appends valid JSON without its whitespace, and with the line separators in its strings escaped.
func appendOneLine(dst, src []byte) []byte {
	for i := 0; i < len(src); {
		switch c := src[i]; {
		case isSpace(c):
			i++
		case c == '"':
			n := stringLen(src[i:])
			dst = appendSeparators(dst, src[i:i+n])
			i += n
		default:
			dst = append(dst, c)
			i++
		}
	}
	return dst
}

// stringLen is the length of the JSON string at the start of b, with its quotes.
func stringLen(b []byte) int {
	for i := 1; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(b)
}

// appendSeparators appends a JSON string as it is but for its line separators.
func appendSeparators(dst, src []byte) []byte {
	for i := 0; i < len(src); i++ {
		if c := src[i]; c == 0xC2 || c == 0xE2 {
			if n, escape := escapeOf(src[i:]); escape != "" {
				dst = append(dst, escape...)
				i += n - 1
				continue
			}
		}
		dst = append(dst, src[i])
	}
	return dst
}
