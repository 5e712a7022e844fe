package spool

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
	"github.com/kateway/kateway/store/kafka"
)

const keyProduce = 0 // Kafka's number of the request that stores messages

// switched is a Kafka that can be taken from publishers.
type switched struct {
	*kafka.Store
	away atomic.Bool
}

func (s *switched) Publish(ctx context.Context, topic string, ack store.Ack, msgs ...*store.Message) error {
	if s.away.Load() {
		return errAway
	}
	return s.Store.Publish(ctx, topic, ack, msgs...)
}

func (s *switched) Resolve(ctx context.Context, topic string, start store.Start) ([]store.Position, error) {
	if s.away.Load() {
		return nil, errAway
	}
	return s.Store.Resolve(ctx, topic, start)
}

func onKafka(t *testing.T, dir string, brokers []string) (*Spool, *switched, func()) {
	t.Helper()
	k, err := kafka.Open(t.Context(), kafka.Config{Brokers: brokers, SendTimeout: time.Second, AnswerTimeout: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	sw := &switched{Store: k}
	s, err := Open(Config{Dir: dir, Next: sw, Reader: sw, Partitions: k.Partitions, Log: testLog(t), MemTable: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	return s, sw, func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Error(err)
		}
		_ = k.Close(ctx)
	}
}

func valuesOf(t *testing.T, k store.Admin, topic string) (list []string) {
	t.Helper()
	for m, err := range k.Browse(t.Context(), topic, 0, 0) {
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, string(m.Value))
	}
	return list
}

// TestDrainOverEveryCode: a broker answers a drain once with each code that there is. No spooled message is dropped, doubled or
// reordered by it; one that is refused for good is set aside.
func TestDrainOverEveryCode(t *testing.T) {
	var wg sync.WaitGroup
	turn := make(chan struct{}, 8)
	for code := int16(-1); code < 200; code++ {
		e := kerr.TypedErrorForCode(code)
		if code != 199 && (code == 0 || e == nil || e.Code != code) {
			continue // 199 stands for those that nobody knows
		}
		if code == kerr.DuplicateSequenceNumber.Code {
			continue // the broker says that it has the message
		}
		turn <- struct{}{}
		wg.Go(func() {
			defer func() { <-turn }()
			drainOver(t, code)
		})
	}
	wg.Wait()
}

func drainOver(t *testing.T, code int16) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, topicName))
	if err != nil {
		t.Error(err)
		return
	}
	defer cluster.Close()
	s, sw, closeAll := onKafka(t, filepath.Join(t.TempDir(), "spool"), cluster.ListenAddrs())
	defer closeAll()
	sw.away.Store(true)
	want := []string{"1", "2", "2", "3"}
	for _, v := range want {
		m := &store.Message{Key: []byte("k"), Value: []byte(v), Partition: store.AnyPartition}
		if err := s.Publish(t.Context(), topicName, store.AckAll, m); err != nil || m.Offset != store.Spooled {
			t.Errorf("%v, offset %d", err, m.Offset)
			return
		}
	}
	var answered atomic.Bool
	cluster.ControlKey(keyProduce, func(r kmsg.Request) (kmsg.Response, error, bool) {
		answered.Store(true)
		req := r.(*kmsg.ProduceRequest)
		resp := req.ResponseKind().(*kmsg.ProduceResponse)
		for _, rt := range req.Topics {
			at := kmsg.NewProduceResponseTopic()
			at.Topic, at.TopicID = rt.Topic, rt.TopicID
			for _, rp := range rt.Partitions {
				p := kmsg.NewProduceResponseTopicPartition()
				p.Partition, p.ErrorCode, p.BaseOffset = rp.Partition, code, -1
				at.Partitions = append(at.Partitions, p)
			}
			resp.Topics = append(resp.Topics, at)
		}
		return resp, nil, true
	})
	sw.away.Store(false)
	eventually(t, fmt.Sprintf("the spool is empty after code %d", code), func() bool { return s.SpoolStatus().Messages == 0 })
	aside, err := s.Asides(t.Context(), 0, 10)
	if err != nil || !answered.Load() {
		t.Errorf("code %d: %v, answered %v", code, err, answered.Load())
	}
	got := valuesOf(t, sw, topicName)
	rest := want
	if len(aside) == 1 { // the client fails the whole batch; the first is taken for the bad one
		rest = want[1:]
	}
	if len(aside) > 1 || !slices.Equal(got, rest) {
		t.Errorf("code %d: stored %v, aside %d", code, got, len(aside))
	}
}

// TestOutageOfKafka: the brokers are gone for a while and come back, with publishers at work all the time and a new process in
// the midst. What is answered with nothing known, since it was sent when they went, is tried again with its idempotency key; the rest is
// accepted at once. Nothing is lost or doubled, each key keeps its order, and what is told of places is true.
func TestOutageOfKafka(t *testing.T) { //nolint:funlen // one scenario
	cluster, err := kfake.NewCluster(kfake.NumBrokers(3), kfake.SeedTopics(4, topicName))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	dir := filepath.Join(t.TempDir(), "spool")
	s, sw, closeAll := onKafka(t, dir, cluster.ListenAddrs())
	var down atomic.Bool
	cluster.Control(func(kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		if down.Load() {
			return nil, errAway, true // the connection is cut
		}
		return nil, nil, false
	})
	const keys, each = 20, 120
	var wg sync.WaitGroup
	var mu sync.RWMutex // a new process
	var spooled, uncertain atomic.Int32
	var places sync.Map // what was told
	step, sent, done := make([]chan struct{}, keys), make([]int, keys), make([]atomic.Int32, keys)
	for k := range step {
		step[k] = make(chan struct{}, each)
		wg.Go(func() {
			n := 0
			for range step[k] {
				value := fmt.Sprintf("%d-%d", k, n)
				for {
					m := &store.Message{Key: fmt.Append(nil, k), Value: []byte(value), Partition: store.AnyPartition}
					mu.RLock()
					ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
					err := s.PublishOnce(ctx, topicName, store.AckAll, store.Once{Key: value, Digest: [32]byte{1}}, m)
					cancel()
					mu.RUnlock()
					if errs.Of(err) == errs.Uncertain && err != nil {
						uncertain.Add(1)
						time.Sleep(50 * time.Millisecond) //nolint:forbidigo // a client's pause
						continue
					}
					switch {
					case err != nil:
						t.Errorf("%s: %v", value, err)
					case m.Offset == store.Spooled:
						spooled.Add(1)
					default:
						places.Store(value, [2]int64{int64(m.Partition), m.Offset})
					}
					break
				}
				n++
				done[k].Add(1)
			}
		})
	}
	for i := range each {
		switch i {
		case each / 4:
			eventually(t, "half of the publishers to have nothing under way", func() bool {
				for k := 1; k < keys; k += 2 {
					if int(done[k].Load()) != sent[k] {
						return false
					}
				}
				return true
			})
			down.Store(true)
		case each/4 + 1:
			sw.away.Store(true) // what is not under way yet finds nobody
		case each / 2:
			mu.Lock()
			closeAll()
			s, sw, closeAll = onKafka(t, dir, cluster.ListenAddrs())
			sw.away.Store(true)
			mu.Unlock()
		case 3 * each / 4:
			down.Store(false)
			sw.away.Store(false)
		}
		for k := range step {
			if quiet := i >= each/4-10 && i <= each/4; quiet && k%2 == 1 {
				continue // half of the publishers have nothing under way when the brokers go
			}
			step[k] <- struct{}{}
			sent[k]++
		}
		time.Sleep(20 * time.Millisecond) //nolint:forbidigo // a steady rate of publishes
	}
	for k := range step {
		close(step[k])
	}
	wg.Wait()
	defer func() { closeAll() }()
	eventually(t, "the spool is empty", func() bool { return s.SpoolStatus().Messages == 0 })
	if spooled.Load() == 0 {
		t.Error("nothing was spooled")
	}
	next := make([]int, keys)
	for p := range int32(4) {
		for m, err := range sw.Browse(t.Context(), topicName, p, 0) {
			if err != nil {
				t.Fatal(err)
			}
			var k, n int
			if _, err := fmt.Sscanf(string(m.Value), "%d-%d", &k, &n); err != nil {
				t.Fatal(err)
			}
			if n != next[k] {
				t.Fatalf("key %d: %d, expected %d", k, n, next[k])
			}
			next[k]++
			if at, told := places.Load(string(m.Value)); told && at != [2]int64{int64(p), m.Offset} {
				t.Errorf("%s is at %d of %d, and %v was told", m.Value, m.Offset, p, at)
			}
		}
	}
	for k, n := range next {
		if n != sent[k] {
			t.Errorf("key %d: %d of %d", k, n, sent[k])
		}
	}
	t.Logf("%d of %d were spooled, %d answers said nothing", spooled.Load(), keys*each, uncertain.Load())
}
