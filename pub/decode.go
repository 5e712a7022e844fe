package pub

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/kateway/kateway/internal/errs"
)

// maxWindow is the largest window of a zstd frame: what RFC 9659 lets a sender use on HTTP.
const maxWindow = 8 << 20

// decoder decodes bodies. It may be used concurrently. What it holds beside the body and its decoded form is small: gzip
// needs its 32 KiB window, zstd uses the output as its window.
type decoder struct {
	buffers *buffers
	gzip    sync.Pool // of *gzip.Reader
	zstd    *zstd.Decoder
}

func newDecoder(b *buffers) *decoder {
	z, err := zstd.NewReader(nil, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderLowmem(true))
	if err != nil {
		panic(err) // the options are constants
	}
	return &decoder{buffers: b, zstd: z}
}

// decode answers a buffer of its own, at most limit bytes. Kinds: TooLarge, InvalidBody.
func (d *decoder) decode(enc encoding, src []byte, limit int) ([]byte, error) {
	if len(src) == 0 {
		return nil, fmt.Errorf("Content-Encoding is given, but the body is empty: %w", errs.InvalidBody)
	}
	run, announced := d.runGzip, gzipSize(src, limit)
	if enc == zstandard {
		run, announced = d.runZstd, zstdSize(src, limit)
	}
	tooLarge := fmt.Errorf("the decoded body has more than %d bytes: %w", limit, errs.TooLarge)
	if announced > limit+overshoot {
		return nil, tooLarge
	}
	dst := d.buffers.get(announced)
	out, err := run(dst, src)
	if errors.Is(err, zstd.ErrDecoderSizeExceeded) && cap(dst) < limit+overshoot { // it holds more than it announces
		d.buffers.put(dst)
		dst = d.buffers.get(limit + overshoot)
		out, err = run(dst, src)
	}
	switch {
	case errors.Is(err, zstd.ErrDecoderSizeExceeded), err == nil && len(out) > limit:
		err = tooLarge
	case err != nil:
		err = fmt.Errorf("the body can't be decoded: %w: %w", err, errs.InvalidBody)
	case out == nil:
		return []byte{}, nil // an empty message is no tombstone
	default:
		return out, nil
	}
	d.buffers.put(dst)
	return nil, err
}

// runGzip decodes all members of src into dst, as far as it has room.
func (d *decoder) runGzip(dst, src []byte) ([]byte, error) {
	in := bytes.NewReader(src)
	z, ok := d.gzip.Get().(*gzip.Reader)
	if !ok {
		z = new(gzip.Reader)
	}
	defer d.gzip.Put(z)
	if err := z.Reset(in); err != nil {
		return dst, noEOF(err)
	}
	for {
		if len(dst) == cap(dst) {
			return dst, fullUnlessEnd(z)
		}
		n, err := z.Read(dst[len(dst):cap(dst)])
		dst = dst[:len(dst)+n]
		if err == io.EOF {
			return dst, nil
		}
		if err != nil {
			return dst, err
		}
	}
}

// fullUnlessEnd is what a reader is at where there is no room left.
func fullUnlessEnd(r io.Reader) error {
	var extra [1]byte
	switch n, err := io.ReadFull(r, extra[:]); {
	case n > 0:
		return zstd.ErrDecoderSizeExceeded
	case err != io.EOF:
		return err
	}
	return nil
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (d *decoder) runZstd(dst, src []byte) ([]byte, error) { return d.zstd.DecodeAll(src, dst) }

// gzipSize is what the last member announces at its end, if that is believable; else room for all that is allowed.
func gzipSize(src []byte, limit int) int {
	if len(src) >= 4 {
		if n := binary.LittleEndian.Uint32(src[len(src)-4:]); int64(n) <= int64(limit) {
			return int(n)
		}
	}
	return limit + overshoot
}

// zstdSize is what the first frame announces at its begin, at most one more than the limit with its overshoot; where it
// announces nothing, room for all that is allowed. The whole is not less than its first frame.
func zstdSize(src []byte, limit int) int {
	var head zstd.Header
	if err := head.Decode(src); err != nil || !head.HasFCS {
		return limit + overshoot
	}
	if head.FrameContentSize > uint64(limit) {
		return limit + overshoot + 1
	}
	return int(head.FrameContentSize)
}
