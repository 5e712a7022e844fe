package gateway

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"unicode"
	"unicode/utf8"
)

// What a log line may hold of one value. Clients choose many of them.
const (
	maxField = 1 << 10
	maxStack = 16 << 10
)

// NewLogger writes lines of text or JSON, as format says. Whatever a value holds, it stays within its line: control
// characters are escaped, what is no UTF-8 is replaced, long values are cut.
func NewLogger(w io.Writer, level slog.Leveler, format string) *slog.Logger {
	o := &slog.HandlerOptions{Level: level, ReplaceAttr: replace}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

func replace(_ []string, a slog.Attr) slog.Attr {
	limit := maxField
	if a.Key == "stack" {
		limit = maxStack
	}
	switch v := a.Value.Resolve(); v.Kind() {
	case slog.KindString:
		a.Value = slog.StringValue(clean(v.String(), limit, a.Key == "stack"))
	case slog.KindDuration:
		a.Value = slog.StringValue(v.Duration().String()) // JSON would have nanoseconds
	case slog.KindAny:
		switch x := v.Any().(type) {
		case slog.Level: // the line's own
		case error:
			a.Value = slog.StringValue(clean(x.Error(), limit, false))
		default:
			a.Value = slog.StringValue(clean(fmt.Sprint(x), limit, false))
		}
	}
	return a
}

// clean makes s fit for a terminal and a line. Line ends of a stack are kept: the handlers escape them.
func clean(s string, limit int, lines bool) string {
	bad := func(r rune) bool {
		return r == utf8.RuneError || !unicode.IsPrint(r) && (!lines || r != '\n' && r != '\t')
	}
	if len(s) <= limit && strings.IndexFunc(s, bad) < 0 {
		return s
	}
	cutOff := len(s) > limit
	if cutOff {
		s = s[:limit]
	}
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == utf8.RuneError:
			b.WriteRune('\uFFFD')
		case bad(r) && r < 0x100:
			fmt.Fprintf(&b, `\x%02x`, r)
		case bad(r):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	if cutOff {
		b.WriteString("...")
	}
	return b.String()
}

// httpLog receives what net/http has to say, which are mostly clients' doings: a bad handshake, a broken connection.
type httpLog struct{ log *slog.Logger }

func (l httpLog) Write(b []byte) (int, error) {
	l.log.LogAttrs(context.Background(), slog.LevelDebug, "http server", slog.String("says", strings.TrimSpace(string(b))))
	return len(b), nil
}
