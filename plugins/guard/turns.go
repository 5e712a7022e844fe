package guard

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/plugins"
)

// class is the rank of an app when not all can be served.
type class uint8

const (
	bestEffort class = iota
	standard
	premium
	classes
)

// shares are how much of a limit each class may use: the rest is for those above it.
func shares(limit int64) [classes]int64 {
	return [classes]int64{limit / 4 * 3, limit / 10 * 9, limit}
}

// classOf finds the class of a caller. It is asked only where it matters.
type classOf func(*plugins.Call) class

// errBusy is the answer for whose turn does not come.
var errBusy = fmt.Errorf("more is published than can be stored; try again soon: %w", errs.Overloaded)

// turns bound how much is in work at a time. While there is room, a turn costs an atomic addition. Who finds none waits, for
// a bounded time among a bounded number; whose class is higher goes first, and within a class who came first. A full queue
// drops the newest of a lower class.
type turns struct {
	limits [classes]int64
	most   int
	delay  time.Duration

	busy    atomic.Int64
	waiting atomic.Int64

	mu     sync.Mutex
	queues [classes][]*waiter
}

// waiter waits; it is told once.
type waiter struct{ told chan error }

func newTurns(limit int64, most int, delay time.Duration) *turns {
	return &turns{limits: shares(limit), most: most, delay: delay}
}

// take waits for a turn, which give ends.
func (t *turns) take(ctx context.Context, c *plugins.Call, of classOf) error {
	if t.waiting.Load() == 0 && t.try(bestEffort) {
		return nil
	}
	return t.wait(ctx, of(c))
}

// try takes a turn if there is one for the class.
func (t *turns) try(k class) bool {
	if t.busy.Add(1) <= t.limits[k] {
		return true
	}
	t.busy.Add(-1)
	return false
}

// look reports whether there is a turn, without taking it.
func (t *turns) look(c *plugins.Call, of classOf) error {
	if busy := t.busy.Load(); busy < t.limits[bestEffort] || busy < t.limits[of(c)] {
		return nil
	}
	return errBusy
}

func (t *turns) give() {
	t.busy.Add(-1)
	if t.waiting.Load() > 0 {
		t.wake()
	}
}

// wake gives turns to those who wait, as many as there are.
func (t *turns) wake() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k := premium; ; k-- {
		for len(t.queues[k]) > 0 {
			if !t.try(k) {
				return // there is none for lower ones either
			}
			t.queues[k][0].told <- nil
			t.queues[k] = slices.Delete(t.queues[k], 0, 1)
			t.waiting.Add(-1)
		}
		if k == 0 {
			return
		}
	}
}

func (t *turns) wait(ctx context.Context, k class) error {
	w, err := t.enqueue(k)
	if w == nil {
		return err
	}
	limit := time.NewTimer(t.delay)
	defer limit.Stop()
	select {
	case err := <-w.told:
		return err
	case <-limit.C:
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.Index(t.queues[k], w); i >= 0 {
		t.queues[k] = slices.Delete(t.queues[k], i, i+1)
		t.waiting.Add(-1)
		return errBusy
	}
	return <-w.told // meanwhile
}

// enqueue puts a waiter into the queue; nil where there is nothing to wait for.
func (t *turns) enqueue(k class) (*waiter, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiting.Add(1) // before the last look: who gives a turn back after it sees that somebody waits
	if t.first(k) && t.try(k) {
		t.waiting.Add(-1)
		return nil, nil //nolint:nilnil // it has its turn
	}
	if t.waiting.Load() > int64(t.most) && !t.dropBelow(k) {
		t.waiting.Add(-1)
		return nil, errBusy
	}
	w := &waiter{told: make(chan error, 1)}
	t.queues[k] = append(t.queues[k], w)
	return w, nil
}

// first reports whether nobody of the class or above waits.
func (t *turns) first(k class) bool {
	for ; k < classes; k++ {
		if len(t.queues[k]) > 0 {
			return false
		}
	}
	return true
}

// dropBelow makes room in the queue: the newest of the lowest class goes, if that is below k.
func (t *turns) dropBelow(k class) bool {
	for low := range k {
		if n := len(t.queues[low]); n > 0 {
			t.queues[low][n-1].told <- errBusy
			t.queues[low] = t.queues[low][:n-1]
			t.waiting.Add(-1)
			return true
		}
	}
	return false
}

// memory bounds bytes. Nobody waits for them.
type memory struct {
	limits [classes]int64
	used   atomic.Int64
}

func (m *memory) limit(n int64) { m.limits = shares(n) }

// take asks for n bytes.
func (m *memory) take(n int64, c *plugins.Call, of classOf) bool {
	used := m.used.Add(n)
	if used <= m.limits[bestEffort] || used <= m.limits[of(c)] {
		return true
	}
	m.used.Add(-n)
	return false
}

func (m *memory) give(n int64) { m.used.Add(-n) }
