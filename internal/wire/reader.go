package wire

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// ObjectReader reads messages from their JSON objects, one per line. The zero value is ready. Not for concurrent use; what
// it made stays good when it is used again.
type ObjectReader struct {
	dec     jsontext.Decoder
	src     bytes.Buffer
	bytes   []byte            // unescaped and decoded bytes go here, one after the other
	headers []store.Header    // and headers here
	names   map[string]string // names seen, so that the same few are not made again for each message
}

// maxNames bounds ObjectReader.names.
const maxNames = 64

// Read fills m from the object in line. Key, value and headers may share line's bytes, which nobody may change after. A
// value that is no string is stored as its JSON, byte for byte; null is a tombstone. An empty key is no key; without a
// partition m.Partition is AnyPartition. What a consumed object has beside the record (offset, timestamp, topic, attempt,
// receipt, cursor) is passed over, so that a consumed line can be published again.
//
// Kind InvalidBody, with the reason in the text, for everything else: a field that is not known or comes twice (at any
// depth), none or both of value and value_base64, nesting beyond MaxDepth, text that is no UTF-8.
func (r *ObjectReader) Read(line []byte, m *store.Message) error {
	*m = store.Message{Partition: store.AnyPartition}
	if err := r.read(line, m); err != nil {
		return fmt.Errorf("%w: %w", clip(err), errs.InvalidBody)
	}
	return nil
}

func (r *ObjectReader) read(line []byte, m *store.Message) error {
	if err := CheckDepth(line); err != nil {
		return err
	}
	r.src = *bytes.NewBuffer(line)
	r.dec.Reset(&r.src)
	if r.dec.PeekKind() != '{' {
		return r.misfit("must be a JSON object")
	}
	if _, err := r.dec.ReadToken(); err != nil {
		return err
	}
	begin := len(r.headers)
	var seen fields
	for r.dec.PeekKind() != '}' {
		if err := r.readField(line, m, &seen); err != nil {
			return err
		}
	}
	if _, err := r.dec.ReadToken(); err != nil {
		return err
	}
	if r.dec.PeekKind() != 0 || len(trimSpace(line[r.dec.InputOffset():])) > 0 {
		return errors.New("something follows the object")
	}
	if n := len(r.headers); n > begin {
		m.Headers = r.headers[begin:n:n]
	}
	return seen.check()
}

// fields notes which of the alternatives were there.
type fields struct{ key, keyBase64, value, valueBase64 bool }

func (f fields) check() error {
	switch {
	case f.key && f.keyBase64:
		return errors.New("key and key_base64 exclude each other")
	case f.value && f.valueBase64:
		return errors.New("value and value_base64 exclude each other")
	case !f.value && !f.valueBase64:
		return errors.New(`value is missing ("value":null stores a tombstone)`)
	}
	return nil
}

func (r *ObjectReader) readField(line []byte, m *store.Message, seen *fields) error {
	name, err := r.readName()
	if err != nil {
		return err
	}
	if name == "headers" || name == "headers_base64" {
		if err := r.readHeaders(line, name == "headers_base64"); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	}
	v, err := r.readValue(line)
	if err != nil {
		return err
	}
	switch name {
	case "key":
		seen.key = true
		m.Key, err = r.key(v, false)
	case "key_base64":
		seen.keyBase64 = true
		m.Key, err = r.key(v, true)
	case "value":
		seen.value = true
		m.Value, err = r.value(v)
	case "value_base64":
		seen.valueBase64 = true
		m.Value, err = r.text(v, true)
	case "partition":
		m.Partition, err = partition(v)
	case "offset", "timestamp", "topic", "attempt", "receipt", "cursor":
	default:
		return fmt.Errorf("unknown field %.64q", name)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// readName reads the name of an object's member.
func (r *ObjectReader) readName() (string, error) {
	quoted, err := r.dec.ReadValue()
	if err != nil {
		return "", err
	}
	name, err := r.unquote(quoted)
	if err != nil {
		return "", err
	}
	if known, ok := r.names[string(name)]; ok {
		return known, nil
	}
	s := string(name)
	if len(r.names) < maxNames && len(s) <= 64 {
		if r.names == nil {
			r.names = make(map[string]string, maxNames)
		}
		r.names[s] = s
	}
	return s, nil
}

// readValue reads a value as a part of src, without surrounding space.
func (r *ObjectReader) readValue(src []byte) ([]byte, error) {
	v, err := r.dec.ReadValue()
	if err != nil {
		return nil, err
	}
	end := int(r.dec.InputOffset())
	return src[end-len(v) : end : end], nil
}

// unquote gives the text of a JSON string: a part of it where nothing is escaped.
func (r *ObjectReader) unquote(quoted []byte) ([]byte, error) {
	inner := quoted[1 : len(quoted)-1]
	if bytes.IndexByte(inner, '\\') < 0 {
		return inner[:len(inner):len(inner)], nil
	}
	r.grow(len(inner))
	begin := len(r.bytes)
	var err error
	r.bytes, err = jsontext.AppendUnquote(r.bytes, quoted)
	return r.bytes[begin:len(r.bytes):len(r.bytes)], err
}

// grow makes room for n bytes at once, so that what was handed out stays where it is and pins little. r.bytes is not nil
// after: no bytes at all must not become a tombstone.
func (r *ObjectReader) grow(n int) {
	if r.bytes == nil || cap(r.bytes)-len(r.bytes) < n {
		r.bytes = make([]byte, 0, max(n, 4<<10))
	}
}

// text is the bytes of a JSON string, decoded from base64 if asked.
func (r *ObjectReader) text(v []byte, isBase64 bool) ([]byte, error) {
	if v[0] != '"' {
		return nil, errors.New("must be a string")
	}
	b, err := r.unquote(v)
	if err != nil || !isBase64 {
		return b, err
	}
	r.grow(base64.StdEncoding.DecodedLen(len(b)))
	begin := len(r.bytes)
	r.bytes, err = base64.StdEncoding.Strict().AppendDecode(r.bytes, b)
	if err != nil {
		return nil, errors.New("must be base64 with padding (RFC 4648, section 4)")
	}
	return r.bytes[begin:len(r.bytes):len(r.bytes)], nil
}

// Element is what an element of a JSON array is as a message: the text of a string, the JSON of anything else, byte for
// byte. It may share v's bytes. v must be valid JSON without surrounding space, as [EachElement] gives it.
func (r *ObjectReader) Element(v []byte) (value []byte, isText bool, err error) {
	if v[0] != '"' {
		return v, false, nil
	}
	b, err := r.unquote(v)
	if err != nil {
		return nil, true, fmt.Errorf("%w: %w", clip(err), errs.InvalidBody)
	}
	return b, true, nil
}

func (r *ObjectReader) key(v []byte, isBase64 bool) ([]byte, error) {
	if string(v) == "null" {
		return nil, nil
	}
	b, err := r.text(v, isBase64)
	if len(b) == 0 {
		return nil, err
	}
	return b, err
}

func (r *ObjectReader) value(v []byte) ([]byte, error) {
	switch v[0] {
	case 'n':
		return nil, nil
	case '"':
		return r.text(v, false)
	}
	return v, nil
}

func partition(v []byte) (int32, error) {
	n, err := strconv.ParseInt(string(v), 10, 32)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("must be a whole number from 0 to %d", 1<<31-1)
	}
	return int32(n), nil
}

// readHeaders reads {"name":"value","name":["value",...]}.
func (r *ObjectReader) readHeaders(line []byte, isBase64 bool) error {
	if r.dec.PeekKind() != '{' {
		return r.misfit("must be an object")
	}
	if _, err := r.dec.ReadToken(); err != nil {
		return err
	}
	for r.dec.PeekKind() != '}' {
		name, err := r.readName()
		if err != nil {
			return err
		}
		if err := r.readHeader(line, name, isBase64); err != nil {
			return fmt.Errorf("%.64q: %w", name, err)
		}
	}
	_, err := r.dec.ReadToken()
	return err
}

func (r *ObjectReader) readHeader(line []byte, name string, isBase64 bool) error {
	switch r.dec.PeekKind() {
	case '"':
		return r.addHeader(line, name, isBase64)
	case '[':
	default:
		return r.misfit("must be a string or an array of strings")
	}
	if _, err := r.dec.ReadToken(); err != nil {
		return err
	}
	for r.dec.PeekKind() != ']' {
		if err := r.addHeader(line, name, isBase64); err != nil {
			return err
		}
	}
	_, err := r.dec.ReadToken()
	return err
}

func (r *ObjectReader) addHeader(line []byte, name string, isBase64 bool) error {
	v, err := r.readValue(line)
	if err != nil {
		return err
	}
	b, err := r.text(v, isBase64)
	if err != nil {
		return err
	}
	r.headers = append(r.headers, store.Header{Key: name, Value: b})
	return nil
}

// misfit is the error for a value of the wrong type, or for what is no value at all.
func (r *ObjectReader) misfit(text string) error {
	if _, err := r.dec.ReadValue(); err != nil {
		return err
	}
	return errors.New(text)
}

// EachElement calls f with each element of the JSON array in src, a part of src without surrounding space, and stops at the
// first error. What is no JSON array or nested beyond MaxDepth is InvalidBody.
func EachElement(src []byte, f func(i int, element []byte) error) error {
	if err := CheckDepth(src); err != nil {
		return fmt.Errorf("%w: %w", err, errs.InvalidBody)
	}
	dec := jsontext.NewDecoder(bytes.NewBuffer(src))
	if dec.PeekKind() != '[' {
		return fmt.Errorf("must be a JSON array: %w", errs.InvalidBody)
	}
	bad := func(err error) error { return fmt.Errorf("%w: %w", clip(err), errs.InvalidBody) }
	if _, err := dec.ReadToken(); err != nil {
		return bad(err)
	}
	for i := 0; dec.PeekKind() != ']'; i++ {
		v, err := dec.ReadValue()
		if err != nil {
			return bad(err)
		}
		end := int(dec.InputOffset())
		if err := f(i, src[end-len(v):end:end]); err != nil {
			return err
		}
	}
	if _, err := dec.ReadToken(); err != nil {
		return bad(err)
	}
	if len(trimSpace(src[dec.InputOffset():])) > 0 {
		return fmt.Errorf("something follows the array: %w", errs.InvalidBody)
	}
	return nil
}

// CheckDepth refuses JSON that is nested beyond MaxDepth.
func CheckDepth(src []byte) error {
	if depth, _ := look(src); depth > MaxDepth {
		return fmt.Errorf("JSON is nested %d deep, %d at most", depth, MaxDepth)
	}
	return nil
}

// clip keeps what a client wrote from making an error's text long.
func clip(err error) error {
	if s := err.Error(); len(s) > 256 {
		return errors.New(s[:256] + "...")
	}
	return err
}
