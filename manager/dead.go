package manager

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/wire"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/peer"
	"github.com/kateway/kateway/store"
)

// What a group has done of its dead queue, by reading it or because an operator said so, is the position of the group that
// reads it. So a dead message is gone for the operator when that position says it is done, and whoever reads the queue
// (q=dead) and the operator see the same.

// deadChunk is how many messages are taken from a dead queue while its readers wait.
const deadChunk = 500

// deadQueue is the dead queue of the group that the path names.
type deadQueue struct {
	of    target    // the group
	read  target    // who reads the queue; its key has the queue's name in the store
	retry group.Key // the queue for messages that are to be done again
}

func (h *Handler) deadQueue(c *call) (deadQueue, error) {
	g, err := h.target(c)
	if err != nil {
		return deadQueue{}, err
	}
	name, ok := meta.ParseGroup(g.key.Group)
	if !ok {
		return deadQueue{}, fmt.Errorf("group %s: %w", g.Group, errs.Internal)
	}
	d := deadQueue{of: g, read: target{groupName: g.groupName}}
	d.read.key.Topic, d.read.key.Group = name.Queue(meta.Dead, g.key.Topic)
	d.retry.Topic, d.retry.Group = name.Queue(meta.Retry, g.key.Topic)
	return d, nil
}

// undone answers what is done of each partition of the queue; none where the queue was never needed.
func (h *Handler) undone(ctx context.Context, d deadQueue) ([]*group.Done, []store.PartitionLag, error) {
	lag, err := h.cfg.Store.Lag(ctx, d.read.key.Topic, d.read.key.Group)
	if errors.Is(err, errs.UnknownTopic) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	list := make([]*group.Done, len(lag))
	for i, l := range lag {
		list[i] = group.NewDone(l)
	}
	return list, lag, nil
}

// listDead lists messages that the group gave up and nobody has dealt with.
func (h *Handler) listDead(c *call) error {
	p, err := c.page()
	if err != nil {
		return err
	}
	after, err := parseAt(p.after)
	if err != nil {
		return err
	}
	d, err := h.deadQueue(c)
	if err != nil {
		return err
	}
	done, lag, err := h.undone(c.ctx, d)
	if err != nil {
		return err
	}
	out := listWriter{c: c}
	var last group.At
	for i := range done {
		from := done[i].Next()
		switch {
		case lag[i].Partition < after.Partition:
			continue
		case lag[i].Partition == after.Partition:
			from = max(from, after.Offset+1)
		}
		for m, err := range h.cfg.Store.Browse(c.ctx, d.read.key.Topic, lag[i].Partition, from) {
			if err != nil {
				return err
			}
			if done[i].Has(m.Offset) {
				continue
			}
			if out.count == p.limit {
				return out.end(fmt.Sprintf("%d:%d", last.Partition, last.Offset))
			}
			last = group.At{Partition: m.Partition, Offset: m.Offset}
			if err := out.add(func(dst []byte) []byte { return appendDead(dst, m) }); err != nil {
				return err
			}
		}
	}
	return out.end("")
}

// parseAt reads where a page of dead messages ended; "" is before all.
func parseAt(s string) (group.At, error) {
	if s == "" {
		return group.At{Offset: -1}, nil
	}
	partition, offset, _ := strings.Cut(s, ":")
	p, err := strconv.ParseInt(partition, 10, 32)
	o, err2 := strconv.ParseInt(offset, 10, 64)
	if err := cmp.Or(err, err2); err != nil || p < 0 || o < 0 {
		return group.At{}, fmt.Errorf("after=%.64q is not the next of a list of dead messages: %w", s, errs.InvalidParam)
	}
	return group.At{Partition: int32(p), Offset: o}, nil
}

// appendDead appends a dead message as it was published, with its place in the queue, why it is there and where it came from.
func appendDead(dst []byte, m *store.Message) []byte {
	o, ok := group.Origin(m)
	if !ok {
		return wire.AppendObject(dst, m, wire.Extra{}) // somebody else put it there
	}
	dst = wire.AppendObject(dst, group.Published(m), wire.Extra{})
	dst = append(dst[:len(dst)-1], `,"cause":`...)
	cause, _ := json.Marshal(strings.ToValidUTF8(o.Cause, "\uFFFD")) // a string can be written
	dst = append(dst, cause...)
	return fmt.Appendf(dst, `,"attempts":%d,"origin":{"partition":%d,"offset":%d}}`, o.Attempts, o.Partition, o.Offset)
}

// deadBody names dead messages; none is all there are.
type deadBody struct {
	Messages *[]atBody `json:"messages"`
}

type atBody struct {
	Partition *int32 `json:"partition"`
	Offset    *int64 `json:"offset"`
}

// wanted reads which messages are meant: by partition their offsets, sorted, or nil for all.
func (b *deadBody) wanted() (map[int32][]int64, error) {
	if b.Messages == nil {
		return nil, nil
	}
	list := map[int32][]int64{}
	for i, m := range *b.Messages {
		if m.Partition == nil || m.Offset == nil || *m.Partition < 0 || *m.Offset < 0 {
			return nil, fmt.Errorf("messages/%d: needs partition and offset: %w", i, errs.InvalidBody)
		}
		list[*m.Partition] = append(list[*m.Partition], *m.Offset)
	}
	for p, offsets := range list {
		slices.Sort(offsets)
		list[p] = slices.Compact(offsets)
	}
	return list, nil
}

// requeue has dead messages delivered to the group again, from its retry queue and with no attempts behind them.
func (h *Handler) requeue(c *call) error {
	n, err := h.settleDead(c, func(ctx context.Context, d deadQueue, msgs []*store.Message) error {
		again := make([]*store.Message, len(msgs))
		for i, m := range msgs {
			again[i] = group.Redo(m)
		}
		return h.publishTo(ctx, d.retry.Topic, again)
	})
	if err != nil || c.refused != nil {
		return err
	}
	return c.answer(http.StatusOK, struct {
		Requeued int `json:"requeued"`
	}{n})
}

// publishTo publishes to a queue, which it makes where it is not there yet.
func (h *Handler) publishTo(ctx context.Context, queue string, msgs []*store.Message) error {
	err := h.cfg.Store.Publish(ctx, queue, store.AckAll, msgs...)
	if !errors.Is(err, errs.UnknownTopic) {
		return err
	}
	if err := h.cfg.Store.CreateTopic(ctx, group.QueueTopic(queue)); err != nil && !errors.Is(err, store.ErrExists) {
		return err
	}
	return h.cfg.Store.Publish(ctx, queue, store.AckAll, msgs...)
}

// purge forgets dead messages.
func (h *Handler) purge(c *call) error {
	n, err := h.settleDead(c, func(context.Context, deadQueue, []*store.Message) error { return nil })
	if err != nil || c.refused != nil {
		return err
	}
	return c.answer(http.StatusOK, struct {
		Purged int `json:"purged"`
	}{n})
}

// settleDead does something with the dead messages that the body names and then marks them as done, and answers how many.
// They are taken in chunks; those that come to the queue after the beginning are left alone.
func (h *Handler) settleDead(c *call, do func(context.Context, deadQueue, []*store.Message) error) (n int, err error) {
	var b deadBody
	if err := c.body(&b); err != nil {
		return 0, err
	}
	wanted, err := b.wanted()
	if err != nil {
		return 0, err
	}
	d, err := h.deadQueue(c)
	if err != nil {
		return 0, err
	}
	_, until, err := h.undone(c.ctx, d)
	if err != nil {
		return 0, err
	}
	for {
		more := 0
		err := h.alone(c, d.read, func(ctx context.Context) (err error) {
			more, err = h.deadStep(ctx, d, wanted, until, do)
			return err
		})
		n += more
		switch {
		case err != nil && n > 0:
			return n, fmt.Errorf("%d messages are done, the others are not; say it again: %w", n, err)
		case err != nil || c.refused != nil:
			return n, err
		case more == 0:
			h.tellRequeued(c.ctx, d)
			return n, nil
		}
	}
}

// deadStep takes the next chunk.
func (h *Handler) deadStep(ctx context.Context, d deadQueue, wanted map[int32][]int64, until []store.PartitionLag,
	do func(context.Context, deadQueue, []*store.Message) error) (n int, err error) {
	done, _, err := h.undone(ctx, d)
	if err != nil {
		return 0, err
	}
	for i := range min(len(done), len(until)) {
		var msgs []*store.Message
		if wanted == nil {
			msgs, err = h.collectDead(ctx, d, done[i], until[i].Partition, done[i].Next(), until[i].End, deadChunk-n)
		} else {
			msgs, err = h.pickDead(ctx, d, done[i], until[i], wanted[until[i].Partition], deadChunk-n)
		}
		if err != nil || len(msgs) == 0 {
			if err != nil {
				return n, err
			}
			continue
		}
		for j, m := range msgs {
			if err := done[i].Mark(m.Offset); err != nil {
				if j == 0 {
					return n, err
				}
				msgs = msgs[:j] // as many as can be written down; the others are next
				break
			}
		}
		if err := do(ctx, d, msgs); err != nil {
			return n, err
		}
		if err := h.cfg.Store.Seek(ctx, d.read.key.Topic, d.read.key.Group, done[i].Position()); err != nil {
			return n, err
		}
		n += len(msgs)
	}
	return n, nil
}

// collectDead reads what is not done in a range of offsets.
func (h *Handler) collectDead(ctx context.Context, d deadQueue, done *group.Done, partition int32, from, to int64, n int) (msgs []*store.Message, err error) {
	if n <= 0 || from >= to {
		return nil, nil
	}
	for m, err := range h.cfg.Store.Browse(ctx, d.read.key.Topic, partition, from) {
		if err != nil {
			return nil, err
		}
		if m.Offset >= to {
			break
		}
		if !done.Has(m.Offset) {
			if msgs = append(msgs, m); len(msgs) == n {
				break
			}
		}
	}
	return msgs, nil
}

// pickDead reads those of some offsets that are not done. What lies near to each other is read at once.
func (h *Handler) pickDead(ctx context.Context, d deadQueue, done *group.Done, lag store.PartitionLag, offsets []int64, n int) (msgs []*store.Message, err error) {
	const near = 100
	offsets = slices.DeleteFunc(slices.Clone(offsets), func(o int64) bool { return o >= lag.End || done.Has(o) })
	for len(offsets) > 0 && len(msgs) < n {
		run := 1
		for run < len(offsets) && offsets[run]-offsets[run-1] <= near {
			run++
		}
		part, err := h.collectDead(ctx, d, done, lag.Partition, offsets[0], offsets[run-1]+1, near*run)
		if err != nil {
			return nil, err
		}
		for _, m := range part {
			if _, found := slices.BinarySearch(offsets[:run], m.Offset); found && len(msgs) < n {
				msgs = append(msgs, m)
			}
		}
		offsets = offsets[run:]
	}
	return msgs, nil
}

// tellRequeued tells the gateways that there may be something in the group's retry queue. One that is not told finds it when
// the group begins its next life there.
func (h *Handler) tellRequeued(ctx context.Context, d deadQueue) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), peerTimeout)
	defer cancel()
	h.everywhere(func(n peer.Node) error { return n.Requeued(ctx, d.of.key) })
}

// dropQueues deletes the retry and dead queues whose names begin so, in the cluster of the topic at place.
func (h *Handler) dropQueues(ctx context.Context, place, prefix string) error {
	if cluster, _, other := strings.Cut(place, ":"); other {
		prefix = meta.PlaceIn(cluster, prefix)
	}
	topics, err := h.cfg.Store.Topics(ctx)
	if err != nil {
		return err
	}
	for _, t := range topics {
		own, ours := strings.CutPrefix(t.Name, prefix)
		if !ours || !strings.HasSuffix("."+own, "."+string(meta.Retry)) && !strings.HasSuffix("."+own, "."+string(meta.Dead)) {
			continue
		}
		if err := h.cfg.Store.DeleteTopic(ctx, t.Name); err != nil && !isGone(err) {
			return fmt.Errorf("queue %s: %w", t.Name, err)
		}
	}
	return nil
}
