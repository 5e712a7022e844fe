package kafka

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/testkit"
	"github.com/kateway/kateway/store"
)

func TestWhichGroupsAreOurs(t *testing.T) {
	for _, group := range []string{"app.group.owner.topic.v1", "app.g_1.owner.some_topic.v1.retry", "app.g.owner.t.v1.dead"} {
		if !oursRule.MatchString(group) {
			t.Errorf("%q is not taken for ours", group)
		}
	}
	for _, group := range []string{"", "native", "a.b.c.d", "a.b.c.d.e.f", "a..c.d.e", "a.b.c.d.e.retry.dead", "a_b.g.c.d.e", "com.acme.service.orders.v1.consumer"} {
		if oursRule.MatchString(group) {
			t.Errorf("%q is taken for ours", group)
		}
	}
}

// TestRecommitOutlivesRetention: on a cluster that forgets after a minute, what is written again stays, and what is not is
// forgotten.
func TestRecommitOutlivesRetention(t *testing.T) {
	t.Parallel()
	c := testkit.Kafka(t, testkit.Property("offsets.retention.minutes=1"), testkit.Property("offsets.retention.check.interval.ms=1000"))
	s := open(t, Config{Brokers: c.Addrs()})
	topic := newTopic(t, s, 2)
	at := []store.Position{{Partition: 0, Next: 7, Beyond: "9-11"}, {Partition: 1, Next: 0}}
	var groups []string
	for group, protocol := range map[string]string{"app.classic.o.t.v1": ProtocolClassic, "app.new.o.t.v1.retry": ProtocolConsumer, "native": ProtocolClassic} {
		s := open(t, Config{Brokers: c.Addrs(), Protocol: protocol})
		f := subscribe(t, s, store.Spec{Topic: topic, Group: group}, 2)
		for _, p := range at {
			if err := f.Commit(p); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		groups = append(groups, group)
	}
	groups = append(groups, "app.sought.o.t.v1")
	if err := s.Seek(t.Context(), topic, "app.sought.o.t.v1", at...); err != nil {
		t.Fatal(err)
	}
	positions := func(group string) (list []store.Position) {
		have, err := s.positions(t.Context(), topic, group)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range have {
			list = append(list, p)
		}
		slices.SortFunc(list, func(a, b store.Position) int { return int(a.Partition - b.Partition) })
		return list
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	for len(positions("native")) > 0 {
		if n, err := s.Recommit(ctx); n != 3 || err != nil {
			t.Fatalf("%d groups were written again, %v", n, err)
		}
		if !pause(ctx, 5*time.Second) {
			t.Fatal("the cluster forgets nothing")
		}
	}
	for _, group := range groups {
		if group != "native" && !slices.Equal(positions(group), at) {
			t.Errorf("group %s has %+v, want %+v", group, positions(group), at)
		}
	}
}

// TestRecommitLeavesMembersAlone: should a group get a member at the very moment, its positions are its own, and it loses
// nothing.
func TestRecommitLeavesMembersAlone(t *testing.T) {
	protocols(t, func(t *testing.T, cfg Config) {
		s := open(t, cfg)
		topic := newTopic(t, s, 2)
		group := "app." + topic[:40] + ".o.t.v1"
		f := subscribe(t, s, store.Spec{Topic: topic, Group: group}, 2)
		if kept, err := s.keep(t.Context(), group); kept || err != nil {
			t.Errorf("a group with a member: %t, %v", kept, err)
		}
		before, err := s.adm.FetchOffsets(t.Context(), group)
		if err != nil {
			t.Fatal(err)
		}
		// From here on as if the member had come after the group was looked at.
		if err := f.Commit(store.Position{Partition: 1, Next: 5, Beyond: "mine"}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the commit is written", func() bool {
			have, err := s.positions(t.Context(), topic, group)
			return err == nil && have[1].Next == 5
		})
		if kept, err := s.again(t.Context(), group, topic, before[topic]); kept || err != nil {
			t.Errorf("positions of a group with a member were written: %t, %v", kept, err)
		}
		if cfg.Protocol == ProtocolClassic {
			if _, err := s.visit(t.Context(), group); err != nil {
				t.Errorf("visiting a group with a member: %v", err)
			}
		}
		have, err := s.positions(t.Context(), topic, group)
		if want := (store.Position{Partition: 1, Next: 5, Beyond: "mine"}); err != nil || have[1] != want {
			t.Errorf("the member's position is %+v, %v; want %+v", have[1], err, want)
		}
		if err := s.Publish(t.Context(), topic, store.AckAll, text(0, "still"), text(1, "still")); err != nil {
			t.Fatal(err)
		}
		all := until(t, f, nil, func(all store.Batch) bool { return len(all.Messages) >= 2 })
		if len(all.Lost) > 0 {
			t.Errorf("the member lost partitions %v", all.Lost)
		}
	})
}

// TestRecommitAnswers: a count beside the faults, and no group of others.
func TestRecommitAnswers(t *testing.T) {
	c := fake(t, kfake.SeedTopics(1, "t"))
	s := open(t, Config{Brokers: c.ListenAddrs(), SessionTimeout: time.Second})
	for _, group := range []string{"a.fine.o.t.v1", "a.used.o.t.v1", "a.broken.o.t.v1", "native"} {
		if err := s.Seek(t.Context(), "t", group, store.Position{Partition: 0, Next: 3, Beyond: group}); err != nil {
			t.Fatal(err)
		}
	}
	subscribe(t, s, store.Spec{Topic: "t", Group: "a.used.o.t.v1"}, 1)
	var written []string
	c.ControlKey(int16(kmsg.OffsetCommit), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		req := r.(*kmsg.OffsetCommitRequest)
		written = append(written, req.Group)
		if req.Group != "a.broken.o.t.v1" {
			return nil, nil, false
		}
		return refuseCommit(req, kerr.GroupAuthorizationFailed), nil, true
	})
	n, err := s.Recommit(t.Context())
	if n != 1 || !errors.Is(err, errs.Unavailable) {
		t.Errorf("%d groups, %v; want one, and the fault of the other", n, err)
	}
	slices.Sort(written)
	if want := []string{"a.broken.o.t.v1", "a.fine.o.t.v1"}; !slices.Equal(written, want) {
		t.Errorf("written were %q, want %q", written, want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Recommit(ctx); !errors.Is(err, errs.Unavailable) {
		t.Errorf("with a cancelled context: %v", err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recommit(t.Context()); !errors.Is(err, store.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}
