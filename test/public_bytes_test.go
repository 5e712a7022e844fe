package test

import (
	"bufio"
	"bytes"
	"compress/flate"
	"compress/gzip"
	bytesof "encoding/binary"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

// What is too large, too deep, too many or twice there is refused, however it is sent.
func bodies(t *testing.T, p *public) {
	c := p.caller(p.tenants[2])
	const msgs, json = "/v1/msgs/orders/v1", "Content-Type: application/json"
	settle := "/v1/msgs/" + c.r.app + "/orders/v1?group=g"
	deep := strings.Repeat("[", 200_000)
	for _, k := range []struct{ want, method, path, body string }{
		{"413 too_large", "POST", msgs, strings.Repeat("x", 1<<20+1)},
		{"413 too_large", "POST", msgs + "?batch=lines", strings.Repeat("x\n", 10_001)},
		{"413 too_large", "POST", msgs + "?batch=lines", strings.Repeat("x", 16<<20+1)},
		{"413 too_large", "POST", msgs + "?key=" + strings.Repeat("k", 4097), "x"},
		{"413 too_large", "POST", "/v1/tokens", `{"op":"` + strings.Repeat("x", 5000) + `"}`},
		{"400 invalid_body", "POST", msgs + "?batch=array", deep},
		{"400 invalid_body", "POST", msgs + "?batch=objects", `{"value":` + deep},
		{"400 invalid_body", "POST", "/v1/tokens", strings.Repeat("[", 4000)},
		{"400 invalid_body", "PUT", settle, strings.Repeat("[", 4000)},
		{"400 invalid_body", "POST", msgs + "?batch=objects", `{"value":1,"value":2}`},
		{"400 invalid_body", "POST", msgs + "?batch=objects", `{"value":1,"headers":{"a":"b","a":"c"}}`},
		{"400 invalid_body", "POST", "/v1/tokens", `{"op":"sub","op":"pub","app":"a","topic":"t","ver":"v1"}`},
		{"400 invalid_body", "PUT", settle, `[{"receipt":"a","receipt":"b","op":"ack"}]`},
		{"400 invalid_body", "POST", msgs + "?batch=frames", "\xff\xff\xff\xff"},
	} {
		c.ask(t, k.want, k.method, k.path, k.body, json)
	}
	for _, tr := range []*http.Transport{c.h1, c.h2} { // without saying how long it is
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.pub+msgs, io.LimitReader(endless{}, 2<<20))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+c.r.key)
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if v := p.verdict(resp, string(b)); v != "413 too_large" {
			t.Error(v)
		}
	}
}

// endless is x without end.
type endless struct{}

func (endless) Read(b []byte) (int, error) { return copy(b, bytes.Repeat([]byte("x"), len(b))), nil }

// Numbers come out as they went in, whatever their size.
func numbers(t *testing.T, p *public) {
	c := p.caller(p.tenants[3])
	list := []string{"12345678901234567890.12345678901234567890", "1e400", "-0", "9007199254740993", "0.1000"}
	resp, _ := c.ask(t, in, "POST", "/v1/msgs/orders/v1?batch=array", "["+strings.Join(list, ",")+"]")
	_ = resp
	got := c.lines(t, c.r.app+"/orders/v1")
	for _, n := range list {
		if !strings.Contains(got, n) {
			t.Errorf("%s is not among %s", n, got)
		}
	}
}

// lines are all messages of a topic as NDJSON.
func (c *caller) lines(t *testing.T, topic string) string {
	t.Helper()
	_, got := c.ask(t, in, "GET", "/v1/msgs/"+topic+"?cursor=&reset=oldest&batch=1000&wait=1s", "")
	return got
}

// socketOf is a WebSocket on which the test frames for itself.
type socketOf struct {
	conn io.ReadWriter
	in   *bufio.Reader
}

func (c *caller) framer(t *testing.T, path string) *socketOf {
	t.Helper()
	conn := c.raw(t)
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n", path, c.r.key); err != nil {
		t.Fatal(err)
	}
	s := &socketOf{conn, bufio.NewReader(conn)}
	resp, err := http.ReadResponse(s.in, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(resp, err)
	}
	return s
}

// put writes a frame; length is what it says of itself, -1: the truth.
func (s *socketOf) put(first byte, masked bool, length int64, payload []byte) error {
	b := []byte{first, 127}
	if masked {
		b[1] |= 0x80
	}
	if length < 0 {
		length = int64(len(payload))
	}
	switch {
	case length <= 125:
		b[1] = b[1]&0x80 | byte(length)
	case length <= 0xffff:
		b[1] = b[1]&0x80 | 126
		b = bytesof.BigEndian.AppendUint16(b, uint16(length))
	default:
		b = bytesof.BigEndian.AppendUint64(b, uint64(length))
	}
	if masked {
		b = append(b, 0, 0, 0, 0) // a mask that changes nothing
	}
	_, err := s.conn.Write(append(b, payload...))
	return err
}

// closed reads until the gateway closes, and answers its code, or says that a message is too large (413); 0: it hung up.
func (s *socketOf) closed() int {
	for {
		head := make([]byte, 2)
		if _, err := io.ReadFull(s.in, head); err != nil {
			return 0
		}
		n := int(head[1])
		if n == 126 {
			more := make([]byte, 2)
			_, _ = io.ReadFull(s.in, more)
			n = int(bytesof.BigEndian.Uint16(more))
		}
		b := make([]byte, n)
		if _, err := io.ReadFull(s.in, b); err != nil {
			return 0
		}
		if bytes.Contains(b, []byte(`"code":"too_large"`)) {
			return http.StatusRequestEntityTooLarge
		}
		if head[0]&0xf == 8 && n >= 2 {
			return int(bytesof.BigEndian.Uint16(b))
		}
	}
}

// Frames that break the rules, or never end, close the connection with the code of RFC 6455.
func frames(t *testing.T, p *public) {
	c := p.caller(p.tenants[4])
	part := bytes.Repeat([]byte("x"), 60_000)
	before := p.residentPeak()
	for name, k := range map[string]struct {
		want int
		send func(s *socketOf)
	}{
		"unmasked":            {want: 1002, send: func(s *socketOf) { _ = s.put(0x81, false, -1, []byte("x")) }},
		"reserved bits":       {want: 1002, send: func(s *socketOf) { _ = s.put(0xb1, true, -1, []byte("x")) }},
		"reserved opcode":     {want: 1002, send: func(s *socketOf) { _ = s.put(0x83, true, -1, []byte("x")) }},
		"a long ping":         {want: 1002, send: func(s *socketOf) { _ = s.put(0x89, true, -1, part[:126]) }},
		"2^63 bytes":          {want: 1002, send: func(s *socketOf) { _, _ = s.conn.Write([]byte{0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}) }},
		"a terabyte":          {want: 1009, send: func(s *socketOf) { _ = s.put(0x82, true, 1<<40, nil) }},
		"one byte too many":   {want: 413, send: func(s *socketOf) { _ = s.put(0x82, true, -1, make([]byte, 1<<20+1)) }},
		"not UTF-8":           {want: 1007, send: func(s *socketOf) { _ = s.put(0x81, true, -1, []byte{0xff, 0xfe}) }},
		"a compressed bomb":   {want: 413, send: func(s *socketOf) { _ = s.put(0xc2, true, -1, deflated(64<<20)) }},
		"compressed nonsense": {want: 1007, send: func(s *socketOf) { _ = s.put(0xc2, true, -1, part[:1000]) }},
		"endless fragments": {want: 1009, send: func(s *socketOf) {
			for first := byte(0x02); s.put(first, true, -1, part) == nil; first = 0 {
			}
		}},
		"continuation of nothing": {want: 1002, send: func(s *socketOf) { _ = s.put(0x80, true, -1, []byte("x")) }},
		"message in a message": {want: 1002, send: func(s *socketOf) {
			_ = s.put(0x02, true, -1, []byte("x"))
			_ = s.put(0x82, true, -1, []byte("x"))
		}},
	} {
		s := c.framer(t, "/v1/ws/pub/orders/v1")
		go k.send(s)
		if got := s.closed(); got != k.want && (got != 0 || name != "endless fragments") { // our own writing may have been cut off first
			t.Errorf("%s: closed with %d, want %d", name, got, k.want)
		}
	}
	s := c.framer(t, "/v1/ws/pub/orders/v1")
	go func() {
		for range 20_000 {
			if s.put(0x89, true, -1, part[:100]) != nil {
				return
			}
		}
		_ = s.put(0x88, true, -1, []byte{0x03, 0xe8})
	}()
	if got := s.closed(); got != 1000 && got != 1008 && got != 0 {
		t.Errorf("a flood of pings: closed with %d", got)
	}
	c.ask(t, in, "POST", "/v1/msgs/orders/v1", "x")
	if grown := p.residentPeak() - before; grown > 32<<20 {
		t.Errorf("it took %d MiB more", grown>>20)
	}
}

// deflated is so many zeros as permessage-deflate has them.
func deflated(n int) []byte {
	var b bytes.Buffer
	w, _ := flate.NewWriter(&b, flate.BestCompression)
	_, _ = w.Write(make([]byte, n))
	_ = w.Flush()
	return bytes.TrimSuffix(b.Bytes(), []byte{0, 0, 0xff, 0xff})
}

// Bodies that unpack to far more than the limit cost no more than it; one layer is unpacked, and only what is whole.
func bombs(t *testing.T, p *public) {
	c := p.caller(p.tenants[5])
	zip := func(b []byte) []byte {
		var out bytes.Buffer
		w := gzip.NewWriter(&out)
		_, _ = w.Write(b)
		_ = w.Close()
		return out.Bytes()
	}
	zipped := zip(make([]byte, 128<<20))
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	packed := enc.EncodeAll(make([]byte, 128<<20), nil)
	small := zip([]byte("hello"))
	list := []struct {
		want, coding string
		body         []byte
	}{
		{"413 too_large", "gzip", zipped}, {"413 too_large", "zstd", packed}, {in, "gzip", zip(zip(make([]byte, 1<<20)))},
		{"415 unsupported_encoding", "gzip, gzip", zip(small)}, {"415 unsupported_encoding", "deflate", deflated(10)}, {"415 unsupported_encoding", "snappy", small}, {"415 unsupported_encoding", "br", small},
		{"400 invalid_body", "gzip", small[:len(small)-4]}, {"400 invalid_body", "gzip", append(bytes.Clone(small), "more"...)}, {"400 invalid_body", "gzip", []byte("hello")},
		{"413 too_large", "zstd", packed[:len(packed)-4]}, // it is too much before it ends
		{"400 invalid_body", "zstd", enc.EncodeAll([]byte("hello"), nil)[:10]}, {in, "gzip", small},
	}
	for _, of := range []struct {
		query string
		most  int
	}{{"", 32 << 20}, {"?batch=lines", 64 << 20}} { // of a batch 16 MiB are unpacked
		before := p.residentPeak()
		for _, k := range list {
			c.ask(t, k.want, "POST", "/v1/msgs/orders/v1"+of.query, string(k.body), "Content-Encoding: "+k.coding)
		}
		grown := p.residentPeak() - before
		if t.Logf("bombs%s cost %d MiB", of.query, grown>>20); grown > of.most {
			t.Errorf("that is more than %d MiB", of.most>>20)
		}
	}
}

// A second request that could be found in a first one is not.
func smuggling(t *testing.T, p *public) {
	r := p.tenants[6]
	c := p.caller(r)
	auth := "Host: x\r\nAuthorization: Bearer " + r.key + "\r\n"
	evil := "POST /v1/msgs/private/v1 HTTP/1.1\r\n" + auth + "Content-Length: 4\r\n\r\nevil"
	for name, rest := range map[string]string{
		"length and chunks": "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "chunks and length": "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
		"two lengths": "Content-Length: 5\r\nContent-Length: 0\r\n\r\nhello", "chunked twice": "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
		"not chunked": "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", "space before the colon": "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
		"bare LF": "X: a\nContent-Length: 5\r\n\r\nhello", "folded": "X: a\r\n Content-Length: 0\r\nContent-Length: 5\r\n\r\nhello",
	} {
		conn := c.raw(t)
		if _, err := io.WriteString(conn, "POST /v1/msgs/orders/v1 HTTP/1.1\r\n"+auth+rest+evil); err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(conn)
		if !strings.HasPrefix(string(b), "HTTP/1.1 400 ") || strings.Count(string(b), "HTTP/1.1") != 1 {
			t.Errorf("%s: %.300s", name, b)
		}
	}
	if got := c.lines(t, r.app+"/private/v1"); got != "" {
		t.Errorf("a second request was found: %s", got)
	}
}

// What is stored breaks no answer, in whatever form it is read.
func storedData(t *testing.T, p *public) {
	r := p.tenants[7]
	c := p.caller(r)
	var all []byte
	for i := range 256 {
		all = append(all, byte(i))
	}
	key := url.QueryEscape(string(all) + "\r\nSet-Cookie: a=b")
	value := "<script>alert(1)</script>\r\n\r\ndata: forged\nevent: end\n\n{\"event\":\"end\"}\n\u2028"
	c.ask(t, in, "POST", "/v1/msgs/private/v1?key="+key, value, "Content-Type: text/html", "X-Tag: a;%0d%0aX-Forged: 1", "X-Msg-Note: %0d%0aX-Forged: 1")
	at := r.app + "/private/v1"
	for range 2 {
		resp, body := c.ask(t, in, "GET", "/v1/msgs/"+at+"?partition=0&offset=0", "")
		h := resp.Header
		if body != value || h.Get("X-Forged") != "" || h.Get("Set-Cookie") != "" || !strings.Contains(h.Get("X-Key"), "%0D%0ASet-Cookie") ||
			h.Get("X-Content-Type-Options") != "nosniff" || !strings.Contains(h.Get("Content-Security-Policy"), "sandbox") || !strings.HasPrefix(h.Get("Content-Disposition"), "attachment") {
			t.Errorf("%v %q", h, body)
		}
	}
	if got := c.lines(t, at); strings.Count(got, "\n") != 2 || strings.Count(got, "\r") != 0 {
		t.Errorf("lines: %q", got)
	}
	for _, accept := range []string{"text/event-stream", "application/x-ndjson"} {
		_, got := c.ask(t, in, "GET", "/v1/stream/"+at+"?cursor=&reset=oldest&limit=2", "", "Accept: "+accept)
		for line := range strings.Lines(got) {
			if line = strings.TrimSpace(line); line != "" && accept != "text/event-stream" && !strings.HasPrefix(line, `{"partition":0,`) {
				t.Errorf("%s: %q", accept, line)
			}
			if strings.HasPrefix(line, "data: forged") || strings.HasPrefix(line, "event: end") {
				t.Errorf("%s: %q", accept, got)
			}
		}
	}
	conn, resp, err := c.socket("/v1/ws/msgs/"+at+"?reset=oldest", []string{"Authorization: Bearer " + r.key})
	if err != nil {
		t.Fatal(err, resp)
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	if _, b, err := conn.ReadMessage(); err != nil || strings.ContainsAny(string(b), "\r\n") {
		t.Errorf("%q, %v", b, err)
	}
}
