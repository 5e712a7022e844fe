package ws

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/flate"
)

const (
	// minDeflate is the smallest payload that is worth deflating: below, the frame hardly gets smaller.
	minDeflate = 128
	// A message ends with an empty block, of which the last four bytes are left out on the wire (RFC 7692, 7.2.1).
	deflateTail = "\x00\x00\xff\xff"
	// What is put there again, and an empty last block, so that the inflater sees an end.
	inflateTail = deflateTail + "\x01\x00\x00\xff\xff"
)

// deflaters and inflaters are lent for one message at a time: a connection that is idle has none.
var (
	deflaters sync.Pool //nolint:gochecknoglobals // *deflater; a cache and no state
	inflaters sync.Pool //nolint:gochecknoglobals // *inflater; a cache and no state
)

type deflater struct {
	w   *flate.Writer
	out bytes.Buffer
}

// deflate replaces dst[at:] by its deflated form where that is smaller, and reports whether it did.
func deflate(dst []byte, at int) ([]byte, bool) {
	d, ok := deflaters.Get().(*deflater)
	if !ok {
		d = new(deflater)
		d.w, _ = flate.NewWriter(&d.out, flate.BestSpeed) // fails only for a level that there is not
	}
	defer deflaters.Put(d)
	d.out.Reset()
	d.w.Reset(&d.out)
	_, err := d.w.Write(dst[at:])
	if err == nil {
		err = d.w.Flush()
	}
	small := bytes.TrimSuffix(d.out.Bytes(), []byte(deflateTail))
	if err != nil || len(small) >= len(dst)-at || len(small) == d.out.Len() {
		return dst, false // a buffer in memory takes everything, so that there was no error
	}
	dst = append(dst[:at], small...)
	if d.out.Cap() > maxPooled {
		d.out = bytes.Buffer{}
	}
	return dst, true
}

// maxPooled is the largest buffer that a pooled deflater keeps.
const maxPooled = 256 << 10

type inflater struct {
	r   io.ReadCloser
	src bytes.Reader
}

// errInflate says that a payload is no deflated message.
var errInflate = errors.New("the message can't be inflated")

// inflate inflates a message. Its memory follows what comes out, up to limit bytes; beyond that it is ErrTooLarge.
func inflate(src []byte, limit int) ([]byte, error) {
	src = append(src, inflateTail...)
	f, ok := inflaters.Get().(*inflater)
	if !ok {
		f = new(inflater)
		f.r = flate.NewReader(&f.src)
	}
	defer inflaters.Put(f)
	f.src.Reset(src)
	defer f.src.Reset(nil)
	if err := f.r.(flate.Resetter).Reset(&f.src, nil); err != nil { //nolint:errcheck // every reader of package flate is one
		return nil, err
	}
	out := make([]byte, 0, min(4*len(src), limit+1))
	for {
		n, err := f.r.Read(out[len(out):min(cap(out), limit+1)])
		out = out[:len(out)+n]
		switch {
		case len(out) > limit:
			return nil, ErrTooLarge
		case errors.Is(err, io.EOF):
			return out, f.checkRest()
		case err != nil:
			return nil, fmt.Errorf("%w: %w", errInflate, err)
		case len(out) == cap(out):
			out = append(out, 0)[:len(out)]
		}
	}
}

// checkRest looks at what follows the end. A client may end its message with a last block and one byte of padding of its
// own; then our tail is left over. Anything more would be a second message.
func (f *inflater) checkRest() error {
	if rest := f.src.Len(); rest > len(inflateTail)+1 {
		return fmt.Errorf("%w: something follows its end", errInflate)
	}
	return nil
}
