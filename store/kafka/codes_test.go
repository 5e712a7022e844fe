package kafka

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// everyCode is each error code that the client knows, and one that it does not.
func everyCode() []int16 {
	codes := []int16{-1, 9999}
	for code := int16(1); code < 500; code++ {
		if kerr.TypedErrorForCode(code) != nil && kerr.TypedErrorForCode(code).Code == code {
			codes = append(codes, code)
		}
	}
	return codes
}

// refuseOnce makes the cluster answer one publish with the code, without storing it.
func refuseOnce(c *kfake.Cluster, code int16) (done *atomic.Bool) {
	done = new(atomic.Bool)
	c.ControlKey(keyProduce, func(r kmsg.Request) (kmsg.Response, error, bool) {
		done.Store(true)
		return refusal(r.(*kmsg.ProduceRequest), code), nil, true
	})
	return done
}

// TestEveryCodeOnce: a broker answers a publish once with each code that there is, then it works. Either the client tries
// again, and it is stored, or the answer says what the table has for the code; a code that the table does not know is
// Uncertain.
func TestEveryCodeOnce(t *testing.T) {
	codes := everyCode()
	if len(codes) < 130 {
		t.Fatalf("%d codes", len(codes))
	}
	var wg sync.WaitGroup
	var tried, through atomic.Int32
	turn := make(chan struct{}, 8)
	for _, code := range codes {
		turn <- struct{}{}
		wg.Go(func() {
			defer func() { <-turn }()
			cluster := fake(t, kfake.NumBrokers(1), kfake.SeedTopics(1, "t"))
			done := refuseOnce(cluster, code)
			s := open(t, Config{Brokers: cluster.ListenAddrs(), SendTimeout: 3 * time.Second, AnswerTimeout: 5 * time.Second})
			m := &store.Message{Value: []byte("v")}
			err := s.Publish(t.Context(), "t", store.AckAll, m)
			ends, endErr := s.Resolve(t.Context(), "t", store.Start{Newest: true})
			if endErr != nil {
				t.Fatal(endErr)
			}
			stored := ends[0].Next
			name := fmt.Sprint(code)
			if e := kerr.TypedErrorForCode(code); e != nil {
				name = e.Message
			}
			tried.Add(1)
			switch want := publishKind(kerr.TypedErrorForCode(code)); {
			case !done.Load():
				t.Errorf("%s: it was not answered so", name)
			case code == kerr.DuplicateSequenceNumber.Code: // the broker says that it has it
				if err != nil {
					t.Errorf("%s: %v", name, err)
				}
			case err == nil && stored != 1:
				t.Errorf("%s: confirmed, and %d stored", name, stored)
			case err == nil:
				through.Add(1)
			case errs.Of(err) != want:
				t.Errorf("%s: %v, want %s", name, err, want.Code())
			case want != errs.Uncertain && stored != 0:
				t.Errorf("%s: %s, and stored", name, want.Code())
			}
		})
	}
	wg.Wait()
	if n := through.Load(); n == 0 || n == tried.Load() {
		t.Errorf("%d of %d codes were tried again", n, tried.Load())
	}
}
