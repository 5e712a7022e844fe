package sub

import (
	"bytes"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"
)

// BenchmarkBroadcast is one topic of 100-byte messages to many SSE clients without a group: an op is one message to one
// client. Messages come in bursts; the next when all have the last. What it costs per delivery must not grow with the
// clients. The clients are in the same process, so that what they cost is in it, too.
func BenchmarkBroadcast(b *testing.B) {
	for _, burst := range []int{1, 10, 100} {
		for _, clients := range []int{10, 100, 1000} {
			b.Run(fmt.Sprintf("burst=%d/clients=%d", burst, clients), func(b *testing.B) { fanOut(b, clients, burst) })
		}
	}
}

func fanOut(b *testing.B, clients, burst int) {
	b.Helper()
	w := newWorld(b, 3)
	c := serve(b, w.mux, false)
	var got sync.WaitGroup // messages on their way
	for range clients {
		conn := dial(b, c)
		must(b, conn.SetDeadline(time.Time{}))
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n", feedPath)
		go count(conn, &got)
	}
	awaitMetric(b, w, `kateway_sub_streams{form="sse"}`, float64(clients))
	b.ResetTimer()
	before := cpu(b)
	for sent := 0; sent < b.N; sent += clients * burst {
		got.Add(clients * burst)
		fill(w, burst)
		got.Wait()
	}
	b.StopTimer()
	ops := (b.N + clients*burst - 1) / (clients * burst) * clients * burst // whole bursts
	used := float64(cpu(b)-before) / float64(ops)
	b.ReportMetric(used, "cpu-ns/delivery")
	b.ReportMetric(1e9/used, "deliveries/core-s")
}

// count counts the events that a client gets: each has one line of data.
func count(conn net.Conn, got *sync.WaitGroup) {
	buf := make([]byte, 16<<10)
	line := []byte("\ndata: ")
	seen := 0 // of line, at the end of the last read
	for {
		n, err := conn.Read(buf[seen:])
		if err != nil {
			return
		}
		have := buf[:seen+n]
		events := bytes.Count(have, line)
		got.Add(-events)
		seen = min(len(line)-1, len(have))
		copy(buf, have[len(have)-seen:])
	}
}
