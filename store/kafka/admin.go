package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// Topics is store.Admin's, as are the methods below.
func (s *Store) Topics(ctx context.Context) ([]store.Topic, error) {
	if err := s.usable(); err != nil {
		return nil, err
	}
	details, err := s.adm.ListTopics(ctx)
	if err != nil {
		return nil, s.failed("listing topics", err)
	}
	var list []store.Topic
	for _, d := range details {
		if d.Err != nil || d.IsInternal {
			continue
		}
		t := store.Topic{Name: d.Topic, Partitions: int32(len(d.Partitions))}
		for _, p := range d.Partitions {
			t.Replicas = int16(len(p.Replicas))
			break
		}
		list = append(list, t)
	}
	slices.SortFunc(list, func(a, b store.Topic) int { return strings.Compare(a.Name, b.Name) })
	return list, s.describe(ctx, list)
}

// CreateTopic also waits until the brokers know the new topic and each partition has a leader.
func (s *Store) CreateTopic(ctx context.Context, t store.Topic) error {
	if err := s.usable(); err != nil {
		return err
	}
	if t.Name == "" || t.Partitions < 0 || t.Replicas < 0 {
		return fmt.Errorf("topic %q with %d partitions and %d replicas: %w", t.Name, t.Partitions, t.Replicas, errs.InvalidParam)
	}
	configs, err := settings(t)
	if err != nil {
		return err
	}
	partitions, replicas := t.Partitions, t.Replicas
	if partitions == 0 {
		partitions = -1
	}
	if replicas == 0 {
		replicas = -1
	}
	resp, err := s.adm.CreateTopic(ctx, partitions, replicas, configs, t.Name)
	switch {
	case errors.Is(err, kerr.InvalidTopicException) && strings.Contains(resp.ErrMessage, "collide"):
		return fmt.Errorf("topic %q: %s: %w", t.Name, resp.ErrMessage, errs.Conflict)
	case err != nil && resp.ErrMessage != "":
		return s.failed(fmt.Sprintf("creating topic %q: %s", t.Name, resp.ErrMessage), err)
	case err != nil:
		return s.failed(fmt.Sprintf("creating topic %q", t.Name), err)
	}
	return s.awaitTopic(ctx, t.Name, resp.ID, int(resp.NumPartitions))
}

// awaitTopic waits until every broker says that the topic has that many partitions, each with a leader: clients learn of it
// from any of them.
func (s *Store) awaitTopic(ctx context.Context, name string, id kadm.TopicID, partitions int) error {
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 200*time.Millisecond) {
		d, err := s.detail(ctx, name)
		if err != nil && !errors.Is(err, errs.UnknownTopic) {
			return err
		}
		ready := err == nil && len(d.Partitions) >= partitions && (d.ID == id || id == kadm.TopicID{})
		for _, p := range d.Partitions {
			ready = ready && p.Err == nil && p.Leader >= 0
		}
		if ready && s.knownByBrokers(ctx, name, d.ID, partitions) {
			return nil
		}
		if !pause(ctx, wait) {
			return fmt.Errorf("topic %q is made, but not ready yet: %w: %w", name, ctx.Err(), errs.Unavailable)
		}
	}
}

// brokerPatience is how long one broker may take to say what it knows. One that does not answer tells clients nothing either.
const brokerPatience = 2 * time.Second

// knownByBrokers asks each broker whether it knows so many partitions of the topic.
func (s *Store) knownByBrokers(ctx context.Context, name string, id kadm.TopicID, partitions int) bool {
	var wg sync.WaitGroup
	var missing atomic.Bool
	ctx, cancel := context.WithTimeout(ctx, brokerPatience)
	defer cancel()
	for _, b := range s.cl.DiscoveredBrokers() {
		wg.Go(func() {
			req, t := kmsg.NewPtrMetadataRequest(), kmsg.NewMetadataRequestTopic()
			t.Topic = &name
			req.Topics = append(req.Topics, t)
			answer, err := b.Request(ctx, req)
			if resp, ok := answer.(*kmsg.MetadataResponse); ok && err == nil {
				known := len(resp.Topics) == 1 && resp.Topics[0].TopicID == [16]byte(id) && len(resp.Topics[0].Partitions) >= partitions
				if !known {
					missing.Store(true)
				}
			}
		})
	}
	wg.Wait()
	return !missing.Load()
}

// AlterTopic also waits until new partitions can be published to.
func (s *Store) AlterTopic(ctx context.Context, t store.Topic) error {
	d, err := s.patientDetail(ctx, t.Name)
	if err != nil {
		return err
	}
	have := int32(len(d.Partitions))
	if t.Partitions < 0 || t.Partitions != 0 && t.Partitions < have {
		return fmt.Errorf("topic %q has %d partitions and can't have %d: %w", t.Name, have, t.Partitions, errs.InvalidParam)
	}
	if err := s.configure(ctx, t); err != nil || t.Partitions <= have {
		return err
	}
	answers, err := s.adm.UpdatePartitions(ctx, int(t.Partitions), t.Name)
	if err == nil {
		err = answers.Error()
	}
	if err != nil {
		return s.failed(fmt.Sprintf("adding partitions to topic %q", t.Name), err)
	}
	return s.grown(ctx, t)
}

// configure changes the settings.
func (s *Store) configure(ctx context.Context, t store.Topic) error {
	configs, err := settings(t)
	if err != nil || len(configs) == 0 {
		return err
	}
	var changes []kadm.AlterConfig
	for name, value := range configs {
		changes = append(changes, kadm.AlterConfig{Name: name, Value: value})
	}
	answers, err := s.adm.AlterTopicConfigs(ctx, changes, t.Name)
	for _, a := range answers {
		err = errors.Join(err, a.Err)
	}
	if err != nil {
		return s.failed(fmt.Sprintf("configuring topic %q", t.Name), err)
	}
	return nil
}

// grown waits for the new partitions, and tells all who use the topic here.
func (s *Store) grown(ctx context.Context, t store.Topic) error {
	if err := s.awaitTopic(ctx, t.Name, kadm.TopicID{}, int(t.Partitions)); err != nil {
		return err
	}
	if known := s.cached(t.Name); known != nil {
		s.refresh(ctx, known)
	}
	for _, f := range s.feedsOf(t.Name) {
		f.cl.ForceMetadataRefresh()
	}
	return nil
}

// feedsOf are the members of this process on the topic.
func (s *Store) feedsOf(topic string) []*feed {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*feed
	for f := range s.feeds {
		if f.spec.Topic == topic {
			list = append(list, f)
		}
	}
	return list
}

// DeleteTopic also waits until the brokers no longer know the topic.
func (s *Store) DeleteTopic(ctx context.Context, name string) error {
	if err := s.usable(); err != nil {
		return err
	}
	if _, err := s.adm.DeleteTopic(ctx, name); err != nil {
		return s.failed(fmt.Sprintf("deleting topic %q", name), err)
	}
	for {
		_, err := s.detail(ctx, name)
		if errors.Is(err, errs.UnknownTopic) {
			break
		}
		if !pause(ctx, 10*time.Millisecond) {
			return fmt.Errorf("topic %q is being deleted: %w: %w", name, ctx.Err(), errs.Unavailable)
		}
	}
	if t := s.cached(name); t != nil {
		s.forget(t)
	}
	for _, f := range s.feedsOf(name) {
		s.background(f.verify)
	}
	return nil
}
