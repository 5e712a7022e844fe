package gateway

import (
	"context"
	"io"
	"net/http"
	"testing"

	"github.com/kateway/kateway/store"
	"github.com/kateway/kateway/store/mem"
)

// heir is a successor in this process, whose answers say so.
type heir struct{ given chan string }

func (h heir) Give(owned string) error {
	h.given <- owned
	return nil
}

func (heir) Serve() (func(Role) http.Handler, error) {
	return func(r Role) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "next "+string(r)) })
	}, nil
}

// crowded is a store whose groups take for ever to join.
type crowded struct {
	*mem.Store
	joining chan struct{}
}

func (c crowded) Subscribe(ctx context.Context, _ store.Spec) (store.Feed, error) {
	close(c.joining)
	<-ctx.Done()
	return nil, ctx.Err()
}

// A stream that waits to join its group when the gateway hands over is opened by the next one.
func TestSwapPassesOnWhatHasNotBegun(t *testing.T) {
	s := crowded{mem.New(), make(chan struct{})}
	g := startOn(t, s, func(c *Config) { c.DrainGrace = 0 })
	if resp, err := g.client.Post(g.url(Pub)+"/v1/msgs/t/v1", "", http.NoBody); err != nil || resp.StatusCode != http.StatusCreated {
		t.Fatal(resp, err)
	} else {
		_ = resp.Body.Close()
	}
	answers := make(chan string)
	go func() {
		resp, err := g.client.Get(g.url(Sub) + "/v1/stream/default/t/v1?group=g")
		if err != nil {
			answers <- err.Error()
			return
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		answers <- resp.Status + " " + string(b)
	}()
	<-s.joining
	if err := g.HandOver(heir{make(chan string, 2)}); err != nil {
		t.Fatal(err)
	}
	if got := <-answers; got != "200 OK next pub" && got != "200 OK next sub" {
		t.Errorf("it is answered %q", got)
	}
}
