package kafka

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/kateway/kateway/store"
)

// maxWarnings is how many Warnings tells; it counts the others.
const maxWarnings = 100

// Describe is store.Describer's.
func (s *Store) Describe(ctx context.Context) (store.Cluster, error) {
	if err := s.usable(); err != nil {
		return store.Cluster{}, err
	}
	m, err := s.adm.Metadata(ctx)
	if err != nil {
		return store.Cluster{}, s.failed("describing the cluster", err)
	}
	c := store.Cluster{ID: m.Cluster, Controller: m.Controller, Brokers: make([]store.Broker, len(m.Brokers))}
	brokers := map[int32]*store.Broker{}
	slices.SortFunc(m.Brokers, func(a, b kadm.BrokerDetail) int { return int(a.NodeID) - int(b.NodeID) })
	for i, b := range m.Brokers {
		c.Brokers[i] = store.Broker{ID: b.NodeID, Host: b.Host, Port: b.Port}
		if b.Rack != nil {
			c.Brokers[i].Rack = *b.Rack
		}
		brokers[b.NodeID] = &c.Brokers[i]
	}
	for _, t := range m.Topics {
		if t.Err != nil || t.IsInternal {
			continue
		}
		c.Topics++
		c.Partitions += len(t.Partitions)
		for _, p := range t.Partitions {
			count(&c, brokers, &p)
		}
	}
	return c, nil
}

func count(c *store.Cluster, brokers map[int32]*store.Broker, p *kadm.PartitionDetail) {
	if p.Leader < 0 {
		c.Leaderless++
	}
	if len(p.ISR) < len(p.Replicas) {
		c.UnderReplicated++
	}
	if b := brokers[p.Leader]; b != nil {
		b.Leaders++
	}
	for _, id := range p.Replicas {
		if b := brokers[id]; b != nil {
			b.Replicas++
		}
	}
}

// Warnings is store.Describer's.
func (s *Store) Warnings(ctx context.Context, topics ...string) ([]string, error) {
	if err := s.usable(); err != nil {
		return nil, err
	}
	m, err := s.adm.Metadata(ctx, topics...)
	if err != nil {
		return nil, s.failed("looking for weak settings", err)
	}
	var names []string
	for name, t := range m.Topics {
		if t.Err == nil && !t.IsInternal {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	found, err := s.settingsOf(ctx, names, inSync, unclean)
	if err != nil {
		return nil, s.failed("looking for weak settings", err)
	}
	var list []string
	if n := len(m.Brokers); n < 3 {
		list = append(list, fmt.Sprintf("the cluster has %d broker(s), so that it can't both lose one and go on safely: use three or more, and three replicas", n))
	}
	more := 0
	for _, name := range names {
		for _, w := range weaknesses(m.Topics[name], found[name], len(m.Brokers)) {
			if len(list) == maxWarnings {
				more++
				continue
			}
			list = append(list, w)
		}
	}
	if more > 0 {
		list = append(list, fmt.Sprintf("and %d more like these", more))
	}
	return list, nil
}

// weaknesses are the settings of a topic by which acknowledged messages can be lost. One replica on one broker is not the
// topic's fault.
func weaknesses(t kadm.TopicDetail, is map[string]string, brokers int) (list []string) {
	set := func(setting string) string {
		return fmt.Sprintf("kafka-configs.sh --alter --entity-type topics --entity-name %s --add-config %s", t.Topic, setting)
	}
	replicas := fewestReplicas(t)
	if replicas == 1 && brokers > 1 {
		list = append(list, fmt.Sprintf("topic %q has a single replica: with its broker's disk its messages are lost. Give it three by kafka-reassign-partitions.sh", t.Topic))
	}
	if n, err := strconv.Atoi(is[inSync]); err == nil && n <= 1 && replicas > 1 {
		list = append(list, fmt.Sprintf("topic %q acknowledges what only one of its %d replicas may have (%s=%d): %s",
			t.Topic, replicas, inSync, n, set(inSync+"=2")))
	}
	if is[unclean] == "true" {
		list = append(list, fmt.Sprintf("topic %q may be led by a replica that lacks acknowledged messages (%s=true): %s",
			t.Topic, unclean, set(unclean+"=false")))
	}
	return list
}

func fewestReplicas(t kadm.TopicDetail) int {
	fewest := 0
	for _, p := range t.Partitions {
		if n := len(p.Replicas); fewest == 0 || n < fewest {
			fewest = n
		}
	}
	return fewest
}
