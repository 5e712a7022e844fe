package sub

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/httpx"
	"github.com/kateway/kateway/internal/online"
	"github.com/kateway/kateway/internal/ws"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/store"
)

const (
	socketBuffer = 512       // what an idle WebSocket keeps to read into
	socketLimit  = 128 << 10 // bytes of what a client says in one message
)

// socketWish is what a client wants of GET /v1/ws/msgs/:app/:topic/:ver.
type socketWish struct {
	streamWish
	handshake ws.Handshake
	raw       bool // binary frames of the bare values
}

func (w *socketWish) read(r *http.Request) error {
	var bad error
	w.handshake, bad = ws.Ask(r) // first, since it may tell who calls
	q, err := httpx.ParseQuery(r, append([]string{"format", "prefetch", "limit"}, wishParams[:]...)...)
	if err != nil {
		return err
	}
	if err := w.parse(r, q); err != nil {
		return err
	}
	format, err := q.OneOf("format", "json", "raw")
	if err != nil {
		return err
	}
	if w.raw = format == "raw"; w.raw && (w.explicit || w.base64) {
		return fmt.Errorf("format=raw has bare values only: no receipts for ack=explicit, no value=base64: %w", errs.InvalidParam)
	}
	return bad
}

func (w *socketWish) do(h *Handler, rw http.ResponseWriter, r *http.Request) error {
	feed, err := h.openFeed(r.Context(), w)
	if err != nil {
		return err
	}
	defer feed.close()
	return w.serve(h, feed, rw, r)
}

// Close waits until the WebSockets have ended, which they do when their groups drain. Those that have not when ctx ends are
// cut off. Other requests are not waited for.
func (h *Handler) Close(ctx context.Context) error { return h.sockets.Wait(ctx) }

// newSocket is what a GET of /v1/ws/msgs asks for.
func newSocket(*http.Request) action { return new(socketWish) }

// serve makes a WebSocket of the request and serves it until its end.
func (w *socketWish) serve(h *Handler, f feed, rw http.ResponseWriter, r *http.Request) error {
	rw.Header()["Cache-Control"] = []string{"no-store"}
	conn, err := w.handshake.Accept(rw, r, ws.Config{Limit: socketLimit, Buffer: socketBuffer, Sockets: &h.sockets})
	if err != nil {
		return err
	}
	s := &socket{
		h: h, topic: w.topic, conn: conn, feed: f, raw: w.raw, most: w.most(), left: w.limit, endless: w.limit == 0,
		count: h.metrics.messages.of(w.topic),
	}
	h.metrics.sockets.Inc()
	defer h.metrics.sockets.Dec()
	s.use = w.use(r.Context(), online.WS)
	defer s.use.Done()
	s.ctx = r.Context()
	return conn.Serve(r.Context(), s.read, s.write)
}

// feed is where the messages of a WebSocket come from. One goroutine at a time may call it, but for settle.
type feed interface {
	// next waits for messages or gaps until ctx ends, and answers how many there are, at most so many. They stay until the
	// next call. Its errors are those of group.Session.Next.
	next(ctx context.Context, most int) (gaps []store.Gap, n int, err error)
	message(i int) *store.Message
	// object appends the JSON object of a message.
	object(dst []byte, i int) []byte
	// written says what became of the messages from..to-1: the connection has them, or it is broken.
	written(c *chunk, from, to int, ok bool)
	// settle does what the client says of messages, and answers one error per verb. Another goroutine may call it, one at a time.
	settle(ctx context.Context, verbs []receipted) []error
	close()
}

// socket is one client of a WebSocket, from connect to disconnect: a writer, the request's own goroutine, that waits for
// messages and writes what is at hand as few chunks, and a reader that does what the client says. While it waits it holds
// no chunk.
type socket struct {
	h       *Handler
	ctx     context.Context //nolint:containedctx // the request's, for the reader
	topic   meta.Topic
	conn    *ws.Conn
	feed    feed
	raw     bool
	endless bool  // there is no limit
	left    int64 // messages until the limit
	most    int   // messages at once
	count   prometheus.Counter
	use     *online.Use
	blunder int // messages of the client that could not be understood
}

// write is the writer. What it returns is what the client is told in the end.
func (s *socket) write(ctx context.Context) error {
	for s.endless || s.left > 0 {
		most := s.most
		if !s.endless {
			most = int(min(int64(most), s.left))
		}
		gaps, n, err := s.feed.next(ctx, most)
		if err == nil {
			err = s.deliver(gaps, n)
		}
		if err != nil {
			return s.end(err)
		}
	}
	return nil
}

// deliver writes the gaps and messages, in as few chunks as they fit into.
func (s *socket) deliver(gaps []store.Gap, n int) error {
	c := s.h.getChunk()
	defer s.h.putChunk(c)
	if len(gaps) > 0 && !s.raw {
		at := len(c.buf)
		c.buf = s.conn.End(appendGaps(ws.Begin(c.buf), gaps), at, ws.Text)
	}
	from := 0
	for i := range n {
		c.bytes += int64(s.feed.message(i).Size())
		c.buf = s.append(c.buf, i)
		if len(c.buf) >= chunkBytes {
			if err := s.flush(c, from, i+1); err != nil {
				return err
			}
			from = i + 1
		}
	}
	if len(c.buf) > 0 {
		return s.flush(c, from, n)
	}
	return nil
}

// append appends the frame of a message.
func (s *socket) append(dst []byte, i int) []byte {
	at := len(dst)
	if s.raw {
		return s.conn.End(append(ws.Begin(dst), s.feed.message(i).Value...), at, ws.Binary)
	}
	return s.conn.End(s.feed.object(ws.Begin(dst), i), at, ws.Text)
}

// flush writes the chunk with the messages from..to-1, and has them acked where the client does not do it.
func (s *socket) flush(c *chunk, from, to int) error {
	err := s.conn.Write(c.buf)
	s.feed.written(c, from, to, err == nil)
	if err != nil {
		return fmt.Errorf("%d messages could not be written and are due again: %w", to-from, err)
	}
	s.left -= int64(to - from)
	s.count.Add(float64(to - from))
	s.use.Count(to-from, c.bytes)
	c.buf, c.verbs, c.bytes = c.buf[:0], c.verbs[:0], 0
	return nil
}

// end is how the client is told of an error. That its topic was deleted it is told in words too.
func (s *socket) end(err error) error {
	s.h.forget(s.topic, err)
	if !errors.Is(err, errs.UnknownTopic) {
		return err
	}
	text := fmt.Appendf(ws.Begin(nil), `{"event":"end","code":%q}`, errs.UnknownTopic.Code())
	if err := s.conn.Write(s.conn.End(text, 0, ws.Text)); err != nil {
		return err
	}
	return ws.Close(ws.Normal, errs.UnknownTopic.Code())
}

// groupFeed is a client of a group.
type groupFeed struct {
	h       *Handler
	topic   meta.Topic
	session group.Session
	enc     encoder
	opener  *group.Receipts // of settle, made for the first receipt
	stays   bool            // what is un-acked at the end stays with the client
	batch   []group.Delivery
}

// openFeed makes the request a client of its group.
func (h *Handler) openFeed(ctx context.Context, w *socketWish) (*groupFeed, error) {
	key, err := h.key(ctx, &w.place)
	if err != nil {
		return nil, err
	}
	f := &groupFeed{
		h: h, topic: w.topic, stays: w.explicit && w.limit > 0, // as a stream with a limit
		enc: encoder{groups: h.groups, key: key, explicit: w.explicit, base64: w.base64},
	}
	f.session, err = h.open(ctx, &w.wish, key, w.most(), f.stays)
	return f, err
}

func (f *groupFeed) next(ctx context.Context, most int) ([]store.Gap, int, error) {
	b, err := f.session.Next(ctx, most)
	f.batch = b.Deliveries
	return b.Gaps, len(b.Deliveries), err
}

func (f *groupFeed) message(i int) *store.Message    { return f.batch[i].Message }
func (f *groupFeed) object(dst []byte, i int) []byte { return f.enc.object(dst, &f.batch[i]) }
func (f *groupFeed) close()                          { f.session.Close() }

// written acks where the client does not do it. What could not be written is due again: at the end, if not at once.
func (f *groupFeed) written(c *chunk, from, to int, ok bool) {
	op := group.Ack
	if !ok {
		op = group.Nack
	}
	if ok && f.enc.explicit || !ok && !f.stays {
		return
	}
	for i := from; i < to; i++ {
		c.verbs = append(c.verbs, group.Verb{Ref: f.batch[i].Ref, Op: op})
	}
	if outcome := f.session.Settle(c.verbs...); ok {
		f.h.acked(f.topic, outcome)
	}
}

// settle asks the session first, which knows what it gave. What is not its own may be another client's of the group.
func (f *groupFeed) settle(ctx context.Context, list []receipted) []error {
	outcome := make([]error, len(list))
	if f.opener == nil {
		f.opener = f.h.groups.Receipts(f.enc.key)
	}
	verbs, at := make([]group.Verb, 0, len(list)), make([]int, 0, len(list)) // at is the element of each verb
	for i, v := range list {
		if v.verb.Ref, outcome[i] = f.opener.Open(v.receipt); outcome[i] == nil {
			verbs, at = append(verbs, v.verb), append(at, i)
		}
	}
	if len(verbs) == 0 {
		return outcome
	}
	others := 0
	for i, err := range f.session.Settle(verbs...) {
		if outcome[at[i]] = err; errors.Is(err, errs.Fenced) {
			verbs[others], at[others] = verbs[i], at[i]
			others++
		}
	}
	if others > 0 {
		for i, err := range f.h.verbs(ctx, f.enc.key, verbs[:others]) {
			outcome[at[i]] = err
		}
	}
	f.h.forget(f.topic, outcome...)
	return outcome
}
