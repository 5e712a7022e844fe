package gk

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"
)

// readiness is the body of /ready.
type readiness struct {
	Status string            `json:"status"` // ok, degraded, down or draining
	Parts  map[string]string `json:"parts"`
	Detail map[string]string `json:"detail"`

	date time.Time // the gateway's clock, to the second; zero where it does not tell
}

// names are those of the parts, sorted.
func (r *readiness) names() []string { return slices.Sorted(maps.Keys(r.Parts)) }

// part is how the part is, and why, where that is told.
func (r *readiness) part(name string) string {
	if d := r.Detail[name]; d != "" {
		return r.Parts[name] + ": " + d
	}
	return r.Parts[name]
}

// ready asks an address how it is. That it is not ready is no error: it has answered.
func ready(ctx context.Context, c *client, role string) (*readiness, error) {
	r := request{method: http.MethodGet, path: "/ready", query: query("role", role)}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	req, err := c.request(ctx, r)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.failed(ctx, r, err)
	}
	defer resp.Body.Close()
	body, err := readAtMost(resp.Body, 1<<20)
	if err != nil {
		return nil, c.failed(ctx, r, err)
	}
	out := &readiness{}
	if err := json.Unmarshal(body, out); err != nil || out.Status == "" {
		return nil, fmt.Errorf("%s: %d %s, and no word of readiness: is this a gateway?",
			c.name(r), resp.StatusCode, http.StatusText(resp.StatusCode))
	}
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		out.date = date
	}
	return out, nil
}
