package ws

import (
	"bytes"
	"compress/flate"
	"fmt"
	"runtime"
	"strings"
	"testing"
)

// squeeze deflates a payload as RFC 7692, 7.2.1, says: without the tail.
func squeeze(tb testing.TB, payload []byte) []byte {
	tb.Helper()
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, flate.BestCompression)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := w.Write(payload); err != nil {
		tb.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		tb.Fatal(err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte(deflateTail))
}

// The rules of RFC 7692 on what a client may send, frame by frame.
func TestRawDeflatedFrames(t *testing.T) {
	srv := serve(t, echo(Config{Limit: rawLimit, Buffer: 512}))
	long := squeeze(t, []byte(strings.Repeat("ü", 60))) // 120 bytes: the echo comes back as it is
	half := len(long) / 2
	cases := []rawCase{
		{"a text", [][]byte{frame(0xC1, true, 0, long)}, "text 120, close 1000"},
		{"bytes", [][]byte{frame(0xC2, true, 0, squeeze(t, []byte("\xff\xfe")))}, "binary 2, close 1000"},
		{"nothing", [][]byte{frame(0xC1, true, 0, []byte{0})}, "text 0, close 1000"},
		{"not deflated", [][]byte{frame(0x81, true, 0, []byte("plain"))}, "text 5, close 1000"},
		{"in fragments", [][]byte{frame(0x41, true, 0, long[:half]), frame(0x00, true, 0, nil), frame(0x80, true, 0, long[half:])}, "text 120, close 1000"},
		{"the bit on a later fragment", [][]byte{frame(0x41, true, 0, long[:half]), frame(0xC0, true, 0, long[half:])}, "close 1002"},
		{"the bit on a ping", [][]byte{frame(0xC9, true, 0, nil)}, "close 1002"},
		{"the bit on a close frame", [][]byte{frame(0xC8, true, 0, nil)}, "close 1002"},
		{"another bit", [][]byte{frame(0xA1, true, 0, long)}, "close 1002"},
		{"both bits", [][]byte{frame(0xE1, true, 0, long)}, "close 1002"},
		{"garbage", [][]byte{frame(0xC2, true, 0, []byte("\xff\xff\xff"))}, "close 1007"},
		{"cut short", [][]byte{frame(0xC1, true, 0, long[:half])}, "close 1007"},
		{"a text that is no UTF-8", [][]byte{frame(0xC1, true, 0, squeeze(t, []byte("\xff")))}, "close 1007"},
		{"half a letter", [][]byte{frame(0xC1, true, 0, squeeze(t, []byte("a\xc3")))}, "close 1007"},
		{"as large as it may be", [][]byte{frame(0xC2, true, 0, squeeze(t, make([]byte, rawLimit)))}, "deflated, close 1000"},
		{"too large", [][]byte{frame(0xC2, true, 0, squeeze(t, make([]byte, rawLimit+1)))}, "close 1009"},
		{"a hundred times too large", [][]byte{frame(0xC2, true, 0, squeeze(t, make([]byte, 100*rawLimit)))}, "close 1009"},
	}
	for _, c := range cases {
		r := dialRaw(t, srv.URL, "Sec-WebSocket-Extensions: permessage-deflate")
		got := strings.Join(r.answers(c.sent...), ", ")
		if strings.HasPrefix(got, "frame c2") { // deflated in turn
			got = "deflated, close 1000"
		}
		if got != c.want {
			t.Errorf("%s: %s; want %s", c.name, got, c.want)
		}
	}
}

// What unpacks to far more than the limit costs no more than the limit.
func TestDeflateBomb(t *testing.T) {
	bomb := squeeze(t, make([]byte, 8<<20))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := inflate(bytes.Clone(bomb), 64<<10); err != ErrTooLarge {
		t.Error(err)
	}
	if runtime.ReadMemStats(&after); after.TotalAlloc-before.TotalAlloc > 2<<20 {
		t.Errorf("it took %d bytes", after.TotalAlloc-before.TotalAlloc)
	}
}

// A frame is deflated where that makes it smaller, and alike on all connections.
func TestDeflatedFrames(t *testing.T) {
	yes, no := &Conn{deflate: true}, &Conn{}
	for n := range 300 {
		payload := []byte(strings.Repeat("a", n))
		end := func(c *Conn, before string) string {
			dst := append([]byte(before), Begin(nil)...)
			return string(c.End(append(dst, payload...), len(before), Text)[len(before):])
		}
		a, b, plain := end(yes, ""), end(&Conn{deflate: true}, "before"), end(no, "")
		if a != b {
			t.Fatalf("%d bytes: %q and %q", n, a, b)
		}
		if small := a[0]&rsv1Bit != 0; small != yes.Deflates(n) || small != (len(a) < len(plain)) || no.Deflates(n) {
			t.Fatalf("%d bytes: a frame of %d, plain %d", n, len(a), len(plain))
		}
	}
	random := make([]byte, 1000)
	for i := range random {
		random[i] = byte(i*i*i>>3) ^ byte(i*7919)
	}
	at := fmt.Sprint(len(random))
	if f := yes.End(append(Begin(nil), random...), 0, Binary); len(f) > len(random)+headRoom || f[0]&rsv1Bit != 0 && len(f) >= len(random) {
		t.Errorf("%s bytes that can't be made smaller: a frame of %d", at, len(f))
	}
}
