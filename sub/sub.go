// Package sub serves subscribers over HTTP: polls, streams, settling and offsets of docs/api.md, "Subscribe". What a group
// is, who holds which message and until when is package group's; this package is the client's side of it: parameters,
// forms, encodings, and the promise that a message is acked only after its last byte was written.
//
// One request is one goroutine, the request's own. See stream.go for the loop.
package sub

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kateway/kateway/broadcast"
	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/httpx"
	"github.com/kateway/kateway/internal/ws"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/plugins"
)

// settleTimeout is how long verbs may look for their partitions.
const settleTimeout = 10 * time.Second

// Topics says what a topic is called in the store.
type Topics interface {
	// Use answers the topic's name in the store; kinds UnknownTopic, Denied and those of the store.
	Use(ctx context.Context, t meta.Topic) (string, error)
	// Forget drops what is known of a topic that turned out to be gone.
	Forget(t meta.Topic)
}

// Config is what a Handler is made of. All fields but Gate are needed.
type Config struct {
	Groups  group.Opener
	Readers Readers // of topics without a group
	Topics  Topics
	Queue   func(ctx context.Context, topic string) error // makes a group's retry or dead queue in the store, where it is not there yet
	Merge   func(sessions ...group.Session) Flow          // makes one flow of sessions, which belong to it from then on
	Gate    *plugins.Gate                                 // what requests pass first; nil: the caller is the app that the header Appid names
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// Readers opens readers of topics without a group, a *broadcast.Hub.
type Readers interface {
	Open(ctx context.Context, ask broadcast.Ask) (*broadcast.Reader, error)
}

// Handler serves subscribers. It keeps nothing between requests: streams, WebSockets and waiting polls end when the hub drains.
type Handler struct {
	groups    group.Opener
	readers   Readers
	topics    Topics
	makeQueue func(ctx context.Context, topic string) error
	merge     func(sessions ...group.Session) Flow
	gate      *plugins.Gate // nil without plugins
	log       *slog.Logger
	metrics   *metrics
	chunks    sync.Pool // *chunk: what a request needs only while it writes
	zstd      sync.Pool // *zstdEncoder, between frames
	sockets   ws.Sockets
}

// New makes a Handler and registers its metrics.
func New(c Config) *Handler {
	return &Handler{
		groups: c.Groups, readers: c.Readers, topics: c.Topics, makeQueue: c.Queue, merge: c.Merge, gate: c.Gate, log: c.Log, metrics: newMetrics(c.Metrics),
	}
}

// Routes is the route table of subscribing.
func (h *Handler) Routes() []httpx.Route {
	return []httpx.Route{
		{Method: http.MethodGet, Path: "/v1/msgs/:app/:topic/:ver", Handler: h.act(plugins.Subscribe, false, newPoll)},
		{Method: http.MethodPut, Path: "/v1/msgs/:app/:topic/:ver", Handler: h.act(plugins.Settle, false, func(*http.Request) action { return new(settle) })},
		{Method: http.MethodGet, Path: "/v1/stream/:app/:topic/:ver", Handler: h.act(plugins.Subscribe, true, newStream)},
		{Method: http.MethodGet, Path: "/v1/stream", Handler: h.many},
		{Method: http.MethodGet, Path: "/v1/ws/msgs/:app/:topic/:ver", Handler: h.act(plugins.Subscribe, true, newSocket)},
		{Method: http.MethodPut, Path: "/v1/offsets/:app/:topic/:ver/:group", Handler: h.act(plugins.Settle, false, func(*http.Request) action { return new(offsets) })},
	}
}

// key finds the group's name in the store, or that of the reader of its queue.
func (h *Handler) key(ctx context.Context, p *place) (group.Key, error) {
	name, err := h.topics.Use(ctx, p.topic)
	if err != nil {
		return group.Key{}, err
	}
	g := meta.Group{Subscriber: p.app, Name: p.group, Topic: p.topic}
	if p.queue == "" {
		return group.Key{Topic: name, Group: g.Store()}, nil
	}
	queue, reader := g.Queue(p.queue, name)
	return group.Key{Topic: queue, Group: reader}, nil
}

// open makes the request a client of the group. How long that may take is the engine's to bound.
func (h *Handler) open(ctx context.Context, w *wish, key group.Key, prefetch int, stays bool) (group.Session, error) {
	ask := group.Ask{
		Key: key, Settings: w.settings, Start: w.start, Lease: w.lease, Prefetch: prefetch, First: w.first, Client: w.client, Stays: stays,
	}
	s, err := h.groups.Open(ctx, ask)
	if w.queue != "" && errors.Is(err, errs.UnknownTopic) { // nothing was ever put there; what will be is waited for
		if err = h.makeQueue(ctx, key.Topic); err == nil {
			s, err = h.groups.Open(ctx, ask)
		}
	}
	if err != nil {
		h.forget(w.topic, err)
		return nil, fmt.Errorf("group %s on %s: %w", w.group, w.topic, err)
	}
	if w.inspect != nil {
		s = &inspected{Session: s, topic: w.topic, inspect: w.inspect}
	}
	return s, nil
}

// verbs settles deliveries, whoever has them. It goes on when the client hangs up: what it says it has done, it has done.
func (h *Handler) verbs(ctx context.Context, key group.Key, verbs []group.Verb) []error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
	defer cancel()
	return h.groups.Settle(ctx, key, verbs...)
}

// acked looks at what became of the acks that followed a write. One that is fenced came after the end of its lease: the
// client was too slow, or the lease too short, and gets the message again.
func (h *Handler) acked(t meta.Topic, outcome []error) {
	late := 0
	for _, err := range outcome {
		if err != nil {
			late++
		}
	}
	if late > 0 {
		h.metrics.late.Add(float64(late))
		h.log.Debug("written after their leases had ended: these messages come again", "topic", t.String(), "messages", late)
	}
}

// forget drops a topic of which one of the errors says that it is gone.
func (h *Handler) forget(t meta.Topic, outcome ...error) {
	for _, err := range outcome {
		if errors.Is(err, errs.UnknownTopic) {
			h.topics.Forget(t)
			return
		}
	}
}
