package sub

import (
	"fmt"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// zstdWindow is what a client has to keep of a stream's past, and what an encoder keeps. It covers a chunk: what repeats
// among messages repeats close by.
const zstdWindow = chunkBytes

// coder is a content coding of one answer. Each add ends a block, so that a client can read all that it was sent.
type coder interface {
	// add appends the coded form of src to dst.
	add(dst, src []byte) ([]byte, error)
	// rest is add when silence follows: nothing but a few bytes is kept until the next call.
	rest(dst, src []byte) ([]byte, error)
	// end appends what ends the coding, and frees everything. It may be called after an error, and again.
	end(dst []byte) ([]byte, error)
}

// newCoder is nil for identity. The pool keeps *zstdEncoder.
func newCoder(c coding, pool *sync.Pool) coder {
	switch c {
	case gzipped:
		return newGzip()
	case zstandard:
		return &zstdCoder{pool: pool}
	case identity:
	}
	return nil
}

// appender is an io.Writer to the end of a slice.
type appender struct{ b []byte }

func (a *appender) Write(p []byte) (int, error) {
	a.b = append(a.b, p...)
	return len(p), nil
}

// gzipCoder compresses each chunk by itself, since a compressor with a past would cost an idle stream 0.8 MB, and a gzip
// stream can't be ended and begun anew as a zstd one can: clients stop reading at the end of the first member.
type gzipCoder struct {
	out appender
	zw  *gzip.Writer
}

func newGzip() *gzipCoder {
	g := &gzipCoder{}
	g.zw, _ = gzip.NewWriterLevel(&g.out, gzip.StatelessCompression) // fails for an unknown level only
	return g
}

func (g *gzipCoder) add(dst, src []byte) ([]byte, error) {
	g.out.b = dst
	_, err := g.zw.Write(src)
	return g.take(), err
}

func (g *gzipCoder) rest(dst, src []byte) ([]byte, error) { return g.add(dst, src) }

func (g *gzipCoder) end(dst []byte) ([]byte, error) {
	g.out.b = dst
	err := g.zw.Close()
	return g.take(), err
}

func (g *gzipCoder) take() []byte {
	b := g.out.b
	g.out.b = nil
	return b
}

// zstdCoder writes one frame per burst of messages: the encoder, half a megabyte, remembers the burst and goes back to
// the pool when silence follows. A zstd stream is a sequence of frames, so this is one stream to the client.
type zstdCoder struct {
	pool  *sync.Pool
	enc   *zstdEncoder // nil between frames
	begun bool
}

type zstdEncoder struct {
	*zstd.Encoder
	out appender
}

func newZstdEncoder() *zstdEncoder {
	e := &zstdEncoder{}
	enc, err := zstd.NewWriter(&e.out, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(zstdWindow), zstd.WithEncoderCRC(false), zstd.WithZeroFrames(true))
	if err != nil {
		panic(fmt.Sprintf("zstd options: %v", err)) // they are constants: any test would have seen it
	}
	e.Encoder = enc
	return e
}

func (z *zstdCoder) open(dst []byte) *zstdEncoder {
	if z.enc == nil {
		var ok bool
		if z.enc, ok = z.pool.Get().(*zstdEncoder); !ok {
			z.enc = newZstdEncoder()
		}
		z.enc.Reset(&z.enc.out)
		z.begun = true
	}
	z.enc.out.b = dst
	return z.enc
}

func (z *zstdCoder) add(dst, src []byte) ([]byte, error) {
	e := z.open(dst)
	_, err := e.Write(src)
	if err == nil {
		err = e.Flush()
	}
	return z.take(), err
}

func (z *zstdCoder) rest(dst, src []byte) ([]byte, error) {
	e := z.open(dst)
	if _, err := e.Write(src); err != nil {
		return z.take(), err
	}
	return z.close()
}

func (z *zstdCoder) end(dst []byte) ([]byte, error) {
	if z.enc == nil && z.begun {
		return dst, nil
	}
	z.open(dst)
	return z.close()
}

func (z *zstdCoder) close() ([]byte, error) {
	err := z.enc.Close()
	b := z.take()
	z.pool.Put(z.enc)
	z.enc = nil
	return b, err
}

func (z *zstdCoder) take() []byte {
	b := z.enc.out.b
	z.enc.out.b = nil
	return b
}
