package kafka

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/testkit"
	"github.com/kateway/kateway/store"
)

// weak makes a topic with settings of its own, by another client.
func weak(t *testing.T, adm *kadm.Client, name string, replicas int16, settings map[string]string) {
	t.Helper()
	configs := map[string]*string{}
	for k, v := range settings {
		configs[k] = kadm.StringPtr(v)
	}
	if _, err := adm.CreateTopic(t.Context(), 2, replicas, configs, name); err != nil {
		t.Fatal(err)
	}
}

// told fails the test unless each of the texts has the words, in order.
func told(t *testing.T, what string, list []string, words ...[]string) {
	t.Helper()
	ok := len(list) == len(words)
	for i := range words {
		for _, w := range words[i] {
			ok = ok && strings.Contains(list[i], w)
		}
	}
	if !ok {
		t.Errorf("%s: told was\n%s\nwanted are %q", what, strings.Join(list, "\n"), words)
	}
}

// TestWarnings: on a real cluster, the settings by which it could lose what it acknowledged; only the brokers are known.
func TestWarnings(t *testing.T) {
	c := cluster.Get(t)
	s := open(t, Config{Brokers: c.Addrs()[:1]})
	adm := kadm.NewClient(client(t, c.Addrs()))
	suffix := fmt.Sprint(time.Now().UnixNano())
	good, single, one, dirty := "good"+suffix, "single"+suffix, "one"+suffix, "dirty"+suffix
	weak(t, adm, good, 3, nil)
	weak(t, adm, single, 1, map[string]string{"min.insync.replicas": "1"})
	weak(t, adm, one, 3, map[string]string{"min.insync.replicas": "1"})
	weak(t, adm, dirty, 2, map[string]string{"min.insync.replicas": "1", "unclean.leader.election.enable": "true"})
	var list []string
	eventually(t, "all topics are known to the broker", func() bool {
		var err error
		if list, err = s.Warnings(t.Context(), good, single, one, dirty, "nowhere"); err != nil {
			t.Fatal(err)
		}
		return len(list) >= 4
	})
	told(t, "four topics", list,
		[]string{dirty, "min.insync.replicas=1", "2 replicas", "--add-config min.insync.replicas=2"},
		[]string{dirty, "--add-config unclean.leader.election.enable=false"},
		[]string{one, "3 replicas"},
		[]string{single, "single replica", "kafka-reassign-partitions.sh"},
	)
	all, err := s.Warnings(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range list {
		if !slices.Contains(all, w) {
			t.Errorf("among the warnings of all topics there is no %q", w)
		}
	}
	if list, err := s.Warnings(t.Context(), good); err != nil || len(list) > 0 {
		t.Errorf("a good topic: %q, %v", list, err)
	}
}

// TestWarningsAreBounded, also those of a cluster that is weak as a whole.
func TestWarningsAreBounded(t *testing.T) {
	c := fake(t, kfake.NumBrokers(2))
	for i := range 60 {
		if err := c.CreateTopic(fmt.Sprintf("t%02d", i), 1, map[string]string{"min.insync.replicas": "1", "unclean.leader.election.enable": "true"}); err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, Config{Brokers: c.ListenAddrs()})
	list, err := s.Warnings(t.Context())
	if err != nil || len(list) != maxWarnings+1 {
		t.Fatalf("%d warnings, %v", len(list), err)
	}
	told(t, "the ends", []string{list[0], list[1], list[maxWarnings]},
		[]string{"2 broker"}, []string{`"t00"`}, []string{"more"})
	alone := fake(t, kfake.NumBrokers(1), kfake.SeedTopics(1, "t"))
	list, err = open(t, Config{Brokers: alone.ListenAddrs()}).Warnings(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	told(t, "one broker", list, []string{"1 broker"})
}

func TestDescribe(t *testing.T) {
	c := cluster.Get(t)
	s := open(t, Config{Brokers: c.Addrs()[:1]})
	before, err := s.Describe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	topic := newTopic(t, s, 6)
	var after store.Cluster
	sum := func(of func(store.Broker) int) (n int) {
		for _, b := range after.Brokers {
			n += of(b)
		}
		return n
	}
	eventually(t, "the topic's partitions are counted, and in sync", func() bool {
		if after, err = s.Describe(t.Context()); err != nil {
			t.Fatal(err)
		}
		return after.Partitions >= before.Partitions+6 && after.UnderReplicated == 0
	})
	if after.ID == "" || after.Controller < 1 || after.Controller > 3 || after.Topics <= before.Topics || after.Leaderless != 0 {
		t.Errorf("cluster with %s: %+v", topic, after)
	}
	if n := sum(func(b store.Broker) int { return b.Leaders }); n < after.Partitions {
		t.Errorf("%d leaders of %d partitions", n, after.Partitions)
	}
	if n := sum(func(b store.Broker) int { return b.Replicas }); n < after.Partitions+12 {
		t.Errorf("%d replicas of %d partitions", n, after.Partitions)
	}
	var addrs []string
	for i, b := range after.Brokers {
		if b.ID != int32(i+1) || b.Rack != fmt.Sprint("rack", b.ID) {
			t.Errorf("broker %d is %+v", i, b)
		}
		addrs = append(addrs, fmt.Sprintf("%s:%d", b.Host, b.Port))
	}
	if !slices.Equal(addrs, c.Addrs()) {
		t.Errorf("brokers are at %q, want %q", addrs, c.Addrs())
	}
}

// TestNoClusterToDescribe: without brokers there is an error in time, not an empty answer.
func TestNoClusterToDescribe(t *testing.T) {
	d := &downable{}
	d.set(true)
	s := open(t, Config{Brokers: []string{"127.0.0.1:1"}, dial: d.dial})
	_, describe := s.Describe(t.Context())
	_, warnings := s.Warnings(t.Context())
	for what, err := range map[string]error{"Describe": describe, "Warnings": warnings} {
		if errs.Of(err) != errs.Unavailable {
			t.Errorf("%s: got %v, want unavailable", what, err)
		}
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Describe(t.Context()); !errors.Is(err, store.ErrClosed) {
		t.Errorf("Describe after Close: %v", err)
	}
	if _, err := s.Warnings(t.Context()); !errors.Is(err, store.ErrClosed) {
		t.Errorf("Warnings after Close: %v", err)
	}
}

// TestTopicsListAllTheirSettings: those of other makers too, and of more topics than one request asks for.
func TestTopicsListAllTheirSettings(t *testing.T) {
	c := fake(t)
	for i := range topicsAtOnce + 1 {
		if err := c.CreateTopic(fmt.Sprintf("t%04d", i), 1, map[string]string{"cleanup.policy": "compact,delete", "retention.ms": fmt.Sprint(1000 + i)}); err != nil {
			t.Fatal(err)
		}
	}
	list, err := open(t, Config{Brokers: c.ListenAddrs()}).Topics(t.Context())
	if err != nil || len(list) != topicsAtOnce+1 {
		t.Fatalf("%d topics, %v", len(list), err)
	}
	for i, is := range list {
		want := store.Topic{
			Name: fmt.Sprintf("t%04d", i), Partitions: 1, Replicas: 3, Retention: time.Duration(1000+i) * time.Millisecond,
			RetentionBytes: -1, Cleanup: "compact,delete",
		}
		if is != want {
			t.Fatalf("topic %d is %+v, want %+v", i, is, want)
		}
	}
}

func TestForgetGroupsOfOthersOnFake(t *testing.T) {
	c := fake(t)
	forgetGroupsOfOthers(t, open(t, Config{Brokers: c.ListenAddrs(), SessionTimeout: time.Second}), c.ListenAddrs())
}

func TestForgetGroupsOfOthers(t *testing.T) {
	for _, c := range []*testkit.Shared{cluster, oldest} {
		addrs := c.Get(t).Addrs()
		forgetGroupsOfOthers(t, open(t, Config{Brokers: addrs, SessionTimeout: 2 * time.Second}), addrs)
	}
}

// forgetGroupsOfOthers: a native group that reads two topics keeps its positions on the other one, and is safe while it
// has members.
func forgetGroupsOfOthers(t *testing.T, s *Store, brokers []string) {
	suffix := fmt.Sprint(time.Now().UnixNano())
	here, there, group := "here"+suffix, "there"+suffix, "native"+suffix
	for _, topic := range []string{here, there} {
		if err := s.CreateTopic(t.Context(), store.Topic{Name: topic, Partitions: 1}); err != nil {
			t.Fatal(err)
		}
		if err := s.Publish(t.Context(), topic, store.AckAll, text(0, "v")); err != nil {
			t.Fatal(err)
		}
	}
	native := client(t, brokers, kgo.ConsumerGroup(group), kgo.ConsumeTopics(here, there), kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	for n := 0; n < 2; {
		fs := native.PollFetches(t.Context())
		n += fs.NumRecords()
		if err := fs.Err(); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.ForgetGroup(t.Context(), here, group); errs.Of(err) != errs.Conflict {
		t.Errorf("with a member that has no position yet: got %v, want conflict", err)
	}
	if err := native.CommitUncommittedOffsets(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.ForgetGroup(t.Context(), here, group); errs.Of(err) != errs.Conflict {
		t.Errorf("with a member: got %v, want conflict", err)
	}
	native.Close()
	at := func(topic string) int64 {
		lag, err := s.Lag(t.Context(), topic, group)
		if err != nil {
			t.Fatal(err)
		}
		return lag[0].Committed
	}
	if err := s.ForgetGroup(t.Context(), here, group); err != nil {
		t.Errorf("forget: %v", err)
	}
	if at(here) != -1 || at(there) != 1 {
		t.Errorf("positions are %d here and %d there, want none and 1", at(here), at(there))
	}
	if err := s.ForgetGroup(t.Context(), there, group); err != nil {
		t.Errorf("forget: %v", err)
	}
	if err := s.ForgetGroup(t.Context(), there, group); errs.Of(err) != errs.NotFound {
		t.Errorf("forget again: got %v, want not found", err)
	}
	groups, err := s.adm.ListGroups(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, still := groups[group]; still {
		t.Error("the group is still there, without any position")
	}
}
