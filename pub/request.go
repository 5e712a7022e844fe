package pub

import (
	"crypto/sha256"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/httpx"
	"github.com/kateway/kateway/internal/wire"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/plugins"
	"github.com/kateway/kateway/store"
)

const maxIdempotency = 128 // bytes of an Idempotency-Key

// request is a publish as its head has it.
type request struct {
	topic     meta.Topic
	counters  *counters // the topic's
	format    format
	encoding  encoding
	ack       store.Ack
	async     bool
	unspooled bool              // hh=n
	once      string            // the idempotency key, "" for none
	digest    [sha256.Size]byte // with once: of the messages as they came
	key       []byte
	partition int32
	headers   []store.Header
	call      *plugins.Call      // nil without plugins
	inspect   plugins.Inspection // nil where nothing looks at the messages
}

// parse reads the head: parameters, then headers. What the topic is called is known by then.
func (h *Handler) parse(r *http.Request, q *request) error {
	if err := h.parseQuery(r, q); err != nil {
		return err
	}
	var err error
	if q.encoding, err = parseEncoding(r); err != nil {
		return err
	}
	if q.once, err = idempotencyKey(r); err != nil {
		return err
	}
	if q.once != "" && (q.async || h.once == nil) {
		return fmt.Errorf("Idempotency-Key: can't be kept with async=1 or by this store: %w", errs.InvalidParam)
	}
	if q.headers, err = wire.RecordHeaders(r.Header); err != nil {
		return err
	}
	if q.format == formatObjects {
		q.dropType()
	}
	return nil
}

// dropType forgets the content type where it is that of the objects, not of what is in them.
func (q *request) dropType() {
	q.headers = slices.DeleteFunc(q.headers, func(h store.Header) bool { return h.Key == wire.ContentType })
}

// parseTopic reads the names, which are checked before anything else. The app is what the client claims to be.
func (h *Handler) parseTopic(r *http.Request, q *request) error {
	app, err := plugins.Caller(r)
	if err != nil {
		return err
	}
	t := meta.Topic{App: app, Name: httpx.Param(r, "topic"), Ver: httpx.Param(r, "ver")}
	if c, ok := h.metrics.known(t); ok {
		q.topic, q.counters = t, c // it was published to before, so its name is good
		return nil
	}
	q.topic, err = meta.ParseTopic(t.App, t.Name, t.Ver)
	return err
}

func (h *Handler) parseQuery(r *http.Request, q *request) error {
	if r.URL.RawQuery == "" {
		return nil
	}
	p, err := httpx.ParseQuery(r, "key", "partition", "ack", "async", "hh", "batch")
	if err != nil {
		return err
	}
	if q.format, err = parseFormat(p); err != nil {
		return err
	}
	if q.async, err = p.Flag("async"); err != nil {
		return err
	}
	return h.parseTarget(p, q)
}

// parseTarget reads where the messages are to go, and when they are there.
func (h *Handler) parseTarget(p httpx.Query, q *request) error {
	ack, err := p.OneOf("ack", "all", "local")
	if err != nil {
		return err
	}
	if ack == "local" {
		q.ack = store.AckLocal
	}
	if _, err = p.OneOf("hh", "n"); err != nil {
		return err
	}
	q.unspooled = p.Has("hh")
	partition, err := p.Int("partition", int64(store.AnyPartition), 0, math.MaxInt32)
	if err != nil {
		return err
	}
	q.partition = int32(partition)
	if key := p.Get("key"); key != "" {
		q.key = []byte(key)
	}
	return h.checkKey(q.key)
}

func (h *Handler) checkKey(key []byte) error {
	if len(key) > h.limits.Key {
		return fmt.Errorf("the key has %d bytes, %d at most: %w", len(key), h.limits.Key, errs.TooLarge)
	}
	return nil
}

// idempotencyKey is the header's value, "" where it is not given.
func idempotencyKey(r *http.Request) (string, error) {
	if r.Header["Idempotency-Key"] == nil {
		return "", nil
	}
	key, err := httpx.Header(r, "Idempotency-Key")
	if err != nil {
		return "", err
	}
	visible := !strings.ContainsFunc(key, func(c rune) bool { return c <= ' ' || c > '~' })
	if key == "" || len(key) > maxIdempotency || !visible {
		return "", fmt.Errorf("Idempotency-Key: must be 1 to %d visible ASCII characters: %w", maxIdempotency, errs.InvalidParam)
	}
	return key, nil
}

// encoding is a Content-Encoding.
type encoding uint8

const (
	identity encoding = iota
	gzipped
	zstandard
)

func parseEncoding(r *http.Request) (encoding, error) {
	s, err := httpx.Header(r, "Content-Encoding")
	if err != nil {
		return identity, err
	}
	switch strings.ToLower(s) {
	case "", "identity":
		return identity, nil
	case "gzip", "x-gzip":
		return gzipped, nil
	case "zstd":
		return zstandard, nil
	}
	return identity, fmt.Errorf("Content-Encoding %.64q: there are gzip and zstd, one of them at a time: %w", s, errs.UnsupportedEncoding)
}

// format is how the body holds the messages.
type format uint8

const (
	formatSingle format = iota
	formatArray
	formatLines
	formatFrames
	formatObjects
)

func parseFormat(p httpx.Query) (format, error) {
	if !p.Has("batch") {
		return formatSingle, nil
	}
	switch s := p.Get("batch"); s {
	case "array":
		return formatArray, nil
	case "lines":
		return formatLines, nil
	case "frames":
		return formatFrames, nil
	case "objects":
		return formatObjects, nil
	default:
		return formatSingle, fmt.Errorf("batch=%.64q: there are array, lines, frames and objects: %w", s, errs.UnsupportedEncoding)
	}
}
