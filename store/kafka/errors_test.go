package kafka

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// refuse makes the cluster answer every publish with the code, without storing it.
func refuse(c *kfake.Cluster, code int16) {
	c.ControlKey(keyProduce, func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		return refusal(r.(*kmsg.ProduceRequest), code), nil, true
	})
}

// refusal answers the code for each partition.
func refusal(req *kmsg.ProduceRequest, code int16) *kmsg.ProduceResponse {
	resp := req.ResponseKind().(*kmsg.ProduceResponse)
	for _, t := range req.Topics {
		rt := kmsg.NewProduceResponseTopic()
		rt.Topic, rt.TopicID = t.Topic, t.TopicID
		for _, p := range t.Partitions {
			rp := kmsg.NewProduceResponseTopicPartition()
			rp.Partition, rp.ErrorCode, rp.BaseOffset = p.Partition, code, -1
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp
}

// TestBrokerCodes: what each answer of a broker to a publish comes to, through the client with its retries.
func TestBrokerCodes(t *testing.T) {
	var wg sync.WaitGroup
	for _, c := range []struct {
		answer *kerr.Error
		want   errs.Kind
	}{
		{kerr.MessageTooLarge, errs.TooLarge},
		{kerr.RecordListTooLarge, errs.TooLarge},
		{kerr.UnknownTopicOrPartition, errs.UnknownTopic},
		{kerr.UnknownTopicID, errs.UnknownTopic},
		{kerr.InvalidTopicException, errs.UnknownTopic},
		{kerr.InvalidRecord, errs.InvalidParam},
		{kerr.InvalidTimestamp, errs.InvalidParam},
		{kerr.LeaderNotAvailable, errs.Unavailable},
		{kerr.NotLeaderForPartition, errs.Unavailable},
		{kerr.FencedLeaderEpoch, errs.Unavailable},
		{kerr.UnknownLeaderEpoch, errs.Unavailable},
		{kerr.BrokerNotAvailable, errs.Unavailable},
		{kerr.ReplicaNotAvailable, errs.Unavailable},
		{kerr.NotEnoughReplicas, errs.Unavailable},
		{kerr.CorruptMessage, errs.Unavailable},
		{kerr.InvalidRequiredAcks, errs.Unavailable},
		{kerr.ThrottlingQuotaExceeded, errs.Unavailable},
		{kerr.TopicAuthorizationFailed, errs.Unavailable},
		{kerr.ClusterAuthorizationFailed, errs.Unavailable},
		{kerr.PolicyViolation, errs.Unavailable},
		{kerr.UnsupportedForMessageFormat, errs.Unavailable},
		{kerr.UnsupportedCompressionType, errs.Unavailable},
		{kerr.RequestTimedOut, errs.Uncertain},
		{kerr.NotEnoughReplicasAfterAppend, errs.Uncertain},
		{kerr.UnknownServerError, errs.Uncertain},
		{kerr.InvalidTxnState, errs.Uncertain},
		{kerr.ProducerFenced, errs.Uncertain},
	} {
		for _, ack := range []store.Ack{store.AckAll, store.AckLocal} {
			want := c.want
			if ack == store.AckLocal && kerr.IsRetriable(c.answer) && want == errs.Unavailable && c.answer != kerr.CorruptMessage {
				want = errs.Uncertain // given up between two tries, of which the last may be under way
			}
			wg.Go(func() { // all at once: most take as long as the client tries
				cluster := fake(t, kfake.NumBrokers(1), kfake.SeedTopics(1, "t"))
				refuse(cluster, c.answer.Code)
				patience := 3 * time.Second
				if want == errs.UnknownTopic { // it ends by the number of tries, which may take their time on a busy machine
					patience = 30 * time.Second
				}
				s := open(t, Config{Brokers: cluster.ListenAddrs(), SendTimeout: patience, AnswerTimeout: patience + 2*time.Second})
				err := s.Publish(t.Context(), "t", ack, &store.Message{Value: []byte("v")})
				if errs.Of(err) != want {
					t.Errorf("%s, ack %d: got %v, want %s", c.answer.Message, ack, err, want.Code())
				}
			})
		}
	}
	wg.Wait()
}

// TestRefusedAfterCut: the connection is cut behind a message that was stored, and a broker that does not lead the partition
// refuses all tries that follow: nobody may say that it is not stored.
func TestRefusedAfterCut(t *testing.T) {
	cluster := fake(t, kfake.NumBrokers(1), kfake.SeedTopics(1, "t"))
	var tries atomic.Int64
	cluster.ControlKey(keyProduce, func(r kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		if tries.Add(1) == 1 {
			return nil, errors.New("cut"), true
		}
		return refusal(r.(*kmsg.ProduceRequest), kerr.NotLeaderForPartition.Code), nil, true
	})
	s := open(t, Config{Brokers: cluster.ListenAddrs(), SendTimeout: time.Second, AnswerTimeout: 20 * time.Second})
	err := s.Publish(t.Context(), "t", store.AckAll, &store.Message{Value: []byte("v")})
	if !errors.Is(err, errs.Uncertain) || tries.Load() < 2 {
		t.Errorf("after %d tries: %v; want uncertain", tries.Load(), err)
	}
}

// TestUnnamedCodesAreUncertain: a code that nobody has thought of must not be taken for a promise.
func TestUnnamedCodesAreUncertain(t *testing.T) {
	if got := publishKind(kerr.KafkaStorageError); got != errs.Uncertain {
		t.Errorf("a storage error is %s: the record may have got to the log", got.Code())
	}
	if got := publishKind(&kerr.Error{Message: "NEW", Code: 9999}); got != errs.Uncertain {
		t.Errorf("an unknown code is %s", got.Code())
	}
}

// TestOutcome: what the client's own errors say, by what was seen on the wire.
func TestOutcome(t *testing.T) {
	const quiet, sent, cut = 0, 1, 2
	purged := errors.New("topic purged while buffered")
	for _, c := range []struct {
		ack  store.Ack
		wire int
		err  error
		want errs.Kind
	}{
		{store.AckAll, quiet, purged, errs.Unavailable},
		{store.AckAll, quiet, kgo.ErrClientClosed, errs.Unavailable},
		{store.AckAll, quiet, kerr.UnknownServerError, errs.Unavailable},
		{store.AckAll, quiet, kerr.UnknownTopicOrPartition, errs.UnknownTopic},
		{store.AckAll, sent, context.DeadlineExceeded, errs.Unavailable}, // only what was not sent ends so, see outcome
		{store.AckAll, sent, purged, errs.Uncertain},
		{store.AckAll, sent, kgo.ErrClientClosed, errs.Uncertain},
		{store.AckAll, cut, kerr.NotEnoughReplicas, errs.Uncertain}, // says nothing of the try that was cut
		{store.AckAll, cut, context.DeadlineExceeded, errs.Uncertain},
		{store.AckAll, sent, kerr.NotEnoughReplicas, errs.Unavailable},
		{store.AckLocal, quiet, context.DeadlineExceeded, errs.Unavailable},
		{store.AckLocal, sent, kerr.NotLeaderForPartition, errs.Unavailable},
		{store.AckLocal, sent, context.DeadlineExceeded, errs.Uncertain},
		{store.AckLocal, cut, kerr.NotLeaderForPartition, errs.Uncertain},
		{store.AckLocal, cut, kgo.ErrRecordRetries, errs.Uncertain},
	} {
		p := &producer{ack: c.ack}
		at := p.mark()
		if c.wire >= sent {
			p.OnBrokerWrite(kgo.BrokerMetadata{}, keyProduce, 100, 0, 0, nil)
		}
		if c.wire == cut {
			p.OnBrokerRead(kgo.BrokerMetadata{}, keyProduce, 0, 0, 0, errors.New("reset"))
		}
		if got := p.outcome(at, fmt.Errorf("wrapped: %w", c.err)); got != c.want {
			t.Errorf("ack %d, wire %d, %v: %s, want %s", c.ack, c.wire, c.err, got.Code(), c.want.Code())
		}
	}
}

func TestKindOf(t *testing.T) {
	for err, want := range map[error]errs.Kind{
		kerr.UnknownTopicOrPartition:          errs.UnknownTopic,
		kerr.UnknownTopicID:                   errs.UnknownTopic,
		kerr.TopicAlreadyExists:               errs.Conflict,
		kerr.InvalidReplicationFactor:         errs.InvalidParam,
		kerr.OffsetMetadataTooLarge:           errs.TooLarge,
		kerr.IllegalGeneration:                errs.Fenced,
		kerr.UnknownMemberID:                  errs.Fenced,
		kerr.NonEmptyGroup:                    errs.Conflict,
		kerr.GroupIDNotFound:                  errs.NotFound,
		kerr.GroupAuthorizationFailed:         errs.Unavailable,
		kerr.CoordinatorNotAvailable:          errs.Unavailable,
		context.DeadlineExceeded:              errs.Unavailable,
		errors.New("connection refused"):      errs.Unavailable,
		fmt.Errorf("%w", kgo.ErrClientClosed): errs.Unavailable,
	} {
		if got := errs.Of(kindOf(err)); got != want {
			t.Errorf("%v: %s, want %s", err, got.Code(), want.Code())
		}
	}
	if !errors.Is(kindOf(kerr.TopicAlreadyExists), store.ErrExists) {
		t.Error("a topic that exists is not ErrExists")
	}
}

func TestConfigReportsEveryFault(t *testing.T) {
	err := Config{Brokers: []string{"nowhere"}, Compression: "rar", SendTimeout: time.Millisecond, FetchBytes: 1}.Validate()
	var all interface{ Unwrap() []error }
	if !errors.As(err, &all) || len(all.Unwrap()) != 4 {
		t.Errorf("got %v, want four faults", err)
	}
	if err := (Config{}).Validate(); err == nil {
		t.Error("a configuration without brokers is valid")
	}
	if err := (Config{Brokers: []string{"[::1]:9092", "kafka:9092"}}).Validate(); err != nil {
		t.Errorf("a configuration with brokers alone: %v", err)
	}
}
