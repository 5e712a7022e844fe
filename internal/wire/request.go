package wire

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// The record headers with a header of their own on HTTP.
const (
	ContentType = "content-type"
	Tags        = "tags"
)

// RecordHeaders are the record headers that a publish's request headers stand for, sorted by name: Content-Type (curl's
// unasked application/x-www-form-urlencoded excepted), X-Tag as tags, X-Msg-<Name> as its name in lower case, ce-<name>
// as ce_<name>, traceparent and tracestate. Values are taken as they are, byte for byte, but those of ce-*, which
// CloudEvents' HTTP binding has percent-encoded. nil where there are none; the values are the caller's.
//
// Kind InvalidParam for one that is given twice, or an X-Msg-* with a reserved name.
func RecordHeaders(h http.Header) ([]store.Header, error) {
	var out []store.Header
	for name, values := range h {
		record, err := recordName(name)
		if err != nil {
			return nil, err
		}
		if record == "" {
			continue
		}
		if len(values) != 1 {
			return nil, fmt.Errorf("header %s is given %d times: %w", name, len(values), errs.InvalidParam)
		}
		v := values[0]
		switch {
		case record == ContentType && (v == "" || strings.EqualFold(v, "application/x-www-form-urlencoded")), record == Tags && v == "":
			continue
		case strings.HasPrefix(name, "Ce-"):
			v = percentDecode(v)
		}
		out = append(out, store.Header{Key: record, Value: []byte(v)})
	}
	slices.SortFunc(out, func(a, b store.Header) int { return strings.Compare(a.Key, b.Key) })
	for i := 1; i < len(out); i++ {
		if out[i].Key == out[i-1].Key {
			return nil, fmt.Errorf("record header %s is given twice, by two request headers: %w", out[i].Key, errs.InvalidParam)
		}
	}
	return out, nil
}

// recordName is the record header that a request header, its name in canonical form, stands for, "" for none.
func recordName(name string) (string, error) {
	switch name {
	case "Content-Type":
		return ContentType, nil
	case "X-Tag":
		return Tags, nil
	case "Traceparent":
		return "traceparent", nil
	case "Tracestate":
		return "tracestate", nil
	}
	if rest, ok := strings.CutPrefix(name, "Ce-"); ok {
		if rest == "" {
			return "", fmt.Errorf("header %s has no name after its prefix: %w", name, errs.InvalidParam)
		}
		return "ce_" + strings.ToLower(rest), nil
	}
	rest, ok := strings.CutPrefix(name, "X-Msg-")
	if !ok {
		return "", nil
	}
	switch rest = strings.ToLower(rest); rest {
	case "":
		return "", fmt.Errorf("header %s has no name after its prefix: %w", name, errs.InvalidParam)
	case ContentType, Tags, "idempotency-key":
		return "", fmt.Errorf("header %s: the name %s is reserved; use the headers Content-Type, X-Tag and Idempotency-Key: %w", name, rest, errs.InvalidParam)
	}
	return rest, nil
}

// percentDecode decodes every %XX; what only looks like one stays.
func percentDecode(s string) string {
	at := strings.IndexByte(s, '%')
	if at < 0 {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) && unhex(s[i+1]) >= 0 && unhex(s[i+2]) >= 0 {
			out = append(out, byte(unhex(s[i+1])<<4|unhex(s[i+2])))
			i += 2
			continue
		}
		out = append(out, s[i])
	}
	return string(out)
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}
