package sub

import (
	"context"
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/httpx"
	"github.com/kateway/kateway/internal/online"
	"github.com/kateway/kateway/internal/ws"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/store"
)

const (
	socketBuffer = 4 << 10   // what is read at once from a WebSocket on which something comes
	socketLimit  = 128 << 10 // bytes of what a client says in one message
)

// Close waits until the WebSockets have ended, which they do when their groups drain. Those that have not when ctx ends are
// cut off. Other requests are not waited for.
func (h *Handler) Close(ctx context.Context) error { return h.sockets.Wait(ctx) }

// newSocket is what a GET of /v1/ws/msgs asks for.
func newSocket(r *http.Request) action {
	if hasGroup(r) {
		return new(groupSocket)
	}
	return new(readSocket)
}

// socketWish is what all WebSockets have in common.
type socketWish struct {
	handshake ws.Handshake
	raw       bool // binary frames of the bare values
}

func (*socketWish) leaves() {}

// format reads which frames the client wants.
func (w *socketWish) format(q httpx.Query, base64 bool) error {
	format, err := q.OneOf("format", "json", "raw")
	if w.raw = format == "raw"; w.raw && base64 {
		return fmt.Errorf("format=raw has bare values only: no value=base64: %w", errs.InvalidParam)
	}
	return err
}

// serve makes a WebSocket of the request and serves it: of a place, so many messages at once, and in all up to limit, where
// there is one. The feed belongs to it. Where a plugin waits for the end it returns then, since the chain is around it; else at
// once: then what is kept of the request is nothing but the socket.
func (w *socketWish) serve(h *Handler, rw http.ResponseWriter, r *http.Request, f feed, p *place, most int, limit int64) error {
	rw.Header()["Cache-Control"] = []string{"no-store"}
	conn, err := w.handshake.Accept(rw, r, ws.Config{Limit: socketLimit, Buffer: socketBuffer, Sockets: &h.sockets})
	if err != nil {
		f.close()
		return err
	}
	s := &socket{
		h: h, topic: p.topic, conn: conn, feed: f, most: most, left: limit, endless: limit == 0,
		count: h.metrics.messages.of(p.topic), use: p.use(r.Context(), online.WS),
	}
	h.metrics.sockets.Inc()
	id, over := httpx.RequestID(r.Context()), func(error) {}
	s.ctx = context.Background()
	if p.leave != nil {
		var leaves bool
		if s.ctx, over, leaves = p.leave(); !leaves {
			defer s.close()
			s.ctx = r.Context()
			return conn.Serve(s.ctx, s.read, s.write)
		}
	}
	conn.Go(s.ctx, s.read, s.write, func(err error) {
		s.close()
		over(err)
		if err != nil {
			h.log.Error("a WebSocket has failed", "request_id", id, "topic", s.topic.String(), "error", err)
		}
	})
	return nil
}

func (s *socket) close() {
	s.feed.close()
	s.use.Done()
	s.h.metrics.sockets.Dec()
}

// feed is where the messages of a WebSocket come from. One goroutine at a time may call it, but for settle.
type feed interface { //nolint:interfacebloat // a group and a reader differ in these
	// next waits for messages, gaps or a note until ctx ends, and answers how many messages there are, at most so many. They
	// stay until the next call. Its errors are those of group.Session.Next.
	next(ctx context.Context, most int) (gaps []store.Gap, n int, err error)
	message(i int) *store.Message
	// frame appends the frame of a message.
	frame(dst []byte, i int, conn *ws.Conn) []byte
	// note appends, as a text, what the client is to know beside messages and gaps, where there is something: when it has
	// come, after each next, and in the end.
	note(dst []byte, at moment) []byte
	// written says what became of the messages from..to-1: the connection has them, or it is broken.
	written(c *chunk, from, to int, ok bool)
	// settle does what the client says of messages, and answers one error per verb, which are good as long as the chunk that is
	// lent for it. Another goroutine may call it, one at a time.
	settle(ctx context.Context, c *chunk, verbs []receipted) []error
	close()
}

// moment is a point in the life of a WebSocket.
type moment int

const (
	atBegin moment = iota
	between
	atEnd
)

// socket is one client of a WebSocket, from connect to disconnect: a writer, the request's own goroutine, that waits for
// messages and writes what is at hand as few chunks, and a reader that does what the client says. While it waits it holds
// no chunk.
type socket struct {
	h       *Handler
	ctx     context.Context //nolint:containedctx // the request's, for the reader
	topic   meta.Topic
	conn    *ws.Conn
	feed    feed
	endless bool  // there is no limit
	left    int64 // messages until the limit
	most    int   // messages at once
	count   prometheus.Counter
	use     *online.Use
	blunder int // messages of the client that could not be understood
}

// write is the writer. What it returns is what the client is told in the end.
func (s *socket) write(ctx context.Context) error {
	err := s.deliver(nil, 0, atBegin)
	for err == nil && (s.endless || s.left > 0) {
		most := s.most
		if !s.endless {
			most = int(min(int64(most), s.left))
		}
		var gaps []store.Gap
		var n int
		if gaps, n, err = s.feed.next(ctx, most); err == nil {
			err = s.deliver(gaps, n, between)
		}
	}
	return s.end(ctx, err)
}

// deliver writes gaps, messages and a note, in as few chunks as they fit into.
func (s *socket) deliver(gaps []store.Gap, n int, m moment) error {
	c := s.h.getChunk()
	defer s.h.putChunk(c)
	if len(gaps) > 0 {
		c.buf = s.conn.End(appendGaps(ws.Begin(c.buf), gaps), 0, ws.Text)
	}
	from := 0
	for i := range n {
		c.bytes += int64(s.feed.message(i).Size())
		c.buf = s.feed.frame(c.buf, i, s.conn)
		if len(c.buf) >= chunkBytes {
			if err := s.flush(c, from, i+1); err != nil {
				return err
			}
			from = i + 1
		}
	}
	at := len(c.buf)
	c.buf = ws.Begin(c.buf)
	room := len(c.buf)
	if c.buf = s.feed.note(c.buf, m); len(c.buf) > room {
		c.buf = s.conn.End(c.buf, at, ws.Text)
	} else {
		c.buf = c.buf[:at]
	}
	if len(c.buf) > 0 {
		return s.flush(c, from, n)
	}
	return nil
}

// flush writes the chunk with the messages from..to-1, and has them acked where the client does not do it.
func (s *socket) flush(c *chunk, from, to int) error {
	err := s.ctx.Err() // it may read no longer
	if err == nil {
		err = s.conn.Write(c.buf)
	}
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

// end is how the client is told of the end, or of an error. That its topic was deleted, or that it may read no longer, it is
// told in words too.
func (s *socket) end(ctx context.Context, err error) error {
	s.h.forget(s.topic, err)
	why := told(s.ctx, err)
	if why == 0 {
		if ctx.Err() == nil {
			_ = s.deliver(nil, 0, atEnd) // for a client that has gone there is none
		}
		return err
	}
	text := fmt.Appendf(ws.Begin(nil), `{"event":"end","code":%q}`, why.Code())
	if err := s.conn.Write(s.conn.End(text, 0, ws.Text)); err != nil {
		return err
	}
	if why != errs.UnknownTopic {
		return ws.Close(ws.Unauthorized, why.Code())
	}
	return ws.Close(ws.Normal, why.Code())
}
