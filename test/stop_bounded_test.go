package test

import (
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
)

// A thousand clients that do nothing and a Kafka that is away do not keep a gateway from ending: one signal ends it within
// the drain limit and a second, two end it at once.
func TestStopIsBounded(t *testing.T) {
	const limit = 5 * time.Second
	for _, tt := range []struct {
		name    string
		signals int
		within  time.Duration
	}{{"one signal", 1, limit + time.Second}, {"two signals", 2, time.Second}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			kafka, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.WithLogger(kfake.BasicLogger(io.Discard, kfake.LogLevelNone)))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(kafka.Close)
			g := launch(t, "--data", t.TempDir(), "--kafka", strings.Join(kafka.ListenAddrs(), ","), "--log-level", "info", "--drain-limit", limit.String())
			g.client("a").publish("t", "", strings.Repeat("x", 100_000))
			addr := strings.TrimPrefix(g.pub, "http://")
			for i := range 1000 {
				conn, err := net.Dial("tcp", addr)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { conn.Close() })
				request := "POST /v1/msgs/t/v1 HTTP/1.1\r\nHost: " + addr + "\r\nAppid: a\r\nContent-Length: 10\r\n\r\nhalf"
				if i%2 == 0 {
					request = fmt.Sprintf("GET /v1/stream/a/t/v1?group=g%d HTTP/1.1\r\nHost: %s\r\nAppid: a\r\n\r\n", i%20, addr)
				}
				if _, err := io.WriteString(conn, request); err != nil {
					t.Fatal(err)
				}
			}
			waitFor(t, "all to be connected", func() bool { return g.metric("kateway_http_connections") >= 1000 })
			kafka.Close()
			began := time.Now()
			for range tt.signals {
				_ = g.cmd.Process.Signal(syscall.SIGTERM)
				waitFor(t, "the signal to be heard", func() bool { return strings.Contains(g.log.tail(), "signal: ") })
			}
			<-g.exited
			if took := time.Since(began); took > tt.within {
				t.Errorf("it took %v, %v at the most", took, tt.within)
			} else {
				t.Logf("it took %v: %v", took, g.err)
			}
		})
	}
}
