package kafka

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/kateway/kateway/internal/errs"
)

const (
	topicAge      = 10 * time.Second // after which a topic is looked up again, beside the publish that notices
	lookupTimeout = 10 * time.Second
	maxBatch      = 64 << 20 // the longest batch that is sent, whatever a topic allows
	defaultBatch  = 1000012  // Kafka's own default of what a client sends at most
)

// topic is what publishing needs to know of one.
type topic struct {
	name     string
	id       kadm.TopicID
	maxBytes int32 // of a batch

	flows      atomic.Pointer[[]*flow] // by partition; it only grows
	turn       atomic.Uint32           // the partition for messages without a key
	turned     atomic.Int64            // when that was chosen
	looked     atomic.Int64            // when the cluster was asked last
	refreshing atomic.Bool
}

// flow is the traffic to one partition. It shows a partition that does not answer: publishes to it would wait, in a
// queue that only grows, behind those whose outcome is open.
type flow struct {
	waiting atomic.Int64 // messages without an outcome
	since   atomic.Int64 // last progress, or the first message after a rest; by Store.now
}

func (f *flow) enter(now time.Duration) {
	if f.waiting.Load() == 0 {
		f.since.Store(int64(now))
	}
	f.waiting.Add(1)
}

func (f *flow) leave(now time.Duration) {
	f.since.Store(int64(now))
	f.waiting.Add(-1)
}

// holdAfter is how long a partition may go without any progress before nothing more is handed to the client for it.
const holdAfter = time.Second

// doubtful reports that a message to the partition has no outcome, and may not get one soon: a connection was cut since the last
// progress, or there was none for a while. What is handed to the client now would wait behind it, and could not be taken back:
// nobody could tell that it was never sent.
func (f *flow) doubtful(now, cut time.Duration) bool {
	if f.waiting.Load() <= 0 {
		return false
	}
	idle := f.idle(now)
	return now-idle < cut || idle > holdAfter
}

// idle is how long ago the last progress was, or the first message after a rest.
func (f *flow) idle(now time.Duration) time.Duration { return now - time.Duration(f.since.Load()) }

func (t *topic) grow(partitions int) {
	var old []*flow
	if p := t.flows.Load(); p != nil {
		old = *p
	}
	if partitions <= len(old) {
		return
	}
	flows := append(make([]*flow, 0, partitions), old...)
	for range partitions - len(old) {
		flows = append(flows, &flow{})
	}
	t.flows.Store(&flows)
}

// keyless chooses the partition for the messages of a call that have no key: one for all calls of a short while, so that
// they share a batch, then the next; those in doubt are passed over.
func (t *topic) keyless(now, stay, cut time.Duration) int32 {
	if last := t.turned.Load(); now-time.Duration(last) > stay && t.turned.CompareAndSwap(last, int64(now)) {
		t.turn.Add(1)
	}
	flows := *t.flows.Load()
	n := uint32(len(flows))
	first := t.turn.Load()
	for i := range n {
		if p := (first + i) % n; !flows[p].doubtful(now, cut) {
			return int32(p)
		}
	}
	return int32(first % n)
}

// cached is a topic that was published to, or nil.
func (s *Store) cached(name string) *topic {
	v, _ := s.topics.Load(name)
	t, _ := v.(*topic)
	return t
}

// Partitions is how many a topic has, as far as that is known without asking the cluster; 0 where it is not.
func (s *Store) Partitions(topic string) int32 {
	if t := s.cached(topic); t != nil {
		return int32(len(*t.flows.Load()))
	}
	return 0
}

// topic finds a topic, in the cluster if it was never published to.
func (s *Store) topic(ctx context.Context, name string) (*topic, error) {
	if t := s.cached(name); t != nil {
		if s.now()-time.Duration(t.looked.Load()) > topicAge {
			s.refreshLater(t)
		}
		return t, nil
	}
	found := s.learning.DoChan(name, func() (any, error) {
		ctx, cancel := context.WithTimeout(s.ctx, lookupTimeout) // not one caller's: others wait for it too
		defer cancel()
		return s.learn(ctx, name)
	})
	select {
	case r := <-found:
		if r.Err != nil {
			return nil, r.Err
		}
		t, _ := r.Val.(*topic)
		return t, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("looking for topic %q: %w: %w", name, ctx.Err(), errs.Unavailable)
	}
}

// background runs f beside the callers; Close waits for it. It answers false, and does nothing, when the store is closed.
func (s *Store) background(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.work.Go(f)
	}
	return !s.closed
}

// learn asks the cluster for a topic that is to be published to.
func (s *Store) learn(ctx context.Context, name string) (*topic, error) {
	d, err := s.patientDetail(ctx, name)
	if err != nil {
		return nil, err
	}
	t := &topic{name: name, id: d.ID, maxBytes: s.maxBytes(ctx, name)}
	t.grow(len(d.Partitions))
	t.looked.Store(int64(s.now()))
	s.topics.Store(name, t)
	return t, nil
}

// patientDetail asks again for a short while when the topic is unknown: a broker hears of a new one a little later than
// its maker.
func (s *Store) patientDetail(ctx context.Context, name string) (kadm.TopicDetail, error) {
	d, err := s.detail(ctx, name)
	for wait := 20 * time.Millisecond; errors.Is(err, errs.UnknownTopic) && wait < 100*time.Millisecond; wait *= 2 {
		if !pause(ctx, wait) {
			break
		}
		d, err = s.detail(ctx, name)
	}
	return d, err
}

// detail is the cluster's present view of a topic.
func (s *Store) detail(ctx context.Context, name string) (kadm.TopicDetail, error) {
	if err := s.usable(); err != nil {
		return kadm.TopicDetail{}, err
	}
	list, err := s.adm.ListTopicsWithInternal(ctx, name)
	d := list[name]
	if err == nil {
		err = d.Err
	}
	if err == nil && len(d.Partitions) == 0 {
		err = kerr.UnknownTopicOrPartition
	}
	if err != nil {
		return kadm.TopicDetail{}, s.failed(fmt.Sprintf("topic %q", name), err)
	}
	return d, nil
}

// refreshLater looks at the topic beside the caller.
func (s *Store) refreshLater(t *topic) {
	if t.refreshing.CompareAndSwap(false, true) {
		s.background(func() {
			defer t.refreshing.Store(false)
			s.refresh(s.ctx, t)
		})
	}
}

// refresh learns of new partitions, and of a topic that is gone or another one.
func (s *Store) refresh(ctx context.Context, t *topic) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	d, err := s.detail(ctx, t.name)
	switch {
	case errors.Is(err, errs.UnknownTopic), err == nil && d.ID != t.id:
		s.forget(t)
	case err == nil:
		if n := len(d.Partitions); n > len(*t.flows.Load()) && s.known(ctx, t.name, n) {
			t.grow(n)
		}
		t.looked.Store(int64(s.now()))
	}
}

// known waits until the producing clients that use the topic know so many partitions of it: they refuse others.
func (s *Store) known(ctx context.Context, name string, partitions int) bool {
	for _, p := range s.producers() {
		for {
			if leader, _, err := p.cl.PartitionLeader(name, 0); leader < 0 && err == nil {
				break // it does not use the topic
			}
			if leader, _, _ := p.cl.PartitionLeader(name, int32(partitions-1)); leader >= 0 {
				break
			}
			p.cl.ForceMetadataRefresh()
			if !pause(ctx, 20*time.Millisecond) {
				return false
			}
		}
	}
	return true
}

func (s *Store) producers() []*producer {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.local == nil {
		return []*producer{s.all}
	}
	return []*producer{s.all, s.local}
}

// forget drops what is known of a topic that is gone, here and in the producing clients, which otherwise would never
// take to a new one of its name.
func (s *Store) forget(t *topic) {
	if !s.topics.CompareAndDelete(t.name, t) {
		return
	}
	for _, p := range s.producers() {
		p.cl.PurgeTopicsFromProducing(t.name)
	}
}

// pause waits; false when ctx ended before.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
