package manager

import (
	"fmt"
	"math"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/wire"
	"github.com/kateway/kateway/store"
)

const (
	defaultPeek = 10
	maxPeek     = 1000
)

// peek shows messages without touching any group: of one partition, or an even share of each. They are written as they
// come, so that no answer has to fit into memory.
func (h *Handler) peek(c *call) error {
	n, err := c.q.Int("n", defaultPeek, 1, maxPeek)
	if err != nil {
		return err
	}
	offset, err := c.q.Int("offset", 0, 0, math.MaxInt64)
	if err != nil {
		return err
	}
	only, err := c.q.Int("partition", -1, 0, math.MaxInt32)
	if err != nil {
		return err
	}
	place, t, err := h.place(c)
	if err != nil {
		return err
	}
	partitions, err := h.cfg.Store.Resolve(c.ctx, place, store.Start{})
	if err != nil {
		return err
	}
	if only >= 0 {
		if only >= int64(len(partitions)) {
			return fmt.Errorf("topic %s has partitions 0 to %d, not %d: %w", t, len(partitions)-1, only, errs.InvalidParam)
		}
		partitions = partitions[only : only+1]
	}
	out := listWriter{c: c}
	for i, p := range partitions {
		left := int(n) - out.count
		share := (left + len(partitions) - i - 1) / (len(partitions) - i) // what earlier partitions did not have is for the later ones
		if err := h.peekAt(&out, place, p.Partition, offset, share); err != nil {
			return err
		}
	}
	return out.end("")
}

// peekAt writes up to n messages of a partition.
func (h *Handler) peekAt(out *listWriter, place string, partition int32, offset int64, n int) error {
	if n == 0 {
		return nil
	}
	for m, err := range h.cfg.Store.Browse(out.c.ctx, place, partition, offset) {
		if err != nil {
			return err
		}
		if err := out.add(func(dst []byte) []byte { return wire.AppendObject(dst, m, wire.Extra{}) }); err != nil {
			return err
		}
		if n--; n == 0 {
			return nil
		}
	}
	return nil
}
