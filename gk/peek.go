package gk

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"
)

type peek struct {
	Topic     topicArg `arg:"" help:"The topic, as app/topic/version."`
	Partition *int32   `placeholder:"N" help:"Only this partition."`
	Offset    *int64   `placeholder:"N" help:"Where to begin. Without it at the oldest message."`
	N         int      `short:"n" name:"count" default:"10" placeholder:"N" help:"How many messages at most, up to 1000."`
}

const messageColumns = "PARTITION OFFSET TIMESTAMP KEY VALUE"

func (c *peek) Run(ctx context.Context, t *tool) error {
	q := query("n", strconv.Itoa(c.N))
	if c.Partition != nil {
		q.Set("partition", fmt.Sprint(*c.Partition))
	}
	if c.Offset != nil {
		q.Set("offset", fmt.Sprint(*c.Offset))
	}
	return list(t, t.messages(ctx, c.Topic, q), messageColumns, nil, message.cells)
}

func (m message) cells() []any {
	return []any{m.Partition, m.Offset, m.Timestamp, m.key(), m.value()}
}

// messages yields those that peek answers, as they come: a message may be as large as the gateway lets it, and there may be
// a thousand. An error ends it.
func (t *tool) messages(ctx context.Context, topic topicArg, q url.Values) iter.Seq2[json.RawMessage, error] {
	return func(yield func(json.RawMessage, error) bool) {
		ctx, cancel := context.WithTimeout(ctx, t.global.Timeout)
		defer cancel()
		r := request{method: http.MethodGet, path: at("/v1/peek", topic.path()...), query: q}
		resp, err := t.man.open(ctx, r)
		if err != nil {
			yield(nil, err)
			return
		}
		defer resp.Body.Close()
		d := json.NewDecoder(resp.Body)
		for _, want := range []json.Token{json.Delim('{'), "items", json.Delim('[')} {
			if got, err := d.Token(); err != nil || got != want {
				yield(nil, fmt.Errorf("%s: the answer is no list of messages", t.man.name(r)))
				return
			}
		}
		for d.More() {
			var m json.RawMessage
			if err := d.Decode(&m); err != nil {
				yield(nil, t.man.failed(ctx, r, fmt.Errorf("reading the answer: %w", err)))
				return
			}
			if !yield(m, nil) {
				return
			}
		}
		if _, err := d.Token(); err != nil { // the list's end: without it the answer was cut off
			yield(nil, t.man.failed(ctx, r, fmt.Errorf("reading the answer: %w", err)))
		}
	}
}

type tail struct {
	Topic topicArg      `arg:"" help:"The topic, as app/topic/version."`
	N     int64         `short:"n" name:"count" default:"10" placeholder:"N" help:"Begin with the last N of each partition."`
	Limit int64         `placeholder:"N" help:"End after N messages."`
	Every time.Duration `default:"500ms" help:"How often to look for new ones."`
}

// Help is the second paragraph of its --help.
func (tail) Help() string {
	return "With -o json there is one object per line, as it comes. Messages of different partitions have no order among each other."
}

// tailBatch is how many messages of a partition are asked for at once: what the gateway gives at most.
const tailBatch = 1000

// follower is where a tail is.
type follower struct {
	topic   topicArg
	next    map[int32]int64 // by partition
	last    int64           // how many of those that are there to show at the begin
	left    int64           // how many may still be shown; negative: any number
	started bool
}

func (c *tail) Run(ctx context.Context, t *tool) error {
	if c.N < 0 || c.Limit < 0 || c.Every <= 0 {
		return usagef("-n and --limit must not be negative, and --every must be above 0")
	}
	f := &follower{topic: c.Topic, next: map[int32]int64{}, last: c.N, left: c.Limit}
	if c.Limit == 0 {
		f.left = -1
	}
	tick := time.NewTicker(c.Every)
	defer tick.Stop()
	for {
		if err := f.round(ctx, t); err != nil {
			return ended(ctx, err)
		}
		if f.left == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// ended is how a command that runs until it is interrupted ends.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil //nolint:nilerr // what was asked of it is done
	}
	return err
}

// round shows what is new.
func (f *follower) round(ctx context.Context, t *tool) error {
	ranges, err := t.ranges(ctx, f.topic)
	if err != nil {
		return err
	}
	for _, r := range ranges {
		next, known := f.next[r.Partition]
		switch {
		case !known && !f.started:
			next = max(r.Start, r.End-f.last)
		case !known, next > r.End: // a new partition; or the topic was made anew
			next = r.Start
		}
		f.next[r.Partition] = next
	}
	f.started = true
	for _, r := range ranges {
		for f.next[r.Partition] < r.End && f.left != 0 {
			if err := f.fetch(ctx, t, r.Partition, r.End); err != nil {
				return err
			}
		}
	}
	return nil
}

// fetch shows the next messages of a partition, which has some below end.
func (f *follower) fetch(ctx context.Context, t *tool, partition int32, end int64) error {
	n := int64(tailBatch)
	if f.left > 0 {
		n = min(n, f.left)
	}
	q := query("partition", fmt.Sprint(partition), "offset", fmt.Sprint(f.next[partition]), "n", fmt.Sprint(n))
	count := int64(0)
	for r, err := range t.messages(ctx, f.topic, q) {
		if err != nil {
			return err
		}
		count++
		var m message
		if err := json.Unmarshal(r, &m); err != nil {
			return fmt.Errorf("a message that this version of gk does not know: %w", err)
		}
		f.next[partition] = max(f.next[partition], m.Offset+1)
		if f.left > 0 {
			f.left--
		}
		if err := t.out.line(r, m.cells()); err != nil {
			return err
		}
	}
	if count < n { // that was all: what is left below the end are offsets without a message
		f.next[partition] = max(f.next[partition], end)
	}
	return t.out.flush()
}

// ranges are the offsets that the partitions of a topic have. The management API tells them with the lag of a group; that
// of one which nobody uses is as good as any.
func (t *tool) ranges(ctx context.Context, topic topicArg) ([]groupPartition, error) {
	g, _, err := t.group(ctx, groupArg{Topic: topic, Group: "gk-tail"})
	if err != nil {
		return nil, err
	}
	byPartition := map[int32]groupPartition{}
	for _, p := range g.Partitions {
		byPartition[p.Partition] = p
	}
	out := make([]groupPartition, 0, len(byPartition))
	for _, p := range slices.Sorted(maps.Keys(byPartition)) {
		out = append(out, byPartition[p])
	}
	return out, nil
}
