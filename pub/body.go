package pub

import (
	"fmt"
	"io"
	"net/http"

	"github.com/kateway/kateway/internal/errs"
)

// readBody reads the whole body, decoded, at most limit bytes of it. The buffer is to be put back.
// Kinds: TooLarge, before anything is read where the length is announced; InvalidBody for a body that breaks off, is badly
// framed or can't be decoded. After an error in reading the connection is closed: what follows on it can't be told.
func (h *Handler) readBody(w http.ResponseWriter, r *http.Request, enc encoding, limit int) ([]byte, error) {
	wireLimit := limit
	if enc != identity {
		wireLimit += limit/256 + 1024 // what can't be compressed grows by this at most
	}
	body, err := h.readPlain(r, wireLimit)
	if err != nil {
		if r.ProtoMajor == 1 { // on HTTP/2 it would end the other requests of the connection
			w.Header().Set("Connection", "close")
		}
		return nil, err
	}
	if enc == identity {
		return body, nil
	}
	decoded, err := h.decoder.decode(enc, body, limit)
	h.buffers.put(body)
	return decoded, err
}

func (h *Handler) readPlain(r *http.Request, limit int) ([]byte, error) {
	switch n := r.ContentLength; {
	case n > int64(limit):
		return nil, fmt.Errorf("the body has %d bytes, %d at most: %w", n, limit, errs.TooLarge)
	case n < 0:
		return h.readUnknown(r.Body, limit)
	default:
		return h.readExactly(r, int(n))
	}
}

// readExactly reads a body of n bytes.
func (h *Handler) readExactly(r *http.Request, n int) ([]byte, error) {
	body := h.buffers.get(n)[:n]
	_, err := io.ReadFull(r.Body, body)
	if err == nil && r.ProtoMajor > 1 {
		err = expectEnd(r.Body) // a stream can be reset after its last byte
	}
	if err != nil {
		h.buffers.put(body)
		return nil, broken(err)
	}
	return body, nil
}

func expectEnd(body io.Reader) error {
	var extra [1]byte
	switch n, err := io.ReadFull(body, extra[:]); {
	case n > 0:
		return fmt.Errorf("the body is longer than announced")
	case err != io.EOF:
		return err
	}
	return nil
}

// readUnknown reads a body until its end, or until it is over the limit.
func (h *Handler) readUnknown(src io.Reader, limit int) ([]byte, error) {
	body := h.buffers.get(min(limit+1, minPooled))
	for {
		if len(body) == cap(body) {
			body = h.buffers.grow(body, limit+1)
		}
		n, err := src.Read(body[len(body):min(cap(body), limit+1)])
		body = body[:len(body)+n]
		if err == io.EOF && len(body) <= limit {
			return body, nil
		}
		if len(body) > limit {
			err = fmt.Errorf("the body has more than %d bytes: %w", limit, errs.TooLarge)
		} else if err != nil {
			err = broken(err)
		}
		if err != nil {
			h.buffers.put(body)
			return nil, err
		}
	}
}

func broken(err error) error {
	return fmt.Errorf("the body can't be read to its end, nothing was stored: %w: %w", err, errs.InvalidBody)
}
