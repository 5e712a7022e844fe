package home

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// What a request asks for.
const (
	opSettle = iota
	opThrough
	opMark
)

// request is one of Opener's calls about deliveries of whichever client.
type request struct {
	key     group.Key
	op      byte
	wait    time.Duration // how long it may take
	verbs   []group.Verb
	through []store.Position
	marks   []group.At
}

// size is the number of errors that answer it.
func (q *request) size() int { return len(q.verbs) + len(q.through) + len(q.marks) }

// do asks the hub.
func (q *request) do(ctx context.Context, hub Local) []error {
	switch q.op {
	case opThrough:
		return hub.Through(ctx, q.key, q.through...)
	case opMark:
		return hub.Mark(ctx, q.key, q.marks...)
	}
	return hub.Settle(ctx, q.key, q.verbs...)
}

// part is the request of the items from i on that one frame takes.
func (q *request) part(i int) *request {
	cut := *q
	cut.verbs, cut.through, cut.marks = window(q.verbs, i), window(q.through, i), window(q.marks, i)
	return &cut
}

func window[T any](s []T, i int) []T { return s[min(i, len(s)):min(i+maxVerbs, len(s))] }

func (q *request) append(b []byte) []byte {
	b = appendKey(append(b, q.op), q.key)
	b = binary.AppendUvarint(b, uint64(q.wait))
	switch q.op {
	case opThrough:
		b = binary.AppendUvarint(b, uint64(len(q.through)))
		for _, p := range q.through {
			b = binary.AppendVarint(binary.AppendVarint(b, int64(p.Partition)), p.Next)
		}
	case opMark:
		b = binary.AppendUvarint(b, uint64(len(q.marks)))
		for _, m := range q.marks {
			b = binary.AppendVarint(binary.AppendVarint(b, int64(m.Partition)), m.Offset)
		}
	default:
		b = appendVerbs(b, q.verbs)
	}
	return b
}

func (d *decoder) request() *request {
	q := &request{op: d.byte()}
	q.key = d.key()
	q.wait = time.Duration(d.number(math.MaxInt64))
	switch q.op {
	case opSettle:
		q.verbs = d.verbs()
	case opThrough:
		q.through = make([]store.Position, d.count(2))
		for i := range q.through {
			q.through[i] = store.Position{Partition: d.partition(), Next: d.varint()}
		}
	case opMark:
		q.marks = make([]group.At, d.count(2))
		for i := range q.marks {
			q.marks[i] = group.At{Partition: d.partition(), Offset: d.varint()}
		}
	default:
		d.fail()
	}
	return q
}

// partition reads one that a client may have made up.
func (d *decoder) partition() int32 {
	p := d.varint()
	if p != int64(int32(p)) {
		d.fail()
	}
	return int32(p)
}

// Settle is Opener's.
func (r *Router) Settle(ctx context.Context, key group.Key, verbs ...group.Verb) []error {
	return r.ask(ctx, &request{key: key, op: opSettle, verbs: verbs})
}

// Through is Opener's.
func (r *Router) Through(ctx context.Context, key group.Key, at ...store.Position) []error {
	return r.ask(ctx, &request{key: key, op: opThrough, through: at})
}

// Mark is Opener's.
func (r *Router) Mark(ctx context.Context, key group.Key, at ...group.At) []error {
	return r.ask(ctx, &request{key: key, op: opMark, marks: at})
}

// ask has a request answered by the group's home. Where the group has several, or is here although its home is elsewhere,
// all of them are asked: each holds some of the partitions, and the others will not know what is spoken of.
func (r *Router) ask(ctx context.Context, q *request) []error {
	homes := r.spread(q.key)
	if homes == 1 && (r.Home(q.key) == r.cfg.Self || !r.here(q.key)) {
		return r.askHome(ctx, q, 0)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	asked, answers := 0, make(chan []error, homes+1)
	self := false
	for nth := range homes {
		self = self || r.view.pick(q.key, nth, nil) == r.cfg.Self
		asked++
		go func() { answers <- r.askHome(ctx, q, nth) }()
	}
	if !self && r.here(q.key) {
		asked++
		go func() { answers <- q.do(ctx, r.cfg.Hub) }()
	}
	var out []error
	for ; asked > 0; asked-- {
		out = better(out, <-answers)
		if !slices.ContainsFunc(out, func(err error) bool { return err != nil }) {
			break // the others are still waiting for partitions that they will not get
		}
	}
	return out
}

// here reports whether this gateway is a member of the group.
func (r *Router) here(key group.Key) bool {
	_, here := r.cfg.Hub.Info(key)
	return here
}

// better takes of two answers to each item the one of who holds the partition: that it is done; else that it can't be, and
// why; else that nobody is to be asked; at last Fenced, which is also what one says who does not hold it.
func better(a, b []error) []error {
	if a == nil {
		return b
	}
	rank := func(err error) int {
		switch {
		case err == nil:
			return 0
		case errors.Is(err, errs.Fenced):
			return 3
		case errs.Of(err).Server():
			return 2
		}
		return 1
	}
	for i := range a {
		if rank(b[i]) < rank(a[i]) {
			a[i] = b[i]
		}
	}
	return a
}

// askHome asks the nth home, or, where it can't be reached, who comes next.
//
// One that has just left the group says so, and nothing was done there: then the next home is asked, as soon as it is known.
func (r *Router) askHome(ctx context.Context, q *request, nth int) []error {
	var tried []string
	for rest := firstRest; ; {
		id := r.view.pick(q.key, nth, tried)
		var out []error
		var err error
		if id == r.cfg.Self {
			out = q.do(ctx, r.cfg.Hub)
		} else {
			out, err = r.askAt(ctx, id, q)
		}
		switch {
		case err == nil && !allMoved(out):
			return out
		case err == nil:
			if sleep(ctx, rest) != nil {
				return out
			}
			rest = min(2*rest, longestRest)
		case ctx.Err() != nil:
			return fill(make([]error, q.size()), err)
		default:
			tried = r.next(id, err, tried)
		}
	}
}

// allMoved reports whether nothing was done, since the group is not there any more.
func allMoved(out []error) bool {
	return len(out) > 0 && !slices.ContainsFunc(out, func(err error) bool { return !errors.Is(err, group.ErrMoved) })
}

// askAt asks another gateway. An error: it can't be reached, or stops; whether it heard is not known.
func (r *Router) askAt(ctx context.Context, id string, q *request) ([]error, error) {
	l, err := r.link(ctx, id)
	if err != nil {
		return nil, err
	}
	wait := callTime
	if deadline, ok := ctx.Deadline(); ok {
		wait = max(time.Until(deadline), 0)
	}
	out := make([]error, 0, q.size())
	for len(out) < q.size() {
		part := q.part(len(out))
		part.wait = wait
		answers, err := l.ask(ctx, frameCall, 0, part.size(), part.append)
		if err != nil {
			return nil, err
		}
		for _, err := range answers {
			if errors.Is(err, errs.Draining) {
				return nil, err
			}
		}
		out = append(out, answers...)
	}
	return out, nil
}
