package gk

import (
	"context"
	"fmt"
	"net/http"
)

// deadMessage is one that a group gave up.
type deadMessage struct {
	message
	Cause    string `json:"cause"`
	Attempts int    `json:"attempts"`
	Origin   struct {
		Partition int32 `json:"partition"`
		Offset    int64 `json:"offset"`
	} `json:"origin"`
}

type deadArg struct {
	Topic topicArg `arg:"" help:"The topic, as app/topic/version."`
	Group string   `arg:"" help:"The group: <app>.<group>, or the bare name where the app is the topic's own."`
}

func (a deadArg) path() string { return at("/v1/dead", append(a.Topic.path(), a.Group)...) }

type deadLs struct{ deadArg }

func (c *deadLs) Run(ctx context.Context, t *tool) error {
	return list(t, t.items(ctx, c.path(), nil), "PARTITION OFFSET ORIGIN ATTEMPTS CAUSE KEY VALUE", nil, func(m deadMessage) []any {
		return []any{m.Partition, m.Offset, fmt.Sprintf("%d=%d", m.Origin.Partition, m.Origin.Offset), m.Attempts, m.Cause, m.key(), m.value()}
	})
}

// deadChoice says which dead messages are meant. All of them has to be said: an empty list is easily a slip.
type deadChoice struct {
	deadArg
	Messages []position `arg:"" optional:"" placeholder:"PARTITION=OFFSET" help:"Their places in the dead queue, as dead ls shows them."`
	All      bool       `help:"All there are."`
}

func (c *deadChoice) send(ctx context.Context, t *tool, method, path string) error {
	b := body{}
	switch {
	case c.All == (len(c.Messages) > 0):
		return usagef("name the messages, as 0=3, or say --all")
	case !c.All:
		b["messages"] = c.Messages
	}
	return t.call(ctx, request{method: method, path: path, body: b}, "done")
}

type deadRequeue struct{ deadChoice }

func (c *deadRequeue) Run(ctx context.Context, t *tool) error {
	return c.send(ctx, t, http.MethodPost, c.path()+"/requeue")
}

type deadPurge struct{ deadChoice }

func (c *deadPurge) Run(ctx context.Context, t *tool) error {
	return c.send(ctx, t, http.MethodDelete, c.path())
}
