package ws

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// raw is a client that sends bytes, right or wrong.
type raw struct {
	t    testing.TB
	conn net.Conn
	in   *bufio.Reader
}

func dialRaw(t testing.TB, url string, headers ...string) *raw {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	lines := append([]string{"GET / HTTP/1.1", "Host: x", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="}, headers...)
	if _, err := io.WriteString(conn, strings.Join(lines, "\r\n")+"\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	r := &raw{t: t, conn: conn, in: bufio.NewReader(conn)}
	for {
		line, err := r.in.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if line == "\r\n" {
			return r
		}
	}
}

// frame makes a frame by hand. length is how its length is written: 0 as it should be, or 7, 16, 64 bits.
func frame(first byte, masked bool, length int, payload []byte) []byte {
	b, n := []byte{first}, len(payload)
	mask := byte(0)
	if masked {
		mask = 0x80
	}
	switch {
	case length == 7, length == 0 && n <= 125:
		b = append(b, mask|byte(n))
	case length == 16, length == 0 && n <= 0xFFFF:
		b = binary.BigEndian.AppendUint16(append(b, mask|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, mask|127), uint64(n))
	}
	if !masked {
		return append(b, payload...)
	}
	key := []byte{1, 2, 3, 4}
	b = append(b, key...)
	for i, c := range payload {
		b = append(b, c^key[i%4])
	}
	return b
}

// answers sends the bytes and then a close frame, and lists what comes until the end: text, binary, pong, close.
func (r *raw) answers(sent ...[]byte) (list []string) {
	r.t.Helper()
	bye := frame(0x88, true, 0, []byte{0x03, 0xE8}) // 1000
	_, _ = r.conn.Write(append(slices.Concat(sent...), bye...))
	for {
		var head [2]byte
		if _, err := io.ReadFull(r.in, head[:]); err != nil {
			return append(list, "cut")
		}
		n := int(head[1])
		switch n {
		case 126:
			var more [2]byte
			_, _ = io.ReadFull(r.in, more[:])
			n = int(binary.BigEndian.Uint16(more[:]))
		case 127:
			var more [8]byte
			_, _ = io.ReadFull(r.in, more[:])
			n = int(binary.BigEndian.Uint64(more[:]))
		}
		payload := make([]byte, n)
		if _, err := io.ReadFull(r.in, payload); err != nil {
			return append(list, "cut")
		}
		switch head[0] {
		case 0x81:
			list = append(list, fmt.Sprintf("text %d", n))
		case 0x82:
			list = append(list, fmt.Sprintf("binary %d", n))
		case 0x8A:
			list = append(list, "pong "+string(payload))
		case 0x88:
			return append(list, fmt.Sprintf("close %d", binary.BigEndian.Uint16(payload)))
		default:
			return append(list, fmt.Sprintf("frame %x", head))
		}
	}
}

// rawCase is what is sent after the handshake, and what comes back. A connection that is not closed before answers 1000.
type rawCase struct {
	name string
	sent [][]byte
	want string
}

// firstFrames are all first two bytes that there can be, but for the length.
func firstFrames() (list []rawCase) {
	for op := range byte(16) {
		for rsv := range byte(8) {
			for _, fin := range []bool{true, false} {
				for _, masked := range []bool{true, false} {
					first := op | rsv<<4
					if fin {
						first |= 0x80
					}
					c := rawCase{name: fmt.Sprintf("opcode %d, reserved bits %d, fin %v, masked %v", op, rsv, fin, masked), want: "close 1002"}
					payload := []byte("ab")
					if op == 8 {
						payload = []byte{0x03, 0xE9} // 1001
					}
					c.sent = [][]byte{frame(first, masked, 0, payload)}
					good := rsv == 0 && masked && (fin || op < 8)
					switch {
					case good && op == 1 && fin:
						c.want = "text 2, close 1000"
					case good && op == 2 && fin:
						c.want = "binary 2, close 1000"
					case good && (op == 1 || op == 2):
						c.sent = append(c.sent, frame(0x80, true, 0, []byte("c")))
						c.want = map[byte]string{1: "text", 2: "binary"}[op] + " 3, close 1000"
					case good && op == 8:
						c.want = "close 1001"
					case good && op == 9:
						c.want = "pong ab, close 1000"
					case good && op == 10:
						c.want = "close 1000"
					}
					list = append(list, c)
				}
			}
		}
	}
	return list
}

func lengths() (list []rawCase) {
	for _, n := range []int{0, 1, 124, 125, 126, 127, 128, 1000, 65534, 65535, 65536, 65537} {
		for _, length := range []int{7, 16, 64} {
			if length == 7 && n > 125 || length == 16 && n > 65535 {
				continue
			}
			c := rawCase{fmt.Sprintf("%d bytes, length in %d bits", n, length), [][]byte{frame(0x82, true, length, make([]byte, n))}, "close 1002"}
			if length == 7 || length == 16 && n > 125 || length == 64 && n > 65535 {
				c.want = fmt.Sprintf("binary %d, close 1000", n)
			}
			list = append(list, c)
		}
	}
	for _, n := range []uint64{1 << 63, 1<<63 + 1, 1<<64 - 1} {
		b := binary.BigEndian.AppendUint64([]byte{0x82, 0x80 | 127}, n)
		list = append(list, rawCase{fmt.Sprintf("a length of %d", n), [][]byte{append(b, 1, 2, 3, 4)}, "close 1002"})
	}
	for _, op := range []byte{8, 9, 10} {
		for _, n := range []int{126, 127, 65536} {
			list = append(list, rawCase{fmt.Sprintf("control frame %d of %d bytes", op, n), [][]byte{frame(0x80|op, true, 0, make([]byte, n))}, "close 1002"})
		}
	}
	return append(list,
		rawCase{"ping of 125 bytes", [][]byte{frame(0x89, true, 0, []byte(strings.Repeat("p", 125)))}, "pong " + strings.Repeat("p", 125) + ", close 1000"},
		rawCase{"ping of nothing", [][]byte{frame(0x89, true, 0, nil)}, "pong , close 1000"},
	)
}

func closeCodes() (list []rawCase) {
	add := func(code int, want string) {
		list = append(list, rawCase{fmt.Sprintf("close code %d", code), [][]byte{frame(0x88, true, 0, binary.BigEndian.AppendUint16(nil, uint16(code)))}, want})
	}
	for _, code := range []int{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999} {
		add(code, fmt.Sprintf("close %d", code))
	}
	for _, code := range []int{0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535} {
		add(code, "close 1002")
	}
	reason := func(s string) [][]byte { return [][]byte{frame(0x88, true, 0, append([]byte{0x03, 0xE8}, s...))} }
	return append(list,
		rawCase{"half a close code", [][]byte{frame(0x88, true, 0, []byte{3})}, "close 1002"},
		rawCase{"a close reason", reason("bye ü"), "close 1000"},
		rawCase{"a close reason of 123 bytes", reason(strings.Repeat("x", 123)), "close 1000"},
		rawCase{"a close reason that is no UTF-8", reason("\xff"), "close 1007"},
		rawCase{"half a letter as close reason", reason("\xc3"), "close 1007"},
	)
}

// texts are in one frame, and cut in two at each place.
func texts() (list []rawCase) {
	for _, s := range []string{
		"plain", "κόσμε", "\u00e4\u20ac\U0001F600", "\U0010FFFF", "\ud7ff\ue000", "\x00",
		"\xff", "\xc0\xaf", "\xe0\x80\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "a\x80", "\xc3(", "\xf0\x9f\x98", "ok\xce",
	} {
		want := "close 1007"
		if utf8.ValidString(s) {
			want = fmt.Sprintf("text %d, close 1000", len(s))
		}
		list = append(list, rawCase{fmt.Sprintf("text %q", s), [][]byte{frame(0x81, true, 0, []byte(s))}, want})
		for i := range len(s) + 1 {
			list = append(list, rawCase{fmt.Sprintf("text %q cut at %d", s, i),
				[][]byte{frame(0x01, true, 0, []byte(s[:i])), frame(0x80, true, 0, []byte(s[i:]))}, want})
		}
		list = append(list, rawCase{fmt.Sprintf("the same bytes as binary %q", s), [][]byte{frame(0x82, true, 0, []byte(s))}, fmt.Sprintf("binary %d, close 1000", len(s))})
	}
	return list
}

func fragments() []rawCase {
	begin, more, end := frame(0x01, true, 0, []byte("a")), frame(0x00, true, 0, []byte("b")), frame(0x80, true, 0, []byte("c"))
	ping := frame(0x89, true, 0, []byte("p"))
	return []rawCase{
		{"three fragments", [][]byte{begin, more, end}, "text 3, close 1000"},
		{"a ping among fragments", [][]byte{begin, ping, more, ping, end}, "pong p, text 3, pong p, close 1000"},
		{"empty fragments", [][]byte{frame(0x02, true, 0, nil), frame(0x00, true, 0, nil), frame(0x80, true, 0, nil)}, "binary 0, close 1000"},
		{"a message within a message", [][]byte{begin, begin}, "close 1002"},
		{"a whole message within a message", [][]byte{begin, frame(0x81, true, 0, []byte("x"))}, "close 1002"},
		{"a continuation after the end", [][]byte{begin, end, end}, "text 2, close 1002"},
		{"a close within a message", [][]byte{begin, frame(0x88, true, 0, []byte{0x03, 0xE8})}, "close 1000"},
		{"two messages", [][]byte{frame(0x81, true, 0, []byte("x")), frame(0x82, true, 0, []byte("yz"))}, "text 1, binary 2, close 1000"},
		{"a mask that comes once only", [][]byte{begin, frame(0x80, false, 0, []byte("c"))}, "close 1002"},
		{"a reserved bit on a continuation", [][]byte{begin, frame(0xC0, true, 0, []byte("c"))}, "close 1002"},
		{"too large", [][]byte{frame(0x82, true, 0, make([]byte, rawLimit+1))}, "close 1009"},
		{"as large as it may be", [][]byte{frame(0x82, true, 0, make([]byte, rawLimit))}, fmt.Sprintf("binary %d, close 1000", rawLimit)},
		{"too large in fragments", [][]byte{frame(0x02, true, 0, make([]byte, rawLimit)), frame(0x80, true, 0, []byte("x"))}, "close 1009"},
	}
}

const rawLimit = 70_000

// The rules of RFC 6455 on what a client may send, frame by frame: first thing, and behind a message that comes along.
func TestRawFrames(t *testing.T) {
	srv := serve(t, echo(Config{Limit: rawLimit, Buffer: 512}))
	cases := slices.Concat(firstFrames(), lengths(), closeCodes(), texts(), fragments())
	if len(cases) < 250 {
		t.Fatalf("only %d cases", len(cases))
	}
	names := map[string]bool{}
	for _, c := range cases {
		if names[c.name] {
			t.Fatalf("%s is there twice", c.name)
		}
		names[c.name] = true
		if got := strings.Join(dialRaw(t, srv.URL).answers(c.sent...), ", "); got != c.want {
			t.Errorf("%s: %s; want %s", c.name, got, c.want)
		}
		behind := append([][]byte{frame(0x81, true, 0, []byte("hi"))}, c.sent...)
		got, want := dialRaw(t, srv.URL).answers(behind...), strings.Split("text 2, "+c.want, ", ")
		slices.Sort(got) // pongs are sent before the reader waits: when, is by how much it has read at once
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s, behind a message: %q; want %q", c.name, got, want)
		}
	}
	t.Logf("%d cases", len(cases))
}

// What breaks off in the midst of a frame, at whatever byte, ends the connection and nothing else.
func TestRawCut(t *testing.T) {
	srv := serve(t, echo(Config{Limit: rawLimit, Buffer: 512}))
	whole := frame(0x82, true, 0, make([]byte, 200))
	for n := range whole {
		r := dialRaw(t, srv.URL)
		_, _ = r.conn.Write(whole[:n])
		_ = r.conn.(*net.TCPConn).CloseWrite()
		if rest, err := io.ReadAll(r.in); err != nil || len(rest) > 0 && rest[0] != 0x88 {
			t.Fatalf("after %d bytes: %x, %v", n, rest, err)
		}
	}
}

func FuzzRawFrames(f *testing.F) {
	for _, c := range fragments()[:8] {
		f.Add(slices.Concat(c.sent...))
	}
	srv := serve(f, echo(Config{Limit: 1000, Buffer: 512}))
	f.Fuzz(func(t *testing.T, sent []byte) {
		r := dialRaw(t, srv.URL)
		_, _ = r.conn.Write(sent)
		_ = r.conn.(*net.TCPConn).CloseWrite()
		if _, err := io.Copy(io.Discard, r.in); err != nil && !strings.Contains(err.Error(), "reset") {
			t.Fatal(err)
		}
		_ = r.conn.Close()
	})
}
