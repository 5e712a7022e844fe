package kafka

import (
	"context"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// TestPatience: a patient publish outlasts the store's own times, and is stored once.
func TestPatience(t *testing.T) {
	for _, c := range []struct {
		name     string
		patience store.Patience
		refuse   int16 // 0: no answer
		want     errs.Kind
	}{
		{"nobody is patient: refused", 0, kerr.NotEnoughReplicas.Code, errs.Unavailable},
		{"who sends is patient", store.PatientSend, kerr.NotEnoughReplicas.Code, errs.Internal},
		{"who sends is patient, in doubt", store.PatientSend, kerr.NotEnoughReplicasAfterAppend.Code, errs.Internal},
		{"who waits for the answer does not go on sending", store.PatientAnswer, kerr.NotEnoughReplicas.Code, errs.Unavailable},
		{"nobody is patient: no answer", 0, 0, errs.Uncertain},
		{"who waits is patient", store.PatientAnswer, 0, errs.Internal},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cluster := fake(t, kfake.NumBrokers(1), kfake.SeedTopics(1, "t"))
			s := open(t, Config{Brokers: cluster.ListenAddrs(), SendTimeout: time.Second, AnswerTimeout: 2 * time.Second})
			begun := time.Now()
			cluster.ControlKey(keyProduce, func(r kmsg.Request) (kmsg.Response, error, bool) {
				if time.Since(begun) > 3*time.Second {
					return nil, nil, false
				}
				cluster.KeepControl()
				if c.refuse == 0 {
					cluster.SleepControl(func() { time.Sleep(time.Until(begun.Add(3100 * time.Millisecond))) }) //nolint:forbidigo // a broker that is slow
					return nil, nil, false
				}
				return refusal(r.(*kmsg.ProduceRequest), c.refuse), nil, true
			})
			ctx := context.Background()
			if c.patience != 0 {
				ctx = store.WithPatience(ctx, c.patience)
			}
			err := s.Publish(ctx, "t", store.AckAll, &store.Message{Value: []byte("v")})
			if c.want == errs.Internal {
				ends, endErr := s.Resolve(t.Context(), "t", store.Start{Newest: true})
				if err != nil || endErr != nil || ends[0].Next != 1 {
					t.Errorf("%v; %v, %v", err, ends, endErr)
				}
			} else if errs.Of(err) != c.want {
				t.Errorf("%v, want %s", err, c.want.Code())
			}
		})
	}
}
