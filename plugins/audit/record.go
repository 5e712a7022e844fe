package audit

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/httpx"
	"github.com/kateway/kateway/plugins"
	"github.com/kateway/kateway/store"
)

// record is a line of the log.
type record struct {
	Seq       int64     `json:"seq"` // of this file's writer, without gaps
	Time      time.Time `json:"time"`
	Gateway   string    `json:"gateway"`
	Event     string    `json:"event"`
	App       string    `json:"app,omitempty"`    // who it was; "" where that was not shown
	Claims    string    `json:"claims,omitempty"` // who it said to be, where that was not shown
	KeyID     string    `json:"key,omitempty"`    // which key was shown
	Role      string    `json:"role,omitempty"`
	Action    string    `json:"action,omitempty"`
	Topic     string    `json:"topic,omitempty"`
	Group     string    `json:"group,omitempty"`
	Remote    string    `json:"remote,omitempty"`
	RequestID string    `json:"request_id,omitempty"`
	Messages  int64     `json:"messages,omitempty"`
	Bytes     int64     `json:"bytes,omitempty"`
	Offsets   []string  `json:"offsets,omitempty"` // <partition>:<first>-<last>, or <partition>:<offset>
	Failed    int64     `json:"failed,omitempty"`  // messages, of a batch or a WebSocket
	Result    string    `json:"result"`            // ok, goes_on, or the code of the error
	Took      string    `json:"took,omitempty"`
}

// tally is what went over a call since its last record.
type tally struct {
	of    *Plugin
	ctx   context.Context //nolint:containedctx // the call's, for the last record
	call  *plugins.Call
	began time.Time

	mu       sync.Mutex
	messages int64
	bytes    int64
	ranges   []span
	failures int64
	why      errs.Kind // of the last failure
	told     time.Time // when the last record of a part was written
}

// span is a run of offsets.
type span struct {
	partition   int32
	first, last int64
}

// End is plugins.Ender's.
func (t *tally) End(err error) { t.of.put(t.ctx, t.record(t.ctx, err, true)) }

func (t *tally) add(m *store.Message) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.messages++
	t.bytes += int64(len(m.Key) + len(m.Value))
	for i := len(t.ranges) - 1; i >= 0 && i >= len(t.ranges)-8; i-- { // partitions take turns
		if s := &t.ranges[i]; s.partition == m.Partition && s.last+1 == m.Offset {
			s.last++
			return
		}
	}
	t.ranges = append(t.ranges, span{m.Partition, m.Offset, m.Offset})
}

func (t *tally) failed(why errs.Kind) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failures++
	t.why = why
}

// due reports whether a record of a part is to be written: the call lasts, or has become long to tell of.
func (t *tally) due(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	last := t.told
	if last.IsZero() {
		last = t.began
	}
	return len(t.ranges) >= maxRanges || t.call.Lasting && now.Sub(last) >= partEvery
}

// record makes a record of what there was since the last one, and begins anew.
func (t *tally) record(ctx context.Context, err error, over bool) *record {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.call
	r := &record{
		Time: now.UTC(), Event: events[c.Op], App: c.App, KeyID: c.KeyID, Topic: name(c), Group: c.Group, Remote: c.Remote,
		RequestID: httpx.RequestID(ctx), Messages: t.messages, Bytes: t.bytes, Failed: t.failures, Result: result(err),
	}
	if c.App == "" && c.Header != nil {
		r.Claims = short(c.Header.Get("Appid"))
	}
	for _, s := range t.ranges {
		r.Offsets = append(r.Offsets, s.String())
	}
	switch {
	case !over:
		r.Result = "goes_on"
	case err == nil && t.failures > 0 && t.messages == 0:
		r.Result = t.why.Code()
	}
	if over {
		r.Took = now.Sub(t.began).Round(time.Microsecond).String()
	}
	t.messages, t.bytes, t.ranges, t.failures, t.told = 0, 0, t.ranges[:0], 0, now
	return r
}

func (s span) String() string {
	text := strconv.Itoa(int(s.partition)) + ":" + strconv.FormatInt(s.first, 10)
	if s.last > s.first {
		text += "-" + strconv.FormatInt(s.last, 10)
	}
	return text
}
