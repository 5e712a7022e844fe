package gk

import (
	"context"
	"net/http"

	"github.com/kateway/kateway/meta"
)

const adminkeysPath = "/v1/adminkeys"

func (a appArg) keys() string { return a.path() + "/keys" }

type keysLs struct{ appArg }

func (c *keysLs) Run(ctx context.Context, t *tool) error {
	return list(t, t.items(ctx, c.keys(), nil), "ID USE NAME CREATED EXPIRES", nil, func(k meta.Key) []any {
		return []any{k.KeyID, k.Use, k.Name, k.Created, k.Expires}
	})
}

// keySettings are what is said of a key when it is made.
type keySettings struct {
	Name    *string `placeholder:"TEXT" help:"What it is for."`
	Expires *moment `placeholder:"TIME" help:"When it expires: an RFC 3339 time, or a duration from now. Without it never."`
}

func (s *keySettings) body() body {
	b := body{}
	put(b, "name", s.Name)
	put(b, "expires", s.Expires)
	return b
}

type keysAdd struct {
	appArg
	Use string `enum:"pub,sub,both" default:"both" help:"What it opens: pub, sub or both."`
	keySettings
}

func (c *keysAdd) Run(ctx context.Context, t *tool) error {
	b := c.body()
	b["use"] = c.Use
	return t.call(ctx, request{method: http.MethodPost, path: c.keys(), body: b}, "")
}

type keyArg struct {
	ID string `arg:"" help:"The key's id."`
}

type keysRm struct {
	appArg
	keyArg
}

func (c *keysRm) Run(ctx context.Context, t *tool) error {
	return t.call(ctx, removal(at(c.keys(), c.ID), match{}), "key "+c.ID+" is revoked")
}

type adminkeysLs struct{}

func (*adminkeysLs) Run(ctx context.Context, t *tool) error {
	return list(t, t.items(ctx, adminkeysPath, nil), "ID ROLE NAME CREATED EXPIRES", nil, func(k meta.AdminKey) []any {
		return []any{k.KeyID, k.Role, k.Name, k.Created, k.Expires}
	})
}

type adminkeysAdd struct {
	Role string `arg:"" enum:"admin,operator,viewer" help:"admin: everything; operator: all but keys and apps; viewer: reading."`
	keySettings
}

func (c *adminkeysAdd) Run(ctx context.Context, t *tool) error {
	b := c.body()
	b["role"] = c.Role
	return t.call(ctx, request{method: http.MethodPost, path: adminkeysPath, body: b}, "")
}

type adminkeysRm struct{ keyArg }

func (c *adminkeysRm) Run(ctx context.Context, t *tool) error {
	return t.call(ctx, removal(at(adminkeysPath, c.ID), match{}), "admin key "+c.ID+" is revoked")
}
