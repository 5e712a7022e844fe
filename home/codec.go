package home

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// What is in a frame: numbers as varints, strings and bytes with their length before them. A reader passes over what
// follows what it knows, so that a later version may append.

// errGarbage is what no gateway sends.
var errGarbage = fmt.Errorf("the other gateway sent what can't be understood: %w", errs.Unavailable)

// decoder takes a payload apart. After the first fault it answers zeros, and bad is set.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) fail() {
	d.b, d.bad = nil, true
}

func (d *decoder) err() error {
	if d.bad {
		return errGarbage
	}
	return nil
}

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail()
		return 0
	}
	c := d.b[0]
	d.b = d.b[1:]
	return c
}

func (d *decoder) bool() bool { return d.byte() != 0 }

func (d *decoder) uint32() uint32 {
	if len(d.b) < 4 {
		d.fail()
		return 0
	}
	v := binary.BigEndian.Uint32(d.b)
	d.b = d.b[4:]
	return v
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[n:]
	return v
}

// number reads what is at most limit.
func (d *decoder) number(limit uint64) uint64 {
	v := d.uvarint()
	if v > limit {
		d.fail()
		return 0
	}
	return v
}

func (d *decoder) int32() int32 { return int32(d.number(math.MaxInt32)) }

// count reads the number of things that follow, each of size bytes at least.
func (d *decoder) count(size int) int {
	n := d.uvarint()
	if n > uint64(len(d.b)/size) {
		d.fail()
		return 0
	}
	return int(n)
}

// bytes answers a part of the payload.
func (d *decoder) bytes() []byte {
	n := d.count(1)
	v := d.b[:n:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) string() string { return string(d.bytes()) }

func appendString[T string | []byte](b []byte, s T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

// appendTime writes milliseconds, which is what times have in the store; zero is zero.
func appendTime(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return binary.AppendVarint(b, math.MinInt64)
	}
	return binary.AppendVarint(b, t.UnixMilli())
}

func (d *decoder) time() time.Time {
	ms := d.varint()
	if ms == math.MinInt64 || d.bad {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

func appendKey(b []byte, k group.Key) []byte { return appendString(appendString(b, k.Topic), k.Group) }

func (d *decoder) key() group.Key { return group.Key{Topic: d.string(), Group: d.string()} }

func appendAsk(b []byte, a *group.Ask) []byte {
	b = appendKey(b, a.Key)
	b = appendString(b, string(a.Mode))
	b = binary.AppendUvarint(b, uint64(len(a.Tags)))
	for _, t := range a.Tags {
		b = appendString(b, t)
	}
	b = appendString(b, a.Filter)
	b = appendBool(b, a.Start.Newest)
	b = appendTime(b, a.Start.Since)
	b = binary.AppendUvarint(b, uint64(a.Lease))
	b = binary.AppendUvarint(b, uint64(min(a.Prefetch, math.MaxInt32)))
	b = binary.AppendUvarint(b, uint64(min(a.First, math.MaxInt32)))
	b = appendString(b, a.Client)
	b = appendBool(b, a.Stays)
	return appendRefs(b, a.Held)
}

func (d *decoder) ask() (a group.Ask) {
	a.Key = d.key()
	a.Mode = group.Mode(d.string())
	for range d.count(1) {
		a.Tags = append(a.Tags, d.string())
	}
	a.Filter = d.string()
	a.Start.Newest = d.bool()
	a.Start.Since = d.time()
	a.Lease = time.Duration(d.number(math.MaxInt64))
	a.Prefetch = int(d.number(math.MaxInt32))
	a.First = int(d.number(math.MaxInt32))
	a.Client = d.string()
	a.Stays = d.bool()
	a.Held = d.refs()
	return a
}

// What a byte of flags says of a delivery or verb.
const (
	flagRetry   = 1 << iota // of the group's retry queue
	flagKey                 // has a key
	flagValue               // has a value, be it empty
	flagHeaders             // has headers
	flagOrigin              // partition and offset of the message are others than those of the delivery
)

func appendRef(b []byte, r group.Ref) []byte {
	b = binary.AppendUvarint(b, uint64(r.Partition))
	b = binary.AppendUvarint(b, uint64(r.Offset))
	b = binary.AppendUvarint(b, uint64(r.Attempt))
	return binary.BigEndian.AppendUint32(b, r.Hold)
}

func (d *decoder) ref(flags byte) group.Ref {
	return group.Ref{
		Retry: flags&flagRetry != 0, Partition: d.int32(), Offset: int64(d.number(math.MaxInt64)),
		Attempt: uint32(d.number(math.MaxUint32)), Hold: d.uint32(),
	}
}

// appendRefs ends a payload: it may be missing, and then there are none.
func appendRefs(b []byte, refs []group.Ref) []byte {
	b = binary.AppendUvarint(b, uint64(len(refs)))
	for _, r := range refs {
		var flags byte
		if r.Retry {
			flags = flagRetry
		}
		b = appendRef(append(b, flags), r)
	}
	return b
}

func (d *decoder) refs() (list []group.Ref) {
	if len(d.b) == 0 {
		return nil
	}
	for range d.count(8) {
		list = append(list, d.ref(d.byte()))
	}
	return list
}

func appendDelivery(b []byte, v *group.Delivery) []byte {
	var flags byte
	set := func(flag byte, when bool) {
		if when {
			flags |= flag
		}
	}
	set(flagRetry, v.Ref.Retry)
	set(flagKey, v.Key != nil)
	set(flagValue, v.Value != nil)
	set(flagHeaders, len(v.Headers) > 0)
	set(flagOrigin, v.Partition != v.Ref.Partition || v.Offset != v.Ref.Offset)
	b = appendRef(append(b, flags), v.Ref)
	if flags&flagOrigin != 0 {
		b = binary.AppendVarint(b, int64(v.Partition))
		b = binary.AppendVarint(b, v.Offset)
	}
	b = appendTime(b, v.Time)
	if v.Key != nil {
		b = appendString(b, v.Key)
	}
	if v.Value != nil {
		b = appendString(b, v.Value)
	}
	if len(v.Headers) > 0 {
		b = binary.AppendUvarint(b, uint64(len(v.Headers)))
		for _, h := range v.Headers {
			b = appendString(appendString(b, h.Key), h.Value)
		}
	}
	return b
}

// delivery reads into v and m; the bytes are those of the payload.
func (d *decoder) delivery(v *group.Delivery, m *store.Message) {
	flags := d.byte()
	v.Message, v.Ref = m, d.ref(flags)
	m.Partition, m.Offset = v.Ref.Partition, v.Ref.Offset
	if flags&flagOrigin != 0 {
		p := d.varint()
		if p != int64(int32(p)) {
			d.fail()
		}
		m.Partition, m.Offset = int32(p), d.varint()
	}
	m.Time = d.time()
	if flags&flagKey != 0 {
		m.Key = d.bytes()
	}
	if flags&flagValue != 0 {
		m.Value = d.bytes()
	}
	if flags&flagHeaders != 0 {
		m.Headers = make([]store.Header, d.count(2))
		for i := range m.Headers {
			m.Headers[i] = store.Header{Key: d.string(), Value: d.bytes()}
		}
	}
}

const (
	minDelivery = 9   // bytes of the smallest delivery
	slab        = 128 // messages that are allocated at once
)

// deliveries reads those that fill the rest of the payload, behind their number, and appends them.
func (d *decoder) deliveries(out []group.Delivery) []group.Delivery {
	n := int(d.uint32())
	if n > len(d.b)/minDelivery {
		d.fail()
		return out
	}
	var messages []store.Message
	for ; n > 0 && !d.bad; n-- {
		if len(messages) == 0 {
			messages = make([]store.Message, min(n, slab))
		}
		var v group.Delivery
		d.delivery(&v, &messages[0])
		messages = messages[1:]
		out = append(out, v)
	}
	return out
}

func appendGaps(b []byte, gaps []store.Gap) []byte {
	b = binary.AppendUvarint(b, uint64(len(gaps)))
	for _, g := range gaps {
		b = binary.AppendUvarint(b, uint64(g.Partition))
		b = binary.AppendVarint(b, g.From)
		b = binary.AppendVarint(b, g.To)
	}
	return b
}

func (d *decoder) gaps(out []store.Gap) []store.Gap {
	for range d.count(3) {
		out = append(out, store.Gap{Partition: d.int32(), From: d.varint(), To: d.varint()})
	}
	return out
}

func appendVerbs(b []byte, verbs []group.Verb) []byte {
	b = binary.AppendUvarint(b, uint64(len(verbs)))
	for i := range verbs {
		v := &verbs[i]
		var flags byte
		if v.Retry {
			flags = flagRetry
		}
		b = appendRef(append(b, flags, byte(v.Op)), v.Ref)
		switch v.Op {
		case group.Nack:
			b = binary.AppendUvarint(b, uint64(v.Delay))
		case group.Extend:
			b = binary.AppendUvarint(b, uint64(v.Lease))
		case group.Bury:
			b = appendString(b, v.Cause)
		case group.Ack, group.Return:
		}
	}
	return b
}

func (d *decoder) verbs() []group.Verb {
	verbs := make([]group.Verb, d.count(9))
	for i := range verbs {
		v := &verbs[i]
		flags := d.byte()
		v.Op = group.Op(d.byte())
		v.Ref = d.ref(flags)
		switch v.Op {
		case group.Nack:
			v.Delay = time.Duration(d.number(math.MaxInt64))
		case group.Extend:
			v.Lease = time.Duration(d.number(math.MaxInt64))
		case group.Bury:
			v.Cause = d.string()
		case group.Ack, group.Return:
		default:
			d.fail()
			return nil
		}
	}
	return verbs
}

const (
	maxText   = 1024    // bytes of an error's text
	codeMoved = "moved" // stands for group.ErrMoved among the codes of errs
)

// appendError writes an error's code, "" for none, and its text without what the kind says anyway.
func appendError(b []byte, err error) []byte {
	if err == nil {
		return appendString(b, "")
	}
	if errors.Is(err, group.ErrMoved) {
		return appendString(appendString(b, codeMoved), "")
	}
	kind := errs.Of(err)
	text := strings.TrimSuffix(err.Error(), kind.Error())
	text = strings.TrimSuffix(text, ": ")
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "") + "..."
	}
	return appendString(appendString(b, kind.Code()), text)
}

// error reads an error; one of a kind that is not known here is Unavailable.
func (d *decoder) error() error {
	code := d.string()
	if code == "" {
		return nil
	}
	text := d.string()
	if code == codeMoved {
		return group.ErrMoved
	}
	kind, known := errs.ByCode(code)
	switch {
	case !known:
		return fmt.Errorf("%s (%s): %w", text, code, errs.Unavailable)
	case text == "":
		return kind
	}
	return fmt.Errorf("%s: %w", text, kind)
}

// appendErrors writes the outcome of verbs; that all is well takes two bytes.
func appendErrors(b []byte, list []error) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, err := range list {
		if err == nil {
			continue
		}
		b = append(b, 1)
		for _, err := range list {
			b = appendError(b, err)
		}
		return b
	}
	return append(b, 0)
}

// errors reads the outcome of n verbs.
func (d *decoder) errors(n int) []error {
	if d.uvarint() != uint64(n) {
		d.fail()
		return nil
	}
	list := make([]error, n)
	if !d.bool() {
		return list
	}
	for i := range list {
		list[i] = d.error()
	}
	return list
}
