package kafka

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

func text(partition int32, value string) *store.Message {
	return &store.Message{Partition: partition, Value: []byte(value)}
}

// stored reads a partition's values with a client of its own.
func stored(t *testing.T, s *Store, topic string, partition int32) []string {
	t.Helper()
	var values []string
	for m, err := range s.Browse(t.Context(), topic, partition, 0) {
		if err != nil {
			t.Fatal(err)
		}
		values = append(values, string(m.Value))
	}
	return values
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for !is() {
		if !pause(ctx, 5*time.Millisecond) {
			t.Fatalf("never: %s", what)
		}
	}
}

func TestPublishWithoutAnyBrokerIsCertain(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	s, err := Open(ctx, Config{Brokers: []string{l.Addr().String()}, SendTimeout: time.Second})
	if err != nil {
		t.Fatalf("a gateway must start while Kafka is down: %v", err)
	}
	t.Cleanup(func() { _ = s.Close(context.WithoutCancel(t.Context())) })
	if err := s.Ping(ctx); !errors.Is(err, errs.Unavailable) {
		t.Errorf("Ping: got %v, want unavailable", err)
	}
	if err := s.Publish(ctx, "t", store.AckAll, text(0, "v")); !errors.Is(err, errs.Unavailable) {
		t.Errorf("Publish: got %v, want unavailable", err)
	}
}

// TestOutage: all brokers vanish under a store that knows the topic. What is called certain not to be stored is not; what
// was on its way over a connection that broke is uncertain, and stored once at most.
func TestOutage(t *testing.T) {
	for _, ack := range []store.Ack{store.AckAll, store.AckLocal} {
		t.Run(fmt.Sprint("ack=", ack), func(t *testing.T) {
			t.Parallel()
			c := fake(t, kfake.NumBrokers(1), kfake.SeedTopics(1, "t"))
			var down downable
			s := open(t, Config{Brokers: c.ListenAddrs(), SendTimeout: time.Second, AnswerTimeout: 2 * time.Second, dial: down.dial})
			if err := s.Publish(t.Context(), "t", ack, text(0, "before")); err != nil {
				t.Fatal(err)
			}
			down.set(true)
			want, maybe := []string{"before", "after"}, []string{}
			for i := range 4 {
				began, value := time.Now(), fmt.Sprint("during ", i)
				switch err := s.Publish(t.Context(), "t", ack, text(0, value)); errs.Of(err) {
				case errs.Uncertain:
					maybe = append(maybe, value)
				case errs.Unavailable:
				default:
					t.Errorf("got %v", err)
				}
				if took := time.Since(began); took > 5*time.Second {
					t.Errorf("it took %v to say so", took)
				}
			}
			if len(maybe) > 1 {
				t.Errorf("%q are uncertain, but only the first can have been on its way", maybe)
			}
			down.set(false)
			eventually(t, "it publishes again", func() bool { return s.Publish(t.Context(), "t", ack, text(0, "after")) == nil })
			got := stored(t, s, "t", 0)
			if len(maybe) > 0 && slices.Contains(got, maybe[0]) {
				want = slices.Insert(want, 1, maybe[0])
			}
			if !slices.Equal(got, want) {
				t.Errorf("stored are %q, want %q", got, want)
			}
		})
	}
}

// TestStalledPartition: a message that was sent and is not answered is uncertain, and not lost; those that come when that
// has lasted are refused at once, instead of queueing behind it with an outcome as open.
func TestStalledPartition(t *testing.T) {
	c := fake(t, kfake.NumBrokers(1), kfake.SeedTopics(2, "t"))
	g := newGate()
	s := open(t, Config{Brokers: c.ListenAddrs(), SendTimeout: time.Second, AnswerTimeout: 1500 * time.Millisecond, dial: g.dial})
	publish := func(value string) error { return s.Publish(t.Context(), "t", store.AckAll, text(0, value)) }
	if err := publish("before"); err != nil {
		t.Fatal(err)
	}
	heal := g.shut()
	if err := publish("open"); !errors.Is(err, errs.Uncertain) {
		t.Fatalf("got %v, want uncertain", err)
	}
	began := time.Now()
	if err := publish("behind"); !errors.Is(err, errs.Unavailable) {
		t.Errorf("got %v, want unavailable", err)
	}
	if took := time.Since(began); took > 500*time.Millisecond {
		t.Errorf("it took %v to refuse", took)
	}
	heal()
	eventually(t, "it publishes again", func() bool { return publish("after") == nil })
	if got := stored(t, s, "t", 0); !slices.Equal(got, []string{"before", "open", "after"}) {
		t.Errorf("stored are %q", got)
	}
	eventually(t, "nothing is buffered", func() bool { return s.buffered.Load() == 0 })
}

func TestBufferIsBounded(t *testing.T) {
	c := fake(t, kfake.SeedTopics(1, "t"))
	g := newGate()
	s := open(t, Config{Brokers: c.ListenAddrs(), MaxBufferedBytes: 1 << 20, dial: g.dial})
	if err := s.Publish(t.Context(), "t", store.AckAll, text(0, "first")); err != nil {
		t.Fatal(err)
	}
	heal := g.shut()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	big := &store.Message{Value: make([]byte, 600<<10)}
	if err := s.Publish(ctx, "t", store.AckAll, big); !errors.Is(err, errs.Uncertain) {
		t.Errorf("the first: got %v, want uncertain", err)
	}
	more := &store.Message{Value: make([]byte, 600<<10)}
	if err := s.Publish(t.Context(), "t", store.AckAll, more); !errors.Is(err, errs.Unavailable) {
		t.Errorf("the second: got %v, want unavailable at once", err)
	}
	if err := s.Publish(t.Context(), "t", store.AckAll, more, more); !errors.Is(err, errs.TooLarge) {
		t.Errorf("more than is ever buffered: got %v, want too large", err)
	}
	heal()
	eventually(t, "there is room again", func() bool { return s.Publish(t.Context(), "t", store.AckAll, more) == nil })
}

// TestTimeOfMessageIsNoDeadline: neither an old message is given up at once, nor one from the future never.
func TestTimeOfMessageIsNoDeadline(t *testing.T) {
	c := fake(t, kfake.NumBrokers(1), kfake.SeedTopics(1, "t"))
	s := open(t, Config{Brokers: c.ListenAddrs(), SendTimeout: time.Second})
	old := &store.Message{Time: time.Now().Add(-240 * time.Hour)}
	if err := s.Publish(t.Context(), "t", store.AckAll, old); err != nil {
		t.Errorf("a message of last week: %v", err)
	}
	refuse(c, kerr.NotEnoughReplicas.Code)
	future := &store.Message{Time: time.Now().Add(time.Hour)}
	if err := s.Publish(t.Context(), "t", store.AckAll, future); !errors.Is(err, errs.Unavailable) {
		t.Errorf("a message of the future that is refused again and again: got %v, want unavailable", err)
	}
}

// TestTopicChangesElsewhere: another gateway grows the topic, and makes it anew.
func TestTopicChangesElsewhere(t *testing.T) {
	c := fake(t, kfake.SeedTopics(2, "t"))
	s := open(t, Config{Brokers: c.ListenAddrs(), SendTimeout: time.Second})
	other := kadm.NewClient(client(t, c.ListenAddrs()))
	for _, ack := range []store.Ack{store.AckAll, store.AckLocal} {
		if err := s.Publish(t.Context(), "t", ack, text(1, "first")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := other.UpdatePartitions(t.Context(), 5, "t"); err != nil {
		t.Fatal(err)
	}
	for _, ack := range []store.Ack{store.AckAll, store.AckLocal} {
		eventually(t, "the new partition is published to", func() bool {
			err := s.Publish(t.Context(), "t", ack, text(4, "new"))
			if err != nil && !errors.Is(err, errs.InvalidParam) {
				t.Errorf("while it is unknown: got %v, want invalid parameter", err)
			}
			return err == nil
		})
	}
	if _, err := other.DeleteTopic(t.Context(), "t"); err != nil {
		t.Fatal(err)
	}
	if err := s.Publish(t.Context(), "t", store.AckAll, text(0, "gone")); !errors.Is(err, errs.UnknownTopic) {
		t.Errorf("after the topic is gone: got %v, want unknown topic", err)
	}
	if _, err := other.CreateTopic(t.Context(), 1, 1, nil, "t"); err != nil {
		t.Fatal(err)
	}
	m := text(0, "anew")
	eventually(t, "the new topic is published to", func() bool { return s.Publish(t.Context(), "t", store.AckAll, m) == nil })
	if m.Offset != 0 {
		t.Errorf("the first message has offset %d", m.Offset)
	}
}

// TestTopicLimit: a topic's own max.message.bytes holds, and one that is too large does not take others with it.
func TestTopicLimit(t *testing.T) {
	c := fake(t)
	if err := c.CreateTopic("t", 1, map[string]string{"max.message.bytes": "5000"}); err != nil {
		t.Fatal(err)
	}
	s := open(t, Config{Brokers: c.ListenAddrs(), Compression: "none"})
	for size, want := range map[int]bool{4000: true, 6000: false} {
		err := s.Publish(t.Context(), "t", store.AckAll, &store.Message{Value: bytes.Repeat([]byte("x"), size)})
		if ok := err == nil; ok != want || !ok && !errors.Is(err, errs.TooLarge) {
			t.Errorf("%d bytes: got %v", size, err)
		}
	}
	var many []*store.Message
	for i := range 50 {
		many = append(many, text(0, fmt.Sprintf("%0500d", i)))
	}
	if err := s.Publish(t.Context(), "t", store.AckAll, many...); err != nil {
		t.Errorf("many small ones, in all over the limit: %v", err)
	}
}

func TestKeylessMessagesTakeTurns(t *testing.T) {
	c := fake(t, kfake.SeedTopics(3, "t"))
	s := open(t, Config{Brokers: c.ListenAddrs()})
	used := map[int32]int{}
	for range 30 {
		call := []*store.Message{text(store.AnyPartition, "a"), text(store.AnyPartition, "b")}
		if err := s.Publish(t.Context(), "t", store.AckAll, call...); err != nil {
			t.Fatal(err)
		}
		if call[0].Partition != call[1].Partition {
			t.Errorf("one call went to the partitions %d and %d: two batches instead of one", call[0].Partition, call[1].Partition)
		}
		used[call[0].Partition]++
	}
	if len(used) != 3 {
		t.Errorf("of three partitions used are %v", used)
	}
}

// TestConcurrentPublishesShareRequests is what the linger is for.
func TestConcurrentPublishesShareRequests(t *testing.T) {
	c := fake(t, kfake.NumBrokers(1), kfake.SeedTopics(1, "t"))
	requests := make(chan struct{}, 10_000)
	c.ControlKey(keyProduce, func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		requests <- struct{}{}
		return nil, nil, false
	})
	s := open(t, Config{Brokers: c.ListenAddrs(), Linger: 50 * time.Millisecond})
	const publishers = 200
	errors := make(chan error, publishers)
	for range publishers {
		go func() { errors <- s.Publish(t.Context(), "t", store.AckAll, text(0, "v")) }()
	}
	for range publishers {
		if err := <-errors; err != nil {
			t.Fatal(err)
		}
	}
	if n := len(requests); n > publishers/4 {
		t.Errorf("%d publishes took %d requests", publishers, n)
	}
	const long = time.Second // the longest there is
	s = open(t, Config{Brokers: c.ListenAddrs(), Linger: long})
	if err := s.Publish(t.Context(), "t", store.AckAll, text(0, "first: finds the broker")); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := s.Publish(t.Context(), "t", store.AckAll, text(0, "alone")); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took >= long {
		t.Errorf("a lone publish took %v: it waited for others", took)
	}
}

func TestCloseIsBounded(t *testing.T) {
	c := fake(t, kfake.SeedTopics(3, "t"))
	g := newGate()
	s := open(t, Config{Brokers: c.ListenAddrs(), SessionTimeout: time.Second, dial: g.dial})
	if err := s.Publish(t.Context(), "t", store.AckAll, text(0, "first")); err != nil {
		t.Fatal(err)
	}
	f, err := s.Subscribe(t.Context(), store.Spec{Topic: "t", Group: "g"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Poll(t.Context(), 10, nil); err != nil {
		t.Fatal(err)
	}
	heal := g.shut()
	defer heal()
	published := make(chan error, 1)
	go func() { published <- s.Publish(context.WithoutCancel(t.Context()), "t", store.AckAll, text(0, "open")) }()
	eventually(t, "the publish is under way", func() bool { return s.buffered.Load() > 0 })
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	began := time.Now()
	if s.Close(ctx) == nil {
		t.Error("Close answered nil though a publish was under way")
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("Close took %v, 300ms were given", took)
	}
	if err := <-published; !errors.Is(err, errs.Uncertain) && !errors.Is(err, errs.Unavailable) {
		t.Errorf("the publish under way: got %v", err)
	}
}
