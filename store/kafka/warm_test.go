package kafka

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// After Warm the first publish connects to nobody, asks for no producer id and looks up no topic: that is what made it slow.
func TestWarm(t *testing.T) {
	for _, warm := range []bool{false, true} {
		c := fake(t, kfake.SeedTopics(3, "t"))
		var dials, ids atomic.Int64
		c.ControlKey(int16(kmsg.InitProducerID), func(kmsg.Request) (kmsg.Response, error, bool) {
			c.KeepControl()
			ids.Add(1)
			return nil, nil, false
		})
		s := open(t, Config{Brokers: c.ListenAddrs(), dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			dials.Add(1)
			return new(net.Dialer).DialContext(ctx, network, addr)
		}})
		if warm {
			if err := s.Warm(t.Context(), "t", "not there"); err != nil {
				t.Fatal(err)
			}
			if s.cached("t") == nil {
				t.Error("the topic was not looked up")
			}
		}
		d, n := dials.Load(), ids.Load()
		for p := range int32(3) {
			if err := s.Publish(t.Context(), "t", store.AckAll, &store.Message{Value: []byte("x"), Partition: p}); err != nil {
				t.Fatal(err)
			}
		}
		if d, n = dials.Load()-d, ids.Load()-n; warm && d+n > 0 {
			t.Errorf("after warming up three publishes made %d connections and took %d producer ids", d, n)
		} else if !warm && d*n == 0 {
			t.Errorf("without it they made %d connections and took %d producer ids; the test shows nothing", d, n)
		}
	}
}

// A cluster that is away is not waited for.
func TestWarmWithoutKafka(t *testing.T) {
	c := fake(t)
	s := open(t, Config{Brokers: c.ListenAddrs()})
	c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := s.Warm(ctx, "t"); !errors.Is(err, errs.Unavailable) {
		t.Error(err)
	}
	if ctx.Err() != nil {
		t.Error("it went on until its time was over")
	}
}
