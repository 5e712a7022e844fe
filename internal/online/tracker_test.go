package online

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// socket is a connection with an address and nothing else.
type socket struct {
	net.Conn
	addr net.TCPAddr
}

func (s *socket) RemoteAddr() net.Addr { return &s.addr }

func connect(t *Tracker, port int) (*socket, *Conn) {
	s := &socket{addr: net.TCPAddr{IP: net.IPv4(10, 0, 0, 7), Port: port}}
	return s, Of(t.ConnContext(context.Background(), s))
}

func pass(d time.Duration) { <-time.After(d) }

func expect(t *testing.T, tr *Tracker, want ...Client) {
	t.Helper()
	got := tr.List()
	if !slices.Equal(got, want) {
		t.Fatalf("listed:\n%+v\nwant:\n%+v", got, want)
	}
}

func TestPublishesOfAConnectionAreOneUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := NewTracker()
		_, c := connect(tr, 51234)
		pass(time.Minute)
		began := time.Now().Round(0)
		c.Published("shop", "shop", "orders", "v1", 1, 10)
		pass(5 * time.Second)
		c.Published("shop", "shop", "orders", "v1", 3, 30)
		later := time.Now().Round(0)
		c.Published("shop", "bill", "orders", "v1", 1, 7)
		expect(t, tr,
			Client{Kind: Pub, App: "shop", Owner: "shop", Topic: "orders", Ver: "v1", Remote: "10.0.0.7:51234", Since: began, Messages: 4, Bytes: 40},
			Client{Kind: Pub, App: "shop", Owner: "bill", Topic: "orders", Ver: "v1", Remote: "10.0.0.7:51234", Since: later, Messages: 1, Bytes: 7})
	})
}

func TestListedForAMinuteAfterItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := NewTracker()
		_, c := connect(tr, 1)
		began := time.Now().Round(0)
		stream := c.Subscribed(Stream, "bill", "shop", "orders", "v1", "billing")
		pass(time.Hour)
		stream.Count(2, 20)
		want := Client{Kind: Stream, App: "bill", Owner: "shop", Topic: "orders", Ver: "v1", Group: "billing", Remote: "10.0.0.7:1", Since: began, Messages: 2, Bytes: 20}
		pass(time.Hour) // an idle stream is under way
		expect(t, tr, want)
		stream.Done()
		pass(59 * time.Second)
		expect(t, tr, want)
		pass(time.Second)
		expect(t, tr)

		stream.Done() // a second one must not make what follows look ended
		began = time.Now().Round(0)
		again := c.Subscribed(Stream, "bill", "shop", "orders", "v1", "billing")
		stream.Done()
		pass(time.Hour)
		again.Count(1, 1)
		want.Since, want.Messages, want.Bytes = began, 1, 1
		expect(t, tr, want)
	})
}

// Streams of one HTTP/2 connection that ask for the same are one use, until the last of them has ended.
func TestTheSameTwiceOnOneConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := NewTracker()
		_, c := connect(tr, 1)
		one := c.Subscribed(Poll, "bill", "shop", "orders", "v1", "g")
		two := c.Subscribed(Poll, "bill", "shop", "orders", "v1", "g")
		one.Count(1, 1)
		two.Count(2, 2)
		one.Done()
		pass(time.Hour)
		if l := tr.List(); len(l) != 1 || l[0].Messages != 3 || l[0].Bytes != 3 {
			t.Errorf("%+v", l)
		}
		two.Done()
		pass(time.Minute)
		expect(t, tr)
	})
}

// Who hijacked a connection has no more of it than its context.
func TestHijackedConnectionIsGone(t *testing.T) {
	tr := NewTracker()
	_, c := connect(tr, 51234)
	c.Published("shop", "shop", "orders", "v1", 1, 10)
	c.Closed()
	c.Closed()
	expect(t, tr)
	Of(context.Background()).Closed() // nobody tracks it
}

func TestClosedConnectionIsGone(t *testing.T) {
	tr := NewTracker()
	s, c := connect(tr, 1)
	c.Published("a", "a", "t", "v1", 1, 1)
	stream := c.Subscribed(Stream, "a", "a", "t", "v1", "g")
	_, other := connect(tr, 2)
	other.Published("a", "a", "t", "v1", 1, 1)
	tr.Closed(s)
	tr.Closed(s)
	stream.Count(1, 1) // still being written when it broke
	stream.Done()
	if l := tr.List(); len(l) != 1 || l[0].Remote != "10.0.0.7:2" {
		t.Errorf("%+v", l)
	}
	if len(tr.conns) != 1 {
		t.Errorf("%d connections are kept, one is open", len(tr.conns))
	}
}

func TestUsesPerConnectionAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := NewTracker()
		_, c := connect(tr, 1)
		stream := c.Subscribed(Stream, "a", "a", "stream", "v1", "g")
		for i := range maxUses + 10 {
			pass(time.Millisecond)
			c.Published("a", "a", fmt.Sprint("t", i), "v1", 1, 1)
			c.Published("a", "a", "t0", "v1", 1, 1) // always in use
		}
		topics := map[string]bool{}
		for _, l := range tr.List() {
			topics[l.Topic] = true
		}
		if len(topics) != maxUses || !topics["stream"] || !topics["t0"] || topics["t1"] || topics["t11"] || !topics["t12"] {
			t.Errorf("%d are listed: %v", len(topics), topics)
		}
		stream.Done()
		pass(time.Hour)
		c.Published("a", "a", "t0", "v1", 1, 1)
		if l := tr.List(); len(l) != 1 || len(*c.uses.Load()) != 1 || l[0].Messages != 1 {
			t.Errorf("after an hour %d are kept, and %+v listed", len(*c.uses.Load()), l)
		}
	})
}

// All in use at once: what is listed is bounded, and counting goes on for those that are not.
func TestMoreStreamsThanUses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tr := NewTracker()
		_, c := connect(tr, 1)
		var streams []*Use
		for i := range 2 * maxUses {
			pass(time.Millisecond)
			streams = append(streams, c.Subscribed(Stream, "a", "a", fmt.Sprint("t", i), "v1", "g"))
		}
		for _, s := range streams {
			s.Count(1, 1)
		}
		if l := tr.List(); len(l) != maxUses || l[0].Topic != fmt.Sprint("t", maxUses) {
			t.Errorf("%d are listed, the first %+v", len(l), l[0])
		}
		for _, s := range streams {
			s.Done()
		}
	})
}

func TestNobodyTracks(t *testing.T) {
	c := Of(context.Background())
	c.Published("a", "a", "t", "v1", 1, 1)
	s := c.Subscribed(Poll, "a", "a", "t", "v1", "g")
	s.Count(1, 1)
	s.Done()
	if c != nil || s != nil {
		t.Errorf("%v, %v", c, s)
	}
}

// The names come from a request's head; keeping them must not keep it.
func TestNamesAreCopied(t *testing.T) {
	tr := NewTracker()
	_, c := connect(tr, 1)
	head := []byte("shop/orders")
	w := what{app: string(head[:4]), topic: string(head[5:])}
	u := c.add(&w, 0, 0)
	if u.app != "shop" || u.topic != "orders" || u.what != w {
		t.Errorf("%+v", u.what)
	}
	if allocs := testing.AllocsPerRun(100, func() { _ = w.clone() }); allocs < 2 {
		t.Errorf("%v allocations: the names are not copies", allocs)
	}
}

func TestManyAtATime(t *testing.T) {
	tr := NewTracker()
	const each = 1000
	var wg sync.WaitGroup
	for port := range 4 {
		s, c := connect(tr, port)
		for range 4 {
			wg.Go(func() {
				for i := range each {
					c.Published("a", "a", fmt.Sprint("t", i%8), "v1", 1, 2)
					if i%100 == 0 {
						u := c.Subscribed(Poll, "a", "a", "t", "v1", "g")
						u.Count(1, 1)
						u.Done()
						_ = tr.List()
					}
				}
			})
		}
		if port == 3 {
			wg.Go(func() { tr.Closed(s) })
		}
	}
	wg.Wait()
	var messages, bytes int64
	for _, l := range tr.List() {
		messages += l.Messages
		bytes += l.Bytes
	}
	if want := int64(3 * 4 * (each + each/100)); messages != want || bytes != 3*4*(2*each+each/100) {
		t.Errorf("%d messages with %d bytes, want %d", messages, bytes, want)
	}
}

func TestCountingAPublishAllocatesNothing(t *testing.T) {
	_, c := connect(NewTracker(), 1)
	c.Published("shop", "shop", "orders", "v1", 1, 10)
	if n := testing.AllocsPerRun(1000, func() { c.Published("shop", "shop", "orders", "v1", 1, 10) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkPublished(b *testing.B) {
	for _, topics := range []int{1, 8, maxUses} {
		b.Run(fmt.Sprintf("topics=%d", topics), func(b *testing.B) {
			_, c := connect(NewTracker(), 1)
			var names []string
			for i := range topics {
				names = append(names, fmt.Sprintf("orders%02d", i))
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				c.Published("shop", "shop", names[i%topics], "v1", 1, 100)
			}
		})
	}
}

// Many requests of one HTTP/2 connection.
func BenchmarkPublishedTogether(b *testing.B) {
	_, c := connect(NewTracker(), 1)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			c.Published("shop", "shop", "orders", "v1", 1, 100)
		}
	})
}

func BenchmarkPoll(b *testing.B) {
	_, c := connect(NewTracker(), 1)
	b.ReportAllocs()
	for b.Loop() {
		u := c.Subscribed(Poll, "bill", "shop", "orders", "v1", "billing")
		u.Count(1, 100)
		u.Done()
	}
}

func BenchmarkList(b *testing.B) {
	tr := NewTracker()
	for port := range 10000 {
		_, c := connect(tr, port)
		c.Published("shop", "shop", "orders", "v1", 1, 100)
	}
	b.ReportAllocs()
	for b.Loop() {
		_ = tr.List()
	}
}
