package gk

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// What bounds a bench: it is a look at a deployment, not an attack on it.
const (
	maxBenchClients = 256
	maxBenchTime    = 10 * time.Minute
	maxBenchSize    = 1 << 20
	maxBenchBatch   = 10_000
	benchDrain      = 3 * time.Second // how long the subscriber waits for the last messages
)

type bench struct {
	Topic    topicArg      `arg:"" help:"The topic, as app/topic/version."`
	Duration time.Duration `short:"d" default:"5s" help:"How long, 10m at most."`
	Clients  int           `short:"c" default:"8" help:"Publishers at a time, 256 at most."`
	Size     int           `short:"s" default:"100" help:"Bytes of a message, 32 to 1 MiB."`
	Batch    int           `short:"b" default:"1" help:"Messages of a request, 10000 at most."`
	Ack      string        `enum:"all,local" default:"all" help:"all or local."`
	Group    string        `placeholder:"GROUP" help:"Subscribe as well, with this group from its position or the newest message, and measure from publish to arrival."`
	pubAddress
	subAddress
	caller
}

// benchReport is what bench shows. Latencies are in seconds.
type benchReport struct {
	Publish   load  `json:"publish"`
	Subscribe *load `json:"subscribe,omitempty"`
}

// load is what was measured on one side.
type load struct {
	Seconds           float64          `json:"seconds"`
	Requests          int64            `json:"requests,omitempty"`
	Messages          int64            `json:"messages"`
	MessagesPerSecond float64          `json:"messages_per_second"`
	BytesPerSecond    float64          `json:"bytes_per_second"`
	Errors            int64            `json:"errors"`
	ErrorsBy          map[string]int64 `json:"errors_by,omitempty"` // by code
	P50               float64          `json:"p50"`
	P90               float64          `json:"p90"`
	P99               float64          `json:"p99"`
	P999              float64          `json:"p999"`
	Max               float64          `json:"max"`
}

func (c *bench) validate() error {
	var faults []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, usagef(format, args...))
		}
	}
	check(c.Duration > 0 && c.Duration <= maxBenchTime, "--duration %v: must be above 0 and at most %v", c.Duration, maxBenchTime)
	check(c.Clients > 0 && c.Clients <= maxBenchClients, "--clients %d: must be 1 to %d", c.Clients, maxBenchClients)
	check(c.Size >= 32 && c.Size <= maxBenchSize, "--size %d: must be 32 to %d", c.Size, maxBenchSize)
	check(c.Batch > 0 && c.Batch <= maxBenchBatch, "--batch %d: must be 1 to %d", c.Batch, maxBenchBatch)
	check(c.Size*c.Batch <= 16<<20, "--size times --batch: %d bytes are over 16 MiB", c.Size*c.Batch)
	return errors.Join(faults...)
}

func (c *bench) Run(ctx context.Context, t *tool) error {
	if err := c.validate(); err != nil {
		return err
	}
	to, err := t.data(ctx, "pub", c.Pub, c.caller, c.Topic.App, "Pubkey")
	if err != nil {
		return err
	}
	r := &benchRun{bench: c, began: time.Now(), run: strconv.FormatInt(time.Now().UnixNano(), 36)}
	var reader *benchReader
	if c.Group != "" {
		from, err := t.data(ctx, "sub", c.Sub, c.caller, c.Topic.App, "Subkey")
		if err != nil {
			return err
		}
		if reader, err = r.subscribe(ctx, from); err != nil {
			return err
		}
	}
	report := benchReport{Publish: r.publish(ctx, to)}
	if reader != nil {
		report.Subscribe = reader.finish(ctx, report.Publish.Messages)
	}
	if err := report.show(t.out); err != nil {
		return err
	}
	if report.Publish.Errors > 0 || report.Publish.Messages == 0 {
		return fmt.Errorf("%d publishes failed: %v", report.Publish.Errors, report.Publish.ErrorsBy)
	}
	return nil
}

// benchRun is one bench. A message is "<run> <nanoseconds since began> xxx...", so that a subscriber knows it and its age.
type benchRun struct {
	*bench
	began time.Time
	run   string
}

// worker is one publisher and what it measured.
type worker struct {
	latency  histogram
	requests int64
	messages int64
	failed   int64
	by       map[string]int64
}

// publish puts the load on and measures it.
func (r *benchRun) publish(ctx context.Context, to *client) load {
	ctx, cancel := context.WithTimeout(ctx, r.Duration)
	defer cancel()
	start := time.Now()
	workers := make([]worker, r.Clients)
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() { r.work(ctx, to, &workers[i]) })
	}
	wg.Wait()
	return sum(workers, time.Since(start), r.Size)
}

// work publishes until ctx ends. A request under way then is given its time, so that every message has an outcome.
func (r *benchRun) work(ctx context.Context, to *client, w *worker) {
	w.by = map[string]int64{}
	req := request{method: http.MethodPost, path: at("/v1/msgs", r.Topic.Name, r.Topic.Ver), query: query("ack", r.Ack)}
	if r.Batch > 1 {
		req.query.Set("batch", "lines")
	}
	for ctx.Err() == nil {
		req.raw = r.fill(req.raw[:0])
		start := time.Now()
		a, err := to.do(context.WithoutCancel(ctx), req)
		w.latency.add(time.Since(start))
		w.requests++
		switch {
		case err != nil:
			w.failed += int64(r.Batch)
			w.by[codeOf(err)] += int64(r.Batch)
			if errors.As(err, new(*unreachableError)) {
				return // nobody there: asking as fast as possible tells nothing
			}
		case a.status == http.StatusMultiStatus:
			w.partly(a)
		default:
			w.messages += int64(r.Batch)
		}
	}
}

// partly counts a batch of which not all was stored.
func (w *worker) partly(a *answer) {
	var out struct {
		Results []struct {
			Error *problem `json:"error"`
		} `json:"results"`
	}
	if err := a.into(&out); err != nil {
		w.by["unreadable"]++
		return
	}
	for _, result := range out.Results {
		if result.Error == nil {
			w.messages++
			continue
		}
		w.failed++
		w.by[result.Error.Code]++
	}
}

// fill writes a request's messages.
func (r *benchRun) fill(b []byte) []byte {
	for i := range r.Batch {
		if i > 0 {
			b = append(b, '\n')
		}
		from := len(b)
		b = append(append(b, r.run...), ' ')
		b = append(strconv.AppendInt(b, int64(time.Since(r.began)), 10), ' ')
		for len(b)-from < r.Size {
			b = append(b, 'x')
		}
	}
	return b
}

// codeOf is the kind of a failure, of which there are few.
func codeOf(err error) string {
	var e *statusError
	switch {
	case !errors.As(err, &e):
		return "unreachable"
	case e.problem.Code != "":
		return e.problem.Code
	}
	return strconv.Itoa(e.status)
}

// sum adds up what the workers measured.
func sum(workers []worker, took time.Duration, size int) load {
	var all histogram
	l := load{Seconds: took.Seconds(), ErrorsBy: map[string]int64{}}
	for i := range workers {
		w := &workers[i]
		all.merge(&w.latency)
		l.Requests += w.requests
		l.Messages += w.messages
		l.Errors += w.failed
		for code, n := range w.by {
			l.ErrorsBy[code] += n
		}
	}
	l.rates(size)
	l.latencies(&all)
	return l
}

func (l *load) rates(size int) {
	if l.Seconds > 0 {
		l.MessagesPerSecond = float64(l.Messages) / l.Seconds
		l.BytesPerSecond = l.MessagesPerSecond * float64(size)
	}
}

func (l *load) latencies(h *histogram) {
	l.P50, l.P90 = h.quantile(0.5).Seconds(), h.quantile(0.9).Seconds()
	l.P99, l.P999 = h.quantile(0.99).Seconds(), h.quantile(0.999).Seconds()
	l.Max = h.max.Seconds()
}

// benchReader reads the stream of a group in a goroutine of its own.
type benchReader struct {
	stop context.CancelFunc
	done chan struct{} // closed when the goroutine ends

	mu      sync.Mutex
	heard   chan struct{} // closed at the next message of this run
	latency histogram
	got     int64
	first   time.Time
	last    time.Time
	size    int
	wait    time.Duration // how long a silence is taken for the end
}

// subscribe opens the stream. When it returns, the group has its position: nothing that is published after it is missed.
func (r *benchRun) subscribe(ctx context.Context, from *client) (*benchReader, error) {
	ctx, cancel := context.WithCancel(ctx)
	resp, err := from.open(ctx, request{ //nolint:bodyclose // the goroutine below closes it
		method: http.MethodGet, path: at("/v1/stream", r.Topic.path()...), query: query("group", r.Group, "reset", "newest"),
		header: http.Header{"Accept": {"application/x-ndjson"}},
	})
	if err != nil {
		cancel()
		return nil, err
	}
	b := &benchReader{stop: cancel, done: make(chan struct{}), heard: make(chan struct{}), size: r.Size, wait: benchDrain}
	go func() {
		defer close(b.done)
		defer resp.Body.Close()
		in := bufio.NewReaderSize(resp.Body, 256<<10)
		for {
			line, err := readLine(in)
			if sent, ours := r.age(line); ours {
				b.note(time.Since(r.began.Add(sent)))
			}
			if err != nil {
				return
			}
		}
	}()
	return b, nil
}

// age is when a message of this run was made, counted from its begin.
func (r *benchRun) age(line []byte) (sent time.Duration, ours bool) {
	if !bytes.Contains(line, []byte(r.run)) {
		return 0, false
	}
	var m message
	if json.Unmarshal(line, &m) != nil {
		return 0, false
	}
	part := strings.SplitN(m.value(), " ", 3)
	if len(part) < 3 || part[0] != r.run {
		return 0, false
	}
	n, err := strconv.ParseInt(part[1], 10, 64)
	return time.Duration(n), err == nil
}

func (b *benchReader) note(latency time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last = time.Now()
	if b.got == 0 {
		b.first = b.last
	}
	b.got++
	b.latency.add(latency)
	close(b.heard)
	b.heard = make(chan struct{})
}

// finish waits until all that was published has come, or nothing comes any more.
func (b *benchReader) finish(ctx context.Context, published int64) *load {
	defer func() { b.stop(); <-b.done }()
	for {
		b.mu.Lock()
		got, heard := b.got, b.heard
		b.mu.Unlock()
		if got >= published {
			break
		}
		quiet := time.NewTimer(b.wait)
		select {
		case <-heard:
			quiet.Stop()
			continue
		case <-quiet.C:
		case <-b.done:
		case <-ctx.Done():
		}
		quiet.Stop()
		break
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	l := &load{Messages: b.got, Errors: max(published-b.got, 0), Seconds: b.last.Sub(b.first).Seconds()}
	l.rates(b.size)
	l.latencies(&b.latency)
	return l
}

func (r *benchReport) show(o *output) error {
	if o.json {
		return o.value(r)
	}
	o.begin("SIDE", "MESSAGES", "MESSAGES/S", "MB/S", "ERRORS", "P50", "P90", "P99", "P99.9", "MAX")
	row := func(side string, l *load) {
		o.row(side, l.Messages, l.MessagesPerSecond, l.BytesPerSecond/1e6, l.Errors, ms(l.P50), ms(l.P90), ms(l.P99), ms(l.P999), ms(l.Max))
	}
	row("publish", &r.Publish)
	if r.Subscribe != nil {
		row("subscribe", r.Subscribe)
	}
	return o.flush()
}

// ms is a duration in seconds, for people.
func ms(seconds float64) string { return fmt.Sprintf("%.2fms", seconds*1e3) }
