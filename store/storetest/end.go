package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

func endTests() []test {
	return []test{
		{name: "CloseEndsPoll", run: closeEndsPoll},
		{name: "StoreCloseEndsAll", run: storeCloseEndsAll},
		{name: "StoreCloseEndsPublishes", run: storeCloseEndsPublishes, needs: Reopen},
		{name: "DeleteEndsPoll", run: deleteEndsPoll},
		{name: "DeleteAndCreateAnew", run: deleteAndCreateAnew},
	}
}

// waiting starts a Poll that has nothing to tell, and answers where its end is told.
func (m *member) waiting() <-chan error {
	m.e.Helper()
	m.e.drive("all partitions", m.holds(3), m)
	ctx, end := m.e.ctx(), make(chan error, 1)
	m.e.background(func() {
		for {
			if _, err := m.f.Poll(ctx, 1, nil); err != nil && (ctx.Err() != nil || terminal(err)) {
				end <- err
				return
			}
		}
	})
	return end
}

// terminal tells the errors after which there is no further Poll from the temporary ones.
func terminal(err error) bool {
	return errors.Is(err, store.ErrClosed) || errors.Is(err, errs.UnknownTopic)
}

func (e *env) closed(what string, err error) {
	e.Helper()
	if !errors.Is(err, store.ErrClosed) {
		e.Errorf("%s: got %v, want ErrClosed", what, err)
	}
}

func closeEndsPoll(e *env) {
	topic := e.topic(3)
	m := e.join(e.s, topic, name("group"), store.Start{})
	end := m.waiting()
	m.close()
	e.closed("the waiting Poll", <-end)
	m.close()
	_, err := m.f.Poll(e.ctx(), 1, nil)
	e.closed("Poll after Close", err)
	if m.f.Commit(store.Position{}) == nil {
		e.Error("a commit after Close answered nil")
	}
	e.publish(topic, text(0, "the store goes on"))
}

func storeCloseEndsAll(e *env) {
	topic, group := e.topic(3), name("group")
	m := e.join(e.s, topic, group, store.Start{})
	end := m.waiting()
	e.must(e.s.Close(e.ctx()))
	e.closed("the waiting Poll", <-end)
	_, err := m.f.Poll(e.ctx(), 1, nil)
	e.closed("Poll", err)
	e.closed("Publish", store.Each(e.s.Publish(e.ctx(), topic, store.AckAll, text(0, "late")), 0))
	_, err = e.s.Subscribe(e.ctx(), store.Spec{Topic: topic, Group: group})
	e.closed("Subscribe", err)
	e.closed("Ping", e.s.Ping(e.ctx()))
	_, err = e.s.Topics(e.ctx())
	e.closed("Topics", err)
	_, err = e.s.Lag(e.ctx(), topic, group)
	e.closed("Lag", err)
	for _, err := range e.s.Browse(e.ctx(), topic, 0, 0) {
		e.closed("Browse", err)
	}
	if err := m.f.Close(e.ctx()); err != nil && !errors.Is(err, store.ErrClosed) {
		e.Errorf("closing the feed afterwards: %v", err)
	}
}

// storeCloseEndsPublishes: those in flight get an outcome that is true.
func storeCloseEndsPublishes(e *env) {
	topic := e.topic(3)
	t := &tally{stored: map[[2]int64]string{}, maybe: map[string]bool{}}
	e.settle(topic, t, 3)
	var published atomic.Int32
	enough := make(chan struct{})
	var waits []func()
	for g := range 6 {
		waits = append(waits, e.background(func() {
			for i := 0; ; i++ {
				m := text(int32(g%3), fmt.Sprintf("%d-%05d", g, i))
				err := e.s.Publish(e.ctx(), topic, store.AckAll, m)
				t.note(m, fmt.Sprintf("%d-%05d", g, i), err)
				switch kind := errs.Of(err); {
				case errors.Is(err, store.ErrClosed):
					return
				case err != nil && kind != errs.Uncertain && kind != errs.Unavailable:
					e.Errorf("publish while the store closes: %v", err)
					return
				case published.Add(1) == 60:
					close(enough)
				}
			}
		}))
	}
	select {
	case <-enough:
	case <-e.ctx().Done():
		e.Error("60 publishes take too long")
	}
	e.must(e.s.Close(e.ctx()))
	for _, wait := range waits {
		wait()
	}
	e.reopen()
	e.verify(topic, t)
}

func deleteEndsPoll(e *env) {
	topic, group := e.topic(3), name("group")
	e.fill(topic, 3, 0, 1, 2)
	m := e.join(e.s, topic, group, store.Start{})
	m.read(9)
	m.commit()
	end := m.waiting()
	e.must(e.s.DeleteTopic(e.ctx(), topic))
	e.kind("the waiting Poll", <-end, errs.UnknownTopic)
	ctx, cancel := context.WithTimeout(e.ctx(), e.cfg.Patience)
	defer cancel()
	_ = m.f.Close(ctx) // its last commit may have nowhere to go
	if ctx.Err() != nil {
		e.Error("Close hangs when the topic is gone")
	}
	e.kind("Publish", store.Each(e.s.Publish(e.ctx(), topic, store.AckAll, text(0, "late")), 0), errs.UnknownTopic)
	_, err := e.s.Subscribe(e.ctx(), store.Spec{Topic: topic, Group: group})
	e.kind("Subscribe", err, errs.UnknownTopic)
}

// deleteAndCreateAnew: a topic of the same name has nothing of the old one.
func deleteAndCreateAnew(e *env) {
	topic, group := e.topic(3), name("group")
	e.fill(topic, 5, 0, 1, 2)
	m := e.join(e.s, topic, group, store.Start{})
	m.read(15)
	m.commit()
	m.close()
	e.must(e.s.DeleteTopic(e.ctx(), topic))
	e.eventually("the name is free", func() bool {
		err := e.s.CreateTopic(e.ctx(), store.Topic{Name: topic, Partitions: 4})
		if err != nil && !errors.Is(err, store.ErrExists) {
			e.Fatalf("create anew: %v", err)
		}
		return err == nil
	})
	e.committed(topic, group, -1, -1, -1, -1)
	first := text(0, "first")
	e.publish(topic, first)
	if first.Offset != 0 {
		e.Errorf("the first message of the new topic has offset %d", first.Offset)
	}
	m = e.join(e.s, topic, group, store.Start{})
	m.read(1)
	e.each([]string{"first"}, m)
}
