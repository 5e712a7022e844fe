package gk

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
)

const (
	maxLine      = 16 << 20 // bytes; the gateway's own limit is lower, and its to tell
	maxBatch     = 1000     // lines in one request
	maxBatchSize = 1 << 20  // bytes from which on a request takes no further line
)

type publish struct {
	Topic topicArg `arg:"" help:"The topic, as app/topic/version."`
	Key   string   `placeholder:"KEY" help:"Partition key of all messages."`
	Ack   string   `enum:"all,local" default:"all" help:"all: each message is durable; local: the leader has it."`
	pubAddress
	caller
}

// Help is the second paragraph of its --help.
func (publish) Help() string {
	return "What is typed is published line by line; what comes faster goes in batches. Empty lines are skipped. It ends with 1 when a message was not stored, and says which line it was."
}

// tally is what came of the lines.
type tally struct {
	Published int64 `json:"published"`
	Failed    int64 `json:"failed"`
}

func (c *publish) Run(ctx context.Context, t *tool) error {
	to, err := t.data(ctx, "pub", c.Pub, c.caller, c.Topic.App, "Pubkey")
	if err != nil {
		return err
	}
	p := &lineWriter{client: to, tool: t, r: request{
		method: http.MethodPost, path: at("/v1/msgs", c.Topic.Name, c.Topic.Ver), query: query("batch", "lines", "key", c.Key, "ack", c.Ack),
	}}
	err = p.all(ctx, bufio.NewReaderSize(t.in, 64<<10))
	if t.out.json {
		return errors.Join(err, t.out.value(p.tally))
	}
	return errors.Join(err, t.out.say(fmt.Sprintf("%d messages published", p.Published)))
}

// lineWriter publishes lines.
type lineWriter struct {
	client *client
	tool   *tool
	r      request
	line   int64 // how many lines were read
	tally
}

// all publishes to the end of in. A request that fails as a whole ends it: the lines after it have to wait for their turn.
func (p *lineWriter) all(ctx context.Context, in *bufio.Reader) error {
	for {
		lines, err := p.batch(in)
		if len(lines) > 0 {
			if err := p.send(ctx, lines); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			if p.Failed > 0 {
				return fmt.Errorf("%d messages were not stored", p.Failed)
			}
			return nil
		case err != nil:
			return err
		case ctx.Err() != nil:
			return fmt.Errorf("interrupted after line %d", p.line)
		}
	}
}

// numbered is a line and its number.
type numbered struct {
	number int64
	text   []byte
}

// batch reads a line, and those that are at hand behind it: it waits for no other before these are published.
func (p *lineWriter) batch(in *bufio.Reader) ([]numbered, error) {
	var lines []numbered
	size := 0
	for {
		text, err := readLine(in)
		if err != nil && !errors.Is(err, io.EOF) {
			return lines, fmt.Errorf("line %d: %w", p.line+1, err)
		}
		if err == nil || len(text) > 0 {
			p.line++
		}
		if text = bytes.TrimSuffix(text, []byte("\r")); len(text) > 0 {
			lines = append(lines, numbered{p.line, text})
			size += len(text)
		}
		if err != nil || len(lines) >= maxBatch || size >= maxBatchSize || len(lines) > 0 && !lineAtHand(in) {
			return lines, err
		}
	}
}

// lineAtHand reports whether a whole line can be read without waiting.
func lineAtHand(in *bufio.Reader) bool {
	b, err := in.Peek(in.Buffered())
	return err == nil && bytes.IndexByte(b, '\n') >= 0
}

// readLine reads a line of at most maxLine bytes, without its end.
func readLine(in *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := in.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case len(line) > maxLine:
			return nil, fmt.Errorf("longer than %d bytes", maxLine)
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err != nil && !errors.Is(err, io.EOF):
			return nil, fmt.Errorf("reading standard input: %w", err)
		}
		return bytes.TrimSuffix(line, []byte("\n")), err
	}
}

// send publishes a batch and notes what came of each line.
func (p *lineWriter) send(ctx context.Context, lines []numbered) error {
	r := p.r
	r.raw = make([]byte, 0, 64)
	for _, l := range lines {
		r.raw = append(append(r.raw, l.text...), '\n')
	}
	a, err := p.client.do(ctx, r)
	if err != nil {
		p.Failed += int64(len(lines))
		return fmt.Errorf("lines %d to %d: %w", lines[0].number, lines[len(lines)-1].number, err)
	}
	var outcome struct {
		Results []struct {
			Error *problem `json:"error"`
		} `json:"results"`
	}
	if err := a.into(&outcome); err != nil {
		return err
	}
	if len(outcome.Results) != len(lines) {
		return fmt.Errorf("%d lines were sent and the gateway tells of %d", len(lines), len(outcome.Results))
	}
	for i, result := range outcome.Results {
		if result.Error == nil {
			p.Published++
			continue
		}
		p.Failed++
		fmt.Fprintf(p.tool.err, "gk: line %d: %s (%s)\n", lines[i].number, printable(result.Error.Detail), printable(result.Error.Code))
	}
	return nil
}

type subscribe struct {
	Topic topicArg `arg:"" help:"The topic, as app/topic/version."`
	Group string   `required:"" placeholder:"GROUP" help:"The consumer group."`
	Limit int64    `placeholder:"N" help:"End after N messages."`
	Reset string   `placeholder:"WHERE" help:"Where a group without a position begins: oldest, newest or a time."`
	subAddress
	caller
}

// Help is the second paragraph of its --help.
func (subscribe) Help() string {
	return "The bare values, one per line, byte for byte unless a terminal shows them; with -o json the JSON objects."
}

func (c *subscribe) Run(ctx context.Context, t *tool) error {
	from, err := t.data(ctx, "sub", c.Sub, c.caller, c.Topic.App, "Subkey")
	if err != nil {
		return err
	}
	q := query("group", c.Group, "reset", c.Reset)
	if c.Limit > 0 {
		q.Set("limit", fmt.Sprint(c.Limit))
	}
	form := "text/plain"
	if t.out.json {
		form = "application/x-ndjson"
	}
	resp, err := from.open(ctx, request{
		method: http.MethodGet, path: at("/v1/stream", c.Topic.path()...), query: q, header: http.Header{"Accept": {form}},
	})
	if err != nil {
		return ended(ctx, err)
	}
	defer resp.Body.Close()
	if err := copyLines(t.out, resp.Body, t.out.json); err != nil {
		return ended(ctx, fmt.Errorf("the stream broke off: %w", err))
	}
	if c.Limit == 0 && ctx.Err() == nil {
		return errors.New("the gateway ended the stream: it is stopping; the group goes on where it was")
	}
	return nil
}

// copyLines prints a stream as it comes: as it is, but for what a terminal would obey, and empty lines that are heartbeats.
func copyLines(o *output, stream io.Reader, heartbeats bool) error {
	if !isTerminal(o.w) && !heartbeats {
		if _, err := io.Copy(o.w, stream); err != nil {
			return fmt.Errorf("copying: %w", err)
		}
		return nil
	}
	in := bufio.NewReaderSize(stream, 64<<10)
	for {
		line, err := readLine(in)
		if len(line) > 0 && isTerminal(o.w) {
			o.write("%s\n", printable(string(line)))
		} else if len(line) > 0 {
			o.write("%s\n", line)
		}
		switch {
		case errors.Is(err, io.EOF):
			return o.err
		case err != nil || o.err != nil:
			return errors.Join(err, o.err)
		}
	}
}
