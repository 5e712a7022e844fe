package home

import (
	"errors"
	"io"
	"sync"
)

// fullOutbox is how many bytes may wait for the connection before who adds to them waits too.
const fullOutbox = 1 << 20

// outbox collects the frames of all sessions for one connection: while one write is on its way, the next gathers.
type outbox struct {
	mu     sync.Mutex
	filled sync.Cond // something is there, or it was closed
	taken  sync.Cond // there is room, or it was closed
	buf    []byte
	spare  []byte // used again for buf
	rest   []byte // taken by Read and not yet read
	closed bool
}

func newOutbox() *outbox {
	o := &outbox{}
	o.filled.L, o.taken.L = &o.mu, &o.mu
	return o
}

var errOutboxClosed = errors.New("the connection has ended")

// add appends what fill does. It waits while the outbox is full, which lasts until the connection takes it or ends; then
// it answers an error.
func (o *outbox) add(fill func([]byte) []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.buf) >= fullOutbox && !o.closed {
		o.taken.Wait()
	}
	return o.append(fill)
}

// put is add for the few bytes of a word that must not wait.
func (o *outbox) put(kind byte, number uint32, fill func([]byte) []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.append(func(b []byte) []byte { return appendFrame(b, kind, number, fill) })
}

func (o *outbox) append(fill func([]byte) []byte) error {
	if o.closed {
		return errOutboxClosed
	}
	if o.buf == nil {
		o.buf, o.spare = o.spare, nil
	}
	o.buf = fill(o.buf)
	o.filled.Signal()
	return nil
}

// take waits for bytes and answers all there are. They are the caller's until give. io.EOF once the outbox is closed and empty.
func (o *outbox) take() ([]byte, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.takeLocked()
}

func (o *outbox) takeLocked() ([]byte, error) {
	for len(o.buf) == 0 && !o.closed {
		o.filled.Wait()
	}
	if len(o.buf) == 0 {
		return nil, io.EOF
	}
	b := o.buf
	o.buf = nil
	o.taken.Broadcast()
	return b, nil
}

// give returns what take answered, to be used again.
func (o *outbox) give(b []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.giveLocked(b)
}

func (o *outbox) giveLocked(b []byte) {
	if o.spare == nil && cap(b) <= 2*fullOutbox {
		o.spare = b[:0]
	}
}

// empty reports whether nothing is to be taken.
func (o *outbox) empty() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.buf) == 0
}

// Read makes an outbox the body of a request.
func (o *outbox) Read(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.rest) == 0 {
		b, err := o.takeLocked()
		if err != nil {
			return 0, err
		}
		o.rest = b
	}
	n := copy(p, o.rest)
	if n == len(o.rest) {
		o.giveLocked(o.rest[:0])
		o.rest = nil
	} else {
		o.rest = o.rest[n:]
	}
	return n, nil
}

// Close refuses what comes; what is there can still be taken. A second Close does nothing.
func (o *outbox) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	o.filled.Broadcast()
	o.taken.Broadcast()
	return nil
}
