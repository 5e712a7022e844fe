package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
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
// only then. Where the group has none, it returns when the cluster has counted us in, so that nobody else who starts the
// group at the same moment can overwrite them afterwards.
func (s *Store) Subscribe(ctx context.Context, spec store.Spec) (store.Feed, error) {
	topic, have, members, err := s.look(ctx, spec)
	if err != nil {
		return nil, err
	}
	name := s.reserve(spec)
	members = s.evict(ctx, spec, name, members)
	complete, err := s.position(ctx, spec, len(topic.Partitions), have)
	if err != nil {
		s.release(spec.Group, name)
		return nil, err
	}
	f, err := s.join(spec, name, topic.ID)
	if err != nil {
		s.release(spec.Group, name)
		return nil, err
	}
	if complete && len(members) > 0 {
		return f, nil
	}
	if err := s.settled(ctx, f, len(topic.Partitions)); err != nil {
		s.abandon(ctx, f)
		return nil, err
	}
	return f, nil
}

// look asks for all at once that joining depends on.
func (s *Store) look(ctx context.Context, spec store.Spec) (topic kadm.TopicDetail, have map[int32]store.Position, members []member, err error) {
	var wg sync.WaitGroup
	var faults [3]error
	wg.Go(func() { topic, faults[0] = s.patientDetail(ctx, spec.Topic) })
	wg.Go(func() { have, faults[1] = s.positions(ctx, spec.Topic, spec.Group) })
	wg.Go(func() {
		faults[2] = s.retry(ctx, "joining", func() error {
			all, err := s.membersOf(ctx, spec.Group)
			members = all[spec.Group]
			return err
		})
	})
	wg.Wait()
	return topic, have, members, cmp.Or(faults[0], faults[1], faults[2])
}

// abandon ends a member that could not join. It does not wait: what could not be reached can't be left cleanly, but a place
// that we may have by now is given up.
func (s *Store) abandon(ctx context.Context, f *feed) {
	f.cancel()
	leave := func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookupTimeout)
		defer cancel()
		_ = f.Close(ctx)
	}
	if !s.background(leave) {
		_ = f.Close(ctx) // by Store.Close too
	}
}

// position gives the group the positions that it lacks: those of spec.Start if it has none, else the oldest. Where the
// group has members they do that, and the group is not complete yet when it returns.
func (s *Store) position(ctx context.Context, spec store.Spec, partitions int, have map[int32]store.Position) (complete bool, err error) {
	for len(have) < partitions {
		start := spec.Start
		if len(have) > 0 {
			start = store.Start{}
		}
		at, err := s.Resolve(ctx, spec.Topic, start)
		if err != nil {
			return false, err
		}
		var missing []store.Position
		for _, p := range at {
			if _, ok := have[p.Partition]; !ok {
				missing = append(missing, p)
			}
		}
		switch err := s.commitFromOutside(ctx, spec.Topic, spec.Group, missing); {
		case !errors.Is(err, errs.Conflict):
			return err == nil, err
		case len(have) > 0:
			return false, nil // its members see to the new partitions
		}
		if !pause(ctx, 20*time.Millisecond) { // another is at it
			return false, fmt.Errorf("group %q is being started by another: %w", spec.Group, errs.Unavailable)
		}
		if have, err = s.positions(ctx, spec.Topic, spec.Group); err != nil {
			return false, err
		}
	}
	return true, nil
}

// positions are those that the group has on the topic.
func (s *Store) positions(ctx context.Context, topic, group string) (map[int32]store.Position, error) {
	have := map[int32]store.Position{}
	err := s.retry(ctx, fmt.Sprintf("positions of group %q", group), func() error {
		clear(have)
		list, err := s.adm.FetchOffsets(ctx, group)
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
func (s *Store) join(spec store.Spec, name string, id kadm.TopicID) (*feed, error) {
	f := newFeed(s, spec, name, id)
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

// whatIsWrong is the error that Poll would tell.
func (f *feed) whatIsWrong() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.trouble
}

// settled waits until the group has counted us in, and all partitions have a position: those that were forgotten since we
// looked the member writes when it gains them.
func (s *Store) settled(ctx context.Context, f *feed, partitions int) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for joined := false; !joined; {
		select {
		case <-f.joined:
			joined = true
		case <-tick.C:
			if _, err := s.detail(ctx, f.spec.Topic); errors.Is(err, errs.UnknownTopic) {
				return err
			}
		case <-f.closed:
			return store.ErrClosed
		case <-ctx.Done():
			return fmt.Errorf("joining group %q: %w: %w", f.spec.Group, errors.Join(ctx.Err(), f.whatIsWrong()), errs.Unavailable)
		}
	}
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 200*time.Millisecond) {
		have, err := s.positions(ctx, f.spec.Topic, f.spec.Group)
		if err != nil || len(have) >= partitions {
			return err
		}
		if !pause(ctx, wait) {
			return fmt.Errorf("group %q has no position on some partitions yet: %w: %w", f.spec.Group, ctx.Err(), errs.Unavailable)
		}
	}
}
