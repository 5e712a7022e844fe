package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// Subscribe is store.Subscriber's.
//
// The positions are written before this process joins, when the group has no member: a cluster takes them from outside
// only then. It returns when the cluster counts the group as having members, so that nobody else who starts the group at
// the same moment can overwrite them afterwards.
func (s *Store) Subscribe(ctx context.Context, spec store.Spec) (store.Feed, error) {
	d, err := s.patientDetail(ctx, spec.Topic)
	if err != nil {
		return nil, err
	}
	if err := s.position(ctx, spec, len(d.Partitions)); err != nil {
		return nil, err
	}
	f, err := s.join(spec, d.ID)
	if err != nil {
		return nil, err
	}
	if err := s.settled(ctx, f, len(d.Partitions)); err != nil {
		f.cancel() // no use in leaving cleanly what can't be reached
		_ = f.Close(ctx)
		return nil, err
	}
	return f, nil
}

// position gives the group the positions that it lacks: those of spec.Start if it has none, else the oldest. Where the
// group has members they do that.
func (s *Store) position(ctx context.Context, spec store.Spec, partitions int) error {
	for {
		have, err := s.positions(ctx, spec.Topic, spec.Group)
		if err != nil || len(have) >= partitions {
			return err
		}
		start := spec.Start
		if len(have) > 0 {
			start = store.Start{}
		}
		at, err := s.Resolve(ctx, spec.Topic, start)
		if err != nil {
			return err
		}
		var missing []store.Position
		for _, p := range at {
			if _, ok := have[p.Partition]; !ok {
				missing = append(missing, p)
			}
		}
		switch err := s.commitFromOutside(ctx, spec.Topic, spec.Group, missing); {
		case !errors.Is(err, errs.Conflict):
			return err
		case len(have) > 0:
			return nil // its members see to the new partitions
		}
		if !pause(ctx, 20*time.Millisecond) { // another is at it
			return fmt.Errorf("group %q is being started by another: %w", spec.Group, errs.Unavailable)
		}
	}
}

// positions are those that the group has on the topic.
func (s *Store) positions(ctx context.Context, topic, group string) (map[int32]store.Position, error) {
	have := map[int32]store.Position{}
	err := s.retry(ctx, fmt.Sprintf("positions of group %q", group), func() error {
		clear(have)
		list, err := s.adm.FetchOffsetsForTopics(ctx, group, topic)
		if gone(err) {
			return nil
		}
		for p, o := range list[topic] {
			if err == nil {
				err = o.Err
			}
			if o.At >= 0 {
				have[p] = store.Position{Partition: p, Next: o.At, Beyond: o.Metadata}
			}
		}
		return err
	})
	return have, err
}

// retry asks again while the cluster is busy with itself: a leader or a coordinator is being chosen. Only ctx ends that.
func (s *Store) retry(ctx context.Context, what string, ask func() error) error {
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		if err := s.usable(); err != nil {
			return err
		}
		err := ask()
		if err == nil {
			return nil
		}
		unknown := errors.Is(kindOf(err), errs.UnknownTopic) && wait > 300*time.Millisecond // new ones become known sooner
		if unknown || !kerr.IsRetriable(err) || !pause(ctx, wait) {
			return s.failed(what, err)
		}
	}
}

// commitFromOutside sets positions of a group without members; Conflict when it has some.
func (s *Store) commitFromOutside(ctx context.Context, topic, group string, to []store.Position) error {
	offsets := kadm.Offsets{}
	for _, p := range to {
		offsets.Add(kadm.Offset{Topic: topic, Partition: p.Partition, At: p.Next, LeaderEpoch: -1, Metadata: p.Beyond})
	}
	err := s.retry(ctx, fmt.Sprintf("setting positions of group %q", group), func() error {
		answers, err := s.adm.CommitOffsets(ctx, group, offsets)
		if err == nil {
			err = answers.Error()
		}
		return err
	})
	if errors.Is(err, errs.Fenced) {
		return fmt.Errorf("group %q has members (%s): %w", group, err.Error(), errs.Conflict)
	}
	return err
}

// join makes the feed and begins to join; it does not wait for the cluster.
func (s *Store) join(spec store.Spec, id kadm.TopicID) (*feed, error) {
	f := newFeed(s, spec, id)
	cl, err := kgo.NewClient(s.clientOpts(f.opts()...)...)
	if err != nil {
		f.cancel()
		return nil, fmt.Errorf("kafka client: %w: %w", err, errs.Unavailable)
	}
	f.cl = cl
	close(f.ready)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		f.cancel()
		cl.Close()
		return nil, store.ErrClosed
	}
	s.feeds[f] = struct{}{}
	f.goroutines.Go(f.pump)
	f.goroutines.Go(f.commits)
	return f, nil
}

// settled waits until the group has members and all partitions a position.
func (s *Store) settled(ctx context.Context, f *feed, partitions int) error {
	group := f.spec.Group
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 200*time.Millisecond) {
		ok, err := s.hasMembers(ctx, group)
		if err == nil && ok {
			var have map[int32]store.Position
			have, err = s.positions(ctx, f.spec.Topic, group)
			ok = len(have) >= partitions
		}
		switch {
		case err == nil && ok:
			return nil
		case errors.Is(err, store.ErrClosed), errors.Is(err, errs.UnknownTopic):
			return err
		}
		if !pause(ctx, wait) {
			return fmt.Errorf("joining group %q: %w: %w", group, errors.Join(ctx.Err(), err), errs.Unavailable)
		}
	}
}

func (s *Store) hasMembers(ctx context.Context, group string) (bool, error) {
	groups, err := s.adm.DescribeGroups(ctx, group)
	if err != nil {
		return false, s.failed(fmt.Sprintf("state of group %q", group), err)
	}
	switch groups[group].State {
	case "", "Empty", "Dead":
		return false, nil
	}
	return true, nil
}
