package manager

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/peer"
	"github.com/kateway/kateway/store"
)

// topicSettings are what a caller may set, and change, of a topic.
type topicSettings struct {
	Partitions     int32         `json:"partitions"`
	Replicas       int16         `json:"replicas"`
	Retention      meta.Duration `json:"retention"`
	RetentionBytes int64         `json:"retention_bytes"`
	Cleanup        string        `json:"cleanup"`
	MaxAttempts    int           `json:"max_attempts"`
	Spool          bool          `json:"spool"`
}

func settingsOfTopic(t *meta.TopicRecord) topicSettings {
	return topicSettings{t.Partitions, t.Replicas, t.Retention, t.RetentionBytes, t.Cleanup, t.MaxAttempts, t.Spool}
}

func (s *topicSettings) apply(t *meta.TopicRecord) {
	t.Partitions, t.Replicas, t.Retention, t.RetentionBytes = s.Partitions, s.Replicas, s.Retention, s.RetentionBytes
	t.Cleanup, t.MaxAttempts, t.Spool = s.Cleanup, s.MaxAttempts, s.Spool
}

// inStore is what the store is to know of the topic.
func inStore(t *meta.TopicRecord) store.Topic {
	return store.Topic{
		Name: t.Place(), Partitions: t.Partitions, Replicas: t.Replicas,
		Retention: time.Duration(t.Retention), RetentionBytes: t.RetentionBytes, Cleanup: t.Cleanup,
	}
}

// topicView is a topic as it is answered. One that open mode found in the store is not registered, and nobody knows when
// it was made.
type topicView struct {
	*meta.TopicRecord
	Created    *time.Time `json:"created,omitempty"`
	Registered bool       `json:"registered"`
}

func viewTopic(t *meta.TopicRecord) topicView { return topicView{t, &t.Created, true} }

func viewFound(t *meta.TopicRecord) topicView { return topicView{t, nil, false} }

func topicPath(t meta.Topic) string { return "/v1/topics/" + t.App + "/" + t.Name + "/" + t.Ver }

// newTopic is the body that makes a topic.
type newTopic struct {
	App  string `json:"app"`
	Name string `json:"topic"`
	Ver  string `json:"ver"`
	topicSettings
	StoreTopic string `json:"store_topic"`
}

func (h *Handler) createTopic(c *call) error {
	body := newTopic{topicSettings: topicSettings{MaxAttempts: meta.DefaultMaxAttempts, Spool: true}}
	if err := c.body(&body, "cluster", "created", "registered"); err != nil {
		return err
	}
	t := &meta.TopicRecord{App: body.App, Name: body.Name, Ver: body.Ver, StoreTopic: body.StoreTopic, Created: now()}
	body.apply(t)
	if err := h.checkNew(t); err != nil {
		return err
	}
	// Grants of an earlier topic of the name are not for this one.
	if err := h.withoutGrants(c.ctx, t.ID(), t.Topic().Store()+".", all[*meta.Subscription]); err != nil {
		return err
	}
	if err := h.withoutSchemas(c.ctx, t); err != nil {
		return err
	}
	var etag string
	var err error
	if t.StoreTopic != "" {
		etag, err = h.mapTopic(c.ctx, t)
	} else {
		etag, err = h.makeTopic(c.ctx, t)
	}
	if err != nil {
		return err
	}
	return c.created(topicPath(t.Topic()), etag, viewTopic(t))
}

// checkNew answers every fault of a topic to be, and puts it on its app's cluster.
func (h *Handler) checkNew(t *meta.TopicRecord) error {
	faults := *t
	if faults.Partitions == 0 {
		faults.Partitions = 1 // the store knows how many
	}
	if err := valid(&faults); err != nil {
		return err
	}
	s := h.cfg.Meta.Snapshot()
	if s.Topic(t.Topic()) != nil {
		return fmt.Errorf("topic %s exists: %w", t.Topic(), errs.Conflict)
	}
	t.Cluster = meta.DefaultCluster
	switch a := s.App(t.App); {
	case a == nil && !h.cfg.Open:
		return fmt.Errorf("there is no app %s; register it first: %w", t.App, errs.UnknownApp)
	case a != nil && a.Limits.Topics > 0 && s.TopicsOf(t.App) >= a.Limits.Topics:
		return fmt.Errorf("app %s has %d topics, and its limit is %d: %w", t.App, s.TopicsOf(t.App), a.Limits.Topics, errs.Denied)
	case a != nil && a.Cluster != "":
		t.Cluster = a.Cluster
	}
	return nil
}

// makeTopic makes the topic in the store and registers it. What it made goes again if it can't be registered.
func (h *Handler) makeTopic(ctx context.Context, t *meta.TopicRecord) (etag string, err error) {
	if t.Cleanup == "" {
		t.Cleanup = meta.CleanupDelete
	}
	switch err := h.cfg.Store.CreateTopic(ctx, inStore(t)); {
	case errors.Is(err, store.ErrExists):
		return "", fmt.Errorf(`the store has a topic %s already: map it by "store_topic":%q, or, in open mode, adopt it by PATCH: %w`,
			t.Place(), t.Topic().Store(), errs.Conflict)
	case err != nil:
		return "", err
	}
	if etag, err = h.register(ctx, t); err == nil {
		return etag, nil
	}
	if errors.Is(err, errs.Conflict) || errors.Is(err, errs.Uncertain) {
		return "", err // it belongs to who registered the name meanwhile; or it is registered, and we have not seen it in time
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
	defer cancel()
	if undo := h.cfg.Store.DeleteTopic(ctx, t.Place()); undo != nil && !isGone(undo) {
		h.log.Warn("a topic that could not be registered is left in the store", "topic", t.Place(), "error", undo)
	}
	return "", err
}

// register writes the record, with the number of partitions that the store has where none was asked for.
func (h *Handler) register(ctx context.Context, t *meta.TopicRecord) (etag string, err error) {
	if t.Partitions == 0 {
		at, err := h.cfg.Store.Resolve(ctx, t.Place(), store.Start{})
		if err != nil {
			return "", err
		}
		t.Partitions = int32(len(at))
	}
	return h.cfg.Meta.Put(ctx, t, meta.Absent)
}

// mapTopic registers a name for a topic that the store has. Two names for one would be two owners.
func (h *Handler) mapTopic(ctx context.Context, t *meta.TopicRecord) (etag string, err error) {
	if t.Partitions != 0 || t.Replicas != 0 || t.Retention != 0 || t.RetentionBytes != 0 || t.Cleanup != "" {
		return "", fmt.Errorf("store_topic maps a topic that is there: partitions, replicas, retention, retention_bytes and cleanup are its own, and not given: %w", errs.InvalidBody)
	}
	for other := range every[*meta.TopicRecord](h.cfg.Meta.Snapshot(), meta.KindTopic, "", "") {
		if other.Place() == t.Place() {
			return "", fmt.Errorf("the store's topic %s is that of %s already: %w", t.Place(), other.Topic(), errs.Conflict)
		}
	}
	return h.register(ctx, t)
}

func (h *Handler) getTopic(c *call) error {
	id, t, err := topicID(c)
	if err != nil {
		return err
	}
	if r, etag := h.cfg.Meta.Snapshot().Record(id); r != nil {
		rec, err := asTopic(r, t)
		if err != nil {
			return err
		}
		return c.object(http.StatusOK, etag, viewTopic(rec))
	}
	rec, err := h.found(c.ctx, t)
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, viewFound(rec))
}

// topicID is the topic that the path names.
func topicID(c *call) (meta.ID, meta.Topic, error) {
	t, err := meta.ParseTopic(c.param("app"), c.param("topic"), c.param("ver"))
	return meta.ID{Kind: meta.KindTopic, Name: t.Store()}, t, err
}

func asTopic(r meta.Record, t meta.Topic) (*meta.TopicRecord, error) {
	rec, ok := r.(*meta.TopicRecord)
	if !ok {
		return nil, fmt.Errorf("topic %s is not registered: %w", t, errs.UnknownTopic)
	}
	return rec, nil
}

// patchTopic writes the record before the store is changed: of two callers that saw the same one, the other is refused
// before anything has happened. A store that refuses gets the record changed back.
func (h *Handler) patchTopic(c *call) error {
	id, t, err := topicID(c)
	if err != nil {
		return err
	}
	var was, next meta.TopicRecord
	err = h.edit(c, id, func(present meta.Record) (meta.Record, error) {
		rec, err := asTopic(present, t)
		if err != nil && h.cfg.Open {
			rec, err = h.found(c.ctx, t)
		}
		if err != nil {
			return nil, err
		}
		was, next = *rec, *rec
		if present == nil {
			next.Created = now()
		}
		s := settingsOfTopic(rec)
		if err := c.body(&s, "app", "topic", "ver", "store_topic", "cluster", "created", "registered"); err != nil {
			return nil, err
		}
		s.apply(&next)
		return &next, checkChange(&was, &next)
	})
	if err != nil {
		return err
	}
	if err := h.alter(c.ctx, &was, &next); err != nil {
		h.changeBack(c.ctx, &was, &next)
		return err
	}
	r, etag := h.cfg.Meta.Snapshot().Record(id)
	rec, err := asTopic(r, t)
	if err != nil {
		return err
	}
	return c.object(http.StatusOK, etag, viewTopic(rec))
}

// checkChange answers what can't be changed.
func checkChange(was, next *meta.TopicRecord) error {
	switch {
	case next.Partitions < was.Partitions:
		return fmt.Errorf("topic %s has %d partitions and can't have %d: they can only become more, and then keys move to other partitions: %w",
			was.Topic(), was.Partitions, next.Partitions, errs.InvalidBody)
	case next.Replicas != was.Replicas:
		return fmt.Errorf("replicas can't be changed here; move the partitions with Kafka's own tools: %w", errs.InvalidBody)
	case was.Retention != 0 && next.Retention == 0, was.RetentionBytes != 0 && next.RetentionBytes == 0, was.Cleanup != "" && next.Cleanup == "":
		return fmt.Errorf("retention, retention_bytes and cleanup can't go back to the store's default; name the value: %w", errs.InvalidBody)
	}
	return valid(next)
}

// alter brings the store to what the record says. What is not the store's own default is sent again, so that a change
// that an earlier failure lost is made good.
func (h *Handler) alter(ctx context.Context, was, next *meta.TopicRecord) error {
	want := inStore(next)
	if next.Partitions == was.Partitions {
		want.Partitions = 0
	}
	want.Replicas = 0
	if (want == store.Topic{Name: want.Name}) {
		return nil
	}
	return h.cfg.Store.AlterTopic(ctx, want)
}

func (h *Handler) changeBack(ctx context.Context, was, next *meta.TopicRecord) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
	defer cancel()
	err := h.cfg.Meta.Update(ctx, was.ID(), func(present meta.Record) (meta.Record, error) {
		rec, ok := present.(*meta.TopicRecord)
		if !ok || settingsOfTopic(rec) != settingsOfTopic(next) {
			return nil, errs.PreconditionFailed // somebody else's by now
		}
		back := *rec
		s := settingsOfTopic(was)
		s.apply(&back)
		return &back, nil
	})
	if err != nil && !errors.Is(err, errs.PreconditionFailed) {
		h.log.Warn("the record of a topic is not what the store has; change it again", "topic", was.Place(), "error", err)
	}
}

// deleteTopic removes the store's topic first: what is left when it is interrupted can be deleted again. Of a mapped
// topic only the record goes.
func (h *Handler) deleteTopic(c *call) error {
	id, t, err := topicID(c)
	if err != nil {
		return err
	}
	m, err := c.match()
	if err != nil {
		return err
	}
	r, _, err := h.present(c, id, m)
	if err != nil {
		return err
	}
	rec, err := asTopic(r, t)
	registered := err == nil
	if !registered && h.cfg.Open {
		rec, err = h.found(c.ctx, t)
	}
	if err != nil {
		return err
	}
	if rec.StoreTopic == "" {
		if err := h.cfg.Store.DeleteTopic(c.ctx, rec.Place()); err != nil && !isGone(err) {
			return err
		}
	}
	if err := h.dropQueues(c.ctx, rec.Place(), t.Store()+"."); err != nil {
		return err
	}
	if registered {
		if err := h.cfg.Meta.Delete(c.ctx, id, ""); err != nil && !isGone(err) {
			return err
		}
	}
	if err := h.dropGrants(c.ctx, t.Store()+".", all[*meta.Subscription]); err != nil {
		h.log.Warn("grants of a deleted topic are left; they go when a topic of the name is made", "topic", t.String(), "error", err)
	}
	if err := h.dropSchemas(c.ctx, t); err != nil {
		h.log.Warn("schemas of a deleted topic are left; they go when a topic of the name is made", "topic", t.String(), "error", err)
	}
	h.forget(c.ctx, t)
	return c.none()
}

// forget tells all gateways that a topic is no longer what it was. One that does not hear it learns it from meta, or
// when the store refuses.
func (h *Handler) forget(ctx context.Context, t meta.Topic) {
	h.cfg.Topics.Forget(t)
	for _, a := range askOthers(ctx, h, func(ctx context.Context, n peer.Node) (struct{}, error) { return struct{}{}, n.Refresh(ctx) }) {
		if a.err != nil {
			h.log.Info("a gateway was not told that a topic changed; it will see for itself", "gateway", a.gateway, "topic", t.String(), "error", a.err)
		}
	}
}
