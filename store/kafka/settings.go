package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// The settings of topics that we know.
const (
	retention      = "retention.ms"
	retentionBytes = "retention.bytes"
	cleanup        = "cleanup.policy"
	longestBatch   = "max.message.bytes"
	inSync         = "min.insync.replicas"
	unclean        = "unclean.leader.election.enable"
)

// topicsAtOnce bounds how many topics one request asks for.
const topicsAtOnce = 1000

// settingsOf asks for some settings of topics: by topic and name. A topic that is not there is missing in the answer.
func (s *Store) settingsOf(ctx context.Context, topics []string, names ...string) (map[string]map[string]string, error) {
	found := make(map[string]map[string]string, len(topics))
	for some := range slices.Chunk(topics, topicsAtOnce) {
		req := kmsg.NewPtrDescribeConfigsRequest()
		for _, topic := range some {
			r := kmsg.NewDescribeConfigsRequestResource()
			r.ResourceType, r.ResourceName, r.ConfigNames = kmsg.ConfigResourceTypeTopic, topic, names
			req.Resources = append(req.Resources, r)
		}
		resp, err := req.RequestWith(ctx, s.cl)
		if err != nil {
			return nil, err
		}
		for i := range resp.Resources {
			r := &resp.Resources[i]
			err := kerr.ErrorForCode(r.ErrorCode)
			switch {
			case err == nil:
				found[r.ResourceName] = values(r.Configs)
			case !errors.Is(err, kerr.UnknownTopicOrPartition):
				return nil, fmt.Errorf("topic %q: %w", r.ResourceName, err)
			}
		}
	}
	return found, nil
}

func values(configs []kmsg.DescribeConfigsResponseResourceConfig) map[string]string {
	m := make(map[string]string, len(configs))
	for i := range configs {
		if v := configs[i].Value; v != nil {
			m[configs[i].Name] = *v
		}
	}
	return m
}

// describe fills in what the settings say.
func (s *Store) describe(ctx context.Context, list []store.Topic) error {
	names := make([]string, len(list))
	for i, t := range list {
		names[i] = t.Name
	}
	found, err := s.settingsOf(ctx, names, retention, retentionBytes, cleanup)
	if err != nil {
		return s.failed("describing topics", err)
	}
	for i := range list {
		t, is := &list[i], found[list[i].Name] // none for one that was deleted meanwhile
		ms, _ := strconv.ParseInt(is[retention], 10, 64)
		size, _ := strconv.ParseInt(is[retentionBytes], 10, 64)
		t.Retention = max(-1, time.Duration(ms)*time.Millisecond)
		t.RetentionBytes = max(-1, size)
		t.Cleanup = is[cleanup]
	}
	return nil
}

// maxBytes is the longest batch that the topic takes. Where the cluster does not say, Kafka's default is a good guess.
func (s *Store) maxBytes(ctx context.Context, name string) int32 {
	found, err := s.settingsOf(ctx, []string{name}, longestBatch)
	if err != nil {
		s.log.Warn("a topic's limits are unknown, the default is taken", "topic", name, "error", err)
		return defaultBatch
	}
	if n, err := strconv.ParseInt(found[name][longestBatch], 10, 64); err == nil {
		return int32(min(max(n, 1024), maxBatch))
	}
	return defaultBatch
}

// settings are what the description says, as Kafka spells it.
func settings(t store.Topic) (map[string]*string, error) {
	m := map[string]*string{}
	switch {
	case t.Retention < 0:
		m[retention] = kadm.StringPtr("-1")
	case t.Retention > 0:
		m[retention] = kadm.StringPtr(strconv.FormatInt(max(1, t.Retention.Milliseconds()), 10))
	}
	if t.RetentionBytes != 0 {
		m[retentionBytes] = kadm.StringPtr(strconv.FormatInt(max(-1, t.RetentionBytes), 10))
	}
	switch t.Cleanup {
	case "":
	case store.CleanupDelete, store.CleanupCompact:
		m[cleanup] = kadm.StringPtr(t.Cleanup)
	default:
		return nil, fmt.Errorf("topic %q with the cleanup %q, which is neither delete nor compact: %w", t.Name, t.Cleanup, errs.InvalidParam)
	}
	return m, nil
}
