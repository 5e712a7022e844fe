package gk

import (
	"context"
	"net/http"

	"github.com/kateway/kateway/meta"
)

const subsPath = "/v1/subscriptions"

type subsLs struct {
	App        string `placeholder:"NAME" help:"Only of this app's topics."`
	Subscriber string `placeholder:"NAME" help:"Only of this subscriber."`
}

func (c *subsLs) Run(ctx context.Context, t *tool) error {
	keep := func(s meta.Subscription) bool {
		return (c.App == "" || s.App == c.App) && (c.Subscriber == "" || s.Subscriber == c.Subscriber)
	}
	return list(t, t.items(ctx, subsPath, nil), "TOPIC SUBSCRIBER GROUPS CREATED", keep, func(s meta.Subscription) []any {
		groups := s.Groups
		if len(groups) == 0 {
			groups = []string{"any"}
		}
		return []any{s.Topic().String(), s.Subscriber, groups, s.Created}
	})
}

type grantArg struct {
	Topic      topicArg `arg:"" help:"The topic, as app/topic/version."`
	Subscriber string   `arg:"" help:"The app that is to read it."`
	match
}

func (a grantArg) path() string { return at(subsPath, append(a.Topic.path(), a.Subscriber)...) }

type subsGrant struct {
	grantArg
	Group  []string       `placeholder:"GROUP" help:"A group that it may use; may be given several times. Without it any."`
	Spread map[string]int `placeholder:"GROUP=N" help:"Number of home gateways of a busy group."`
}

func (c *subsGrant) Run(ctx context.Context, t *tool) error {
	b := body{"groups": append([]string{}, c.Group...)}
	if len(c.Spread) > 0 {
		b["spread"] = c.Spread
	}
	return t.call(ctx, change(http.MethodPut, c.path(), b, c.match), c.Subscriber+" may read "+c.Topic.String())
}

type subsRevoke struct{ grantArg }

func (c *subsRevoke) Run(ctx context.Context, t *tool) error {
	return t.call(ctx, removal(c.path(), c.match), c.Subscriber+" may no longer read "+c.Topic.String())
}
