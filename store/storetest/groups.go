package storetest

import (
	"fmt"
	"maps"
	"slices"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

func groupTests() []test {
	return []test{
		{name: "GroupsAreIndependent", run: groupsAreIndependent},
		{name: "MembersShare", run: membersShare},
		{name: "MembersMoveCleanly", run: membersMoveCleanly},
		{name: "MembersMoveWithoutCommit", run: membersMoveWithoutCommit},
		{name: "MembersFenced", run: membersFenced},
		{name: "MembersDoNotWaitForEver", run: membersDoNotWaitForEver},
		{name: "MembersCrash", run: membersCrash, needs: Crash},
	}
}

func groupsAreIndependent(e *env) {
	topic, one, two := e.topic(3), name("group-a"), name("group-b")
	values := e.fill(topic, 5, 0, 1, 2)
	a := e.join(e.s, topic, one, store.Start{})
	a.read(15)
	a.commit()
	b := e.join(e.s, topic, two, store.Start{})
	b.read(15)
	e.each(values, a)
	e.each(values, b)
	a.close()
	e.committed(topic, one, 5, 5, 5)
	e.committed(topic, two, 0, 0, 0)
}

// shared is a condition: both have partitions, together all, none twice.
func shared(n int, a, b *member) func() bool {
	return func() bool {
		both := maps.Clone(a.next)
		maps.Copy(both, b.next)
		return len(a.next) > 0 && len(b.next) > 0 && len(both) == n && len(a.next)+len(b.next) == n
	}
}

// pair is two members of a group that have shared the topic's partitions.
func (e *env) pair(topic, group string, n int) (a, b *member) {
	e.Helper()
	a = e.join(e.s, topic, group, store.Start{})
	a.name = "a"
	e.drive("a alone holds all partitions", a.holds(n), a)
	b = e.join(e.other(topic), topic, group, store.Start{})
	b.name = "b"
	a.commitLost()
	b.commitLost()
	e.drive("a and b share the partitions", shared(n, a, b), a, b)
	return a, b
}

// membersShare: two members split the partitions, and the one that stays takes over all.
func membersShare(e *env) {
	topic, group := e.topic(3), name("group")
	a, b := e.pair(topic, group, 3)
	values := e.fill(topic, 20, 0, 1, 2)
	e.drive("all messages", func() bool { return count(a, b) >= len(values) }, a, b)
	e.each(values, a, b)
	a.commit()
	a.close()
	e.drive("b alone holds all partitions", b.holds(3), b)
	values = append(values, e.fill(topic, 20, 0, 1, 2)...)
	e.drive("all messages", func() bool { return count(a, b) >= len(values) }, b)
	e.each(values, a, b)
}

// membersMoveCleanly: members come and go under traffic, and commit at the last moment that they have: nothing is lost,
// nothing comes twice, and who takes over gets the very position, with what is beyond it.
func membersMoveCleanly(e *env) {
	topic, group := e.topic(3), name("group")
	final := map[int32]store.Position{}
	var values []string
	var present []*member
	hand := func(m *member) *member {
		m.onLost = func(p int32, next int64) {
			final[p] = store.Position{Partition: p, Next: next, Beyond: fmt.Sprintf("%s left at %d", m.name, next)}
			if err := m.f.Commit(final[p]); err != nil {
				e.Errorf("%s: final commit of partition %d: %v", m.name, p, err)
			}
		}
		m.onGain = func(got store.Position) {
			if want, was := final[got.Partition]; was && got != want {
				e.Errorf("%s: gained %+v, but the last owner committed %+v", m.name, got, want)
			}
		}
		return m
	}
	traffic := func(until func() bool) func() bool {
		return func() bool {
			values = append(values, e.fill(topic, 1, 0, 1, 2)...)
			for _, m := range present { // the last commit comes soon after another
				for p, next := range m.next {
					e.must(m.f.Commit(store.Position{Partition: p, Next: next}))
				}
			}
			return until()
		}
	}
	a := hand(e.join(e.s, topic, group, store.Start{}))
	a.name = "a"
	e.drive("a holds all partitions", traffic(a.holds(3)), a)
	members := []*member{a}
	present = []*member{a}
	for round := range 3 {
		b := hand(e.join(e.other(topic), topic, group, store.Start{}))
		b.name = fmt.Sprint("b", round)
		members, present = append(members, b), []*member{a, b}
		turns := []*member{a, b}
		if round%2 == 0 { // who asks first must not matter: what a still has is not b's yet
			turns = []*member{b, a}
		}
		e.drive("a and b share the partitions", traffic(shared(3, a, b)), turns...)
		present = present[:1]
		for p, next := range b.next {
			b.onLost(p, next)
		}
		b.close()
		e.drive("a holds all partitions again", traffic(a.holds(3)), a)
	}
	e.drive("all messages", func() bool { return count(members...) >= len(values) }, a)
	e.each(values, members...)
}

// membersMoveWithoutCommit: what was not committed comes again, and all of it.
func membersMoveWithoutCommit(e *env) {
	topic, group := e.topic(3), name("group")
	values := e.fill(topic, 10, 0, 1, 2)
	a := e.join(e.s, topic, group, store.Start{})
	a.read(30)
	e.each(values, a)
	a.close()
	b := e.join(e.other(topic), topic, group, store.Start{Newest: true})
	b.read(30)
	e.each(values, b)
}

// membersFenced: a partition that has moved is closed to its last owner, and the new owner's word stands.
func membersFenced(e *env) {
	topic, group := e.topic(3), name("group")
	e.fill(topic, 10, 0, 1, 2)
	a, b := e.pair(topic, group, 3)
	e.drive("all messages", func() bool { return count(a, b) >= 30 }, a, b)
	for _, p := range slices.Sorted(maps.Keys(b.next)) {
		e.kind(fmt.Sprintf("a commits partition %d, which b holds", p), a.f.Commit(store.Position{Partition: p, Next: 1}), errs.Fenced)
		e.must(b.f.Commit(store.Position{Partition: p, Next: 7, Beyond: "b"}))
	}
	for _, p := range slices.Sorted(maps.Keys(a.next)) {
		e.kind(fmt.Sprintf("b commits partition %d, which a holds", p), b.f.Commit(store.Position{Partition: p, Next: 1}), errs.Fenced)
		e.must(a.f.Commit(store.Position{Partition: p, Next: 7, Beyond: "a"}))
	}
	a.close()
	if a.f.Commit(store.Position{Partition: 0, Next: 1}) == nil {
		e.Error("a commit after Close answered nil")
	}
	b.close()
	e.committed(topic, group, 7, 7, 7)
}

// membersDoNotWaitForEver: one that was told of a loss and does not poll again keeps the partition for 5 s, not longer.
func membersDoNotWaitForEver(e *env) {
	topic, group := e.topic(3), name("group")
	e.fill(topic, 10, 0, 1, 2)
	a := e.join(e.s, topic, group, store.Start{})
	a.read(30)
	b := e.join(e.other(topic), topic, group, store.Start{})
	e.drive("a loses a partition", func() bool { return len(a.lost) > 0 }, a, b)
	lost := a.lost
	e.drive("b holds what a has lost", func() bool {
		return slices.ContainsFunc(lost, func(p int32) bool { _, held := b.next[p]; return held })
	}, b)
	for p := range b.next {
		if slices.Contains(lost, p) {
			e.kind(fmt.Sprintf("a commits partition %d, which b holds", p), a.f.Commit(store.Position{Partition: p, Next: 9}), errs.Fenced)
		}
	}
	e.drive("a and b share the partitions", shared(3, a, b), a, b)
	e.committed(topic, group, 0, 0, 0)
}

// membersCrash: who takes over goes on from what was written, and nothing is lost.
func membersCrash(e *env) {
	topic, group := e.topic(3), name("group")
	values := e.fill(topic, 10, 0, 1, 2)
	s := e.other(topic)
	a := e.join(e.s, topic, group, store.Start{})
	a.read(30)
	for p := range int32(3) {
		e.must(a.f.Commit(store.Position{Partition: p, Next: 5, Beyond: "7-8"}))
	}
	e.drive("the commits are written", func() bool { return slices.Equal(e.nexts(topic, group), []int64{5, 5, 5}) }, a)
	e.cfg.Crash(e.T, e.s, a.f)
	e.s = s
	b := e.join(s, topic, group, store.Start{})
	b.read(15)
	for p := range int32(3) {
		if got := b.gained[p]; got.Next != 5 || got.Beyond != "7-8" {
			e.Errorf("partition %d was gained with %+v", p, got)
		}
	}
	e.each(values[15:], b)
}
