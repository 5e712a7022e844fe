package kafka

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// The pace of Recommit, so that it does not load the cluster: at most one group begins in this time, and as many are under
// way. Kafka lets the first member of a group wait for others, 3 s by default.
const (
	recommitEvery  = 20 * time.Millisecond
	recommitAtOnce = 8
)

// Recommit has the cluster keep the positions of the groups that kateway made and that have no member now, which it would
// forget after offsets.retention.minutes. The positions stay as they are. It answers how many groups it did, also beside an
// error. Call it more often than that time, which is seven days by Kafka's default. It does at most three groups a second
// where they have to be joined, see visit, and takes no longer than ctx allows.
func (s *Store) Recommit(ctx context.Context) (int, error) {
	if err := s.usable(); err != nil {
		return 0, err
	}
	listed, err := s.adm.ListGroups(ctx, "Empty")
	if err != nil {
		return 0, s.failed("listing groups", err)
	}
	var done atomic.Int64
	var mu sync.Mutex
	var faults []error
	var work errgroup.Group
	work.SetLimit(recommitAtOnce)
	for _, group := range listed.Groups() {
		if !oursRule.MatchString(group) {
			continue
		}
		if !pause(ctx, recommitEvery) {
			err = fmt.Errorf("having positions kept: %w: %w", ctx.Err(), errs.Unavailable)
			break
		}
		work.Go(func() error {
			kept, err := s.keep(ctx, group)
			if kept {
				done.Add(1)
			}
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				faults = append(faults, err)
			}
			return nil
		})
	}
	_ = work.Wait() // none of them answers an error: the others go on
	return int(done.Load()), errors.Join(append(faults, err)...)
}

// oursRule is how kateway names groups: <app>.<group>.<app>.<topic>.<ver>, with .retry or .dead behind it for those that
// read a group's queues. The topic in the cluster may have any name, so the name of the group is all there is to go by.
var oursRule = regexp.MustCompile(`^[A-Za-z0-9-]{1,32}\.[A-Za-z0-9_-]{1,48}\.[A-Za-z0-9-]{1,32}\.[A-Za-z0-9_-]{1,100}\.[A-Za-z0-9-]{1,16}(\.retry|\.dead)?$`)

// keep does one group. One without positions, or that has a member by now, is passed over.
//
// What the retention counts from depends on the group. Where it had members of the classic protocol it is the time at which
// the last one left, and commits change nothing about that. Of all others it is the commit of each position.
func (s *Store) keep(ctx context.Context, group string) (kept bool, err error) {
	positions, err := s.adm.FetchOffsets(ctx, group)
	switch {
	case gone(err):
		return false, nil
	case err != nil:
		return false, s.failed(fmt.Sprintf("positions of group %q", group), err)
	}
	described, err := s.adm.DescribeGroups(ctx, group)
	if err != nil {
		return false, s.failed(fmt.Sprintf("describing group %q", group), err)
	}
	g := described[group]
	for topic, partitions := range positions {
		switch {
		case !hasPosition(partitions):
		case g.Err == nil && g.State != "Empty":
			return false, nil
		case g.Err == nil && g.ProtocolType != "":
			return s.visit(ctx, group)
		default:
			again, err := s.again(ctx, group, topic, partitions)
			if kept = kept || again; err != nil {
				return kept, err
			}
		}
	}
	return kept, nil
}

// again commits the positions as they are. A cluster takes that from outside only of a group without members.
func (s *Store) again(ctx context.Context, group, topic string, partitions map[int32]kadm.OffsetResponse) (bool, error) {
	var at []store.Position
	for p, o := range partitions {
		if o.Err == nil && o.At >= 0 {
			at = append(at, store.Position{Partition: p, Next: o.At, Beyond: o.Metadata})
		}
	}
	err := s.commitFromOutside(ctx, topic, group, at)
	if errors.Is(err, errs.Conflict) || errors.Is(err, errs.UnknownTopic) { // it has a member by now; its topic is gone
		return false, nil
	}
	return err == nil, err
}

// visit joins a group of the classic protocol and leaves it, so that it becomes empty anew. Should another member come at
// the same moment, the two make one rebalance, in which ours wants no partition.
func (s *Store) visit(ctx context.Context, group string) (bool, error) {
	req := kmsg.NewPtrJoinGroupRequest()
	req.Group, req.ProtocolType = group, "consumer"
	req.SessionTimeoutMillis = int32(s.cfg.SessionTimeout.Milliseconds())
	req.RebalanceTimeoutMillis = req.SessionTimeoutMillis
	wish := kmsg.NewConsumerMemberMetadata()
	wish.Version = 1
	protocol := kmsg.NewJoinGroupRequestProtocol()
	protocol.Name, protocol.Metadata = "cooperative-sticky", wish.AppendTo(nil)
	req.Protocols = append(req.Protocols, protocol)
	reason := "keeps the positions of a group that nobody uses"
	req.Reason = &reason

	resp, err := req.RequestWith(ctx, s.cl)
	if err == nil && resp.ErrorCode == kerr.MemberIDRequired.Code {
		req.MemberID = resp.MemberID
		resp, err = req.RequestWith(ctx, s.cl)
	}
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	if req.MemberID != "" {
		s.withdraw(ctx, group, req.MemberID)
	}
	if err != nil {
		return false, s.failed(fmt.Sprintf("having the positions of group %q kept", group), err)
	}
	return true, nil
}

// withdraw ends a place that visit took. Where that fails, it ends with its session.
func (s *Store) withdraw(ctx context.Context, group, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookupTimeout)
	defer cancel()
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Group, req.MemberID = group, id
	m := kmsg.NewLeaveGroupRequestMember()
	m.MemberID = id
	req.Members = append(req.Members, m)
	if _, err := req.RequestWith(ctx, s.cl); err != nil {
		s.log.Warn("leaving the group failed; it waits for our session to end", "group", group, "error", err)
	}
}
