package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// changeTests: topics and groups that change under those who use them, here and by another handle.
func changeTests() []test {
	return []test{
		{name: "GrownElsewhere", run: grownElsewhere},
		{name: "DeletedAndCreatedAnewElsewhere", run: anewElsewhere},
		{name: "CleanupUnknown", run: cleanupUnknown},
		{name: "CleanupCompact", run: cleanupCompact, needs: Compact},
		{name: "CleanupCompactRefused", run: cleanupCompactRefused},
		{name: "ForgetGroup", run: forgetGroup},
		{name: "ForgetGroupConflict", run: forgetGroupConflict},
		{name: "ForgetGroupUnknown", run: forgetGroupUnknown},
		{name: "ForgetGroupSurvivesReopen", run: forgetGroupSurvivesReopen, needs: Reopen},
		{name: "ForgetGroupWhileOthersBegin", run: forgetGroupWhileOthersBegin},
	}
}

// grownElsewhere: who publishes and who subscribes here finds partitions that another added, from their first message on.
func grownElsewhere(e *env) {
	topic := e.topic(3)
	values := e.fill(topic, 1, 0, 1, 2)
	s := e.other(topic)
	m := e.join(e.s, topic, name("group"), store.Start{})
	m.read(len(values))
	m.commit()
	e.must(s.AlterTopic(e.ctx(), store.Topic{Name: topic, Partitions: 5}))
	for p := range int32(5) {
		values = append(values, fmt.Sprint("from the other to ", p))
		e.must(s.Publish(e.ctx(), topic, store.AckAll, text(p, values[len(values)-1])))
	}
	e.eventually("a new partition can be published to", func() bool {
		err := e.s.Publish(e.ctx(), topic, store.AckAll, text(4, "from here"))
		if err != nil && !errors.Is(err, errs.InvalidParam) {
			e.Fatalf("publish to a partition that may not be known yet: %v", err)
		}
		return err == nil
	})
	values = append(values, "from here")
	m.read(len(values))
	e.each(values, m)
	e.drive("all partitions", m.holds(5), m)
	if len(m.gaps) > 0 {
		e.Errorf("gaps were told: %+v", m.gaps)
	}
}

// anewElsewhere: a topic that another deletes and makes anew ends the feeds, and is another one from then on: to who
// publishes, and to a group that comes back, which reads all of it.
func anewElsewhere(e *env) {
	topic, group := e.topic(3), name("group")
	e.fill(topic, 5, 0, 1, 2)
	s := e.other(topic)
	m := e.join(e.s, topic, group, store.Start{})
	m.read(15)
	m.commit()
	e.drive("the commits are written", func() bool { return slices.Equal(e.nexts(topic, group), []int64{5, 5, 5}) }, m)
	e.must(s.DeleteTopic(e.ctx(), topic))
	e.eventually("the name is free", func() bool {
		return s.CreateTopic(e.ctx(), store.Topic{Name: topic, Partitions: 4}) == nil
	})
	e.endOf(m)
	_ = m.f.Close(e.ctx()) // its last commit may have nowhere to go

	first := text(3, "first")
	e.eventually("the new topic can be published to", func() bool {
		err := e.s.Publish(e.ctx(), topic, store.AckAll, first)
		if kind := errs.Of(err); err != nil && kind != errs.UnknownTopic && kind != errs.Unavailable && kind != errs.InvalidParam {
			e.Fatalf("publish to a topic that was made anew: %v", err)
		}
		return err == nil
	})
	if first.Offset != 0 {
		e.Errorf("the first message of the new topic has offset %d", first.Offset)
	}
	var again *member
	e.eventually("the group comes back", func() bool {
		f, err := e.s.Subscribe(e.ctx(), store.Spec{Topic: topic, Group: group})
		if err != nil && !errors.Is(err, errs.UnknownTopic) {
			e.Fatalf("subscribe: %v", err)
		}
		again = e.memberOf(f)
		return err == nil
	})
	again.read(1)
	values := e.fill(topic, 7, 0, 1, 2, 3) // beyond the old positions
	again.read(1 + len(values))
	e.each(append(values, "first"), again)
}

// endOf polls until the topic is told to be gone.
func (e *env) endOf(m *member) {
	e.Helper()
	for ctx := e.ctx(); ; {
		_, err := m.f.Poll(ctx, m.max, nil)
		switch {
		case errors.Is(err, errs.UnknownTopic):
			return
		case ctx.Err() != nil:
			e.Fatalf("not within %v: Poll tells that the topic is gone; it told %v", e.cfg.Patience, err)
		case err != nil && !errors.Is(err, errs.Unavailable):
			e.Fatalf("Poll of a topic that is gone: %v", err)
		}
	}
}

func cleanupUnknown(e *env) {
	topic := store.Topic{Name: name("storetest"), Partitions: 1, Cleanup: "shred"}
	e.kind("create", e.s.CreateTopic(e.ctx(), topic), errs.InvalidParam)
	topic.Name = e.topic(1)
	e.kind("alter", e.s.AlterTopic(e.ctx(), topic), errs.InvalidParam)
	e.eventually("the topic is as it was", func() bool {
		got, _ := e.described(topic.Name)
		return got.Cleanup == store.CleanupDelete
	})
}

func cleanupCompact(e *env) {
	topic := store.Topic{Name: name("storetest"), Partitions: 1, Cleanup: store.CleanupCompact}
	is := func(want string) func() bool {
		return func() bool { got, _ := e.described(topic.Name); return got.Cleanup == want }
	}
	e.must(e.s.CreateTopic(e.ctx(), topic))
	e.eventually("it is compacted", is(store.CleanupCompact))
	e.publish(topic.Name, &store.Message{Key: []byte("key"), Value: []byte("value")})
	e.must(e.s.AlterTopic(e.ctx(), store.Topic{Name: topic.Name, RetentionBytes: 1 << 20}))
	e.must(e.s.AlterTopic(e.ctx(), store.Topic{Name: topic.Name, Cleanup: store.CleanupDelete}))
	e.eventually("it is no longer compacted", is(store.CleanupDelete))
}

// cleanupCompactRefused: a store that can't do it says so, and does nothing.
func cleanupCompactRefused(e *env) {
	if e.cfg.Absent[Compact] == "" {
		return // see CleanupCompact
	}
	topic := store.Topic{Name: name("storetest"), Partitions: 1, Cleanup: store.CleanupCompact}
	e.kind("create", e.s.CreateTopic(e.ctx(), topic), errs.InvalidParam)
	if _, there := e.described(topic.Name); there {
		e.Error("the topic was made all the same")
	}
	topic.Name = e.topic(1)
	e.kind("alter", e.s.AlterTopic(e.ctx(), topic), errs.InvalidParam)
}

// forgetGroup: it is like one that never was; others, and the group's positions elsewhere, stay.
func forgetGroup(e *env) {
	topic, elsewhere, group, other := e.topic(3), e.topic(3), name("group"), name("other")
	e.fill(topic, 5, 0, 1, 2)
	for _, g := range []string{group, other} {
		m := e.join(e.s, topic, g, store.Start{})
		m.read(15)
		m.commit()
		m.close()
	}
	e.must(e.s.Seek(e.ctx(), elsewhere, group, store.Position{Partition: 1}))
	e.must(e.s.ForgetGroup(e.ctx(), topic, group))
	e.committed(topic, group, -1, -1, -1)
	e.committed(topic, other, 5, 5, 5)
	e.committed(elsewhere, group, -1, 0, -1)
	list, err := e.s.Groups(e.ctx(), topic)
	e.must(err)
	if !slices.Equal(list, []string{other}) {
		e.Errorf("groups are %q, want %q alone", list, other)
	}
	e.kind("forget again", e.s.ForgetGroup(e.ctx(), topic, group), errs.NotFound)

	m := e.join(e.s, topic, group, store.Start{Newest: true})
	e.committed(topic, group, 5, 5, 5)
	values := e.fill(topic, 1, 0, 1, 2)
	m.read(3)
	e.each(values, m)
	m.close()
	e.must(e.s.ForgetGroup(e.ctx(), elsewhere, group))
	e.must(e.s.ForgetGroup(e.ctx(), topic, group))
	e.committed(topic, group, -1, -1, -1)
}

func forgetGroupConflict(e *env) {
	topic, group := e.topic(3), name("group")
	e.fill(topic, 5, 0, 1, 2)
	m := e.join(e.s, topic, group, store.Start{})
	m.read(15)
	e.kind("forget under a member", e.s.ForgetGroup(e.ctx(), topic, group), errs.Conflict)
	e.kind("forget under a member of another handle", e.other(topic).ForgetGroup(e.ctx(), topic, group), errs.Conflict)
	m.commit()
	m.close()
	e.committed(topic, group, 5, 5, 5)
	e.must(e.s.ForgetGroup(e.ctx(), topic, group))
	e.committed(topic, group, -1, -1, -1)
}

func forgetGroupUnknown(e *env) {
	e.kind("no topic", e.s.ForgetGroup(e.ctx(), name("nowhere"), name("group")), errs.UnknownTopic)
	topic, group := e.topic(3), name("group")
	e.kind("no group", e.s.ForgetGroup(e.ctx(), topic, group), errs.NotFound)
	e.must(e.s.Seek(e.ctx(), e.topic(3), group, store.Position{Partition: 1}))
	e.kind("a group of another topic", e.s.ForgetGroup(e.ctx(), topic, group), errs.NotFound)
}

func forgetGroupSurvivesReopen(e *env) {
	topic, group, other := e.topic(3), name("group"), name("group")
	e.fill(topic, 5, 0, 1, 2)
	e.must(e.s.Seek(e.ctx(), topic, other, store.Position{Partition: 2, Next: 2}))
	m := e.join(e.s, topic, group, store.Start{})
	m.read(15)
	m.commit()
	m.close()
	e.must(e.s.ForgetGroup(e.ctx(), topic, group))
	e.reopen()
	e.committed(topic, group, -1, -1, -1)
	e.committed(topic, other, -1, -1, 2)
}

// forgetGroupWhileOthersBegin: whoever is faster, no member is without a position, and none is taken from under it.
func forgetGroupWhileOthersBegin(e *env) {
	topic, group := e.topic(3), name("group")
	ctx, stop := context.WithCancel(e.ctx())
	wait := e.background(func() {
		for ctx.Err() == nil {
			err := e.s.ForgetGroup(ctx, topic, group)
			if err != nil && ctx.Err() == nil && !errors.Is(err, errs.Conflict) && !errors.Is(err, errs.NotFound) {
				e.Errorf("forget: %v", err)
				return
			}
		}
	})
	for range 5 {
		m := e.join(e.s, topic, group, store.Start{})
		values := e.fill(topic, 1, 0, 1, 2)
		for p := range int32(3) {
			if got := e.nexts(topic, group)[p]; got < 0 {
				e.Errorf("partition %d of a group with a member has no position", p)
			}
		}
		e.drive("the newest message", func() bool { return slices.Contains(m.values, values[2]) }, m)
		m.close()
	}
	stop()
	wait()
}
