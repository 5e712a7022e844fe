package kafka

import (
	"context"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// member is who takes part in a group, by whichever protocol.
type member struct {
	id, instance string   // instance is "" where it has none
	topics       []string // that it wants; none is known while the group rebalances
}

// membersOf answers the members of each group that has some. One request tells of groups of the classic protocol, another,
// which only newer clusters know, of the others.
func (s *Store) membersOf(ctx context.Context, groups ...string) (map[string][]member, error) {
	described, err := s.adm.DescribeGroups(ctx, groups...)
	if err != nil {
		return nil, s.failed("describing groups", err)
	}
	found := map[string][]member{}
	var others []string
	for _, group := range groups {
		g := described[group]
		switch {
		case kerr.IsRetriable(g.Err): // its coordinator is being chosen
			return nil, s.failed(fmt.Sprintf("describing group %q", group), g.Err)
		case len(g.Members) == 0:
			others = append(others, group)
		}
		for i := range g.Members {
			m := member{id: g.Members[i].MemberID, instance: deref(g.Members[i].InstanceID)}
			if c, ok := g.Members[i].Join.AsConsumer(); ok {
				m.topics = c.Topics
			}
			found[group] = append(found[group], m)
		}
	}
	return found, s.newMembersOf(ctx, found, others)
}

// newMembersOf adds the members of groups of the new protocol. A cluster that knows no such groups has none.
func (s *Store) newMembersOf(ctx context.Context, found map[string][]member, groups []string) error {
	if len(groups) == 0 {
		return nil
	}
	described, err := s.adm.DescribeConsumerGroups(ctx, groups...)
	if err != nil && (ctx.Err() != nil || kerr.IsRetriable(err) || kgo.IsRetryableBrokerErr(err) || isDial(err)) {
		return s.failed("describing groups of the new protocol", err)
	}
	for _, group := range groups {
		for _, m := range described[group].Members {
			found[group] = append(found[group], member{id: m.MemberID, instance: deref(m.InstanceID), topics: m.SubscribedTopics})
		}
	}
	return nil
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// wants reports whether one of the members reads the topic.
func wants(members []member, topic string) bool {
	return slices.ContainsFunc(members, func(m member) bool { return slices.Contains(m.topics, topic) })
}
