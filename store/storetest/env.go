package storetest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// env is what a test works with: the store, and steps that fail the test when they do.
type env struct {
	*testing.T
	cfg Config
	s   store.Store
}

// open gives one more handle, closed at the end of the test.
func (e *env) open() store.Store {
	s := e.cfg.New(e.T)
	e.closeAtEnd(s)
	return s
}

func (e *env) closeAtEnd(s store.Store) {
	e.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), e.cfg.Patience)
		defer cancel()
		if err := s.Close(ctx); err != nil && !errors.Is(err, store.ErrClosed) {
			e.Errorf("closing the store: %v", err)
		}
	})
}

// other is the handle for a second gateway: its own where handles share data, and it knows the topic.
func (e *env) other(topic string) store.Store {
	if !e.cfg.Shared {
		return e.s
	}
	s := e.open()
	e.eventually("the topic is known to the other handle", func() bool {
		_, err := s.Resolve(e.ctx(), topic, store.Start{})
		return err == nil
	})
	return s
}

// reopen closes the store and opens its data again.
func (e *env) reopen() {
	e.s = e.cfg.Reopen(e.T, e.s)
	e.closeAtEnd(e.s)
}

// ctx ends when patience does.
func (e *env) ctx() context.Context {
	ctx, cancel := context.WithTimeout(e.Context(), e.cfg.Patience)
	e.Cleanup(cancel)
	return ctx
}

// eventually polls a condition that no feed tells of.
func (e *env) eventually(what string, is func() bool) {
	e.Helper()
	ctx := e.ctx()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			e.Fatalf("not within %v: %s", e.cfg.Patience, what)
		}
	}
}

// background runs f beside the test. The test waits for it also when it fails, before the store is closed; its contexts
// have ended by then.
func (e *env) background(f func()) (wait func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	wait = func() { <-done }
	e.Cleanup(wait)
	return wait
}

func (e *env) must(err error) {
	e.Helper()
	if err != nil {
		e.Fatal(err)
	}
}

// kind fails the test unless err is of the kind.
func (e *env) kind(what string, err error, want errs.Kind) {
	e.Helper()
	if !errors.Is(err, want) {
		e.Errorf("%s: got %v, want kind %q", what, err, want.Code())
	}
}

// name is one that nobody has used.
func name(prefix string) string { return prefix + "-" + rand.Text()[:12] }

// topic creates one.
func (e *env) topic(partitions int32) string {
	e.Helper()
	topic := name("storetest")
	e.must(e.s.CreateTopic(e.ctx(), store.Topic{Name: topic, Partitions: partitions}))
	return topic
}

func (e *env) publish(topic string, msgs ...*store.Message) {
	e.Helper()
	if err := e.s.Publish(e.ctx(), topic, store.AckAll, msgs...); err != nil {
		e.Fatalf("publish %d messages: %v", len(msgs), err)
	}
}

// fill publishes n messages to each of the partitions, in turn, and answers their values, in order.
func (e *env) fill(topic string, n int, partitions ...int32) []string {
	e.Helper()
	var values []string
	var msgs []*store.Message
	run := rand.Text()[:6]
	for i := range n {
		for _, p := range partitions {
			values = append(values, fmt.Sprintf("%s-%06d-%d", run, i, p))
			msgs = append(msgs, text(p, values[len(values)-1]))
		}
	}
	for batch := range slices.Chunk(msgs, 500) {
		e.publish(topic, batch...)
	}
	return values
}

// text is a message for a partition.
func text(p int32, value string) *store.Message {
	return &store.Message{Partition: p, Value: []byte(value)}
}

// browse reads a partition from an offset to its end.
func (e *env) browse(topic string, p int32, from int64) []*store.Message {
	e.Helper()
	var list []*store.Message
	for m, err := range e.s.Browse(e.ctx(), topic, p, from) {
		if err != nil {
			e.Fatalf("browse partition %d from %d: %v", p, from, err)
		}
		list = append(list, m)
	}
	return list
}

// all reads every partition of a topic and checks that their offsets have no holes.
func (e *env) all(topic string) [][]*store.Message {
	e.Helper()
	starts, err := e.s.Resolve(e.ctx(), topic, store.Start{})
	e.must(err)
	list := make([][]*store.Message, len(starts))
	for p, start := range starts {
		list[p] = e.browse(topic, int32(p), 0)
		for i, m := range list[p] {
			if m.Partition != int32(p) || m.Offset != start.Next+int64(i) {
				e.Fatalf("message %d of partition %d says that it is offset %d of %d", i, p, m.Offset, m.Partition)
			}
		}
	}
	return list
}

// lag is the group's, all partitions.
func (e *env) lag(topic, group string) []store.PartitionLag {
	e.Helper()
	lag, err := e.s.Lag(e.ctx(), topic, group)
	e.must(err)
	for i, l := range lag {
		if l.Partition != int32(i) {
			e.Fatalf("entry %d of Lag is of partition %d", i, l.Partition)
		}
	}
	return lag
}

// committed fails the test unless the group's positions are these, by partition.
func (e *env) committed(topic, group string, want ...int64) {
	e.Helper()
	if got := e.nexts(topic, group); !slices.Equal(got, want) {
		e.Fatalf("the group's committed offsets are %v, want %v", got, want)
	}
}

func (e *env) nexts(topic, group string) []int64 {
	e.Helper()
	var nexts []int64
	for _, l := range e.lag(topic, group) {
		nexts = append(nexts, l.Committed)
	}
	return nexts
}

// diff says how got differs from what was published, or "".
func diff(want, got *store.Message) string {
	switch {
	case (want.Key == nil) != (got.Key == nil) || !bytes.Equal(want.Key, got.Key):
		return fmt.Sprintf("key %s instead of %s", show(got.Key), show(want.Key))
	case (want.Value == nil) != (got.Value == nil) || !bytes.Equal(want.Value, got.Value):
		return fmt.Sprintf("value %s instead of %s", show(got.Value), show(want.Value))
	case len(want.Headers) != len(got.Headers):
		return fmt.Sprintf("%d headers instead of %d", len(got.Headers), len(want.Headers))
	case !want.Time.IsZero() && want.Time.UnixMilli() != got.Time.UnixMilli():
		return fmt.Sprintf("time %v instead of %v", got.Time, want.Time)
	}
	for i, h := range want.Headers {
		if g := got.Headers[i]; g.Key != h.Key || !bytes.Equal(g.Value, h.Value) {
			return fmt.Sprintf("header %d is %q=%s instead of %q=%s", i, g.Key, show(g.Value), h.Key, show(h.Value))
		}
	}
	return ""
}

func show(b []byte) string {
	switch {
	case b == nil:
		return "nil"
	case len(b) > 300:
		return fmt.Sprintf("%q... (%d bytes)", b[:300], len(b))
	}
	return fmt.Sprintf("%q", b)
}

// scribble overwrites all that a message refers to.
func scribble(m *store.Message) {
	for i := range m.Headers {
		fill(m.Headers[i].Value)
		m.Headers[i] = store.Header{Key: "scribbled"}
	}
	fill(m.Key)
	fill(m.Value)
}

func fill(b []byte) {
	for i := range b {
		b[i] = '!'
	}
}
