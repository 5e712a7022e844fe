package sub

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/kateway/kateway/broadcast"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/ws"
	"github.com/kateway/kateway/store"
)

// readSocket is a WebSocket without a group: GET /v1/ws/msgs/:app/:topic/:ver.
type readSocket struct {
	readWish
	socketWish
	limit int64 // messages; 0 = endless
}

func (w *readSocket) read(r *http.Request) error {
	var bad error
	w.handshake, bad = ws.Ask(r) // first, since it may tell who calls
	q, err := w.parse(r, "format", "prefetch", "limit")
	if err != nil {
		return err
	}
	if err := w.begin(r, q); err != nil {
		return err
	}
	if err := w.format(q, w.base64); err != nil {
		return err
	}
	if w.limit, err = parseLimit(q); err != nil {
		return err
	}
	return bad
}

func (w *readSocket) do(h *Handler, rw http.ResponseWriter, r *http.Request) error {
	reader, err := h.openReader(r.Context(), &w.readWish)
	if err != nil {
		return err
	}
	f := &readFeed{reader: reader, raw: w.raw, base64: w.base64, ticks: w.raw || w.passesOver()}
	rw.Header()["X-Cursor"] = []string{string(reader.AppendCursor(nil))}
	return w.serve(h, rw, r, f, &w.place, autoPrefetch, w.limit)
}

// readFeed is a reader without a group on a WebSocket. The client is to know its cursor: each object says it, and where there
// are no objects, or messages were passed over, a note does.
type readFeed struct {
	reader *broadcast.Reader
	raw    bool
	base64 bool
	items  []broadcast.Item

	told    []byte          // the cursor that the client has
	ticks   bool            // it may have got further without knowing
	due     bool            // it is to be told
	tick    context.Context //nolint:containedctx // the connection's, with the deadline of a note; it lasts over many Nexts
	endTick context.CancelFunc
}

// next ends a wait when a note is due. The context with its timer is made once per note and not once per message.
func (f *readFeed) next(ctx context.Context, most int) ([]store.Gap, int, error) {
	wait := ctx
	if f.ticks {
		if f.tick == nil {
			f.tick, f.endTick = context.WithTimeout(ctx, heartbeat)
		}
		wait = f.tick
	}
	f.items = nil // they are given back now
	b, err := f.reader.Next(wait, most)
	f.items = b.Items
	if f.tick != nil && f.tick.Err() != nil {
		f.dropTick()
		f.due = true
		if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
			err = nil
		}
	}
	return b.Gaps, len(b.Items), err
}

func (f *readFeed) close() {
	f.dropTick()
	f.reader.Close()
}

func (f *readFeed) dropTick() {
	if f.tick != nil {
		f.endTick()
		f.tick, f.endTick = nil, nil
	}
}

// note tells the cursor where the client does not know it.
func (f *readFeed) note(dst []byte, at moment) []byte {
	if at == between && !f.due {
		return dst // not yet
	}
	f.due = false
	n := len(dst)
	dst = append(dst, `{"event":"cursor","cursor":"`...)
	c := len(dst)
	if dst = f.reader.AppendCursor(dst); bytes.Equal(dst[c:], f.told) {
		return dst[:n]
	}
	f.told = append(f.told[:0], dst[c:]...)
	return append(dst, `"}`...)
}

func (f *readFeed) message(i int) *store.Message { return f.items[i].Message }

// written notes what cursor the client has.
func (f *readFeed) written(_ *chunk, from, to int, ok bool) {
	if ok && to > from && !f.raw {
		f.told = append(f.told[:0], f.items[to-1].Cursor...)
	}
}

// frame takes what was made for all readers, deflated too.
func (f *readFeed) frame(dst []byte, i int, conn *ws.Conn) []byte {
	it, form := &f.items[i], broadcast.TextFrame
	n := len(it.Object) + len(it.Cursor)
	if f.raw {
		form, n = broadcast.BinaryFrame, len(it.Value)
	}
	if !f.base64 && conn.Deflates(n) {
		if b, ok := it.Shared(form, func() []byte { return f.build(nil, it, conn) }); ok {
			return append(dst, b...)
		}
	}
	return f.build(dst, it, conn)
}

func (f *readFeed) build(dst []byte, it *broadcast.Item, conn *ws.Conn) []byte {
	at := len(dst)
	if f.raw {
		return conn.End(append(ws.Begin(dst), it.Value...), at, ws.Binary)
	}
	return conn.End(appendRead(ws.Begin(dst), it, f.base64), at, ws.Text)
}

// settle refuses: there is nobody who would keep what was acked.
func (f *readFeed) settle(_ context.Context, _ *chunk, verbs []receipted) []error {
	outcome := make([]error, len(verbs))
	for i := range outcome {
		outcome[i] = fmt.Errorf("without a group nothing is acked: connect with group=<name>: %w", errs.InvalidParam)
	}
	return outcome
}
