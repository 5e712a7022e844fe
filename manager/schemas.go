package manager

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/schema"
	"github.com/kateway/kateway/meta"
)

// schemaTries is how often a version is given another number because somebody else was faster.
const schemaTries = 3

// schemaView is a version as it is listed: without its text.
type schemaView struct {
	Version       int       `json:"version"`
	SchemaID      uint32    `json:"id"`
	Type          string    `json:"type"`
	Compatibility string    `json:"compatibility"`
	Created       time.Time `json:"created"`
}

// newest is the version that counts; nil where the topic has no schema.
func newest(list []*meta.Schema) *meta.Schema {
	if n := len(list); n > 0 && list[n-1].Type != "" {
		return list[n-1]
	}
	return nil
}

// schemas are the versions of the topic that the path names, which must be there.
func (h *Handler) schemas(c *call) (meta.Topic, []*meta.Schema, error) {
	_, t, err := topicID(c)
	if err != nil {
		return t, nil, err
	}
	if h.cfg.Meta.Snapshot().Topic(t) == nil {
		if !h.cfg.Open {
			return t, nil, fmt.Errorf("topic %s is not registered: %w", t, errs.UnknownTopic)
		}
		if _, err := h.found(c.ctx, t); err != nil {
			return t, nil, err
		}
	}
	return t, h.cfg.Meta.Snapshot().Schemas(t), nil
}

func noSchema(t meta.Topic) error { return fmt.Errorf("topic %s has no schema: %w", t, errs.NotFound) }

// getSchema answers the version that counts, or the one that version or id names.
func (h *Handler) getSchema(c *call) error {
	t, list, err := h.schemas(c)
	if err != nil {
		return err
	}
	version, err := c.q.Int("version", 0, 1, 99_999)
	if err != nil {
		return err
	}
	id, err := c.q.Int("id", 0, 1, 1<<32-1)
	if err != nil {
		return err
	}
	if version == 0 && id == 0 {
		return h.answerSchema(c, http.StatusOK, t, newest(list))
	}
	for _, s := range list {
		if s.Type != "" && (version == 0 || s.Version == int(version)) && (id == 0 || s.SchemaID == uint32(id)) {
			return h.answerSchema(c, http.StatusOK, t, s)
		}
	}
	return fmt.Errorf("topic %s has no such version of a schema: %w", t, errs.NotFound)
}

func (h *Handler) answerSchema(c *call, status int, t meta.Topic, s *meta.Schema) error {
	if s == nil {
		return noSchema(t)
	}
	r, etag := h.cfg.Meta.Snapshot().Record(s.ID())
	if r == nil {
		return noSchema(t)
	}
	return c.object(status, etag, r)
}

// listSchemas answers all versions, the oldest first.
func (h *Handler) listSchemas(c *call) error {
	_, list, err := h.schemas(c)
	if err != nil {
		return err
	}
	p, err := c.page()
	if err != nil {
		return err
	}
	var kept []*meta.Schema
	for _, s := range list {
		if s.Type != "" {
			kept = append(kept, s)
		}
	}
	// In five digits, as the records are called, so that their order is that of the numbers.
	page := within(p, kept, func(s *meta.Schema) string { return fmt.Sprintf("%05d", s.Version) })
	return c.answer(http.StatusOK, each(page, func(s *meta.Schema) schemaView {
		return schemaView{s.Version, s.SchemaID, s.Type, s.Compatibility, s.Created}
	}))
}

// schemaBody is what a caller says of a schema.
type schemaBody struct {
	Type          string `json:"type"`
	Text          string `json:"text"`
	Compatibility string `json:"compatibility"`
	ID            uint32 `json:"id"`
}

func (h *Handler) putSchema(c *call) error {
	t, _, err := h.schemas(c)
	if err != nil {
		return err
	}
	var body schemaBody
	if err := c.body(&body, "app", "topic", "ver", "version", "created"); err != nil {
		return err
	}
	parsed, err := schema.Parse(body.Type, body.Text)
	if err != nil {
		return err
	}
	for try := 1; ; try++ {
		list, etag, err := h.matching(c, t)
		if err != nil {
			return err
		}
		next, err := h.nextSchema(t, list, body, parsed)
		if err != nil {
			return err
		}
		now := newest(list)
		switch {
		case next == now: // nothing changes
			return h.answerSchema(c, http.StatusOK, t, now)
		case now != nil && next.Version == now.Version:
			_, err = h.cfg.Meta.Put(c.ctx, next, etag)
		default:
			_, err = h.cfg.Meta.Put(c.ctx, next, meta.Absent)
		}
		if err == nil {
			status := http.StatusOK
			if now == nil {
				status = http.StatusCreated
				c.w.Header().Set("Location", topicPath(t)+"/schema")
			}
			return h.answerSchema(c, status, t, next)
		}
		if !errors.Is(err, errs.Conflict) && !errors.Is(err, errs.PreconditionFailed) || try == schemaTries {
			return err
		}
		if err := h.cfg.Meta.Refresh(c.ctx); err != nil {
			return err
		}
	}
}

// matching are the versions, of which the one that counts is the one that If-Match names, if any, with that one's ETag.
func (h *Handler) matching(c *call, t meta.Topic) (list []*meta.Schema, etag string, err error) {
	m, err := c.match()
	if err != nil {
		return nil, "", err
	}
	for fresh := false; ; fresh = true {
		s := h.cfg.Meta.Snapshot()
		list, etag = s.Schemas(t), ""
		if now := newest(list); now != nil {
			_, etag = s.Record(now.ID())
		}
		err := m.check(etag)
		if err == nil || fresh {
			return list, etag, err
		}
		if err := h.cfg.Meta.Refresh(c.ctx); err != nil {
			return nil, "", err
		}
	}
}

// nextSchema is the record to write: the present one, where it is to stay as it is; one of its version, where only what is
// asked of the next one changes; else a new version, which the present one must allow.
func (h *Handler) nextSchema(t meta.Topic, list []*meta.Schema, body schemaBody, parsed *schema.Schema) (*meta.Schema, error) {
	created := now()
	now := newest(list)
	mode := schema.Backward
	if now != nil {
		mode = now.Compatibility
	}
	next := &meta.Schema{App: t.App, Name: t.Name, Ver: t.Ver, Type: body.Type, Text: body.Text,
		Compatibility: cmp.Or(body.Compatibility, mode), Version: 1, SchemaID: cmp.Or(body.ID, 1), Created: created}
	if now != nil && now.Type == body.Type && now.Text == body.Text && (body.ID == 0 || body.ID == now.SchemaID) {
		next.Version, next.SchemaID, next.Created = now.Version, now.SchemaID, now.Created
		if next.Compatibility == now.Compatibility {
			return now, nil
		}
		return next, valid(next)
	}
	if len(list) >= meta.MaxSchemas {
		return nil, fmt.Errorf("topic %s has had %d versions of a schema, and there is no room for more; remove them with their history: %w", t, len(list), errs.Conflict)
	}
	for _, s := range list {
		next.Version = s.Version + 1
		switch {
		case body.ID == 0:
			next.SchemaID = max(next.SchemaID, s.SchemaID+1)
		case body.ID == s.SchemaID && s.Type != "":
			return nil, fmt.Errorf("id %d is that of version %d: %w", body.ID, s.Version, errs.Conflict)
		}
	}
	if now != nil {
		if err := compatible(now, parsed, body.Type); err != nil {
			return nil, err
		}
	}
	return next, valid(next)
}

// compatible answers the reasons where the new schema is not what the present one asks for.
func compatible(present *meta.Schema, next *schema.Schema, kind string) error {
	if present.Compatibility == schema.None {
		return nil
	}
	before, err := schema.Parse(present.Type, present.Text)
	if err != nil {
		return fmt.Errorf("version %d, which is there, can't be read any more, so that nothing can be compared with it; set its compatibility to none: %w", present.Version, errs.Conflict)
	}
	list := schema.Incompatible(present.Compatibility, before, next)
	if len(list) == 0 {
		return nil
	}
	return &errs.Faults{List: list, Err: fmt.Errorf("this %s schema is not %s compatible with version %d: %w", kind, present.Compatibility, present.Version, errs.Conflict)}
}

// deleteSchema ends the checks, and keeps the versions, so that what messages name by id can be found; with history=1 those go
// too.
func (h *Handler) deleteSchema(c *call) error {
	_, t, err := topicID(c)
	if err != nil {
		return err
	}
	history, err := c.q.Flag("history")
	if err != nil {
		return err
	}
	list, _, err := h.matching(c, t)
	if err != nil {
		return err
	}
	if len(list) == 0 || newest(list) == nil && !history {
		return noSchema(t)
	}
	if newest(list) != nil {
		end := &meta.Schema{App: t.App, Name: t.Name, Ver: t.Ver, Version: list[len(list)-1].Version + 1, Created: now()}
		if _, err := h.cfg.Meta.Put(c.ctx, end, meta.Absent); err != nil {
			return err
		}
	}
	if history {
		if err := h.dropSchemas(c.ctx, t); err != nil {
			return err
		}
	}
	return c.none()
}

// dropSchemas removes all versions, the newest last: where that is interrupted, no older one counts.
func (h *Handler) dropSchemas(ctx context.Context, t meta.Topic) error {
	for _, s := range h.cfg.Meta.Snapshot().Schemas(t) {
		if err := h.cfg.Meta.Delete(ctx, s.ID(), ""); err != nil && !errors.Is(err, errs.NotFound) {
			return err
		}
	}
	return nil
}

// withoutSchemas removes the schemas of an earlier topic of a name that is to be given.
func (h *Handler) withoutSchemas(ctx context.Context, t *meta.TopicRecord) error {
	if len(h.cfg.Meta.Snapshot().Schemas(t.Topic())) == 0 {
		return nil
	}
	if err := h.cfg.Meta.Refresh(ctx); err != nil {
		return err
	}
	if r, _ := h.cfg.Meta.Snapshot().Record(t.ID()); r != nil {
		return fmt.Errorf("%s exists: %w", t.ID(), errs.Conflict)
	}
	return h.dropSchemas(ctx, t.Topic())
}
