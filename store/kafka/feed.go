package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// handOver is how long a member that is to lose a partition may take until the next Poll.
const handOver = 5 * time.Second

// fetchWait is how long a broker keeps an empty fetch. A partition that is fetched again after a pause may have to wait for
// the fetch that the others are in; shorter, and idle groups would keep the brokers busy.
const fetchWait = time.Second

// maxUnpacked is the largest batch, unpacked, that is taken from Kafka; at a larger one the partition stops, with an error.
const maxUnpacked = 128 << 20

// feed is one member of a group: a store.Feed.
//
// Three goroutines meet under mu: the caller's in Poll, which takes what is there; the pump, which brings messages from
// the client when Poll finds nothing; and the client's own, which tells of partitions gained and lost (see rebalance.go).
// A fourth writes commits (commit.go). mu is never held while one of them waits for another or for the cluster.
type feed struct {
	s        *Store
	spec     store.Spec
	instance string // our name in the group; "" = none
	id       kadm.TopicID
	cl       *kgo.Client
	ctx      context.Context // of the client: when it ends, nothing is written any more
	cancel   context.CancelFunc

	ready  chan struct{} // closed when cl is set
	joined chan struct{} // closed when the group has counted us in for the first time
	wake   chan struct{} // there is something for Poll
	hungry chan struct{} // Poll has nothing to take
	noted  chan struct{} // there is something to commit
	closed chan struct{} // Close was called

	goroutines       sync.WaitGroup
	joining, closing sync.Once
	writing          sync.Mutex // one commit at a time

	mu       sync.Mutex
	parts    map[int32]*part // partitions that are ours, known to the caller or not
	lost     []int32         // to be told
	refused  []store.Refusal // to be told
	trouble  error           // to be told, once
	gone     error           // the topic is no more
	told     chan struct{}   // closed by the next Poll: the caller has had its time with what it was told is lost
	awaiting chan struct{}   // becomes told when the loss is told
	adjusted map[int32]int64 // offsets to go on from that are not those committed; see gain
	turn     int             // the partition to begin with
	lastErr  error           // of the last write of positions

	fenced     atomic.Bool   // another process has our name
	fencedTold time.Duration // when that was logged; the client's own
}

// part is a partition that is ours.
type part struct {
	gained   store.Position
	known    bool // the caller was told that it is its
	leaving  bool // it is being handed over
	next     int64
	unsure   bool // next is a guess: the log's start could not be asked for
	queue    []chunk
	bytes    int
	stopped  bool            // the client does not fetch it
	position *store.Position // to be written
}

// chunk is what was fetched at once. The gap is before the records.
type chunk struct {
	gap     *store.Gap
	records []*kgo.Record
}

func newFeed(s *Store, spec store.Spec, name string, id kadm.TopicID) *feed {
	f := &feed{
		s: s, spec: spec, instance: name, id: id, parts: map[int32]*part{}, adjusted: map[int32]int64{},
		ready: make(chan struct{}), joined: make(chan struct{}), wake: make(chan struct{}, 1), hungry: make(chan struct{}, 1), noted: make(chan struct{}, 1), closed: make(chan struct{}),
	}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	return f
}

func (f *feed) opts() []kgo.Opt {
	oldest := kgo.NewOffset().AtStart()
	opts := []kgo.Opt{
		kgo.WithContext(f.ctx),
		kgo.ConsumerGroup(f.spec.Group),
		kgo.ConsumeTopics(f.spec.Topic),
		kgo.Balancers(kgo.CooperativeStickyBalancer()),
		kgo.SessionTimeout(f.s.cfg.SessionTimeout),
		kgo.HeartbeatInterval(f.s.cfg.SessionTimeout / 5),
		kgo.RebalanceTimeout(max(30*time.Second, f.s.cfg.SessionTimeout)),
		kgo.DisableAutoCommit(),
		kgo.BlockRebalanceOnPoll(), // while the pump hands over what it polled, see there
		kgo.ConsumeStartOffset(oldest),
		kgo.ConsumeResetOffset(oldest),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.FetchMaxBytes(f.s.cfg.FetchBytes),
		kgo.FetchMaxWait(fetchWait),
		kgo.FetchMaxPartitionBytes(f.s.cfg.FetchBytes / 4),
		kgo.MaxDecompressBatchBytes(maxUnpacked),
		kgo.KeepRetryableFetchErrors(), // the one way to hear that the topic is gone
		kgo.OnOffsetsFetched(f.gain),
		kgo.AdjustFetchOffsetsFn(f.adjust),
		kgo.OnPartitionsRevoked(func(_ context.Context, _ *kgo.Client, lost map[string][]int32) { f.lose(lost[f.spec.Topic], true) }),
		kgo.OnPartitionsLost(func(_ context.Context, _ *kgo.Client, lost map[string][]int32) { f.lose(lost[f.spec.Topic], false) }),
		kgo.OnPartitionsAssigned(func(context.Context, *kgo.Client, map[string][]int32) {
			f.fenced.Store(false)
			f.joining.Do(func() { close(f.joined) })
		}),
		kgo.WithHooks(f),
		kgo.RetryBackoffFn(f.retryIn),
	}
	if f.instance != "" {
		opts = append(opts, kgo.InstanceID(f.instance))
	}
	if f.s.cfg.Protocol == ProtocolConsumer {
		opts = append(opts, kgo.ServerSideBalancer())
	}
	return opts
}

// signal wakes the one that waits for c, or lets its next wait end at once.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Poll is store.Feed's.
func (f *feed) Poll(ctx context.Context, limit int, paused []int32) (store.Batch, error) {
	f.mu.Lock()
	if f.told != nil {
		close(f.told)
		f.told = nil
	}
	f.mu.Unlock()
	for {
		b, err := f.take(limit, paused)
		if err != nil || len(b.Lost)+len(b.Gained)+len(b.Refused)+len(b.Gaps)+len(b.Messages) > 0 {
			return b, err
		}
		signal(f.hungry)
		select {
		case <-f.wake:
		case <-f.closed:
		case <-ctx.Done():
			return store.Batch{}, ctx.Err()
		}
	}
}

// take answers what is there.
func (f *feed) take(limit int, paused []int32) (b store.Batch, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.isClosed():
		return b, store.ErrClosed
	case f.gone != nil:
		return b, f.gone
	}
	b.Lost, f.lost = f.lost, nil
	b.Refused, f.refused = f.refused, nil
	if len(b.Lost) > 0 {
		f.told, f.awaiting = f.awaiting, nil
	}
	var order []int32
	for p, pt := range f.parts {
		if pt.leaving {
			continue
		}
		if !pt.known {
			pt.known = true
			b.Gained = append(b.Gained, pt.gained)
		}
		f.throttle(p, pt, slices.Contains(paused, p))
		if len(pt.queue) > 0 && !slices.Contains(paused, p) {
			order = append(order, p)
		}
	}
	slices.Sort(order)
	f.collect(&b, limit, order)
	if len(b.Lost)+len(b.Gained)+len(b.Refused)+len(b.Gaps)+len(b.Messages) == 0 {
		err, f.trouble = f.trouble, nil
	}
	return b, err
}

// throttle keeps the client from fetching more of a partition that is paused and has enough at hand. What the client has
// fetched meanwhile it drops, and fetches again later.
func (f *feed) throttle(p int32, pt *part, paused bool) {
	stop := paused && pt.bytes >= int(f.s.cfg.FetchBytes/2)
	if stop == pt.stopped {
		return
	}
	pt.stopped = stop
	one := map[string][]int32{f.spec.Topic: {p}}
	if stop {
		f.cl.PauseFetchPartitions(one)
	} else {
		f.cl.ResumeFetchPartitions(one)
	}
}

// Commit is store.Feed's.
func (f *feed) Commit(p store.Position) error {
	switch {
	case len(p.Beyond) > store.MaxBeyond:
		return fmt.Errorf("%d bytes beside the position, the limit is %d: %w", len(p.Beyond), store.MaxBeyond, errs.TooLarge)
	case !utf8.ValidString(p.Beyond):
		return fmt.Errorf("what is beside the position is not UTF-8: %w", errs.InvalidParam)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.isClosed() {
		return store.ErrClosed
	}
	pt := f.parts[p.Partition]
	if pt == nil || !pt.known {
		return fmt.Errorf("partition %d is not held: %w", p.Partition, errs.Fenced)
	}
	pt.position = &p
	signal(f.noted)
	return nil
}

func (f *feed) isClosed() bool {
	select {
	case <-f.closed:
		return true
	default:
		return false
	}
}

// Close is store.Feed's.
func (f *feed) Close(ctx context.Context) error {
	var err error
	f.closing.Do(func() { err = f.close(ctx) })
	return err
}

func (f *feed) close(ctx context.Context) error {
	f.mu.Lock()
	close(f.closed)
	f.mu.Unlock()

	f.writeClosing(ctx)
	id, _ := f.cl.GroupMetadata()
	if err := f.cl.LeaveGroupContext(ctx); err != nil && !errors.Is(err, context.Canceled) {
		f.s.log.Warn("leaving the group failed; it waits for our session to end", "group", f.spec.Group, "error", err)
	}
	if f.instance != "" {
		f.giveUp(ctx, id)
	}
	f.cancel()
	f.cl.Close()
	f.cl.AllowRebalance() // Close polls, and a goroutine of its own may wait for the end of that
	f.goroutines.Wait()
	f.s.mu.Lock()
	delete(f.s.feeds, f)
	f.s.mu.Unlock()
	f.s.release(f.spec.Group, f.instance)
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lastErr
}
