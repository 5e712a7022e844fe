package sub

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kateway/kateway/broadcast"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/online"
	"github.com/kateway/kateway/internal/wire"
)

// retryField tells an EventSource after how many milliseconds to come back; laterField where that would be too soon.
const (
	retryField = "retry: 1000\n"
	laterField = "retry: 5000\n"
)

// readStream is a stream without a group: server-sent events, or with cursor= JSON objects.
type readStream struct {
	readWish
	limit int64 // messages; 0 = endless
	form  streamForm
}

func (w *readStream) read(r *http.Request) error {
	q, err := w.parse(r, "prefetch", "limit")
	if err != nil {
		return err
	}
	if err := w.begin(r, q); err != nil {
		return err
	}
	switch accept(w.accept, typeJSONLines, typeText, typeEvents) {
	case typeEvents:
		w.form = streamEvents
	case typeText:
		return fmt.Errorf("group is required for text/plain: add ?group=<name>; without one there are text/event-stream and application/x-ndjson: %w", errs.InvalidParam)
	default:
		if w.form = streamLines; !w.resumes {
			return fmt.Errorf("group is required: add ?group=<name>; or read without one, by cursor= (empty at first) or as text/event-stream: %w", errs.InvalidParam)
		}
	}
	w.limit, err = parseLimit(q)
	return err
}

// do reads until the client leaves. What it takes to begin is done in a call of its own, as for streams of a group.
func (w *readStream) do(h *Handler, rw http.ResponseWriter, r *http.Request) error {
	s, err := h.openTicker(rw, r, w)
	if err != nil && w.returning && w.form == streamEvents && errs.Of(err).RetryAfter() > 0 {
		return h.comeAgain(rw, w, err)
	}
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

// comeAgain answers an EventSource that comes back while it can't be served. Of any status but 200 it would take that it is to
// give up for good; a stream that is over at once lets it come again, with the id that it has.
func (h *Handler) comeAgain(w http.ResponseWriter, wish *readStream, why error) error {
	field := retryField
	if !errors.Is(why, errs.Draining) {
		h.log.Warn("an EventSource is told to come again later", "topic", wish.topic.String(), "error", why)
		field = laterField
	}
	var o out
	h.setOut(&o, w, identity)
	o.setHeaders(typeEvents, identity)
	return o.write([]byte(field + "\n"))
}

// ticker is one client without a group, from connect to disconnect, as stream is one with. The forms of the messages are
// made already, and are copied into the chunk. While it waits it holds no buffer and no encoder.
type ticker struct {
	h      *Handler
	wish   *readStream
	reader *broadcast.Reader
	left   int64  // messages until the limit, where there is one
	told   []byte // the cursor that the client has, where messages are passed over
	out    out
	count  prometheus.Counter
	use    *online.Use

	wrote    time.Time       // when silence began
	tick     context.Context //nolint:containedctx // the request's with the deadline of a heartbeat; it lasts over many Nexts
	stopTick context.CancelFunc
}

func (h *Handler) openTicker(w http.ResponseWriter, r *http.Request, wish *readStream) (*ticker, error) {
	reader, err := h.openReader(r.Context(), &wish.readWish)
	if err != nil {
		return nil, err
	}
	s := &ticker{h: h, wish: wish, reader: reader, left: wish.limit, count: h.metrics.messages.of(wish.topic)}
	h.metrics.streams[wish.form].Inc()
	s.use = wish.use(r.Context(), wish.form.kind())
	h.setOut(&s.out, w, wish.coding)
	s.out.setHeaders(wish.form.contentType(), wish.coding)
	w.Header()["X-Accel-Buffering"] = []string{"no"}
	w.Header()["X-Cursor"] = []string{string(reader.AppendCursor(nil))}
	return s, nil
}

func (s *ticker) close() {
	s.reader.Close()
	s.use.Done()
	s.h.metrics.streams[s.wish.form].Dec()
}

// hello sends the headers, and in SSE the cursor of where the client begins: one that comes back before the first message
// goes on from there.
func (s *ticker) hello() error {
	s.wrote = time.Now()
	if s.wish.form != streamEvents {
		return s.out.write(nil)
	}
	c := s.h.getChunk()
	defer s.h.putChunk(c)
	c.buf = append(s.appendID(append(c.buf, retryField...)), '\n')
	return s.out.beat(c)
}

// appendID appends the cursor of where the client is, as a line of SSE.
func (s *ticker) appendID(dst []byte) []byte {
	dst = s.reader.AppendCursor(append(dst, "id: "...))
	return append(dst, '\n')
}

func (s *ticker) run(ctx context.Context) error {
	defer s.dropTick()
	for s.wish.limit == 0 || s.left > 0 {
		b, err := s.next(ctx)
		if err == nil {
			err = s.deliver(ctx, &b)
		} else if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
			err = s.beat()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// next waits for messages until a heartbeat may be due. The context with its timer is made once per heartbeat and not
// once per message.
func (s *ticker) next(ctx context.Context) (broadcast.Batch, error) {
	if s.tick == nil {
		s.tick, s.stopTick = context.WithDeadline(ctx, s.wrote.Add(heartbeat))
	}
	most := autoPrefetch
	if s.wish.limit > 0 {
		most = int(min(int64(most), s.left))
	}
	b, err := s.reader.Next(s.tick, most)
	if s.tick.Err() != nil {
		s.dropTick()
	}
	return b, err
}

func (s *ticker) dropTick() {
	if s.tick != nil {
		s.stopTick()
		s.tick, s.stopTick = nil, nil
	}
}

// beat breaks a silence. Where messages are passed over, it tells an SSE client how far that went.
func (s *ticker) beat() error {
	if time.Since(s.wrote) < heartbeat {
		return nil
	}
	c := s.h.getChunk()
	defer s.h.putChunk(c)
	s.wrote = time.Now()
	if s.wish.form == streamLines {
		c.buf = append(c.buf, '\n')
		return s.out.beat(c)
	}
	c.buf = append(c.buf, ":\n"...)
	if n := len(c.buf); s.wish.passesOver() {
		if c.buf = s.appendID(c.buf); bytes.Equal(c.buf[n:], s.told) {
			c.buf = c.buf[:n]
		} else {
			s.told = append(s.told[:0], c.buf[n:]...)
		}
	}
	c.buf = append(c.buf, '\n')
	return s.out.beat(c)
}

// deliver writes the gaps and messages, as few chunks as they fit into.
func (s *ticker) deliver(ctx context.Context, b *broadcast.Batch) error {
	c := s.h.getChunk()
	defer s.h.putChunk(c)
	if len(b.Gaps) > 0 {
		s.appendGaps(c, b)
	}
	n, size := 0, int64(0)
	for i := range b.Items {
		it := &b.Items[i]
		if s.wish.form == streamEvents {
			c.buf = s.appendEvent(c.buf, it)
		} else {
			c.buf = append(appendRead(c.buf, it, s.wish.base64), '\n')
		}
		n, size = n+1, size+int64(it.Size())
		if len(c.buf) >= chunkBytes {
			if err := s.flush(ctx, c, n, size); err != nil {
				return err
			}
			n, size = 0, 0
		}
	}
	if len(c.buf) > 0 {
		return s.flush(ctx, c, n, size)
	}
	return nil
}

func (s *ticker) appendGaps(c *chunk, b *broadcast.Batch) {
	if s.wish.form == streamLines {
		c.buf = append(appendGaps(c.buf, b.Gaps), '\n')
		return
	}
	c.buf = s.appendID(append(c.buf, "event: gap\n"...))
	c.buf = append(appendGaps(append(c.buf, "data: "...), b.Gaps), "\n\n"...)
}

func (s *ticker) appendEvent(dst []byte, it *broadcast.Item) []byte {
	dst = append(dst, "event: message\nid: "...)
	dst = append(dst, it.Cursor...)
	dst = append(dst, "\ndata: "...)
	if s.wish.base64 {
		dst = wire.AppendObject(dst, it.Message, wire.Extra{Base64: true})
	} else {
		dst = append(dst, it.Object...)
	}
	return append(dst, "\n\n"...)
}

// flush writes the chunk with n messages. For a client that has gone nothing is written.
func (s *ticker) flush(ctx context.Context, c *chunk, n int, size int64) error {
	err := ctx.Err()
	if err == nil {
		err = s.out.send(c)
	}
	if err != nil {
		return fmt.Errorf("%d messages could not be written: %w", n, err)
	}
	s.wrote = time.Now()
	s.left -= int64(n)
	s.count.Add(float64(n))
	s.use.Count(n, size)
	c.buf = c.buf[:0]
	return nil
}

// end ends the answer as that of a stream of a group: in good order, or by cutting the connection where the client would
// else take a failure for the end.
func (s *ticker) end(ctx context.Context, err error) error {
	s.h.forget(s.wish.topic, err)
	c := s.h.getChunk()
	defer s.h.putChunk(c)
	switch why := told(ctx, err); {
	case why != 0:
		if s.wish.form == streamEvents {
			c.buf = fmt.Appendf(c.buf, "event: end\ndata: {\"event\":\"end\",\"code\":%q}\n\n", why.Code())
		} else {
			c.buf = fmt.Appendf(c.buf, "{\"event\":\"end\",\"code\":%q}\n", why.Code())
		}
		if err := s.out.send(c); err != nil {
			return err
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
