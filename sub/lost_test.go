package sub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// cutting is a listener whose connections write so many bytes and then break.
type cutting struct {
	net.Listener
	after int
}

func (l cutting) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &cut{Conn: c, left: l.after}, nil
}

type cut struct {
	net.Conn
	left int
}

var errCut = errors.New("the line is cut")

func (c *cut) Write(b []byte) (int, error) {
	n := min(c.left, len(b))
	c.left -= n
	written, err := c.Conn.Write(b[:n])
	if err == nil && n < len(b) {
		err = errCut
		_ = c.Close()
	}
	return written, err
}

// exchange sends a request through a line that breaks after so many bytes of the answer, and answers what arrived.
func exchange(t *testing.T, h http.Handler, after int, request string) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(h)
	_ = srv.Listener.Close()
	srv.Listener = cutting{l, after}
	srv.Start()
	defer srv.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(conn)
	return string(b)
}

var lostRequests = map[string]string{
	"raw":     "GET " + topicPath + "?group=%s&ack=%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
	"lines":   "GET " + topicPath + "?group=%s&ack=%s&batch=5 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
	"frames":  "GET " + topicPath + "?group=%s&ack=%s&batch=5 HTTP/1.1\r\nHost: x\r\nAccept: application/octet-stream\r\nConnection: close\r\n\r\n",
	"gzip":    "GET " + topicPath + "?group=%s&ack=%s&batch=5 HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n",
	"1.0":     "GET " + topicPath + "?group=%s&ack=%s HTTP/1.0\r\n\r\n",
	"chunked": "GET " + feedPath + "?group=%s&ack=%s&limit=2 HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\nConnection: close\r\n\r\n",
}

// An answer that could not be written whole acks nothing, and holds nothing up: what it carried is due at once.
func TestWhatCouldNotBeWrittenIsDueAtOnce(t *testing.T) {
	for name, request := range lostRequests {
		for _, ack := range []string{"auto", "explicit"} {
			t.Run(name+" "+ack, func(t *testing.T) {
				w := newWorld(t, 1)
				c := serve(t, w.mux, false)
				w.publish("first", "second")
				whole := exchange(t, w.mux, 1<<20, fmt.Sprintf(request, "whole", ack))
				if !strings.Contains(whole, " 200 OK\r\n") {
					t.Fatalf("%s", whole)
				}
				bodyEnds := len(whole) - 32 // lengths vary a little with the receipts
				if name == "chunked" {
					bodyEnds = strings.LastIndex(whole, "0\r\n\r\n") // from there the messages are whole
				}
				for n := 0; n < bodyEnds; n += 1 + n/40 {
					group := fmt.Sprint("cut", n)
					got := exchange(t, w.mux, n, fmt.Sprintf(request, group, ack))
					if len(got) > n {
						t.Fatalf("cut after %d bytes, %d arrived", n, len(got))
					}
					r := c.get(topicPath+"?wait=0s&group="+group).want(t, 200)
					if offset := r.Header.Get("X-Offset"); offset != "0" && ack == "explicit" || r.Header.Get("X-Attempt") != "2" && name != "chunked" {
						t.Fatalf("cut after %d of %d bytes: offset %s at attempt %s is next, want 0 at 2", n, bodyEnds, offset, r.Header.Get("X-Attempt"))
					}
				}
			})
		}
	}
}

// A client that loses an answer that we could write gets it again when the lease has ended.
func TestWhatAClientLostIsDeliveredAgain(t *testing.T) {
	w := newWorld(t, 1)
	c := serve(t, w.mux, false)
	w.publish("first", "second")
	request := "GET " + topicPath + "?group=%s&ack=explicit&lease=300ms HTTP/1.1\r\nHost: x\r\n\r\n"
	whole := len(exchange(t, w.mux, 1<<20, strings.Replace(fmt.Sprintf(request, "whole"), "Host: x\r\n", "Host: x\r\nConnection: close\r\n", 1)))
	whole -= len("Connection: close\r\n")
	var wg sync.WaitGroup
	for n := range whole {
		wg.Go(func() {
			group := fmt.Sprint("lost", n)
			conn := dial(t, c)
			fmt.Fprintf(conn, request, group)
			if _, err := io.ReadFull(conn, make([]byte, n)); err != nil {
				t.Errorf("%s: %v", group, err)
			}
			_ = conn.Close()
			if again := <-c.later(topicPath + "?wait=10s&group=" + group); again.body != "first" {
				t.Errorf("%s: %d %q, want the first message again", group, again.StatusCode, again.body)
			}
		})
	}
	wg.Wait()
}

// A client that hangs up while it waits gets nothing, so that nothing has to come back from it.
func TestAClientThatHangsUpWhileWaitingGetsNothing(t *testing.T) {
	for _, path := range []string{topicPath + "?group=g", topicPath + "?group=g&ack=explicit&batch=5", feedPath + "?group=g"} {
		for _, h2 := range []bool{false, true} {
			w := newWorld(t, 1)
			c := serve(t, w.mux, h2)
			ctx, leave := context.WithCancel(t.Context())
			go func() {
				r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+path, nil)
				if err != nil {
					return
				}
				if res, err := c.http.Do(r); err == nil {
					_, _ = io.ReadAll(res.Body)
					res.Body.Close()
				}
			}()
			awaitMetric(t, w, "kateway_group_sessions", 1)
			leave()
			awaitMetric(t, w, "kateway_group_sessions", 0)
			w.publish("a")
			if r := c.get(topicPath+"?group=g&wait=5s").want(t, 200); r.Header.Get("X-Attempt") != "1" {
				t.Errorf("%s h2=%v: attempt %s: it was delivered to nobody", path, h2, r.Header.Get("X-Attempt"))
			}
		}
	}
}
