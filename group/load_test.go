package group

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/kateway/kateway/internal/errs"
)

// acks are the messages whose ack was taken.
type acks struct {
	mu  sync.Mutex
	ids map[[2]int64]bool
}

func (a *acks) has(r Ref) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ids[id(r)]
}

func (a *acks) note(r Ref) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ids[id(r)] = true
}

func (a *acks) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.ids)
}

// undo forgets those of a partition from the offset on.
func (a *acks) undo(p int32, from int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	maps.DeleteFunc(a.ids, func(id [2]int64, _ bool) bool { return id[0] == int64(p) && id[1] >= from })
}

// load is clients of a hub that ack what they get, and remember what they have acked.
type load struct {
	world
	h     *Hub
	mode  Mode            // Fifo where it is not set
	ctx   context.Context //nolint:containedctx // of the test
	stop  context.CancelFunc
	wg    sync.WaitGroup
	acked *acks // may be shared
}

func newLoad(w world, h *Hub) *load {
	ctx, stop := context.WithCancel(w.t.Context())
	return &load{world: w, h: h, ctx: ctx, stop: stop, acked: &acks{ids: map[[2]int64]bool{}}}
}

// take looks that nothing comes that was acked before.
func (l *load) take(ds []Delivery) {
	for _, d := range ds {
		if l.acked.has(d.Ref) {
			l.t.Errorf("partition %d offset %d comes again, attempt %d, though it was acked", d.Partition, d.Offset, d.Ref.Attempt)
		}
	}
}

// ack notes the acks that were taken.
func (l *load) ack(ds []Delivery, settle func([]Verb) []error) {
	for i, err := range settle(verbs(Ack, ds...)) {
		switch {
		case err == nil:
			l.acked.note(ds[i].Ref)
		case errors.Is(err, ErrMoved): // the group was evicted meanwhile: again, wherever it is now
			l.ack(ds[i:i+1], settle)
		case !errors.Is(err, errs.Fenced):
			l.t.Errorf("ack: %v", err)
		}
	}
}

// stream is one session that acks each batch a little later.
func (l *load) stream() {
	s := l.open(l.h, l.as(explicit(20)))
	defer s.Close()
	for {
		b, err := s.Next(l.ctx, 20)
		if err != nil {
			l.ended(err)
			return
		}
		l.take(b.Deliveries)
		l.pass(3 * time.Millisecond) // written
		l.ack(b.Deliveries, func(v []Verb) []error { return s.Settle(v...) })
	}
}

// polls are a session each, and settled by receipt.
func (l *load) polls() {
	for l.ctx.Err() == nil {
		s := l.open(l.h, l.as(poll()))
		ctx, cancel := context.WithTimeout(l.ctx, 20*time.Millisecond)
		b, err := s.Next(ctx, 10)
		cancel()
		s.Close()
		if err != nil {
			if !errors.Is(err, context.DeadlineExceeded) {
				l.ended(err)
			}
			continue
		}
		l.take(b.Deliveries)
		l.pass(4 * time.Millisecond)
		l.ack(b.Deliveries, func(v []Verb) []error { return l.h.Settle(context.WithoutCancel(l.ctx), key, v...) })
	}
}

func (l *load) as(a *Ask) *Ask {
	a.Mode = cmp.Or(l.mode, Fifo)
	return a
}

func (l *load) ended(err error) {
	if l.ctx.Err() == nil {
		l.t.Errorf("a session ended: %v", err)
	}
}

// finish ends the clients and looks that so many messages are acked.
func (l *load) finish(want int) {
	l.t.Helper()
	l.stop()
	l.wg.Wait()
	if got := l.acked.count(); got != want {
		l.t.Errorf("%d messages are acked, want %d", got, want)
	}
}
