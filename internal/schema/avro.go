package schema

import (
	"encoding/binary"
	"math"
	"strconv"
	"unicode/utf8"

	"github.com/hamba/avro/v2"
)

// maxSteps bounds the values that are looked at in one message: an array of nulls takes no room.
const maxSteps = 1 << 20

// avroSchema checks Avro's binary form by walking it: the library's decoder would build all of it, and would say neither
// where a fault is nor that something is left at the end.
type avroSchema struct{ schema avro.Schema }

func parseAvro(text string) (*avroSchema, error) {
	// A cache of its own: names of one topic mean nothing to another.
	s, err := avro.ParseBytesWithCache([]byte(text), "", &avro.SchemaCache{})
	if err != nil {
		return nil, err
	}
	return &avroSchema{s}, nil
}

func (s *avroSchema) check(value []byte, _ []int) (found faults) {
	w := avroWalk{rest: value, found: &found, steps: maxSteps}
	if w.value(s.schema, "", MaxDepth) && len(w.rest) > 0 {
		found.add("", "%d bytes are left behind the value", len(w.rest))
	}
	return found
}

// avroWalk is one message. After a fault nothing more can be read of it.
type avroWalk struct {
	rest  []byte
	found *faults
	steps int
}

func (w *avroWalk) fail(path, format string, args ...any) bool {
	w.found.add(path, format, args...)
	return false
}

// value passes one value.
func (w *avroWalk) value(s avro.Schema, path string, depth int) bool {
	if w.steps--; w.steps < 0 {
		return w.fail(path, "it has more than %d values", maxSteps)
	}
	switch s := s.(type) {
	case *avro.NullSchema:
		return true
	case *avro.PrimitiveSchema:
		return w.primitive(s.Type(), path)
	case *avro.FixedSchema:
		return w.skip(s.Size(), path, "a fixed")
	case *avro.EnumSchema:
		n, ok := w.varint(path)
		if ok && (n < 0 || n >= int64(len(s.Symbols()))) {
			return w.fail(path, "the enum has no symbol %d", n)
		}
		return ok
	}
	if depth == 0 {
		return w.fail(path, "it is nested deeper than %d", MaxDepth)
	}
	switch s := s.(type) {
	case *avro.RefSchema:
		return w.value(s.Schema(), path, depth) // a name of what is around it: the depth counts there
	case *avro.RecordSchema:
		for _, f := range s.Fields() {
			if !w.value(f.Type(), path+pointer(f.Name()), depth-1) {
				return false
			}
		}
		return true
	case *avro.UnionSchema:
		n, ok := w.varint(path)
		if ok && (n < 0 || n >= int64(len(s.Types()))) {
			return w.fail(path, "the union has no branch %d", n)
		}
		return ok && w.value(s.Types()[n], path, depth-1)
	case *avro.ArraySchema:
		i := 0
		return w.blocks(path, func() bool {
			i++
			return w.value(s.Items(), path+"/"+strconv.Itoa(i-1), depth-1)
		})
	case *avro.MapSchema:
		return w.blocks(path, func() bool {
			name, ok := w.text(path)
			return ok && w.value(s.Values(), path+pointer(name), depth-1)
		})
	}
	return w.fail(path, "a value of type %s can't be checked", s.Type())
}

func (w *avroWalk) primitive(t avro.Type, path string) bool {
	switch t {
	case avro.Boolean:
		if len(w.rest) > 0 && w.rest[0] > 1 {
			return w.fail(path, "%d is no boolean", w.rest[0])
		}
		return w.skip(1, path, "a boolean")
	case avro.Int:
		n, ok := w.varint(path)
		if ok && (n < math.MinInt32 || n > math.MaxInt32) {
			return w.fail(path, "%d does not fit an int", n)
		}
		return ok
	case avro.Long:
		_, ok := w.varint(path)
		return ok
	case avro.Float:
		return w.skip(4, path, "a float")
	case avro.Double:
		return w.skip(8, path, "a double")
	case avro.Bytes:
		n, ok := w.length(path)
		return ok && w.skip(n, path, "bytes")
	case avro.String:
		_, ok := w.text(path)
		return ok
	case avro.Null:
		return true
	}
	return w.fail(path, "a value of type %s can't be checked", t)
}

func (w *avroWalk) skip(n int, path, what string) bool {
	if n > len(w.rest) {
		w.rest = nil
		return w.fail(path, "the message ends within %s", what)
	}
	w.rest = w.rest[n:]
	return true
}

func (w *avroWalk) varint(path string) (int64, bool) {
	n, used := binary.Varint(w.rest)
	if used <= 0 {
		return 0, w.fail(path, "the message ends within a number, or the number is too long")
	}
	w.rest = w.rest[used:]
	return n, true
}

func (w *avroWalk) length(path string) (int, bool) {
	n, ok := w.varint(path)
	if ok && (n < 0 || n > int64(len(w.rest))) {
		return 0, w.fail(path, "a length of %d, and %d bytes are left", n, len(w.rest))
	}
	return int(n), ok
}

func (w *avroWalk) text(path string) (string, bool) {
	n, ok := w.length(path)
	if !ok {
		return "", false
	}
	b := w.rest[:n]
	w.rest = w.rest[n:]
	if !utf8.Valid(b) {
		return "", w.fail(path, "a string is not UTF-8")
	}
	return string(b), true
}

// blocks passes the blocks of an array or a map.
func (w *avroWalk) blocks(path string, item func() bool) bool {
	for {
		n, ok := w.varint(path)
		if !ok || n == 0 {
			return ok
		}
		if n < 0 { // the block's size in bytes follows, for who skips it
			if n = -n; n < 0 {
				return w.fail(path, "a block that can't be")
			}
			if _, ok := w.varint(path); !ok {
				return false
			}
		}
		for ; n > 0; n-- {
			if !item() {
				return false
			}
		}
	}
}
