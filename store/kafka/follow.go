package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// watchEvery is how often a tail looks for partitions that are new, and whether the topic is still the same.
const watchEvery = 3 * time.Second

var _ store.Follower = (*Store)(nil)

// tail is a store.Tail: a client of its own that is given its partitions, without a group. What it holds fetched is bounded
// as for a member, see Config.FetchBytes: without a Poll it does not fetch on.
//
// Two goroutines meet under mu: the caller's in Poll, which takes what the client has fetched, and watch.
type tail struct {
	s     *Store
	topic string
	id    kadm.TopicID
	cl    *kgo.Client

	ctx      context.Context //nolint:containedctx // of the client: ended by Close, or by the store's
	cancel   context.CancelFunc
	suspect  chan struct{} // the topic may be gone
	finished chan struct{} // closed when watch has ended and all is freed

	mu        sync.Mutex
	next      []int64 // by partition
	later     store.Batch
	gone      error // the topic is no more
	trouble   error // to be told, once
	interrupt context.CancelFunc
}

// Follow is store.Follower's.
func (s *Store) Follow(ctx context.Context, topic string, from []store.Position) (store.Tail, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("following %q: %w: %w", topic, err, errs.Unavailable)
	}
	d, err := s.patientDetail(ctx, topic)
	if err != nil {
		return nil, err
	}
	starts, err := s.offsets(ctx, topic, s.adm.ListStartOffsets)
	if err != nil {
		return nil, err
	}
	ends, err := s.offsets(ctx, topic, s.adm.ListCommittedOffsets)
	if err != nil {
		return nil, err
	}
	t := &tail{s: s, topic: topic, id: d.ID, suspect: make(chan struct{}, 1), finished: make(chan struct{}), next: slices.Clone(starts)}
	for _, p := range from {
		if p.Partition < 0 || int(p.Partition) >= min(len(starts), len(ends)) {
			return nil, fmt.Errorf("topic %q has %d partitions, not %d: %w", topic, len(starts), p.Partition, errs.InvalidParam)
		}
		start, end := starts[p.Partition], ends[p.Partition]
		if t.next[p.Partition] = p.Next; p.Next < start || p.Next > end { // retention overtook it, or it is another topic's
			t.later.Gaps = append(t.later.Gaps, store.Gap{Partition: p.Partition, From: p.Next, To: start})
			t.next[p.Partition] = start
		}
	}
	return t, t.begin()
}

// begin makes the client, which fetches from now on.
func (t *tail) begin() error {
	t.ctx, t.cancel = context.WithCancel(t.s.ctx)
	at := map[int32]kgo.Offset{}
	for p, next := range t.next {
		at[int32(p)] = kgo.NewOffset().At(next)
	}
	oldest := kgo.NewOffset().AtStart()
	cl, err := kgo.NewClient(t.s.clientOpts(
		kgo.WithContext(t.ctx),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{t.topic: at}),
		kgo.ConsumeStartOffset(oldest),
		kgo.ConsumeResetOffset(oldest),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.FetchMaxBytes(t.s.cfg.FetchBytes),
		kgo.FetchMaxWait(fetchWait),
		kgo.FetchMaxPartitionBytes(t.s.cfg.FetchBytes/4),
		kgo.MaxDecompressBatchBytes(maxUnpacked),
		kgo.KeepRetryableFetchErrors(), // the one way to hear at once that the topic is gone
	)...)
	if err != nil {
		t.cancel()
		return fmt.Errorf("kafka client: %w: %w", err, errs.Unavailable)
	}
	t.cl = cl
	if !t.s.background(t.watch) {
		t.cancel()
		cl.Close()
		return store.ErrClosed
	}
	return nil
}

// watch looks at the topic until the end, and frees everything then.
func (t *tail) watch() {
	defer close(t.finished)
	defer t.cl.Close()
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-t.ctx.Done():
			return
		case <-tick.C:
		case <-t.suspect:
		}
		t.look()
	}
}

// look learns of new partitions, and of a topic that is gone or another one.
func (t *tail) look() {
	d, err := t.s.detail(t.ctx, t.topic)
	switch {
	case err == nil && d.ID != t.id:
		err = fmt.Errorf("topic %q was deleted and made anew: %w", t.topic, errs.UnknownTopic)
	case err == nil:
		t.grow(len(d.Partitions))
		return
	case !errors.Is(err, errs.UnknownTopic):
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.gone = err
	t.wake()
}

// grow reads partitions that are new from their oldest message on. What can't be asked now is asked the next time.
func (t *tail) grow(partitions int) {
	t.mu.Lock()
	known := len(t.next)
	t.mu.Unlock()
	if partitions <= known {
		return
	}
	starts, err := t.s.offsets(t.ctx, t.topic, t.s.adm.ListStartOffsets)
	if err != nil || len(starts) <= known {
		return
	}
	at := map[int32]kgo.Offset{}
	t.mu.Lock()
	for p := int32(known); int(p) < len(starts); p++ {
		at[p] = kgo.NewOffset().At(starts[p])
		t.next = append(t.next, starts[p])
		t.later.Gained = append(t.later.Gained, store.Position{Partition: p, Next: starts[p]})
	}
	t.wake()
	t.mu.Unlock()
	t.cl.AddConsumePartitions(map[string]map[int32]kgo.Offset{t.topic: at})
}

// wake ends the wait of Poll. Caller holds mu.
func (t *tail) wake() {
	if t.interrupt != nil {
		t.interrupt()
	}
}

// Poll is store.Tail's.
func (t *tail) Poll(ctx context.Context, limit int) (store.Batch, error) {
	for {
		wait, cancel := context.WithCancel(ctx)
		b, err := t.ready(cancel)
		if err == nil && b == nil {
			b = t.take(t.cl.PollRecords(wait, limit))
		}
		interrupted := wait.Err() != nil
		cancel()
		switch {
		case err != nil:
			return store.Batch{}, err
		case b != nil:
			return *b, nil
		case ctx.Err() != nil:
			return store.Batch{}, ctx.Err()
		case !interrupted:
			pause(ctx, 50*time.Millisecond) // errors alone: the client does not wait between them
		}
	}
}

// ready answers what is there without the client, and else notes how the wait for that is ended.
func (t *tail) ready(interrupt context.CancelFunc) (*store.Batch, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.interrupt = interrupt
	if t.ctx.Err() != nil {
		return nil, store.ErrClosed
	}
	if t.gone != nil {
		return nil, t.gone
	}
	if b := t.later; len(b.Gained)+len(b.Gaps)+len(b.Messages) > 0 {
		t.later = store.Batch{}
		return &b, nil
	}
	err := t.trouble
	t.trouble = nil
	return nil, err
}

// take makes a batch of what was fetched; nil where that is nothing.
func (t *tail) take(fetches kgo.Fetches) *store.Batch {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := fetches.NumRecords()
	b := &store.Batch{Messages: make([]*store.Message, 0, n)}
	slab := make([]store.Message, n)
	fetches.EachPartition(func(fp kgo.FetchTopicPartition) {
		if fp.Err != nil {
			t.note(b, fp.Partition, fp.Err)
		}
		if len(fp.Records) > 0 {
			slab = t.add(b, fp.FetchPartition, slab)
		}
	})
	if len(b.Gained)+len(b.Gaps)+len(b.Messages) == 0 {
		return nil
	}
	return b
}

// add adds the records of a partition. A start of the log behind what was expected is a gap; a hole between two offsets is
// none: transactions and compaction leave them. Gaps come before the messages of a batch, so that what follows a gap
// behind messages is for the next batch.
func (t *tail) add(b *store.Batch, fp kgo.FetchPartition, slab []store.Message) []store.Message {
	if int(fp.Partition) >= len(t.next) {
		return slab
	}
	if start := min(fp.LogStartOffset, fp.Records[0].Offset); start > t.next[fp.Partition] {
		t.gap(b, fp.Partition, start)
	}
	to := b
	if slices.ContainsFunc(t.later.Gaps, func(g store.Gap) bool { return g.Partition == fp.Partition }) {
		to = &t.later
	}
	for _, r := range fp.Records {
		var headers []store.Header
		for _, h := range r.Headers {
			headers = append(headers, store.Header(h))
		}
		slab[0] = message(r, headers)
		to.Messages = append(to.Messages, &slab[0])
		slab = slab[1:]
	}
	t.next[fp.Partition] = fp.Records[len(fp.Records)-1].Offset + 1
	return slab
}

// gap tells that the partition goes on at an offset, in the next batch where this one has messages of it.
func (t *tail) gap(b *store.Batch, p int32, to int64) {
	if slices.ContainsFunc(b.Messages, func(m *store.Message) bool { return m.Partition == p }) {
		b = &t.later
	}
	b.Gaps = append(b.Gaps, store.Gap{Partition: p, From: t.next[p], To: to})
	t.next[p] = to
}

// note takes an error of a partition, or of the whole client.
func (t *tail) note(b *store.Batch, p int32, err error) {
	var loss *kgo.ErrDataLoss
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.Is(err, kgo.ErrClientClosed):
	case errors.Is(err, kerr.UnknownTopicOrPartition), errors.Is(err, kerr.UnknownTopicID):
		signal(t.suspect)
	case errors.As(err, &loss):
		t.s.log.Warn("the cluster lost messages", "topic", loss.Topic, "partition", loss.Partition, "from", loss.ResetTo, "read_to", loss.ConsumedTo)
		if int(loss.Partition) < len(t.next) && t.next[loss.Partition] != loss.ResetTo {
			t.gap(b, loss.Partition, loss.ResetTo)
		}
	case kerr.IsRetriable(err), kgo.IsRetryableBrokerErr(err), isDial(err):
		// A leader moves, a broker starts again: the client goes on by itself.
	default:
		t.trouble = fmt.Errorf("topic %q, partition %d: %w: %w", t.topic, p, err, errs.Unavailable)
	}
}

// Close is store.Tail's.
func (t *tail) Close() {
	t.cancel()
	t.mu.Lock()
	t.wake()
	t.mu.Unlock()
	<-t.finished
}
