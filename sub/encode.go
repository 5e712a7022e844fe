package sub

import (
	"strconv"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/internal/wire"
	"github.com/kateway/kateway/store"
)

// encoder turns deliveries into JSON objects.
type encoder struct {
	groups   group.Opener
	key      group.Key
	explicit bool            // the client acks by itself: receipts are given
	base64   bool            // values always in base64
	topic    string          // named in each object, where there are several
	receipts *group.Receipts // made for the first receipt
	receipt  []byte          // used again and again
}

// extra is what an answer adds to the record. Its receipt is good until the next call.
func (e *encoder) extra(d *group.Delivery) wire.Extra {
	x := wire.Extra{Topic: e.topic, Attempt: d.Ref.Attempt, Base64: e.base64}
	if e.explicit {
		if e.receipts == nil {
			e.receipts = e.groups.Receipts(e.key)
		}
		e.receipt = e.receipts.Seal(e.receipt[:0], d.Ref)
		x.Receipt = e.receipt
	}
	return x
}

func (e *encoder) object(dst []byte, d *group.Delivery) []byte {
	return wire.AppendObject(dst, d.Message, e.extra(d))
}

// appendGaps appends the object that tells a reader of JSON what it will never see: per partition the first offset that
// is missing, and the next that exists.
func appendGaps(dst []byte, gaps []store.Gap) []byte { return appendGapsOf(dst, "", gaps) }

// appendGapsOf is appendGaps with the topic's name, which needs no escapes, where there are several.
func appendGapsOf(dst []byte, topic string, gaps []store.Gap) []byte {
	dst = append(dst, `{"event":"gap",`...)
	if topic != "" {
		dst = append(append(append(dst, `"topic":"`...), topic...), `",`...)
	}
	dst = append(dst, `"ranges":[`...)
	for i, g := range gaps {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"partition":`...)
		dst = strconv.AppendInt(dst, int64(g.Partition), 10)
		dst = append(dst, `,"from":`...)
		dst = strconv.AppendInt(dst, g.From, 10)
		dst = append(dst, `,"to":`...)
		dst = strconv.AppendInt(dst, g.To, 10)
		dst = append(dst, '}')
	}
	return append(dst, "]}"...)
}

// gapHeader is the same for the X-Gap of a poll: partition:from-to, comma separated.
func gapHeader(gaps []store.Gap) string {
	var b []byte
	for i, g := range gaps {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, int64(g.Partition), 10)
		b = append(b, ':')
		b = strconv.AppendInt(b, g.From, 10)
		b = append(b, '-')
		b = strconv.AppendInt(b, g.To, 10)
	}
	return string(b)
}
