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
)

// N2. Readers that read nothing, or a byte a second, cost only themselves: the others of their group and other groups get
// everything, and the gateway's memory stays bounded. What the slow ones held is not lost.
func TestSlowReaders(t *testing.T) {
	t.Parallel()
	volume := 24 << 20
	if stormTime(t, 0) > 0 {
		volume = 200 << 20
	}
	const slow = 8
	dir := t.TempDir()
	s := &site{"embedded", []string{"--data", dir, "--log-level", "info"}, appOf(t)}
	gw := s.start(t)
	st := newStorm(t, s.app, "slow", diskGround(dir), 8, 1000, gw)
	can := capabilities(t, gw, s.app)
	shared := st.party("shared", checker.Spec{Mode: "queue", Explicit: true, MaxAttempts: 1000, Lease: 10 * time.Second})
	quick := st.party("quick", checker.Spec{Mode: "fifo", Explicit: true, MaxAttempts: 1000})
	for i, kind := range []string{"stream", "sse", "ws", "lines"} {
		if can.read(kind) {
			st.join(&st.members, shared, habit{name: fmt.Sprint(kind, i), kind: kind, batch: 100})
			st.join(&st.members, quick, habit{name: fmt.Sprint(kind, i), kind: kind, batch: 100})
		}
	}
	heal := st.fault("slow readers", "shared/slow", false)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for i := range slow {
		st.crawl(ctx, shared, i)
	}
	waitFor(t, "the slow readers", func() bool { return gw.metric("kateway_sub_streams") >= slow })
	before := gw.residentPeak()
	st.bulk(volume)
	grown := gw.residentPeak() - before
	if left, ok := st.idleParty(quick, 2*patience); !ok {
		t.Errorf("the other group still has %s to do", left)
	}
	cancel()
	heal()
	st.calm()
	st.drain()
	st.judge(checker.Limits{}, gw)
	st.noFailures()
	t.Logf("%d MiB were published beside %d slow readers; memory grew by %d MiB", volume>>20, slow, grown>>20)
	if limit := 160 << 20; grown > limit { // two windows of 32 MiB, what is on its way, and the store's own memory
		t.Errorf("memory grew by %d MiB, at most %d are allowed", grown>>20, limit>>20)
	}
}

// crawl opens a stream and reads nothing of it, or a byte a second.
func (s *storm) crawl(ctx context.Context, p *party, i int) {
	s.t.Helper()
	host := hostOf(s.t, s.door(0).base)
	conn, err := net.Dial("tcp", host)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).SetReadBuffer(4096); err != nil {
		s.t.Fatal(err)
	}
	m := &member{storm: s, party: p}
	accept := []string{"text/event-stream", "application/x-ndjson"}[i/2%2]
	if _, err := fmt.Fprintf(conn, "GET /v1/stream/%s/%s/v1%s&prefetch=50 HTTP/1.1\r\nHost: %s\r\nAppid: %s\r\nAccept: %s\r\n\r\n", s.app, s.topic, m.query(), host, s.app, accept); err != nil {
		s.t.Fatal(err)
	}
	line, err := bufio.NewReaderSize(conn, 16).ReadString('\n')
	if err != nil || !strings.Contains(line, "200") {
		s.t.Fatalf("a slow reader is answered %q, %v", line, err)
	}
	context.AfterFunc(ctx, func() { conn.Close() })
	if i%2 == 0 {
		return
	}
	s.load.life(s.t)
	s.load.wg.Go(func() {
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
func (s *storm) bulk(bytes int) {
	s.t.Helper()
	p := &producer{storm: s, n: 500_000, r: s.random("bulk"), http: newHTTP(s.t), size: 8 << 10}
	for sent := 0; sent < bytes; sent += 50 * p.size {
		p.batch(s.door(0), 50)
	}
}
