package broadcast

import (
	"sync"
	"sync/atomic"
)

// Form is a kind of bytes that several readers want of a message, beside its object, and that is made when the first of
// them wants it.
type Form int

// The forms: what a WebSocket's frame carries, deflated.
const (
	TextFrame Form = iota
	BinaryFrame
	forms
)

// shared has the forms of a message that are made already. They weigh on the ring while the message is in it.
type shared struct {
	weight *atomic.Int64 // of all forms in the ring
	made   [forms]atomic.Pointer[[]byte]

	mu   sync.Mutex // of who makes one
	mine int64      // the weight of these
	gone bool       // the message has left the ring
}

// Shared answers a form of the message, which build makes where nobody has done that before. Nobody writes to it. Not ok, and
// nothing is built: the message, or its cursor, is this reader's alone.
func (it *Item) Shared(f Form, build func() []byte) (form []byte, ok bool) {
	s := it.shared
	if s == nil {
		return nil, false
	}
	if b := s.made[f].Load(); b != nil {
		return *b, true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.made[f].Load(); b != nil { // while we waited
		return *b, true
	}
	b := build()
	s.made[f].Store(&b)
	if !s.gone {
		s.mine += int64(len(b))
		s.weight.Add(int64(len(b)))
	}
	return b, true
}

// leave takes the weight of the forms off the ring.
func (s *shared) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = true
	s.weight.Add(-s.mine)
}
