package sub

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kateway/kateway/store"
)

func dial(tb testing.TB, c *client) net.Conn {
	tb.Helper()
	conn, err := (&net.Dialer{}).DialContext(tb.Context(), "tcp", strings.TrimPrefix(c.base, "http://"))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		tb.Fatal(err)
	}
	return conn
}

// rawExchange sends bytes and reads until the server closes.
func rawExchange(tb testing.TB, c *client, request string) string {
	tb.Helper()
	conn := dial(tb, c)
	if _, err := io.WriteString(conn, request); err != nil {
		tb.Fatal(err)
	}
	b, err := io.ReadAll(conn)
	if err != nil {
		tb.Fatalf("reading the answer: %v after %q", err, b)
	}
	return string(b)
}

// rawAnswer is an answer with Content-Length as it came over the wire, read without any library's leniency.
type rawAnswer struct {
	status string
	header map[string][]string
	body   []byte
}

var headerLine = regexp.MustCompile("^([#$%&'*+.^_`|~0-9A-Za-z-]+): ([[:graph:]](?:[[:print:]]*[[:graph:]])?)?\r\n$")

func readRaw(tb testing.TB, r *bufio.Reader) rawAnswer {
	tb.Helper()
	line := func() string {
		s, err := r.ReadString('\n')
		if err != nil {
			tb.Fatalf("reading the head: %v after %q", err, s)
		}
		return s
	}
	a := rawAnswer{status: line(), header: map[string][]string{}}
	for {
		s := line()
		if s == "\r\n" {
			break
		}
		m := headerLine.FindStringSubmatch(s)
		if m == nil {
			tb.Fatalf("a header line that breaks clients: %q", s)
		}
		a.header[m[1]] = append(a.header[m[1]], m[2])
	}
	n, err := strconv.Atoi(strings.Join(a.header["Content-Length"], ""))
	if err != nil {
		tb.Fatalf("%v %v: %v", a.status, a.header, err)
	}
	a.body = make([]byte, n)
	if _, err := io.ReadFull(r, a.body); err != nil {
		tb.Fatal(err)
	}
	return a
}

// unescape undoes percent-encoding and nothing else.
func unescape(s string) string {
	var b []byte
	for i := 0; i < len(s); i++ {
		if s[i] == '%' {
			c, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
			if err != nil {
				return "broken: " + s
			}
			b, i = append(b, byte(c)), i+2
			continue
		}
		b = append(b, s[i])
	}
	return string(b)
}

// hostile has every byte alone, in front, behind and inside, and all of them at once.
func hostile() []string {
	var list []string
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
		c := string([]byte{byte(i)})
		list = append(list, c, c+"x", "x"+c, "x"+c+"x")
	}
	return append(list, string(all), "\r\n\r\nHTTP/1.1 200 OK\r\n", "a\r\nX-Evil: 1", "\xef\xbb\xbf", "\u2028\u2029\u0085", "data: x\n\nevent: evil\n\n")
}

func hostileMessages() []*store.Message {
	var list []*store.Message
	for _, s := range hostile() {
		list = append(list, &store.Message{
			Key: []byte(s), Value: []byte(s), Headers: []store.Header{{Key: "tags", Value: []byte(s)}, {Key: "colour", Value: []byte(s)}},
		})
	}
	return list
}

func TestEveryByteSurvivesARawPoll(t *testing.T) {
	w := newWorld(t, 1)
	c := serve(t, w.mux, false)
	w.publishMessages(hostileMessages()...)
	conn := dial(t, c)
	r := bufio.NewReader(conn)
	for _, want := range hostile() {
		fmt.Fprintf(conn, "GET %s?group=g HTTP/1.1\r\nHost: x\r\n\r\n", topicPath)
		a := readRaw(t, r)
		if a.status != "HTTP/1.1 200 OK\r\n" || string(a.body) != want {
			t.Fatalf("%q: %q %q", want, a.status, a.body)
		}
		for _, name := range []string{"X-Key", "X-Tag", "X-Msg-Colour"} {
			if got := unescape(strings.Join(a.header[name], "|")); got != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
		if a.header["X-Evil"] != nil {
			t.Errorf("%q: a header was planted", want)
		}
	}
}

// wild is an object with all that may hold bytes.
type wild struct {
	Key           *string
	KeyBytes      *string `json:"key_base64"`
	Value         *string
	ValueBytes    *string `json:"value_base64"`
	Headers       map[string]string
	HeadersBase64 map[string]string `json:"headers_base64"`
}

func checkWild(t *testing.T, line, want string) {
	t.Helper()
	var o wild
	d := json.NewDecoder(strings.NewReader(line))
	if err := d.Decode(&o); err != nil {
		t.Fatalf("%q: %q: %v", want, line, err)
	}
	either := func(text, coded *string) string {
		switch {
		case text != nil && coded == nil:
			return *text
		case text == nil && coded != nil:
			b, err := base64.StdEncoding.DecodeString(*coded)
			if err != nil {
				t.Errorf("%q: %v", want, err)
			}
			return string(b)
		}
		return "neither or both"
	}
	header := func(name string) string {
		if s, ok := o.Headers[name]; ok {
			return either(&s, nil)
		}
		s := o.HeadersBase64[name]
		return either(nil, &s)
	}
	for what, got := range map[string]string{
		"key": either(o.Key, o.KeyBytes), "value": either(o.Value, o.ValueBytes), "tags": header("tags"), "colour": header("colour"),
	} {
		if got != want {
			t.Errorf("%s: %q, want %q (in %q)", what, got, want, line)
		}
	}
}

func TestEveryByteSurvivesJSON(t *testing.T) {
	w := newWorld(t, 1)
	w.publishMessages(hostileMessages()...)
	for _, h2 := range []bool{false, true} {
		c := serve(t, w.mux, h2)
		lines := c.stream(fmt.Sprintf("%s?group=lines%v", feedPath, h2))
		events := c.stream(fmt.Sprintf("%s?group=events%v", feedPath, h2), "Accept: text/event-stream")
		for _, want := range hostile() {
			checkWild(t, lines.line(), want)
			e := events.event()
			if e.kind != "message" {
				t.Errorf("%q: event %q", want, e.kind)
			}
			checkWild(t, e.data, want)
		}
		lines.close()
		events.close()
		var got []string
		for len(got) < len(hostile()) {
			body := c.get(fmt.Sprintf("%s?group=poll%v&batch=700&value=base64", topicPath, h2)).want(t, 200).body
			for line := range strings.Lines(body) {
				got = append(got, line)
				checkWild(t, line, hostile()[len(got)-1])
			}
		}
	}
}

func TestEveryByteSurvivesFramesAndText(t *testing.T) {
	w := newWorld(t, 1)
	w.publishMessages(hostileMessages()...)
	c := serve(t, w.mux, false)
	var frames []byte
	for n := 0; n < len(hostile()); {
		b := []byte(c.get(topicPath+"?group=frames&batch=1000", "Accept: application/octet-stream").want(t, 200).body)
		for rest := b; len(rest) > 0; n++ {
			rest = rest[16+binary.BigEndian.Uint32(rest[12:]):]
		}
		frames = append(frames, b...)
	}
	text := c.stream(feedPath+"?group=text", "Accept: text/plain")
	for i, want := range hostile() {
		size := binary.BigEndian.Uint32(frames[12:])
		if offset := binary.BigEndian.Uint64(frames[4:]); offset != uint64(i) || string(frames[16:16+size]) != want {
			t.Fatalf("frame %d: offset %d, %q, want %q", i, offset, frames[16:16+size], want)
		}
		frames = frames[16+size:]
		got := make([]byte, len(want)+1)
		if _, err := io.ReadFull(text.lines, got); err != nil || !bytes.Equal(got, []byte(want+"\n")) {
			t.Fatalf("text %d: %q %v, want %q", i, got, err, want)
		}
	}
}

// A browser that opens a message must not run it.
func TestABrowserRunsNothing(t *testing.T) {
	w := newWorld(t, 1)
	c := serve(t, w.mux, false)
	for kind, want := range map[string]struct{ kind, disposition string }{
		"text/html":                    {"text/html", "attachment"},
		"TEXT/HTML; charset=utf-8":     {"TEXT/HTML; charset=utf-8", "attachment"},
		"image/svg+xml":                {"image/svg+xml", "attachment"},
		"application/xhtml+xml":        {"application/xhtml+xml", "attachment"},
		"text/xml":                     {"text/xml", "attachment"},
		"text/plain":                   {"text/plain", ""},
		"no type":                      {"application/octet-stream", ""},
		"text/html\r\nX-Evil: 1":       {"application/octet-stream", ""},
		"text/plain, text/html":        {"application/octet-stream", ""},
		"multipart/form-data;boundary": {"application/octet-stream", ""},
	} {
		w.publishMessages(&store.Message{Value: []byte("<script>alert(1)</script>"), Headers: []store.Header{{Key: "content-type", Value: []byte(kind)}}})
		h := c.get(topicPath+"?group=g").want(t, 200).Header
		if h.Get("Content-Type") != want.kind || h.Get("Content-Disposition") != want.disposition {
			t.Errorf("%q: %q, disposition %q", kind, h.Get("Content-Type"), h.Get("Content-Disposition"))
		}
		if h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Content-Security-Policy") != "sandbox" || h.Get("X-Evil") != "" {
			t.Errorf("%q: %v", kind, h)
		}
	}
}
