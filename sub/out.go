package sub

import (
	"net/http"
	"strconv"
	"time"

	"github.com/kateway/kateway/group"
)

const (
	chunkBytes = 64 << 10 // a chunk is written when it has reached this
	chunkKept  = 4 * chunkBytes

	writeTimeout = 30 * time.Second // for a client to take a chunk; a slower one is cut off
	renewAt      = 20 * time.Second // a deadline that is this far away is good enough; a heartbeat comes before it passes
)

// chunk is what a request needs while it writes, and gives back while it waits.
type chunk struct {
	buf   []byte
	coded []byte
	verbs []group.Verb // of the messages in buf
	bytes int64        // of these messages: keys, values and headers

	// What a client says over a WebSocket.
	said    []receipted
	at      []int
	outcome []error
}

func (h *Handler) getChunk() *chunk {
	if c, ok := h.chunks.Get().(*chunk); ok {
		return c
	}
	return new(chunk)
}

// putChunk keeps the chunk for others, without what a big message made of it.
func (h *Handler) putChunk(c *chunk) {
	if cap(c.buf) > chunkKept {
		c.buf = nil
	}
	if cap(c.coded) > chunkKept {
		c.coded = nil
	}
	clear(c.said) // the receipts
	clear(c.outcome)
	c.buf, c.coded, c.verbs, c.bytes, c.said, c.at = c.buf[:0], c.coded[:0], c.verbs[:0], 0, c.said[:0], c.at[:0]
	h.chunks.Put(c)
}

// out is the way to one client. Every write has a deadline, since a client that reads nothing would hold messages and
// memory for ever.
type out struct {
	w        http.ResponseWriter
	rc       *http.ResponseController
	coder    coder // nil: as it is
	deadline time.Time
}

func (h *Handler) setOut(o *out, w http.ResponseWriter, c coding) {
	o.w, o.rc, o.coder = w, http.NewResponseController(w), newCoder(c, &h.zstd)
}

// setHeaders sets what all answers with messages have in common.
func (o *out) setHeaders(contentType string, c coding) {
	h := o.w.Header()
	h["Cache-Control"] = []string{"no-store"}
	h["Vary"] = []string{"Accept-Encoding"}
	h["X-Content-Type-Options"] = []string{"nosniff"}
	h["Content-Type"] = []string{contentType}
	if c != identity {
		h["Content-Encoding"] = []string{c.String()}
	}
}

// send gives the client c.buf and returns when the connection has taken all of it.
func (o *out) send(c *chunk) error {
	b := c.buf
	if o.coder != nil {
		var err error
		if c.coded, err = o.coder.add(c.coded[:0], b); err != nil {
			return err
		}
		b = c.coded
	}
	return o.write(b)
}

// beat is send for what is followed by silence.
func (o *out) beat(c *chunk) error {
	if o.coder == nil {
		return o.write(c.buf)
	}
	var err error
	if c.coded, err = o.coder.rest(c.coded[:0], c.buf); err != nil {
		return err
	}
	return o.write(c.coded)
}

// end ends the coding, after the last send.
func (o *out) end(c *chunk) error {
	if o.coder == nil {
		return nil
	}
	var err error
	if c.coded, err = o.coder.end(c.coded[:0]); err != nil || len(c.coded) == 0 {
		return err
	}
	return o.write(c.coded)
}

func (o *out) write(b []byte) error {
	now := time.Now()
	if o.deadline.Sub(now) < renewAt {
		o.deadline = now.Add(writeTimeout)
		if err := o.rc.SetWriteDeadline(o.deadline); err != nil {
			return err
		}
	}
	if len(b) > 0 {
		if _, err := o.w.Write(b); err != nil {
			return err
		}
	}
	return o.rc.Flush()
}

// finish writes the last of an answer that has an end: all of it at once, with its length, where nothing was sent before.
func (o *out) finish(c *chunk, first bool) error {
	if !first {
		if err := o.send(c); err != nil {
			return err
		}
		return o.end(c)
	}
	if o.coder == nil {
		return o.whole(c.buf)
	}
	var err error
	if c.coded, err = o.coder.add(c.coded[:0], c.buf); err != nil {
		return err
	}
	if c.coded, err = o.coder.end(c.coded); err != nil {
		return err
	}
	return o.whole(c.coded)
}

// whole writes an answer that is nothing but these bytes.
func (o *out) whole(body []byte) error {
	o.w.Header()["Content-Length"] = []string{strconv.Itoa(len(body))}
	return o.write(body)
}
