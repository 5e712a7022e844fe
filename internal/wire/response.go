package wire

import (
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/kateway/kateway/store"
)

// What a stored message may add to the head of an answer: as much as a request's head may bring in. Common proxies and
// clients take that much, or can be told to; a head that they refuse would be a message that nobody can get past.
const (
	maxHeadBytes  = 32 << 10
	maxHeadFields = 64
)

// SetHeaders sets the response headers of a single raw message: X-Partition, X-Offset, X-Timestamp, X-Key, X-Attempt,
// X-Receipt, X-Tag, X-Msg-*, ce-*, traceparent and tracestate, and the Content-Type with what keeps a browser from running it.
//
// Stored bytes are percent-encoded but for visible ASCII without % and inner spaces. A header that comes more than once
// in the record does so in the answer; of several content-types the first counts. What can't be a header, because its
// name is no token or because it is over 64 fields or 32 KiB in all, is left out and counted in X-Omitted: the JSON
// form of the message has it. Topic and Base64 of x mean nothing here.
func SetHeaders(h http.Header, m *store.Message, x Extra) {
	set := func(name, value string) { h[name] = []string{value} }
	set("X-Partition", strconv.Itoa(int(m.Partition)))
	set("X-Offset", strconv.FormatInt(m.Offset, 10))
	set("X-Timestamp", string(AppendTime(make([]byte, 0, 24), m.Time)))
	set("X-Content-Type-Options", "nosniff")
	set("Content-Security-Policy", "sandbox")
	if x.Attempt > 0 {
		set("X-Attempt", strconv.FormatUint(uint64(x.Attempt), 10))
	}
	if x.Receipt != nil {
		set("X-Receipt", string(x.Receipt))
	}
	kind := mediaType(string(contentType(m.Headers)))
	set("Content-Type", kind)
	if isActive(kind) {
		set("Content-Disposition", "attachment")
	}
	s := stored{header: h}
	if len(m.Key) > 0 {
		s.add("X-Key", m.Key)
	}
	for i := range m.Headers {
		if r := &m.Headers[i]; r.Key != ContentType {
			s.add(responseName(r.Key), r.Value)
		}
	}
	if s.omitted > 0 {
		set("X-Omitted", strconv.Itoa(s.omitted))
	}
}

// stored puts stored bytes into a head, within bounds.
type stored struct {
	header                 http.Header
	bytes, fields, omitted int
}

func (s *stored) add(name string, value []byte) {
	size := len(name) + encodedLen(value) + len(": \r\n")
	if name == "" || s.fields == maxHeadFields || s.bytes+size > maxHeadBytes {
		s.omitted++
		return
	}
	s.bytes += size
	s.fields++
	s.header[name] = append(s.header[name], percentEncode(value))
}

// responseName is the header in which a record header leaves, in canonical form, "" where its name is no token.
func responseName(record string) string {
	switch record {
	case Tags:
		return "X-Tag"
	case "traceparent":
		return "Traceparent"
	case "tracestate":
		return "Tracestate"
	}
	name := "X-Msg-" + record
	if rest, ok := strings.CutPrefix(record, "ce_"); ok && rest != "" {
		name = "Ce-" + rest
	}
	if record == "" || !isToken(name) {
		return ""
	}
	return http.CanonicalHeaderKey(name)
}

// mediaType is a record's content type as far as it is one: type/subtype, and parameters that parse.
func mediaType(stored string) string {
	const none = "application/octet-stream"
	if len(stored) > 256 {
		return none
	}
	bare, _, more := strings.Cut(stored, ";")
	kind, sub, _ := strings.Cut(strings.TrimRight(bare, " "), "/")
	if !isToken(kind) || !isToken(sub) {
		return none
	}
	if more {
		for i := range len(stored) {
			if stored[i] < ' ' || stored[i] > '~' {
				return none
			}
		}
		if _, _, err := mime.ParseMediaType(stored); err != nil {
			return none
		}
	}
	return stored
}

// isActive reports whether a browser would run what is inside: html, and everything that is XML.
func isActive(contentType string) bool {
	t, _, _ := strings.Cut(contentType, ";")
	t = strings.ToLower(strings.TrimSpace(t))
	_, sub, _ := strings.Cut(t, "/")
	return sub == "html" || sub == "xml" || strings.HasSuffix(sub, "+xml") || strings.HasPrefix(sub, "xml-") || sub == "xsl"
}

// isToken reports whether s is a token of RFC 9110, what header names are made of.
func isToken(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0:
		default:
			return false
		}
	}
	return s != ""
}

const hexDigits = "0123456789ABCDEF"

// clean reports whether the byte at i leaves as it is.
func clean(b []byte, i int) bool {
	c := b[i]
	return c > ' ' && c <= '~' && c != '%' || c == ' ' && i > 0 && i < len(b)-1
}

func encodedLen(b []byte) int {
	n := len(b)
	for i := range b {
		if !clean(b, i) {
			n += 2
		}
	}
	return n
}

// percentEncode encodes every byte but visible ASCII and inner spaces, and % itself.
func percentEncode(b []byte) string {
	n := encodedLen(b)
	if n == len(b) {
		return string(b)
	}
	out := make([]byte, 0, n)
	for i, c := range b {
		if clean(b, i) {
			out = append(out, c)
		} else {
			out = append(out, '%', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return string(out)
}
