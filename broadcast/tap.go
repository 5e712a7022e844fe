package broadcast

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

const (
	linger      = 10 * time.Second // how long a topic is followed when nobody reads it any more: clients come back, polls come again
	maxAge      = 30 * time.Second // how long a message is kept for readers that are behind
	openTimeout = 30 * time.Second // for the store to let us follow
	pollMost    = 1024             // messages at once
)

// tap follows one topic for all its readers: one goroutine that brings what comes into the ring.
type tap struct {
	hub   *Hub
	topic string
	ring  *ring
	bytes atomic.Int64  // the ring's share of the memory
	ready chan struct{} // closed when the ring is set, or err
	err   error         // the topic can't be followed

	ctx    context.Context //nolint:containedctx // the tap's life, which is nobody's request
	cancel context.CancelFunc

	// Guarded by Hub.mu.
	readers int
	idle    *time.Timer // runs while there is none
}

func newTap(h *Hub, topic string) *tap {
	t := &tap{hub: h, topic: topic, ready: make(chan struct{})}
	t.ctx, t.cancel = context.WithCancel(h.ctx)
	return t
}

// enter counts a reader. Caller holds Hub.mu.
func (t *tap) enter() {
	t.readers++
	if t.idle != nil {
		t.idle.Stop()
		t.idle = nil
	}
}

// leave counts it off; the last one's leaving closes the tap after a while. Caller holds Hub.mu.
func (t *tap) leave() {
	if t.readers--; t.readers > 0 || t.hub.taps[t.topic] != t {
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(linger, func() {
		t.hub.mu.Lock()
		defer t.hub.mu.Unlock()
		if t.idle == timer { // nobody has come meanwhile
			t.close()
		}
	})
	t.idle = timer
}

// close ends the tap; who comes next opens another one. Caller holds Hub.mu.
func (t *tap) close() {
	if t.idle != nil {
		t.idle.Stop()
		t.idle = nil
	}
	t.cancel()
	if t.hub.taps[t.topic] == t {
		delete(t.hub.taps, t.topic)
		t.hub.share()
	}
}

// run is the life of a tap.
func (t *tap) run() {
	tail, err := t.open()
	if err != nil {
		t.end(err)
		close(t.ready)
		return
	}
	close(t.ready)
	for err == nil {
		err = t.pump(tail)
		tail.Close()
		if errors.Is(err, store.ErrClosed) && t.ctx.Err() == nil {
			tail, err = t.again() // the topic's cluster has other brokers by now, say
		}
	}
	t.end(err)
	t.ring.fail(err)
}

// end closes the tap with what its readers are told.
func (t *tap) end(err error) {
	t.hub.mu.Lock()
	defer t.hub.mu.Unlock()
	if t.err = err; t.ctx.Err() != nil {
		t.err = errs.Draining
	}
	t.close()
}

// open follows the topic from its end.
func (t *tap) open() (store.Tail, error) {
	ctx, cancel := context.WithTimeout(t.ctx, openTimeout)
	defer cancel()
	at, err := t.hub.cfg.Store.Resolve(ctx, t.topic, store.Start{Newest: true})
	if err != nil {
		return nil, asUnavailable(err)
	}
	tail, err := t.hub.cfg.Store.Follow(ctx, t.topic, at)
	if err != nil {
		return nil, asUnavailable(err)
	}
	t.ring = newRing(t.topic, at, t.hub.cfg.Limits.Messages, t.bytes.Load)
	return tail, nil
}

// again follows the topic from where the ring ends, as soon as the store lets us.
func (t *tap) again() (store.Tail, error) {
	for backoff := 100 * time.Millisecond; ; backoff = min(2*backoff, 5*time.Second) {
		ctx, cancel := context.WithTimeout(t.ctx, openTimeout)
		tail, err := t.hub.cfg.Store.Follow(ctx, t.topic, t.ring.end())
		cancel()
		switch {
		case err == nil:
			return tail, nil
		case errors.Is(err, errs.UnknownTopic), errors.Is(err, errs.InvalidParam): // it is another topic, with fewer partitions
			return nil, fmt.Errorf("topic %s: %w", t.topic, errs.UnknownTopic)
		}
		t.hub.cfg.Log.Warn("following a topic; trying again", "topic", t.topic, "error", err, "in", backoff)
		if !sleep(t.ctx, backoff) {
			return nil, t.ctx.Err()
		}
	}
}

// pump brings what comes into the ring, until the tail or the tap ends.
func (t *tap) pump(tail store.Tail) error {
	backoff := 100 * time.Millisecond
	for {
		ctx, cancel := t.ctx, context.CancelFunc(func() {})
		if !t.ring.empty() { // what is in it grows old
			ctx, cancel = context.WithTimeout(t.ctx, maxAge/3)
		}
		b, err := tail.Poll(ctx, pollMost)
		quiet := ctx.Err() != nil
		cancel()
		switch {
		case err == nil:
			backoff = 100 * time.Millisecond
			t.ring.add(&b, time.Now())
		case t.ctx.Err() != nil:
			return t.ctx.Err()
		case quiet && errors.Is(err, context.DeadlineExceeded):
			t.ring.trim(time.Now())
		case errors.Is(err, errs.UnknownTopic), errors.Is(err, store.ErrClosed):
			return err
		default:
			t.hub.cfg.Log.Warn("reading from the store; trying again", "topic", t.topic, "error", err, "in", backoff)
			if !sleep(t.ctx, backoff) {
				return t.ctx.Err()
			}
			backoff = min(2*backoff, 5*time.Second)
		}
	}
}

// asUnavailable gives a store that did not answer in time the kind that tells the client so.
func asUnavailable(err error) error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return fmt.Errorf("%w: %w", err, errs.Unavailable)
	}
	return err
}
