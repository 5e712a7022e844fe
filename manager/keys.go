package manager

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/meta"
)

// maxKeys is how many keys an app may have; expired ones count until they are deleted.
const maxKeys = 100

// keyView is a key as it is answered. Secret is set once, in the answer that makes it.
type keyView struct {
	ID      string     `json:"id"`
	Secret  string     `json:"key,omitempty"`
	Name    string     `json:"name"`
	Use     string     `json:"use"`
	Created time.Time  `json:"created"`
	Expires *time.Time `json:"expires,omitempty"`
}

func viewKey(k meta.Key) keyView {
	return keyView{ID: k.KeyID, Name: k.Name, Use: k.Use, Created: k.Created, Expires: k.Expires}
}

// Keys are a part of their app: the ETag of all answers here is the app's.
func (h *Handler) listKeys(c *call) error {
	p, err := c.page()
	if err != nil {
		return err
	}
	a, etag, err := h.app(c)
	if err != nil {
		return err
	}
	keys := slices.Clone(a.Keys)
	slices.SortFunc(keys, func(a, b meta.Key) int { return strings.Compare(a.KeyID, b.KeyID) })
	return c.object(http.StatusOK, etag, each(within(p, keys, func(k meta.Key) string { return k.KeyID }), viewKey))
}

func (h *Handler) createKey(c *call) error {
	var body struct {
		Use     string     `json:"use"`
		Name    string     `json:"name"`
		Expires *time.Time `json:"expires"`
	}
	if err := c.body(&body, "id", "key", "hash", "created"); err != nil {
		return err
	}
	if err := checkExpires(body.Expires); err != nil {
		return err
	}
	id, secret, hash := meta.NewSecret()
	key := meta.Key{KeyID: id, Name: body.Name, Use: cmp.Or(body.Use, meta.UseBoth), Hash: hash, Created: now(), Expires: body.Expires}
	a, etag, err := h.editApp(c, func(a *meta.App) error {
		if len(a.Keys) >= maxKeys {
			return fmt.Errorf("app %s has %d keys; delete those that are no longer used: %w", a.Name, len(a.Keys), errs.Conflict)
		}
		a.Keys = append(slices.Clip(a.Keys), key)
		return valid(a)
	})
	if err != nil {
		return err
	}
	v := viewKey(key)
	v.Secret = secret
	return c.created("/v1/apps/"+a.Name+"/keys/"+id, etag, v)
}

func checkExpires(t *time.Time) error {
	if t != nil && !t.After(time.Now()) {
		return fmt.Errorf("expires is in the past: %w", errs.InvalidBody)
	}
	return nil
}

func (h *Handler) deleteKey(c *call) error {
	id := c.param("id")
	_, _, err := h.editApp(c, func(a *meta.App) error {
		i := slices.IndexFunc(a.Keys, func(k meta.Key) bool { return k.KeyID == id })
		if i < 0 {
			return fmt.Errorf("app %s has no key %.64q: %w", a.Name, id, errs.NotFound)
		}
		a.Keys = slices.Delete(slices.Clone(a.Keys), i, i+1)
		return nil
	})
	if err != nil {
		return err
	}
	return c.none()
}
