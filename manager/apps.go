package manager

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/meta"
)

// appSettings are what a caller may set, and change, of an app.
type appSettings struct {
	Description string      `json:"description"`
	Disabled    bool        `json:"disabled"`
	Class       string      `json:"class"`
	Cluster     string      `json:"cluster"`
	Limits      meta.Limits `json:"limits"`
}

func settingsOf(a *meta.App) appSettings {
	return appSettings{Description: a.Description, Disabled: a.Disabled, Class: a.Class, Cluster: a.Cluster, Limits: a.Limits}
}

// apply makes the app like the settings, with defaults for what is empty.
func (s *appSettings) apply(a *meta.App) {
	a.Description, a.Disabled, a.Limits = s.Description, s.Disabled, s.Limits
	a.Class, a.Cluster = s.Class, s.Cluster
	if a.Class == "" {
		a.Class = meta.ClassStandard
	}
	if a.Cluster == "" {
		a.Cluster = meta.DefaultCluster
	}
}

// appView is an app as it is answered: all but its keys, which have a list of their own.
func appView(a *meta.App) *meta.App {
	v := *a
	v.Keys = nil
	return &v
}

func (h *Handler) listApps(c *call) error {
	p, err := c.page()
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, each(records(h.cfg.Meta.Snapshot(), meta.KindApp, p, "", all[*meta.App]), appView))
}

func (h *Handler) createApp(c *call) error {
	body := struct {
		Name string `json:"app"`
		appSettings
	}{}
	if err := c.body(&body, "created", "keys"); err != nil {
		return err
	}
	a := &meta.App{Name: body.Name, Created: now()}
	body.apply(a)
	if err := h.checkApp(a); err != nil {
		return err
	}
	if err := h.withoutGrants(c.ctx, a.ID(), "", ofSubscriber(a.Name)); err != nil {
		return err
	}
	etag, err := h.cfg.Meta.Put(c.ctx, a, meta.Absent)
	if err != nil {
		return err
	}
	return c.created("/v1/apps/"+a.Name, etag, appView(a))
}

// checkApp answers every fault of the app, and whether its cluster is there.
func (h *Handler) checkApp(a *meta.App) error {
	if err := valid(a); err != nil {
		return err
	}
	if a.Cluster != meta.DefaultCluster && h.cfg.Meta.Snapshot().Cluster(a.Cluster) == nil {
		return fmt.Errorf("there is no cluster %s; register it first: %w", a.Cluster, errs.InvalidBody)
	}
	return nil
}

func (h *Handler) getApp(c *call) error {
	a, etag, err := h.app(c)
	if err != nil {
		return err
	}
	return c.object(http.StatusOK, etag, appView(a))
}

// app is the one that the path names.
func (h *Handler) app(c *call) (*meta.App, string, error) {
	id, err := appID(c)
	if err != nil {
		return nil, "", err
	}
	r, etag := h.cfg.Meta.Snapshot().Record(id)
	a, err := asApp(r, id)
	return a, etag, err
}

func appID(c *call) (meta.ID, error) {
	name := c.param("app")
	return meta.ID{Kind: meta.KindApp, Name: name}, meta.CheckApp(name)
}

func asApp(r meta.Record, id meta.ID) (*meta.App, error) {
	a, ok := r.(*meta.App)
	if !ok {
		return nil, fmt.Errorf("there is no app %s: %w", id.Name, errs.UnknownApp)
	}
	return a, nil
}

// editApp changes the app that the path names, and answers what it is then.
func (h *Handler) editApp(c *call, f func(*meta.App) error) (*meta.App, string, error) {
	id, err := appID(c)
	if err != nil {
		return nil, "", err
	}
	err = h.edit(c, id, func(present meta.Record) (meta.Record, error) {
		a, err := asApp(present, id)
		if err != nil {
			return nil, err
		}
		next := *a
		return &next, f(&next)
	})
	if err != nil {
		return nil, "", err
	}
	return h.app(c)
}

func (h *Handler) patchApp(c *call) error {
	a, etag, err := h.editApp(c, func(a *meta.App) error {
		was, s := a.Cluster, settingsOf(a)
		if err := c.body(&s, "app", "created", "keys"); err != nil {
			return err
		}
		s.apply(a)
		if a.Cluster != was && h.cfg.Meta.Snapshot().TopicsOf(a.Name) > 0 {
			return fmt.Errorf("app %s has topics on cluster %s and can't move to another: %w", a.Name, was, errs.Conflict)
		}
		return h.checkApp(a)
	})
	if err != nil {
		return err
	}
	return c.object(http.StatusOK, etag, appView(a))
}

// deleteApp takes the app's grants along: who registers the name again must not inherit them.
func (h *Handler) deleteApp(c *call) error {
	id, err := appID(c)
	if err != nil {
		return err
	}
	err = h.edit(c, id, func(present meta.Record) (meta.Record, error) {
		if _, err := asApp(present, id); err != nil {
			return nil, err
		}
		if n := h.cfg.Meta.Snapshot().TopicsOf(id.Name); n > 0 {
			return nil, fmt.Errorf("app %s has %d topics; delete them first: %w", id.Name, n, errs.Conflict)
		}
		return nil, nil
	})
	if err != nil {
		return err
	}
	if err := h.dropGrants(c.ctx, "", ofSubscriber(id.Name)); err != nil {
		h.log.Warn("grants of a deleted app are left; they go when an app of the name is made", "app", id.Name, "error", err)
	}
	return c.none()
}

func ofSubscriber(app string) func(*meta.Subscription) bool {
	return func(s *meta.Subscription) bool { return s.Subscriber == app }
}

// withoutGrants removes what is left of the grants of an earlier object of this name, before one is made. Another gateway
// may have made it just now, and the grants be its own: that is looked at first.
func (h *Handler) withoutGrants(ctx context.Context, id meta.ID, prefix string, meant func(*meta.Subscription) bool) error {
	found := false
	for s := range every[*meta.Subscription](h.cfg.Meta.Snapshot(), meta.KindSubscription, "", prefix) {
		found = found || meant(s)
	}
	if !found {
		return nil
	}
	if err := h.cfg.Meta.Refresh(ctx); err != nil {
		return err
	}
	if r, _ := h.cfg.Meta.Snapshot().Record(id); r != nil {
		return fmt.Errorf("%s exists: %w", id, errs.Conflict)
	}
	return h.dropGrants(ctx, prefix, meant)
}

// dropGrants removes the subscriptions whose names begin with prefix and that are meant.
func (h *Handler) dropGrants(ctx context.Context, prefix string, meant func(*meta.Subscription) bool) error {
	for s := range every[*meta.Subscription](h.cfg.Meta.Snapshot(), meta.KindSubscription, "", prefix) {
		if !meant(s) {
			continue
		}
		if err := h.cfg.Meta.Delete(ctx, s.ID(), ""); err != nil && !errors.Is(err, errs.NotFound) {
			return err
		}
	}
	return nil
}

// valid answers what is wrong with the record as one line.
func valid(r meta.Record) error {
	err := r.Validate()
	var several interface{ Unwrap() []error }
	if !errors.As(err, &several) {
		return err
	}
	kind := errs.Of(err)
	var texts []string
	for _, e := range several.Unwrap() {
		texts = append(texts, strings.TrimSuffix(e.Error(), ": "+errs.Of(e).Error()))
	}
	return fmt.Errorf("%s: %w", strings.Join(texts, "; "), kind)
}

// now is the time as it is kept: seconds are enough for what people do.
func now() time.Time { return time.Now().UTC().Truncate(time.Second) }
