package pub

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/online"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/plugins"
	"github.com/kateway/kateway/store"
)

// serve answers POST /v1/msgs/:topic/:ver.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request) error {
	h.gate.TakeToken(r)
	q := request{partition: store.AnyPartition, counters: h.metrics.other}
	err := h.parseTopic(r, &q)
	if err == nil {
		if h.gate != nil {
			return h.pass(w, r, q, false, h.publish)
		}
		err = h.publish(w, r, &q)
	}
	return q.done(err)
}

// pass does what is asked when the plugins allow it, to the topic of the app that they say calls. It has a copy of the
// request, so that only who has plugins pays for its staying.
func (h *Handler) pass(w http.ResponseWriter, r *http.Request, q request, lasting bool, do func(http.ResponseWriter, *http.Request, *request) error) error {
	q.counters = h.metrics.other // that of the topic is for who has proven to be its owner
	c := plugins.Call{Op: plugins.Publish, Lasting: lasting, App: q.topic.App, Topic: q.topic.Name, Ver: q.topic.Ver}
	return q.done(h.gate.Pass(w, r, &c, func(r *http.Request) error {
		q.topic.App, q.call, q.inspect = c.App, &c, h.gate.Inspection(&c)
		if known, ok := h.metrics.known(q.topic); ok {
			q.counters = known
		}
		return do(w, r, &q)
	}))
}

// done counts what failed, and passes the error on.
func (q *request) done(err error) error {
	if err != nil {
		q.counters.failed(errs.Of(err))
	}
	return err
}

// publish reads the rest of the head and the body, stores it and answers. An error means that nothing was answered yet.
func (h *Handler) publish(w http.ResponseWriter, r *http.Request, q *request) error {
	if err := h.parse(r, q); err != nil {
		if errors.Is(err, errs.UnsupportedEncoding) {
			w.Header().Set("Accept-Encoding", "gzip, zstd") // RFC 9110, 15.5.16
		}
		return err
	}
	limit := h.limits.Message
	if q.format != formatSingle {
		limit = h.limits.Batch
	}
	body, passed, err := h.takeBody(w, r, q.encoding, limit)
	if err != nil || passed {
		return err
	}
	c := h.slabs.get()
	c.body = body
	if err := h.split(q, c); err != nil {
		h.release(c)
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), h.limits.Deadline)
	defer cancel()
	if q.once != "" {
		q.digest = digest(c.refs) // before plugins change them: what the client sends again is the same then
	}
	if err := h.admit(ctx, q, c); err != nil {
		h.release(c)
		return err
	}
	if c.allDropped() {
		answerDropped(w, q, c)
		h.release(c)
		return nil
	}
	if q.async {
		return h.enqueue(ctx, w, q, c)
	}
	err = h.send(ctx, q, c)
	answerErr := answer(w, q, c, err)
	if !uncertain(err) {
		h.release(c)
	}
	return answerErr
}

// admit asks the plugins about the messages: all are stored, or none.
func (h *Handler) admit(ctx context.Context, q *request, c *slab) error {
	if q.call == nil {
		return nil
	}
	if err := h.admitAll(ctx, q, c.refs); err != nil || q.inspect == nil {
		return err
	}
	var in plugins.Message
	for i, m := range c.refs {
		f, err := h.inspect(ctx, q, &in, m)
		if err != nil {
			return ofElement(err, i, q.format)
		}
		c.decide(i, f)
	}
	return nil
}

// admitAll asks the plugins that decide by number and size.
func (h *Handler) admitAll(ctx context.Context, q *request, msgs []*store.Message) error {
	q.call.Messages, q.call.Bytes = len(msgs), 0
	for _, m := range msgs {
		q.call.Bytes += int64(len(m.Key) + len(m.Value))
	}
	return h.gate.Admit(ctx, q.call)
}

// ofElement is the error of element i of a batch, counted from 0. The text counts from 1, as other texts about batches do;
// the paths of faults begin with the index, as JSON pointers into an array do.
func ofElement(err error, i int, f format) error {
	if f == formatSingle {
		return err
	}
	var faults *errs.Faults
	if errors.As(err, &faults) {
		err = faults.Within("/" + strconv.Itoa(i))
	}
	return fmt.Errorf("message %d: %w", i+1, err)
}

// release gives back what nobody uses any more.
func (h *Handler) release(c *slab) {
	h.buffers.put(c.body)
	h.slabs.put(c)
}

// send stores the messages for a caller that waits, and counts. What was dropped counts as stored.
func (h *Handler) send(ctx context.Context, q *request, c *slab) error {
	start := time.Now()
	defer func() { h.metrics.took(time.Since(start)) }()
	if len(c.fates) > 0 {
		return h.sendParts(ctx, q, c)
	}
	return h.sendTo(ctx, q, q.topic, c.refs)
}

// sendTo stores messages in one topic, and counts.
func (h *Handler) sendTo(ctx context.Context, q *request, t meta.Topic, msgs []*store.Message) error {
	var once *store.Once
	if q.once != "" {
		once = &store.Once{Key: q.once, Digest: q.digest}
	}
	if q.unspooled {
		ctx = store.WithoutSpool(ctx)
	}
	err := h.toStore(ctx, t, q.ack, once, msgs)
	if q.call != nil {
		h.gate.Published(ctx, q.call, err, msgs)
	}
	if anyStored(err) {
		counters := h.metrics.of(t)
		if t == q.topic {
			q.counters = counters
		}
		stored, bytes := counters.outcome(err, msgs)
		published(ctx, &t, stored, bytes)
	}
	return err
}

// published says that the client is here and publishes. A topic is its publisher's own.
func published(ctx context.Context, t *meta.Topic, messages, bytes int) {
	online.Of(ctx).Published(t.App, t.App, t.Name, t.Ver, messages, int64(bytes))
}

// toStore stores the messages in the topic, under its name in the store. A topic that turns out to have been deleted
// is asked for once more: in open mode it is then made anew.
func (h *Handler) toStore(ctx context.Context, t meta.Topic, ack store.Ack, once *store.Once, msgs []*store.Message) error {
	for attempt := 1; ; attempt++ {
		name, err := h.use(ctx, t)
		if err != nil {
			return err
		}
		if once != nil {
			err = h.once.PublishOnce(ctx, name, ack, *once, msgs...)
		} else {
			err = h.store.Publish(ctx, name, ack, msgs...)
		}
		if attempt > 1 || !topicIsGone(err) {
			return err
		}
		h.topics.Forget(t)
	}
}

// use asks for the topic. Nothing was stored when that fails, whatever kept it.
func (h *Handler) use(ctx context.Context, t meta.Topic) (string, error) {
	name, err := h.topics.Use(ctx, t)
	if err != nil && errs.Of(err) == errs.Uncertain {
		err = fmt.Errorf("looking for topic %s: %v: %w", t, err, errs.Unavailable) //nolint:errorlint // the kind is another one now
	}
	return name, err
}

// uncertain reports whether the outcome of a publish leaves messages with the store.
func uncertain(err error) bool {
	return anyIs(err, func(e error) bool { return e != nil && errs.Of(e) == errs.Uncertain })
}

// anyStored reports whether a message was stored.
func anyStored(err error) bool {
	return anyIs(err, func(e error) bool { return e == nil })
}

// topicIsGone reports whether all messages failed because there is no such topic.
func topicIsGone(err error) bool {
	return !anyIs(err, func(e error) bool { return e == nil || errs.Of(e) != errs.UnknownTopic })
}

// anyIs reports whether f is true for the outcome of a message of a publish that answered err.
func anyIs(err error, f func(error) bool) bool {
	var batch *store.BatchError
	if errors.As(err, &batch) {
		return slices.ContainsFunc(batch.Errs, f)
	}
	return f(err)
}
