package gk

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"
)

// rowsAtOnce is how many rows share their columns' widths; it bounds what a table holds in memory.
const rowsAtOnce = 1000

// output writes what a command has to show, as tables or as JSON. It has no lock: one goroutine writes.
type output struct {
	w     io.Writer
	json  bool
	table *tabwriter.Writer
	rows  int
	head  []any // of a list that nothing was written of yet
	err   error // the first of a write
}

func newOutput(w io.Writer, asJSON bool) *output {
	return &output{w: w, json: asJSON, table: tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)}
}

func (o *output) write(format string, args ...any) {
	if o.err == nil {
		_, o.err = fmt.Fprintf(o.w, format, args...)
	}
}

func (o *output) flush() error {
	if err := o.table.Flush(); o.err == nil {
		o.err = err
	}
	return o.err
}

// begin starts a list. Nothing is written until there is an element, or it is known that there is none: a list that can't be
// had leaves no head behind.
func (o *output) begin(columns ...string) { o.head, o.rows = toAny(columns), 0 }

// started writes the head, the first time, and answers whether it was.
func (o *output) started() bool {
	if o.head == nil {
		return false
	}
	head := o.head
	o.head = nil
	if o.json {
		o.write("[")
	} else {
		o.row(head...)
	}
	return true
}

// element adds one to the list: raw as JSON, or cells as a row. It answers the first error of writing.
func (o *output) element(raw json.RawMessage, cells []any) error {
	first := o.started()
	if !o.json {
		o.row(cells...)
		return o.err
	}
	var line bytes.Buffer
	if err := json.Compact(&line, raw); err != nil {
		return fmt.Errorf("the answer is no JSON: %w", err)
	}
	if !first {
		o.write(",")
	}
	o.write("\n%s", line.Bytes())
	return o.err
}

// made adds an element that gk itself made.
func (o *output) made(v any, cells ...any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("writing JSON: %w", err)
	}
	return o.element(raw, cells)
}

// end ends the list.
func (o *output) end() error {
	empty := o.started()
	if !o.json {
		return o.flush()
	}
	if !empty {
		o.write("\n")
	}
	o.write("]\n")
	return o.err
}

// row writes a row of a table. The widths are known when it is flushed.
func (o *output) row(cells ...any) {
	o.started()
	text := make([]string, len(cells))
	for i, c := range cells {
		text[i] = cell(c)
	}
	if o.err == nil {
		_, o.err = io.WriteString(o.table, strings.TrimRight(strings.Join(text, "\t"), "\t")+"\n")
	}
	if o.rows++; o.rows%rowsAtOnce == 0 && o.err == nil {
		o.err = o.table.Flush()
	}
}

// say tells a person that something was done; programs have the exit status.
func (o *output) say(text string) error {
	if !o.json {
		o.write("%s\n", printable(text))
	}
	return o.err
}

// object shows an answer of one object: as it is, or a row for each field, those of objects within by their path.
func (o *output) object(a *answer) error {
	if o.json {
		var b bytes.Buffer
		if err := json.Indent(&b, bytes.TrimSpace(a.body), "", "  "); err != nil {
			return fmt.Errorf("the answer is no JSON: %w", err)
		}
		o.write("%s\n", b.Bytes())
		return o.err
	}
	if err := o.fields("", a.body); err != nil {
		return err
	}
	if tag := strings.Trim(a.header.Get("ETag"), `"`); tag != "" {
		o.row("etag", tag)
	}
	return o.flush()
}

// fields writes a row for each field, in the order in which they stand.
func (o *output) fields(path string, object []byte) error {
	d := json.NewDecoder(bytes.NewReader(object))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return fmt.Errorf("the answer is no object: %.100q", object)
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return fmt.Errorf("the answer is no JSON: %w", err)
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return fmt.Errorf("the answer is no JSON: %w", err)
		}
		key := path + fmt.Sprint(name)
		if len(value) > 2 && value[0] == '{' {
			if err := o.fields(key+".", value); err != nil {
				return err
			}
			continue
		}
		o.row(key, plain(value))
	}
	return nil
}

// plain is a JSON value for people: a string without its quotes, a list with commas between.
func plain(value json.RawMessage) string {
	var s string
	if json.Unmarshal(value, &s) == nil && string(value) != "null" {
		return s
	}
	var list []json.RawMessage
	if json.Unmarshal(value, &list) == nil && list != nil {
		part := make([]string, len(list))
		for i, v := range list {
			part[i] = plain(v)
		}
		return strings.Join(part, ", ")
	}
	if len(value) == 0 || string(value) == "null" || string(value) == "{}" {
		return ""
	}
	return string(value)
}

// cell is a value as a table has it. An empty one is "-", so that columns can be cut apart.
func cell(v any) string {
	s := ""
	switch v := v.(type) {
	case string:
		s = printable(v)
	case time.Time:
		if !v.IsZero() {
			s = v.UTC().Format(time.RFC3339)
		}
	case *time.Time:
		if v != nil {
			s = v.UTC().Format(time.RFC3339)
		}
	case []string:
		s = printable(strings.Join(v, ","))
	case float64:
		s = strconv.FormatFloat(v, 'f', 1, 64)
	default:
		s = printable(fmt.Sprint(v))
	}
	if s == "" {
		return "-"
	}
	return s
}

// printable is text that does nothing to a terminal: what others wrote may hold escape sequences.
func printable(s string) string {
	if !strings.ContainsFunc(s, unsafeRune) && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if unsafeRune(r) {
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

func unsafeRune(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) && r != ' ' }

func toAny(list []string) []any {
	out := make([]any, len(list))
	for i, s := range list {
		out[i] = s
	}
	return out
}

// isTerminal reports whether a person looks at w.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// gap ends a table, so that another can follow.
func (o *output) gap() error {
	o.started()
	err := o.flush()
	o.write("\n")
	return err
}

// line shows one element of something that has no end: an object on a line by itself, or a row.
func (o *output) line(raw json.RawMessage, cells []any) error {
	if !o.json {
		o.row(cells...)
		return o.err
	}
	var b bytes.Buffer
	if err := json.Compact(&b, raw); err != nil {
		return fmt.Errorf("the answer is no JSON: %w", err)
	}
	o.write("%s\n", b.Bytes())
	return o.err
}

// value shows an object that gk itself made, as JSON.
func (o *output) value(v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("writing JSON: %w", err)
	}
	o.write("%s\n", b)
	return o.err
}
