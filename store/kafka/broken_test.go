package kafka

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// brokerErrors are what a broker may answer to a member's requests while all is well with the member itself: it does not
// notice, or takes it for temporary, and goes on.
var brokerErrors = map[string]brokerError{
	"join": {ProtocolClassic, kmsg.JoinGroup, true, true, []*kerr.Error{
		kerr.CoordinatorLoadInProgress, kerr.NotCoordinator, kerr.CoordinatorNotAvailable, kerr.RebalanceInProgress, kerr.UnknownServerError}},
	"sync": {ProtocolClassic, kmsg.SyncGroup, true, true, []*kerr.Error{
		kerr.NotCoordinator, kerr.CoordinatorNotAvailable, kerr.UnknownMemberID, kerr.IllegalGeneration, kerr.RebalanceInProgress, kerr.UnknownServerError}},
	"heartbeat": {ProtocolClassic, kmsg.Heartbeat, true, false, []*kerr.Error{
		kerr.NotCoordinator, kerr.CoordinatorNotAvailable, kerr.UnknownMemberID, kerr.IllegalGeneration, kerr.RebalanceInProgress, kerr.UnknownServerError}},
	"new join": {ProtocolConsumer, kmsg.ConsumerGroupHeartbeat, true, true, []*kerr.Error{
		kerr.NotCoordinator, kerr.CoordinatorNotAvailable, kerr.CoordinatorLoadInProgress, kerr.UnknownServerError}},
	"new heartbeat": {ProtocolConsumer, kmsg.ConsumerGroupHeartbeat, true, false, []*kerr.Error{
		kerr.NotCoordinator, kerr.CoordinatorNotAvailable, kerr.CoordinatorLoadInProgress, kerr.UnknownMemberID, kerr.FencedMemberEpoch, kerr.UnknownServerError}},
	"coordinator": {"", kmsg.FindCoordinator, false, true, []*kerr.Error{kerr.CoordinatorNotAvailable, kerr.UnknownServerError}},
	"positions": {"", kmsg.OffsetFetch, false, true, []*kerr.Error{
		kerr.NotCoordinator, kerr.CoordinatorLoadInProgress, kerr.UnstableOffsetCommit, kerr.UnknownServerError}},
	"offsets": {"", kmsg.ListOffsets, false, true, []*kerr.Error{kerr.NotLeaderForPartition, kerr.LeaderNotAvailable, kerr.UnknownServerError}},
	"commit": {"", kmsg.OffsetCommit, false, false, []*kerr.Error{
		kerr.NotCoordinator, kerr.CoordinatorLoadInProgress, kerr.CoordinatorNotAvailable, kerr.RebalanceInProgress, kerr.UnknownServerError}},
	"fetch": {"", kmsg.Fetch, false, false, []*kerr.Error{
		kerr.NotLeaderForPartition, kerr.UnknownLeaderEpoch, kerr.FencedLeaderEpoch, kerr.ReplicaNotAvailable, kerr.KafkaStorageError, kerr.UnknownServerError}},
}

type brokerError struct {
	protocol string // "" = both
	key      kmsg.Key
	top      bool // the whole answer is the error
	joining  bool // while the member joins; else once it has
	answers  []*kerr.Error
}

// TestBrokerErrors: each is answered twice while a member joins, or reads and commits. No message is lost, none comes in
// the wrong order, nobody is told anything that is not temporary, and in the end the commits are kept.
func TestBrokerErrors(t *testing.T) {
	for what, c := range brokerErrors {
		for _, protocol := range []string{ProtocolClassic, ProtocolConsumer} {
			for _, answer := range c.answers {
				if c.protocol != "" && c.protocol != protocol {
					continue
				}
				t.Run(fmt.Sprint(what, "/", protocol, "/", answer.Message), func(t *testing.T) {
					t.Parallel()
					survives(t, protocol, c, answer)
				})
			}
		}
	}
}

func survives(t *testing.T, protocol string, c brokerError, answer *kerr.Error) {
	cluster := fake(t, kfake.SeedTopics(2, "t"), kfake.BrokerConfigs(map[string]string{"group.consumer.session.timeout.ms": "1000"}))
	s := open(t, Config{Brokers: cluster.ListenAddrs(), Protocol: protocol, SessionTimeout: time.Second})
	m := &survivor{t: t, s: s}
	m.publish(2)
	fault := kfake.Fault{Keys: []kmsg.Key{c.key}, TopLevel: c.top, Err: answer, Count: 2}
	var h *kfake.FaultHandle
	if c.joining {
		h = cluster.Fault(fault)
	}
	m.join()
	m.read(2)
	if !c.joining {
		h = cluster.Fault(fault)
	}
	for n := 4; h.Hits() < 2 || n <= 6; n += 2 {
		m.publish(n)
		m.read(n)
	}
	m.kept()
}

// survivor is a group's only member.
type survivor struct {
	t    *testing.T
	s    *Store
	f    store.Feed
	sent int
	next [2]int64
}

// temporary fails the test when the error is not.
func (m *survivor) temporary(what string, err error) {
	m.t.Helper()
	if err != nil && !errors.Is(err, errs.Unavailable) {
		m.t.Fatalf("%s: %v", what, err)
	}
}

func (m *survivor) join() {
	m.t.Helper()
	eventually(m.t, "it has joined", func() bool {
		f, err := m.s.Subscribe(m.t.Context(), store.Spec{Topic: "t", Group: "g"})
		m.temporary("Subscribe", err)
		m.f = f
		return err == nil
	})
}

// publish publishes up to n messages, half of them to each partition.
func (m *survivor) publish(n int) {
	m.t.Helper()
	for ; m.sent < n; m.sent++ {
		if err := m.s.Publish(m.t.Context(), "t", store.AckAll, text(int32(m.sent%2), "v")); err != nil {
			m.t.Fatal(err)
		}
	}
}

// read polls until n messages were read. What comes again after a loss that was not clean is no fault.
func (m *survivor) read(n int) {
	m.t.Helper()
	eventually(m.t, fmt.Sprint(n, " messages"), func() bool {
		m.poll()
		return m.next[0]+m.next[1] >= int64(n)
	})
}

// poll polls once, not for long, and commits what it read.
func (m *survivor) poll() {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), 100*time.Millisecond)
	defer cancel()
	b, err := m.f.Poll(ctx, 10, nil)
	if ctx.Err() == nil {
		m.temporary("Poll", err)
	}
	for _, g := range b.Gained {
		m.next[g.Partition] = g.Next
	}
	if len(b.Gaps) > 0 {
		m.t.Fatalf("gaps %+v", b.Gaps)
	}
	for _, msg := range b.Messages {
		if msg.Offset != m.next[msg.Partition] {
			m.t.Fatalf("offset %d of partition %d, %d was next", msg.Offset, msg.Partition, m.next[msg.Partition])
		}
		m.next[msg.Partition]++
	}
	for p, next := range m.next {
		if err := m.f.Commit(store.Position{Partition: int32(p), Next: next}); err != nil && !errors.Is(err, errs.Fenced) {
			m.t.Fatalf("Commit: %v", err)
		}
	}
}

// kept polls until the commits are written, and closes the member.
func (m *survivor) kept() {
	m.t.Helper()
	eventually(m.t, "what was read is committed", func() bool {
		m.poll()
		lag, err := m.s.Lag(m.t.Context(), "t", "g")
		m.temporary("Lag", err)
		return err == nil && lag[0].Committed == m.next[0] && lag[1].Committed == m.next[1]
	})
	if err := m.f.Close(m.t.Context()); err != nil {
		m.t.Errorf("Close: %v", err)
	}
}
