package manager

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/httpx"
	"github.com/kateway/kateway/meta"
)

// Role is what an admin key may do; each may what the one before it may.
type Role int

// The roles.
const (
	Viewer   Role = iota + 1 // look
	Operator                 // change all but apps and keys
	Admin                    // everything
)

// roleNames is by Role.
var roleNames = [...]string{Viewer: meta.RoleViewer, Operator: meta.RoleOperator, Admin: meta.RoleAdmin} // read only

func (r Role) String() string { return roleNames[r] }

// parseRole answers 0, which may nothing, for a name that is no role.
func parseRole(name string) Role {
	for r := Viewer; r <= Admin; r++ {
		if r.String() == name {
			return r
		}
	}
	return 0
}

// maxToken is the longest admin key that is looked at.
const maxToken = 512

// noHash is compared with where there is no key of the id that was shown, so that an unknown id takes as long as a known one.
var noHash = strings.Repeat("0", 64) // read only

// caller is who asks: the id of an admin key.
type caller struct {
	id   string
	role Role
}

type callerKey struct{}

// callerOf is the caller that Guard let in.
func callerOf(ctx context.Context) caller {
	who, _ := ctx.Value(callerKey{}).(caller)
	return who
}

// Guard lets requests through to next whose admin key has the role or a higher one. In open mode without an admin key
// everybody may everything: the gateway listens on loopback then.
//
// Kinds: Unauthenticated, the same for whatever is wrong with the credentials; Denied; Unavailable while nothing is known
// of keys but the configuration's.
func (h *Handler) Guard(next httpx.Handler, need Role) httpx.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		who, err := h.authenticate(r)
		defer func() { h.tell(r, who, err) }()
		if err == nil && who.role < need {
			err = fmt.Errorf("this needs an admin key of role %s, and this one is of role %s: %w", need, who.role, errs.Denied)
		}
		if err != nil {
			h.auth.WithLabelValues(errs.Of(err).Code()).Inc()
			w.Header().Set("Cache-Control", "no-store")
			if errs.Of(err) == errs.Unauthenticated {
				w.Header().Set("WWW-Authenticate", `Bearer realm="kateway"`)
			}
			return err
		}
		h.auth.WithLabelValues("ok").Inc()
		err = next(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, who)))
		return err
	}
}

// tell tells of a request that is over: whoever looks at something and may is of no interest.
func (h *Handler) tell(r *http.Request, who caller, err error) {
	kind := errs.Of(err)
	refused := err != nil && (kind == errs.Unauthenticated || kind == errs.Denied)
	if h.cfg.Changed == nil || !refused && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		return
	}
	role := ""
	if who.role != 0 {
		role = who.role.String()
	}
	h.cfg.Changed(r.Context(), who.id, role, r, err)
}

// authenticate knows the caller by his key.
func (h *Handler) authenticate(r *http.Request) (caller, error) {
	if h.cfg.Open && h.cfg.AdminKeyHash == "" {
		return caller{id: "open mode", role: Admin}, nil
	}
	token, err := bearer(r)
	if err != nil {
		return caller{}, err
	}
	first := h.cfg.AdminKeyHash != "" && meta.CheckSecret(token, h.cfg.AdminKeyHash)
	id := meta.SecretID(token)
	key, hash := h.cfg.Meta.Snapshot().AdminKey(id), noHash
	if key != nil {
		hash = key.Hash
	}
	good := meta.CheckSecret(token, hash) && key != nil && (key.Expires == nil || time.Now().Before(*key.Expires))
	switch {
	case first:
		return caller{id: "configuration", role: Admin}, nil
	case good:
		return caller{id: id, role: parseRole(key.Role)}, nil
	}
	if !h.isLoaded() {
		return caller{}, errNotLoaded
	}
	return caller{}, errs.Unauthenticated
}

// bearer is the key that the request shows.
func bearer(r *http.Request) (string, error) {
	v, err := httpx.Header(r, "Authorization")
	if err != nil {
		return "", err
	}
	scheme, token, _ := strings.Cut(v, " ")
	token = strings.TrimSpace(token)
	if !strings.EqualFold(scheme, "Bearer") || token == "" || len(token) > maxToken {
		return "", fmt.Errorf("send the header Authorization: Bearer <admin key>: %w", errs.Unauthenticated)
	}
	return token, nil
}
