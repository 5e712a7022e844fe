package wire

import (
	"bufio"
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// parseHead reads the lines as a server does.
func parseHead(t *testing.T, lines ...string) http.Header {
	t.Helper()
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader("POST / HTTP/1.1\r\nHost: h\r\n" + strings.Join(lines, "\r\n") + "\r\n\r\n")))
	if err != nil {
		t.Fatal(err)
	}
	return r.Header
}

func TestRecordHeaders(t *testing.T) {
	for _, c := range []struct {
		lines string
		want  string // name=value, sorted
	}{
		{"User-Agent: curl|Accept: */*|Content-Length: 0|X-Request-Id: 1|X-Tagged: 1|X-Msgs: 1|Cef: 1", ""},
		{"Content-Type: text/plain; charset=utf-8", "content-type=text/plain; charset=utf-8"},
		{"Content-Type: application/x-www-form-urlencoded", ""},
		{"Content-Type: application/X-WWW-form-urlencoded", ""},
		{"Content-Type: application/x-www-form-urlencoded; charset=utf-8", "content-type=application/x-www-form-urlencoded; charset=utf-8"},
		{"Content-Type:", ""},
		{"X-Tag: a;b", "tags=a;b"},
		{"x-tag:", ""},
		{"X-Msg-Foo: 1|x-msg-bar_BAZ: 2|X-MSG-EMPTY:", "bar_baz=2 empty= foo=1"},
		{"X-Msg-Latin: caf\xe9\xff%41", "latin=caf\xe9\xff%41"},
		{"ce-id: 1|CE-Type: com.example|Ce-subject: caf%C3%A9 100%25 %zz %", "ce_id=1 ce_subject=café 100% %zz % ce_type=com.example"},
		{"traceparent: 00-1-2-01|tracestate: a=b", "traceparent=00-1-2-01 tracestate=a=b"},
	} {
		got, err := RecordHeaders(parseHead(t, strings.Split(c.lines, "|")...))
		if err != nil {
			t.Errorf("%s: %v", c.lines, err)
		}
		var text []string
		for _, h := range got {
			text = append(text, h.Key+"="+string(h.Value))
		}
		if s := strings.Join(text, " "); s != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.lines, s, c.want)
		}
	}
}

func TestRecordHeadersRefuses(t *testing.T) {
	for lines, text := range map[string]string{
		"Content-Type: a/b|Content-Type: a/b": "Content-Type is given 2 times",
		"X-Tag: a|x-tag: b":                   "X-Tag is given 2 times",
		"X-Msg-A: 1|x-msg-a: 1":               "X-Msg-A is given 2 times",
		"ce-id: 1|Ce-Id: 2":                   "Ce-Id is given 2 times",
		"traceparent: 1|traceparent: 1":       "Traceparent is given 2 times",
		"traceparent: 1|X-Msg-Traceparent: 1": "traceparent is given twice",
		"ce-id: 1|X-Msg-ce_id: 1":             "ce_id is given twice",
		"X-Msg-Content-Type: a/b":             "reserved",
		"X-Msg-Tags: a":                       "reserved",
		"X-Msg-Idempotency-Key: a":            "reserved",
		"X-Msg-: a":                           "no name",
		"ce-: a":                              "no name",
	} {
		_, err := RecordHeaders(parseHead(t, strings.Split(lines, "|")...))
		if errs.Of(err) != errs.InvalidParam || !strings.Contains(fmt.Sprint(err), text) {
			t.Errorf("%s: %v, want %q", lines, err, text)
		}
	}
}

func header(kv ...string) (out []store.Header) {
	for i := 0; i < len(kv); i += 2 {
		out = append(out, store.Header{Key: kv[i], Value: []byte(kv[i+1])})
	}
	return out
}

func TestSetHeaders(t *testing.T) {
	h := http.Header{}
	SetHeaders(h, &store.Message{
		Partition: 3, Offset: 42, Time: noon, Key: []byte(" k%\x00é "),
		Headers: header("content-type", "text/plain", "tags", "a;b c", "foo", "1", "Foo", "2", "ce_id", "7", "ce_", "8", "traceparent", "00",
			"no token", "x", "", "x", "é", "x", "tags", "d", "x\r\ny", "x", "ce_no token", "x"),
	}, Extra{Attempt: 2, Receipt: []byte("r")})
	want := http.Header{
		"X-Partition": {"3"}, "X-Offset": {"42"}, "X-Timestamp": {"2026-11-23T12:00:00.007Z"}, "X-Attempt": {"2"}, "X-Receipt": {"r"},
		"X-Key": {"%20k%25%00%C3%A9%20"}, "X-Tag": {"a;b c", "d"}, "X-Msg-Foo": {"1", "2"}, "Ce-Id": {"7"}, "X-Msg-Ce_": {"8"}, "Traceparent": {"00"},
		"Content-Type": {"text/plain"}, "X-Content-Type-Options": {"nosniff"}, "Content-Security-Policy": {"sandbox"}, "X-Omitted": {"5"},
	}
	if !reflect.DeepEqual(h, want) {
		t.Errorf(" got %v\nwant %v", h, want)
	}
}

func TestContentTypeOfAnAnswer(t *testing.T) {
	const none = "application/octet-stream"
	for stored, want := range map[string]string{
		"": none, "text": none, "text/": none, "/plain": none, "a b/c": none, "text/plain\r\nX: y": none, "text/plain; a=\x00": none,
		"text/plain; =": none, "text/plain; charset=é": none, "text/" + strings.Repeat("x", 300): none, "\xff/\xff": none, "a/b/c": none,
		"text/plain": "text/plain", "text/plain; charset=utf-8": "text/plain; charset=utf-8", "application/vnd.a+json": "application/vnd.a+json",
	} {
		h := http.Header{}
		SetHeaders(h, &store.Message{Headers: header("content-type", stored)}, Extra{})
		if got := h.Get("Content-Type"); got != want {
			t.Errorf("%q: %q, want %q", stored, got, want)
		}
		if h.Get("Content-Disposition") != "" {
			t.Errorf("%q is an attachment", stored)
		}
	}
	for _, active := range []string{"text/html", "TEXT/HTML; charset=utf-8", "application/xhtml+xml", "image/svg+xml", "text/xml", "application/xml", "application/atom+xml ; a=b", "text/xsl"} {
		h := http.Header{}
		SetHeaders(h, &store.Message{Headers: header("content-type", active)}, Extra{})
		if h.Get("Content-Disposition") != "attachment" || h.Get("Content-Security-Policy") != "sandbox" || h.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%q would be run by a browser: %v", active, h)
		}
	}
}

// A record that holds anything at all must leave as a response that a client can read, with bounded headers.
func TestNoRecordBreaksAResponse(t *testing.T) {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	m := &store.Message{Key: all, Headers: header("content-type", string(all), "tags", string(all), "a", string(all), "ce_x", string(all), "traceparent", string(all))}
	for i := range 256 {
		m.Headers = append(m.Headers, store.Header{Key: "n" + string(all[i:i+1]), Value: all[i : i+1]})
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { SetHeaders(w.Header(), m, Extra{}) }))
	defer srv.Close()
	res, err := srv.Client().Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	for _, name := range []string{"X-Key", "X-Tag", "X-Msg-A", "Ce-X", "Traceparent"} {
		if got := percentDecode(res.Header.Get(name)); got != string(all) {
			t.Errorf("%s came as %q", name, got)
		}
	}
	if fields := len(res.Header); fields > maxHeadFields+12 || res.Header.Get("X-Omitted") == "" {
		t.Errorf("%d header fields, X-Omitted %q", fields, res.Header.Get("X-Omitted"))
	}
}

func TestAnswersHeadIsBounded(t *testing.T) {
	h := http.Header{}
	SetHeaders(h, &store.Message{Key: bytes.Repeat([]byte{0}, 4096), Headers: header("big", strings.Repeat("x", 30<<10), "small", "x")}, Extra{})
	if len(h.Get("X-Key")) != 3*4096 || h.Get("X-Msg-Big") != "" || h.Get("X-Msg-Small") != "x" || h.Get("X-Omitted") != "1" {
		t.Errorf("key of %d, omitted %q", len(h.Get("X-Key")), h.Get("X-Omitted"))
	}
}

func TestFrames(t *testing.T) {
	got := AppendFrame(nil, &store.Message{Partition: 1, Offset: 258, Value: []byte("ab")})
	got = AppendFrame(got, &store.Message{Value: []byte{}})
	got = AppendFrame(got, &store.Message{})
	want := "\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01\x02\x00\x00\x00\x02ab" + strings.Repeat("\x00", 16) + strings.Repeat("\x00", 12) + "\xff\xff\xff\xff"
	if string(got) != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestCutFrame(t *testing.T) {
	value, rest, err := CutFrame([]byte("\x00\x00\x00\x02abc"))
	if err != nil || string(value) != "ab" || string(rest) != "c" || cap(value) != 2 {
		t.Errorf("%q %q %v", value, rest, err)
	}
	if value, rest, err = CutFrame([]byte("\x00\x00\x00\x00")); err != nil || value == nil || len(value)+len(rest) > 0 {
		t.Errorf("an empty frame: %v %v %v", value, rest, err)
	}
	for _, bad := range []string{"", "\x00", "\x00\x00\x00", "\x00\x00\x00\x01", "\xff\xff\xff\xffabc"} {
		if _, _, err := CutFrame([]byte(bad)); errs.Of(err) != errs.InvalidBody {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzCutFrame(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x02abc"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if value, rest, err := CutFrame(b); err == nil && 4+len(value)+len(rest) != len(b) {
			t.Fatalf("%q: %q and %q", b, value, rest)
		}
	})
}

func FuzzSetHeaders(f *testing.F) {
	f.Add([]byte("k"), "x", []byte("v"), "text/html")
	f.Add([]byte("\x00"), "ce_a\n", []byte("\r\n"), "a/b;c=\"")
	f.Fuzz(func(t *testing.T, key []byte, name string, value []byte, kind string) {
		h := http.Header{}
		SetHeaders(h, &store.Message{Key: key, Headers: []store.Header{{Key: name, Value: value}, {Key: "content-type", Value: []byte(kind)}}}, Extra{})
		for name, values := range h {
			if !isToken(name) || strings.Trim(values[0], " ") != values[0] && name != "Content-Type" {
				t.Fatalf("header %q: %q", name, values)
			}
			for i := range len(values[0]) {
				if c := values[0][i]; c < ' ' || c > '~' {
					t.Fatalf("header %q: %q", name, values)
				}
			}
		}
	})
}

func BenchmarkSetHeaders(b *testing.B) {
	m := sample()
	b.ReportAllocs()
	for b.Loop() {
		SetHeaders(make(http.Header, 16), m, Extra{Attempt: 1})
	}
}
