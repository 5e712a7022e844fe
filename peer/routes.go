package peer

import (
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/httpx"
	"github.com/kateway/kateway/internal/online"
)

// The protocol: JSON over HTTP, errors as problem documents. A topic's name in the store may hold any character that a
// path gives a meaning to, so that names are parameters. Gateways of two versions speak to each other while a cluster is
// updated: a reader ignores fields that it does not know, and what changes its meaning gets a new path.
const (
	pathClients     = "/peer/v1/clients"
	pathGroups      = "/peer/v1/groups"
	pathSuspensions = "/peer/v1/suspensions"
	pathRefresh     = "/peer/v1/refresh"
	pathRequeued    = "/peer/v1/requeued"
	pathAsk         = "/peer/v1/ask"
)

// MaxHold is the longest Suspend that may be asked of another gateway.
const MaxHold = 10 * time.Minute

// clientList answers pathClients.
type clientList struct {
	Items []online.Client `json:"items"`
}

// Routes serves n to other gateways. The routes authenticate nobody: they belong on a listener that does, [Secure]'s or
// one that asks for a certificate of the cluster's authority, and on no other.
func Routes(n Node) []httpx.Route {
	s := server{n}
	return []httpx.Route{
		{Method: http.MethodGet, Path: pathClients, Handler: s.clients},
		{Method: http.MethodGet, Path: pathGroups, Handler: s.group},
		{Method: http.MethodPut, Path: pathSuspensions, Handler: s.suspend},
		{Method: http.MethodDelete, Path: pathSuspensions, Handler: s.resume},
		{Method: http.MethodPost, Path: pathRefresh, Handler: s.refresh},
		{Method: http.MethodPost, Path: pathRequeued, Handler: s.requeued},
	}
}

// AskRoute serves a to other gateways, on the same listener.
func AskRoute(a Asker) httpx.Route {
	return httpx.Route{Method: http.MethodPost, Path: pathAsk, Handler: func(w http.ResponseWriter, r *http.Request) error {
		q, err := httpx.ParseQuery(r, "name", "from")
		if err != nil {
			return err
		}
		ask, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxAsk))
		if err != nil {
			return fmt.Errorf("reading what is asked: %w: %w", err, errs.InvalidBody)
		}
		answer, err := a.Ask(r.Context(), q.Get("name"), q.Get("from"), ask)
		if err != nil {
			return err
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		_, err = w.Write(answer)
		return err
	}}
}

type server struct{ node Node }

func (s server) clients(w http.ResponseWriter, r *http.Request) error {
	if _, err := httpx.ParseQuery(r); err != nil {
		return err
	}
	list, err := s.node.Clients(r.Context())
	if err != nil {
		return err
	}
	return httpx.WriteJSON(w, http.StatusOK, clientList{Items: list})
}

func (s server) group(w http.ResponseWriter, r *http.Request) error {
	key, _, err := parseKey(r)
	if err != nil {
		return err
	}
	info, err := s.node.Group(r.Context(), key)
	if err != nil {
		return err
	}
	return httpx.WriteJSON(w, http.StatusOK, info)
}

func (s server) suspend(w http.ResponseWriter, r *http.Request) error {
	key, q, err := parseKey(r, "hold")
	if err != nil {
		return err
	}
	hold, err := q.Duration("hold", 0, time.Millisecond, MaxHold)
	switch {
	case err != nil:
		return err
	case hold == 0:
		return fmt.Errorf("hold is missing: %w", errs.InvalidParam)
	}
	return done(w, s.node.Suspend(r.Context(), key, hold))
}

func (s server) resume(w http.ResponseWriter, r *http.Request) error {
	key, _, err := parseKey(r)
	if err != nil {
		return err
	}
	return done(w, s.node.Resume(r.Context(), key))
}

func (s server) refresh(w http.ResponseWriter, r *http.Request) error {
	if _, err := httpx.ParseQuery(r); err != nil {
		return err
	}
	return done(w, s.node.Refresh(r.Context()))
}

func (s server) requeued(w http.ResponseWriter, r *http.Request) error {
	key, _, err := parseKey(r)
	if err != nil {
		return err
	}
	return done(w, s.node.Requeued(r.Context(), key))
}

// parseKey reads the group that a request is about, and what else it may say.
func parseKey(r *http.Request, more ...string) (group.Key, httpx.Query, error) {
	q, err := httpx.ParseQuery(r, append([]string{"topic", "group"}, more...)...)
	if err != nil {
		return group.Key{}, q, err
	}
	key := group.Key{Topic: q.Get("topic"), Group: q.Get("group")}
	if key.Topic == "" || key.Group == "" {
		return key, q, fmt.Errorf("topic and group are needed: %w", errs.InvalidParam)
	}
	return key, q, nil
}

func done(w http.ResponseWriter, err error) error {
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
