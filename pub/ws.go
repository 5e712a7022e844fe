package pub

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/httpx"
	"github.com/kateway/kateway/internal/wire"
	"github.com/kateway/kateway/internal/ws"
	"github.com/kateway/kateway/plugins"
	"github.com/kateway/kateway/store"
)

// What a WebSocket may have read and not answered. Then it is not read any further, until the store has caught up: the
// client's own writes come to wait.
const (
	socketMessages = 256
	socketBytes    = 4 << 20

	socketBuffer = 4 << 10 // what is read at once
	skipFactor   = 16      // a message is skipped up to so many times the limit; beyond, the connection ends
)

// serveSocket answers GET /v1/ws/pub/:topic/:ver.
func (h *Handler) serveSocket(w http.ResponseWriter, r *http.Request) error {
	h.gate.TakeToken(r)
	handshake, bad := ws.Ask(r) // first, since it may tell who calls
	q := request{partition: store.AnyPartition, counters: h.metrics.other}
	if err := h.parseTopic(r, &q); err != nil {
		return q.done(err)
	}
	open := func(w http.ResponseWriter, r *http.Request, q *request) error {
		if err := h.parseSocket(r, q); err != nil {
			return err
		}
		if bad != nil {
			return bad
		}
		return h.socket(w, r, q, &handshake)
	}
	if h.gate != nil {
		return h.pass(w, r, q, true, open)
	}
	return q.done(open(w, r, &q))
}

// parseSocket reads what all messages of a WebSocket have in common: parameters, then headers.
func (h *Handler) parseSocket(r *http.Request, q *request) error {
	p, err := httpx.ParseQuery(r, "key", "partition", "ack", "hh", "format")
	if err != nil {
		return err
	}
	if err := h.parseTarget(p, q); err != nil {
		return err
	}
	form, err := p.OneOf("format", "raw", "json")
	if err != nil {
		return err
	}
	for _, name := range []string{"Idempotency-Key", "Content-Encoding"} {
		if r.Header[name] != nil {
			return fmt.Errorf("%s: is of one message, not of a WebSocket: %w", name, errs.InvalidParam)
		}
	}
	if q.headers, err = wire.RecordHeaders(r.Header); err != nil {
		return err
	}
	if form == "json" {
		q.format = formatObjects
		q.dropType()
	}
	return nil
}

// socket opens the WebSocket and serves it until its end. What can be refused is refused before.
func (h *Handler) socket(w http.ResponseWriter, r *http.Request, q *request, handshake *ws.Handshake) error {
	if h.sockets.Draining() {
		return fmt.Errorf("publishing over a new WebSocket: %w", errs.Draining)
	}
	if err := h.findTopic(r.Context(), q); err != nil {
		return err
	}
	limit := h.limits.Message
	if q.format == formatObjects {
		limit = 2*limit + maxHeaders + h.limits.Key // escapes and base64 take room
	}
	conn, err := handshake.Accept(w, r, ws.Config{Limit: limit, Skip: skipFactor * int64(limit), Buffer: socketBuffer, Sockets: &h.sockets})
	if err != nil {
		return err
	}
	s := &socket{h: h, q: q, conn: conn}
	s.room.L, s.more.L = &s.mu, &s.mu
	if h.gate != nil { // a plugin may end it: nothing more is read then, and what was is answered
		stop := context.AfterFunc(r.Context(), func() { conn.StopReading(0) })
		defer stop()
	}
	return conn.Serve(r.Context(), s.read, s.write)
}

func (h *Handler) findTopic(ctx context.Context, q *request) error {
	ctx, cancel := context.WithTimeout(ctx, h.limits.Deadline)
	defer cancel()
	_, err := h.use(ctx, q.topic)
	return err
}

// socket is a client that publishes over a WebSocket: a reader that makes messages of what it sends, and a writer, the
// request's own goroutine, that stores all that has come meanwhile by one call and answers in order. So the slower the
// store, the larger the batches, and messages of one connection keep their order.
type socket struct {
	h    *Handler
	q    *request // the writer's, but for what the reader only reads
	conn *ws.Conn
	seq  int64 // answers given

	mu       sync.Mutex
	more     sync.Cond // there is something in queue, or reading has ended
	room     sync.Cond // there is room in flight, or writing has ended
	queue    []incoming
	messages int // in flight: in queue, or being stored
	bytes    int
	deaf     bool // reading has ended
	mute     bool // writing has ended
}

// incoming is a frame of the client: a message, or what is wrong with it.
type incoming struct {
	message store.Message
	err     error
	bytes   int
}

// read is the reader.
func (s *socket) read() (err error) {
	defer func() {
		if !errors.Is(err, ws.ErrQuiet) {
			s.stopped(&s.deaf)
		}
	}()
	var objects *wire.ObjectReader
	if s.q.format == formatObjects {
		objects = new(wire.ObjectReader)
	}
	for {
		kind, data, err := s.conn.Next()
		in := incoming{bytes: len(data)}
		switch {
		case errors.Is(err, ws.ErrTooLarge):
			in.err = fmt.Errorf("a message has at most %d bytes: %w", s.h.limits.Message, errs.TooLarge)
		case err != nil:
			return err
		case objects != nil:
			in.message, in.err = s.object(objects, kind, data)
		default:
			in.message = store.Message{Key: s.q.key, Value: data, Headers: s.q.headers, Partition: s.q.partition}
		}
		if !s.push(in) {
			return nil
		}
	}
}

// object makes a message of its JSON object.
func (s *socket) object(from *wire.ObjectReader, kind ws.Kind, data []byte) (m store.Message, err error) {
	if kind != ws.Text {
		return m, fmt.Errorf("a binary message: with format=json they are text: %w", errs.InvalidBody)
	}
	if err := s.h.readObject(from, s.q, data, &m); err != nil {
		return m, err
	}
	if n := len(m.Value); n > s.h.limits.Message {
		return m, fmt.Errorf("the value has %d bytes, %d at most: %w", n, s.h.limits.Message, errs.TooLarge)
	}
	return m, nil
}

// push gives the writer a frame, once there is room for it in flight. It is false when the writer takes no more.
func (s *socket) push(in incoming) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.mute && s.messages > 0 && (s.messages >= socketMessages || s.bytes+in.bytes > socketBytes) {
		s.room.Wait()
	}
	s.messages++
	s.bytes += in.bytes
	s.queue = append(s.queue, in)
	s.more.Signal()
	return !s.mute
}

// take waits for frames and takes all there are; none when there will be no more.
func (s *socket) take() []incoming {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.queue) == 0 && !s.deaf {
		s.more.Wait()
	}
	list := s.queue
	s.queue = nil
	return list
}

// answered makes room for as many.
func (s *socket) answered(list []incoming) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.messages -= len(list)
	for i := range list {
		s.bytes -= list[i].bytes
	}
	s.room.Signal()
}

// stopped says that one half has ended.
func (s *socket) stopped(half *bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*half = true
	s.more.Signal()
	s.room.Signal()
}

// write is the writer: until the reader has ended and all it read is answered.
func (s *socket) write(ctx context.Context) error {
	defer s.stopped(&s.mute)
	for {
		list := s.take()
		if list == nil {
			break
		}
		err := s.conn.Write(s.publish(ctx, list))
		s.answered(list)
		if err != nil {
			return err
		}
	}
	switch why := plugins.Ended(ctx); {
	case why != nil:
		return ws.Close(ws.Unauthorized, errs.Of(why).Code())
	case s.h.sockets.Draining():
		return fmt.Errorf("publishing over a WebSocket: %w", errs.Draining)
	}
	return nil
}

// publish stores the messages of the list that are good, and answers each element by a frame.
func (s *socket) publish(ctx context.Context, list []incoming) []byte {
	c := s.h.slabs.get()
	for i := range list {
		if list[i].err == nil {
			c.messages = append(c.messages, list[i].message)
		}
	}
	c.refer()
	err := s.store(ctx, c, list)
	a := answers{conn: s.conn, seq: s.seq, buf: make([]byte, 0, 64*len(list))}
	stored := 0
	for i := range list {
		failure := list[i].err
		if failure == nil {
			failure = store.Each(err, stored)
			stored++
		} else {
			s.q.counters.failed(errs.Of(failure))
		}
		if failure == nil {
			a.stored(c.refs[stored-1], c.fate(stored-1))
		} else {
			a.failed(failure)
		}
	}
	s.seq = a.seq
	if !uncertain(err) {
		s.h.release(c)
	}
	return a.buf
}

// store stores the messages and counts. The client's leaving does not keep it from that. What the plugins refuse it takes
// out, and says so in the list.
func (s *socket) store(ctx context.Context, c *slab, list []incoming) error {
	if len(c.refs) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.h.limits.Deadline)
	defer cancel()
	err := s.admit(ctx, c, list)
	if err == nil && len(c.refs) > 0 {
		err = s.h.send(ctx, s.q, c)
	}
	if !anyStored(err) { // else send has counted
		for i := range c.refs {
			s.q.counters.failed(errs.Of(store.Each(err, i)))
		}
	}
	return err
}

// admit asks the plugins: about all messages by their number, then about each.
func (s *socket) admit(ctx context.Context, c *slab, list []incoming) error {
	if s.q.call == nil {
		return nil
	}
	if err := s.h.admitAll(ctx, s.q, c.refs); err != nil || s.q.inspect == nil {
		return err
	}
	var in plugins.Message
	kept, asked := 0, 0
	for i := range list {
		if list[i].err != nil {
			continue
		}
		m := c.refs[asked]
		asked++
		f, err := s.h.inspect(ctx, s.q, &in, m)
		if list[i].err = err; err == nil {
			c.refs[kept] = m
			c.decide(kept, f)
			kept++
		}
	}
	c.refs = c.refs[:kept]
	if len(c.fates) > 0 {
		c.fates = c.fates[:kept]
	}
	return nil
}
