package pub

import (
	"bytes"
	"fmt"
	"slices"
	"sync"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/wire"
	"github.com/kateway/kateway/store"
)

// maxHeaders bounds the record headers of one message of batch=objects in bytes, as a request's head is bounded.
const maxHeaders = 32 << 10

// slab is the messages of one publish, in few allocations, and the body that they share the bytes of.
type slab struct {
	body     []byte
	messages []store.Message
	refs     []*store.Message // to messages, once they are all there
	fates    []fate           // of the refs, where the plugins made something of one; else none
}

// slabs lends slabs. One that the store keeps, after errs.Uncertain, is not given back.
type slabs struct{ pool sync.Pool }

func (s *slabs) get() *slab {
	if b, ok := s.pool.Get().(*slab); ok {
		return b
	}
	return new(slab)
}

func (s *slabs) put(b *slab) {
	clear(b.messages) // so that it pins nothing
	*b = slab{messages: b.messages[:0], refs: b.refs, fates: b.fates[:0]}
	s.pool.Put(b)
}

// add appends a message with what the request says of all its messages.
func (b *slab) add(q *request, value []byte) {
	b.messages = append(b.messages, store.Message{Key: q.key, Value: value, Headers: q.headers, Partition: q.partition})
}

// refer makes the refs when nothing is appended to messages any more.
func (b *slab) refer() {
	b.refs = slices.Grow(b.refs[:0], len(b.messages))
	for i := range b.messages {
		b.refs = append(b.refs, &b.messages[i])
	}
}

// split cuts the body into messages, which share its bytes. One element that is bad or too large refuses all of it, with
// the element's number, counted from 1, in the text. Kinds: InvalidBody, TooLarge.
func (h *Handler) split(q *request, to *slab) error {
	body, err := to.body, error(nil)
	if q.format == formatSingle {
		to.add(q, body[:len(body):len(body)])
		to.refer()
		return nil
	}
	c := cutter{h: h, q: q, slab: to}
	switch q.format {
	case formatLines:
		err = c.lines(body, c.line)
	case formatObjects:
		err = c.lines(body, c.object)
	case formatFrames:
		err = c.frames(body)
	case formatArray:
		c.textHeaders = withoutJSON(q.headers)
		err = wire.EachElement(body, c.element)
	}
	if err != nil {
		return err
	}
	if len(to.messages) == 0 {
		return fmt.Errorf("the batch is empty: %w", errs.InvalidBody)
	}
	to.refer()
	return nil
}

// cutter is one split.
type cutter struct {
	h       *Handler
	q       *request
	slab    *slab
	objects wire.ObjectReader

	textHeaders []store.Header // of the elements of an array that are strings
}

func withoutJSON(headers []store.Header) []store.Header {
	is := func(h store.Header) bool { return h.Key == wire.ContentType && wire.IsJSON(h.Value) }
	if !slices.ContainsFunc(headers, is) {
		return headers
	}
	return slices.DeleteFunc(slices.Clone(headers), is)
}

// check refuses a value that is too large and a message too many.
func (c *cutter) check(what string, i int, value []byte) error {
	if len(value) > c.h.limits.Message {
		return fmt.Errorf("%s %d has %d bytes, a message %d at most: %w", what, i, len(value), c.h.limits.Message, errs.TooLarge)
	}
	if len(c.slab.messages) == c.h.limits.Messages {
		return fmt.Errorf("%s %d: a batch has %d messages at most: %w", what, i, c.h.limits.Messages, errs.TooLarge)
	}
	return nil
}

// lines calls f with each line that is not empty and its number.
func (c *cutter) lines(body []byte, f func(i int, line []byte) error) error {
	expected := min(bytes.Count(body, []byte{'\n'})+1, c.h.limits.Messages)
	c.slab.messages = slices.Grow(c.slab.messages, expected)
	for i := 1; len(body) > 0; i++ {
		line := body
		if end := bytes.IndexByte(body, '\n'); end >= 0 {
			line, body = body[:end], body[end+1:]
			if end > 0 && line[end-1] == '\r' {
				line = line[:end-1]
			}
		} else {
			body = nil
		}
		if len(line) == 0 {
			continue
		}
		if err := f(i, line[:len(line):len(line)]); err != nil {
			return err
		}
	}
	return nil
}

func (c *cutter) line(i int, line []byte) error {
	if err := c.check("line", i, line); err != nil {
		return err
	}
	c.slab.add(c.q, line)
	return nil
}

func (c *cutter) object(i int, line []byte) error {
	var m store.Message
	if err := c.h.readObject(&c.objects, c.q, line, &m); err != nil {
		return fmt.Errorf("line %d: %w", i, err)
	}
	if err := c.check("line", i, m.Value); err != nil {
		return err
	}
	c.slab.messages = append(c.slab.messages, m)
	return nil
}

// readObject fills m from its JSON object, and with what the request says of all its messages. The value's size is not
// looked at.
func (h *Handler) readObject(from *wire.ObjectReader, q *request, line []byte, m *store.Message) error {
	if err := from.Read(line, m); err != nil {
		return err
	}
	if err := h.checkKey(m.Key); err != nil {
		return err
	}
	if n := m.Size() - len(m.Key) - len(m.Value); n > maxHeaders {
		return fmt.Errorf("the headers have %d bytes, %d at most: %w", n, maxHeaders, errs.TooLarge)
	}
	if m.Key == nil {
		m.Key = q.key
	}
	if m.Partition == store.AnyPartition {
		m.Partition = q.partition
	}
	for _, header := range q.headers {
		if !slices.ContainsFunc(m.Headers, func(own store.Header) bool { return own.Key == header.Key }) {
			m.Headers = append(m.Headers, header)
		}
	}
	return nil
}

func (c *cutter) frames(body []byte) error {
	for i := 1; len(body) > 0; i++ {
		value, rest, err := wire.CutFrame(body)
		if err != nil {
			return fmt.Errorf("frame %d: %w", i, err)
		}
		if err := c.check("frame", i, value); err != nil {
			return err
		}
		c.slab.add(c.q, value)
		body = rest
	}
	return nil
}

// element takes a string as the text it is, and anything else as its JSON. A Content-Type that says JSON is that of the
// array; of the elements it is true for those that are no strings.
func (c *cutter) element(i int, v []byte) error {
	value, isText, err := c.objects.Element(v)
	if err != nil {
		return fmt.Errorf("element %d: %w", i+1, err)
	}
	if err := c.check("element", i+1, value); err != nil {
		return err
	}
	c.slab.add(c.q, value)
	if isText {
		c.slab.messages[len(c.slab.messages)-1].Headers = c.textHeaders
	}
	return nil
}
