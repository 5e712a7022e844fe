// Package callout asks a service of the operator's own, over HTTP, whether a call may pass: for rules that no other plugin
// has, without a build of one's own. Answers are remembered as long as the service says, and a service that fails is not
// asked by everybody.
package callout

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sony/gobreaker/v2"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/plugins"
)

const (
	maxAnswer    = 64 << 10        // bytes
	maxRemember  = time.Hour       // the longest that an answer is remembered
	maxDetail    = 256             // bytes of the service's words that a client is told
	openAfter    = 5               // failures in a row, after which the service is not asked
	openTime     = 2 * time.Second // for that long
	connections  = 64              // that are kept
	maxQuestions = 1024            // at a time; the next fails
)

var (
	_ plugins.Leaver = (*Plugin)(nil)
	_ plugins.Runner = (*Plugin)(nil)
)

// Plugin asks the service.
type Plugin struct {
	opts      Options
	key       string
	http      *http.Client
	breaker   *gobreaker.CircuitBreaker[answer]
	cache     *lru.Cache[string, remembered] // nil: nothing is remembered
	questions chan struct{}
	log       *slog.Logger
	results   *prometheus.CounterVec
}

// question is what the service is told of a call.
type question struct {
	Op      string            `json:"op"`
	Lasting bool              `json:"lasting"` // a stream or a WebSocket
	App     string            `json:"app"`     // who calls
	Key     string            `json:"key,omitempty"`
	Owner   string            `json:"owner"` // of the topic
	Topic   string            `json:"topic"`
	Ver     string            `json:"ver"`
	Group   string            `json:"group,omitempty"`
	Remote  string            `json:"remote"`
	Headers map[string]string `json:"headers,omitempty"` // those that the options name
}

// answer is the service's.
type answer struct {
	Allow  bool   `json:"allow"`
	Code   string `json:"code"`   // where it does not: denied, or throttled
	Detail string `json:"detail"` // what the client is told
	Cache  string `json:"cache"`  // how long the answer counts for calls that are the same but for address and port
}

// remembered is an answer and when it ends.
type remembered struct {
	answer
	until time.Time
}

func newPlugin(o Options, e plugins.Env) (*Plugin, error) {
	key, err := o.key()
	if err != nil {
		return nil, fmt.Errorf("key_file: %w", err)
	}
	p := &Plugin{
		opts: o, key: key, log: e.Log, questions: make(chan struct{}, maxQuestions),
		http: &http.Client{
			Transport:     &http.Transport{MaxIdleConnsPerHost: connections, IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		breaker: gobreaker.NewCircuitBreaker[answer](gobreaker.Settings{
			Timeout:     openTime,
			ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= openAfter },
			IsSuccessful: func(err error) bool { // a client that goes away says nothing of the service
				return err == nil || errors.Is(err, context.Canceled)
			},
		}),
		results: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kateway_callout_total", Help: "Calls by what the service of the plugin callout said: allow, deny, cached, failed.",
		}, []string{"result"}),
	}
	if o.Cached > 0 {
		if p.cache, err = lru.New[string, remembered](o.Cached); err != nil {
			return nil, err
		}
	}
	e.Metrics.MustRegister(p.results)
	return p, nil
}

// Leaves is plugins.Leaver's: a call that has begun is not asked about again.
func (*Plugin) Leaves() {}

// Run keeps nothing going; at the end it gives the connections back.
func (p *Plugin) Run(ctx context.Context) {
	<-ctx.Done()
	p.http.CloseIdleConnections()
}

// Wrap asks before it passes a call on. Kinds: Denied and Throttled by the service's word; Unavailable when there is no answer.
func (p *Plugin) Wrap(next plugins.Handler) plugins.Handler {
	return func(ctx context.Context, c *plugins.Call) error {
		if p.opts.wants(c.Op) {
			if err := p.judge(ctx, c); err != nil {
				return err
			}
		}
		return next(ctx, c)
	}
}

func (p *Plugin) judge(ctx context.Context, c *plugins.Call) error {
	q := p.question(c)
	same := q
	same.Remote = ""
	id, err := json.Marshal(same)
	if err != nil {
		return err
	}
	if p.cache != nil {
		if r, ok := p.cache.Get(string(id)); ok && time.Now().Before(r.until) {
			p.results.WithLabelValues("cached").Inc()
			return r.verdict()
		}
	}
	a, err := p.breaker.Execute(func() (answer, error) { return p.ask(ctx, q) })
	if err != nil {
		p.results.WithLabelValues("failed").Inc()
		p.log.Debug("the service gives no answer", "error", err)
		if p.opts.OnFailure == "allow" && ctx.Err() == nil {
			return nil
		}
		return fmt.Errorf("the service that decides on it gives no answer: %w", errs.Unavailable)
	}
	if d, err := time.ParseDuration(a.Cache); err == nil && d > 0 && p.cache != nil {
		p.cache.Add(string(id), remembered{a, time.Now().Add(min(d, maxRemember))})
	}
	p.results.WithLabelValues(map[bool]string{true: "allow", false: "deny"}[a.Allow]).Inc()
	return a.verdict()
}

func (p *Plugin) question(c *plugins.Call) question {
	q := question{Op: ops[c.Op], Lasting: c.Lasting, App: c.App, Key: c.KeyID, Owner: c.Owner, Topic: c.Topic, Ver: c.Ver, Group: c.Group, Remote: c.Remote}
	if q.Owner == "" {
		q.Owner = c.App
	}
	for _, name := range p.opts.Headers {
		if v := c.Header[name]; len(v) > 0 {
			if q.Headers == nil {
				q.Headers = map[string]string{}
			}
			q.Headers[name] = strings.Join(v, ", ")
		}
	}
	return q
}

func (a *answer) verdict() error {
	if a.Allow {
		return nil
	}
	kind := errs.Denied
	if a.Code == errs.Throttled.Code() {
		kind = errs.Throttled
	}
	if a.Detail == "" {
		return kind
	}
	return fmt.Errorf("%s: %w", strings.ToValidUTF8(a.Detail[:min(len(a.Detail), maxDetail)], ""), kind)
}

// ask asks once.
func (p *Plugin) ask(ctx context.Context, q question) (a answer, err error) {
	select {
	case p.questions <- struct{}{}:
		defer func() { <-p.questions }()
	default:
		return a, fmt.Errorf("%d questions are under way", maxQuestions)
	}
	body, err := json.Marshal(q)
	if err != nil {
		return a, err
	}
	limit, cancel := context.WithTimeout(ctx, p.opts.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(limit, http.MethodPost, p.opts.URL, bytes.NewReader(body))
	if err != nil {
		return a, err
	}
	req.Header.Set("Content-Type", "application/json")
	if p.key != "" {
		req.Header.Set("Authorization", "Bearer "+p.key)
	}
	resp, err := p.http.Do(req)
	if err != nil {
		if ctx.Err() == nil { // else it is the client that went away
			err = errors.New(err.Error()) // that the limit was a context's is nobody's business
		}
		return a, err
	}
	defer func() { err = errors.Join(err, resp.Body.Close()) }()
	if resp.StatusCode != http.StatusOK {
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswer))
		return a, fmt.Errorf("it answers %d", resp.StatusCode)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return a, errors.New(err.Error())
	case len(b) > maxAnswer:
		return a, fmt.Errorf("its answer is longer than %d bytes", maxAnswer)
	}
	if err := json.Unmarshal(b, &a); err != nil {
		return a, fmt.Errorf("its answer is no JSON object: %w", err)
	}
	return a, nil
}
