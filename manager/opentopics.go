package manager

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/store"
)

func (h *Handler) listTopics(c *call) error {
	p, err := c.page()
	if err != nil {
		return err
	}
	prefix := ""
	if c.q.Has("app") {
		if err := meta.CheckApp(c.q.Get("app")); err != nil {
			return err
		}
		prefix = c.q.Get("app") + "."
	}
	s := h.cfg.Meta.Snapshot()
	registered := records(s, meta.KindTopic, p, prefix, all[*meta.TopicRecord])
	if !h.cfg.Open {
		return c.answer(http.StatusOK, each(registered, viewTopic))
	}
	others, err := h.unregistered(c.ctx, s, func(name string) bool { return name > p.after && strings.HasPrefix(name, prefix) })
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, merged(p, registered, others))
}

// merged is a page of both kinds of topics. A page of the registered ones that is not full is all there are.
func merged(p page, registered list[*meta.TopicRecord], others []*meta.TopicRecord) list[topicView] {
	var both []topicView
	for _, t := range registered.Items {
		both = append(both, viewTopic(t))
	}
	for _, t := range others {
		both = append(both, viewFound(t))
	}
	name := func(v topicView) string { return v.Topic().Store() }
	slices.SortFunc(both, func(a, b topicView) int { return strings.Compare(name(a), name(b)) })
	out := cut(p, both, name)
	if out.Next == "" && registered.Next != "" { // exactly a page, and more behind it
		out.Next = registered.Next
	}
	return out
}

// unregistered are the store's topics that open mode counts as there though nobody registered them.
func (h *Handler) unregistered(ctx context.Context, s *meta.Snapshot, wanted func(name string) bool) ([]*meta.TopicRecord, error) {
	topics, err := h.cfg.Store.Topics(ctx)
	if err != nil {
		return nil, err
	}
	var list []*meta.TopicRecord
	for _, in := range topics {
		if t, ok := ours(in.Name); ok && wanted(in.Name) && s.Topic(t) == nil {
			list = append(list, adopted(t, in))
		}
	}
	return list, nil
}

// ours is the topic whose name in the store this is, if it has the form of one.
func ours(name string) (meta.Topic, bool) {
	part := strings.Split(name, ".")
	if len(part) != 3 {
		return meta.Topic{}, false
	}
	t, err := meta.ParseTopic(part[0], part[1], part[2])
	return t, err == nil
}

// adopted is the record that a topic of the store would get.
func adopted(t meta.Topic, in store.Topic) *meta.TopicRecord {
	rec := &meta.TopicRecord{
		App: t.App, Name: t.Name, Ver: t.Ver, Cluster: meta.DefaultCluster, Partitions: in.Partitions, Replicas: in.Replicas,
		Retention: meta.Duration(in.Retention), RetentionBytes: in.RetentionBytes, Cleanup: in.Cleanup,
		MaxAttempts: meta.DefaultMaxAttempts, Spool: true,
	}
	if rec.Cleanup != meta.CleanupCompact { // Kafka has policies that are neither
		rec.Cleanup = meta.CleanupDelete
	}
	return rec
}

// found is a topic that open mode finds in the store.
func (h *Handler) found(ctx context.Context, t meta.Topic) (*meta.TopicRecord, error) {
	unknown := fmt.Errorf("topic %s is not there: %w", t, errs.UnknownTopic)
	if !h.cfg.Open {
		return nil, unknown
	}
	list, err := h.unregistered(ctx, h.cfg.Meta.Snapshot(), func(name string) bool { return name == t.Store() })
	switch {
	case err != nil:
		return nil, err
	case len(list) == 0:
		return nil, unknown
	}
	return list[0], nil
}

// place is the name in the store of the topic that the path names, and the topic.
func (h *Handler) place(c *call) (string, meta.Topic, error) {
	_, t, err := topicID(c)
	if err != nil {
		return "", t, err
	}
	if rec := h.cfg.Meta.Snapshot().Topic(t); rec != nil {
		return rec.Place(), t, nil
	}
	if !h.cfg.Open {
		return "", t, fmt.Errorf("topic %s is not registered: %w", t, errs.UnknownTopic)
	}
	return t.Store(), t, nil // the store says whether it is there
}
