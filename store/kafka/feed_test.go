package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
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

// joined is a group's only member, which holds the topic's partitions.
func joined(t *testing.T, s *Store, topic string, partitions int) store.Feed {
	t.Helper()
	f, err := s.Subscribe(t.Context(), store.Spec{Topic: topic, Group: "g"})
	if err != nil {
		t.Fatal(err)
	}
	until(t, f, nil, func(all store.Batch) bool { return len(all.Gained) == partitions })
	return f
}

// until polls, and gathers what is told, until that is enough.
func until(t *testing.T, f store.Feed, paused []int32, enough func(all store.Batch) bool) (all store.Batch) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for !enough(all) {
		b, err := f.Poll(ctx, 100, paused)
		if err != nil && (ctx.Err() != nil || !errors.Is(err, errs.Unavailable)) { // that is temporary
			t.Fatalf("Poll: %v; so far: %+v", err, all)
		}
		all.Lost = append(all.Lost, b.Lost...)
		all.Gained = append(all.Gained, b.Gained...)
		all.Refused = append(all.Refused, b.Refused...)
		all.Gaps = append(all.Gaps, b.Gaps...)
		all.Messages = append(all.Messages, b.Messages...)
	}
	return all
}

func offsets(list []*store.Message) (at []int64) {
	for _, m := range list {
		at = append(at, m.Offset)
	}
	return at
}

// answer makes the cluster answer commits of positions, as long as it is given, with a code.
func answerCommits(c *kfake.Cluster, code *atomic.Int32) {
	c.ControlKey(int16(kmsg.OffsetCommit), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if code.Load() == 0 {
			return nil, nil, false
		}
		return refuseCommit(r.(*kmsg.OffsetCommitRequest), &kerr.Error{Code: int16(code.Load())}), nil, true
	})
}

// refuseCommit answers every partition with the error.
func refuseCommit(req *kmsg.OffsetCommitRequest, err *kerr.Error) *kmsg.OffsetCommitResponse {
	resp := req.ResponseKind().(*kmsg.OffsetCommitResponse)
	for _, t := range req.Topics {
		rt := kmsg.NewOffsetCommitResponseTopic()
		rt.Topic, rt.TopicID = t.Topic, t.TopicID
		for _, p := range t.Partitions {
			rp := kmsg.NewOffsetCommitResponseTopicPartition()
			rp.Partition, rp.ErrorCode = p.Partition, err.Code
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp
}

func TestRefusedCommitIsTold(t *testing.T) {
	c := fake(t, kfake.SeedTopics(2, "t"))
	var code atomic.Int32
	answerCommits(c, &code)
	s := open(t, Config{Brokers: c.ListenAddrs(), SessionTimeout: time.Second})
	f := joined(t, s, "t", 2)
	for want, answer := range map[errs.Kind]*kerr.Error{
		errs.TooLarge: kerr.OffsetMetadataTooLarge, errs.Unavailable: kerr.GroupAuthorizationFailed,
	} {
		code.Store(int32(answer.Code))
		if err := f.Commit(store.Position{Partition: 1, Next: 3, Beyond: "x"}); err != nil {
			t.Fatal(err)
		}
		all := until(t, f, nil, func(all store.Batch) bool { return len(all.Refused) > 0 })
		if r := all.Refused[0]; r.Partition != 1 || errs.Of(r.Err) != want {
			t.Errorf("refused by %s: partition %d, %v", answer.Message, r.Partition, r.Err)
		}
	}
	code.Store(int32(kerr.RebalanceInProgress.Code))
	if err := f.Commit(store.Position{Partition: 0, Next: 7}); err != nil {
		t.Fatal(err)
	}
	code.Store(0)
	eventually(t, "what a rebalance held up is tried again", func() bool {
		lag, err := s.Lag(t.Context(), "t", "g")
		return err == nil && lag[0].Committed == 7
	})
	code.Store(int32(kerr.GroupAuthorizationFailed.Code))
	if err := f.Commit(store.Position{Partition: 0, Next: 8}); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(t.Context()); !errors.Is(err, errs.Unavailable) {
		t.Errorf("Close after a last commit that failed: %v", err)
	}
}

// TestForcedLoss: the cluster takes the member for dead. Its partitions are lost at once, and it comes back.
func TestForcedLoss(t *testing.T) {
	c := fake(t, kfake.SeedTopics(3, "t"))
	s := open(t, Config{Brokers: c.ListenAddrs(), SessionTimeout: time.Second})
	f := joined(t, s, "t", 3)
	c.ControlKey(int16(kmsg.Heartbeat), func(r kmsg.Request) (kmsg.Response, error, bool) {
		resp := r.ResponseKind().(*kmsg.HeartbeatResponse)
		resp.ErrorCode = kerr.UnknownMemberID.Code
		return resp, nil, true
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var lost, gained int
	for lost < 3 || gained < 3 {
		b, err := f.Poll(ctx, 10, nil)
		if err != nil {
			if ctx.Err() != nil || !errors.Is(err, errs.Unavailable) {
				t.Fatalf("Poll: %v after %d lost and %d gained", err, lost, gained)
			}
			continue // the session is lost, which is told once
		}
		lost, gained = lost+len(b.Lost), gained+len(b.Gained)
		for _, p := range b.Lost {
			regained := slices.ContainsFunc(b.Gained, func(g store.Position) bool { return g.Partition == p })
			if err := f.Commit(store.Position{Partition: p, Next: 0}); !regained && !errors.Is(err, errs.Fenced) {
				t.Errorf("commit of partition %d after a forced loss: %v", p, err)
			}
		}
	}
	if err := s.Publish(t.Context(), "t", store.AckAll, text(2, "again")); err != nil {
		t.Fatal(err)
	}
	until(t, f, nil, func(all store.Batch) bool { return len(all.Messages) == 1 })
}

// TestGapWhileReading: retention overtakes a member that is slow. What it has at hand still comes, then the gap.
func TestGapWhileReading(t *testing.T) {
	c := fake(t, kfake.SeedTopics(1, "t"))
	s := open(t, Config{Brokers: c.ListenAddrs(), SessionTimeout: time.Second, FetchBytes: 64 << 10, Compression: "none"})
	const n = 200
	var msgs []*store.Message
	for range n {
		msgs = append(msgs, text(0, strings.Repeat("x", 1000)))
	}
	for chunk := range slices.Chunk(msgs, 10) { // batches small enough for the fetches
		if err := s.Publish(t.Context(), "t", store.AckAll, chunk...); err != nil {
			t.Fatal(err)
		}
	}
	f := joined(t, s, "t", 1)
	next := int64(0)
	var gaps []store.Gap
	trimmed := false
	for next < n {
		b, err := f.Poll(t.Context(), 5, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range b.Gaps {
			if g.From != next {
				t.Fatalf("gap %+v, but expected is %d", g, next)
			}
			gaps, next = append(gaps, g), g.To
		}
		for _, m := range b.Messages {
			if m.Offset != next {
				t.Fatalf("offset %d, but expected is %d", m.Offset, next)
			}
			next++
		}
		if !trimmed {
			trimmed = true
			if err := c.DeleteRecords("t", 0, 180); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(gaps) != 1 || gaps[0].To != 180 {
		t.Errorf("gaps %+v, want one to 180", gaps)
	}
}

// TestPausedPartitionIsBounded: one that stays paused does not fill the memory, the others go on, and it comes back whole.
func TestPausedPartitionIsBounded(t *testing.T) {
	c := fake(t, kfake.NumBrokers(1), kfake.SeedTopics(2, "t"))
	s := open(t, Config{Brokers: c.ListenAddrs(), SessionTimeout: time.Second, FetchBytes: 64 << 10, Compression: "none"})
	const rounds, each = 60, 10
	for range rounds {
		var msgs []*store.Message
		for range each {
			msgs = append(msgs, text(0, strings.Repeat("x", 1000)), text(1, strings.Repeat("y", 1000)))
		}
		if err := s.Publish(t.Context(), "t", store.AckAll, msgs...); err != nil {
			t.Fatal(err)
		}
	}
	f := joined(t, s, "t", 2).(*feed)
	all := until(t, f, []int32{1}, func(all store.Batch) bool { return len(all.Messages) >= rounds*each })
	for i, at := range offsets(all.Messages) {
		if at != int64(i) || all.Messages[i].Partition != 0 {
			t.Fatalf("message %d is offset %d of partition %d", i, at, all.Messages[i].Partition)
		}
	}
	f.mu.Lock()
	held := f.parts[1].bytes
	f.mu.Unlock()
	if limit := 4 * (64 << 10); held > limit {
		t.Errorf("%d bytes are held of the paused partition, %d are much already", held, limit)
	}
	all = until(t, f, []int32{0}, func(all store.Batch) bool { return len(all.Messages) >= rounds*each })
	for i, at := range offsets(all.Messages) {
		if at != int64(i) || all.Messages[i].Partition != 1 {
			t.Fatalf("resumed: message %d is offset %d of partition %d", i, at, all.Messages[i].Partition)
		}
	}
}

// transact writes values in transactions, every other one aborted.
func transact(t *testing.T, brokers []string, topic string, values ...string) {
	t.Helper()
	cl := client(t, brokers, kgo.TransactionalID("tx-"+topic), kgo.DefaultProduceTopic(topic), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	for i, v := range values {
		if err := cl.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		if err := cl.ProduceSync(t.Context(), &kgo.Record{Value: []byte(v)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if err := cl.EndTransaction(t.Context(), kgo.TransactionEndTry(i%2 == 0)); err != nil {
			t.Fatal(err)
		}
	}
}

// transactions: aborted messages are not there, the markers are no gaps, and the end is found behind them.
func transactions(t *testing.T, s *Store, brokers []string, topic string) {
	t.Helper()
	if err := s.CreateTopic(t.Context(), store.Topic{Name: topic, Partitions: 1}); err != nil {
		t.Fatal(err)
	}
	transact(t, brokers, topic, "a", "aborted", "b", "aborted")
	if got := stored(t, s, topic, 0); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("browsed %q", got)
	}
	f, err := s.Subscribe(t.Context(), store.Spec{Topic: topic, Group: topic + "-g"})
	if err != nil {
		t.Fatal(err)
	}
	all := until(t, f, nil, func(all store.Batch) bool { return len(all.Messages) == 2 })
	if string(all.Messages[0].Value)+string(all.Messages[1].Value) != "ab" || len(all.Gaps) > 0 {
		t.Errorf("polled %v with gaps %v", offsets(all.Messages), all.Gaps)
	}
	if err := f.Close(t.Context()); err != nil {
		t.Error(err)
	}
	lag, err := s.Lag(t.Context(), topic, topic+"-g")
	if err != nil || lag[0].End != 8 {
		t.Errorf("lag %+v, %v; want the end behind the last marker", lag, err)
	}
}

func TestTransactionsOnFake(t *testing.T) {
	c := fake(t)
	transactions(t, open(t, Config{Brokers: c.ListenAddrs(), SessionTimeout: time.Second}), c.ListenAddrs(), "tx")
}

// TestTopicGoneElsewhere: another gateway deletes the topic under a member, and makes it anew.
func TestTopicGoneElsewhere(t *testing.T) {
	for _, anew := range []bool{false, true} {
		t.Run(fmt.Sprint("anew=", anew), func(t *testing.T) {
			t.Parallel()
			c := fake(t, kfake.SeedTopics(2, "t"))
			s := open(t, Config{Brokers: c.ListenAddrs(), SessionTimeout: time.Second})
			f := joined(t, s, "t", 2)
			if err := c.DeleteTopic("t"); err != nil {
				t.Fatal(err)
			}
			if anew {
				if err := c.CreateTopic("t", 2, nil); err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			for {
				_, err := f.Poll(ctx, 10, nil)
				if errors.Is(err, errs.UnknownTopic) {
					return
				}
				if ctx.Err() != nil {
					t.Fatalf("Poll never said that the topic is gone, but %v", err)
				}
			}
		})
	}
}

// TestGroupsOfOthers: a native consumer's group counts too, by its members and by its positions.
func TestGroupsOfOthers(t *testing.T) {
	c := fake(t, kfake.SeedTopics(1, "t", "u"))
	s := open(t, Config{Brokers: c.ListenAddrs(), SessionTimeout: time.Second})
	if err := s.Publish(t.Context(), "t", store.AckAll, text(0, "v")); err != nil {
		t.Fatal(err)
	}
	native := client(t, c.ListenAddrs(), kgo.ConsumerGroup("native"), kgo.ConsumeTopics("t"), kgo.DisableAutoCommit())
	other := client(t, c.ListenAddrs(), kgo.ConsumerGroup("elsewhere"), kgo.ConsumeTopics("u"))
	if fs := native.PollFetches(t.Context()); fs.NumRecords() != 1 {
		t.Fatalf("the native consumer got %v", fs.Errors())
	}
	list := func() []string {
		groups, err := s.Groups(t.Context(), "t")
		if err != nil {
			t.Fatal(err)
		}
		return groups
	}
	if got := list(); !slices.Equal(got, []string{"native"}) {
		t.Errorf("with a member: %q", got)
	}
	if err := native.CommitUncommittedOffsets(t.Context()); err != nil {
		t.Fatal(err)
	}
	native.Close()
	other.Close()
	if got := list(); !slices.Equal(got, []string{"native"}) {
		t.Errorf("with a position alone: %q", got)
	}
}
