package group

import (
	"context"
	"fmt"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// maxSuspend is the longest time that clients are kept waiting.
const maxSuspend = 60 * time.Second

// suspension keeps this process out of a group. It is guarded by Hub.mu.
type suspension struct {
	until time.Time
	timer *time.Timer
	over  chan struct{} // closed when the group may be joined again
}

// Suspend makes this process commit and leave the group, so that its positions can be set from outside; it returns when
// that is done. Its sessions end with ErrMoved. Open, Settle, Through and Mark wait, bounded by their contexts, until Resume
// or until hold is over, 60 s at most and where it is none; then the group is joined again by who needs it. Deliveries of
// before are judged as after any move of a partition.
//
// A group that is not here is suspended all the same. A second Suspend lengthens the first, where it ends later; one
// Resume ends both. While the gateway drains nothing is joined anyway, and Suspend only waits for the leaving.
//
// Unavailable when the group had not left within ctx, or the store did not confirm it; clients are kept waiting then too.
func (h *Hub) Suspend(ctx context.Context, key Key, hold time.Duration) error {
	if hold <= 0 || hold > maxSuspend {
		hold = maxSuspend
	}
	h.mu.Lock()
	if !h.draining {
		h.suspend(key, hold)
	}
	s := h.slots[key]
	h.mu.Unlock()
	if s == nil {
		return nil
	}
	s.leave(ErrMoved)
	select {
	case <-s.gone:
	case <-ctx.Done():
		return fmt.Errorf("leaving the group takes longer than asked for: %w", errs.Unavailable)
	}
	if s.left != nil {
		return fmt.Errorf("the store did not confirm that the group was left: %w", asUnavailable(s.left))
	}
	return nil
}

// Resume ends a suspension. Without one it does nothing.
func (h *Hub) Resume(key Key) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p := h.suspended[key]; p != nil {
		h.resume(key, p)
	}
}

// suspend begins a suspension or lengthens it; the caller holds the lock.
func (h *Hub) suspend(key Key, hold time.Duration) {
	until := time.Now().Add(hold)
	p := h.suspended[key]
	switch {
	case p == nil:
		p = &suspension{until: until, over: make(chan struct{})}
		p.timer = time.AfterFunc(hold, func() { h.expire(key, p) })
		h.suspended[key] = p
	case until.After(p.until):
		p.until = until
		p.timer.Reset(hold)
	}
}

// expire ends a suspension whose time is over.
func (h *Hub) expire(key Key, p *suspension) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.suspended[key] != p || time.Now().Before(p.until) {
		return // ended or lengthened meanwhile
	}
	h.cfg.Log.Warn("a group was suspended and not resumed: it goes on", "topic", key.Topic, "group", key.Group)
	h.resume(key, p)
}

// resume lets everybody in again; the caller holds the lock.
func (h *Hub) resume(key Key, p *suspension) {
	p.timer.Stop()
	delete(h.suspended, key)
	close(p.over)
}

// resumeAll ends all suspensions: who waits learns that the gateway is draining. The caller holds the lock.
func (h *Hub) resumeAll() {
	for key, p := range h.suspended {
		h.resume(key, p)
	}
}

// SeekPosition is the position that store.Admin.Seek is to be given so that the group goes on with the message next. The
// offset alone would set it too, but receipts given out before would then ack messages that are to be delivered anew.
// lag is of the partition, at present.
func SeekPosition(lag store.PartitionLag, next int64) store.Position {
	b := beyond{hold: newHold(), anew: lag.End}
	return store.Position{Partition: lag.Partition, Next: next, Beyond: b.encode(next)}
}
