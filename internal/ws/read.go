package ws

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
	"unicode/utf8"
)

// firstRoom is what a message is given room for on its head's word alone; beyond, memory follows the bytes that come.
const firstRoom = 64 << 10

// message is one that is being read.
type message struct {
	kind     Kind
	began    bool
	deflated bool
	over     bool  // it is too large and is passed over
	wire     int64 // its bytes on the wire so far
	data     []byte
	good     int // so many bytes at its start are known to be UTF-8
}

// Next waits for the next message and answers it; its bytes are the caller's. Control frames are dealt with meanwhile.
// ErrTooLarge says that a message was passed over, ErrQuiet that there is none now. Any other error is a *CloseError and the
// end: it is the same from then on. One goroutine at a time may call it.
func (c *Conn) Next() (Kind, []byte, error) { return c.NextIn(nil) }

// NextIn is Next for who has room for small messages: one that fits is put there, behind what room has.
func (c *Conn) NextIn(room []byte) (Kind, []byte, error) {
	if c.readErr != nil {
		return 0, nil, c.readErr
	}
	kind, data, err := c.next(room[len(room):])
	if err != nil && !errors.Is(err, ErrTooLarge) && !errors.Is(err, ErrQuiet) {
		var end *CloseError
		if !errors.As(err, &end) {
			end = &CloseError{Code: abnormal, Err: err}
		}
		c.readErr = end
		err = end
		c.giveBack()
	}
	return kind, data, err
}

// Ready reports whether a whole message is at hand, short and in one frame: Next will not wait. It may be called by who calls Next.
func (c *Conn) Ready() bool {
	if c.in == nil || c.in.Buffered() < 6 {
		return false
	}
	b, err := c.in.Peek(2)
	return err == nil && b[0]&finBit != 0 && b[0]&0x0F < opClose && b[1]&^maskBit <= maxControl && c.in.Buffered() >= 6+int(b[1]&^maskBit)
}

func (c *Conn) next(room []byte) (Kind, []byte, error) {
	if kind, data, ok := c.atHand(room); ok {
		return kind, data, nil
	}
	m := message{data: room}
	for {
		if err := c.await(&m); err != nil {
			return 0, nil, err
		}
		h, err := c.readHead(&m)
		if err != nil {
			return 0, nil, err
		}
		if h.control() {
			if err := c.readControl(&h); err != nil {
				return 0, nil, err
			}
			continue
		}
		if err := c.readFrame(&m, &h); err != nil {
			return 0, nil, err
		}
		c.lively = true
		if h.fin {
			c.limit = time.Time{}
			return c.whole(&m)
		}
	}
}

// atHand takes the message that is at hand, where it is whole, in one frame of up to 125 bytes, not deflated and good, as nearly
// all that subscribers say is. It does so by one look at the buffer. Not ok: nothing was taken.
func (c *Conn) atHand(room []byte) (kind Kind, data []byte, ok bool) {
	if c.in == nil || c.in.Buffered() < 6 {
		return 0, nil, false
	}
	b, err := c.in.Peek(c.in.Buffered())
	if err != nil {
		return 0, nil, false
	}
	n := int(b[1] &^ maskBit)
	if kind = Kind(b[0] &^ finBit); b[0]&finBit == 0 || kind != Text && kind != Binary || b[1]&maskBit == 0 || n > min(maxControl, c.cfg.Limit) || len(b) < 6+n {
		return 0, nil, false
	}
	data = append(room, b[6:6+n]...)
	if unmask(data, binary.LittleEndian.Uint32(b[2:])); kind == Text && !utf8.Valid(data) {
		return 0, nil, false
	}
	if data == nil {
		data = []byte{}
	}
	_, err = c.in.Discard(6 + n)
	c.lively = true
	return kind, data, err == nil
}

// readers are lent to connections on which something comes.
var readers sync.Pool //nolint:gochecknoglobals // *bufio.Reader; a cache and no state

// await waits for a frame to begin. Where messages have come it keeps its buffer for a moment, to read many at once; a wait that
// is longer holds none, and is not done here: see ErrQuiet. Within a message it is.
func (c *Conn) await(m *message) error {
	if c.in != nil && (c.lively || c.in.Buffered() > 0) {
		c.pausing = c.limit.IsZero()
		_, err := c.in.Peek(1)
		over := c.paused(err)
		c.pausing = false
		if !over {
			return err
		}
	}
	c.giveBack()
	if len(c.early) == 0 {
		if err := c.ready(); err != nil {
			return err
		}
		if !m.began {
			return ErrQuiet
		}
		if c.wait(); c.waitErr != nil {
			return c.waitErr
		}
	}
	in, ok := readers.Get().(*bufio.Reader)
	if !ok || in.Size() != c.cfg.Buffer {
		in = bufio.NewReaderSize(nil, c.cfg.Buffer)
	}
	in.Reset(source{c})
	c.in = in
	return nil
}

// giveBack gives the buffer back, which has nothing any more that will be read.
func (c *Conn) giveBack() {
	if c.in != nil {
		c.in.Reset(nil)
		readers.Put(c.in)
		c.in, c.lively = nil, false
	}
}

// readHead reads the head of a frame and checks it. What is wrong with the first two bytes is found before more is read.
func (c *Conn) readHead(m *message) (h head, err error) {
	b, err := c.in.Peek(2)
	if err != nil {
		return h, err
	}
	h = head{fin: b[0]&finBit != 0, rsv1: b[0]&rsv1Bit != 0, op: b[0] & 0x0F}
	length := b[1] &^ maskBit
	if why := c.fault(&h, m, b[0], b[1]); why != "" {
		return h, Close(ProtocolError, why)
	}
	if !h.control() && c.limit.IsZero() && !c.Ready() {
		c.limit = time.Now().Add(messageLimit)
	}
	size := 2
	switch length {
	case 126:
		size += 2
	case 127:
		size += 8
	}
	if b, err = c.in.Peek(size + 4); err != nil {
		return h, unexpected(err)
	}
	n := uint64(length)
	switch length {
	case 126:
		n = uint64(binary.BigEndian.Uint16(b[2:]))
	case 127:
		n = binary.BigEndian.Uint64(b[2:])
	}
	if n>>63 != 0 || length == 126 && n < 126 || length == 127 && n < 1<<16 {
		return h, Close(ProtocolError, "bad length")
	}
	h.n, h.key = int64(n), binary.LittleEndian.Uint32(b[size:])
	_, err = c.in.Discard(size + 4)
	return h, err
}

// fault is what is wrong with the first two bytes of a frame, "" for nothing.
func (c *Conn) fault(h *head, m *message, first, second byte) string {
	switch {
	case first&0x30 != 0, h.rsv1 && (!c.deflate || h.op != byte(Text) && h.op != byte(Binary)):
		return "reserved bit"
	case h.op > opPong, h.op > byte(Binary) && h.op < opClose:
		return "reserved opcode"
	case second&maskBit == 0:
		return "not masked"
	case h.control() && !h.fin:
		return "fragmented control frame"
	case h.control() && second&^maskBit > maxControl:
		return "control frame too long"
	case h.op == opContinuation && !m.began:
		return "nothing to continue"
	case !h.control() && h.op != opContinuation && m.began:
		return "message within a message"
	}
	return ""
}

// readControl deals with a control frame. The end is an error.
func (c *Conn) readControl(h *head) error {
	payload, err := c.in.Peek(int(h.n))
	if err != nil {
		return unexpected(err)
	}
	unmask(payload, h.key)
	switch h.op {
	case opPing:
		c.replies = appendControl(c.replies, opPong, payload)
	case opClose:
		end := closedBy(payload)
		if len(c.replies) > 0 { // before the answer to this, behind which nothing is sent
			_ = c.Write(c.replies) // where it fails, so does that answer
			c.replies = nil
		}
		return end
	}
	_, err = c.in.Discard(len(payload))
	return err
}

// closedBy is the end that a client's close frame makes.
func closedBy(payload []byte) error {
	switch {
	case len(payload) == 0:
		return &CloseError{Code: noCode, Peer: true}
	case len(payload) == 1:
		return Close(ProtocolError, "half a close code")
	}
	code, reason := int(binary.BigEndian.Uint16(payload)), payload[2:]
	switch {
	case !validCode(code):
		return Close(ProtocolError, "bad close code")
	case !utf8.Valid(reason):
		return Close(InvalidPayload, "close reason is no UTF-8")
	}
	return &CloseError{Code: code, Reason: string(reason), Peer: true}
}

// readFrame reads a frame of a message.
func (c *Conn) readFrame(m *message, h *head) error {
	if !m.began {
		m.began, m.kind, m.deflated = true, Kind(h.op), h.rsv1
	}
	if h.n > c.cfg.Skip-m.wire {
		return c.tooBig()
	}
	m.wire += h.n
	if m.wire > int64(c.cfg.Limit) {
		m.over, m.data = true, nil
	}
	if m.over {
		return c.discard(h.n)
	}
	return c.readPayload(m, h)
}

func (c *Conn) tooBig() error {
	return Close(TooBig, fmt.Sprintf("messages have at most %d bytes", c.cfg.Limit))
}

func (c *Conn) discard(n int64) error {
	for n > 0 {
		some := int(min(n, 1<<30))
		if _, err := c.in.Discard(some); err != nil {
			return unexpected(err)
		}
		n -= int64(some)
	}
	return nil
}

func (c *Conn) readPayload(m *message, h *head) error {
	for left := int(h.n); left > 0; {
		if len(m.data) == cap(m.data) {
			m.grow(left)
		}
		room := m.data[len(m.data):min(cap(m.data), len(m.data)+left)]
		n, err := c.in.Read(room)
		if err != nil {
			return unexpected(err)
		}
		h.key = unmask(room[:n], h.key)
		m.data = m.data[:len(m.data)+n]
		left -= n
		if !m.checkText(false) {
			return errText
		}
	}
	return nil
}

// grow makes room for some of what is left of a frame.
func (m *message) grow(left int) {
	room := min(left, max(firstRoom, 3*len(m.data)))
	if m.deflated {
		room += len(inflateTail) // inflate appends that
	}
	bigger := make([]byte, len(m.data), len(m.data)+room)
	copy(bigger, m.data)
	m.data = bigger
}

var errText = Close(InvalidPayload, "text is no UTF-8")

// checkText reports whether what is there of a text can still become UTF-8, or is it where the text is whole.
func (m *message) checkText(whole bool) bool {
	if m.kind != Text || m.deflated {
		return true
	}
	b := m.data[m.good:]
	if utf8.Valid(b) {
		m.good = len(m.data)
		return true
	}
	for len(b) > 0 {
		if b[0] < utf8.RuneSelf {
			b = b[1:]
			continue
		}
		if r, size := utf8.DecodeRune(b); r != utf8.RuneError || size > 1 {
			b = b[size:]
			continue
		}
		if whole || utf8.FullRune(b) {
			return false
		}
		break // the rest may come
	}
	m.good = len(m.data) - len(b)
	return true
}

// whole answers a message that has come to its end.
func (c *Conn) whole(m *message) (Kind, []byte, error) {
	if m.over {
		return 0, nil, ErrTooLarge
	}
	if m.deflated {
		data, err := inflate(m.data, c.cfg.Limit)
		if errors.Is(err, ErrTooLarge) {
			if c.cfg.Skip == int64(c.cfg.Limit) {
				return 0, nil, c.tooBig()
			}
			return 0, nil, err
		}
		if err != nil {
			return 0, nil, Close(InvalidPayload, errInflate.Error())
		}
		m.data, m.deflated = data, false
	}
	if !m.checkText(true) {
		return 0, nil, errText
	}
	if m.data == nil {
		m.data = []byte{}
	}
	return m.kind, m.data, nil
}

// unexpected is the error of a connection that ends within a frame.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// source is where frames are read from: what came with the handshake, then the connection. Before it waits, what was to be
// answered to control frames goes out, and the time is set by which something must have come.
type source struct{ c *Conn }

func (s source) Read(p []byte) (int, error) {
	c := s.c
	if len(c.early) > 0 {
		n := copy(p, c.early)
		if c.early = c.early[n:]; len(c.early) == 0 {
			c.early = nil
		}
		return n, nil
	}
	if err := c.ready(); err != nil {
		return 0, err
	}
	return c.conn.Read(p)
}

// ready is what comes before a wait.
func (c *Conn) ready() error {
	if c.waitErr != nil {
		return c.waitErr
	}
	if len(c.replies) > 0 {
		err := c.Write(c.replies)
		c.replies = nil
		if err != nil {
			return err
		}
	}
	return c.setReadDeadline()
}

// wait waits without a buffer, after ready. It calls little, for its goroutine's stack not to grow.
func (c *Conn) wait() {
	n, err := c.conn.Read(c.first[:])
	c.early, c.waitErr = c.first[:n], err
}
