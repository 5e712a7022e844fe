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
	"github.com/kateway/kateway/store"
)

// Config is what a hub is made of.
type Config struct {
	Store   store.Subscriber
	Secret  []byte // at least 16 bytes, the same over restarts and on all gateways: receipts are made with it
	Limits  Limits
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

const (
	subscribeTimeout = 30 * time.Second // for the store to let us in
	closeTimeout     = 10 * time.Second // for a group's last commit and its leaving, when the gateway goes on
	settleWait       = 5 * time.Second  // for a partition that a receipt speaks of to come to us
)

// Hub has the groups of this process: one member per group and topic, however many clients there are.
type Hub struct {
	cfg Config

	mu       sync.Mutex
	slots    map[Key]*slot
	draining bool
	wg       sync.WaitGroup
	ctx      context.Context //nolint:containedctx // the lifetime of the groups, which outlive every request
	stop     context.CancelFunc
	past     counters // of groups that have ended
}

var _ Opener = (*Hub)(nil)

// slot is the place of a group while it joins, serves and leaves; only then may the next of its name begin.
type slot struct {
	ready chan struct{} // closed when g or err is set
	g     *group
	err   error
	gone  chan struct{} // closed when it has left
}

// NewHub makes a hub without groups. Close ends it.
func NewHub(cfg Config) *Hub {
	cfg.Limits = cfg.Limits.withDefaults()
	ctx, stop := context.WithCancel(context.Background())
	h := &Hub{cfg: cfg, slots: map[Key]*slot{}, ctx: ctx, stop: stop}
	cfg.Metrics.MustRegister(h)
	return h
}

// Open is Opener's.
func (h *Hub) Open(ctx context.Context, a Ask) (Session, error) {
	for {
		s, err := h.slot(ctx, a.Key, a.Mode, a.Start)
		if err != nil {
			return nil, err
		}
		sess, err := s.g.join(&a)
		if err != nil {
			return nil, err
		}
		if sess != nil {
			return sess, nil
		}
		if err := s.over(ctx); err != nil {
			return nil, err
		}
	}
}

// over waits until a group that has ended has left. When it ended because the topic is gone, that is the answer.
func (s *slot) over(ctx context.Context) error {
	s.g.mu.Lock()
	err := s.g.err
	s.g.mu.Unlock()
	if !errors.Is(err, errIdle) {
		return err
	}
	select {
	case <-s.gone:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for the group's last life to end: %w", errs.Unavailable)
	}
}

// slot finds the group or makes it, and waits until it has joined. Joining goes on when the caller has gone: it serves
// whoever comes next.
func (h *Hub) slot(ctx context.Context, key Key, mode Mode, start store.Start) (*slot, error) {
	h.mu.Lock()
	s := h.slots[key]
	if s == nil && h.draining {
		h.mu.Unlock()
		return nil, errs.Draining
	}
	if s == nil {
		s = &slot{ready: make(chan struct{}), gone: make(chan struct{})}
		h.slots[key] = s
		h.wg.Go(func() { h.serve(key, mode, start, s) })
	}
	h.mu.Unlock()
	select {
	case <-s.ready:
		return s, s.err
	case <-ctx.Done():
		return nil, fmt.Errorf("joining the group: %w", errs.Unavailable)
	}
}

// serve is the life of a group.
func (h *Hub) serve(key Key, mode Mode, start store.Start, s *slot) {
	defer func() {
		h.mu.Lock()
		delete(h.slots, key)
		if s.g != nil {
			h.past.add(s.g.counts())
		}
		h.mu.Unlock()
		close(s.gone)
	}()
	joining, cancel := context.WithTimeout(h.ctx, subscribeTimeout)
	defer cancel()
	feed, err := h.cfg.Store.Subscribe(joining, store.Spec{Topic: key.Topic, Group: key.Group, Start: start})
	if err != nil {
		s.err = fmt.Errorf("joining the group: %w", asUnavailable(err))
		close(s.ready)
		return
	}
	s.g = newGroup(key, mode, feed, h.cfg.Limits, h.cfg.Log)
	h.mu.Lock()
	s.g.draining = h.draining
	close(s.ready)
	h.mu.Unlock()
	s.g.run(h.ctx, closeTimeout)
}

// asUnavailable gives a store that did not answer in time the kind that tells the client so.
func asUnavailable(err error) error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return fmt.Errorf("%w: %w", err, errs.Unavailable)
	}
	return err
}

// Settle is Opener's.
func (h *Hub) Settle(ctx context.Context, key Key, verbs ...Verb) []error {
	out := make([]error, len(verbs))
	g, err := h.holding(ctx, key, func(yield func(int32) bool) {
		for _, v := range verbs {
			if !yield(v.Partition) {
				return
			}
		}
	})
	if err != nil {
		return fill(out, err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.settle(verbs, out[:0])
}

// Through is Opener's.
func (h *Hub) Through(ctx context.Context, key Key, at ...store.Position) []error {
	out := make([]error, len(at))
	g, err := h.holding(ctx, key, func(yield func(int32) bool) {
		for _, p := range at {
			if !yield(p.Partition) {
				return
			}
		}
	})
	if err != nil {
		return fill(out, err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	for i, p := range at {
		out[i] = g.ledger.through(p, now)
	}
	g.dirtied(now)
	g.unpause()
	return out
}

func fill(out []error, err error) []error {
	for i := range out {
		out[i] = err
	}
	return out
}

// holding finds or starts the group and waits until it holds the partitions, or until it is clear that it won't.
func (h *Hub) holding(ctx context.Context, key Key, partitions func(func(int32) bool)) (*group, error) {
	ctx, cancel := context.WithTimeout(ctx, settleWait)
	defer cancel()
	for {
		s, err := h.slot(ctx, key, Fifo, store.Start{})
		if err != nil {
			return nil, err
		}
		if s.g.wait(ctx, partitions) {
			return s.g, nil
		}
		if err := s.over(ctx); err != nil {
			return nil, err
		}
	}
}

// wait returns true when the partitions are held, or when waiting longer is of no use; false when the group has ended.
func (g *group) wait(ctx context.Context, partitions func(func(int32) bool)) bool {
	for {
		g.mu.Lock()
		missing := false
		for p := range partitions {
			if g.ledger.windows[p] == nil {
				missing = true
			}
		}
		if !g.idle.IsZero() {
			g.idle = time.Now() // who waits uses it
		}
		ended, changed := g.err != nil, g.changed
		g.mu.Unlock()
		switch {
		case ended:
			return false
		case !missing || ctx.Err() != nil:
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// Receipts is Opener's.
func (h *Hub) Receipts(key Key) *Receipts { return NewReceipts(h.cfg.Secret, key) }

// Drain ends the sessions with errs.Draining, spread evenly over the time given, and refuses new ones. It does not wait.
// Verbs are taken until Close.
func (h *Hub) Drain(over time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.draining {
		return
	}
	h.draining = true
	var open []*session
	for _, s := range h.joined() {
		s.g.mu.Lock()
		s.g.draining = true
		open = slices.AppendSeq(open, maps.Keys(s.g.sessions))
		s.g.mu.Unlock()
	}
	h.wg.Go(func() { h.dismiss(open, over) })
}

// joined lists the slots that have a group; the caller holds the lock.
func (h *Hub) joined() (out []*slot) {
	for _, s := range h.slots {
		select {
		case <-s.ready:
			if s.g != nil {
				out = append(out, s)
			}
		default:
		}
	}
	return out
}

// dismiss ends the sessions in random order, so that their clients do not all come to the next gateway at once.
func (h *Hub) dismiss(open []*session, over time.Duration) {
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

// Close ends every session with errs.Draining; the groups commit and leave. ctx bounds the wait.
func (h *Hub) Close(ctx context.Context) error {
	h.mu.Lock()
	h.draining = true
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
