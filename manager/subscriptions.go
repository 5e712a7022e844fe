package manager

import (
	"fmt"
	"net/http"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/meta"
)

func (h *Handler) listSubscriptions(c *call) error {
	p, err := c.page()
	if err != nil {
		return err
	}
	prefix, keep := "", all[*meta.Subscription]
	if c.q.Has("app") {
		if err := meta.CheckApp(c.q.Get("app")); err != nil {
			return err
		}
		prefix = c.q.Get("app") + "."
	}
	if c.q.Has("subscriber") {
		if err := meta.CheckApp(c.q.Get("subscriber")); err != nil {
			return err
		}
		keep = ofSubscriber(c.q.Get("subscriber"))
	}
	return c.answer(http.StatusOK, each(records(h.cfg.Meta.Snapshot(), meta.KindSubscription, p, prefix, keep), viewSubscription))
}

// viewSubscription is a subscription as it is answered: with a list of groups, be it empty.
func viewSubscription(s *meta.Subscription) *meta.Subscription {
	v := *s
	if v.Groups == nil {
		v.Groups = []string{}
	}
	return &v
}

// subscription is the one that the path names, with nothing in it but names.
func subscription(c *call) (*meta.Subscription, error) {
	_, t, err := topicID(c)
	if err != nil {
		return nil, err
	}
	s := &meta.Subscription{App: t.App, Name: t.Name, Ver: t.Ver, Subscriber: c.param("subscriber")}
	return s, meta.CheckApp(s.Subscriber)
}

func asSubscription(r meta.Record, named *meta.Subscription) (*meta.Subscription, error) {
	s, ok := r.(*meta.Subscription)
	if !ok {
		return nil, fmt.Errorf("app %s has no subscription of topic %s: %w", named.Subscriber, named.Topic(), errs.NotFound)
	}
	return s, nil
}

func (h *Handler) getSubscription(c *call) error { return h.answerSubscription(c, http.StatusOK) }

func (h *Handler) answerSubscription(c *call, status int) error {
	named, err := subscription(c)
	if err != nil {
		return err
	}
	r, etag := h.cfg.Meta.Snapshot().Record(named.ID())
	s, err := asSubscription(r, named)
	if err != nil {
		return err
	}
	return c.object(status, etag, viewSubscription(s))
}

func (h *Handler) putSubscription(c *call) error {
	named, err := subscription(c)
	if err != nil {
		return err
	}
	var body struct {
		Groups []string       `json:"groups"`
		Spread map[string]int `json:"spread"`
	}
	if err := c.body(&body, "app", "topic", "ver", "subscriber", "created"); err != nil {
		return err
	}
	if err := h.checkSubscription(named); err != nil {
		return err
	}
	status := http.StatusOK
	err = h.edit(c, named.ID(), func(present meta.Record) (meta.Record, error) {
		next := *named
		next.Groups, next.Spread, next.Created = body.Groups, body.Spread, now()
		status = http.StatusCreated
		if was, ok := present.(*meta.Subscription); ok {
			status, next.Created = http.StatusOK, was.Created
		}
		return &next, valid(&next)
	})
	if err != nil {
		return err
	}
	if status == http.StatusCreated {
		c.w.Header().Set("Location", "/v1/subscriptions/"+named.App+"/"+named.Name+"/"+named.Ver+"/"+named.Subscriber)
	}
	return h.answerSubscription(c, status)
}

// checkSubscription answers whether topic and subscriber are there. In open mode nobody has to be.
func (h *Handler) checkSubscription(named *meta.Subscription) error {
	s := h.cfg.Meta.Snapshot()
	switch {
	case h.cfg.Open:
		return nil
	case s.Topic(named.Topic()) == nil:
		return fmt.Errorf("topic %s is not registered: %w", named.Topic(), errs.UnknownTopic)
	case s.App(named.Subscriber) == nil:
		return fmt.Errorf("there is no app %s; register it first: %w", named.Subscriber, errs.UnknownApp)
	}
	return nil
}

func (h *Handler) deleteSubscription(c *call) error {
	named, err := subscription(c)
	if err != nil {
		return err
	}
	err = h.edit(c, named.ID(), func(present meta.Record) (meta.Record, error) {
		_, err := asSubscription(present, named)
		return nil, err
	})
	if err != nil {
		return err
	}
	return c.none()
}
