package pub

import (
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/kateway/kateway/internal/errs"
)

// maxWindow is the largest window of a zstd frame: what RFC 9659 lets a sender use on HTTP.
const maxWindow = 8 << 20

// decoders lends decoders of bodies. One holds its window and no more: 32 KiB for gzip, up to maxWindow for zstd. All
// frames or members of a body are decoded; what is no frame at its end is an error.
type decoders struct {
	gzip sync.Pool
	zstd chan *zstdReader // one is kept; a sync.Pool might keep one window per processor
}

func newDecoders() *decoders { return &decoders{zstd: make(chan *zstdReader, 1)} }

// bodyReader decodes one body after the other.
type bodyReader interface {
	io.Reader
	begin(src *source) error
}

// get is a reader of what src decodes to. It must be put back.
func (d *decoders) get(enc encoding, src *source) (bodyReader, error) {
	var z bodyReader
	switch enc {
	case zstandard:
		select {
		case z = <-d.zstd:
		default:
			z = newZstdReader()
		}
	default:
		z, _ = d.gzip.Get().(*gzipReader)
		if z == (*gzipReader)(nil) {
			z = new(gzipReader)
		}
	}
	if err := z.begin(src); err != nil {
		d.put(z)
		return nil, err
	}
	return z, nil
}

func (d *decoders) put(z bodyReader) {
	switch z := z.(type) {
	case *gzipReader:
		z.src.Reader = nil
		d.gzip.Put(z)
	case *zstdReader:
		if z.Reset(nil) != nil {
			return
		}
		select {
		case d.zstd <- z:
		default:
		}
	}
}

type gzipReader struct {
	gzip.Reader
	src *source
}

func (z *gzipReader) begin(src *source) error {
	z.src = src
	err := z.Reset(src)
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

type zstdReader struct{ *zstd.Decoder }

func newZstdReader() *zstdReader {
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		panic(err) // the options are constants
	}
	return &zstdReader{z}
}

func (z *zstdReader) begin(src *source) error {
	first := make([]byte, 1)
	if _, err := io.ReadFull(src, first); err != nil { // the library takes no bytes at all for a stream of nothing
		return fmt.Errorf("no frame: %w", io.ErrUnexpectedEOF)
	}
	src.unread = first
	return z.Reset(src)
}

// source is an encoded body, at most limit bytes of it: without a limit a body of empty frames would never end.
type source struct {
	io.Reader
	left   int
	unread []byte
}

func (s *source) Read(b []byte) (int, error) {
	if len(s.unread) > 0 {
		n := copy(b, s.unread)
		s.unread = s.unread[n:]
		return n, nil
	}
	n, err := s.Reader.Read(b)
	if s.left -= n; s.left < 0 {
		return 0, fmt.Errorf("the encoded body is larger than the decoded one may be: %w", errs.TooLarge)
	}
	return n, err
}
