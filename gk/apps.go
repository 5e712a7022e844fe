package gk

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/kateway/kateway/meta"
)

const appsPath = "/v1/apps"

type appsLs struct{}

// Run is the command, as every Run below.
func (*appsLs) Run(ctx context.Context, t *tool) error {
	return list(t, t.items(ctx, appsPath, nil), "APP CLASS CLUSTER DISABLED CREATED DESCRIPTION", nil, func(a meta.App) []any {
		return []any{a.Name, a.Class, a.Cluster, a.Disabled, a.Created, a.Description}
	})
}

type appArg struct {
	App string `arg:"" help:"The app's name."`
}

func (a appArg) path() string { return at(appsPath, a.App) }

type appsGet struct{ appArg }

func (c *appsGet) Run(ctx context.Context, t *tool) error { return t.show(ctx, c.path()) }

// appSettings are what can be said of an app when it is made and later.
type appSettings struct {
	Description *string           `placeholder:"TEXT" help:"What it is."`
	Disabled    *bool             `negatable:"" help:"Whether its keys are refused."`
	Class       *string           `placeholder:"CLASS" help:"premium, standard or besteffort."`
	Cluster     *string           `placeholder:"NAME" help:"The Kafka cluster on which its topics are made."`
	Limit       map[string]string `placeholder:"NAME=VALUE" help:"A limit, as messages_per_second=500 or burst=2s; 0 is the gateway's default."`
}

func (s *appSettings) body() body {
	b := body{}
	put(b, "description", s.Description)
	put(b, "disabled", s.Disabled)
	put(b, "class", s.Class)
	put(b, "cluster", s.Cluster)
	if len(s.Limit) > 0 {
		limits := map[string]json.RawMessage{}
		for name, v := range s.Limit {
			limits[name] = value(v)
		}
		b["limits"] = limits
	}
	return b
}

type appsAdd struct {
	appArg
	appSettings
}

func (c *appsAdd) Run(ctx context.Context, t *tool) error {
	b := c.body()
	b["app"] = c.App
	return t.call(ctx, request{method: http.MethodPost, path: appsPath, body: b}, "app "+c.App+" is registered")
}

type appsSet struct {
	appArg
	appSettings
	match
}

func (c *appsSet) Run(ctx context.Context, t *tool) error {
	b := c.body()
	if err := b.some(); err != nil {
		return err
	}
	return t.call(ctx, change(http.MethodPatch, c.path(), b, c.match), "app "+c.App+" is changed")
}

type appsRm struct {
	appArg
	match
}

func (c *appsRm) Run(ctx context.Context, t *tool) error {
	return t.call(ctx, removal(c.path(), c.match), "app "+c.App+" is removed")
}
