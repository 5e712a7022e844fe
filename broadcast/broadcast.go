// Package broadcast reads topics without a group: every reader sees every message, nothing is acked, and nothing is kept
// of a reader but the cursor that it carries itself. It knows no HTTP.
//
// A topic that somebody reads is followed once (tap.go). What comes is encoded once and kept for a short while in a ring
// that all readers of the topic go along (ring.go), so that a delivery costs the same however many there are. A reader that
// is behind the ring reads the store itself, a bit at a time, until it has caught up (reader.go, catchup.go).
package broadcast

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// Store is what a hub reads from.
type Store interface {
	store.Follower
	// Resolve and Browse are store.Admin's.
	Resolve(ctx context.Context, topic string, start store.Start) ([]store.Position, error)
	Browse(ctx context.Context, topic string, partition int32, offset int64) iter.Seq2[*store.Message, error]
}

// Config is what a hub is made of. Zero limits mean the default.
type Config struct {
	Store   Store
	Limits  Limits
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// Limits bound what a hub keeps in memory. A reader by itself keeps nothing but its place.
type Limits struct {
	Topics   int // that are read at a time, and in the 10 s after; the next is refused: Overloaded; 1,000
	Messages int // in the ring of one topic; 8,192
	Bytes    int // in the ring of one topic, the newest message always; 16 MiB
	Total    int // in all rings, shared out among them evenly; 64 MiB
	Browses  int // readers that read the store at the same time; the next waits; 16
	Step     int // bytes that one of them reads at once, the last message not counted; 256 KiB
	Held     int // in the hands of all that do: the less of it is left, the less each reads at once, down to a message; 16 MiB
}

func (l Limits) withDefaults() Limits {
	or := func(v *int, def int) {
		if *v == 0 {
			*v = def
		}
	}
	or(&l.Topics, 1000)
	or(&l.Messages, 8192)
	or(&l.Bytes, 16<<20)
	or(&l.Total, 64<<20)
	or(&l.Browses, 16)
	or(&l.Step, 256<<10)
	or(&l.Held, 16<<20)
	return l
}

// Ask is what a reader wants.
type Ask struct {
	Topic string // its name in the store
	From  Cursor
	Start store.Start               // where From is nowhere
	Match func(*store.Message) bool // nil: all messages; called by Reader.Next, the others are passed over
	// Inspect, where it is not nil, is called by Reader.Next with a copy of each message that matches, and may put other slices
	// into it. The reader gets the copy; false: it is passed over.
	Inspect func(context.Context, *store.Message) bool
}

// Item is a message as all its readers get it: nobody writes to it or to its bytes.
type Item struct {
	*store.Message
	Object []byte // the JSON object of the message, without a cursor
	Cursor []byte // the text of the cursor behind the message

	shared *shared    // nil: this reader's alone
	gap    *store.Gap // instead of a message; never in a Batch
}

// AppendObject appends the JSON object of the message with its cursor.
func (it *Item) AppendObject(dst []byte) []byte {
	dst = append(dst, it.Object[:len(it.Object)-1]...)
	dst = append(dst, `,"cursor":"`...)
	dst = append(dst, it.Cursor...)
	return append(dst, `"}`...)
}

// Batch is what one Next brought: gaps or items, not both. Its slices are good until the next call of Next or Close.
type Batch struct {
	Gaps  []store.Gap
	Items []Item
}

// Hub has the readers of this process.
type Hub struct {
	cfg     Config
	metrics *metrics
	browses chan struct{} // one for each reader that reads the store
	held    atomic.Int64  // bytes that readers have from the store in their hands
	batches sync.Pool     // *batch: what a reader needs only while it has messages in its hands

	mu       sync.Mutex
	taps     map[string]*tap
	readers  map[*Reader]struct{}
	draining bool
	ctx      context.Context //nolint:containedctx // the lifetime of the taps, which outlive every request
	stop     context.CancelFunc
	wg       sync.WaitGroup
}

// NewHub makes a hub without readers. Close ends it.
func NewHub(cfg Config) *Hub {
	cfg.Limits = cfg.Limits.withDefaults()
	ctx, stop := context.WithCancel(context.Background())
	h := &Hub{
		cfg: cfg, browses: make(chan struct{}, cfg.Limits.Browses), taps: map[string]*tap{}, readers: map[*Reader]struct{}{},
		ctx: ctx, stop: stop,
	}
	h.metrics = newMetrics(h, cfg.Metrics)
	return h
}

// Open makes the caller a reader of the topic. When it returns, the place where the reader begins is fixed: what is
// published afterwards it gets. ctx bounds only that. Kinds: Draining; Overloaded when too many topics are read; InvalidParam
// when a cursor of some partitions names one that is not there; those of store.Follower.
func (h *Hub) Open(ctx context.Context, ask Ask) (*Reader, error) {
	t, err := h.tap(ask.Topic)
	if err != nil {
		return nil, err
	}
	r := &Reader{hub: h, tap: t, match: ask.Match, inspect: ask.Inspect, done: make(chan struct{})}
	if err := r.begin(ctx, &ask); err != nil {
		h.leave(t)
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.draining {
		t.leave()
		return nil, errs.Draining
	}
	h.readers[r] = struct{}{}
	return r, nil
}

// tap finds the topic's tap or opens it, and counts one more reader.
func (h *Hub) tap(topic string) (*tap, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.draining {
		return nil, errs.Draining
	}
	t := h.taps[topic]
	if t == nil {
		if len(h.taps) >= h.cfg.Limits.Topics && !h.closeIdle() {
			return nil, fmt.Errorf("%d topics are read without a group already: %w", len(h.taps), errs.Overloaded)
		}
		t = newTap(h, topic)
		h.taps[topic] = t
		h.share()
		h.wg.Go(t.run)
	}
	t.enter()
	return t, nil
}

// closeIdle closes one tap that nobody reads. Caller holds mu.
func (h *Hub) closeIdle() bool {
	for _, t := range h.taps {
		if t.readers == 0 {
			t.close()
			return true
		}
	}
	return false
}

// share shares the memory for all rings out among them. Caller holds mu.
func (h *Hub) share() {
	each := int64(min(h.cfg.Limits.Bytes, h.cfg.Limits.Total/max(len(h.taps), 1)))
	for _, t := range h.taps {
		t.bytes.Store(each)
	}
}

func (h *Hub) leave(t *tap) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t.leave()
}

// Drain ends the readers with errs.Draining, spread evenly over the time given, and refuses new ones. It does not wait.
func (h *Hub) Drain(over time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.draining {
		return
	}
	h.draining = true
	open := slices.Collect(maps.Keys(h.readers))
	h.wg.Go(func() { h.dismiss(open, over) })
}

// dismiss ends the readers in random order, so that their clients do not all come to the next gateway at once.
func (h *Hub) dismiss(open []*Reader, over time.Duration) {
	rand.Shuffle(len(open), func(i, j int) { open[i], open[j] = open[j], open[i] })
	for i, r := range open {
		if i > 0 && !sleep(h.ctx, over/time.Duration(len(open))) {
			return // Close ends them all
		}
		r.end()
	}
}

// Close ends every reader with errs.Draining and frees everything. ctx bounds the wait.
func (h *Hub) Close(ctx context.Context) error {
	h.mu.Lock()
	h.draining = true
	for r := range h.readers {
		r.end()
	}
	h.mu.Unlock()
	h.stop()
	left := make(chan struct{})
	go func() {
		defer close(left)
		h.wg.Wait()
	}()
	select {
	case <-left:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("topics still read: %w", ctx.Err())
	}
}

// sleep is false when ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
