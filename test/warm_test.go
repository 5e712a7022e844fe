package test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// The first thousand publishes after a start are as fast as later ones: what they need was made ready before. The bound is wide,
// for a busy machine, and far below what connecting, finding a topic or compiling in the midst of requests would cost.
func TestFirstRequestsAreFast(t *testing.T) {
	for name, flags := range map[string][]string{"embedded": nil, "kafka": {"--kafka", brokers(t)}} {
		t.Run(name, func(t *testing.T) {
			s := &site{name, append([]string{"--data", t.TempDir()}, flags...), appOf(t)}
			g := s.start(t)
			g.client(s.app).publish("orders", "k", "so that there is the topic")
			g.stop()
			c := s.start(t).client(s.app)
			const n = 1000
			took := make([]time.Duration, 3*n)
			for i := range took {
				began := time.Now()
				c.want(http.StatusCreated, "POST", fmt.Sprint("/v1/msgs/orders/v1?key=", i), strings.NewReader("value"))
				took[i] = time.Since(began)
			}
			p99 := func(list []time.Duration) time.Duration {
				list = slices.Sorted(slices.Values(list))
				return list[len(list)*99/100]
			}
			first, later := p99(took[:n]), p99(took[n:])
			t.Logf("99 %% of the first %d within %v, of the next %d within %v; the first took %v", n, first, 2*n, later, took[0])
			if first > 5*later+20*time.Millisecond {
				t.Errorf("99 %% of the first %d took up to %v, of the others %v", n, first, later)
			}
		})
	}
}
