package kafka

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kateway/kateway/store"
)

// TestCloseWhileTheGroupChanges: the cluster refuses positions since the membership is changing, of which the member hears with
// its next heartbeat. One that closes at that moment goes on as a member until its last positions are taken.
func TestCloseWhileTheGroupChanges(t *testing.T) {
	c := fake(t, kfake.SeedTopics(1, "t"))
	s := open(t, Config{Brokers: c.ListenAddrs(), SessionTimeout: time.Second})
	f := joined(t, s, "t", 1)
	var changing atomic.Bool
	var refused, beats atomic.Int32
	c.ControlKey(int16(kmsg.OffsetCommit), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if !changing.Load() {
			return nil, nil, false
		}
		refused.Add(1)
		return refuseCommit(r.(*kmsg.OffsetCommitRequest), kerr.RebalanceInProgress), nil, true
	})
	c.ControlKey(int16(kmsg.Heartbeat), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if refused.Load() > 0 && beats.Add(1) == 2 {
			changing.Store(false)
		}
		return nil, nil, false
	})
	changing.Store(true)
	if err := f.Commit(store.Position{Partition: 0, Next: 0, Beyond: "last"}); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(t.Context()); err != nil {
		t.Errorf("Close: %v", err)
	}
	have, err := s.positions(t.Context(), "t", "g")
	if err != nil || have[0].Beyond != "last" || refused.Load() == 0 {
		t.Errorf("the next holder begins at %+v, %v; %d refusals", have[0], err, refused.Load())
	}
}
