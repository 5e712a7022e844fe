package sub

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/store"
)

// flood is an engine that always has messages at hand and forgets what it is told: what is left is this package's own
// cost.
type flood struct {
	batch  []group.Delivery
	offset int64
	settle []error
}

func newFlood(size, perBatch int) *flood {
	f := &flood{settle: make([]error, perBatch)}
	for range perBatch {
		f.batch = append(f.batch, group.Delivery{Message: &store.Message{Value: bytes.Repeat([]byte("m"), size), Time: time.Unix(1_795_000_000, 0)}})
	}
	return f
}

func (f *flood) Next(_ context.Context, most int) (group.Batch, error) {
	b := f.batch[:min(most, len(f.batch))]
	for i := range b {
		b[i].Offset, b[i].Ref = f.offset, group.Ref{Offset: f.offset, Attempt: 1}
		f.offset++
	}
	return group.Batch{Deliveries: b}, nil
}

func (f *flood) Settle(v ...group.Verb) []error { return f.settle[:len(v)] }
func (*flood) Close()                           {}

// floods opens one flood after the other.
type floods struct {
	brokenGroups
	size, perBatch int
}

func (f floods) Open(context.Context, group.Ask) (group.Session, error) {
	return newFlood(f.size, f.perBatch), nil
}

// BenchmarkStream is one stream of 100-byte messages to one client, in every form, and the floor: a bare handler that
// writes the same bytes in the same chunks. cpu-ns/op is of the whole process, so the client that drains is in both.
func BenchmarkStream(b *testing.B) {
	forms := map[string]string{"ndjson": typeJSONLines, "text": typeText, "sse": typeEvents}
	for _, perBatch := range []int{autoPrefetch, 10, 1} {
		for _, form := range []string{"ndjson", "text", "sse"} {
			h := muxOf(New(Config{
				Groups: floods{size: 100, perBatch: perBatch}, Topics: &broken{}, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
			}), slog.New(slog.DiscardHandler))
			chunk, messages := chunkOf(b, h, forms[form], perBatch)
			b.Run(fmt.Sprintf("%s/batch=%d/sub", form, perBatch), func(b *testing.B) { drain(b, h, forms[form], len(chunk)/messages) })
			b.Run(fmt.Sprintf("%s/batch=%d/floor", form, perBatch), func(b *testing.B) {
				drain(b, floor(chunk), forms[form], len(chunk)/messages)
			})
		}
	}
}

// chunkOf is what one chunk of the stream looks like.
func chunkOf(b *testing.B, h http.Handler, accept string, perBatch int) (chunk []byte, messages int) {
	b.Helper()
	sizes := &sizeOf{header: http.Header{}, after: 20}
	r, _ := http.NewRequestWithContext(b.Context(), http.MethodGet, feedPath+"?group=g", nil)
	r.Header.Set("Accept", accept)
	func() {
		defer func() { _ = recover() }() // the handler aborts when its writer fails
		h.ServeHTTP(sizes, r)
	}()
	return sizes.last, max(bytes.Count(sizes.last, []byte("mmmm\n")), bytes.Count(sizes.last, []byte("attempt")), min(perBatch, 1))
}

// sizeOf is a ResponseWriter that keeps the last of so many writes.
type sizeOf struct {
	header http.Header
	last   []byte
	after  int
}

func (s *sizeOf) Header() http.Header              { return s.header }
func (s *sizeOf) WriteHeader(int)                  {}
func (s *sizeOf) Flush()                           {}
func (s *sizeOf) SetWriteDeadline(time.Time) error { return nil }
func (s *sizeOf) Write(p []byte) (int, error) {
	if s.after--; s.after < 0 {
		return 0, errCut
	}
	s.last = bytes.Clone(p)
	return len(p), nil
}

func floor(chunk []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		for r.Context().Err() == nil {
			if _, err := w.Write(chunk); err != nil {
				return
			}
			if err := rc.Flush(); err != nil {
				return
			}
		}
	})
}

// drain reads b.N messages of so many bytes off one stream.
func drain(b *testing.B, h http.Handler, accept string, perMessage int) {
	c := serve(b, h, false)
	conn, err := net.Dial("tcp", strings.TrimPrefix(c.base, "http://"))
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET %s?group=g HTTP/1.1\r\nHost: x\r\nAccept: %s\r\n\r\n", feedPath, accept)
	buf := make([]byte, 256<<10)
	if _, err := io.ReadFull(conn, buf[:1024]); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(perMessage))
	b.ReportAllocs()
	b.ResetTimer()
	before := cpu(b)
	for left := b.N * perMessage; left > 0; {
		n, err := conn.Read(buf)
		if err != nil {
			b.Fatal(err)
		}
		left -= n
	}
	b.ReportMetric(float64(cpu(b)-before)/float64(b.N), "cpu-ns/op")
}

// cpu is what the process has used.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkIdleStream is what a silent stream costs the gateway in memory, heap and stacks, on a real group. The clients
// are bare sockets, so that little of theirs is in it. The floor is a handler that flushes and waits.
func BenchmarkIdleStream(b *testing.B) {
	w := newWorld(b, 1)
	bare := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	for _, h2 := range []bool{false, true} {
		open := idleHTTP1
		if h2 {
			open = idleHTTP2
		}
		b.Run(fmt.Sprintf("h2=%v/sub", h2), func(b *testing.B) { idle(b, w.mux, "?group=g", open) })
		b.Run(fmt.Sprintf("h2=%v/sub-explicit", h2), func(b *testing.B) { idle(b, w.mux, "?group=g&ack=explicit", open) })
		b.Run(fmt.Sprintf("h2=%v/floor", h2), func(b *testing.B) { idle(b, bare, "?group=g", open) })
	}
}

// idle opens b.N streams, at least 1,000, and reports what each weighs.
func idle(b *testing.B, h http.Handler, query string, open func(*testing.B, *client, string, int)) {
	b.Helper()
	n := max(b.N, 1000)
	c := serve(b, h, false)
	heap, stack := inUse()
	open(b, c, feedPath+query, n)
	moreHeap, moreStack := inUse()
	b.ReportMetric(float64(moreHeap-heap)/float64(n), "heap-B/stream")
	b.ReportMetric(float64(moreStack-stack)/float64(n), "stack-B/stream")
}

func idleHTTP1(b *testing.B, c *client, path string, n int) {
	b.Helper()
	buf := make([]byte, 4096)
	for range n {
		conn := dial(b, c)
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n", path)
		if _, err := conn.Read(buf); err != nil {
			b.Fatal(err)
		}
	}
}

// idleHTTP2 opens 250 streams on each connection, as many as the server allows.
func idleHTTP2(b *testing.B, c *client, path string, n int) {
	b.Helper()
	for opened := 0; opened < n; opened += 250 {
		conn := dial(b, c)
		if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
			b.Fatal(err)
		}
		framer := http2.NewFramer(conn, conn)
		must(b, framer.WriteSettings())
		var head bytes.Buffer
		enc := hpack.NewEncoder(&head)
		streams := min(250, n-opened)
		for i := range streams {
			head.Reset()
			for _, f := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "x"}, {":path", path}, {"accept", typeEvents}} {
				must(b, enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}))
			}
			must(b, framer.WriteHeaders(http2.HeadersFrameParam{
				StreamID: uint32(2*i + 1), BlockFragment: head.Bytes(), EndStream: true, EndHeaders: true,
			}))
		}
		for answered := 0; answered < streams; {
			f, err := framer.ReadFrame()
			must(b, err)
			switch f := f.(type) {
			case *http2.HeadersFrame:
				answered++
			case *http2.SettingsFrame:
				if !f.IsAck() {
					must(b, framer.WriteSettingsAck())
				}
			}
		}
	}
}

func must(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func inUse() (heap, stack int64) {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc), int64(m.StackInuse)
}

// BenchmarkPoll is polls of one message and of many, on a real group and the store in memory.
func BenchmarkPoll(b *testing.B) {
	for _, batch := range []int{1, 100, 1000} {
		b.Run(fmt.Sprint("batch=", batch), func(b *testing.B) {
			w := newWorld(b, 1)
			c := serve(b, w.mux, false)
			fill(w, b.N)
			conn, err := net.Dial("tcp", strings.TrimPrefix(c.base, "http://"))
			if err != nil {
				b.Fatal(err)
			}
			defer conn.Close()
			r := bufio.NewReader(conn)
			b.ReportAllocs()
			b.ResetTimer()
			before := cpu(b)
			for got := 0; got < b.N; {
				fmt.Fprintf(conn, "GET %s?group=g&batch=%d HTTP/1.1\r\nHost: x\r\n\r\n", topicPath, batch)
				res, err := http.ReadResponse(r, nil)
				if err != nil || res.StatusCode != 200 {
					b.Fatal(res, err)
				}
				body, err := io.ReadAll(res.Body)
				if err != nil {
					b.Fatal(err)
				}
				got += max(1, bytes.Count(body, []byte{'\n'}))
			}
			b.ReportMetric(float64(cpu(b)-before)/float64(b.N), "cpu-ns/op")
		})
	}
}

func fill(w *world, n int) {
	w.t.Helper()
	value := strings.Repeat("m", 100)
	for left := n; left > 0; left -= 1000 {
		values := make([]string, min(left, 1000))
		for i := range values {
			values[i] = value
		}
		w.publish(values...)
	}
}
