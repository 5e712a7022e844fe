// Package schema says what messages of a topic may be, in JSON Schema, Avro or Protobuf: it reads such texts, checks messages
// by them, and compares two of them by what programs that use one can read of the other. It touches no network and no file:
// a schema is one text.
package schema

import (
	"encoding/binary"
	"fmt"

	"github.com/kateway/kateway/internal/errs"
)

// The languages.
const (
	JSON     = "json"     // JSON Schema, draft 2020-12
	Avro     = "avro"     // a schema in JSON; messages are in Avro's binary form
	Protobuf = "protobuf" // a .proto file; messages are in the binary form of its first message, or of the one that a frame names
)

const (
	// MaxText is the longest schema in bytes.
	MaxText = 48 << 10
	// MaxDepth is how deep a message may be nested.
	MaxDepth = 32
	// MaxFaults is how many faults of a message are told.
	MaxFaults = 20
	// maxMessage is the longest text of a fault in bytes.
	maxMessage = 200
)

// Schema is one that was read. It may be used concurrently.
type Schema struct {
	kind string
	body checker
}

// checker is a schema in one of the languages.
type checker interface {
	// check answers what is wrong with a value. index names the message type of a Protobuf file, nil: the first.
	check(value []byte, index []int) faults
}

// faults collects what is wrong, up to MaxFaults.
type faults []errs.Fault

func (f *faults) add(path, format string, args ...any) {
	if len(*f) < MaxFaults {
		text := fmt.Sprintf(format, args...)
		if len(text) > maxMessage {
			text = text[:maxMessage] + "..."
		}
		*f = append(*f, errs.Fault{Path: path, Message: text})
	}
}

// Parse reads a schema. Kind InvalidBody, with the reason, for a text that is none, or that could cost more than a message
// is worth; TooLarge.
func Parse(kind, text string) (s *Schema, err error) {
	if len(text) > MaxText {
		return nil, fmt.Errorf("the schema has %d bytes, %d at most: %w", len(text), MaxText, errs.TooLarge)
	}
	defer func() { // the text comes from outside, and three parsers that are not ours read it
		if p := recover(); p != nil {
			s, err = nil, fmt.Errorf("the %s schema can't be read: %v: %w", kind, p, errs.InvalidBody)
		}
	}()
	var body checker
	switch kind {
	case JSON:
		body, err = parseJSON(text)
	case Avro:
		body, err = parseAvro(text)
	case Protobuf:
		body, err = parseProto(text)
	default:
		return nil, fmt.Errorf("type %.40q: there are json, avro and protobuf: %w", kind, errs.InvalidBody)
	}
	if err != nil {
		return nil, fmt.Errorf("the %s schema: %s: %w", kind, shorten(err.Error()), errs.InvalidBody)
	}
	return &Schema{kind, body}, nil
}

func shorten(s string) string {
	const most = 1000
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}

// Kind is the language.
func (s *Schema) Kind() string { return s.kind }

// Check answers what is wrong with a message's value; nothing where it is right.
func (s *Schema) Check(value []byte) []errs.Fault { return s.run(value, nil) }

// CheckFramed is Check for what a frame holds, see Unframe. In Protobuf the type of the message is named in it.
func (s *Schema) CheckFramed(payload []byte) []errs.Fault {
	if s.kind != Protobuf {
		return s.run(payload, nil)
	}
	index, rest, ok := cutIndex(payload)
	if !ok {
		return []errs.Fault{{Message: "the frame has no list of message indexes"}}
	}
	return s.run(rest, index)
}

// run never panics: a message is not to break more than itself.
func (s *Schema) run(value []byte, index []int) (found []errs.Fault) {
	defer func() {
		if p := recover(); p != nil {
			found = []errs.Fault{{Message: "it can't be checked"}}
		}
	}()
	return s.body.check(value, index)
}

// Unframe cuts a value in the wire format of Confluent's serializers: a zero byte, the schema's id in 4 bytes, the payload.
// Not ok: it is none of that form. In Avro a value without a frame may begin with a zero byte too.
func Unframe(value []byte) (id uint32, payload []byte, ok bool) {
	if len(value) < 5 || value[0] != 0 {
		return 0, nil, false
	}
	return binary.BigEndian.Uint32(value[1:5]), value[5:], true
}

// maxIndex bounds the nesting of message types.
const maxIndex = MaxDepth

// cutIndex cuts the message indexes, which say in which message type of a Protobuf file a payload is: their number and each
// of them, in zigzag varints. No indexes mean the first type.
func cutIndex(b []byte) (index []int, rest []byte, ok bool) {
	n, used := binary.Varint(b)
	if used <= 0 || n < 0 || n > maxIndex {
		return nil, nil, false
	}
	b = b[used:]
	if n == 0 {
		return []int{0}, b, true
	}
	index = make([]int, n)
	for i := range index {
		v, used := binary.Varint(b)
		if used <= 0 || v < 0 || v > 1<<16 {
			return nil, nil, false
		}
		index[i], b = int(v), b[used:]
	}
	return index, b, true
}
