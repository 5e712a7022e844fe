package wire

import (
	"net/http"
	"net/textproto"
	"strings"
	"testing"
)

// FuzzRecordHeaders: request headers of any name and value become record headers once, with their bytes; CloudEvents' decoded.
func FuzzRecordHeaders(f *testing.F) {
	f.Add("X-Msg-Trace", "t", "X-Tag", "a,b")
	f.Add("ce-id", "%41%zz%", "ce-ID", "2")
	f.Add("X-Msg-Content-Type", "x", "content-type", "")
	f.Fuzz(func(t *testing.T, name, value, name2, value2 string) {
		h := http.Header{}
		h.Add(textproto.CanonicalMIMEHeaderKey(name), value)
		h.Add(textproto.CanonicalMIMEHeaderKey(name2), value2)
		list, err := RecordHeaders(h)
		if err != nil {
			return
		}
		seen := map[string]bool{}
		for _, r := range list {
			plain := string(r.Value) == value || string(r.Value) == value2
			if seen[r.Key] || r.Key == "" || !plain && !strings.HasPrefix(r.Key, "ce_") {
				t.Fatalf("%v become %+v", h, list)
			}
			seen[r.Key] = true
		}
	})
}
