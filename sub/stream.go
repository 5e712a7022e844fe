package sub

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/online"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/store"
)

const (
	heartbeat    = 15 * time.Second
	retryAdvice  = "retry: 1000\n\n" // milliseconds until an EventSource comes back
	autoPrefetch = 512               // what an auto stream takes at once: small messages fill a chunk with it
)

// do answers GET /v1/stream/:app/:topic/:ver.
func (wish *streamWish) do(h *Handler, w http.ResponseWriter, r *http.Request) error {
	return wish.serve(h, w, r, []meta.Topic{wish.topic})
}

// serve streams the topics. What it takes to begin is done in a call of its own: the stack that stays under an idle stream
// is small.
func (wish *streamWish) serve(h *Handler, w http.ResponseWriter, r *http.Request, topics []meta.Topic) error {
	s, err := h.openStream(w, r, wish, topics)
	if err != nil {
		return err
	}
	defer s.close()
	ctx := r.Context()
	if err = s.hello(); err == nil {
		err = s.run(ctx)
	}
	return s.end(ctx, err)
}

// stream is one client from connect to disconnect: a loop that waits for messages, writes all that is at hand in few
// chunks, and then settles them. While it waits it holds no buffer and no encoder.
type stream struct {
	h        *Handler
	sources  []source
	flow     Flow
	form     streamForm
	explicit bool
	stays    bool  // what is un-acked at the end stays with the client
	endless  bool  // there is no limit
	left     int64 // messages until the limit
	most     int   // messages at once
	out      out

	wrote    time.Time       // when silence began
	tick     context.Context //nolint:containedctx // the request's with the deadline of a heartbeat; it lasts over many Nexts
	stopTick context.CancelFunc
}

// source is one topic of a stream.
type source struct {
	topic  meta.Topic
	enc    encoder
	cursor cursor
	count  prometheus.Counter
	use    *online.Use
}

// openStream makes the request a client of its group on each topic. The stream is to be closed.
func (h *Handler) openStream(w http.ResponseWriter, r *http.Request, wish *streamWish, topics []meta.Topic) (_ *stream, err error) {
	s := &stream{h: h, form: wish.form, explicit: wish.explicit, most: wish.most(), left: wish.limit, endless: wish.limit == 0}
	// Who leaves gives back what it holds. Not so a client that acks by itself and set a limit: the stream's own end, right
	// after the last message, would take that message away before it could be acked. To it the stream is a long poll.
	s.stays = wish.explicit && wish.limit > 0
	if s.flow, err = h.openAll(r.Context(), wish, s, topics); err != nil {
		s.done()
		return nil, err
	}
	h.metrics.streams[s.form].Inc()
	h.setOut(&s.out, w, wish.coding)
	s.out.setHeaders(wish.form.contentType(), wish.coding)
	w.Header()["X-Accel-Buffering"] = []string{"no"}
	return s, nil
}

// openSource makes the request a client of its group on one topic.
func (h *Handler) openSource(ctx context.Context, wish *wish, most int, stays bool) (group.Session, source, error) {
	key, err := h.key(ctx, &wish.place)
	if err != nil {
		return nil, source{}, err
	}
	session, err := h.open(ctx, wish, key, most, stays)
	return session, source{
		topic: wish.topic, enc: encoder{groups: h.groups, key: key, explicit: wish.explicit, base64: wish.base64}, cursor: newCursor(key.Topic),
		count: h.metrics.messages.of(wish.topic),
	}, err
}

func (s *stream) close() {
	s.flow.Close()
	s.done()
	s.h.metrics.streams[s.form].Dec()
}

// done says that the client no longer reads.
func (s *stream) done() {
	for i := range s.sources {
		s.sources[i].use.Done()
	}
}

func (s *stream) run(ctx context.Context) error {
	defer s.dropTick()
	for s.endless || s.left > 0 {
		from, b, err := s.next(ctx)
		if err == nil {
			err = s.deliver(ctx, from, b)
		} else if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
			err = s.beat()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// hello sends the headers, so that the client sees that it is connected.
func (s *stream) hello() error {
	s.wrote = time.Now()
	if s.form != streamEvents {
		return s.out.write(nil)
	}
	c := s.h.getChunk()
	c.buf = append(c.buf, retryAdvice...)
	err := s.out.beat(c)
	s.h.putChunk(c)
	return err
}

// next waits for messages until a heartbeat may be due. The context with its timer is made once per heartbeat and not
// once per message: when it ends and there were writes meanwhile, the heartbeat is not due yet.
func (s *stream) next(ctx context.Context) (int, group.Batch, error) {
	if s.tick == nil {
		s.tick, s.stopTick = context.WithDeadline(ctx, s.wrote.Add(heartbeat))
	}
	most := s.most
	if !s.endless {
		most = int(min(int64(most), s.left))
	}
	from, b, err := s.flow.Next(s.tick, most)
	if s.tick.Err() != nil {
		s.dropTick()
	}
	return from, b, err
}

func (s *stream) dropTick() {
	if s.tick != nil {
		s.stopTick()
		s.tick, s.stopTick = nil, nil
	}
}

// beat breaks a silence, so that proxies keep the connection and we learn of a client that has vanished. A text stream
// has nothing that is no message; its deadline is renewed all the same.
func (s *stream) beat() error {
	if time.Since(s.wrote) < heartbeat {
		return nil
	}
	c := s.h.getChunk()
	defer s.h.putChunk(c)
	s.wrote = time.Now()
	switch s.form {
	case streamLines:
		c.buf = append(c.buf, '\n')
	case streamEvents:
		c.buf = append(c.buf, ":\n\n"...)
	case streamText:
	}
	return s.out.beat(c)
}

// deliver writes the gaps and messages, as few chunks as they fit into, and settles after each what is in it.
func (s *stream) deliver(ctx context.Context, from int, b group.Batch) error {
	c, src := s.h.getChunk(), &s.sources[from]
	defer s.h.putChunk(c)
	if len(b.Gaps) > 0 {
		c.buf = s.appendGaps(c.buf, src, b.Gaps)
	}
	for i := range b.Deliveries {
		d := &b.Deliveries[i]
		c.buf = s.append(c.buf, src, d)
		c.verbs = append(c.verbs, group.Verb{Ref: d.Ref, Op: group.Ack})
		c.bytes += int64(d.Size())
		if len(c.buf) >= chunkBytes {
			if err := s.flush(ctx, from, c); err != nil {
				return err
			}
		}
	}
	if len(c.buf) > 0 {
		return s.flush(ctx, from, c)
	}
	return nil
}

// flush writes the chunk and then, where the client does not do it, acks its messages. For a client that has gone nothing
// is written.
func (s *stream) flush(ctx context.Context, from int, c *chunk) error {
	err := ctx.Err()
	if err == nil {
		err = s.out.send(c)
	}
	if err != nil {
		s.giveBack(from, c.verbs)
		return fmt.Errorf("%d messages could not be written and are due again: %w", len(c.verbs), err)
	}
	src := &s.sources[from]
	s.wrote = time.Now()
	if !s.explicit && len(c.verbs) > 0 {
		s.h.acked(src.topic, s.flow.Settle(from, c.verbs...))
	}
	s.left -= int64(len(c.verbs))
	src.count.Add(float64(len(c.verbs)))
	src.use.Count(len(c.verbs), c.bytes)
	c.buf, c.verbs, c.bytes = c.buf[:0], c.verbs[:0], 0
	return nil
}

// giveBack makes messages due that the client never got. Most streams do that by closing their session.
func (s *stream) giveBack(from int, verbs []group.Verb) {
	if !s.stays || len(verbs) == 0 {
		return
	}
	for i := range verbs {
		verbs[i].Op = group.Nack
	}
	s.flow.Settle(from, verbs...)
}

// end ends the answer: in good order when the limit is reached, the gateway stops, the topic is gone or the
// client may no longer read it, which is told; by
// cutting the connection where the client would else take a failure for the end.
func (s *stream) end(ctx context.Context, err error) error {
	for i := range s.sources {
		s.h.forget(s.sources[i].topic, err)
	}
	c := s.h.getChunk()
	defer s.h.putChunk(c)
	switch why := told(ctx, err); {
	case why != 0:
		if c.buf = s.appendEnd(c.buf, why); len(c.buf) > 0 {
			if err := s.out.send(c); err != nil {
				return err
			}
		}
		return s.out.end(c)
	case err == nil, errors.Is(err, errs.Draining):
		return s.out.end(c)
	case ctx.Err() != nil:
		err = nil // it has gone, and nobody is to be told
	}
	if s.out.coder != nil {
		_, _ = s.out.coder.end(nil) // gives the encoder back
	}
	return err
}

// append appends one message in the stream's form.
func (s *stream) append(dst []byte, src *source, d *group.Delivery) []byte {
	switch s.form {
	case streamText:
		dst = append(dst, d.Value...)
	case streamEvents:
		dst = append(dst, "event: message\n"...)
		if src.enc.topic == "" { // a cursor is of one topic
			src.cursor.pass(d.Partition, d.Offset)
			dst = append(src.cursor.append(append(dst, "id: "...)), '\n')
		}
		dst = append(dst, "data: "...)
		dst = append(src.enc.object(dst, d), '\n')
	case streamLines:
		dst = src.enc.object(dst, d)
	}
	return append(dst, '\n')
}

// appendEnd tells why the stream ends. A text stream has nothing that is no message.
func (s *stream) appendEnd(dst []byte, why errs.Kind) []byte {
	switch s.form {
	case streamLines:
		return fmt.Appendf(dst, "{\"event\":\"end\",\"code\":%q}\n", why.Code())
	case streamEvents:
		return fmt.Appendf(dst, "event: end\ndata: {\"event\":\"end\",\"code\":%q}\n\n", why.Code())
	case streamText:
	}
	return dst
}

func (s *stream) appendGaps(dst []byte, src *source, gaps []store.Gap) []byte {
	switch s.form {
	case streamLines:
		return append(appendGapsOf(dst, src.enc.topic, gaps), '\n')
	case streamEvents:
		dst = append(dst, "event: gap\ndata: "...)
		return append(appendGapsOf(dst, src.enc.topic, gaps), "\n\n"...)
	case streamText:
	}
	return dst
}
