package group

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"time"

	"github.com/kateway/kateway/store"
)

// What a group has done on a partition beyond the commit's offset, and what it knows of the messages that are in
// clients' hands, travels as metadata of the commit (store.Position.Beyond). Kafka takes a UTF-8 string of 4,096 bytes
// at most, so this is base64 of:
//
//	version (1 byte)  hold (4 bytes, big endian)
//	form (1 byte: ranges, bitmap or both, formAnew and formSame added)  with formAnew: distance from Next (uvarint)
//	size of the done part (uvarint)  done part
//	one entry per delivered message, lowest offset first, as many as fit:
//	  distance to the one before (uvarint)  attempt<<2 | state (uvarint)  remaining lease or delay in ms, unless due (uvarint)
//	  of one that is moving instead of the latter: ms until it is due again<<3 | cause (uvarint)
//	with formSame: distance<<1 (uvarint), and when 1 is added to it, all else is as of the entry before and left out: what
//	was delivered together mostly takes one byte
//
// Ranges are pairs of uvarints: distance from the end of the one before, length. The bitmap has bit i set when offset
// Next+i is done. The shorter of the two is taken. A window with a few messages far behind the others fits neither: then it
// is the number of ranges (uvarint), those, and the bitmap of what follows the last. formAnew says that below the distance only receipts of this hold count:
// the group began anew, and receipts of before speak of other deliveries, or of another topic's messages.
const (
	beyondVersion = 1
	formRanges    = 0
	formBitmap    = 1
	formBoth      = 2
	formSame      = 0x40 // a flag
	formAnew      = 0x80 // another

	stateDue     = 0
	stateLeased  = 1
	stateDelayed = 2
	stateMoving  = 3 // a holder that does not know it delivers the message again

	// maxSpan bounds the offsets of a window from the lowest message that is not done, stragglers passed over, to its end, so
	// that the done part always fits: 2,048 bytes of bitmap, and 12 at most for each straggler.
	maxSpan = 16384
)

// maxBeyondRaw is how many bytes become at most store.MaxBeyond in base64.
var maxBeyondRaw = base64.RawStdEncoding.DecodedLen(store.MaxBeyond) // read only

// span is a range of offsets, to excluded.
type span struct{ from, to int64 }

// carried is what is known of a message that was delivered and not acked.
type carried struct {
	offset    int64
	attempt   uint32
	state     uint8
	cause     cause // stateMoving
	remaining time.Duration
}

// tail is the number that follows the state.
func (c *carried) tail() uint64 {
	ms := uint64(max(c.remaining, 0) / time.Millisecond)
	if c.state == stateMoving {
		return min(ms, maxDistance>>3)<<3 | uint64(c.cause)
	}
	return ms
}

// setTail reads what tail wrote.
func (c *carried) setTail(v int64) {
	if c.state == stateMoving {
		c.cause = cause(v & 7)
		v >>= 3
	}
	c.remaining = time.Duration(v) * time.Millisecond
}

// beyond is the decoded form.
type beyond struct {
	hold uint32
	anew int64  // see formAnew; at or below next it says nothing
	done []span // sorted, disjoint, all above next
	held []carried
}

// encode writes b relative to next. An empty b is "".
func (b *beyond) encode(next int64) string {
	if len(b.done) == 0 && len(b.held) == 0 && b.anew <= next {
		return ""
	}
	raw := make([]byte, 0, 256)
	raw = append(raw, beyondVersion)
	raw = binary.BigEndian.AppendUint32(raw, b.hold)
	form, done := encodeDone(b.done, next)
	form |= formSame
	if b.anew > next {
		raw = binary.AppendUvarint(append(raw, form|formAnew), uint64(min(b.anew-next, maxDistance)))
	} else {
		raw = append(raw, form)
	}
	raw = binary.AppendUvarint(raw, uint64(len(done)))
	raw = append(raw, done...)
	last := carried{offset: next}
	for i, h := range b.held {
		mark := len(raw)
		if i > 0 && h.attempt == last.attempt && h.state == last.state && h.tail() == last.tail() {
			raw = binary.AppendUvarint(raw, uint64(h.offset-last.offset)<<1|1)
		} else {
			raw = binary.AppendUvarint(raw, uint64(h.offset-last.offset)<<1)
			raw = binary.AppendUvarint(raw, uint64(h.attempt)<<2|uint64(h.state))
			if h.state != stateDue {
				raw = binary.AppendUvarint(raw, h.tail())
			}
		}
		if len(raw) > maxBeyondRaw {
			raw = raw[:mark]
			break
		}
		last = h
	}
	return base64.RawStdEncoding.EncodeToString(raw)
}

// maxDone bounds the done part, so that it fits with what stands before it.
var maxDone = maxBeyondRaw - 24 // read only

// encodeDone takes the shorter form. Ranges that do not fit are dropped from the end: they are done again.
func encodeDone(done []span, next int64) (form byte, out []byte) {
	out, reached := appendRanges(nil, done, next, maxDone)
	if len(done) == 0 {
		return formRanges, out
	}
	end := done[len(done)-1].to
	if size := bitmapSize(next, end); end-next <= maxSpan && (size < len(out) || reached < end) {
		return formBitmap, appendBitmap(nil, done, next, size)
	}
	if reached == end {
		return formRanges, out
	}
	if both, far := encodeBoth(done, next); far > reached {
		return formBoth, both
	}
	return formRanges, out
}

// encodeBoth writes the stragglers' ranges and then a bitmap. It answers how far that reaches.
func encodeBoth(done []span, next int64) (out []byte, reached int64) {
	n := min(stragglers+1, len(done))
	out = binary.AppendUvarint(out, uint64(n))
	out, reached = appendRanges(out, done[:n], next, maxDone)
	if reached != done[n-1].to {
		return nil, next // ranges of a size that no window has
	}
	from := reached
	var rest []span
	for _, d := range done[n:] {
		if d.from >= from+maxSpan {
			break
		}
		reached = min(d.to, from+maxSpan)
		rest = append(rest, span{d.from, reached})
	}
	size := bitmapSize(from, reached)
	if len(out)+size > maxDone {
		return nil, next
	}
	return appendBitmap(out, rest, from, size), reached
}

// appendRanges appends what fits into limit, and answers the end of the last range that did.
func appendRanges(out []byte, done []span, next int64, limit int) ([]byte, int64) {
	last := next
	for _, d := range done {
		mark := len(out)
		out = binary.AppendUvarint(out, uint64(d.from-last))
		out = binary.AppendUvarint(out, uint64(d.to-d.from))
		if len(out) > limit {
			return out[:mark], last
		}
		last = d.to
	}
	return out, last
}

func bitmapSize(from, to int64) int { return int(to-from+7) / 8 }

func appendBitmap(out []byte, done []span, next int64, size int) []byte {
	bits := make([]byte, size)
	for _, d := range done {
		for o := d.from - next; o < d.to-next; o++ {
			bits[o/8] |= 1 << (o % 8)
		}
	}
	return append(out, bits...)
}

var errBeyond = errors.New("commit metadata is not ours")

// decodeBeyond reads what encode wrote. Metadata of another program, or of a later version, is an error: it says nothing
// about what is done, and the group goes on from the offset alone.
func decodeBeyond(s string, next int64) (beyond, error) {
	if s == "" {
		return beyond{}, nil
	}
	raw, err := base64.RawStdEncoding.DecodeString(s)
	if err != nil || len(raw) < 7 || raw[0] != beyondVersion {
		return beyond{}, errBeyond
	}
	b := beyond{hold: binary.BigEndian.Uint32(raw[1:])}
	r := reader{raw[6:]}
	if raw[5]&formAnew != 0 {
		b.anew = next + r.distance()
	}
	size := r.uvarint()
	if r.bad() || size > uint64(len(r.b)) {
		return beyond{}, errBeyond
	}
	part := reader{r.b[:size]}
	r.b = r.b[size:]
	switch raw[5] &^ (formAnew | formSame) {
	case formRanges:
		b.done = decodeRanges(&part, next)
	case formBitmap:
		b.done = decodeBitmap(nil, part.b, next)
	case formBoth:
		b.done = decodeBoth(&part, next)
	default:
		return beyond{}, errBeyond
	}
	b.held = decodeHeld(&r, next, raw[5]&formSame != 0)
	if part.bad() || r.bad() {
		return beyond{}, errBeyond
	}
	return b, nil
}

func decodeRanges(r *reader, next int64) (done []span) {
	for last := next; len(r.b) > 0; {
		done, last = decodeRange(r, done, last)
	}
	return done
}

func decodeRange(r *reader, done []span, last int64) ([]span, int64) {
	from := last + r.distance()
	to := from + r.distance()
	if r.bad() {
		return nil, last
	}
	return append(done, span{from, to}), to
}

func decodeBoth(r *reader, next int64) (done []span) {
	n := r.uvarint()
	for ; n > 0 && !r.bad(); n-- {
		done, next = decodeRange(r, done, next)
	}
	return decodeBitmap(done, r.b, next)
}

func decodeBitmap(done []span, bits []byte, next int64) []span {
	for i := range int64(len(bits)) * 8 {
		if bits[i/8]&(1<<(i%8)) == 0 {
			continue
		}
		if n := len(done); n > 0 && done[n-1].to == next+i {
			done[n-1].to++
		} else {
			done = append(done, span{next + i, next + i + 1})
		}
	}
	return done
}

func decodeHeld(r *reader, next int64, same bool) (held []carried) {
	for last := (carried{offset: next}); len(r.b) > 0; {
		h, distance := last, uint64(r.distance())
		repeated := same && distance&1 == 1
		if same {
			distance >>= 1
		}
		h.offset = last.offset + int64(distance)
		if !repeated {
			v := r.uvarint()
			h.attempt, h.state, h.cause, h.remaining = uint32(v>>2), uint8(v&3), 0, 0
			if h.state != stateDue {
				h.setTail(r.distance())
			}
		}
		if r.bad() {
			return nil
		}
		held = append(held, h)
		last = h
	}
	return held
}

// reader takes uvarints off the front; after the first bad one it has nothing left and stays bad.
type reader struct{ b []byte }

func (r *reader) bad() bool { return r.b == nil }

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.b = nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

const maxDistance = 1 << 40

// distance is a uvarint that can be added to an offset, or taken as milliseconds, without overflow.
func (r *reader) distance() int64 {
	v := r.uvarint()
	if v > maxDistance {
		r.b = nil
		return 0
	}
	return int64(v)
}
