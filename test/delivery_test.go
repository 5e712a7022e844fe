package test

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestStreamBringsWhatIsPublished(t *testing.T) {
	eachStore(t, func(t *testing.T, s *site) {
		c := s.start(t).client(s.app)
		first := c.publish("orders", "k", "before")
		st := c.stream("orders", "")
		for i, want := range []string{"before", "one", "two", "three"} {
			at := first
			if i > 0 {
				at = c.publish("orders", "k", want)
			}
			m := st.next()
			if m.text() != want || m.placed != at || m.Key != "k" || m.Attempt != 1 {
				t.Fatalf("%+v; want %q at %+v", m, want, at)
			}
		}
	})
}

func TestPollBringsTheMessageAsItWas(t *testing.T) {
	eachStore(t, func(t *testing.T, s *site) {
		c := s.start(t).client(s.app)
		body := "\x00\xff any bytes \r\n"
		c.want(http.StatusCreated, "POST", "/v1/msgs/raw/v1?key=a%20%E2%82%AC", strings.NewReader(body),
			"Content-Type", "application/vnd.acme", "X-Msg-Trace", "t-1", "X-Tag", "red;blue", "ce-id", "7")
		a := c.want(http.StatusOK, "GET", "/v1/msgs/"+c.topicOf("raw")+"?group=g&ack=explicit", nil)
		if string(a.body) != body {
			t.Errorf("body %q", a.body)
		}
		for name, want := range map[string]string{
			"Content-Type": "application/vnd.acme", "X-Key": "a %E2%82%AC", "X-Msg-Trace": "t-1", "X-Tag": "red;blue",
			"Ce-Id": "7", "X-Attempt": "1", "X-Offset": "0", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff",
		} {
			if got := a.Header.Get(name); got != want {
				t.Errorf("%s: %q; want %q", name, got, want)
			}
		}
		ack := "/v1/msgs/" + c.topicOf("raw") + "?group=g&op=ack"
		c.want(http.StatusOK, "PUT", ack, nil, "X-Receipt", a.Header.Get("X-Receipt"))
		c.want(http.StatusNoContent, "GET", "/v1/msgs/"+c.topicOf("raw")+"?group=g&wait=100ms&ack=explicit", nil)
	})
}

func TestUnackedComesAgainAfterItsLease(t *testing.T) {
	eachStore(t, func(t *testing.T, s *site) {
		c := s.start(t).client(s.app)
		c.publish("jobs", "k", "work")
		const query = "&ack=explicit&lease=2s"
		begun := time.Now()
		first := c.pollUntil(1, "jobs", query)[0]
		second := c.pollUntil(1, "jobs", query)[0]
		if took := time.Since(begun); took < 2*time.Second {
			t.Errorf("delivered again after %v, inside the lease", took)
		}
		if first.Attempt != 1 || second.Attempt != 2 || first.placed != second.placed {
			t.Errorf("first %+v, then %+v", first, second)
		}
		if a := c.settle("jobs", "ack", first); a.StatusCode != http.StatusConflict || !strings.Contains(string(a.body), `"fenced"`) {
			t.Errorf("ack with the receipt of the delivery that ran out: %s", a)
		}
		if a := c.settle("jobs", "ack", second); a.StatusCode != http.StatusOK {
			t.Errorf("ack: %s", a)
		}
		if again := c.poll("jobs", query+"&wait=3s"); len(again) > 0 {
			t.Errorf("delivered after its ack: %+v", again)
		}
	})
}

func TestNackedComesAgainAtOnce(t *testing.T) {
	eachStore(t, func(t *testing.T, s *site) {
		c := s.start(t).client(s.app)
		c.publish("jobs", "k", "work")
		first := c.pollUntil(1, "jobs", "&ack=explicit&lease=5m")[0]
		if a := c.settle("jobs", "nack", first); a.StatusCode != http.StatusOK {
			t.Fatalf("nack: %s", a)
		}
		if m := c.pollUntil(1, "jobs", "&ack=explicit&lease=5m")[0]; m.Attempt != 2 || m.placed != first.placed {
			t.Errorf("after the nack: %+v", m)
		}
	})
}

// A client that goes away in the middle of an answer has not read it. With explicit ack nothing of that may be lost.
func TestLostResponseIsDeliveredAgain(t *testing.T) {
	eachStore(t, func(t *testing.T, s *site) {
		g := s.start(t)
		c := g.client(s.app)
		const n = 20
		for i := range n {
			c.publish("lost", "k", fmt.Sprint("m", i))
		}
		for _, read := range []int{700, 100, 1, 0} { // what has failed twice comes alone
			hangUpAfter(t, g, read, "GET /v1/msgs/"+c.topicOf("lost")+"?group=g&ack=explicit&lease=1s&batch=20&wait=10s HTTP/1.1\r\nAppid: "+s.app)
		}
		hangUpAfter(t, g, 300, "GET /v1/stream/"+c.topicOf("lost")+"?group=g&ack=explicit&lease=5m HTTP/1.1\r\nAppid: "+s.app)
		seen := map[string]bool{}
		for deadline := time.Now().Add(patience); len(seen) < n; {
			if time.Now().After(deadline) {
				t.Fatalf("%d of %d messages came again", len(seen), n)
			}
			got := c.poll("lost", "&ack=explicit&lease=30s&batch=20&wait=2s")
			for _, m := range got {
				if m.Attempt < 2 {
					t.Errorf("%s: attempt %d, though it was delivered before", m.text(), m.Attempt)
				}
				seen[m.text()] = true
			}
			if len(got) > 0 {
				c.settle("lost", "ack", got...)
			}
		}
	})
}

// hangUpAfter sends the request, reads so many bytes of the answer and resets the connection.
func hangUpAfter(t *testing.T, g *gateway, n int, request string) {
	t.Helper()
	host := hostOf(t, g.pub)
	conn, err := net.Dial("tcp", host)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.(*net.TCPConn).SetLinger(0); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(conn, "%s\r\nHost: %s\r\n\r\n", request, host); err != nil {
		t.Fatal(err)
	}
	for got := 0; got < n; {
		k, err := conn.Read(make([]byte, n-got))
		if err != nil {
			t.Fatalf("after %d bytes: %v", got, err)
		}
		got += k
	}
}

func TestTwoGroupsEachGetEverything(t *testing.T) {
	eachStore(t, func(t *testing.T, s *site) {
		c := s.start(t).client(s.app)
		for i := range 5 {
			c.publish("all", "k", fmt.Sprint(i))
		}
		for _, group := range []string{"a", "b"} {
			for i := range 5 {
				a := c.want(http.StatusOK, "GET", "/v1/msgs/"+c.topicOf("all")+"?group="+group, nil)
				if string(a.body) != fmt.Sprint(i) {
					t.Errorf("group %s: %q; want %d", group, a.body, i)
				}
			}
		}
	})
}
