package peer

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/httpx"
	"github.com/kateway/kateway/internal/online"
)

const (
	answerTime  = 2 * time.Second  // for an answer, the connection included
	refreshTime = 10 * time.Second // the same of Refresh, which reads all of meta
	maxAnswer   = 32 << 20         // bytes; some 100,000 clients
	maxProblem  = 64 << 10
)

// remote is another gateway. It holds no state besides its connections.
type remote struct {
	id, addr string
	base     url.URL
	http     *http.Transport
	largest  int64 // of an answer, in bytes
}

var (
	_ Node  = (*remote)(nil)
	_ Asker = (*remote)(nil)
)

// Clients is Node's. What they say of their gateway is not believed: they are this one's.
func (r *remote) Clients(ctx context.Context) ([]online.Client, error) {
	var list clientList
	if err := r.within(ctx, answerTime, http.MethodGet, pathClients, nil, &list); err != nil {
		return nil, err
	}
	for i := range list.Items {
		list.Items[i].Gateway = r.id
	}
	return list.Items, nil
}

// Group is Node's.
func (r *remote) Group(ctx context.Context, key group.Key) (group.Info, error) {
	var info group.Info
	if err := r.within(ctx, answerTime, http.MethodGet, pathGroups, query(key), &info); err != nil {
		return group.Info{}, err
	}
	return info, nil
}

// Suspend is Node's. It takes as long as the group needs to commit and to leave, and ctx bounds it.
func (r *remote) Suspend(ctx context.Context, key group.Key, hold time.Duration) error {
	q := query(key)
	q.Set("hold", hold.String())
	return r.do(ctx, http.MethodPut, pathSuspensions, q, nil)
}

// Resume is Node's.
func (r *remote) Resume(ctx context.Context, key group.Key) error {
	return r.within(ctx, answerTime, http.MethodDelete, pathSuspensions, query(key), nil)
}

// Refresh is Node's.
func (r *remote) Refresh(ctx context.Context) error {
	return r.within(ctx, refreshTime, http.MethodPost, pathRefresh, nil, nil)
}

// Requeued is Node's.
func (r *remote) Requeued(ctx context.Context, key group.Key) error {
	return r.within(ctx, answerTime, http.MethodPost, pathRequeued, query(key), nil)
}

// Ask is Asker's.
func (r *remote) Ask(ctx context.Context, name, from string, ask []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	resp, err := r.send(ctx, http.MethodPost, pathAsk, url.Values{"name": {name}, "from": {from}}, bytes.NewReader(ask))
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }() // an error in it came out of reading
	answer, err := io.ReadAll(io.LimitReader(resp.Body, MaxAsk+1))
	if err == nil && len(answer) > MaxAsk {
		err = fmt.Errorf("its answer is larger than %d bytes", MaxAsk)
	}
	if err != nil {
		return nil, r.unavailable(err)
	}
	return answer, nil
}

func query(key group.Key) url.Values {
	return url.Values{"topic": {key.Topic}, "group": {key.Group}}
}

func (r *remote) within(ctx context.Context, d time.Duration, method, path string, q url.Values, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return r.do(ctx, method, path, q, answer)
}

// do asks, and decodes what is answered into answer unless it is nil. Where no answer came it is Unavailable, else the
// kind that the other gateway named.
func (r *remote) do(ctx context.Context, method, path string, q url.Values, answer any) error {
	resp, err := r.send(ctx, method, path, q, http.NoBody)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // an error in it came out of reading
	if answer == nil {
		return nil
	}
	body := &io.LimitedReader{R: resp.Body, N: r.largest}
	if err := json.NewDecoder(body).Decode(answer); err != nil {
		if body.N == 0 {
			err = fmt.Errorf("its answer is larger than %d bytes", r.largest)
		}
		return r.unavailable(err)
	}
	return nil
}

// send asks. The answer is a good one, and its body is to be closed.
func (r *remote) send(ctx context.Context, method, path string, q url.Values, body io.Reader) (*http.Response, error) {
	if r.addr == "" {
		return nil, fmt.Errorf("gateway %s has no listener for other gateways; start it with --peer: %w", r.id, errs.Unavailable)
	}
	u := r.base
	u.Path, u.RawQuery = path, q.Encode()
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body) //nolint:gosec // the address is the registry's
	if err != nil {
		return nil, r.unavailable(err)
	}
	resp, err := r.http.RoundTrip(req)
	if err != nil {
		return nil, r.unavailable(err)
	}
	if resp.StatusCode >= 300 {
		defer func() { _ = resp.Body.Close() }()
		return nil, r.problem(resp)
	}
	return resp, nil
}

func (r *remote) unavailable(err error) error {
	return fmt.Errorf("gateway %s: %w: %w", r.id, err, errs.Unavailable)
}

// problem makes the error again that the other gateway answered.
func (r *remote) problem(resp *http.Response) error {
	var p httpx.Problem
	err := json.NewDecoder(io.LimitReader(resp.Body, maxProblem)).Decode(&p)
	kind, known := errs.ByCode(p.Code)
	switch {
	case err != nil || !known:
		return r.unavailable(fmt.Errorf("it answered %d, code %q", resp.StatusCode, p.Code))
	case p.Detail == "" || p.Detail == kind.Error():
		return fmt.Errorf("gateway %s: %w", r.id, kind)
	}
	return fmt.Errorf("gateway %s: %s: %w", r.id, p.Detail, kind)
}
