package pub

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"

	"github.com/kateway/kateway/store"
)

// digest tells publishes apart: what the messages are and where they are to go, each part with its length before it. The
// trace headers are left out: a client that tries again does so in another span.
func digest(msgs []*store.Message) (sum [sha256.Size]byte) {
	d := digester{sha256.New()}
	d.number(int64(len(msgs)))
	for _, m := range msgs {
		d.number(int64(m.Partition))
		d.bytes(m.Key)
		d.bytes(m.Value)
		for i := range m.Headers {
			if h := &m.Headers[i]; h.Key != "traceparent" && h.Key != "tracestate" {
				d.bytes([]byte(h.Key))
				d.bytes(h.Value)
			}
		}
		d.number(-2) // no length: the headers end
	}
	d.Sum(sum[:0])
	return sum
}

type digester struct{ hash.Hash }

func (d digester) number(n int64) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(n))
	d.Write(b[:])
}

func (d digester) bytes(b []byte) {
	if b == nil {
		d.number(-1)
		return
	}
	d.number(int64(len(b)))
	d.Write(b)
}
