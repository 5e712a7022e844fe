package kafka

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// A member that has a name of its own in the group (Kafka's group.instance.id) can be removed by that name: the cluster
// keeps the place of a process that was killed until its session ends, and nobody gets its partitions before. A group's
// next member need not wait for that; it removes the places of the dead, and joins.
//
// A name has one holder. Who joins under a name that is held takes it over in the classic protocol, and the holder is
// fenced; in the new one it is refused. So each member of a process has a name of its own, and two processes with one id,
// which is a mistake, must not fight for it at full speed: see feed.retryIn.

// instance is a name of a member in a group.
type instance struct{ group, name string }

// instanceName is kateway.<n>.<gateway>: a process is its group's only member as a rule, that is n = 0. It has only
// characters that Kafka allows in the names of topics.
func instanceName(gateway string, n int) string { return fmt.Sprintf("kateway.%d.%s", n, gateway) }

// gatewayOf reads what instanceName wrote.
func gatewayOf(name string) (gateway string, ok bool) {
	rest, ok := strings.CutPrefix(name, "kateway.")
	n, gateway, found := strings.Cut(rest, ".")
	_, err := strconv.ParseUint(n, 10, 31)
	return gateway, ok && found && err == nil && gateway != ""
}

// reserve takes the first name of the gateway that no other member of this process has in the group; "" where it has none.
func (s *Store) reserve(spec store.Spec) string {
	if spec.Instance == "" {
		return ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for n := 0; ; n++ {
		in := instance{spec.Group, instanceName(spec.Instance, n)}
		if _, taken := s.instances[in]; !taken {
			s.instances[in] = struct{}{}
			return in.name
		}
	}
}

func (s *Store) release(group, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.instances, instance{group, name})
}

// held reports whether the name belongs to another member of this process than the one that has reserved mine.
func (s *Store) held(group, name, mine string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, taken := s.instances[instance{group, name}]
	return taken && name != mine
}

// dead are the names whose places are to be given up: those of our earlier self, and of gateways that are gone.
func (s *Store) dead(spec store.Spec, mine string, members []member) (names []string) {
	for _, m := range members {
		gateway, ok := gatewayOf(m.instance)
		switch {
		case !ok:
		case spec.Instance != "" && gateway == spec.Instance:
			if !s.held(spec.Group, m.instance, mine) {
				names = append(names, m.instance)
			}
		case spec.Gone != nil && spec.Gone(gateway):
			names = append(names, m.instance)
		}
	}
	return names
}

// evict removes the places of the dead, and answers the members that are left. A failure is no reason not to join: the
// places are then given up when their sessions end.
func (s *Store) evict(ctx context.Context, spec store.Spec, mine string, members []member) []member {
	names := s.dead(spec, mine, members)
	if len(names) == 0 {
		return members
	}
	answers, err := s.adm.LeaveGroup(ctx, kadm.LeaveGroup(spec.Group).InstanceIDs(names...).Reason("its process is gone"))
	var left []member
	for _, m := range members {
		if a, removed := answers[m.instance]; !removed || a.Err != nil && !errors.Is(a.Err, kerr.UnknownMemberID) {
			left = append(left, m)
		}
	}
	switch {
	case err == nil:
		err = answers.Error()
	case errors.Is(err, kerr.GroupIDNotFound):
		err = nil
	}
	if err != nil && !errors.Is(err, kerr.UnknownMemberID) {
		s.cannotEvict(spec.Group, names, err)
		return left
	}
	s.log.Info("places of dead members were given up", "group", spec.Group, "instances", names)
	return left
}

// cannotEvict says so, once as a warning: what a cluster does not allow, it does not allow for every group.
func (s *Store) cannotEvict(group string, names []string, err error) {
	log := s.log.Debug
	if s.toldEviction.CompareAndSwap(false, true) {
		log = s.log.Warn
	}
	log("the cluster did not remove dead members; their partitions wait until their sessions end",
		"group", group, "instances", names, "session_timeout", s.cfg.SessionTimeout, "error", err)
}

// giveUp removes the member's own place: the client of one that has a name leaves it to its next self. The member's id
// goes with it, so that another process that took over the name by mistake keeps its place.
func (f *feed) giveUp(ctx context.Context, id string) {
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Group = f.spec.Group
	m := kmsg.NewLeaveGroupRequestMember()
	m.MemberID, m.InstanceID, m.Reason = id, &f.instance, kmsg.StringPtr("closed")
	req.Members = append(req.Members, m)
	resp, err := req.RequestWith(ctx, f.s.cl)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	if err == nil && len(resp.Members) > 0 {
		err = kerr.ErrorForCode(resp.Members[0].ErrorCode)
	}
	switch {
	case err == nil, errors.Is(err, kerr.UnknownMemberID), errors.Is(err, kerr.FencedInstanceID), errors.Is(err, kerr.GroupIDNotFound):
	default:
		f.s.log.Warn("leaving the group failed; it waits for our session to end", "group", f.spec.Group, "error", err)
	}
}

const (
	fencedWait = 10 * time.Second // between two tries of a member whose name another has
	fencedLog  = time.Minute      // between two words about it
)

// OnGroupManageError is called by the client when the membership ended with an error, before it waits and joins again.
func (f *feed) OnGroupManageError(err error) {
	fenced := errors.Is(err, kerr.FencedInstanceID) || errors.Is(err, kerr.UnreleasedInstanceID)
	f.fenced.Store(fenced)
	if now := f.s.now(); fenced && (f.fencedTold == 0 || now-f.fencedTold > fencedLog) {
		f.fencedTold = now
		f.s.log.Error("another process has this gateway's place in a group; give each gateway an id of its own",
			"group", f.spec.Group, "instance", f.instance, "error", err)
	}
}

var _ kgo.HookGroupManageError = (*feed)(nil)

// retryIn is the client's wait before try n of a request.
func (f *feed) retryIn(n int) time.Duration {
	if f.fenced.Load() {
		return fencedWait
	}
	return backoff(n)
}

// troubled is what Poll answers when the membership failed with err. The client tries again.
func (f *feed) troubled(err error) error {
	if f.fenced.Load() {
		return fmt.Errorf("group %q: another process has the place of %s, give each gateway an id of its own: %w: %w",
			f.spec.Group, f.instance, err, errs.Unavailable)
	}
	return fmt.Errorf("group %q: %w: %w", f.spec.Group, err, errs.Unavailable)
}
