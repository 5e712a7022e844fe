package test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/kateway/kateway/test/checker"
	"github.com/kateway/kateway/test/storm"
)

// N2. Readers that read nothing, or a byte a second, cost only themselves: the others of their group and other groups get
// everything, and the gateway's memory stays bounded. What the slow ones held is not lost.
func TestSlowReaders(t *testing.T) {
	t.Parallel()
	volume := 24 << 20
	if storm.StormTime(t, 0) > 0 {
		volume = 200 << 20
	}
	const slow = 8
	dir := t.TempDir()
	s := &site{"embedded", []string{"--data", dir, "--log-level", "info"}, appOf(t)}
	gw := s.start(t)
	st := newStorm(t, s.app, "slow", storm.DiskGround(dir), 8, 1000, gw)
	can := capabilities(t, gw, s.app)
	shared := st.Party("shared", checker.Spec{Mode: "queue", Explicit: true, MaxAttempts: 1000, Lease: 10 * time.Second})
	quick := st.Party("quick", checker.Spec{Mode: "fifo", Explicit: true, MaxAttempts: 1000})
	for i, kind := range []string{"stream", "sse", "ws", "lines"} {
		if can.read(kind) {
			st.Join(&st.Members, shared, storm.Habit{Name: fmt.Sprint(kind, i), Kind: kind, Batch: 100})
			st.Join(&st.Members, quick, storm.Habit{Name: fmt.Sprint(kind, i), Kind: kind, Batch: 100})
		}
	}
	heal := st.Fault("slow readers", "shared/slow", false)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for i := range slow {
		crawl(ctx, st, shared, i)
	}
	waitFor(t, "the slow readers", func() bool { return gw.metric("kateway_sub_streams") >= slow })
	before := gw.residentPeak()
	bulk(st, volume)
	grown := gw.residentPeak() - before
	if left, ok := st.IdleParty(quick, 2*patience); !ok {
		t.Errorf("the other group still has %s to do", left)
	}
	cancel()
	heal()
	st.Calm()
	st.Drain()
	judge(st, checker.Limits{}, gw)
	st.NoFailures()
	t.Logf("%d MiB were published beside %d slow readers; memory grew by %d MiB", volume>>20, slow, grown>>20)
	if limit := 160 << 20; grown > limit { // two windows of 32 MiB, what is on its way, and the store's own memory
		t.Errorf("memory grew by %d MiB, at most %d are allowed", grown>>20, limit>>20)
	}
}

// crawl opens a stream and reads nothing of it, or a byte a second.
func crawl(ctx context.Context, s *storm.Storm, p *storm.Party, i int) {
	s.T.Helper()
	host := hostOf(s.T, s.Door(0).Base)
	conn, err := net.Dial("tcp", host)
	if err != nil {
		s.T.Fatal(err)
	}
	if err := conn.(*net.TCPConn).SetReadBuffer(4096); err != nil {
		s.T.Fatal(err)
	}
	m := &storm.Member{Storm: s, Party: p}
	accept := []string{"text/event-stream", "application/x-ndjson"}[i/2%2]
	if _, err := fmt.Fprintf(conn, "GET /v1/stream/%s/%s/v1%s&prefetch=50 HTTP/1.1\r\nHost: %s\r\nAppid: %s\r\nAccept: %s\r\n\r\n", s.App, s.Topic, m.Query(), host, s.App, accept); err != nil {
		s.T.Fatal(err)
	}
	line, err := bufio.NewReaderSize(conn, 16).ReadString('\n')
	if err != nil || !strings.Contains(line, "200") {
		s.T.Fatalf("a slow reader is answered %q, %v", line, err)
	}
	context.AfterFunc(ctx, func() { conn.Close() })
	if i%2 == 0 {
		return
	}
	s.Load.Life(s.T)
	s.Load.Wg.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				if _, err := conn.Read(make([]byte, 1)); err != nil {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	})
}

// bulk publishes so many bytes, in batches of large messages.
func bulk(s *storm.Storm, bytes int) {
	s.T.Helper()
	p := &storm.Producer{Storm: s, N: 500_000, R: s.Random("bulk"), HTTP: storm.NewHTTP(s.T), Size: 8 << 10}
	for sent := 0; sent < bytes; sent += 50 * p.Size {
		p.Batch(s.Door(0), 50)
	}
}
