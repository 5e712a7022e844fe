package pub

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/store"
)

const (
	// messageWeight is what a queued message counts beside its bytes, for what is kept about it.
	messageWeight = 256
	// One publish of the queue takes jobs until it has so many messages or bytes.
	mergeMessages = 10_000
	mergeBytes    = 4 << 20
)

// job is one async publish that has no outcome yet.
type job struct {
	topic   meta.Topic
	ack     store.Ack
	content *slab
	weight  int64
}

// queue publishes what nobody waits for. Jobs of a topic are published in order, one store call at a time, and what has
// come meanwhile goes into the next call together. There is a goroutine per topic that has jobs, no other. A full queue
// refuses: see push.
type queue struct {
	limit   int64
	gauge   prometheus.Gauge // shows bytes
	publish func(ctx context.Context, t meta.Topic, jobs []job) (failed int, first error)
	log     *slog.Logger
	ctx     context.Context // of all publishes; ends when close gives up
	cancel  context.CancelFunc

	mu     sync.Mutex
	bytes  int64                // weight of all jobs without an outcome
	jobs   map[meta.Topic][]job // waiting; a topic is there while it has a worker
	closed bool
	idle   chan struct{} // closed when closed and no worker is left
	quiet  time.Time     // no failure is logged before
	unsaid int           // messages that failed and were not logged
}

func newQueue(limit int64, gauge prometheus.Gauge, publish func(context.Context, meta.Topic, []job) (int, error), log *slog.Logger) *queue {
	q := &queue{limit: limit, gauge: gauge, publish: publish, log: log, jobs: map[meta.Topic][]job{}, idle: make(chan struct{})}
	q.ctx, q.cancel = context.WithCancel(context.Background())
	return q
}

// push takes the jobs, or refuses them all: Overloaded when they do not fit, Draining after close.
func (q *queue) push(jobs ...job) error {
	weight := int64(0)
	for i := range jobs {
		weight += jobs[i].weight
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return fmt.Errorf("async publish: %w", errs.Draining)
	}
	if q.bytes+weight > q.limit {
		return fmt.Errorf("async publish: %d bytes are queued: %w", q.bytes, errs.Overloaded)
	}
	q.bytes += weight
	q.gauge.Set(float64(q.bytes))
	for _, j := range jobs {
		waiting, works := q.jobs[j.topic]
		q.jobs[j.topic] = append(waiting, j)
		if !works {
			go q.work(j.topic)
		}
	}
	return nil
}

// work publishes the topic's jobs until there are none.
func (q *queue) work(t meta.Topic) {
	for {
		jobs := q.take(t)
		if jobs == nil {
			return
		}
		failed, err := q.publish(q.ctx, t, jobs)
		q.done(t, jobs, failed, err)
	}
}

// take is the next jobs to publish together, all with the same ack. nil ends the worker.
func (q *queue) take(t meta.Topic) []job {
	q.mu.Lock()
	defer q.mu.Unlock()
	waiting := q.jobs[t]
	if len(waiting) == 0 {
		delete(q.jobs, t)
		if q.closed && len(q.jobs) == 0 {
			close(q.idle)
		}
		return nil
	}
	n, messages, bytes := 0, 0, 0
	for n < len(waiting) && waiting[n].ack == waiting[0].ack && messages < mergeMessages && bytes < mergeBytes {
		messages += len(waiting[n].content.refs)
		bytes += len(waiting[n].content.body)
		n++
	}
	q.jobs[t] = waiting[n:]
	return waiting[:n:n]
}

// done gives the jobs' memory back and logs failures, at most once per second.
func (q *queue) done(t meta.Topic, jobs []job, failed int, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range jobs {
		q.bytes -= jobs[i].weight
		jobs[i] = job{} // the array may live on under the jobs that are still to come
	}
	q.gauge.Set(float64(q.bytes))
	if failed == 0 {
		return
	}
	q.unsaid += failed
	if now := time.Now(); now.After(q.quiet) {
		q.quiet = now.Add(time.Second)
		q.log.Warn("async publish failed: messages are lost", "topic", t.String(), "messages", q.unsaid, "error", err)
		q.unsaid = 0
	}
}

func (q *queue) close(ctx context.Context) error {
	q.mu.Lock()
	if !q.closed {
		q.closed = true
		if len(q.jobs) == 0 {
			close(q.idle)
		}
	}
	q.mu.Unlock()
	defer q.cancel()
	select {
	case <-q.idle:
		return nil
	case <-ctx.Done():
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return fmt.Errorf("async publishes of %d topics have no outcome, %d bytes are given up: %w", len(q.jobs), q.bytes, ctx.Err())
}

// enqueue answers an async publish. Its topics are asked for here, so that the client hears of it when one may not be used.
func (h *Handler) enqueue(ctx context.Context, w http.ResponseWriter, q *request, c *slab) error {
	jobs := c.jobs(q)
	own := len(c.fates) == 0 // else the queue has copies
	dropped := len(c.refs)
	type count struct{ messages, bytes int }
	counts := make([]count, len(jobs)) // once it is queued it is no longer ours to look at
	for i := range jobs {
		if _, err := h.use(ctx, jobs[i].topic); err != nil {
			h.release(c)
			return err
		}
		refs := jobs[i].content.refs
		dropped -= len(refs)
		counts[i].messages = len(refs)
		for _, m := range refs {
			counts[i].bytes += m.Size()
		}
	}
	topics := make([]meta.Topic, len(jobs))
	for i := range jobs {
		topics[i] = jobs[i].topic
	}
	if err := h.queue.push(jobs...); err != nil {
		h.release(c)
		return err
	}
	if !own {
		c.body = nil // the copies share its bytes
		h.release(c)
	}
	for i := range topics {
		published(ctx, &topics[i], counts[i].messages, counts[i].bytes)
	}
	body := []byte(`{"queued":true`)
	if dropped > 0 {
		body = fmt.Appendf(body, `,"dropped":%d`, dropped)
	}
	respond(w, http.StatusAccepted, append(body, "}\n"...))
	return nil
}

// publishQueued stores the messages of the jobs and answers how many failed, and the first error.
func (h *Handler) publishQueued(ctx context.Context, t meta.Topic, jobs []job) (failed int, first error) {
	var msgs []*store.Message
	for i := range jobs {
		msgs = append(msgs, jobs[i].content.refs...)
	}
	if err := ctx.Err(); err != nil {
		err = fmt.Errorf("given up at the end: %w", errs.Draining)
		h.metrics.of(t).outcome(err, msgs)
		return len(msgs), err
	}
	ctx, cancel := context.WithTimeout(store.WithoutSpool(ctx), h.limits.Deadline)
	defer cancel()
	start := time.Now()
	err := h.toStore(ctx, t, jobs[0].ack, nil, msgs)
	h.metrics.took(time.Since(start))
	h.metrics.of(t).outcome(err, msgs)
	for i := range msgs {
		if e := store.Each(err, i); e != nil {
			if failed++; first == nil {
				first = e
			}
		}
	}
	if !uncertain(err) {
		for i := range jobs {
			h.release(jobs[i].content)
		}
	}
	return failed, first
}
