package manager

import (
	"cmp"
	"fmt"
	"net/http"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/meta"
)

// adminKeyView is an admin key as it is answered. Secret is set once, in the answer that makes it.
type adminKeyView struct {
	ID      string     `json:"id"`
	Secret  string     `json:"key,omitempty"`
	Name    string     `json:"name"`
	Role    string     `json:"role"`
	Created time.Time  `json:"created"`
	Expires *time.Time `json:"expires,omitempty"`
}

func viewAdminKey(k *meta.AdminKey) adminKeyView {
	return adminKeyView{ID: k.KeyID, Name: k.Name, Role: k.Role, Created: k.Created, Expires: k.Expires}
}

// rotate replaces the secret by which gateways know each other, as one of them does now and then by itself.
func (h *Handler) rotate(c *call) error {
	if h.cfg.Rotate == nil {
		return fmt.Errorf("gateways share a secret where they share a ZooKeeper (--zk): %w", errs.NotFound)
	}
	if err := h.cfg.Rotate(c.ctx); err != nil {
		return err
	}
	return c.none()
}

func (h *Handler) listAdminKeys(c *call) error {
	p, err := c.page()
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, each(records(h.cfg.Meta.Snapshot(), meta.KindAdminKey, p, "", all[*meta.AdminKey]), viewAdminKey))
}

func (h *Handler) createAdminKey(c *call) error {
	var body struct {
		Name    string     `json:"name"`
		Role    string     `json:"role"`
		Expires *time.Time `json:"expires"`
	}
	if err := c.body(&body, "id", "key", "hash", "created"); err != nil {
		return err
	}
	if err := checkExpires(body.Expires); err != nil {
		return err
	}
	id, secret, hash := meta.NewSecret()
	// A key of which nothing is said may do the least.
	key := &meta.AdminKey{KeyID: id, Name: body.Name, Role: cmp.Or(body.Role, meta.RoleViewer), Hash: hash, Created: now(), Expires: body.Expires}
	if err := valid(key); err != nil {
		return err
	}
	etag, err := h.cfg.Meta.Put(c.ctx, key, meta.Absent)
	if err != nil {
		return err
	}
	v := viewAdminKey(key)
	v.Secret = secret
	return c.created("/v1/adminkeys/"+id, etag, v)
}

func (h *Handler) deleteAdminKey(c *call) error {
	id := meta.ID{Kind: meta.KindAdminKey, Name: c.param("id")}
	err := h.edit(c, id, func(present meta.Record) (meta.Record, error) {
		if _, ok := present.(*meta.AdminKey); !ok {
			return nil, fmt.Errorf("there is no admin key %.64q: %w", id.Name, errs.NotFound)
		}
		return nil, nil
	})
	if err != nil {
		return err
	}
	return c.none()
}
