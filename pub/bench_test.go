package pub

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/store"
)

// free is a store that costs nothing.
func free(_ context.Context, _ string, _ store.Ack, msgs ...*store.Message) error {
	for i, m := range msgs {
		m.Partition, m.Offset = 0, int64(i)
	}
	return nil
}

func benchGateway(b *testing.B) *gateway {
	return newGateway(b, func(c *Config) {
		c.Store = publisher(free)
		c.Topics = topics(func(_ context.Context, t meta.Topic) (string, error) { return "default.t.v1", nil })
	})
}

// floor reads the body and answers 201 with two headers, as little as an HTTP publish can be.
func floor(w http.ResponseWriter, r *http.Request) {
	body := make([]byte, r.ContentLength)
	if _, err := io.ReadFull(r.Body, body); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	w.Header().Set("X-Partition", "0")
	w.Header().Set("X-Offset", "42")
	w.WriteHeader(http.StatusCreated)
}

// hammer posts over one keep-alive connection with a client that costs little.
func hammer(b *testing.B, srv *httptest.Server, path, body string) {
	b.Helper()
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	request := []byte(fmt.Sprintf("POST %s HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\nAccept: */*\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body))
	answer := make([]byte, 1<<20)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := conn.Write(request); err != nil {
			b.Fatal(err)
		}
		readAnswer(b, conn, answer)
	}
}

// readAnswer reads one answer with a Content-Length.
func readAnswer(b *testing.B, conn net.Conn, buf []byte) {
	b.Helper()
	for n, need := 0, -1; need < 0 || n < need; {
		m, err := conn.Read(buf[n:])
		if err != nil {
			b.Fatal(err)
		}
		n += m
		if need >= 0 {
			continue
		}
		head, _, whole := bytes.Cut(buf[:n], []byte("\r\n\r\n"))
		if !whole {
			continue
		}
		if !bytes.HasPrefix(head, []byte("HTTP/1.1 201")) {
			b.Fatalf("%s", buf[:n])
		}
		length := 0
		if _, rest, ok := bytes.Cut(head, []byte("Content-Length: ")); ok {
			if _, err := fmt.Sscan(string(rest[:min(8, len(rest))]), &length); err != nil {
				b.Fatal(err)
			}
		}
		need = len(head) + 4 + length
	}
}

func BenchmarkSingle(b *testing.B) {
	body := strings.Repeat("x", 100)
	b.Run("floor", func(b *testing.B) {
		srv := httptest.NewServer(http.HandlerFunc(floor))
		defer srv.Close()
		hammer(b, srv, "/v1/msgs/t/v1", body)
	})
	b.Run("pub", func(b *testing.B) { hammer(b, benchGateway(b).Server, "/v1/msgs/t/v1", body) })
}

func BenchmarkLines1000(b *testing.B) {
	body := strings.Repeat(strings.Repeat("x", 100)+"\n", 1000)
	perMessage := func(b *testing.B) {
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/message")
	}
	b.Run("floor", func(b *testing.B) {
		srv := httptest.NewServer(http.HandlerFunc(floor))
		defer srv.Close()
		hammer(b, srv, "/v1/msgs/t/v1", body)
		perMessage(b)
	})
	b.Run("pub", func(b *testing.B) {
		hammer(b, benchGateway(b).Server, "/v1/msgs/t/v1?batch=lines", body)
		perMessage(b)
	})
}

// BenchmarkSplit is the cutting of a batch alone.
func BenchmarkSplit(b *testing.B) {
	h := &Handler{limits: Limits{}.withDefaults()}
	for name, c := range map[string]struct {
		format format
		body   string
	}{
		"lines":   {formatLines, strings.Repeat(strings.Repeat("x", 100)+"\n", 1000)},
		"frames":  {formatFrames, strings.Repeat("\x00\x00\x00\x64"+strings.Repeat("x", 100), 1000)},
		"array":   {formatArray, "[" + strings.Repeat(`"`+strings.Repeat("x", 100)+`",`, 999) + `"x"]`},
		"objects": {formatObjects, strings.Repeat(`{"key":"customer-1","value":"`+strings.Repeat("x", 100)+"\"}\n", 1000)},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s := h.slabs.get()
				s.body = []byte(c.body)[:len(c.body):len(c.body)]
				if err := h.split(&request{format: c.format, partition: store.AnyPartition}, s); err != nil {
					b.Fatal(err)
				}
				h.slabs.put(s)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/message")
		})
	}
}
