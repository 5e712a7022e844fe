package group

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/filter"
	"github.com/kateway/kateway/store"
)

// Config is what a hub is made of.
type Config struct {
	Store     store.Subscriber
	Publisher store.Publisher            // retry and dead queues are published to; nil: no group has any
	Admin     store.Admin                // and made, when the first message goes there; nil: no group has any
	Policy    func(Key) Policy           // asked when a group's life begins; nil: no limit and no queues
	Instance  string                     // see store.Spec
	Gone      func(instance string) bool // see store.Spec
	Secret    func() []byte              // at least 16 bytes, the same over restarts and on all gateways: receipts are made with it
	Roams     bool                       // clients of groups that are left go on at other gateways: the leases of streams go with partitions that are lost
	Limits    Limits
	Log       *slog.Logger
	Metrics   prometheus.Registerer
}

// policy is what becomes of the group's messages; no queues without the means to fill them.
func (c *Config) policy(key Key) Policy {
	if c.Policy == nil {
		return Policy{}
	}
	p := c.Policy(key)
	if c.Publisher == nil || c.Admin == nil {
		p.Retry, p.Dead = "", ""
	}
	return p
}

// spec is a membership of this process.
func (c *Config) spec(s store.Spec) store.Spec {
	s.Instance, s.Gone = c.Instance, c.Gone
	return s
}

const (
	subscribeTimeout = 30 * time.Second // for the store to let us in
	closeTimeout     = 10 * time.Second // for a group's last commit and its leaving, when the gateway goes on
	settleWait       = 5 * time.Second  // for a partition that a receipt speaks of to come to us
	maxAnew          = 1000             // groups of deleted topics that are remembered
)

// Hub has the groups of this process: one member per group and topic, however many clients there are.
type Hub struct {
	cfg Config

	mu        sync.Mutex
	slots     map[Key]*slot
	suspended map[Key]*suspension
	clients   map[Key]int   // open sessions, and those that are being opened
	sessions  int           // all of them
	kept      map[Key]kept  // settings of groups that have left
	anew      map[Key]int64 // of groups whose topic went: where receipts of another topic's messages end
	draining  bool
	wg        sync.WaitGroup
	ctx       context.Context //nolint:containedctx // the lifetime of the groups, which outlive every request
	stop      context.CancelFunc
	past      totals // of groups that have ended
}

var _ Opener = (*Hub)(nil)

// slot is the place of a group while it joins, serves and leaves; only then may the next of its name begin.
type slot struct {
	ready   chan struct{} // closed when g or err is set
	g       *group
	err     error
	leave   context.CancelCauseFunc
	evicted bool          // by Evict; guarded by Hub.mu
	left    error         // the store did not confirm that it has left; set before gone is closed
	gone    chan struct{} // closed when it has left
}

// NewHub makes a hub without groups. Close ends it.
func NewHub(cfg Config) *Hub {
	cfg.Limits = cfg.Limits.withDefaults()
	ctx, stop := context.WithCancel(context.Background())
	h := &Hub{
		cfg: cfg, slots: map[Key]*slot{}, suspended: map[Key]*suspension{}, clients: map[Key]int{}, anew: map[Key]int64{}, kept: map[Key]kept{},
		ctx: ctx, stop: stop,
	}
	cfg.Metrics.MustRegister(h)
	return h
}

// Open is Opener's. The session is one of the group's present life.
func (h *Hub) Open(ctx context.Context, a Ask) (Session, error) {
	f, err := h.filter(&a)
	if err != nil {
		return nil, err
	}
	h.visit(a.Key, 1)
	s, err := h.sit(ctx, &a, f)
	if err != nil {
		h.visit(a.Key, -1)
		return nil, err
	}
	return s, nil
}

// sit finds a seat in the group's present life, or in the next.
func (h *Hub) sit(ctx context.Context, a *Ask, f *filter.Filter) (*seat, error) {
	for {
		s, err := h.slot(ctx, a.Key, a.Start)
		if err != nil {
			return nil, err
		}
		seat, err := s.g.join(a, f)
		if err != nil {
			return nil, err
		}
		if seat != nil {
			key := a.Key // all that is kept of a, for as long as the client stays
			seat.left = func() { h.visit(key, -1) }
			return seat, nil
		}
		if err := h.over(ctx, s); err != nil {
			return nil, err
		}
	}
}

// visit counts the open sessions of a group.
func (h *Hub) visit(key Key, n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sessions += n
	if h.clients[key] += n; h.clients[key] == 0 {
		delete(h.clients, key)
	}
}

// over waits until a group that has ended has left. When it ended for good, or goes on elsewhere, the reason is the answer.
func (h *Hub) over(ctx context.Context, s *slot) error {
	s.g.mu.Lock()
	err := s.g.err
	s.g.mu.Unlock()
	switch {
	case !again(err):
		return err
	case h.evicted(s):
		return ErrMoved
	}
	return await(ctx, s.gone, "waiting for the group's last life to end")
}

func (h *Hub) evicted(s *slot) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return s.evicted
}

// await waits for done. Unavailable, with what it was about, when ctx ends first.
func await(ctx context.Context, done <-chan struct{}, what string) error {
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", what, errs.Unavailable)
	}
}

// slot finds the group or makes it, and waits until it has joined. Joining goes on when the caller has gone: it serves
// whoever comes next. A group that is suspended, or was evicted and is still leaving, is waited for. ErrMoved when it was
// evicted while the caller waited for it to join.
func (h *Hub) slot(ctx context.Context, key Key, start store.Start) (*slot, error) {
	for {
		s, err := h.free(ctx, key, start)
		if err != nil {
			return nil, err
		}
		if err := await(ctx, s.ready, "joining the group"); err != nil {
			return nil, err
		}
		if !errors.Is(s.err, ErrMoved) || h.evicted(s) {
			return s, s.err
		}
		if err := await(ctx, s.gone, "waiting for the group to be let go"); err != nil {
			return nil, err
		}
	}
}

// free answers the group's slot, which it may just have made, when nothing keeps this process out of the group.
func (h *Hub) free(ctx context.Context, key Key, start store.Start) (*slot, error) {
	for {
		s, kept, what, err := h.find(key, start)
		if kept == nil {
			return s, err
		}
		if err := await(ctx, kept, what); err != nil {
			return nil, err
		}
	}
}

// find answers the group's slot, which it may just have made, or what has to be over before it may be used.
func (h *Hub) find(key Key, start store.Start) (s *slot, kept <-chan struct{}, what string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p := h.suspended[key]; p != nil {
		return nil, p.over, "the group's positions are being set from outside", nil
	}
	s = h.slots[key]
	if s != nil && s.evicted {
		return nil, s.gone, "waiting for the group to be let go", nil
	}
	if s == nil && h.draining {
		return nil, nil, "", errs.Draining
	}
	if s == nil {
		ctx, leave := context.WithCancelCause(h.ctx)
		s = &slot{ready: make(chan struct{}), leave: leave, gone: make(chan struct{})}
		h.slots[key] = s
		h.wg.Go(func() { h.serve(ctx, key, start, s) })
	}
	return s, nil, "", nil
}

// serve is the life of a group.
func (h *Hub) serve(ctx context.Context, key Key, start store.Start, s *slot) {
	defer h.part(key, s)
	joining, cancel := context.WithTimeout(ctx, subscribeTimeout)
	defer cancel()
	feed, err := h.cfg.Store.Subscribe(joining, h.cfg.spec(store.Spec{Topic: key.Topic, Group: key.Group, Start: start}))
	if err != nil {
		s.err = fmt.Errorf("joining the group: %w", asUnavailable(err))
		if cause := context.Cause(ctx); errors.Is(cause, ErrMoved) {
			s.err = cause
		}
		close(s.ready)
		return
	}
	g := newGroup(key, &h.cfg, feed)
	h.mu.Lock()
	s.g = g
	s.g.ledger.anew, s.g.bound = h.anew[key], h.kept[key]
	s.g.draining = h.draining
	close(s.ready)
	h.mu.Unlock()
	s.left = s.g.run(ctx, closeTimeout)
}

// part ends the life of a group: from now on the next of its name may begin.
func (h *Hub) part(key Key, s *slot) {
	h.mu.Lock()
	delete(h.slots, key)
	if s.g != nil {
		h.past.add(s.g.totals())
		h.remember(key, s)
	}
	h.mu.Unlock()
	s.leave(nil)
	close(s.gone)
}

// remember keeps of a group its settings, but where it goes on elsewhere, with what they are there; and where its topic was
// deleted how far its receipts reach: a topic of the same name may be made, and they must not ack its messages. Of more than
// 1,000 such groups any one is forgotten.
func (h *Hub) remember(key Key, s *slot) {
	g, now := s.g, time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	if !errors.Is(g.err, errs.UnknownTopic) {
		if s.evicted {
			delete(h.kept, key)
		} else {
			h.keep(key, g.binding(now), now)
		}
		return
	}
	delete(h.kept, key)
	for other := range h.anew {
		if len(h.anew) < maxAnew {
			break
		}
		delete(h.anew, other)
	}
	h.anew[key] = max(h.anew[key], g.ledger.reach())
}

// asUnavailable gives a store that did not answer in time the kind that tells the client so.
func asUnavailable(err error) error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return fmt.Errorf("%w: %w", err, errs.Unavailable)
	}
	return err
}

// Evict makes this process commit and leave the group, and does not wait for it. Its sessions end with ErrMoved; the next
// Open may follow at once and waits for the leaving. Where the group is not here it does nothing.
func (h *Hub) Evict(key Key) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.slots[key]; s != nil {
		s.evicted = true
		s.leave(errEvicted)
	}
}

// Keys lists the groups that are here, those that are joining or leaving among them, in no order.
func (h *Hub) Keys() []Key {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Keys(h.slots))
}

// Requeued says that somebody else has put messages into the group's retry queue, which may not have been there before.
// Where the group is not here it does nothing.
func (h *Hub) Requeued(key Key) {
	h.mu.Lock()
	s := h.slots[key]
	h.mu.Unlock()
	if s != nil && s.joined() {
		s.g.lookForRetries()
	}
}

// Receipts is Opener's.
func (h *Hub) Receipts(key Key) *Receipts { return NewReceipts(h.cfg.Secret(), key) }

// Drain ends the sessions with errs.Draining, spread evenly over the time given, and refuses new ones. It does not wait.
// Verbs are taken until Close. Sessions of a suspended group end at once.
func (h *Hub) Drain(over time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.draining {
		return
	}
	h.draining = true
	h.resumeAll()
	var open []*seat
	for _, s := range h.joined() {
		s.g.mu.Lock()
		s.g.draining = true
		open = slices.AppendSeq(open, maps.Keys(s.g.seats))
		s.g.mu.Unlock()
	}
	h.wg.Go(func() { h.dismiss(open, over) })
}

// joined lists the slots that have a group; the caller holds the lock.
func (h *Hub) joined() (out []*slot) {
	for _, s := range h.slots {
		if s.joined() {
			out = append(out, s)
		}
	}
	return out
}

// joined reports whether there is a group.
func (s *slot) joined() bool {
	select {
	case <-s.ready:
		return s.g != nil
	default:
		return false
	}
}

// dismiss ends the sessions in random order, so that their clients do not all come to the next gateway at once.
func (h *Hub) dismiss(open []*seat, over time.Duration) {
	rand.Shuffle(len(open), func(i, j int) { open[i], open[j] = open[j], open[i] })
	for i, s := range open {
		if i > 0 && !sleep(h.ctx, over/time.Duration(len(open))) {
			return // Close ends them all
		}
		s.g.mu.Lock()
		s.finish(errs.Draining)
		s.g.mu.Unlock()
	}
}

// Leave is Close for a gateway whose groups go on elsewhere at once, as in the process that takes over from it: they are
// evicted, so that clients take along what they hold. Sessions end with ErrMoved. What no client has named as its own there
// stays leased until its lease ends.
func (h *Hub) Leave(ctx context.Context) error {
	h.mu.Lock()
	h.draining = true
	h.resumeAll()
	for _, s := range h.slots {
		s.evicted = true
		s.leave(errEvicted)
	}
	h.mu.Unlock()
	return h.Close(ctx)
}

// Close ends every session with errs.Draining; the groups commit and leave. ctx bounds the wait.
func (h *Hub) Close(ctx context.Context) error {
	h.mu.Lock()
	h.draining = true
	h.resumeAll()
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
		return fmt.Errorf("groups still leaving: %w", ctx.Err())
	}
}
