package manager

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/peer"
	"github.com/kateway/kateway/store"
)

const (
	suspendTimeout = 10 * time.Second // for all gateways to leave a group
	moveTimeout    = 10 * time.Second // for the store to do what it is alone for
	suspendHold    = 30 * time.Second // after which gateways come back by themselves, if we can't tell them
)

// alone calls do while no gateway is a member of the group; their clients wait meanwhile. When one can't be reached
// nothing is done, and the answer names it.
func (h *Handler) alone(c *call, g target, do func(context.Context) error) error {
	select {
	case h.seeks <- struct{}{}:
		defer func() { <-h.seeks }()
	case <-c.ctx.Done():
		return fmt.Errorf("waiting for another group to be moved: %w", errs.Unavailable)
	}
	moving := func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, moveTimeout)
		defer cancel()
		return do(ctx)
	}
	if g.Native {
		return moving(c.ctx)
	}
	defer h.resume(c.ctx, g.key)
	if s := h.suspend(c.ctx, g.key); len(s) > 0 {
		return c.refuse(s)
	}
	return moving(c.ctx)
}

// suspend makes all gateways leave the group, and answers those that did not.
func (h *Handler) suspend(ctx context.Context, key group.Key) (failed []string) {
	ctx, cancel := context.WithTimeout(ctx, suspendTimeout)
	defer cancel()
	return h.everywhere(func(n peer.Node) error { return n.Suspend(ctx, key, suspendHold) })
}

// resume lets them come back. One that is not reached does so by itself when the hold is over.
func (h *Handler) resume(ctx context.Context, key group.Key) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), peerTimeout)
	defer cancel()
	if failed := h.everywhere(func(n peer.Node) error { return n.Resume(ctx, key) }); len(failed) > 0 {
		h.log.Warn("gateways were not told that a group is theirs again; they wait until the hold is over", "gateways", failed,
			"group", key.Group, "hold", suspendHold)
	}
}

// everywhere calls f for all gateways at once, this one too, and answers where it failed.
func (h *Handler) everywhere(f func(peer.Node) error) (failed []string) {
	members := append([]peer.Member{{ID: h.cfg.ID, Node: h.cfg.Self}}, h.cfg.Peers()...)
	outcome := make(chan string, len(members))
	for _, m := range members {
		go func() {
			if err := f(m.Node); err != nil {
				h.log.Info("a gateway failed to do its part", "gateway", m.ID, "error", err)
				outcome <- m.ID
				return
			}
			outcome <- ""
		}()
	}
	for range members {
		if id := <-outcome; id != "" {
			failed = append(failed, id)
		}
	}
	slices.Sort(failed)
	return failed
}

// seekBody is where a group is to go on: a place by name or time, or an offset for each partition that is named.
type seekBody struct {
	To      string      `json:"to"`
	Offsets []offsetRow `json:"offsets"`
}

// offsetRow is the next message to deliver of a partition.
type offsetRow struct {
	Partition int32 `json:"partition"`
	Offset    int64 `json:"offset"`
}

func (h *Handler) seekGroup(c *call) error {
	g, err := h.target(c)
	if err != nil {
		return err
	}
	var body seekBody
	if err := c.body(&body); err != nil {
		return err
	}
	to, err := h.positions(c.ctx, g.key, &body)
	if err != nil {
		return err
	}
	err = h.alone(c, g, func(ctx context.Context) error { return h.seek(ctx, g, to) })
	if err != nil || c.refused != nil {
		return err
	}
	set := seekBody{Offsets: make([]offsetRow, len(to))}
	for i, p := range to {
		set.Offsets[i] = offsetRow{p.Partition, p.Next}
	}
	return c.answer(http.StatusOK, map[string]any{"offsets": set.Offsets})
}

// seek sets the positions. Those of our own groups carry a mark besides, by which receipts of before are known.
func (h *Handler) seek(ctx context.Context, g target, to []store.Position) error {
	if g.Native {
		return h.cfg.Store.Seek(ctx, g.key.Topic, g.key.Group, to...)
	}
	lag, err := h.cfg.Store.Lag(ctx, g.key.Topic, g.key.Group)
	if err != nil {
		return err
	}
	marked := make([]store.Position, 0, len(to))
	for _, l := range lag {
		if i := slices.IndexFunc(to, func(p store.Position) bool { return p.Partition == l.Partition }); i >= 0 {
			marked = append(marked, group.SeekPosition(l, to[i].Next))
		}
	}
	return h.cfg.Store.Seek(ctx, g.key.Topic, g.key.Group, marked...)
}

// positions are where the body says.
func (h *Handler) positions(ctx context.Context, key group.Key, body *seekBody) ([]store.Position, error) {
	if (body.To == "") == (len(body.Offsets) == 0) {
		return nil, fmt.Errorf(`give either "to" or "offsets": %w`, errs.InvalidBody)
	}
	if body.To != "" {
		start, err := parseStart(body.To)
		if err != nil {
			return nil, err
		}
		return h.cfg.Store.Resolve(ctx, key.Topic, start)
	}
	lag, err := h.cfg.Store.Lag(ctx, key.Topic, key.Group)
	if err != nil {
		return nil, err
	}
	var to []store.Position
	for _, o := range body.Offsets {
		i := slices.IndexFunc(lag, func(l store.PartitionLag) bool { return l.Partition == o.Partition })
		switch {
		case i < 0:
			return nil, fmt.Errorf("there is no partition %d: %w", o.Partition, errs.InvalidBody)
		case o.Offset < lag[i].Start || o.Offset > lag[i].End:
			return nil, fmt.Errorf("partition %d has offsets from %d to %d, not %d: %w", o.Partition, lag[i].Start, lag[i].End, o.Offset, errs.InvalidBody)
		case slices.ContainsFunc(to, func(p store.Position) bool { return p.Partition == o.Partition }):
			return nil, fmt.Errorf("partition %d is named twice: %w", o.Partition, errs.InvalidBody)
		}
		to = append(to, store.Position{Partition: o.Partition, Next: o.Offset})
	}
	return to, nil
}

func parseStart(to string) (store.Start, error) {
	switch to {
	case "oldest":
		return store.Start{}, nil
	case "newest":
		return store.Start{Newest: true}, nil
	}
	t, err := time.Parse(time.RFC3339, to)
	if err != nil {
		return store.Start{}, fmt.Errorf(`to %.40q must be oldest, newest or a time as 2026-11-23T10:00:00Z: %w`, to, errs.InvalidBody)
	}
	return store.Start{Since: t}, nil
}
