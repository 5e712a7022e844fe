package gateway

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/DeRuina/timberjack"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/kateway/kateway/internal/httpx"
)

const (
	accessFileMB  = 100
	accessFiles   = 10
	accessQueue   = 16 << 10 // lines that wait for the disk; the next is left out, and counted
	maxAccessText = 1 << 10  // bytes of what a client says, in a line
)

// accessLog writes a line per request that is over. It has no query, since keys of messages and tokens stand there, and no
// header but the user agent. A goroutine of its own writes, so that no request waits for the disk.
type accessLog struct {
	combined bool
	log      *slog.Logger
	file     *timberjack.Logger
	lines    chan []byte
	ended    sync.WaitGroup

	mu     sync.Mutex
	closed bool
	lost   int
}

// openAccessLog opens the one that the configuration names; nil where it names none.
func openAccessLog(c *Config, log *slog.Logger) (*accessLog, error) {
	if c.AccessLog == "" {
		return nil, nil //nolint:nilnil // there is none
	}
	f, err := os.OpenFile(filepath.Clean(c.AccessLog), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("access log: %w", err)
	}
	a := &accessLog{
		combined: c.AccessLogFormat == "combined", log: log, lines: make(chan []byte, accessQueue),
		file: &timberjack.Logger{Filename: c.AccessLog, MaxSize: accessFileMB, MaxBackups: accessFiles, Compression: "none", FileMode: 0o600},
	}
	a.ended.Go(a.write)
	return a, nil
}

func (a *accessLog) write() {
	out := bufio.NewWriterSize(a.file, 64<<10)
	for line := range a.lines {
		_, err := out.Write(line)
		if len(a.lines) == 0 {
			err = errors.Join(err, out.Flush())
		}
		if err != nil {
			a.log.Error("the access log can't be written", "error", err)
			out.Reset(a.file)
		}
	}
}

// put queues a line. When the disk does not keep up it is left out: requests are not held up for it.
func (a *accessLog) put(line []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return
	}
	select {
	case a.lines <- line:
		if a.lost > 0 {
			a.log.Warn("lines of the access log were left out: the disk did not keep up", "lines", a.lost)
			a.lost = 0
		}
	default:
		a.lost++
	}
}

// close writes what is queued. On nil it does nothing.
func (a *accessLog) close(context.Context) error {
	if a == nil {
		return nil
	}
	a.mu.Lock()
	if !a.closed {
		a.closed = true
		close(a.lines)
	}
	a.mu.Unlock()
	a.ended.Wait()
	return a.file.Close()
}

// accessed writes the requests of a route to the access log, on the way to its observer.
type accessed struct {
	httpx.Observer
	log *accessLog
}

// Observe is httpx.Observer's.
func (a accessed) Observe(r *http.Request, route string, status int, bytes int64, took time.Duration) {
	a.Observer.Observe(r, route, status, bytes, took)
	now := time.Now()
	if a.log.combined {
		a.log.put(appendCombined(nil, r, status, bytes, now.Add(-took)))
		return
	}
	a.log.put(appendAccess(nil, r, status, bytes, now.Add(-took), took))
}

// appendAccess appends a line of JSON.
func appendAccess(dst []byte, r *http.Request, status int, bytes int64, at time.Time, took time.Duration) []byte {
	text := func(name, value string) {
		if value != "" {
			dst = append(append(append(dst, `,"`...), name...), `":`...)
			dst, _ = jsontext.AppendQuote(dst, strings.ToValidUTF8(cut(value, maxAccessText), "\ufffd")) // fails on invalid UTF-8 only
		}
	}
	dst = at.UTC().AppendFormat(append(dst, `{"time":"`...), "2006-01-02T15:04:05.000Z07:00")
	dst = append(dst, '"')
	text("remote", r.RemoteAddr)
	text("app", httpx.Caller(r.Context()))
	text("method", r.Method)
	text("path", r.URL.EscapedPath())
	text("proto", r.Proto)
	dst = strconv.AppendInt(append(dst, `,"status":`...), int64(status), 10)
	dst = strconv.AppendInt(append(dst, `,"bytes":`...), bytes, 10)
	dst = strconv.AppendFloat(append(dst, `,"seconds":`...), took.Seconds(), 'f', 6, 64)
	text("user_agent", r.UserAgent())
	text("request_id", httpx.RequestID(r.Context()))
	return append(dst, "}\n"...)
}

// appendCombined appends a line of the combined format of web servers: host, -, app, time, request line, status, bytes,
// referer (never) and user agent.
func appendCombined(dst []byte, r *http.Request, status int, bytes int64, at time.Time) []byte {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = "-"
	}
	app := httpx.Caller(r.Context())
	if app == "" {
		app = "-"
	}
	dst = append(append(append(append(dst, host...), " - "...), app...), " ["...)
	dst = append(at.AppendFormat(dst, "02/Jan/2006:15:04:05 -0700"), `] "`...)
	dst = append(appendQuoted(dst, r.Method), ' ')
	dst = append(appendQuoted(dst, r.URL.EscapedPath()), ' ')
	dst = append(append(dst, r.Proto...), `" `...)
	dst = append(strconv.AppendInt(dst, int64(status), 10), ' ')
	dst = append(strconv.AppendInt(dst, bytes, 10), ` "-" "`...)
	return append(appendQuoted(dst, r.UserAgent()), "\"\n"...)
}

// appendQuoted appends what a client said so that it can end neither the quotes nor the line, as Apache does.
func appendQuoted(dst []byte, s string) []byte {
	const digits = "0123456789abcdef"
	for _, c := range []byte(s[:min(len(s), maxAccessText)]) {
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c < ' ' || c > '~':
			dst = append(dst, '\\', 'x', digits[c>>4], digits[c&15])
		default:
			dst = append(dst, c)
		}
	}
	return dst
}
