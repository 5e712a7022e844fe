package sim

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
	"github.com/kateway/kateway/test/checker"
)

const (
	publishTime = 15 * time.Second // as in package pub
	openTime    = 10 * time.Second
	settleTime  = 10 * time.Second
	repeats     = 8 // of a publish with an idempotency key
)

// outcome is what a client may conclude from an error.
func outcome(err error) checker.Phase {
	if err == nil {
		return checker.OK
	}
	if kind := errs.Of(err); kind.Status() < 500 || kind.Status() == 503 || kind == errs.DiskFull {
		return checker.Fail
	}
	return checker.Info
}

// producer publishes one message or batch after the other, at one gateway: so the order of its keys is certain.
type producer struct {
	w   *world
	n   int
	p   producerPlan
	r   *rand.Rand
	seq int
}

func (w *world) producer(n int) *producer {
	return &producer{w: w, n: n, p: w.plan.producers[n], r: w.random(fmt.Sprint("producer ", n))}
}

func (p *producer) run(ctx context.Context) {
	for p.seq < p.p.messages && ctx.Err() == nil {
		n := 1
		if p.r.IntN(4) == 0 {
			n = 2 + p.r.IntN(5)
		}
		p.publish(n)
		pause(ctx, time.Duration(float64(p.p.pause)*p.r.ExpFloat64()))
	}
}

// publish sends n messages as one, and, with an idempotency key, again until it knows.
func (p *producer) publish(n int) {
	via := p.w.machines[p.p.machine]
	var msgs []*store.Message
	rec := checker.Record{Op: checker.Publish, Phase: checker.Invoke, Client: fmt.Sprint("producer", p.n), Via: via.id, Topic: topicName, Once: p.p.once}
	once := &store.Once{Key: fmt.Sprintf("%d-%d", p.n, p.seq)}
	sum := sha256.New()
	for range n {
		id := checker.ID{Run: p.w.run, Producer: p.n, Seq: p.seq}
		p.seq++
		m := &store.Message{Partition: store.AnyPartition}
		key := ""
		if k := p.r.IntN(p.p.keys + 1); k > 0 {
			key = fmt.Sprintf("key-%d-%d", p.n, k)
			m.Key = []byte(key)
		}
		m.Value = checker.Payload{ID: id, Key: key, Sent: time.Now()}.Value(90+p.r.IntN(100), false)
		sum.Write(m.Value)
		msgs, rec.Messages = append(msgs, m), append(rec.Messages, checker.Message{ID: id, Key: key})
	}
	once.Digest = [32]byte(sum.Sum(nil))
	if !p.p.once {
		p.attempt(via, rec, nil, msgs)
		return
	}
	for i := range repeats {
		fresh := make([]*store.Message, n)
		for i, m := range msgs {
			fresh[i] = m.Clone()
		}
		if p.attempt(via, rec, once, fresh) {
			return
		}
		pause(p.w.forever, time.Duration(i)*500*time.Millisecond)
	}
}

// attempt reports whether all has an outcome.
func (p *producer) attempt(via *machine, rec checker.Record, once *store.Once, msgs []*store.Message) (known bool) {
	l := via.current()
	if l == nil || !l.enter() {
		pause(p.w.forever, 300*time.Millisecond)
		return false
	}
	n := p.w.note(rec)
	ctx, cancel := context.WithTimeout(context.Background(), publishTime)
	err := l.publish(ctx, once, msgs...)
	cancel()
	l.requests.Done()
	if l.dead() {
		p.w.h.End(n, checker.Info, "the gateway died")
		return false
	}
	known = true
	for i := range msgs {
		m, each := rec.Messages[i], store.Each(err, i)
		m.Partition, m.Offset = msgs[i].Partition, msgs[i].Offset
		note := ""
		if each != nil {
			known = known && outcome(each) == checker.Fail && once == nil
			note = each.Error()
			if errs.Of(each) == errs.IdempotencyMismatch {
				p.w.fail("producer %d: %v", p.n, each)
			}
			m.Partition, m.Offset = 0, 0
		} else if m.Offset == store.Spooled {
			m.Partition, m.Offset, m.Nowhere = 0, 0, true
			p.w.spooled.Add(1)
		}
		p.w.h.End(n, outcome(each), note, m)
	}
	return known
}

// client is a member's of a group: it polls or reads streams, at any gateway, and does with messages what its plan says.
type client struct {
	w    *world
	name string
	g    *groupPlan
	p    clientPlan
	r    *rand.Rand
	kept []checker.Message // whose receipts it shows when they are stale
}

func (w *world) client(g *groupPlan, name string, p clientPlan) *client {
	name = g.name + " " + name
	return &client{w: w, name: name, g: g, p: p, r: w.random(name)}
}

func (c *client) run(ctx context.Context) {
	for ctx.Err() == nil {
		l := c.w.any(c.r)
		switch {
		case l == nil:
			pause(ctx, 200*time.Millisecond)
			continue
		case c.p.stream:
			c.stream(ctx, l)
		default:
			c.poll(ctx, l)
		}
		pause(ctx, c.p.pause)
	}
}

func (c *client) ask(stays bool) group.Ask {
	a := group.Ask{Key: c.g.key(), Settings: group.Settings{Mode: c.g.mode}, Lease: c.g.lease, Prefetch: c.p.batch, Stays: stays}
	if stays {
		a.Prefetch, a.First = 1<<30, c.p.batch
	}
	return a
}

func (c *client) record(op checker.Op, l *life) checker.Record {
	return checker.Record{Op: op, Phase: checker.Invoke, Client: c.name, Via: l.name, Topic: topicName, Group: c.g.name}
}

// open answers nil where there is no session.
func (c *client) open(l *life, ask group.Ask, n int) group.Session {
	ctx, cancel := context.WithTimeout(l.ctx, openTime)
	defer cancel()
	s, err := l.router.Open(ctx, ask)
	if err == nil {
		return s
	}
	if errors.Is(err, errs.Conflict) || errors.Is(err, errs.UnknownTopic) {
		c.w.fail("%s at %s: %v", c.name, l.name, err)
	}
	c.w.h.End(n, checker.Info, err.Error())
	pause(c.w.forever, 100*time.Millisecond)
	return nil
}

func (c *client) poll(ctx context.Context, l *life) {
	n := c.w.note(c.record(checker.Poll, l))
	s := c.open(l, c.ask(true), n)
	if s == nil {
		return
	}
	got, err := c.next(l, s)
	s.Close()
	switch {
	case l.dead() || len(got) > 0 && c.r.IntN(100) < c.p.lose:
		if !l.dead() {
			c.w.happened("lost answer")
		}
		c.w.h.End(n, checker.Info, "the answer was lost")
	case err != nil && len(got) == 0:
		c.w.h.End(n, checker.Info, err.Error())
	default:
		c.w.h.End(n, checker.OK, "", got...)
		c.digest(ctx, l, got, func(l *life, verbs ...group.Verb) []error { return c.settleAt(l, verbs...) })
	}
}

// next waits for messages, not for long. nil without an error: there are none.
func (c *client) next(l *life, s group.Session) (got []checker.Message, err error) {
	ctx, cancel := context.WithTimeout(l.ctx, 2*time.Second)
	defer cancel()
	b, err := s.Next(ctx, c.p.batch)
	receipts := l.router.Receipts(c.g.key())
	for _, d := range b.Deliveries {
		m := observed(d.Message)
		m.Attempt, m.Receipt = int(d.Ref.Attempt), string(receipts.Seal(nil, d.Ref))
		got = append(got, m)
	}
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() != nil && l.ctx.Err() == nil {
		err = nil
	}
	return got, err
}

func (c *client) stream(ctx context.Context, l *life) {
	n := c.w.note(c.record(checker.Stream, l))
	s := c.open(l, c.ask(false), n)
	if s == nil {
		return
	}
	for chunks := c.r.IntN(12); chunks >= 0 && ctx.Err() == nil; chunks-- {
		got, err := c.next(l, s)
		if l.dead() || err != nil {
			break
		}
		if len(got) > 0 {
			r := c.record(checker.Chunk, l)
			r.Of, r.Phase, r.Messages = n, checker.OK, got
			c.w.h.Note(r)
		}
		c.digest(ctx, l, got, func(_ *life, verbs ...group.Verb) []error { return s.Settle(verbs...) })
		if c.r.IntN(100) < c.p.never {
			c.w.happened("client vanished")
			pause(ctx, c.g.lease+time.Second)
		}
	}
	s.Close()
	c.w.h.End(n, checker.Info, "it is over")
}

// digest does something with each message.
func (c *client) digest(ctx context.Context, l *life, got []checker.Message, settle func(*life, ...group.Verb) []error) {
	var acks, nacks, later, buried, extended []checker.Message
	for _, m := range got {
		switch n := c.r.IntN(100); {
		case n < c.p.nack:
			nacks = append(nacks, m)
		case n < c.p.nack+c.p.later:
			later = append(later, m)
		case n < c.p.nack+c.p.later+c.p.bury:
			buried = append(buried, m)
		case n < c.p.nack+c.p.later+c.p.bury+c.p.extend:
			extended = append(extended, m)
		case n < c.p.nack+c.p.later+c.p.bury+c.p.extend+c.p.never:
			c.w.happened("never acked")
		case n < c.p.nack+c.p.later+c.p.bury+c.p.extend+c.p.never+c.p.stale:
			c.kept = append(c.kept, m)
		default:
			acks = append(acks, m)
		}
	}
	c.settle(l, checker.Nack, group.Verb{Op: group.Nack}, nacks, settle)
	delay := []time.Duration{time.Second, 90 * time.Second}[c.r.IntN(2)]
	if c.g.mode == group.Fifo {
		delay = min(delay, 20*time.Second) // all of the partition waits for it
	}
	c.settle(l, checker.Nack, group.Verb{Op: group.Nack, Delay: delay}, later, settle)
	c.settle(l, checker.Bury, group.Verb{Op: group.Bury, Cause: "it is bad"}, buried, settle)
	c.settle(l, checker.Ack, group.Verb{Op: group.Ack}, acks, settle)
	if len(extended) > 0 {
		pause(ctx, c.g.lease/2)
		c.settle(l, checker.Extend, group.Verb{Op: group.Extend}, extended, settle)
		pause(ctx, c.g.lease*2/3)
		c.settle(l, checker.Ack, group.Verb{Op: group.Ack}, extended, settle)
	}
	if len(c.kept) > 3 {
		pause(ctx, time.Duration(c.r.Int64N(int64(2*c.g.lease))))
		c.w.happened("late ack")
		c.settle(l, checker.Ack, group.Verb{Op: group.Ack}, c.kept, func(l *life, verbs ...group.Verb) []error { return c.settleAt(l, verbs...) })
		c.kept = nil
	}
}

// settle says the same of several messages.
func (c *client) settle(l *life, op checker.Op, verb group.Verb, list []checker.Message, settle func(*life, ...group.Verb) []error) {
	if len(list) == 0 {
		return
	}
	receipts := l.router.Receipts(c.g.key())
	verbs := make([]group.Verb, len(list))
	for i, m := range list {
		ref, err := receipts.Open(m.Receipt)
		if err != nil {
			c.w.fail("%s: %v", c.name, err)
		}
		verb.Ref = ref
		verbs[i] = verb
	}
	r := c.record(op, l)
	r.Messages = list
	n := c.w.note(r)
	out := c.w.bugs.settle(func(v ...group.Verb) []error { return settle(l, v...) }, verbs)
	for i, err := range out {
		phase, text := outcome(err), ""
		if err != nil {
			text = err.Error()
		}
		if l.dead() || err != nil && errs.Of(err).Status() >= 500 {
			phase = checker.Info
		}
		c.w.h.End(n, phase, text, list[i])
	}
}

// settleAt goes to the gateway, or to another where it is gone.
func (c *client) settleAt(l *life, verbs ...group.Verb) []error {
	if other := c.w.any(c.r); other != nil {
		l = other
	}
	ctx, cancel := context.WithTimeout(l.ctx, settleTime)
	defer cancel()
	out := l.router.Settle(ctx, c.g.key(), verbs...)
	for i := range out {
		if l.dead() {
			out[i] = errUnsure
		}
	}
	return out
}
