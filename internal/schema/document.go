package schema

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// maxNumber and maxExponent bound a number, since it is compared exactly: 1e999999999 would fill the memory.
const (
	maxNumber   = 1000
	maxExponent = 400
	// maxValues is how many values a message may have: each costs many times its bytes while it is checked.
	maxValues = 200_000
)

// document reads JSON into what the library checks: maps, slices, strings, json.Number, bool and nil. A name that is there
// twice is refused, since others may read the other one; and what is nested deeper than depth.
func document(text []byte, depth int) (any, error) {
	d := &reader{jsontext.NewDecoder(bytes.NewBuffer(text)), maxValues}
	v, err := d.element(depth)
	if err != nil {
		return nil, err
	}
	if d.InputOffset() < int64(len(text)) && len(bytes.TrimLeft(text[d.InputOffset():], " \t\r\n")) > 0 {
		return nil, errors.New("there is more behind the JSON value")
	}
	return v, nil
}

// reader is a decoder with so many values to go.
type reader struct {
	*jsontext.Decoder
	left int
}

func (d *reader) element(depth int) (any, error) {
	if d.left--; d.left < 0 {
		return nil, fmt.Errorf("it has more than %d values", maxValues)
	}
	if k := d.PeekKind(); (k == '{' || k == '[') && depth == 0 {
		return nil, errors.New("it is nested too deep")
	}
	t, err := d.ReadToken()
	if err != nil {
		return nil, errors.New(strings.TrimPrefix(err.Error(), "jsontext: "))
	}
	switch t.Kind() {
	case 'n':
		return nil, nil
	case 't', 'f':
		return t.Bool(), nil
	case '"':
		return t.String(), nil
	case '0':
		return number(t.String())
	case '[':
		return d.array(depth - 1)
	default:
		return d.object(depth - 1)
	}
}

func number(s string) (json.Number, error) {
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		if e, err := strconv.Atoi(s[i+1:]); err != nil || e > maxExponent || e < -maxExponent {
			return "", fmt.Errorf("the exponent of a number is beyond %d", maxExponent)
		}
	}
	if len(s) > maxNumber {
		return "", fmt.Errorf("a number has more than %d digits", maxNumber)
	}
	return json.Number(s), nil
}

func (d *reader) array(depth int) (any, error) {
	list := []any{}
	for d.PeekKind() != ']' {
		v, err := d.element(depth)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	_, err := d.ReadToken()
	return list, err
}

func (d *reader) object(depth int) (any, error) {
	members := map[string]any{}
	for d.PeekKind() != '}' {
		name, err := d.ReadToken()
		if err != nil {
			return nil, errors.New(strings.TrimPrefix(err.Error(), "jsontext: "))
		}
		key := name.String()
		if members[key], err = d.element(depth); err != nil {
			return nil, err
		}
	}
	_, err := d.ReadToken()
	return members, err
}

// pointer is a JSON pointer of the parts.
func pointer(parts ...string) string {
	var b strings.Builder
	for _, p := range parts {
		b.WriteByte('/')
		b.WriteString(strings.ReplaceAll(strings.ReplaceAll(p, "~", "~0"), "/", "~1"))
	}
	return b.String()
}
