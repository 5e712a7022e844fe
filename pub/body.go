package pub

import (
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/kateway/kateway/internal/errs"
)

// takeBody is readBody, which may take long: meanwhile this process may give up what it stores in. The request is then
// answered by the one that has it now.
func (h *Handler) takeBody(w http.ResponseWriter, r *http.Request, enc encoding, limit int) (body []byte, passed bool, err error) {
	if h.relay == nil {
		body, err = h.readBody(w, r, enc, limit)
		return body, false, err
	}
	h.relay.Pause()
	body, err = h.readBody(w, r, enc, limit)
	if err != nil {
		h.relay.Fail()
		return nil, false, err
	}
	return body, h.relay.Resume(w, r, body), nil
}

// readBody reads the whole body, decoded, at most limit bytes of it. The buffer is to be put back.
// Kinds: TooLarge, before anything is read where the length is announced; InvalidBody for a body that breaks off, is badly
// framed or can't be decoded. After any of them the connection is closed: what follows on it can't be told.
func (h *Handler) readBody(w http.ResponseWriter, r *http.Request, enc encoding, limit int) (body []byte, err error) {
	if enc == identity {
		body, err = h.readPlain(r, limit)
	} else {
		body, err = h.readEncoded(r, enc, limit)
	}
	if err == nil {
		return body, nil
	}
	if r.ProtoMajor == 1 { // on HTTP/2 it would end the other requests of the connection
		w.Header().Set("Connection", "close")
	}
	if errors.Is(err, errs.TooLarge) {
		return nil, err
	}
	return nil, fmt.Errorf("the body can't be read to its end, nothing was stored: %w: %w", err, errs.InvalidBody)
}

func (h *Handler) readPlain(r *http.Request, limit int) ([]byte, error) {
	switch n := r.ContentLength; {
	case n > int64(limit):
		return nil, tooLarge(n, limit)
	case n < 0:
		return h.readAll(r.Body, minPooled, limit)
	default:
		return h.readExactly(r, int(n))
	}
}

func tooLarge(n int64, limit int) error {
	return fmt.Errorf("the body has %d bytes, %d at most: %w", n, limit, errs.TooLarge)
}

// readEncoded decodes while it reads, so that the encoded form is never held.
func (h *Handler) readEncoded(r *http.Request, enc encoding, limit int) ([]byte, error) {
	encodedLimit := limit + limit/256 + 1024 // what can't be compressed grows by less
	if r.ContentLength > int64(encodedLimit) {
		return nil, tooLarge(r.ContentLength, encodedLimit)
	}
	z, err := h.decoders.get(enc, &source{Reader: r.Body, left: encodedLimit})
	if err != nil {
		return nil, err
	}
	defer h.decoders.put(z)
	return h.readAll(z, max(4*int(r.ContentLength), 1024), limit)
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
		return nil, err
	}
	return body, nil
}

func expectEnd(body io.Reader) error {
	var extra [1]byte
	switch n, err := io.ReadFull(body, extra[:]); {
	case n > 0:
		return errors.New("it is longer than announced")
	case err != io.EOF:
		return err
	}
	return nil
}

// readAll reads until the end, or until it is over the limit, into a buffer that at first has room for expected bytes.
func (h *Handler) readAll(src io.Reader, expected, limit int) ([]byte, error) {
	body := h.buffers.get(min(expected, limit+1))
	for {
		if len(body) == cap(body) {
			body = h.buffers.grow(body, limit+1)
		}
		n, err := src.Read(body[len(body):min(cap(body), limit+1)])
		body = body[:len(body)+n]
		switch {
		case len(body) > limit:
			err = fmt.Errorf("the body has more than %d bytes: %w", limit, errs.TooLarge)
		case err == io.EOF:
			return body, nil
		}
		if err != nil {
			h.buffers.put(body)
			return nil, err
		}
	}
}
