package online_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/kateway/kateway/internal/online"
)

// serve is a server whose connections are tracked; its handler publishes to the topic that the path names and answers
// when go is closed.
func serve(t *testing.T, h2 bool) (tr *online.Tracker, url string, client *http.Client, answer chan struct{}) {
	t.Helper()
	tr, answer = online.NewTracker(), make(chan struct{})
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		use := online.Of(r.Context()).Subscribed(online.Poll, "bill", "shop", r.URL.Path[1:], "v1", "g")
		defer use.Done()
		use.Count(1, 100)
		<-answer
	}))
	s.EnableHTTP2 = h2
	s.Config.ConnContext = tr.ConnContext
	s.Config.ConnState = func(c net.Conn, state http.ConnState) {
		if state == http.StateClosed || state == http.StateHijacked {
			tr.Closed(c)
		}
	}
	if h2 {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return tr, s.URL, s.Client(), answer
}

func get(t *testing.T, client *http.Client, url string) {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Error(err)
		return
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Error(err)
		return
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !is() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
		<-time.After(time.Millisecond)
	}
}

func remotes(list []online.Client) map[string]int {
	out := map[string]int{}
	for _, c := range list {
		out[c.Remote]++
	}
	return out
}

func TestBehindARealServer(t *testing.T) {
	for name, h2 := range map[string]bool{"http/1.1": false, "http/2": true} {
		t.Run(name, func(t *testing.T) {
			tr, url, client, answer := serve(t, h2)
			var wg sync.WaitGroup
			if h2 { // so that all three find the connection
				wg.Go(func() { get(t, client, url+"/zero") })
				eventually(t, "the first request is listed", func() bool { return len(tr.List()) == 1 })
			}
			for _, topic := range []string{"one", "two", "three"} {
				wg.Go(func() { get(t, client, url+"/"+topic) })
			}
			want, conns := 3, 3
			if h2 {
				want, conns = 4, 1
			}
			eventually(t, "all are listed", func() bool { return len(tr.List()) == want })
			if got := remotes(tr.List()); len(got) != conns {
				t.Errorf("%d requests on %v, want %d connections", want, got, conns)
			}
			close(answer)
			wg.Wait()
			if got := len(tr.List()); got != want && h2 {
				t.Errorf("%d are listed when all are answered and the connection is open", got)
			}
			client.CloseIdleConnections()
			eventually(t, "closed connections are no longer listed", func() bool { return len(tr.List()) == 0 })
		})
	}
}
