package manager

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/peer"
)

// groupName is a group as the API names it: <subscriber>.<group>, or, of those that are not ours, as the store does.
type groupName struct {
	Group  string `json:"group"`
	Native bool   `json:"native"` // of a consumer that uses Kafka itself
}

// nameOf reads the store's name of a group on the topic.
func nameOf(inStore string, t meta.Topic) groupName {
	if own, ok := strings.CutSuffix(inStore, "."+t.Store()); ok {
		if subscriber, name, ok := strings.Cut(own, "."); ok && meta.CheckApp(subscriber) == nil && meta.CheckGroup(name) == nil {
			return groupName{Group: own}
		}
	}
	return groupName{inStore, true}
}

func (h *Handler) listGroups(c *call) error {
	p, err := c.page()
	if err != nil {
		return err
	}
	place, t, err := h.place(c)
	if err != nil {
		return err
	}
	groups, err := h.cfg.Store.Groups(c.ctx, place)
	if err != nil {
		return err
	}
	names := make([]groupName, len(groups))
	for i, g := range groups {
		names[i] = nameOf(g, t)
	}
	name := func(g groupName) string { return g.Group }
	slices.SortFunc(names, func(a, b groupName) int { return strings.Compare(a.Group, b.Group) })
	return c.answer(http.StatusOK, within(p, names, name))
}

// target is the group that the path names.
type target struct {
	groupName
	key group.Key
}

// target reads the path: <subscriber>.<group>, or a bare name, which means the topic's own app. With native=1 it is the
// store's own name of a group.
func (h *Handler) target(c *call) (target, error) {
	native, err := c.q.Flag("native")
	if err != nil {
		return target{}, err
	}
	place, t, err := h.place(c)
	if err != nil {
		return target{}, err
	}
	name := c.param("group")
	if native {
		return target{groupName{name, true}, group.Key{Topic: place, Group: name}}, nil
	}
	subscriber, own, found := strings.Cut(name, ".")
	if !found {
		subscriber, own = t.App, name
	}
	if err := cmp.Or(meta.CheckApp(subscriber), meta.CheckGroup(own)); err != nil {
		return target{}, err
	}
	return target{groupName{Group: subscriber + "." + own}, group.Key{Topic: place, Group: meta.Group{Subscriber: subscriber, Name: own, Topic: t}.Store()}}, nil
}

// groupView is a group as it is answered.
type groupView struct {
	groupName
	Mode        group.Mode      `json:"mode,omitempty"` // none where no gateway is a member
	Lag         int64           `json:"lag"`
	InFlight    int             `json:"in_flight"`
	Members     []memberView    `json:"members"`
	Partitions  []partitionView `json:"partitions"`
	Unreachable []string        `json:"unreachable,omitempty"`
}

// memberView is a gateway's part in a group.
type memberView struct {
	Gateway    string  `json:"gateway"`
	Partitions []int32 `json:"partitions"`
	Clients    int     `json:"clients"`
}

// partitionView is how far a group is on a partition.
type partitionView struct {
	Partition     int32         `json:"partition"`
	Start         int64         `json:"start"`
	End           int64         `json:"end"`
	Committed     int64         `json:"committed"` // -1: none
	Lag           int64         `json:"lag"`
	InFlight      int           `json:"in_flight"`
	OldestUnacked meta.Duration `json:"oldest_unacked"`
}

// getGroup answers for a group that nobody uses, too: it has no positions, and the topic's offsets.
func (h *Handler) getGroup(c *call) error {
	g, err := h.target(c)
	if err != nil {
		return err
	}
	lag, err := h.cfg.Store.Lag(c.ctx, g.key.Topic, g.key.Group)
	if err != nil {
		return err
	}
	infos, err := h.infos(c.ctx, g)
	if err != nil {
		return err
	}
	v := groupView{groupName: g.groupName, Members: []memberView{}, Partitions: make([]partitionView, len(lag)), Unreachable: silent(infos)}
	for i, l := range lag {
		v.Partitions[i] = partitionView{Partition: l.Partition, Start: l.Start, End: l.End, Committed: l.Committed, Lag: l.Lag()}
		v.Lag += l.Lag()
	}
	for _, a := range infos {
		v.add(a.gateway, a.value)
	}
	return c.answer(http.StatusOK, v)
}

// infos asks all gateways what they have of the group. Of one that is not ours they have nothing.
func (h *Handler) infos(ctx context.Context, g target) ([]told[group.Info], error) {
	if g.Native {
		return nil, nil
	}
	return askAll(ctx, h, func(ctx context.Context, n peer.Node) (group.Info, error) { return n.Group(ctx, g.key) })
}

// add puts in what one gateway has of the group.
func (v *groupView) add(gateway string, info group.Info) {
	if info.Clients == 0 && len(info.Partitions) == 0 {
		return
	}
	m := memberView{Gateway: gateway, Partitions: []int32{}, Clients: info.Clients}
	for _, held := range info.Partitions {
		m.Partitions = append(m.Partitions, held.Partition)
		v.InFlight += held.InFlight
		for i := range v.Partitions {
			if p := &v.Partitions[i]; p.Partition == held.Partition {
				p.InFlight += held.InFlight
				p.OldestUnacked = max(p.OldestUnacked, meta.Duration(held.OldestUnacked.Truncate(time.Millisecond)))
			}
		}
	}
	v.Members = append(v.Members, m)
	v.Mode = cmp.Or(v.Mode, info.Mode)
}

// deleteGroup makes the store forget the group's positions, and removes its retry and dead queues.
func (h *Handler) deleteGroup(c *call) error {
	g, err := h.target(c)
	if err != nil {
		return err
	}
	infos, err := h.infos(c.ctx, g)
	if err != nil {
		return err
	}
	if s := silent(infos); len(s) > 0 {
		return c.refuse(s)
	}
	for _, a := range infos {
		if a.value.Clients > 0 {
			return fmt.Errorf("group %s has %d clients at gateway %s: %w", g.Group, a.value.Clients, a.gateway, errs.Conflict)
		}
	}
	err = h.alone(c, g, func(ctx context.Context) error {
		if err := h.cfg.Store.ForgetGroup(ctx, g.key.Topic, g.key.Group); err != nil {
			return err
		}
		name, ours := meta.ParseGroup(g.key.Group)
		if !ours {
			return nil
		}
		return h.dropQueues(ctx, g.key.Topic, name.Topic.Store()+"."+g.Group+".")
	})
	if err != nil || c.refused != nil {
		return err
	}
	return c.none()
}
