package pub

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

func gz(t testing.TB, s string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := io.WriteString(w, s); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// zst makes a frame; streamed ones do not announce their size.
func zst(t testing.TB, s string, streamed bool, opts ...zstd.EOption) string {
	t.Helper()
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b, append(opts, zstd.WithEncoderConcurrency(1))...)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if !streamed {
		return string(w.EncodeAll([]byte(s), nil))
	}
	if _, err := io.WriteString(w, s); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestEncodedBodies(t *testing.T) {
	const max = 100_000
	x := func(n int) string { return strings.Repeat("x", n) }
	random := make([]byte, max)
	seed := uint32(1)
	for i := range random {
		seed = seed*1664525 + 1013904223
		random[i] = byte(seed >> 24)
	}
	for _, c := range []struct {
		name, encoding, body string
		status               int
		want                 string
	}{
		{"gzip", "gzip", gz(t, "hello"), 201, "hello"},
		{"x-gzip", "X-GZIP", gz(t, "hello"), 201, "hello"},
		{"identity", "identity", "hello", 201, "hello"},
		{"gzip of nothing", "gzip", gz(t, ""), 201, ""},
		{"gzip of gzip is decoded once", "gzip", gz(t, gz(t, "hello")), 201, gz(t, "hello")},
		{"gzip in two members", "gzip", gz(t, "hello ") + gz(t, "world"), 201, "hello world"},
		{"gzip, big member first", "gzip", gz(t, x(max-1)) + gz(t, "y"), 201, x(max-1) + "y"},
		{"gzip at the limit", "gzip", gz(t, x(max)), 201, x(max)},
		{"gzip over the limit", "gzip", gz(t, x(max+1)), 413, ""},
		{"gzip far over the limit", "gzip", gz(t, x(50*max)), 413, ""},
		{"gzip members over the limit", "gzip", gz(t, x(max)) + gz(t, "x"), 413, ""},
		{"gzip of what can't be compressed", "gzip", gz(t, string(random)), 201, string(random)},
		{"gzip truncated", "gzip", gz(t, x(1000))[:20], 400, ""},
		{"gzip without its end", "gzip", strings.TrimSuffix(gz(t, x(1000)), gz(t, x(1000))[len(gz(t, x(1000)))-1:]), 400, ""},
		{"gzip of another size", "gzip", gz(t, "hello")[:len(gz(t, "hello"))-4] + "\x06\x00\x00\x00", 400, ""},
		{"gzip with a wrong checksum", "gzip", gz(t, "hello")[:len(gz(t, "hello"))-8] + "abcd\x05\x00\x00\x00", 400, ""},
		{"gzip, something follows", "gzip", gz(t, "hello") + "trailing data", 400, ""},
		{"gzip, a broken member follows", "gzip", gz(t, "hello") + gz(t, "hello")[:12], 400, ""},
		{"no gzip", "gzip", "hello", 400, ""},
		{"empty is no gzip", "gzip", "", 400, ""},
		{"zstd", "zstd", zst(t, "hello", false), 201, "hello"},
		{"zstd streamed", "ZSTD", zst(t, "hello", true), 201, "hello"},
		{"zstd of nothing", "zstd", zst(t, "", false, zstd.WithZeroFrames(true)), 201, ""},
		{"zstd in two frames", "zstd", zst(t, "hello ", false) + zst(t, "world", true), 201, "hello world"},
		{"zstd at the limit", "zstd", zst(t, x(max), false), 201, x(max)},
		{"zstd streamed at the limit", "zstd", zst(t, x(max), true), 201, x(max)},
		{"zstd of what can't be compressed", "zstd", zst(t, string(random), true), 201, string(random)},
		{"zstd over the limit", "zstd", zst(t, x(max+1), false), 413, ""},
		{"zstd streamed over the limit", "zstd", zst(t, x(max+1), true), 413, ""},
		{"zstd far over the limit", "zstd", zst(t, x(50*max), true), 413, ""},
		{"zstd frames over the limit", "zstd", zst(t, x(max), false) + zst(t, "x", false), 413, ""},
		{"zstd with the largest window", "zstd", zst(t, "hello", true, zstd.WithWindowSize(maxWindow)), 201, "hello"},
		{"zstd with too large a window", "zstd", zst(t, x(3*maxWindow), true, zstd.WithWindowSize(2*maxWindow)), 400, ""},
		{"zstd truncated", "zstd", zst(t, string(random), true)[:500], 400, ""},
		{"zstd, something follows", "zstd", zst(t, "hello", false) + "trailing data", 400, ""},
		{"no zstd", "zstd", "hello", 400, ""},
		{"empty is no zstd", "zstd", "", 400, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := newGateway(t, func(c *Config) { c.Limits.Message = max })
			for range 2 { // with fresh buffers and with used ones
				a := g.post(t, "/v1/msgs/t/v1", strings.NewReader(c.body), "Content-Encoding: "+c.encoding)
				if a.status != c.status {
					t.Fatalf("%d %s, want %d", a.status, a.body, c.status)
				}
			}
			got := g.stored(t, "default.t.v1")
			if (len(got) == 2) != (c.status == 201) {
				t.Fatalf("%d messages stored", len(got))
			}
			for _, m := range got {
				if m.Value == nil || string(m.Value) != c.want {
					t.Errorf("stored %.40q (%d bytes), want %.40q", m.Value, len(m.Value), c.want)
				}
			}
		})
	}
}

// Ten ways to frame chunks badly. net/http calls the handler for each; only the error of a Read tells.
func TestBrokenChunksStoreNothing(t *testing.T) {
	g := newGateway(t, nil)
	for _, c := range []struct{ name, body string }{
		{"bare LF after the size", "5\nhello\r\n0\r\n\r\n"},
		{"bare LF after the data", "5\r\nhello\n0\r\n\r\n"},
		{"0x before the size", "0x5\r\nhello\r\n0\r\n\r\n"},
		{"sign before the size", "+5\r\nhello\r\n0\r\n\r\n"},
		{"empty size", "\r\nhello\r\n0\r\n\r\n"},
		{"CR in an extension", "5;a\rb\r\nhello\r\n0\r\n\r\n"},
		{"size that overflows", "fffffffffffffffff\r\nhello\r\n0\r\n\r\n"},
		{"size too small", "4\r\nhello\r\n0\r\n\r\n"},
		{"no hexadecimal digits", "5\r\nhello\r\nxyz\r\n\r\n"},
		{"broken off", "5\r\nhello\r\n"},
	} {
		for _, query := range []string{"", "?batch=lines"} {
			t.Run(c.name+query, func(t *testing.T) {
				checkRefused(t, g, "POST /v1/msgs/t/v1"+query+" HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"+c.body, 400)
			})
		}
	}
	t.Run("shorter than its Content-Length", func(t *testing.T) {
		checkRefused(t, g, "POST /v1/msgs/t/v1 HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhello", 400)
	})
	if a := g.post(t, "/v1/msgs/t/v1", chunked("good")); a.status != 201 || len(g.stored(t, "default.t.v1")) != 1 {
		t.Errorf("well framed chunks: %d, %q", a.status, shows(g.stored(t, "default.t.v1")))
	}
}

// checkRefused sends raw bytes and wants the status, a closed connection and nothing stored.
func checkRefused(t *testing.T, g *gateway, raw string, status int) {
	t.Helper()
	conn, err := net.Dial("tcp", g.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, raw); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	res.Body.Close()
	if err != nil || res.StatusCode != status || !strings.Contains(string(body), "invalid_body") || !res.Close {
		t.Errorf("%d %s, close %v, %v", res.StatusCode, body, res.Close, err)
	}
	if rest, err := io.ReadAll(r); len(rest) > 0 || err != nil {
		t.Errorf("after the answer came %q, %v", rest, err)
	}
	if got := g.stored(t, "default.t.v1"); len(got) > 0 {
		t.Errorf("stored %q", shows(got))
	}
}

// A body that announces too much is refused before a byte of it is read; one that does not, soon after the limit.
func TestTooLargeIsNotRead(t *testing.T) {
	const max = 10_000
	g := newGateway(t, func(c *Config) { c.Limits.Message = max })
	for _, c := range []struct {
		head  string
		chunk string
		limit int // bytes that may be asked for
	}{
		{"Content-Length: 1000000000\r\nExpect: 100-continue", "", 0},
		{"Transfer-Encoding: chunked", "400\r\n" + strings.Repeat("x", 1024) + "\r\n", max + 64<<10},
	} {
		conn, err := net.Dial("tcp", g.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST /v1/msgs/t/v1 HTTP/1.1\r\nHost: h\r\n%s\r\n\r\n", c.head)
		for range c.limit / 1024 {
			if _, err := io.WriteString(conn, c.chunk); err != nil {
				break
			}
		}
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatalf("%s: %v", c.head, err)
		}
		if res.StatusCode != 413 || !res.Close {
			t.Errorf("%s: %d, close %v", c.head, res.StatusCode, res.Close)
		}
		conn.Close()
	}
}

// On HTTP/2 one bad body must not end the other requests of the connection.
func TestBadBodyOnHTTP2(t *testing.T) {
	g := newGateway(t, func(c *Config) { c.Limits.Message = 1000 })
	h2 := new(http.Protocols)
	h2.SetUnencryptedHTTP2(true)
	srv := &http.Server{Handler: g.Config.Handler, Protocols: h2}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	defer func() {
		srv.Close()
		<-served
	}()
	transport := &http.Transport{Protocols: h2}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	send := func(body io.Reader) (int, string) {
		res, err := client.Post("http://"+l.Addr().String()+"/v1/msgs/t/v1", "", body)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		return res.StatusCode, string(b)
	}
	if status, body := send(strings.NewReader(strings.Repeat("x", 1001))); status != 413 {
		t.Errorf("%d %s", status, body)
	}
	if status, body := send(chunked(strings.Repeat("x", 1001))); status != 413 {
		t.Errorf("%d %s", status, body)
	}
	if status, body := send(strings.NewReader("good")); status != 201 {
		t.Errorf("%d %s", status, body)
	}

	// A request that is reset after all its announced bytes, but before its end, stores nothing.
	ctx, cancel := context.WithCancel(context.Background())
	reached := make(chan struct{})
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+l.Addr().String()+"/v1/msgs/reset/v1",
		io.MultiReader(strings.NewReader("bad"), readerFunc(func([]byte) (int, error) {
			close(reached)
			<-ctx.Done()
			return 0, ctx.Err()
		})))
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = 3
	go func() {
		<-reached
		cancel()
	}()
	if res, err := client.Do(req); err == nil {
		res.Body.Close()
		t.Errorf("a reset request was answered %d", res.StatusCode)
	}
	if got := g.stored(t, "default.reset.v1"); len(got) > 0 {
		t.Errorf("a reset request stored %q", shows(got))
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// A bomb of 10 MB that would be 10 GB must cost little memory, single or in a batch, by each encoding.
func TestBombs(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a second or two")
	}
	gzipBomb := bytes.Repeat([]byte(gz(t, strings.Repeat("\x00", 10<<20))), 1000) // members, 10 KB each
	zstdBomb := bytes.Repeat([]byte(zst(t, strings.Repeat("\x00", 10<<20), true)), 10_000)
	for name, bomb := range map[string][]byte{"gzip": gzipBomb, "zstd": zstdBomb} {
		bomb = bomb[:min(len(bomb), 10<<20)]
		for _, query := range []string{"", "?batch=lines", "?batch=frames"} {
			t.Run(name+query, func(t *testing.T) {
				g := newGateway(t, nil)
				debug.FreeOSMemory()
				before := memory(t, "VmRSS:")
				if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil { // VmHWM starts anew
					t.Skip("needs /proc/self/clear_refs: ", err)
				}
				for range 3 {
					a := g.post(t, "/v1/msgs/t/v1"+query, bytes.NewReader(bomb), "Content-Encoding: "+name)
					if a.status != 413 {
						t.Errorf("%d %s", a.status, a.body)
					}
				}
				grown := memory(t, "VmHWM:") - before
				t.Logf("%d MB more memory", grown>>20)
				if grown > 32<<20 && !raceDetector(t) { // which needs memory of its own
					t.Errorf("%d MB more memory", grown>>20)
				}
			})
		}
	}
}

// raceDetector reports whether this test runs with it.
func raceDetector(t *testing.T) bool {
	t.Helper()
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// memory is a line of the process's status, in bytes.
func memory(t *testing.T, name string) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip("needs /proc: ", err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			kb, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			return kb << 10
		}
	}
	t.Skip("no " + name)
	return 0
}

func TestBuffersFit(t *testing.T) {
	b := newBuffers(1<<20+1, 16<<20+1)
	for _, n := range []int{0, 1, minPooled - 1, minPooled, minPooled + 1, 1 << 20, 1<<20 + 1, 16 << 20, 16<<20 + 1, 20 << 20} {
		buf := b.get(n)
		if len(buf) != 0 || cap(buf) < n || buf == nil {
			t.Errorf("get(%d): %d of %d", n, len(buf), cap(buf))
		}
		b.put(buf)
	}
	small := b.get(100)
	if cap(small) > 112 {
		t.Errorf("100 bytes got %d", cap(small))
	}
	for grown := b.get(minPooled); cap(grown) < 16<<20; {
		before := cap(grown)
		grown = b.grow(append(grown[:0], "kept"...), 16<<20+1)
		if string(grown) != "kept" || cap(grown) < 2*before && cap(grown) < 16<<20+1 {
			t.Fatalf("grew from %d to %d with %q", before, cap(grown), grown)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(uint8(gzipped), []byte(gz(f, "hello")))
	f.Add(uint8(zstandard), []byte(zst(f, "hello", false)))
	f.Add(uint8(zstandard), []byte(zst(f, strings.Repeat("x", 3000), true)))
	f.Add(uint8(gzipped), []byte(gz(f, strings.Repeat("x", 3000))))
	h := &Handler{buffers: newBuffers(1001), decoders: newDecoders()}
	f.Fuzz(func(t *testing.T, enc uint8, src []byte) {
		r := &http.Request{Body: io.NopCloser(bytes.NewReader(src)), ContentLength: int64(len(src))}
		out, err := h.readEncoded(r, encoding(1+enc%2), 1000)
		if err == nil && (out == nil || len(out) > 1000) {
			t.Fatalf("%d bytes", len(out))
		}
		h.buffers.put(out)
	})
}
