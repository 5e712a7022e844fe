package schema

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf8"

	"github.com/bufbuild/protocompile"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// protoFile is what the text is called where it is imported or complained about.
const protoFile = "schema.proto"

// protoSchema checks the binary form by walking it: what a decoder builds of a message can be many times as large, and one
// keeps fields that the schema does not know where they are a fault here.
type protoSchema struct{ file protoreflect.FileDescriptor }

func parseProto(text string) (*protoSchema, error) {
	c := protocompile.Compiler{
		Resolver: protocompile.WithStandardImports(&protocompile.SourceResolver{
			Accessor: protocompile.SourceAccessorFromMap(map[string]string{protoFile: text}),
		}),
		MaxParallelism: 1,
	}
	files, err := c.Compile(context.Background(), protoFile)
	if err != nil {
		return nil, err
	}
	if files[0].Messages().Len() == 0 {
		return nil, errors.New("there is no message in it")
	}
	return &protoSchema{files[0]}, nil
}

// message finds the type that the indexes name: one of the file's, one of those in it, and so on. As in Confluent's own
// serializers, which count what the text has, the entries of maps are not among them.
func (s *protoSchema) message(index []int) protoreflect.MessageDescriptor {
	if len(index) == 0 {
		return s.file.Messages().Get(0)
	}
	list := s.file.Messages()
	var m protoreflect.MessageDescriptor
	for _, i := range index {
		if m = nth(list, i); m == nil {
			return nil
		}
		list = m.Messages()
	}
	return m
}

func nth(list protoreflect.MessageDescriptors, n int) protoreflect.MessageDescriptor {
	for i := range list.Len() {
		m := list.Get(i)
		if m.IsMapEntry() {
			continue
		}
		if n == 0 {
			return m
		}
		n--
	}
	return nil
}

func (s *protoSchema) check(value []byte, index []int) (found faults) {
	m := s.message(index)
	if m == nil {
		found.add("", "the schema has no message type %v", index)
		return found
	}
	w := protoWalk{&found}
	w.message(m, value, "", MaxDepth)
	return found
}

type protoWalk struct{ found *faults }

func (w protoWalk) fail(path, format string, args ...any) bool {
	w.found.add(path, format, args...)
	return false
}

// message passes all fields. It is false where the bytes make no sense, so that nothing behind can be told; faults of single
// fields are told and passed.
func (w protoWalk) message(m protoreflect.MessageDescriptor, b []byte, path string, depth int) bool {
	if depth == 0 {
		return w.fail(path, "it is nested deeper than %d", MaxDepth)
	}
	var seen map[protoreflect.FieldNumber]int // how often, of those that have to be there or have an index in their path
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return w.fail(path, "the bytes are no message: %v", protowire.ParseError(n))
		}
		b = b[n:]
		size := protowire.ConsumeFieldValue(num, typ, b)
		if size < 0 {
			return w.fail(path, "field %d breaks off or is malformed: %v", num, protowire.ParseError(size))
		}
		value := b[:size]
		b = b[size:]
		f := m.Fields().ByNumber(num)
		if f == nil {
			if !m.ExtensionRanges().Has(num) {
				w.fail(path+"/"+strconv.Itoa(int(num)), "the schema has no field %d in %s", num, m.FullName())
			}
			continue
		}
		at := path + pointer(string(f.Name()))
		if f.Cardinality() != protoreflect.Optional {
			if seen == nil {
				seen = map[protoreflect.FieldNumber]int{}
			}
			if f.IsList() {
				at += "/" + strconv.Itoa(seen[num])
			}
			seen[num]++
		}
		w.field(f, typ, value, at, depth)
		if len(*w.found) == MaxFaults {
			return false
		}
	}
	for i := range m.RequiredNumbers().Len() {
		if num := m.RequiredNumbers().Get(i); seen[num] == 0 {
			w.fail(path+pointer(string(m.Fields().ByNumber(num).Name())), "is required")
		}
	}
	return true
}

// wireType is how a field's single values are written.
func wireType(k protoreflect.Kind) protowire.Type {
	switch k {
	case protoreflect.Fixed32Kind, protoreflect.Sfixed32Kind, protoreflect.FloatKind:
		return protowire.Fixed32Type
	case protoreflect.Fixed64Kind, protoreflect.Sfixed64Kind, protoreflect.DoubleKind:
		return protowire.Fixed64Type
	case protoreflect.StringKind, protoreflect.BytesKind, protoreflect.MessageKind:
		return protowire.BytesType
	case protoreflect.GroupKind:
		return protowire.StartGroupType
	}
	return protowire.VarintType
}

func (w protoWalk) field(f protoreflect.FieldDescriptor, typ protowire.Type, value []byte, path string, depth int) bool {
	want := wireType(f.Kind())
	if typ == want {
		return w.single(f, value, path, depth)
	}
	if typ != protowire.BytesType || !f.IsList() || want == protowire.BytesType || want == protowire.StartGroupType {
		return w.fail(path, "is written as wire type %d; a %s has %d", typ, f.Kind(), want)
	}
	packed, _ := protowire.ConsumeBytes(value)
	for len(packed) > 0 {
		n := protowire.ConsumeFieldValue(f.Number(), want, packed)
		if n < 0 {
			return w.fail(path, "a packed list breaks off or is malformed: %v", protowire.ParseError(n))
		}
		if !w.single(f, packed[:n], path, depth) {
			return false
		}
		packed = packed[n:]
	}
	return true
}

// single passes one value, which is well formed as far as its wire type goes.
func (w protoWalk) single(f protoreflect.FieldDescriptor, value []byte, path string, depth int) bool {
	switch f.Kind() {
	case protoreflect.StringKind:
		if text, _ := protowire.ConsumeBytes(value); !utf8.Valid(text) {
			return w.fail(path, "is not UTF-8")
		}
	case protoreflect.EnumKind:
		n, _ := protowire.ConsumeVarint(value)
		if f.Enum().IsClosed() && f.Enum().Values().ByNumber(protoreflect.EnumNumber(int32(n))) == nil {
			return w.fail(path, "%d is no value of enum %s", int32(n), f.Enum().FullName())
		}
	case protoreflect.MessageKind:
		inner, _ := protowire.ConsumeBytes(value)
		return w.message(f.Message(), inner, path, depth-1)
	case protoreflect.GroupKind:
		inner, n := protowire.ConsumeGroup(f.Number(), value)
		if n < 0 {
			return w.fail(path, "a group breaks off: %v", protowire.ParseError(n))
		}
		return w.message(f.Message(), inner, path, depth-1)
	}
	return true
}

// typeName is a field's type for people.
func typeName(f protoreflect.FieldDescriptor) string {
	switch {
	case f.IsMap():
		return fmt.Sprintf("map<%s, %s>", typeName(f.MapKey()), typeName(f.MapValue()))
	case f.Message() != nil:
		return string(f.Message().FullName())
	case f.Enum() != nil:
		return string(f.Enum().FullName())
	}
	return f.Kind().String()
}
