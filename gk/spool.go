package gk

import (
	"context"
	"net/http"
)

const spoolPath = "/v1/spool"

type spoolShow struct{}

func (*spoolShow) Run(ctx context.Context, t *tool) error { return t.show(ctx, spoolPath) }

// asideMessage is one that the store refused for good.
type asideMessage struct {
	ID      uint64  `json:"id"`
	Topic   string  `json:"topic"`
	At      string  `json:"at"`
	Code    string  `json:"code"`
	Cause   string  `json:"cause"`
	Message message `json:"message"`
}

type spoolAside struct{}

func (*spoolAside) Run(ctx context.Context, t *tool) error {
	return list(t, t.items(ctx, spoolPath+"/aside", nil), "ID TOPIC AT CODE CAUSE KEY VALUE", nil, func(m asideMessage) []any {
		return []any{m.ID, m.Topic, m.At, m.Code, m.Cause, m.Message.key(), m.Message.value()}
	})
}

// asideChoice says which messages are meant. All of them has to be said: an empty list is easily a slip.
type asideChoice struct {
	IDs []uint64 `arg:"" optional:"" name:"id" placeholder:"ID" help:"As spool aside shows them."`
	All bool     `help:"All there are."`
}

func (c *asideChoice) send(ctx context.Context, t *tool, method, path string) error {
	b := body{}
	switch {
	case c.All == (len(c.IDs) > 0):
		return usagef("name the messages by their ids, or say --all")
	case !c.All:
		b["ids"] = c.IDs
	}
	return t.call(ctx, request{method: method, path: path, body: b}, "done")
}

type spoolRequeue struct{ asideChoice }

func (c *spoolRequeue) Run(ctx context.Context, t *tool) error {
	return c.send(ctx, t, http.MethodPost, spoolPath+"/aside/requeue")
}

type spoolDiscard struct{ asideChoice }

func (c *spoolDiscard) Run(ctx context.Context, t *tool) error {
	return c.send(ctx, t, http.MethodDelete, spoolPath+"/aside")
}
