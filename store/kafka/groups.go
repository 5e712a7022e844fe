package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// groupsAtOnce bounds how many groups one request asks for.
const groupsAtOnce = 200

// Groups looks at every group of the cluster: Kafka keeps no list by topic.
func (s *Store) Groups(ctx context.Context, topic string) ([]string, error) {
	if _, err := s.patientDetail(ctx, topic); err != nil {
		return nil, err
	}
	listed, err := s.adm.ListGroups(ctx)
	if err != nil {
		return nil, s.failed("listing groups", err)
	}
	var found []string
	for names := range slices.Chunk(listed.Groups(), groupsAtOnce) {
		positions := s.adm.FetchManyOffsets(ctx, names...)
		members, err := s.membersOf(ctx, names...)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			fetched := positions[name]
			if fetched.Err != nil && !gone(fetched.Err) {
				return nil, s.failed(fmt.Sprintf("positions of group %q", name), fetched.Err)
			}
			if hasPosition(fetched.Fetched[topic]) || wants(members[name], topic) {
				found = append(found, name)
			}
		}
	}
	slices.Sort(found)
	return found, nil
}

// gone tells a group that has ended since it was listed, or is none that has positions.
func gone(err error) bool {
	return errors.Is(err, kerr.GroupIDNotFound) || errors.Is(err, kerr.InvalidGroupID)
}

func hasPosition(partitions map[int32]kadm.OffsetResponse) bool {
	for _, o := range partitions {
		if o.At >= 0 {
			return true
		}
	}
	return false
}

// Lag tells how far the group is. The end is the last stable offset: what is behind it can't be read yet.
func (s *Store) Lag(ctx context.Context, topic, group string) ([]store.PartitionLag, error) {
	starts, err := s.offsets(ctx, topic, s.adm.ListStartOffsets)
	if err != nil {
		return nil, err
	}
	ends, err := s.offsets(ctx, topic, s.adm.ListCommittedOffsets)
	if err != nil {
		return nil, err
	}
	have, err := s.positions(ctx, topic, group)
	if err != nil {
		return nil, err
	}
	list := make([]store.PartitionLag, min(len(starts), len(ends)))
	for i := range list {
		p := int32(i)
		list[i] = store.PartitionLag{Partition: p, Start: starts[i], End: max(starts[i], ends[i]), Committed: -1}
		if at, ok := have[p]; ok {
			list[i].Committed, list[i].Beyond = at.Next, at.Beyond
		}
	}
	return list, nil
}

// Resolve tells where start is.
func (s *Store) Resolve(ctx context.Context, topic string, start store.Start) ([]store.Position, error) {
	list := s.adm.ListStartOffsets
	switch {
	case start.Newest:
		list = s.adm.ListCommittedOffsets
	case !start.Since.IsZero():
		list = func(ctx context.Context, topics ...string) (kadm.ListedOffsets, error) {
			return s.adm.ListOffsetsAfterMilli(ctx, ceilMilli(start.Since), topics...)
		}
	}
	offsets, err := s.offsets(ctx, topic, list)
	if err != nil {
		return nil, err
	}
	at := make([]store.Position, len(offsets))
	for i, o := range offsets {
		at[i] = store.Position{Partition: int32(i), Next: o}
	}
	return at, nil
}

// ceilMilli is the first millisecond that is not before t: messages have whole ones.
func ceilMilli(t time.Time) int64 {
	ms := t.UnixMilli()
	if time.UnixMilli(ms).Before(t) {
		ms++
	}
	return ms
}

// offsets asks for one offset per partition, and again while a leader is being chosen.
func (s *Store) offsets(ctx context.Context, topic string, list func(context.Context, ...string) (kadm.ListedOffsets, error)) ([]int64, error) {
	if _, err := s.patientDetail(ctx, topic); err != nil {
		return nil, err
	}
	var offsets []int64
	err := s.retry(ctx, fmt.Sprintf("offsets of topic %q", topic), func() error {
		listed, err := list(ctx, topic)
		if err == nil {
			err = listed.Error()
		}
		offsets = make([]int64, len(listed[topic]))
		for p, o := range listed[topic] {
			if err == nil && int(p) >= len(offsets) {
				err = kerr.LeaderNotAvailable // one of those below was left out
			}
			if err == nil {
				offsets[p] = o.Offset
			}
		}
		return err
	})
	return offsets, err
}

// Seek sets positions.
func (s *Store) Seek(ctx context.Context, topic, group string, to ...store.Position) error {
	d, err := s.patientDetail(ctx, topic)
	if err != nil {
		return err
	}
	for _, p := range to {
		if p.Partition < 0 || int(p.Partition) >= len(d.Partitions) {
			return fmt.Errorf("topic %q has %d partitions, not %d: %w", topic, len(d.Partitions), p.Partition, errs.InvalidParam)
		}
		if len(p.Beyond) > store.MaxBeyond {
			return fmt.Errorf("%d bytes beside the position, the limit is %d: %w", len(p.Beyond), store.MaxBeyond, errs.TooLarge)
		}
	}
	if len(to) == 0 {
		return nil
	}
	return s.commitFromOutside(ctx, topic, group, to)
}

// ForgetGroup deletes the group; of one that has positions on other topics too, as a native one may, those on the topic
// alone.
func (s *Store) ForgetGroup(ctx context.Context, topic, group string) error {
	if _, err := s.patientDetail(ctx, topic); err != nil {
		return err
	}
	here, elsewhere, err := s.placesOf(ctx, topic, group)
	if err != nil {
		return err
	}
	members, err := s.membersOf(ctx, group)
	switch {
	case err != nil:
		return err
	case wants(members[group], topic):
		return fmt.Errorf("group %q has %d members: %w", group, len(members[group]), errs.Conflict)
	case len(here) == 0:
		return fmt.Errorf("group %q has no position on topic %q: %w", group, topic, errs.NotFound)
	}
	return s.retry(ctx, fmt.Sprintf("forgetting group %q", group), func() error {
		if !elsewhere {
			_, err := s.adm.DeleteGroup(ctx, group)
			return err
		}
		only := kadm.TopicsSet{}
		only.Add(topic, here...)
		answers, err := s.adm.DeleteOffsets(ctx, group, only)
		return cmp.Or(err, answers.Error())
	})
}

// placesOf answers the partitions of the topic on which the group has a position, and whether it has some on other topics.
func (s *Store) placesOf(ctx context.Context, topic, group string) (here []int32, elsewhere bool, err error) {
	err = s.retry(ctx, fmt.Sprintf("positions of group %q", group), func() error {
		here, elsewhere = nil, false
		all, err := s.adm.FetchOffsets(ctx, group)
		if gone(err) {
			return nil
		}
		for t, partitions := range all {
			elsewhere = elsewhere || t != topic && hasPosition(partitions)
		}
		for p, o := range all[topic] {
			if o.At >= 0 {
				here = append(here, p)
			}
		}
		return err
	})
	return here, elsewhere, err
}
