package gateway

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/httpx"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/plugins"
)

// The bounds of tokens that are asked for.
const (
	maxTokenAsk     = 4 << 10 // bytes of the request's body
	minTokenTTL     = time.Second
	maxTokenTTL     = time.Hour
	defaultTokenTTL = 10 * time.Minute
)

// tokenRoute is where apps get tokens for clients that can set no headers, on every address of role pub or sub.
func (g *Gateway) tokenRoute() httpx.Route {
	return httpx.Route{Method: http.MethodPost, Path: "/v1/tokens", Handler: g.serveToken}
}

// tokenAsk is what is asked for.
type tokenAsk struct {
	Op    string `json:"op"`
	App   string `json:"app"`
	Topic string `json:"topic"`
	Ver   string `json:"ver"`
	Group string `json:"group"`
	TTL   string `json:"ttl"`
}

// serveToken answers POST /v1/tokens. The chain is asked what it would be asked for what the token is for, so that nobody
// gets one for what he may not do.
func (g *Gateway) serveToken(w http.ResponseWriter, r *http.Request) error {
	g.chain.gate.TakeToken(r)
	_, unknown := httpx.ParseQuery(r)
	if g.chain.minter == nil {
		if unknown != nil {
			return unknown
		}
		return fmt.Errorf("there are no tokens where nobody is asked who he is: none is needed: %w", errs.NotFound)
	}
	call, ttl, bad := readTokenAsk(w, r)
	if errors.Is(bad, errs.InvalidName) {
		return bad
	}
	if bad == nil {
		bad = unknown
	}
	if bad != nil { // what is wrong is told to who may call; nothing is asked for
		call = &plugins.Call{Op: plugins.Subscribe}
		if r.Header["Pubkey"] != nil {
			call.Op = plugins.Publish
		}
	}
	return g.chain.gate.Pass(w, r, call, func(r *http.Request) error {
		if bad != nil {
			return bad
		}
		token, expires, err := g.chain.minter.Mint(r.Context(), call, ttl)
		if err != nil {
			return err
		}
		w.Header()["Cache-Control"] = []string{"no-store"}
		return httpx.WriteJSON(w, http.StatusCreated, struct {
			Token   string    `json:"token"`
			Expires time.Time `json:"expires"`
		}{token, expires.UTC()})
	})
}

// readTokenAsk reads what is asked for, as the call that it is to be good for.
func readTokenAsk(w http.ResponseWriter, r *http.Request) (*plugins.Call, time.Duration, error) {
	ask, err := decodeTokenAsk(w, r)
	if err != nil {
		return nil, 0, err
	}
	caller, err := plugins.Caller(r)
	if err != nil {
		return nil, 0, err
	}
	topic, err := meta.ParseTopic(ask.App, ask.Topic, ask.Ver)
	if err != nil {
		return nil, 0, err
	}
	c := &plugins.Call{App: caller, Owner: topic.App, Topic: topic.Name, Ver: topic.Ver, Group: ask.Group}
	switch {
	case ask.Op == "pub" && ask.Group == "":
		c.Op = plugins.Publish
	case ask.Op == "sub":
		c.Op = plugins.Subscribe
	case ask.Op == "pub":
		return nil, 0, fmt.Errorf("group: nobody publishes with one: %w", errs.InvalidBody)
	default:
		return nil, 0, fmt.Errorf("op %.32q: there are pub and sub: %w", ask.Op, errs.InvalidBody)
	}
	if ask.Group != "" {
		if err := meta.CheckGroup(ask.Group); err != nil {
			return nil, 0, err
		}
	}
	ttl, err := httpx.ParseDuration(cmp.Or(ask.TTL, defaultTokenTTL.String()))
	if err != nil || ttl < minTokenTTL || ttl > maxTokenTTL {
		return nil, 0, fmt.Errorf("ttl %.32q: must be a duration from %v to %v, as 90s, 10m or a number of seconds: %w", ask.TTL, minTokenTTL, maxTokenTTL, errs.InvalidBody)
	}
	return c, ttl, nil
}

func decodeTokenAsk(w http.ResponseWriter, r *http.Request) (ask tokenAsk, err error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxTokenAsk))
	var over *http.MaxBytesError
	switch {
	case errors.As(err, &over):
		return ask, fmt.Errorf("the body has more than %d bytes: %w", maxTokenAsk, errs.TooLarge)
	case err != nil:
		return ask, fmt.Errorf("reading the body: %w: %w", err, errs.InvalidBody)
	}
	if err := json.Unmarshal(body, &ask, json.RejectUnknownMembers(true)); err != nil {
		return ask, fmt.Errorf(`the body must be as {"op":"sub","app":"shop","topic":"orders","ver":"v1","group":"g","ttl":"10m"}: %s: %w`,
			strings.TrimPrefix(err.Error(), "jsontext: "), errs.InvalidBody)
	}
	return ask, nil
}
