package transform

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/kateway/kateway/internal/errs"
)

const (
	// any1 as a part of a path is every member or element.
	any1 = "*"
	// maxParts bounds a path.
	maxParts = 32
	// maxResult bounds what a value may become, in bytes: a short element may be replaced by a long one.
	maxResult = 16 << 20
)

// operation is what an edit does to what its path names.
type operation uint8

const (
	remove operation = iota
	rename
	mask
	redact
)

// edit is one change of JSON. Everything that it is not about stays, byte for byte.
type edit struct {
	what operation
	path []string
	with []byte // rename: the new name, in quotes; redact: the new value
	name string // rename: the new name
	keep int    // mask
}

// parsePath reads a JSON pointer in which * stands for any member or element.
func parsePath(s string) ([]string, error) {
	if s == "" || s[0] != '/' {
		return nil, fmt.Errorf("path %q: must be a JSON pointer, as /customer/mail or /items/*/note", s)
	}
	parts := strings.Split(s[1:], "/")
	if len(parts) > maxParts {
		return nil, fmt.Errorf("path %q: has more than %d parts", s, maxParts)
	}
	for i, p := range parts {
		bare := strings.ReplaceAll(strings.ReplaceAll(p, "~0", ""), "~1", "")
		if strings.Contains(bare, "~") || !utf8.ValidString(p) {
			return nil, fmt.Errorf("path %q: ~ is written as ~0, and / as ~1", s)
		}
		parts[i] = strings.ReplaceAll(strings.ReplaceAll(p, "~1", "/"), "~0", "~")
	}
	return parts, nil
}

// span is a part of the value and what takes its place.
type span struct {
	from, to int
	with     []byte
}

// walk is one pass of an edit over a value.
type walk struct {
	*edit
	d     *jsontext.Decoder
	spans []span
}

// apply is the value with the change; the same slice where nothing changes. An error where it is no JSON: then what a rule is
// to hide may be anywhere. A name that is there twice is taken each time.
func (e *edit) apply(value []byte) ([]byte, error) {
	w := walk{edit: e, d: jsontext.NewDecoder(bytes.NewBuffer(value), jsontext.AllowDuplicateNames(true))}
	if err := w.value(e.path); err != nil {
		return nil, notJSON(err)
	}
	if _, err := w.d.ReadToken(); err != io.EOF {
		return nil, errors.New("the value is no JSON: there is more behind it")
	}
	if len(w.spans) == 0 {
		return value, nil
	}
	size := len(value)
	for _, s := range w.spans {
		size += len(s.with) - (s.to - s.from)
	}
	if size > maxResult {
		return nil, fmt.Errorf("the value would have %d bytes, %d at most: %w", size, maxResult, errs.TooLarge)
	}
	out := make([]byte, 0, size)
	at := 0
	for _, s := range w.spans {
		out = append(append(out, value[at:s.from]...), s.with...)
		at = s.to
	}
	return append(out, value[at:]...), nil
}

// clash is a name that is taken.
type clash string

func (c clash) Error() string { return fmt.Sprintf("there is a member %q already", string(c)) }

// notJSON leaves out the library's words, in which a part of the value may stand.
func notJSON(err error) error {
	var taken clash
	if errors.As(err, &taken) {
		return err
	}
	return errors.New("the value is no JSON")
}

// value passes the next value, in which path is looked for.
func (w *walk) value(path []string) error {
	switch w.d.PeekKind() {
	case '{':
		return w.object(path)
	case '[':
		return w.array(path)
	}
	return w.d.SkipValue()
}

// item is a member or element of what is looked through.
type item struct {
	from, to int // of all of it
	hit      bool
}

func (w *walk) object(path []string) error {
	if _, err := w.d.ReadToken(); err != nil {
		return err
	}
	last := len(path) == 1
	var items []item
	renamed, taken := 0, 0
	for w.d.PeekKind() != '}' {
		quoted, err := w.d.ReadValue()
		if err != nil {
			return err
		}
		end := int(w.d.InputOffset())
		from := end - len(quoted)
		name, err := jsontext.AppendUnquote(nil, quoted)
		if err != nil {
			return err
		}
		hit := path[0] == any1 || path[0] == string(name)
		if last && w.what == rename && string(name) == w.name {
			taken++
		}
		switch {
		case hit && last && w.what == rename:
			renamed++
			w.spans = append(w.spans, span{from, end, w.with})
			err = w.d.SkipValue()
		default:
			err = w.child(path, hit)
		}
		if err != nil {
			return err
		}
		if last && w.what == remove {
			items = append(items, item{from, int(w.d.InputOffset()), hit})
		}
	}
	if _, err := w.d.ReadToken(); err != nil {
		return err
	}
	if renamed > 0 && (taken > 0 || renamed > 1) && path[0] != w.name {
		return clash(w.name)
	}
	w.removeItems(items)
	return nil
}

func (w *walk) array(path []string) error {
	if _, err := w.d.ReadToken(); err != nil {
		return err
	}
	var items []item
	for i := 0; w.d.PeekKind() != ']'; i++ {
		hit := path[0] == any1 || path[0] == strconv.Itoa(i)
		if len(path) == 1 && w.what == remove {
			v, err := w.d.ReadValue()
			if err != nil {
				return err
			}
			end := int(w.d.InputOffset())
			items = append(items, item{end - len(v), end, hit})
			continue
		}
		if err := w.child(path, hit && (len(path) > 1 || w.what != rename)); err != nil { // an element has no name
			return err
		}
	}
	if _, err := w.d.ReadToken(); err != nil {
		return err
	}
	w.removeItems(items)
	return nil
}

// child passes the value of a member, or an element. hit: the first part of the path names it.
func (w *walk) child(path []string, hit bool) error {
	switch {
	case !hit || len(path) == 1 && w.what == remove:
		return w.d.SkipValue()
	case len(path) > 1:
		return w.value(path[1:])
	}
	v, err := w.d.ReadValue()
	if err != nil {
		return err
	}
	end := int(w.d.InputOffset())
	with := w.with
	if w.what == mask {
		if with, err = w.masked(v); err != nil {
			return err
		}
	}
	if with != nil {
		w.spans = append(w.spans, span{end - len(v), end, with})
	}
	return nil
}

// removeItems takes those that were hit out, each with one comma.
func (w *walk) removeItems(items []item) {
	kept := false
	for i, it := range items {
		switch {
		case !it.hit:
			kept = true
		case kept:
			w.spans = append(w.spans, span{items[i-1].to, it.to, nil})
		case i+1 < len(items):
			w.spans = append(w.spans, span{it.from, items[i+1].from, nil})
		default:
			w.spans = append(w.spans, span{it.from, it.to, nil})
		}
	}
}

const stars = `"****"`

// masked is what is shown of a value; nil: it stays. Of a string its length can be told, of anything else nothing.
func (w *walk) masked(v jsontext.Value) ([]byte, error) {
	switch v.Kind() {
	case 'n':
		return nil, nil
	case '"':
	default:
		return []byte(stars), nil
	}
	text, err := jsontext.AppendUnquote(nil, v)
	if err != nil {
		return nil, err
	}
	runes := []rune(string(text))
	hidden := len(runes) - w.keep
	if hidden <= 0 {
		hidden = len(runes)
	}
	for i := range hidden {
		runes[i] = '*'
	}
	return jsontext.AppendQuote(nil, string(runes))
}
