package manager

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/wire"
	"github.com/kateway/kateway/store"
)

// SpoolState is a gateway's spool in a few words.
type SpoolState struct {
	State    string     `json:"state"` // off, ok, full or failed
	Messages int64      `json:"messages"`
	Bytes    int64      `json:"bytes"`
	MaxBytes int64      `json:"max_bytes"`
	Oldest   *time.Time `json:"oldest,omitempty"` // when the oldest message was accepted
	Late     bool       `json:"late"`             // it waits for longer than it should
	Aside    int64      `json:"aside"`            // messages that the store refuses for good
	Detail   string     `json:"detail,omitempty"`
}

// SpoolStateOf puts a status into words.
func SpoolStateOf(st store.SpoolStatus) SpoolState {
	s := SpoolState{State: "ok", Messages: st.Messages, Bytes: st.Bytes, MaxBytes: st.Limit, Oldest: instant(st.Oldest), Late: st.Late, Aside: st.Aside}
	switch {
	case st.Fault != nil && st.Bytes >= st.Limit, errs.Of(st.Fault) == errs.DiskFull && st.Fault != nil:
		s.State, s.Detail = "full", st.Fault.Error()
	case st.Fault != nil:
		s.State, s.Detail = "failed", st.Fault.Error()
	case !st.On:
		s.State = "off"
	}
	return s
}

// instant is a time as it is told, nil where there is none.
func instant(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// spoolAnswer is the spool with its topics, by their names in the store.
type spoolAnswer struct {
	SpoolState
	Topics []spoolTopic `json:"topics"`
}

type spoolTopic struct {
	Topic    string     `json:"topic"`
	Messages int64      `json:"messages"`
	Bytes    int64      `json:"bytes"`
	Oldest   *time.Time `json:"oldest,omitempty"`
	Error    string     `json:"error,omitempty"` // of the last attempt to drain it
}

// maxSpoolTopics is how many topics are told of, those that wait longest.
const maxSpoolTopics = 1000

func (h *Handler) getSpool(c *call) error {
	out := spoolAnswer{SpoolState: SpoolState{State: "off"}, Topics: []spoolTopic{}}
	if h.cfg.Spool == nil {
		return c.answer(http.StatusOK, out)
	}
	st := h.cfg.Spool.SpoolStatus()
	out.SpoolState = SpoolStateOf(st)
	for _, t := range st.Topics[:min(len(st.Topics), maxSpoolTopics)] {
		row := spoolTopic{Topic: t.Topic, Messages: t.Messages, Bytes: t.Bytes, Oldest: instant(t.Oldest)}
		if t.Err != nil {
			row.Error = t.Err.Error()
		}
		out.Topics = append(out.Topics, row)
	}
	return c.answer(http.StatusOK, out)
}

var errNoSpool = fmt.Errorf("this gateway has no spool: %w", errs.NotFound)

// listAsides lists messages that the store refused for good.
func (h *Handler) listAsides(c *call) error {
	p, err := c.page()
	if err != nil {
		return err
	}
	after := uint64(0)
	if p.after != "" {
		if after, err = strconv.ParseUint(p.after, 10, 63); err != nil {
			return fmt.Errorf("after=%.64q is not the next of a list of messages set aside: %w", p.after, errs.InvalidParam)
		}
	}
	out := listWriter{c: c}
	if h.cfg.Spool == nil {
		return out.end("")
	}
	for {
		some, err := h.cfg.Spool.Asides(c.ctx, after, 100)
		if err != nil || len(some) == 0 {
			if err != nil {
				return err
			}
			return out.end("")
		}
		for _, a := range some {
			if out.count == p.limit {
				return out.end(strconv.FormatUint(after, 10))
			}
			after = a.ID
			if err := out.add(func(dst []byte) []byte { return appendAside(dst, a) }); err != nil {
				return err
			}
		}
	}
}

// appendAside appends a message as it was published, and why it is there.
func appendAside(dst []byte, a store.Aside) []byte {
	about, _ := json.Marshal(struct { // texts and numbers can be written
		ID    uint64    `json:"id"`
		Topic string    `json:"topic"`
		At    time.Time `json:"at"`
		Code  string    `json:"code"`
		Cause string    `json:"cause"`
	}{a.ID, a.Topic, a.At.UTC(), a.Code, strings.ToValidUTF8(a.Cause, "\uFFFD")})
	dst = append(append(dst, about[:len(about)-1]...), `,"message":`...)
	return append(wire.AppendObject(dst, a.Message, wire.Extra{}), '}')
}

// asideBody names messages; none is all there are.
type asideBody struct {
	IDs *[]uint64 `json:"ids"`
}

func (h *Handler) requeueAsides(c *call) error {
	n, err := h.settleAsides(c, func(ctx context.Context, ids ...uint64) (int, error) { return h.cfg.Spool.Requeue(ctx, ids...) })
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, struct {
		Requeued int `json:"requeued"`
	}{n})
}

func (h *Handler) discardAsides(c *call) error {
	n, err := h.settleAsides(c, func(ctx context.Context, ids ...uint64) (int, error) { return h.cfg.Spool.Discard(ctx, ids...) })
	if err != nil {
		return err
	}
	return c.answer(http.StatusOK, struct {
		Discarded int `json:"discarded"`
	}{n})
}

func (h *Handler) settleAsides(c *call, do func(ctx context.Context, ids ...uint64) (int, error)) (int, error) {
	var b asideBody
	if err := c.body(&b); err != nil {
		return 0, err
	}
	switch {
	case h.cfg.Spool == nil:
		return 0, errNoSpool
	case b.IDs == nil:
		return do(c.ctx)
	case len(*b.IDs) == 0:
		return 0, nil
	}
	return do(c.ctx, *b.IDs...)
}
