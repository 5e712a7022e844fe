package schema

import (
	"github.com/hamba/avro/v2"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/kateway/kateway/internal/errs"
)

// What a new schema must be to the one before it.
const (
	Backward = "backward" // who reads by the new one can read what was written by the old one
	Forward  = "forward"  // who reads by the old one can read what is written by the new one
	Full     = "full"     // both
	None     = "none"     // anything
)

// Modes lists them.
func Modes() []string { return []string{Backward, Forward, Full, None} }

// Incompatible answers why the new schema is not to the old one what mode asks for; nothing where it is. It is on the safe
// side: what it can't prove it refuses, so that some changes that would do no harm are told too.
func Incompatible(mode string, before, after *Schema) []errs.Fault {
	var found faults
	if mode == None {
		return nil
	}
	if before.kind != after.kind {
		found.add("", "the type changes from %s to %s", before.kind, after.kind)
		return found
	}
	if mode == Backward || mode == Full {
		compare(before, after, "who reads by the new schema what was written by the old one: ", &found)
	}
	if mode == Forward || mode == Full {
		compare(after, before, "who reads by the old schema what is written by the new one: ", &found)
	}
	return found
}

// compare tells why a reader does not understand a writer.
func compare(writer, reader *Schema, who string, all *faults) {
	var found faults
	defer func() {
		if p := recover(); p != nil {
			all.add("", "%sthe two can't be compared", who)
		}
	}()
	switch w := writer.body.(type) {
	case *jsonSchema:
		if r, ok := reader.body.(*jsonSchema); ok {
			found = compareJSON(w, r)
		}
	case *avroSchema:
		if r, ok := reader.body.(*avroSchema); ok {
			found = compareAvro(w, r)
		}
	case *protoSchema:
		if r, ok := reader.body.(*protoSchema); ok {
			found = compareProto(w, r)
		}
	}
	for _, f := range found {
		all.add(f.Path, "%s%s", who, f.Message)
	}
}

func compareAvro(writer, reader *avroSchema) (found faults) {
	if err := avro.NewSchemaCompatibility().Compatible(reader.schema, writer.schema); err != nil {
		found.add("", "%v", err)
	}
	return found
}

// protoPair is two files of which every message that the writer has is looked for at the reader's.
type protoPair struct{ found *faults }

func compareProto(writer, reader *protoSchema) (found faults) {
	w, r := writer.file, reader.file
	if w.Package() != r.Package() {
		found.add("", "the package changes from %q to %q", w.Package(), r.Package())
		return found
	}
	if w.Messages().Get(0).FullName() != r.Messages().Get(0).FullName() {
		found.add("", "the first message, which is that of values without a frame, changes from %s to %s", w.Messages().Get(0).Name(), r.Messages().Get(0).Name())
	}
	p := protoPair{&found}
	p.messages(w.Messages(), r.Messages(), "")
	return found
}

func (p protoPair) messages(w, r protoreflect.MessageDescriptors, path string) {
	for i := range w.Len() {
		m := w.Get(i)
		if m.IsMapEntry() { // compared where the map is
			continue
		}
		at := path + pointer(string(m.Name()))
		if theirs := r.ByName(m.Name()); theirs != nil {
			p.message(m, theirs, at)
			p.messages(m.Messages(), theirs.Messages(), at)
		} else {
			p.found.add(at, "the message is gone")
		}
	}
}

func (p protoPair) message(w, r protoreflect.MessageDescriptor, path string) {
	for i := range w.Fields().Len() {
		f := w.Fields().Get(i)
		if theirs := r.Fields().ByNumber(f.Number()); theirs != nil {
			p.field(f, theirs, path+pointer(string(f.Name())))
		}
	}
	for i := range r.RequiredNumbers().Len() {
		n := r.RequiredNumbers().Get(i)
		if f := w.Fields().ByNumber(n); f == nil || f.Cardinality() != protoreflect.Required {
			p.found.add(path+pointer(string(r.Fields().ByNumber(n).Name())), "is required by the reader, and the writer may leave it out")
		}
	}
	if w.Options() != nil && messageSet(w) != messageSet(r) {
		p.found.add(path, "the wire format of the message changes")
	}
}

func messageSet(m protoreflect.MessageDescriptor) bool {
	o, ok := m.Options().(interface{ GetMessageSetWireFormat() bool })
	return ok && o.GetMessageSetWireFormat()
}

// field compares two fields of one number. Another name is no fault: it is not in the bytes.
func (p protoPair) field(w, r protoreflect.FieldDescriptor, path string) {
	switch {
	case w.IsMap() != r.IsMap(), w.IsList() != r.IsList():
		p.found.add(path, "field %d was %s and is %s", w.Number(), shape(w), shape(r))
		return
	case oneof(w) != oneof(r):
		p.found.add(path, "field %d moves into or out of a oneof", w.Number())
	}
	if w.IsMap() {
		p.field(w.MapKey(), r.MapKey(), path)
		p.field(w.MapValue(), r.MapValue(), path)
		return
	}
	if !readable(w, r) {
		p.found.add(path, "field %d is written as %s and read as %s", w.Number(), typeName(w), typeName(r))
		return
	}
	if w.Enum() == nil || r.Enum() == nil {
		return
	}
	for i := range w.Enum().Values().Len() {
		v := w.Enum().Values().Get(i)
		if r.Enum().Values().ByNumber(v.Number()) == nil {
			p.found.add(path, "the reader's enum %s does not have the value %s = %d", r.Enum().FullName(), v.Name(), v.Number())
		}
	}
}

func shape(f protoreflect.FieldDescriptor) string {
	switch {
	case f.IsMap():
		return "a map"
	case f.IsList():
		return "repeated"
	}
	return "single"
}

// oneof is the name of the oneof that the field is in, "" for none.
func oneof(f protoreflect.FieldDescriptor) protoreflect.Name {
	if o := f.ContainingOneof(); o != nil && !o.IsSynthetic() {
		return o.Name()
	}
	return ""
}

// readable reports whether every value that w can have is read as the same value by r.
func readable(w, r protoreflect.FieldDescriptor) bool {
	if w.Kind() != r.Kind() {
		for _, wider := range [][2]protoreflect.Kind{
			{protoreflect.Int32Kind, protoreflect.Int64Kind}, {protoreflect.Sint32Kind, protoreflect.Sint64Kind},
			{protoreflect.Uint32Kind, protoreflect.Uint64Kind}, {protoreflect.Uint32Kind, protoreflect.Int64Kind},
			{protoreflect.StringKind, protoreflect.BytesKind}, {protoreflect.BoolKind, protoreflect.Uint32Kind},
			{protoreflect.BoolKind, protoreflect.Int32Kind},
		} {
			if w.Kind() == wider[0] && r.Kind() == wider[1] {
				return true
			}
		}
		return false
	}
	switch {
	case w.Message() != nil:
		return w.Message().FullName() == r.Message().FullName()
	case w.Enum() != nil:
		return w.Enum().FullName() == r.Enum().FullName()
	}
	return true
}
