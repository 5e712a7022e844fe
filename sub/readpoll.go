package sub

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/kateway/kateway/broadcast"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/online"
	"github.com/kateway/kateway/internal/wire"
	"github.com/kateway/kateway/store"
)

// readPoll is a poll without a group: GET /v1/msgs/:app/:topic/:ver with cursor, or with partition and offset.
type readPoll struct {
	readWish
	batch int
	wait  time.Duration
	form  pollForm
}

func (w *readPoll) read(r *http.Request) error {
	q, err := w.parse(r, "batch", "wait", "partition", "offset")
	if err != nil {
		return err
	}
	if err := w.onePartition(q); err != nil {
		return err
	}
	if !w.resumes && w.one.IsZero() {
		return fmt.Errorf("group is required: add ?group=<name>; or read without one, by cursor= (empty at first) or by partition= and offset=: %w", errs.InvalidParam)
	}
	n, err := q.Int("batch", 1, 1, maxBatch)
	if err != nil {
		return err
	}
	w.batch = int(n)
	if w.wait, err = q.Duration("wait", defaultWait, 0, maxWait); err != nil {
		return err
	}
	w.waits = w.wait > minRead
	w.form, err = choosePollForm(&wish{base64: w.base64, accept: w.accept}, w.batch)
	return err
}

func (w *readPoll) do(h *Handler, rw http.ResponseWriter, r *http.Request) error {
	reader, err := h.openReader(r.Context(), &w.readWish)
	if err != nil {
		return err
	}
	defer reader.Close()
	use := w.use(r.Context(), online.Poll)
	defer use.Done()
	items, gaps, err := w.await(r.Context(), reader)
	if err != nil {
		h.forget(w.topic, err)
		return err
	}
	header := rw.Header()
	if len(gaps) > 0 {
		header["X-Gap"] = []string{gapHeader(gaps)}
	}
	header["X-Cursor"] = []string{string(reader.AppendCursor(nil))}
	if len(items) == 0 {
		h.metrics.empty.Inc()
		header["Cache-Control"] = []string{"no-store"}
		rw.WriteHeader(http.StatusNoContent)
		return nil
	}
	if err := w.write(h, rw, items); err != nil {
		return fmt.Errorf("%d messages could not be written: %w", len(items), err)
	}
	h.metrics.answered.Inc()
	h.metrics.messages.of(w.topic).Add(float64(len(items)))
	bytes := int64(0)
	for i := range items {
		bytes += int64(items[i].Size())
	}
	use.Count(len(items), bytes)
	return nil
}

// await waits for the first message, and answers what is at hand then and the gaps before it. The slice is good until the
// reader's next Next. None and no error: nothing came in time, or the gateway is stopping.
func (w *readPoll) await(ctx context.Context, reader *broadcast.Reader) ([]broadcast.Item, []store.Gap, error) {
	waiting, cancel := context.WithTimeout(ctx, max(w.wait, minRead))
	defer cancel()
	var gaps []store.Gap
	for {
		b, err := reader.Next(waiting, w.batch)
		gaps = append(gaps, b.Gaps...)
		switch {
		case err == nil && len(b.Items) > 0:
			return b.Items, gaps, nil
		case err == nil: // gaps alone
		case ctx.Err() != nil:
			return nil, nil, fmt.Errorf("the client has gone: %w", ctx.Err())
		case waiting.Err() != nil, errors.Is(err, errs.Draining):
			return nil, gaps, nil
		default:
			return nil, nil, err
		}
	}
}

// minRead is how long even wait=0s looks: what is not in memory has to be read from the store.
const minRead = time.Second

func (w *readPoll) write(h *Handler, rw http.ResponseWriter, items []broadcast.Item) error {
	var o out
	h.setOut(&o, rw, w.coding)
	c := h.getChunk()
	defer h.putChunk(c)
	if w.form == pollRaw {
		o.setHeaders("", w.coding)
		wire.SetHeaders(rw.Header(), items[0].Message, wire.Extra{})
		c.buf = append(c.buf, items[0].Value...)
		return o.finish(c, true)
	}
	contentType := typeJSONLines
	if w.form == pollFrames {
		contentType = typeBytes
	}
	o.setHeaders(contentType, w.coding)
	first := true
	for i := range items {
		it := &items[i]
		if w.form == pollFrames {
			c.buf = wire.AppendFrame(c.buf, it.Message)
		} else {
			c.buf = append(appendRead(c.buf, it, w.base64), '\n')
		}
		if len(c.buf) < chunkBytes || i == len(items)-1 {
			continue
		}
		if err := o.send(c); err != nil {
			return err
		}
		c.buf, first = c.buf[:0], false
	}
	return o.finish(c, first)
}

// appendRead appends the JSON object of a message, with the cursor behind it.
func appendRead(dst []byte, it *broadcast.Item, base64 bool) []byte {
	if base64 {
		return wire.AppendObject(dst, it.Message, wire.Extra{Base64: true, Cursor: it.Cursor})
	}
	return it.AppendObject(dst)
}
