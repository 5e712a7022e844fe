package faults

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"golang.org/x/sys/unix"

	"github.com/kateway/kateway/internal/testkit"
	"github.com/kateway/kateway/test/storm"
)

// open opens a stream of a group at a gateway from a machine of its own, and reads nothing but its head.
func (c *chaos) open(g *gateway, p *storm.Party, i int) (net.Conn, error) {
	conn, err := testkit.DialIn(fmt.Sprintf("/proc/%d/ns/net", c.far.pid), g.ip+":"+pubPort, 10*time.Second)
	if err != nil {
		return nil, err
	}
	_ = conn.(*net.TCPConn).SetReadBuffer(4096)
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	m := &storm.Member{Storm: c.storm, Party: p}
	accept := []string{"text/event-stream", "application/x-ndjson"}[i%2]
	_, err = fmt.Fprintf(conn, "GET /v1/stream/%s/%s/v1%s&prefetch=20 HTTP/1.1\r\nHost: %s\r\nAppid: %s\r\nAccept: %s\r\n\r\n", c.storm.App, c.storm.Topic, m.Query(), g.ip, c.storm.App, accept)
	if err == nil {
		var line string
		if line, err = bufio.NewReaderSize(conn, 16).ReadString('\n'); err == nil && !strings.Contains(line, "200") {
			err = fmt.Errorf("a stream is answered %q", line)
		}
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// openMany opens two at each gateway, of the groups in turn, and waits until one of them has got something.
func (c *chaos) openMany() (conns []net.Conn, err error) {
	for i := range 6 {
		conn, err := c.open(c.gateways[i%3], c.storm.Groups[i/2%len(c.storm.Groups)], i)
		if err != nil {
			closeAll(conns)
			return nil, err
		}
		conns = append(conns, conn)
	}
	err = until(60*time.Second, "a stream to have messages", func() bool {
		for _, conn := range conns {
			if unread(conn) > 0 {
				return true
			}
		}
		return false
	})
	if err != nil {
		closeAll(conns)
	}
	return conns, err
}

func closeAll(conns []net.Conn) {
	for _, conn := range conns {
		conn.Close()
	}
}

// unread is how many bytes have come that nobody has read.
func unread(conn net.Conn) (n int) {
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err == nil {
		_ = raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	}
	return n
}

// vanish has clients go without a word: nothing of theirs arrives any more, not even the end of their connections.
func (c *chaos) vanish() error {
	conns, err := c.openMany()
	if err != nil {
		return err
	}
	var gateways []*host
	for _, g := range c.gateways {
		gateways = append(gateways, g.host)
	}
	err = c.apart([]*host{c.far}, gateways, true)
	closeAll(conns)
	return err
}

func (c *chaos) slowReaders() error {
	conns, err := c.openMany()
	if err != nil {
		return err
	}
	c.hold(10, 20)
	closeAll(conns)
	return nil
}

// cutAnswers has members whose answers are cut somewhere in the midst.
func (c *chaos) cutAnswers() error {
	var crew storm.Crew
	ctx := crew.Life(c.t)
	var cutters []*storm.Cutter
	for i, kind := range []string{"lines", "stream", "sse", "ws"} {
		cutter := &storm.Cutter{Before: func() {}}
		p := c.storm.Groups[i%len(c.storm.Groups)]
		m := &storm.Member{Storm: c.storm, Party: p, R: c.storm.Random(fmt.Sprint("cut", c.count, i)), Habit: storm.Habit{Name: fmt.Sprint("cut", c.count, kind), Kind: kind, Batch: 3, Wait: "1s", Stay: 5 * time.Second}}
		m.HTTP, m.Dial = cutter.Client(c.t), cutter.Dial
		after := c.r.IntN(300)
		crew.Wg.Go(func() {
			for n := 0; n < 20 && ctx.Err() == nil; n++ {
				cutter.Set(after + n*97)
				m.Once(ctx)
			}
		})
		cutters = append(cutters, cutter)
	}
	c.hold(10, 15)
	crew.End()
	for _, cutter := range cutters {
		if cutter.Cuts > 0 {
			return nil
		}
	}
	return fmt.Errorf("no answer was cut")
}

func (c *chaos) joinAndLeave() error {
	var crew storm.Crew
	from := c.storm.H.Len()
	for i, kind := range storm.Kinds(true) {
		for _, p := range c.storm.Groups {
			c.storm.Join(&crew, p, storm.Habit{Name: fmt.Sprint("guest", c.count, kind, i), Kind: kind, Stay: 2 * time.Second, Rotate: true})
		}
	}
	c.hold(12, 20)
	crew.End()
	if n := c.storm.H.Len() - from; n < 20 {
		return fmt.Errorf("only %d records meanwhile", n)
	}
	return nil
}

// fullDisk takes all room from a gateway whose brokers are away: it can spool nothing either.
func (c *chaos) fullDisk() error {
	g := c.gateway()
	for _, b := range c.brokers {
		if err := g.drop(b); err != nil {
			return err
		}
	}
	err := c.fill(g)
	for _, b := range c.brokers {
		if e := g.pass(b); e != nil && err == nil {
			err = e
		}
	}
	return err
}

func (c *chaos) fill(g *gateway) error {
	name := filepath.Join(g.dir, "filler")
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer os.Remove(name)
	defer f.Close()
	block := make([]byte, 64<<10)
	full := func() error {
		for size := len(block); ; {
			if _, err := f.Write(block[:size]); err != nil && size == 1 {
				return err
			} else if err != nil {
				size /= 2
			}
		}
	}
	for range 10 + c.r.IntN(10) { // the gateway gives back what it kept for such a time, and that is taken too
		if err := full(); !errors.Is(err, syscall.ENOSPC) {
			return fmt.Errorf("the disk is not full: %w", err)
		}
		c.storm.Blow(time.Second)
	}
	return nil
}

// grow gives the topic one more partition.
func (c *chaos) grow() error {
	ctx, cancel := c.ctx()
	defer cancel()
	before, err := c.partitions(ctx)
	if err != nil {
		return err
	}
	body := fmt.Sprintf(`{"partitions":%d}`, before+1)
	a, err := c.gateway().web.Exchange(ctx, http.MethodPatch, "/v1/topics/"+c.storm.App+"/"+c.storm.Topic+"/v1", strings.NewReader(body), "Content-Type", "application/json")
	if err != nil || a.StatusCode >= 300 {
		return fmt.Errorf("%v, %w", a, err)
	}
	return until(60*time.Second, "the topic to have one partition more", func() bool {
		now, err := c.partitions(ctx)
		return err == nil && now == before+1
	})
}

// retention takes messages away before a group has read them: it goes on behind them.
func (c *chaos) retention() error {
	c.count++
	topic := fmt.Sprint("old-", c.count)
	if err := c.topic(topic, 1); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 120*time.Second)
	defer cancel()
	g := c.gateway()
	web := &storm.Client{HTTP: g.web.HTTP, Base: g.door().Base, App: app}
	lines := strings.Repeat("x\n", 100)
	err := until(60*time.Second, "100 messages to be stored", func() bool {
		a, err := web.Exchange(ctx, http.MethodPost, "/v1/msgs/"+topic+"/v1?batch=lines", strings.NewReader(lines))
		return err == nil && a.StatusCode == http.StatusCreated
	})
	if err != nil {
		return err
	}
	next := func() (offset int64, ok bool) {
		a, err := web.Exchange(ctx, http.MethodGet, "/v1/msgs/"+app+"/"+topic+"/v1?group=late&wait=1s", nil, "Accept", "application/x-ndjson")
		var m struct{ Offset int64 }
		return m.Offset, err == nil && a.StatusCode == http.StatusOK && json.Unmarshal(a.Bytes, &m) == nil && func() bool { offset = m.Offset; return true }()
	}
	if err := until(60*time.Second, "the first message", func() bool { _, ok := next(); return ok }); err != nil {
		return err
	}
	var to kadm.Offsets
	to.AddOffset(app+"."+topic+".v1", 0, 60, -1)
	if _, err := c.admin.DeleteRecords(ctx, to); err != nil {
		return err
	}
	starts, err := c.admin.ListStartOffsets(ctx, app+"."+topic+".v1")
	if err != nil {
		return err
	}
	if o, _ := starts.Lookup(app+"."+topic+".v1", 0); o.Offset != 60 {
		return fmt.Errorf("the topic begins at %d", o.Offset)
	}
	// What was read ahead may still come; then it goes on from where the topic begins now, to its end.
	last := int64(-1)
	return until(90*time.Second, "the group to go on to the end", func() bool {
		a, err := web.Exchange(ctx, http.MethodGet, "/v1/msgs/"+app+"/"+topic+"/v1?group=late&wait=1s&batch=100", nil, "Accept", "application/x-ndjson")
		if err != nil || a.StatusCode != http.StatusOK {
			return false
		}
		for line := range strings.Lines(string(a.Bytes)) {
			var m struct{ Offset int64 }
			if json.Unmarshal([]byte(line), &m) == nil {
				last = max(last, m.Offset)
			}
		}
		return last >= 99
	})
}
