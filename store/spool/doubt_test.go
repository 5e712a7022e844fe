package spool

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// picky refuses messages whose value is "bad".
type picky struct {
	*world
	refused atomic.Bool
}

func (p *picky) Publish(ctx context.Context, topic string, ack store.Ack, msgs ...*store.Message) error {
	if p.away.Load() {
		return errAway
	}
	for i, m := range msgs {
		if string(m.Value) != "bad" || !p.refused.Load() {
			continue
		}
		b := &store.BatchError{Errs: make([]error, len(msgs))}
		if i > 0 {
			_ = p.world.Publish(ctx, topic, ack, msgs[:i]...)
		}
		b.Errs[i] = errs.TooLarge
		for j := i + 1; j < len(msgs); j++ {
			b.Errs[j] = errs.Unavailable
		}
		return b
	}
	return p.world.Publish(ctx, topic, ack, msgs...)
}

// lossy stores messages and says that it does not know, as often as it is told.
type lossy struct {
	*world
	times atomic.Int32
	keep  atomic.Int32 // how many of the messages are stored
}

func (l *lossy) Publish(ctx context.Context, topic string, ack store.Ack, msgs ...*store.Message) error {
	if l.away.Load() || l.times.Add(-1) < 0 {
		return l.world.Publish(ctx, topic, ack, msgs...)
	}
	n := min(int(l.keep.Load()), len(msgs))
	for _, m := range msgs[:n] {
		if err := l.world.Publish(ctx, topic, ack, m.Clone()); err != nil {
			return err
		}
	}
	return fmt.Errorf("no answer: %w", errs.Uncertain)
}

// TestDrainInDoubt: an answer that never came neither doubles nor drops a message, nor does it change the order; also when
// messages look the same.
func TestDrainInDoubt(t *testing.T) {
	for keep := range 5 {
		l := &lossy{}
		w := newWorld(t, func(c *Config) { c.Next = l })
		l.world = w
		w.fails(true)
		want := []string{"1", "same", "same", "2"}
		for _, v := range want {
			w.spools("a", v)
		}
		l.keep.Store(int32(keep))
		l.times.Store(2)
		w.fails(false)
		w.drained()
		if got := w.byKey()["a"]; !slices.Equal(got, want) {
			t.Errorf("%d stored without an answer: %v, want %v", keep, got, want)
		}
		if l.times.Load() > 1 {
			t.Error("it was not tried")
		}
	}
}

// TestKilledWhileDraining: the store has the messages, and the process ends before it hears of it.
func TestKilledWhileDraining(t *testing.T) {
	for keep := range 4 {
		l := &lossy{}
		w := newWorld(t, func(c *Config) { c.Next = l })
		l.world = w
		w.fails(true)
		want := []string{"1", "2", "3"}
		for _, v := range want {
			w.spools("a", v)
		}
		stuck := make(chan struct{})
		w.s.cfg.Drain = hang{l, keep, stuck}
		w.fails(false)
		<-stuck
		w.close() // the note of the drain stays, as after a kill
		w.open()
		w.drained()
		if got := w.byKey()["a"]; !slices.Equal(got, want) {
			t.Errorf("%d stored: %v, want %v", keep, got, want)
		}
	}
}

// hang stores some of the messages and does not come back.
type hang struct {
	*lossy
	keep  int
	stuck chan struct{}
}

func (h hang) Publish(ctx context.Context, topic string, ack store.Ack, msgs ...*store.Message) error {
	if h.away.Load() {
		return errAway
	}
	for _, m := range msgs[:min(h.keep, len(msgs))] {
		if err := h.world.Publish(ctx, topic, ack, m.Clone()); err != nil {
			return err
		}
	}
	select {
	case <-h.stuck:
	default:
		close(h.stuck)
	}
	<-ctx.Done()
	return fmt.Errorf("%w: %w", ctx.Err(), errs.Uncertain)
}
