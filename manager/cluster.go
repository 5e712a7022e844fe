package manager

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/kateway/kateway/internal/online"
	"github.com/kateway/kateway/peer"
	"github.com/kateway/kateway/registry"
)

// peerTimeout is how long another gateway may take to tell something.
const peerTimeout = 2 * time.Second

// told is what one gateway answered.
type told[T any] struct {
	gateway string
	value   T
	err     error
}

// askOthers asks all other gateways at once, each for peerTimeout at most; one answer for each, sorted by id.
func askOthers[T any](ctx context.Context, h *Handler, f func(context.Context, peer.Node) (T, error)) []told[T] {
	members := h.cfg.Peers()
	out := make([]told[T], len(members))
	var wg sync.WaitGroup
	for i, m := range members {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, peerTimeout)
			defer cancel()
			out[i].gateway = m.ID
			out[i].value, out[i].err = f(ctx, m.Node)
		})
	}
	wg.Wait()
	return out
}

// askAll asks this gateway, too, which comes first.
func askAll[T any](ctx context.Context, h *Handler, f func(context.Context, peer.Node) (T, error)) ([]told[T], error) {
	mine, err := f(ctx, h.cfg.Self)
	if err != nil {
		return nil, err
	}
	return append([]told[T]{{gateway: h.cfg.ID, value: mine}}, askOthers(ctx, h, f)...), nil
}

// silent are the gateways that did not answer.
func silent[T any](all []told[T]) []string {
	var list []string
	for _, a := range all {
		if a.err != nil {
			list = append(list, a.gateway)
		}
	}
	return list
}

func (h *Handler) listGateways(c *call) error {
	p, err := c.page()
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, within(p, h.cfg.Gateways(), func(i registry.Instance) string { return i.ID }))
}

// clientList is a list that some gateways may be missing from.
type clientList struct {
	list[online.Client]
	Unreachable []string `json:"unreachable,omitempty"`
}

// listClients is who publishes and subscribes now. The order changes while it is read, so that after counts elements.
func (h *Handler) listClients(c *call) error {
	p, err := c.page()
	if err != nil {
		return err
	}
	sort, err := c.q.OneOf("sort", "messages", "bytes", "since")
	if err != nil {
		return err
	}
	skip, err := c.q.Int("after", 0, 0, 1<<31)
	if err != nil {
		return err
	}
	answers, err := askAll(c.ctx, h, func(ctx context.Context, n peer.Node) ([]online.Client, error) { return n.Clients(ctx) })
	if err != nil {
		return err
	}
	var clients []online.Client
	for _, a := range answers {
		for _, client := range a.value {
			client.Gateway = a.gateway
			if !c.q.Has("app") || client.App == c.q.Get("app") {
				clients = append(clients, client)
			}
		}
	}
	slices.SortFunc(clients, byClient(sort))
	from := min(int(skip), len(clients))
	end := strconv.Itoa(from + p.limit)
	return c.answer(http.StatusOK, clientList{cut(p, clients[from:], func(online.Client) string { return end }), silent(answers)})
}

// byClient orders clients: the busiest first, or the longest there; those alike by where they are.
func byClient(by string) func(a, b online.Client) int {
	return func(a, b online.Client) int {
		n := 0
		switch by {
		case "messages":
			n = cmp.Compare(b.Messages, a.Messages)
		case "bytes":
			n = cmp.Compare(b.Bytes, a.Bytes)
		case "since":
			n = a.Since.Compare(b.Since)
		}
		return cmp.Or(n, strings.Compare(a.Gateway, b.Gateway), strings.Compare(a.Remote, b.Remote), strings.Compare(a.Kind, b.Kind),
			strings.Compare(a.Topic, b.Topic), strings.Compare(a.Group, b.Group))
	}
}

// Status is what a gateway tells of itself.
type Status struct {
	ID       string      `json:"id"`
	Version  string      `json:"version"`
	PID      int         `json:"pid"`
	Started  time.Time   `json:"started"`
	Roles    []string    `json:"roles"`
	Open     bool        `json:"open"`  // open mode
	Store    string      `json:"store"` // embedded, kafka
	Spool    SpoolState  `json:"spool"`
	Warnings []string    `json:"warnings"`
	Circuits []Circuit   `json:"circuits,omitempty"` // that are not closed
	Meta     *MetaStatus `json:"meta"`               // filled in by the handler
}

// Circuit stands before a topic, or before a cluster, to which publishes failed lately.
type Circuit struct {
	Cluster string `json:"cluster"`
	Topic   string `json:"topic,omitempty"` // as the store has it; "" is all of the cluster
	Probing bool   `json:"probing"`         // single publishes are let through
}

// MetaStatus is what there is to say of apps, topics and grants.
type MetaStatus struct {
	Loaded bool              `json:"loaded"`
	Stale  bool              `json:"stale"` // the source is away
	Since  time.Time         `json:"since"` // when that began
	Faults map[string]string `json:"faults,omitempty"`
}

func (h *Handler) status(c *call) error {
	s := h.cfg.Status(c.ctx)
	if s.Warnings == nil {
		s.Warnings = []string{}
	}
	m := h.cfg.Meta.State()
	s.Meta = &MetaStatus{Loaded: m.Loaded, Stale: m.Stale, Since: m.Since, Faults: m.Faults}
	return c.answer(http.StatusOK, s)
}

// refreshed names the gateways that read meta anew.
type refreshed struct {
	Refreshed   []string `json:"refreshed"`
	Unreachable []string `json:"unreachable,omitempty"`
}

func (h *Handler) refresh(c *call) error {
	answers, err := askAll(c.ctx, h, func(ctx context.Context, n peer.Node) (struct{}, error) { return struct{}{}, n.Refresh(ctx) })
	if err != nil {
		return fmt.Errorf("reading meta anew: %w", err)
	}
	out := refreshed{Unreachable: silent(answers)}
	for _, a := range answers {
		if a.err == nil {
			out.Refreshed = append(out.Refreshed, a.gateway)
		}
	}
	return c.answer(http.StatusOK, out)
}
