package storetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

func publishTests() []test {
	return []test{
		{name: "PublishKeepsOrder", run: publishKeepsOrder},
		{name: "PublishByKey", run: publishByKey},
		{name: "PublishToPartition", run: publishToPartition},
		{name: "PublishWithoutKey", run: publishWithoutKey},
		{name: "PublishOneBad", run: publishOneBad},
		{name: "PublishTooLarge", run: publishTooLarge, needs: TooLarge},
		{name: "PublishUnknownTopic", run: publishUnknownTopic},
		{name: "PublishConcurrently", run: publishConcurrently},
		{name: "PublishCancelled", run: publishCancelled},
		{name: "PublishCancelHarmsNoOther", run: publishCancelHarmsNoOther},
		{name: "PublishUncertain", run: publishUncertain, needs: Cut},
	}
}

func publishKeepsOrder(e *env) {
	topic := e.topic(3)
	seq := 0
	next := func(p int32, key []byte) *store.Message {
		seq++
		return &store.Message{Partition: p, Key: key, Value: fmt.Appendf(nil, "%06d", seq)}
	}
	for call := range 60 { // of 1, 2, 40 messages, to partitions and by key
		var msgs []*store.Message
		for i := range []int{1, 2, 40}[call%3] {
			if i%2 == 0 {
				msgs = append(msgs, next(int32(rand.IntN(3)), nil))
			} else {
				msgs = append(msgs, next(store.AnyPartition, fmt.Appendf(nil, "key %d", rand.IntN(9))))
			}
		}
		e.publish(topic, msgs...)
	}
	total := 0
	for p, list := range e.all(topic) {
		last := ""
		for _, m := range list {
			if v := string(m.Value); v <= last {
				e.Fatalf("partition %d: message %s is stored behind %s", p, v, last)
			} else {
				last = v
			}
		}
		total += len(list)
	}
	if total != seq {
		e.Errorf("%d messages are stored, %d were published", total, seq)
	}
}

func publishByKey(e *env) {
	topic := e.topic(5)
	var msgs []*store.Message
	for i := range 200 {
		key := make([]byte, 1+i%20)
		for j := range key {
			key[j] = byte(rand.IntN(256))
		}
		msgs = append(msgs, &store.Message{Partition: store.AnyPartition, Key: key, Value: key})
	}
	e.publish(topic, msgs[:150]...)
	for _, m := range msgs[150:] {
		e.publish(topic, m)
	}
	for _, m := range msgs {
		if want := store.PartitionOf(m.Key, 5); m.Partition != want {
			e.Errorf("key %q is said to be in partition %d, want %d", m.Key, m.Partition, want)
		}
	}
	for p, list := range e.all(topic) {
		for _, m := range list {
			if want := store.PartitionOf(m.Key, 5); want != int32(p) {
				e.Errorf("key %q is stored in partition %d, want %d", m.Key, p, want)
			}
		}
	}
}

// publishToPartition: a wanted partition goes before the key's, and the outcome says where the message is.
func publishToPartition(e *env) {
	topic := e.topic(4)
	for p := range int32(4) {
		for i := range int64(3) {
			m := &store.Message{Partition: p, Key: []byte("one key"), Value: []byte("v")}
			e.publish(topic, m)
			if m.Partition != p || m.Offset != i {
				e.Errorf("message %d for partition %d is said to be offset %d of %d", i, p, m.Offset, m.Partition)
			}
		}
	}
	for p, list := range e.all(topic) {
		if len(list) != 3 {
			e.Errorf("partition %d has %d messages, want 3", p, len(list))
		}
	}
}

func publishWithoutKey(e *env) {
	topic := e.topic(3)
	at := map[[2]int64]string{}
	for i := range 50 {
		m := text(store.AnyPartition, fmt.Sprint(i))
		e.publish(topic, m)
		at[[2]int64{int64(m.Partition), m.Offset}] = string(m.Value)
	}
	empty := &store.Message{Partition: store.AnyPartition, Key: []byte{}, Value: []byte("empty key")}
	e.publish(topic, empty)
	at[[2]int64{int64(empty.Partition), empty.Offset}] = "empty key"
	e.stored(topic, at)
}

// stored fails the test unless the topic has exactly these values at (partition, offset).
func (e *env) stored(topic string, at map[[2]int64]string) {
	e.Helper()
	found := 0
	for p, list := range e.all(topic) {
		for _, m := range list {
			want, is := at[[2]int64{int64(p), m.Offset}]
			if !is || want != string(m.Value) {
				e.Errorf("offset %d of partition %d is %q, want %q (known: %t)", m.Offset, p, m.Value, want, is)
			}
			found++
		}
	}
	if found != len(at) {
		e.Errorf("%d messages are stored, want %d", found, len(at))
	}
}

func publishOneBad(e *env) {
	topic := e.topic(3)
	msgs := []*store.Message{text(0, "a"), text(99, "b"), text(1, "c"), text(99, "d"), text(-7, "e"), text(0, "f"), text(2, "g")}
	err := e.s.Publish(e.ctx(), topic, store.AckAll, msgs...)
	var b *store.BatchError
	if !errors.As(err, &b) || len(b.Errs) != len(msgs) {
		e.Fatalf("got %v, want a BatchError with %d entries", err, len(msgs))
	}
	at := map[[2]int64]string{}
	for i, m := range msgs {
		switch string(m.Value) {
		case "b", "e":
			e.kind(fmt.Sprintf("message for partition %d", m.Partition), b.Errs[i], errs.InvalidParam)
		case "d":
			e.certain("message behind a bad one", b.Errs[i])
		default:
			if b.Errs[i] != nil {
				e.Errorf("good message %s: %v", m.Value, b.Errs[i])
			}
			at[[2]int64{int64(m.Partition), m.Offset}] = string(m.Value)
		}
	}
	e.stored(topic, at)

	alone := text(3, "h")
	e.kind("a bad message alone", store.Each(e.s.Publish(e.ctx(), topic, store.AckAll, alone), 0), errs.InvalidParam)
	scribble(alone)
	e.stored(topic, at)
}

// certain fails the test unless err says for certain that nothing was stored.
func (e *env) certain(what string, err error) {
	e.Helper()
	if err == nil || errs.Of(err) == errs.Uncertain || errs.Of(err) == errs.Internal {
		e.Errorf("%s: got %v, want an error that is certain", what, err)
	}
}

// publishTooLarge: what fails takes those behind it in its partition with it, else their order would be broken by a
// second try; other partitions do not care.
func publishTooLarge(e *env) {
	topic := e.topic(3)
	large := &store.Message{Partition: 0, Value: make([]byte, e.cfg.TooLarge)}
	msgs := []*store.Message{text(0, "a"), large, text(0, "b"), text(1, "c"), text(0, "d")}
	err := e.s.Publish(e.ctx(), topic, store.AckAll, msgs...)
	e.kind("large message", store.Each(err, 1), errs.TooLarge)
	e.certain("first message behind it", store.Each(err, 2))
	e.certain("second message behind it", store.Each(err, 4))
	for _, i := range []int{0, 3} {
		if err := store.Each(err, i); err != nil {
			e.Errorf("message %d, which is good: %v", i, err)
		}
	}
	e.stored(topic, map[[2]int64]string{{0, 0}: "a", {1, 0}: "c"})
	e.kind("large message alone", store.Each(e.s.Publish(e.ctx(), topic, store.AckAll, large), 0), errs.TooLarge)
	e.publish(topic, text(0, "e"))
	e.stored(topic, map[[2]int64]string{{0, 0}: "a", {1, 0}: "c", {0, 1}: "e"})
}

func publishUnknownTopic(e *env) {
	topic := name("nowhere")
	err := e.s.Publish(e.ctx(), topic, store.AckAll, text(store.AnyPartition, "a"), text(0, "b"))
	e.kind("first", store.Each(err, 0), errs.UnknownTopic)
	e.kind("second", store.Each(err, 1), errs.UnknownTopic)
	topics, err := e.s.Topics(e.ctx())
	e.must(err)
	for _, t := range topics {
		if t.Name == topic {
			e.Error("the publish has made the topic")
		}
	}
}

// tally is what concurrent publishers know of their messages.
type tally struct {
	mu     sync.Mutex
	stored map[[2]int64]string // (partition, offset): value
	maybe  map[string]bool
}

func (t *tally) note(m *store.Message, value string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case err == nil:
		t.stored[[2]int64{int64(m.Partition), m.Offset}] = value
	case errs.Of(err) == errs.Uncertain:
		t.maybe[value] = true
	}
}

// verify holds the topic against the tally: what was answered is there and nothing else, but what was left uncertain.
func (e *env) verify(topic string, t *tally) {
	e.Helper()
	there := map[string]int{}
	for p, list := range e.all(topic) {
		for _, m := range list {
			v, at := string(m.Value), [2]int64{int64(p), m.Offset}
			there[v]++
			if want, answered := t.stored[at]; answered && want != v || !answered && !t.maybe[v] {
				e.Errorf("offset %d of partition %d is %q, want %q", m.Offset, p, v, want)
			}
		}
	}
	for at, v := range t.stored {
		if there[v] != 1 {
			e.Errorf("message %q, answered as offset %d of partition %d, is stored %d times", v, at[1], at[0], there[v])
		}
	}
	for v, n := range there {
		if n > 1 {
			e.Errorf("message %q is stored %d times", v, n)
		}
	}
}

// settle makes all that was published with AckLocal visible, by one message with AckAll behind it in each partition.
func (e *env) settle(topic string, t *tally, partitions int32) {
	e.Helper()
	for p := range partitions {
		m := text(p, fmt.Sprintf("settle %d", p))
		e.publish(topic, m)
		t.note(m, string(m.Value), nil)
	}
}

// publishConcurrently: offsets are given once, every message is where its publisher was told, and each publisher's own
// order is kept, with both acks and buffers that are used again at once.
func publishConcurrently(e *env) {
	topic := e.topic(3)
	t := &tally{stored: map[[2]int64]string{}, maybe: map[string]bool{}}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			batch := []*store.Message{{}, {}, {}}
			key, last := fmt.Appendf(nil, "publisher %d", g), int64(-1)
			for i := range 50 {
				msgs := batch[:1+i%3]
				for j, m := range msgs {
					*m = store.Message{Partition: store.AnyPartition, Key: append(m.Key[:0], key...), Value: fmt.Appendf(m.Value[:0], "%d-%03d-%d", g, i, j)}
				}
				if err := e.s.Publish(e.ctx(), topic, store.Ack(i%2), msgs...); err != nil {
					e.Errorf("publisher %d: %v", g, err)
					return
				}
				for j, m := range msgs {
					t.note(m, fmt.Sprintf("%d-%03d-%d", g, i, j), nil)
					if m.Offset <= last {
						e.Errorf("publisher %d: offset %d behind %d", g, m.Offset, last)
					}
					last = m.Offset
					scribble(m)
				}
			}
		})
	}
	wg.Wait()
	e.settle(topic, t, 3)
	e.verify(topic, t)
}

// publishCancelled: a caller that has gone already is answered, and truthfully.
func publishCancelled(e *env) {
	topic := e.topic(3)
	e.publish(topic, text(0, "before"))
	ctx, cancel := context.WithCancel(e.ctx())
	cancel()
	m := text(0, "cancelled")
	err := e.s.Publish(ctx, topic, store.AckAll, m)
	e.publish(topic, text(0, "after"))
	stored := len(e.browse(topic, 0, 0)) == 3
	switch kind := errs.Of(err); {
	case err == nil && !stored:
		e.Error("the publish answered nil, but nothing is stored")
	case err != nil && kind != errs.Uncertain && kind != errs.Unavailable:
		e.Errorf("the publish answered %v, want uncertain or unavailable", err)
	case err != nil && kind == errs.Unavailable && stored:
		e.Errorf("the publish answered %v, but the message is stored", err)
	}
}

func publishCancelHarmsNoOther(e *env) {
	topic := e.topic(3)
	t := &tally{stored: map[[2]int64]string{}, maybe: map[string]bool{}}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 100 {
				ctx, cancel := e.ctx(), context.CancelFunc(func() {})
				if hasty := g%2 == 1; hasty {
					ctx, cancel = context.WithTimeout(ctx, time.Duration(rand.IntN(1500))*time.Microsecond)
					if i%4 == 0 {
						cancel()
					}
				}
				m := text(int32(i%3), fmt.Sprintf("%d-%03d", g, i))
				err := e.s.Publish(ctx, topic, store.AckAll, m)
				cancel()
				switch kind := errs.Of(err); {
				case err != nil && g%2 == 0:
					e.Errorf("a publisher that waits: %v", err)
				case err != nil && kind != errs.Uncertain && kind != errs.Unavailable:
					e.Errorf("a publisher that leaves: got %v, want uncertain or unavailable", err)
				}
				t.note(m, fmt.Sprintf("%d-%03d", g, i), err)
				runtime.Gosched() // those who wait and those who leave take turns, however fast the store is
			}
		})
	}
	wg.Wait()
	e.settle(topic, t, 3)
	e.verify(topic, t)
}

// publishUncertain: an answer that does not come is Uncertain, not a failure, and the store works again afterwards.
func publishUncertain(e *env) {
	topic := e.topic(3)
	t := &tally{stored: map[[2]int64]string{}, maybe: map[string]bool{}}
	e.settle(topic, t, 3)
	heal := e.cfg.Cut(e.T, e.s)
	healed := false
	defer func() {
		if !healed {
			heal()
		}
	}()
	ctx, cancel := context.WithTimeout(e.ctx(), time.Second)
	defer cancel()
	lost := text(0, "lost answer")
	err := e.s.Publish(ctx, topic, store.AckAll, lost)
	e.kind("publish without an answer", store.Each(err, 0), errs.Uncertain)
	t.note(lost, "lost answer", errs.Uncertain)
	heal()
	healed = true
	e.eventually("the store publishes again", func() bool {
		m := text(0, name("after"))
		err := e.s.Publish(e.ctx(), topic, store.AckAll, m)
		t.note(m, string(m.Value), err)
		return err == nil
	})
	e.verify(topic, t)
}
