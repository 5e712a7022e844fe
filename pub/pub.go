// Package pub publishes over HTTP: single messages, batches and WebSockets, as docs/api.md, "Publish", says. It is stateless
// but for what async=1 has queued and what WebSockets have in flight.
package pub

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kateway/kateway/internal/httpx"
	"github.com/kateway/kateway/internal/ws"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/plugins"
	"github.com/kateway/kateway/store"
)

// Topics knows which topics may be used. Its methods may be called concurrently.
type Topics interface {
	// Use answers the topic's name in the store, after making it there if need be. It may wait as long as ctx allows.
	Use(ctx context.Context, t meta.Topic) (string, error)
	// Forget drops what is known of a topic that turned out to be gone.
	Forget(t meta.Topic)
}

// Limits bound what a publish may be. A zero field means the default.
type Limits struct {
	Message  int           // bytes of a message's value; default 1 MiB
	Batch    int           // bytes of a batch's body, decoded; default 16 MiB
	Messages int           // messages of a batch; default 10,000
	Key      int           // bytes of a key; default 4 KiB
	Async    int64         // bytes that async=1 may have queued; default 64 MiB
	Deadline time.Duration // how long a publish waits for the store; default 15 s
}

func (l Limits) withDefaults() Limits {
	orDefault(&l.Message, 1<<20)
	orDefault(&l.Batch, 16<<20)
	orDefault(&l.Messages, 10_000)
	orDefault(&l.Key, 4<<10)
	orDefault(&l.Async, 64<<20)
	orDefault(&l.Deadline, 15*time.Second)
	return l
}

func orDefault[T int | int64 | time.Duration](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}

// Config is what a Handler stands on.
type Config struct {
	Store   store.Publisher // idempotency keys need one that is a store.OncePublisher too
	Topics  Topics
	Gate    *plugins.Gate // what requests pass first; nil: the app is the one that the header Appid names
	Limits  Limits
	Relay   Relay // nil: requests stay here
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// Relay lets requests go on in another process when this one gives up what it stores in. Its methods may be called
// concurrently. After each Pause one of the others is called.
type Relay interface {
	// Pause says that a request's body is being read: meanwhile it needs nothing of this process.
	Pause()
	// Fail says that it could not be read.
	Fail()
	// Resume says that it was read, and may wait. True: the request was answered elsewhere, with this as its whole body,
	// decoded, which may still be used.
	Resume(w http.ResponseWriter, r *http.Request, body []byte) (passed bool)
}

// Handler serves publishes. Its methods may be called concurrently.
type Handler struct {
	store    store.Publisher
	once     store.OncePublisher // nil where the store can't
	topics   Topics
	gate     *plugins.Gate // nil without plugins
	relay    Relay         // nil: requests stay here
	limits   Limits
	metrics  *metrics
	buffers  *buffers
	decoders *decoders
	slabs    slabs
	queue    *queue
	sockets  ws.Sockets
}

// New makes a Handler. It panics where the metrics are registered already.
func New(c Config) *Handler {
	limits := c.Limits.withDefaults()
	h := &Handler{store: c.Store, topics: c.Topics, gate: c.Gate, relay: c.Relay, limits: limits, metrics: newMetrics(c.Metrics)}
	h.once, _ = c.Store.(store.OncePublisher)
	h.buffers = newBuffers(limits.Message+1, limits.Batch+1)
	h.decoders = newDecoders()
	h.queue = newQueue(limits.Async, h.metrics.queued, h.publishQueued, c.Log)
	return h
}

// Routes is the route table of role pub.
func (h *Handler) Routes() []httpx.Route {
	return []httpx.Route{
		{Method: http.MethodPost, Path: "/v1/msgs/:topic/:ver", Handler: h.serve},
		{Method: http.MethodGet, Path: "/v1/ws/pub/:topic/:ver", Handler: h.serveSocket},
	}
}

// Drain ends WebSockets, one after the other over the time given: nothing more is read from them, and what is under way is
// answered. New ones are refused (503, draining). It does not wait.
func (h *Handler) Drain(over time.Duration) { h.sockets.Drain(over) }

// Wait waits until the WebSockets have ended. When ctx ends first, those that are left are cut off, and the error says how
// many they were.
func (h *Handler) Wait(ctx context.Context) error { return h.sockets.Wait(ctx) }

// Close refuses further async publishes (503, draining), ends WebSockets, and waits until those have ended and what is
// queued has an outcome. When ctx ends first, the rest is dropped and counted as failed, and the error says how many messages
// that are. Other publishes are not affected.
func (h *Handler) Close(ctx context.Context) error {
	h.sockets.Drain(0)
	return errors.Join(h.sockets.Wait(ctx), h.queue.close(ctx))
}
