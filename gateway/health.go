package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/httpx"
)

// Readiness is found out in the background, so that asking costs nothing and can't hang. What hangs shows within
// probeTimeout + 2 x probeEvery, or, where the probe does not even keep its time-out, within probeStale; what works again
// shows within probeEvery.
const (
	probeEvery   = 2 * time.Second
	probeTimeout = 4 * time.Second
	probeStale   = 10 * time.Second
)

// verdict is what is known of a part.
type verdict string

const (
	ok       verdict = "ok"
	degraded verdict = "degraded" // failed once; or another part is down that some roles can do without
	down     verdict = "down"
)

// errPartly is the answer of a probe whose part serves, but not as it should. Its text is shown to whoever asks.
type errPartly string

func (e errPartly) Error() string { return string(e) }

// part is something that the gateway stands on.
type part struct {
	name  string
	roles []Role // those that can't do their work without it
	probe func(context.Context) error

	mu       sync.Mutex
	err      error     // of the last probe that came back
	failures int       // in a row
	last     time.Time // when a probe last came back
	looked   bool      // one ever did
}

// health knows how the parts are.
type health struct {
	parts []*part
	log   *slog.Logger
	drain func() bool
}

// run probes until ctx ends. It returns when the probes have returned.
func (h *health) run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, p := range h.parts {
		p.start()
		wg.Go(func() {
			for ctx.Err() == nil {
				h.look(ctx, p)
				select {
				case <-ctx.Done():
				case <-time.After(probeEvery):
				}
			}
		})
	}
	wg.Wait()
}

// look probes the part once.
func (h *health) look(ctx context.Context, p *part) {
	bounded, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	err := p.probe(bounded)
	if ctx.Err() != nil {
		return // stopping: it says nothing of the part
	}
	before, after := p.note(err)
	if before == after {
		return
	}
	if after == ok {
		h.log.Info("part works", "part", p.name)
	} else {
		h.log.Warn("part fails", "part", p.name, "state", string(after), "error", err)
	}
}

// start counts the part as down until a probe came back.
func (p *part) start() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err, p.failures, p.last = errors.New("not looked at yet"), 2, time.Now()
}

// note takes the outcome of a probe and answers how the part was before, "" where that was not known, and is now.
func (p *part) note(err error) (before, after verdict) {
	before = p.verdict()
	p.mu.Lock()
	if !p.looked {
		before, p.looked = "", true
	}
	p.err, p.last = err, time.Now()
	var partly errPartly
	switch p.failures++; {
	case err == nil:
		p.failures = 0
	case errors.As(err, &partly):
		p.failures = 1
	}
	p.mu.Unlock()
	return before, p.verdict()
}

// verdict judges the part. A single failure may be an accident; two, or a probe that does not come back, are not.
func (p *part) verdict() verdict {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case time.Since(p.last) > probeStale, p.failures > 1:
		return down
	case p.failures == 1:
		return degraded
	}
	return ok
}

// detail says what is not as it should be with a part that serves; "" where nothing is to be told.
func (p *part) detail() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var partly errPartly
	if errors.As(p.err, &partly) {
		return partly.Error()
	}
	return ""
}

// Health is the body of /alive and /ready.
type Health struct {
	Status string             `json:"status"` // ok, degraded, down or draining
	Parts  map[string]verdict `json:"parts,omitempty"`
	Detail map[string]string  `json:"detail,omitempty"` // of parts that are degraded and can say why
}

// of judges the roles: ready while one of them can do its work.
func (h *health) of(asked []Role) (Health, bool) {
	answer := Health{Parts: map[string]verdict{}}
	broken := map[Role]bool{}
	worst := ok
	for _, p := range h.parts {
		v := p.verdict()
		answer.Parts[p.name] = v
		if d := p.detail(); d != "" && v != ok {
			if answer.Detail == nil {
				answer.Detail = map[string]string{}
			}
			answer.Detail[p.name] = d
		}
		if v == down {
			for _, r := range p.roles {
				broken[r] = true
			}
		}
		if v != ok {
			worst = degraded
		}
	}
	ready := slices.ContainsFunc(asked, func(r Role) bool { return !broken[r] })
	switch {
	case h.drain():
		ready, answer.Status = false, "draining"
	case !ready:
		answer.Status = string(down)
	default:
		answer.Status = string(worst)
	}
	return answer, ready
}

// routes are those of one address.
func (h *health) routes(here, served []Role) []httpx.Route {
	return []httpx.Route{
		{Method: http.MethodGet, Path: "/alive", Handler: alive},
		{Method: http.MethodGet, Path: "/ready", Handler: func(w http.ResponseWriter, r *http.Request) error {
			return h.ready(w, r, here, served)
		}},
	}
}

// alive says that the process serves; nothing else is looked at, so that nobody restarts it for a broker's fault.
func alive(w http.ResponseWriter, r *http.Request) error {
	if _, err := httpx.ParseQuery(r); err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	return httpx.WriteJSON(w, http.StatusOK, Health{Status: string(ok)})
}

func (h *health) ready(w http.ResponseWriter, r *http.Request, here, served []Role) error {
	q, err := httpx.ParseQuery(r, "role")
	if err != nil {
		return err
	}
	asked := here
	if q.Has("role") {
		role := Role(q.Get("role"))
		if !slices.Contains(roles, role) {
			return fmt.Errorf("role=%q: must be pub, sub or man: %w", cut(string(role), 64), errs.InvalidParam)
		}
		asked = slices.DeleteFunc([]Role{role}, func(r Role) bool { return !slices.Contains(served, r) })
	}
	answer, ready := h.of(asked)
	w.Header().Set("Cache-Control", "no-store")
	if !ready {
		w.Header().Set("Retry-After", "2")
		return httpx.WriteJSON(w, http.StatusServiceUnavailable, answer)
	}
	return httpx.WriteJSON(w, http.StatusOK, answer)
}
