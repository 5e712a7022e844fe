package storetest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

func onceTests() []test {
	return []test{
		{name: "OnceIsDeclared", run: onceIsDeclared},
		{name: "OnceReplay", run: onceReplay, needs: Once},
		{name: "OnceMismatch", run: onceMismatch, needs: Once},
		{name: "OncePerTopic", run: oncePerTopic, needs: Once},
		{name: "OnceConcurrently", run: onceConcurrently, needs: Once},
		{name: "OnceFailedIsForgotten", run: onceFailedIsForgotten, needs: Once},
		{name: "OncePartial", run: oncePartial, needs: Once},
		{name: "OnceSurvivesReopen", run: onceSurvivesReopen, needs: Once},
	}
}

func onceIsDeclared(e *env) {
	_, is := e.s.(store.OncePublisher)
	if absent := e.cfg.Absent[Once] != ""; is == absent {
		e.Errorf("the store is a store.OncePublisher: %t; declared absent: %t", is, absent)
	}
}

func (e *env) once(topic string, once store.Once, msgs ...*store.Message) error {
	return e.s.(store.OncePublisher).PublishOnce(e.ctx(), topic, store.AckAll, once, msgs...)
}

func onceKey(digest string) store.Once {
	return store.Once{Key: name("key"), Digest: sha256.Sum256([]byte(digest))}
}

// trio is the same publish each time.
func trio() []*store.Message {
	return []*store.Message{text(0, "a"), {Partition: store.AnyPartition, Key: []byte("k"), Value: []byte("b")}, text(store.AnyPartition, "c")}
}

// sameOutcome fails the test unless both calls were told the same.
func (e *env) sameOutcome(what string, first, again []*store.Message, errFirst, errAgain error) {
	e.Helper()
	for i := range first {
		a, b := store.Each(errFirst, i), store.Each(errAgain, i)
		if (a == nil) != (b == nil) || a != nil && errs.Of(a) != errs.Of(b) {
			e.Errorf("%s: message %d answered %v, first it was %v", what, i, b, a)
		}
		if f, g := first[i], again[i]; a == nil && (f.Partition != g.Partition || f.Offset != g.Offset || !f.Time.Equal(g.Time)) {
			e.Errorf("%s: message %d is said to be offset %d of %d at %v, first it was %d of %d at %v",
				what, i, g.Offset, g.Partition, g.Time, f.Offset, f.Partition, f.Time)
		}
	}
}

func (e *env) total(topic string, want int) {
	e.Helper()
	n := 0
	for _, list := range e.all(topic) {
		n += len(list)
	}
	if n != want {
		e.Errorf("%d messages are stored, want %d", n, want)
	}
}

func onceReplay(e *env) {
	topic, key := e.topic(3), onceKey("x")
	first := trio()
	e.must(e.once(topic, key, first...))
	e.total(topic, 3)
	e.publish(topic, trio()...)
	for range 3 {
		again := trio()
		err := e.once(topic, key, again...)
		e.sameOutcome("again", first, again, nil, err)
	}
	e.total(topic, 6)
	e.must(e.once(topic, onceKey("x"), trio()...))
	e.total(topic, 9)
}

func onceMismatch(e *env) {
	topic, key := e.topic(3), onceKey("x")
	e.must(e.once(topic, key, trio()...))
	other := store.Once{Key: key.Key, Digest: sha256.Sum256([]byte("y"))}
	err := e.once(topic, other, trio()...)
	for i := range 3 {
		e.kind("the key with another digest", store.Each(err, i), errs.IdempotencyMismatch)
	}
	e.total(topic, 3)
}

func oncePerTopic(e *env) {
	one, two, key := e.topic(3), e.topic(3), onceKey("x")
	e.must(e.once(one, key, trio()...))
	e.must(e.once(two, key, trio()...))
	e.total(one, 3)
	e.total(two, 3)
}

func onceConcurrently(e *env) {
	topic := e.topic(3)
	for round := range 20 {
		key := onceKey("x")
		var outcomes [8][]*store.Message
		var results [8]error
		var wg sync.WaitGroup
		for i := range outcomes {
			outcomes[i] = trio()
			wg.Go(func() { results[i] = e.once(topic, key, outcomes[i]...) })
		}
		wg.Wait()
		e.must(results[0])
		for i := range outcomes {
			e.sameOutcome(fmt.Sprintf("round %d, caller %d", round, i), outcomes[0], outcomes[i], results[0], results[i])
		}
		e.total(topic, 3*(round+1))
	}
}

// onceFailedIsForgotten: where nothing was stored, the key is free for another try.
func onceFailedIsForgotten(e *env) {
	topic, key := name("storetest"), onceKey("x")
	e.kind("no topic", store.Each(e.once(topic, key, text(1, "a")), 0), errs.UnknownTopic)
	e.must(e.s.CreateTopic(e.ctx(), store.Topic{Name: topic, Partitions: 1}))
	e.kind("no partition", store.Each(e.once(topic, key, text(1, "a")), 0), errs.InvalidParam)
	e.must(e.s.AlterTopic(e.ctx(), store.Topic{Name: topic, Partitions: 3}))
	e.must(e.once(topic, key, text(1, "a")))
	e.must(e.once(topic, key, text(1, "a")))
	e.stored(topic, map[[2]int64]string{{1, 0}: "a"})
}

// oncePartial: what failed of a batch is not tried again, since the batch is known.
func oncePartial(e *env) {
	topic, key := e.topic(3), onceKey("x")
	batch := func() []*store.Message { return []*store.Message{text(0, "a"), text(7, "b"), text(2, "c")} }
	first := batch()
	errFirst := e.once(topic, key, first...)
	var b *store.BatchError
	if !errors.As(errFirst, &b) {
		e.Fatalf("got %v, want a BatchError", errFirst)
	}
	e.kind("the bad one", b.Errs[1], errs.InvalidParam)
	replay := func(what string) {
		again := batch()
		err := e.once(topic, key, again...)
		e.sameOutcome(what, first, again, errFirst, err)
		e.total(topic, 2)
	}
	replay("again")
	if e.cfg.Reopen != nil {
		e.reopen()
		replay("after reopen")
	}
}

func onceSurvivesReopen(e *env) {
	if e.cfg.Reopen == nil {
		e.Skipf("Reopen is declared absent: %s", e.cfg.Absent[Reopen])
	}
	topic, key := e.topic(3), onceKey("x")
	first := trio()
	e.must(e.once(topic, key, first...))
	e.reopen()
	again := trio()
	err := e.once(topic, key, again...)
	e.sameOutcome("after reopen", first, again, nil, err)
	e.total(topic, 3)
}
