package home

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/kateway/kateway/internal/errs"
)

// One request of HTTP/2 joins two gateways, however many sessions there are between them, and both its bodies are open as
// long as it lasts: the edge, which has the clients, sends frames in the request, the home sends them in the answer. A
// request per session would cost each a buffer of up to 512 KiB and two goroutines at the edge, and frames of many sessions
// would not share a write.
//
// A frame is: length of what follows (4 bytes), kind (1), number (4), payload. The number is that of a session or of a
// call, which the edge chooses. Unknown kinds are passed over.
const (
	pathLink    = "/peer/v1/sessions"
	frameHead   = 9
	fullFrame   = 64 << 10 // from here on a batch goes on in another frame
	minMessage  = 16 << 20 // that can always be passed
	messageHead = 1 << 20  // what a frame says of a message at most, and all that is not one
	minPart     = 5        // of a length: kind and number
)

// Kinds of frames.
const (
	// From the edge.
	frameOpen   = 1 // number: session. The ask.
	frameCredit = 2 // session. So many deliveries can be taken now; all that was sent before was seen.
	frameSeen   = 3 // session. So many of the deliveries since the beginning were handed out.
	frameSettle = 4 // session. Number of the call, verbs. A result follows.
	frameClose  = 5 // session. So many deliveries were handed out; those above were not and go back.
	frameCall   = 6 // call. What Settle, Through or Mark of any delivery are asked. A result follows.
	frameCancel = 7 // call. Nobody waits for it any more.
	framePing   = 8 // A pong follows.

	// From the home.
	frameOpened  = 65 // session.
	frameDeliver = 66 // session. A batch, or a part of one.
	frameEnd     = 67 // session. The error that Open or Next answers, and what its client holds.
	frameResult  = 68 // call. An error for each.
	framePong    = 69
	frameAway    = 70 // Nothing new is taken: this gateway stops.
)

// beginFrame appends a frame's head; endFrame completes it.
func beginFrame(b []byte, kind byte, number uint32) []byte {
	b = append(b, 0, 0, 0, 0, kind)
	return binary.BigEndian.AppendUint32(b, number)
}

// endFrame sets the length of the frame that begins at start.
func endFrame(b []byte, start int) []byte {
	binary.BigEndian.PutUint32(b[start:], uint32(len(b)-start-4))
	return b
}

// appendFrame appends a frame with the payload that fill appends.
func appendFrame(b []byte, kind byte, number uint32, fill func([]byte) []byte) []byte {
	start := len(b)
	b = beginFrame(b, kind, number)
	if fill != nil {
		b = fill(b)
	}
	return endFrame(b, start)
}

// frame is one as it came.
type frame struct {
	kind    byte
	number  uint32
	payload []byte
}

// frameReader reads frames. The payload of one is good until the next is read, but for batches, which are kept.
type frameReader struct {
	r       *bufio.Reader
	largest int
	buf     []byte
}

func newFrameReader(r io.Reader, largest int) *frameReader {
	return &frameReader{r: bufio.NewReaderSize(r, fullFrame), largest: largest}
}

// read answers the next frame. io.EOF where the other side ended in good order; Unavailable for what is no frame.
func (f *frameReader) read() (frame, error) {
	var head [frameHead]byte
	if _, err := io.ReadFull(f.r, head[:]); err != nil {
		return frame{}, err
	}
	n := int64(binary.BigEndian.Uint32(head[:])) - minPart
	if n < 0 || n > int64(f.largest) {
		return frame{}, fmt.Errorf("a frame of %d bytes: %w", n+minPart, errGarbage)
	}
	fr := frame{kind: head[4], number: binary.BigEndian.Uint32(head[5:])}
	if fr.kind == frameDeliver {
		fr.payload = make([]byte, n)
	} else {
		fr.payload = f.scratch(int(n))
	}
	if _, err := io.ReadFull(f.r, fr.payload); err != nil {
		return frame{}, fmt.Errorf("within a frame: %w: %w", err, errs.Unavailable)
	}
	return fr, nil
}

func (f *frameReader) scratch(n int) []byte {
	if n > cap(f.buf) {
		f.buf = make([]byte, n)
	}
	b := f.buf[:n]
	if cap(f.buf) > 1<<20 {
		f.buf = nil // one that large is rare
	}
	return b
}
