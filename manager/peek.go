package manager

import (
	"fmt"
	"math"
	"net/http"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/wire"
	"github.com/kateway/kateway/store"
)

const (
	defaultPeek = 10
	maxPeek     = 1000
	peekChunk   = 64 << 10 // is written at once
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
	out := peekWriter{c: c}
	for i, p := range partitions {
		left := int(n) - out.count
		share := (left + len(partitions) - i - 1) / (len(partitions) - i) // what earlier partitions did not have is for the later ones
		if err := h.peekAt(&out, place, p.Partition, offset, share); err != nil {
			return err
		}
	}
	return out.end()
}

// peekAt writes up to n messages of a partition.
func (h *Handler) peekAt(out *peekWriter, place string, partition int32, offset int64, n int) error {
	if n == 0 {
		return nil
	}
	for m, err := range h.cfg.Store.Browse(out.c.ctx, place, partition, offset) {
		if err != nil {
			return err
		}
		if err := out.message(m); err != nil {
			return err
		}
		if n--; n == 0 {
			return nil
		}
	}
	return nil
}

// peekWriter writes a list of messages.
type peekWriter struct {
	c     *call
	buf   []byte
	count int
}

func (p *peekWriter) message(m *store.Message) error {
	p.separate()
	p.count++
	p.buf = wire.AppendObject(p.buf, m, wire.Extra{})
	if len(p.buf) < peekChunk {
		return nil
	}
	return p.flush()
}

func (p *peekWriter) separate() {
	if p.count == 0 {
		p.c.w.Header().Set("Content-Type", "application/json")
		p.buf = append(p.buf, `{"items":[`...)
		return
	}
	p.buf = append(p.buf, ',')
}

func (p *peekWriter) flush() error {
	_, err := p.c.w.Write(p.buf)
	p.buf = p.buf[:0]
	return err
}

func (p *peekWriter) end() error {
	if p.count == 0 {
		return p.c.answer(http.StatusOK, list[struct{}]{Items: []struct{}{}})
	}
	p.buf = append(p.buf, "]}\n"...)
	return p.flush()
}
