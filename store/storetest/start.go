package storetest

import (
	"fmt"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

func startTests() []test {
	return []test{
		{name: "StartOldest", run: startOldest},
		{name: "StartNewest", run: startNewest},
		{name: "StartSince", run: startSince},
		{name: "StartIsUsedOnce", run: startIsUsedOnce},
		{name: "StartOfNewPartition", run: startOfNewPartition},
		{name: "StartOfNewPartitionLater", run: startOfNewPartitionLater},
		{name: "SubscribeUnknownTopic", run: subscribeUnknownTopic},
	}
}

func startOldest(e *env) {
	topic, group := e.topic(3), name("group")
	values := e.fill(topic, 5, 0, 1, 2)
	e.committed(topic, group, -1, -1, -1)
	m := e.join(e.s, topic, group, store.Start{})
	e.committed(topic, group, 0, 0, 0)
	m.read(len(values))
	e.each(values, m)
}

// startNewest: what is published after Subscribe returned is not missed, though nobody has polled.
func startNewest(e *env) {
	topic, group := e.topic(3), name("group")
	e.fill(topic, 5, 0, 1)
	m := e.join(e.s, topic, group, store.Start{Newest: true})
	e.committed(topic, group, 5, 5, 0)
	values := e.fill(topic, 2, 0, 1, 2)
	m.read(len(values))
	e.each(values, m)
}

func startSince(e *env) {
	topic, group := e.topic(3), name("group")
	base := time.Now().Add(-time.Hour).Truncate(time.Millisecond)
	for i := range 10 {
		for p := range int32(2) { // partition 1 is two minutes behind, partition 2 empty
			m := text(p, fmt.Sprintf("%d-%d", p, i))
			m.Time = base.Add(time.Duration(i-2*int(p)) * time.Minute)
			e.publish(topic, m)
		}
	}
	for _, c := range []struct {
		since time.Time
		want  [3]int64
	}{
		{base.Add(-time.Hour), [3]int64{0, 0, 0}},
		{base.Add(4 * time.Minute), [3]int64{4, 6, 0}},
		{base.Add(4*time.Minute + time.Millisecond), [3]int64{5, 7, 0}},
		{base.Add(8 * time.Minute), [3]int64{8, 10, 0}},
		{base.Add(time.Hour), [3]int64{10, 10, 0}},
	} {
		at, err := e.s.Resolve(e.ctx(), topic, store.Start{Since: c.since})
		e.must(err)
		for p, want := range c.want {
			if at[p].Partition != int32(p) || at[p].Next != want {
				e.Errorf("%v after the first message: entry %d is %+v, want offset %d", c.since.Sub(base), p, at[p], want)
			}
		}
	}
	m := e.join(e.s, topic, group, store.Start{Since: base.Add(4 * time.Minute)})
	e.committed(topic, group, 4, 6, 0)
	m.read(10)
	e.each([]string{"0-4", "0-5", "0-6", "0-7", "0-8", "0-9", "1-6", "1-7", "1-8", "1-9"}, m)
}

// startIsUsedOnce: a group that never committed anything by itself still has its place.
func startIsUsedOnce(e *env) {
	topic, group := e.topic(3), name("group")
	e.fill(topic, 2, 0, 1, 2)
	e.join(e.s, topic, group, store.Start{Newest: true}).close()
	values := e.fill(topic, 3, 0, 1, 2)
	for range 2 {
		m := e.join(e.s, topic, group, store.Start{Newest: true})
		e.committed(topic, group, 2, 2, 2)
		m.read(len(values))
		e.each(values, m)
		m.close()
	}
	m := e.join(e.s, topic, group, store.Start{})
	e.committed(topic, group, 2, 2, 2)
	m.close()
}

// startOfNewPartition: a running member gets it from its oldest message, whatever the group's start was.
func startOfNewPartition(e *env) {
	topic := e.topic(3)
	m := e.join(e.s, topic, name("group"), store.Start{Newest: true})
	e.drive("all partitions", m.holds(3), m)
	e.must(e.s.AlterTopic(e.ctx(), store.Topic{Name: topic, Partitions: 5}))
	values := e.fill(topic, 4, 0, 1, 2, 3, 4)
	m.read(len(values))
	e.each(values, m)
	e.drive("all partitions", m.holds(5), m)
}

// startOfNewPartitionLater: the same for a group that had no member at the time.
func startOfNewPartitionLater(e *env) {
	topic, group := e.topic(3), name("group")
	e.join(e.s, topic, group, store.Start{Newest: true}).close()
	e.must(e.s.AlterTopic(e.ctx(), store.Topic{Name: topic, Partitions: 5}))
	values := e.fill(topic, 4, 2, 3, 4)
	m := e.join(e.s, topic, group, store.Start{Newest: true})
	e.committed(topic, group, 0, 0, 0, 0, 0)
	m.read(len(values))
	e.each(values, m)
}

func subscribeUnknownTopic(e *env) {
	f, err := e.s.Subscribe(e.ctx(), store.Spec{Topic: name("nowhere"), Group: name("group")})
	e.kind("subscribe", err, errs.UnknownTopic)
	if f != nil {
		e.Error("there is a feed beside the error")
	}
}
