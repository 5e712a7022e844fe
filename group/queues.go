package group

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kateway/kateway/store"
)

// The record headers of a message that was moved to a retry or dead queue, after the message's own and in this order.
// Only the last of a message are ours: a publisher may have used the same names.
const (
	HeaderOriginPartition = "kateway-origin-partition"
	HeaderOriginOffset    = "kateway-origin-offset"
	HeaderOriginTime      = "kateway-origin-time" // when it was published, Unix time in ms
	HeaderAttempts        = "kateway-attempts"    // deliveries so far
	HeaderCause           = "kateway-cause"       // why it was moved, at most 256 bytes
	HeaderDue             = "kateway-due"         // retry queue only: not delivered before, Unix time in ms
)

// marks are the headers of both queues; the retry queue has HeaderDue behind them.
var marks = [...]string{HeaderOriginPartition, HeaderOriginOffset, HeaderOriginTime, HeaderAttempts, HeaderCause} // read only

// maxCause bounds HeaderCause in bytes.
const maxCause = 256

// What the queues keep.
const (
	retryRetention = 7 * 24 * time.Hour
	deadRetention  = 30 * 24 * time.Hour
)

// OriginInfo is where a message of a retry or dead queue came from, and why.
type OriginInfo struct {
	Partition int32     // of the topic
	Offset    int64     // of the topic
	Time      time.Time // when it was published; millisecond precision
	Attempts  uint32    // deliveries so far
	Cause     string    // why it was moved
	Due       time.Time // retry queue: not delivered before; zero in a dead queue
}

// Origin reads what a message of a retry or dead queue says of where it came from. Not ok for one that no group put there.
func Origin(m *store.Message) (o OriginInfo, ok bool) {
	o, _, ok = parse(m)
	return o, ok
}

// Redo makes of a message of the dead queue one to be published to the retry queue: due now, with no attempts behind it.
// It shares the bytes of dead, which is left as it is.
func Redo(dead *store.Message) *store.Message {
	o, own, ok := parse(dead)
	if !ok { // somebody else put it there: that is all there is to know of where it comes from
		o = OriginInfo{Partition: dead.Partition, Offset: dead.Offset, Time: dead.Time, Cause: "requeued"}
	}
	o.Attempts, o.Due = 0, time.Now()
	return marked(dead, own, o)
}

// origin answers what a message of the retry queue was when it was published, how often it was delivered, and when it is
// due again. Not ok for a message that no group put there; it is answered as it is.
func origin(m *store.Message) (restored *store.Message, attempts uint32, due time.Time, ok bool) {
	o, own, ok := parse(m)
	if !ok {
		return m, 0, time.Time{}, false
	}
	r := *m
	r.Headers = own
	r.Partition, r.Offset, r.Time = o.Partition, o.Offset, o.Time
	return &r, o.Attempts, o.Due, true
}

// message is what is published to move a message. It shares the bytes, but is nobody else's: a store writes into it.
func (m *move) message() *store.Message {
	o := OriginInfo{Partition: m.msg.Partition, Offset: m.msg.Offset, Time: m.msg.Time, Attempts: m.attempts, Cause: m.cause}
	if !m.dead {
		o.Due = m.due
		if o.Due.IsZero() {
			o.Due = time.UnixMilli(0)
		}
	}
	return marked(m.msg, m.msg.Headers, o)
}

// marked is the message with the headers given and what o says.
func marked(m *store.Message, own []store.Header, o OriginInfo) *store.Message {
	headers := make([]store.Header, 0, len(own)+len(marks)+1)
	headers = append(headers, own...)
	for i, v := range [...]string{
		strconv.Itoa(int(o.Partition)), number(o.Offset), number(o.Time.UnixMilli()), number(int64(o.Attempts)), cut(o.Cause),
	} {
		headers = append(headers, store.Header{Key: marks[i], Value: []byte(v)})
	}
	if !o.Due.IsZero() {
		headers = append(headers, store.Header{Key: HeaderDue, Value: []byte(number(o.Due.UnixMilli()))})
	}
	return &store.Message{Key: m.Key, Value: m.Value, Headers: headers, Partition: store.AnyPartition}
}

func number(n int64) string { return strconv.FormatInt(n, 10) }

// cut shortens a cause, to valid UTF-8.
func cut(cause string) string {
	return strings.ToValidUTF8(cause[:min(len(cause), maxCause)], "")
}

// parse reads the headers that marked wrote, and answers those before them, which are the message's own.
func parse(m *store.Message) (o OriginInfo, own []store.Header, ok bool) {
	rest := m.Headers
	var due int64
	late := len(rest) > 0 && rest[len(rest)-1].Key == HeaderDue
	if late {
		if due, ok = readNumber(rest[len(rest)-1]); !ok {
			return o, m.Headers, false
		}
		rest = rest[:len(rest)-1]
	}
	at := len(rest) - len(marks)
	if at < 0 {
		return o, m.Headers, false
	}
	var n [len(marks) - 1]int64
	for i, h := range rest[at:] {
		if h.Key != marks[i] {
			return o, m.Headers, false
		}
		if i == len(n) {
			break // the cause
		}
		if n[i], ok = readNumber(h); !ok {
			return o, m.Headers, false
		}
	}
	o = OriginInfo{Partition: int32(n[0]), Offset: n[1], Time: time.UnixMilli(n[2]), Attempts: uint32(n[3]), Cause: string(rest[len(rest)-1].Value)}
	if int64(o.Partition) != n[0] || o.Partition < 0 || o.Offset < 0 || int64(o.Attempts) != n[3] {
		return OriginInfo{}, m.Headers, false
	}
	if late {
		o.Due = time.UnixMilli(due)
	}
	return o, slices.Clip(rest[:at]), true
}

// readNumber reads what number wrote, and nothing else.
func readNumber(h store.Header) (int64, bool) {
	n, err := strconv.ParseInt(string(h.Value), 10, 64)
	return n, err == nil && number(n) == string(h.Value)
}
