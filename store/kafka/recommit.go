package kafka

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// recommitEvery is the pace of Recommit: at most one group in this time, so that it does not load the cluster.
const recommitEvery = 20 * time.Millisecond

// Recommit writes again, as they are, the positions of the groups that kateway made and that have no member now, so that
// the cluster's offsets.retention.minutes does not forget them. It answers how many groups it did; beside an error, those
// that it did before. A group that gets a member meanwhile is left alone: the cluster refuses the commit. Call it more
// often than the retention, which is seven days by Kafka's default; it may take as long as ctx allows, at most 50 groups a
// second.
func (s *Store) Recommit(ctx context.Context) (int, error) {
	if err := s.usable(); err != nil {
		return 0, err
	}
	listed, err := s.adm.ListGroups(ctx, "Empty")
	if err != nil {
		return 0, s.failed("listing groups", err)
	}
	done := 0
	var faults []error
	for _, group := range listed.Groups() {
		if !oursRule.MatchString(group) {
			continue
		}
		if !pause(ctx, recommitEvery) {
			return done, fmt.Errorf("writing positions again: %w: %w", ctx.Err(), errs.Unavailable)
		}
		switch wrote, err := s.recommit(ctx, group); {
		case err != nil:
			faults = append(faults, err)
		case wrote:
			done++
		}
	}
	return done, errors.Join(faults...)
}

// oursRule is how kateway names groups: <app>.<group>.<app>.<topic>.<ver>, with .retry or .dead behind it for those that
// read a group's queues. The topic in the cluster may have any name, so the name of the group is all there is to go by.
var oursRule = regexp.MustCompile(`^[A-Za-z0-9-]{1,32}\.[A-Za-z0-9_-]{1,48}\.[A-Za-z0-9-]{1,32}\.[A-Za-z0-9_-]{1,100}\.[A-Za-z0-9-]{1,16}(\.retry|\.dead)?$`)

// recommit does one group. One without positions, or that is used by now, or whose topic is gone, is passed over.
func (s *Store) recommit(ctx context.Context, group string) (wrote bool, err error) {
	fetched, err := s.adm.FetchOffsets(ctx, group)
	switch {
	case gone(err):
		return false, nil
	case err != nil:
		return false, s.failed(fmt.Sprintf("positions of group %q", group), err)
	}
	for topic, partitions := range fetched {
		var at []store.Position
		for p, o := range partitions {
			if o.Err == nil && o.At >= 0 {
				at = append(at, store.Position{Partition: p, Next: o.At, Beyond: o.Metadata})
			}
		}
		if len(at) == 0 {
			continue
		}
		switch err := s.commitFromOutside(ctx, topic, group, at); {
		case err == nil:
			wrote = true
		case !errors.Is(err, errs.Conflict) && !errors.Is(err, errs.UnknownTopic):
			return wrote, err
		}
	}
	return wrote, nil
}
