package storetest

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

func adminTests() []test {
	return []test{
		{name: "Ping", run: func(e *env) { e.must(e.s.Ping(e.ctx())) }},
		{name: "TopicsLifeCycle", run: topicsLifeCycle},
		{name: "TopicsAreSorted", run: topicsAreSorted},
		{name: "TopicsSurviveReopen", run: topicsSurviveReopen, needs: Reopen},
		{name: "AdminUnknownTopic", run: adminUnknownTopic},
		{name: "Groups", run: groups},
		{name: "LagSeekResolveBrowseAgree", run: lagSeekResolveBrowseAgree},
		{name: "SeekOfNewGroup", run: seekOfNewGroup},
		{name: "SeekConflict", run: seekConflict},
		{name: "BrowseEnds", run: browseEnds},
	}
}

// described finds a topic in Topics.
func (e *env) described(name string) (store.Topic, bool) {
	e.Helper()
	list, err := e.s.Topics(e.ctx())
	e.must(err)
	i := slices.IndexFunc(list, func(t store.Topic) bool { return t.Name == name })
	if i < 0 {
		return store.Topic{}, false
	}
	return list[i], true
}

func topicsLifeCycle(e *env) {
	want := store.Topic{Name: name("storetest"), Partitions: 3, Retention: 48 * time.Hour, RetentionBytes: 1 << 30, Cleanup: store.CleanupDelete}
	e.must(e.s.CreateTopic(e.ctx(), want))
	same := func(what string) {
		e.Helper()
		var got store.Topic
		defer func() {
			if e.Failed() {
				e.Logf("Topics describe it as %+v, want %+v", got, want)
			}
		}()
		e.eventually(what, func() bool { // each broker of a cluster learns it in its own time
			got, _ = e.described(want.Name)
			replicas := got.Replicas
			got.Replicas = want.Replicas // the store's default
			return replicas >= 1 && got == want
		})
	}
	same("created")
	if err := e.s.CreateTopic(e.ctx(), want); !errors.Is(err, store.ErrExists) {
		e.Errorf("create again: got %v, want ErrExists", err)
	}
	e.must(e.s.AlterTopic(e.ctx(), store.Topic{Name: want.Name, Retention: -1}))
	want.Retention = -1
	same("retention altered")
	e.must(e.s.AlterTopic(e.ctx(), store.Topic{Name: want.Name, Partitions: 5, RetentionBytes: 1 << 20}))
	want.Partitions, want.RetentionBytes = 5, 1<<20
	same("partitions and bytes altered")
	e.must(e.s.AlterTopic(e.ctx(), store.Topic{Name: want.Name, Partitions: 5}))
	e.kind("fewer partitions", e.s.AlterTopic(e.ctx(), store.Topic{Name: want.Name, Partitions: 4}), errs.InvalidParam)
	same("altered to what it is, and to what it can't be")
	e.publish(want.Name, text(4, "in the new one"))

	e.must(e.s.DeleteTopic(e.ctx(), want.Name))
	e.eventually("the topic is listed no more", func() bool { _, there := e.described(want.Name); return !there })
	e.kind("delete again", e.s.DeleteTopic(e.ctx(), want.Name), errs.UnknownTopic)

	e.must(e.s.CreateTopic(e.ctx(), store.Topic{Name: want.Name + "-default"}))
	e.eventually("a topic with the store's defaults has partitions", func() bool {
		got, _ := e.described(want.Name + "-default")
		return got.Partitions >= 1
	})
}

func topicsAreSorted(e *env) {
	var last string
	for range 5 {
		last = e.topic(1)
	}
	e.eventually("the last one is listed", func() bool { _, there := e.described(last); return there })
	list, err := e.s.Topics(e.ctx())
	e.must(err)
	if !slices.IsSortedFunc(list, func(a, b store.Topic) int { return strings.Compare(a.Name, b.Name) }) {
		e.Errorf("topics are not sorted: %+v", list)
	}
	if len(list) < 5 {
		e.Errorf("%d topics, five were made", len(list))
	}
}

// topicsSurviveReopen: with messages, and offsets go on where they were.
func topicsSurviveReopen(e *env) {
	topic := e.topic(3)
	before, _ := e.described(topic)
	e.fill(topic, 5, 0, 1, 2)
	for round := range int64(3) {
		e.reopen()
		if after, _ := e.described(topic); after != before {
			e.Errorf("the topic was %+v and is %+v", before, after)
		}
		m := text(2, "more")
		e.publish(topic, m)
		if m.Offset != 5+round {
			e.Errorf("the first message after reopen %d has offset %d", round, m.Offset)
		}
	}
	if n := len(e.all(topic)[2]); n != 8 {
		e.Errorf("%d messages, want 8", n)
	}
}

func adminUnknownTopic(e *env) {
	topic, group := name("nowhere"), name("group")
	_, lag := e.s.Lag(e.ctx(), topic, group)
	_, groups := e.s.Groups(e.ctx(), topic)
	_, resolve := e.s.Resolve(e.ctx(), topic, store.Start{})
	_, newest := e.s.Resolve(e.ctx(), topic, store.Start{Newest: true})
	var browse error
	for _, err := range e.s.Browse(e.ctx(), topic, 0, 0) {
		browse = err
	}
	for what, err := range map[string]error{
		"Lag": lag, "Groups": groups, "Resolve": resolve, "Resolve newest": newest, "Browse": browse,
		"Seek":        e.s.Seek(e.ctx(), topic, group, store.Position{}),
		"AlterTopic":  e.s.AlterTopic(e.ctx(), store.Topic{Name: topic, Retention: time.Hour}),
		"grow":        e.s.AlterTopic(e.ctx(), store.Topic{Name: topic, Partitions: 7}),
		"ForgetGroup": e.s.ForgetGroup(e.ctx(), topic, group),
		"DeleteTopic": e.s.DeleteTopic(e.ctx(), topic),
	} {
		e.kind(what, err, errs.UnknownTopic)
	}
}

func groups(e *env) {
	topic, other, b, a := e.topic(3), e.topic(3), name("group-b"), name("group-a")
	list := func(want ...string) {
		e.Helper()
		got, err := e.s.Groups(e.ctx(), topic)
		e.must(err)
		if !slices.Equal(got, want) {
			e.Errorf("groups are %q, want %q", got, want)
		}
	}
	list()
	m := e.join(e.s, topic, b, store.Start{})
	list(b)
	e.must(e.s.Seek(e.ctx(), topic, a, store.Position{Partition: 1}))
	e.must(e.s.Seek(e.ctx(), other, name("elsewhere"), store.Position{Partition: 1}))
	list(a, b)
	m.close()
	list(a, b)
}

func lagSeekResolveBrowseAgree(e *env) {
	topic, group := e.topic(3), name("group")
	e.fill(topic, 10, 0, 1)
	check := func(what string, want ...store.PartitionLag) {
		e.Helper()
		if got := e.lag(topic, group); !slices.Equal(got, want) {
			e.Errorf("%s: lag is %+v, want %+v", what, got, want)
		}
	}
	check("never used", store.PartitionLag{Partition: 0, End: 10, Committed: -1}, store.PartitionLag{Partition: 1, End: 10, Committed: -1}, store.PartitionLag{Partition: 2, Committed: -1})
	newest, err := e.s.Resolve(e.ctx(), topic, store.Start{Newest: true})
	e.must(err)
	if want := []store.Position{{Partition: 0, Next: 10}, {Partition: 1, Next: 10}, {Partition: 2}}; !slices.Equal(newest, want) {
		e.Fatalf("newest is %+v, want %+v", newest, want)
	}
	e.must(e.s.Seek(e.ctx(), topic, group, newest...))
	check("at the newest", store.PartitionLag{Partition: 0, End: 10, Committed: 10}, store.PartitionLag{Partition: 1, End: 10, Committed: 10}, store.PartitionLag{Partition: 2})
	e.must(e.s.Seek(e.ctx(), topic, group, store.Position{Partition: 1, Next: 4, Beyond: "6"}))
	check("partition 1 back", store.PartitionLag{Partition: 0, End: 10, Committed: 10}, store.PartitionLag{Partition: 1, End: 10, Committed: 4, Beyond: "6"}, store.PartitionLag{Partition: 2})
	m := e.join(e.s, topic, group, store.Start{})
	m.read(6)
	if got := m.gained[1]; got.Next != 4 || got.Beyond != "6" {
		e.Errorf("partition 1 was gained with %+v", got)
	}
	longest := strings.Repeat("b", store.MaxBeyond)
	e.must(m.f.Commit(store.Position{Partition: 0, Next: 10, Beyond: longest}))
	e.must(m.f.Commit(store.Position{Partition: 1, Next: 5}))
	m.close()
	check("committed by a member", store.PartitionLag{Partition: 0, End: 10, Committed: 10, Beyond: longest}, store.PartitionLag{Partition: 1, End: 10, Committed: 5}, store.PartitionLag{Partition: 2})
	var browsed []string
	for _, msg := range e.browse(topic, 1, 4) {
		browsed = append(browsed, string(msg.Value))
	}
	e.each(browsed, m)
}

// seekOfNewGroup: positions set before the first member came are positions; what they leave open is at the oldest.
func seekOfNewGroup(e *env) {
	topic, group := e.topic(3), name("group")
	e.fill(topic, 5, 0, 1, 2)
	e.must(e.s.Seek(e.ctx(), topic, group, store.Position{Partition: 1, Next: 3}))
	e.committed(topic, group, -1, 3, -1)
	m := e.join(e.s, topic, group, store.Start{Newest: true})
	e.committed(topic, group, 0, 3, 0)
	m.read(12)
	if len(m.values) != 12 {
		e.Errorf("%d messages, want 12", len(m.values))
	}
}

func seekConflict(e *env) {
	topic, group := e.topic(3), name("group")
	e.fill(topic, 5, 0, 1, 2)
	m := e.join(e.s, topic, group, store.Start{})
	m.read(15)
	e.kind("seek under a member", e.s.Seek(e.ctx(), topic, group, store.Position{Partition: 1, Next: 3}), errs.Conflict)
	m.close()
	e.committed(topic, group, 0, 0, 0)
	e.must(e.s.Seek(e.ctx(), topic, group, store.Position{Partition: 1, Next: 3}))
	e.committed(topic, group, 0, 3, 0)
}

// browseEnds: at the end as it was, at the reader's will, and with its context.
func browseEnds(e *env) {
	topic := e.topic(3)
	e.fill(topic, 10, 0)
	n := 0
	for _, err := range e.s.Browse(e.ctx(), topic, 0, 3) {
		e.must(err)
		if n++; n <= 3 {
			e.fill(topic, 5, 0)
		}
	}
	if n != 7 {
		e.Errorf("%d messages from offset 3 of 10 on, want 7 whatever came meanwhile", n)
	}
	for m, err := range e.s.Browse(e.ctx(), topic, 0, 0) {
		e.must(err)
		if m.Offset == 2 {
			break
		}
	}
	for _, from := range []int64{25, 1000} {
		if got := e.browse(topic, 0, from); len(got) > 0 {
			e.Errorf("%d messages from offset %d on, the end is 25", len(got), from)
		}
	}
	if got := e.browse(topic, 0, -5); len(got) != 25 {
		e.Errorf("%d messages from below the oldest on, want 25", len(got))
	}
	if got := e.browse(topic, 1, 0); len(got) > 0 {
		e.Errorf("%d messages in an empty partition", len(got))
	}
	ctx, cancel := context.WithCancel(e.ctx())
	cancel()
	var last error
	for _, err := range e.s.Browse(ctx, topic, 0, 0) {
		last = err
	}
	if !errors.Is(last, context.Canceled) {
		e.Errorf("with a cancelled context: got %v", last)
	}
	last = nil
	for _, err := range e.s.Browse(e.ctx(), topic, 3, 0) {
		last = err
	}
	e.kind("partition 3 of 3", last, errs.InvalidParam)
}
