// Package wire is how a message looks on HTTP: the JSON object, the binary frame, the header mapping of a single message;
// written by hand where it is per message, so that nothing is allocated on the common path. It knows nothing of routes.
package wire

import (
	"encoding/base64"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/kateway/kateway/store"
)

// Extra is what stands beside the record in an answer. The zero value adds nothing.
type Extra struct {
	Topic   string // of a merged stream; "" is left out
	Attempt uint32 // 0 is left out
	Receipt []byte // a receipt is plain ASCII and is not escaped; nil is left out
	Cursor  []byte // as Receipt
	Base64  bool   // the value always as value_base64
}

// AppendObject appends the JSON object of a message to dst, on one line and without a line break at its end. It is valid
// JSON whatever the record holds, at most MaxDepth deep, no name twice, and [ObjectReader] reads it back:
//
//   - value is a string where the record's value is valid UTF-8. It stands as JSON where content-type says JSON and it is a
//     JSON object, array, number or boolean; whitespace is dropped only where it would break the line. JSON strings and
//     null are given as the text they are, quotes and all, so that a string is always the value itself and null is always
//     a tombstone. So is JSON too deep for the line or with a name twice. Anything else is value_base64.
//   - a header name that comes more than once has an array, in order; where one value of a name is not UTF-8, all of
//     that name stand in headers_base64.
//   - timestamp is UTC with milliseconds; a year that RFC 3339 can't write is cut to 0000 or 9999.
//
// m is only read.
func AppendObject(dst []byte, m *store.Message, x Extra) []byte {
	dst = append(dst, `{"partition":`...)
	dst = strconv.AppendInt(dst, int64(m.Partition), 10)
	dst = append(dst, `,"offset":`...)
	dst = strconv.AppendInt(dst, m.Offset, 10)
	dst = append(dst, `,"timestamp":"`...)
	dst = AppendTime(dst, m.Time)
	dst = append(dst, '"')
	if x.Topic != "" {
		dst = append(dst, `,"topic":"`...)
		dst = appendText(dst, x.Topic)
		dst = append(dst, '"')
	}
	if m.Key != nil {
		dst = appendField(dst, "key", m.Key)
	}
	if len(m.Headers) > 0 {
		dst = appendHeaders(dst, m.Headers)
	}
	dst = appendValue(dst, m, x.Base64)
	if x.Attempt > 0 {
		dst = append(dst, `,"attempt":`...)
		dst = strconv.AppendUint(dst, uint64(x.Attempt), 10)
	}
	if x.Receipt != nil {
		dst = append(dst, `,"receipt":"`...)
		dst = append(dst, x.Receipt...)
		dst = append(dst, '"')
	}
	if x.Cursor != nil {
		dst = append(dst, `,"cursor":"`...)
		dst = append(dst, x.Cursor...)
		dst = append(dst, '"')
	}
	return append(dst, '}')
}

func appendValue(dst []byte, m *store.Message, forced bool) []byte {
	switch {
	case m.Value == nil:
		return append(dst, `,"value":null`...)
	case forced:
		return appendBase64(dst, "value", m.Value)
	case len(m.Headers) > 0 && IsJSON(contentType(m.Headers)):
		if whole, ok := appendJSON(append(dst, `,"value":`...), m.Value); ok {
			return whole
		}
	}
	return appendField(dst, "value", m.Value)
}

// appendField appends a member whose value is any bytes: a string, or base64 under another name.
func appendField(dst []byte, name string, b []byte) []byte {
	if !utf8.Valid(b) {
		return appendBase64(dst, name, b)
	}
	dst = append(dst, `,"`...)
	dst = append(dst, name...)
	dst = append(dst, `":"`...)
	dst = appendText(dst, b)
	return append(dst, '"')
}

func appendBase64(dst []byte, name string, b []byte) []byte {
	dst = append(dst, `,"`...)
	dst = append(dst, name...)
	dst = append(dst, `_base64":"`...)
	dst = base64.StdEncoding.AppendEncode(dst, b)
	return append(dst, '"')
}

// AppendTime appends t as RFC 3339 in UTC with milliseconds: 2006-01-02T15:04:05.000Z.
func AppendTime(dst []byte, t time.Time) []byte {
	t = t.UTC()
	year, month, day := t.Date()
	hour, minute, sec := t.Clock()
	ms := t.Nanosecond() / int(time.Millisecond)
	switch {
	case year > 9999:
		year, month, day, hour, minute, sec, ms = 9999, 12, 31, 23, 59, 59, 999
	case year < 0:
		year, month, day, hour, minute, sec, ms = 0, 1, 1, 0, 0, 0, 0
	}
	dst = append2(append2(dst, year/100), year%100)
	dst = append2(append(dst, '-'), int(month))
	dst = append2(append(dst, '-'), day)
	dst = append2(append(dst, 'T'), hour)
	dst = append2(append(dst, ':'), minute)
	dst = append2(append(dst, ':'), sec)
	dst = append(dst, '.', byte('0'+ms/100))
	return append(append2(dst, ms%100), 'Z')
}

// append2 appends a number below 100 with two digits.
func append2(dst []byte, n int) []byte { return append(dst, byte('0'+n/10), byte('0'+n%10)) }
