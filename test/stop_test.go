package test

import (
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// Stopping under 64 busy keep-alive connections: every request that was sent gets its answer, and it is a good one. A client
// leaves when it is told so (Connection: close) and then finds nobody listening; that is no failed request.
func TestStopUnderLoadFailsNoRequest(t *testing.T) {
	eachStore(t, func(t *testing.T, s *site) {
		g := s.start(t)
		var served, failed atomic.Int64
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() {
				c := g.client(s.app) // a connection of its own
				for {
					a, err := c.do("POST", "/v1/msgs/busy/v1", strings.NewReader("x"))
					switch {
					case errors.Is(err, syscall.ECONNREFUSED) && served.Load() > 0:
						return
					case err != nil:
						t.Errorf("a publish failed: %v", err)
						failed.Add(1)
						return
					case a.StatusCode != http.StatusCreated:
						t.Errorf("a publish failed: %s", a)
						failed.Add(1)
						return
					}
					served.Add(1)
					if a.Close {
						return
					}
				}
			})
		}
		waitFor(t, "every connection to be busy", func() bool { return served.Load() > 64*5 })
		g.stop()
		wg.Wait()
		t.Logf("%d publishes served, %d failed", served.Load(), failed.Load())
	})
}

func TestStopEndsStreamsProperly(t *testing.T) {
	eachStore(t, func(t *testing.T, s *site) {
		g := s.start(t)
		c := g.client(s.app)
		c.publish("log", "k", "one")
		st := c.stream("log", "")
		if m := st.next(); m.text() != "one" {
			t.Fatalf("got %+v", m)
		}
		begun := time.Now()
		g.stop()
		if err := st.ended(); err != nil {
			t.Errorf("the stream was cut: %v", err)
		}
		t.Logf("stopped in %v", time.Since(begun).Round(time.Millisecond))
	})
}
