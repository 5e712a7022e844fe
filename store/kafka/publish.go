package kafka

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// overhead is what a buffered message costs beside its bytes.
const overhead = 256

// loneMessages is the largest call for which the wait for others is cut short; a larger one fills batches by itself.
const loneMessages = 16

// call is one Publish. The client keeps its slots for as long as an outcome is open, also when the caller has gone.
type call struct {
	s     *Store
	p     *producer
	t     *topic
	at    mark
	bytes int64

	patience store.Patience

	slots []slot
	one   [1]slot
	open  atomic.Int32  // slots without an outcome
	done  chan struct{} // closed when there is none

	fails  atomic.Bool // failed is not empty
	mu     sync.Mutex
	failed map[int32]error // by partition, the first failure
}

// slot is one message of a call. It travels in the record's context, where the client hands it back with the outcome.
type slot struct {
	context.Context // never ends: a caller that hangs up must not fail the batch that others share
	call            *call
	msg             *store.Message
	flow            *flow
	rec             kgo.Record
	unknown         bool // the client does not know the partition, and has not taken the message
	err             error
	settled         atomic.Bool // the fields above are final
}

// Publish is store.Publisher's.
func (s *Store) Publish(ctx context.Context, name string, ack store.Ack, msgs ...*store.Message) error {
	if len(msgs) == 0 {
		return nil
	}
	if err := s.usable(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("the caller left before anything was sent: %w: %w", err, errs.Unavailable)
	}
	p, err := s.producer(ack)
	if err != nil {
		return err
	}
	t, err := s.topic(ctx, name)
	if err != nil {
		return err
	}
	if highest(msgs) >= len(*t.flows.Load()) && s.now()-time.Duration(t.looked.Load()) > time.Second {
		s.refresh(ctx, t) // what seems not to be there may be new
	}
	patience := store.PatienceOf(ctx)
	lone := false
	if patience != store.PatientSend { // one that may wait for hours must not make others wait
		lone = s.publishing.Add(1) == 1 && len(msgs) <= loneMessages
		defer s.publishing.Add(-1)
	}
	c := &call{s: s, p: p, t: t, at: p.mark(), done: make(chan struct{}), patience: patience}
	if err := c.reserve(msgs); err != nil {
		return err
	}
	c.send(ctx, msgs, lone)
	return c.wait(ctx)
}

// highest is the highest partition that the messages want.
func highest(msgs []*store.Message) int {
	p := store.AnyPartition
	for _, m := range msgs {
		p = max(p, m.Partition)
	}
	return int(p)
}

// reserve counts the call towards the limit of what is buffered.
func (c *call) reserve(msgs []*store.Message) error {
	for _, m := range msgs {
		c.bytes += int64(m.Size() + overhead)
	}
	limit := c.s.cfg.MaxBufferedBytes
	switch total := c.s.buffered.Add(c.bytes); {
	case c.bytes > limit:
		c.s.buffered.Add(-c.bytes)
		return fmt.Errorf("%d bytes in one publish, at most %d are buffered for Kafka: %w", c.bytes, limit, errs.TooLarge)
	case total > limit:
		c.s.buffered.Add(-c.bytes)
		return fmt.Errorf("%d bytes wait for Kafka's answer already, %d are the limit: %w", total-c.bytes, limit, errs.Unavailable)
	}
	return nil
}

// send gives every message its partition and hands it to the client, or fails it. The client answers by settle.
func (c *call) send(caller context.Context, msgs []*store.Message, lone bool) {
	c.slots = c.one[:]
	if len(msgs) > 1 {
		c.slots = make([]slot, len(msgs))
	}
	c.open.Store(int32(len(msgs)))
	c.address(msgs)
	c.hold(caller)
	now, flows, ctx := c.s.now(), *c.t.flows.Load(), c.s.deadline(c.patience)
	var held []*kgo.Record
	for i := range c.slots {
		sl := &c.slots[i]
		if err := c.check(sl, flows, now); err != nil {
			c.fail(sl, err)
			continue
		}
		sl.flow = flows[sl.rec.Partition]
		sl.flow.enter(now)
		if lone {
			held = append(held, &sl.rec)
		} else {
			c.p.cl.Produce(ctx, &sl.rec, settle)
		}
	}
	if len(held) > 0 {
		c.sendNow(ctx, held)
	}
}

// sendNow is for a call that is alone: the client's wait for others would only cost time. To produce synchronously is the
// one way to keep it from waiting.
func (c *call) sendNow(ctx context.Context, records []*kgo.Record) {
	if !c.s.background(func() {
		for _, r := range c.p.cl.ProduceSync(ctx, records...) {
			settle(r.Record, r.Err)
		}
	}) {
		for _, r := range records {
			settle(r, kgo.ErrClientClosed)
		}
	}
}

// address turns the messages into records, each with its partition.
func (c *call) address(msgs []*store.Message) {
	headers := make([]kgo.RecordHeader, 0, countHeaders(msgs))
	partitions, keyless := int32(len(*c.t.flows.Load())), store.AnyPartition
	for i, m := range msgs {
		from := len(headers)
		for _, h := range m.Headers {
			headers = append(headers, kgo.RecordHeader(h))
		}
		p := m.Partition
		switch {
		case p != store.AnyPartition:
		case len(m.Key) > 0:
			p = store.PartitionOf(m.Key, partitions)
		default:
			if keyless == store.AnyPartition {
				keyless = c.t.keyless(c.s.now(), max(c.s.cfg.Linger, time.Millisecond), time.Duration(c.p.cutAt.Load()))
			}
			p = keyless
		}
		sl := &c.slots[i]
		sl.Context, sl.call, sl.msg = context.Background(), c, m
		sl.rec = kgo.Record{
			Key: m.Key, Value: m.Value, Headers: headers[from:len(headers):len(headers)],
			Timestamp: m.Time, Topic: c.t.name, Partition: p, Context: sl,
		}
	}
}

func countHeaders(msgs []*store.Message) (n int) {
	for _, m := range msgs {
		n += len(m.Headers)
	}
	return n
}

// check says why a message can't be handed over.
func (c *call) check(sl *slot, flows []*flow, now time.Duration) error {
	p := sl.rec.Partition
	if p < 0 || int(p) >= len(flows) {
		return fmt.Errorf("topic %q has the partitions 0 to %d, not %d: %w", c.t.name, len(flows)-1, p, errs.InvalidParam)
	}
	if c.fails.Load() {
		c.mu.Lock()
		first := c.failed[p]
		c.mu.Unlock()
		if first != nil {
			return fmt.Errorf("not tried, since one before it in partition %d failed (%s): %w", p, first.Error(), errs.Unavailable)
		}
	}
	// A batch of one message has 61 bytes of its own, a message at most 31 and a header at most 10.
	if size, limit := sl.msg.Size()+20*len(sl.msg.Headers)+128, int(c.t.maxBytes); size > limit {
		return fmt.Errorf("message of %d bytes with its frame, topic %q takes %d (max.message.bytes): %w", size, c.t.name, limit, errs.TooLarge)
	}
	if flows[p].doubtful(now, time.Duration(c.p.cutAt.Load())) { // a patient call too: it would hold memory for nothing
		return fmt.Errorf("partition %d of %q does not answer: %w", p, c.t.name, errs.Unavailable)
	}
	return nil
}

// hold waits, for as long as a message may wait to be sent, while a partition that the call is for has come into doubt. One that is
// so still, or for longer already, is told by check.
func (c *call) hold(caller context.Context) {
	if c.patience == store.PatientSend || !c.maySettle() {
		return
	}
	ctx, cancel := context.WithTimeout(caller, c.s.cfg.SendTimeout)
	defer cancel()
	for pause(ctx, 10*time.Millisecond) && c.s.usable() == nil && c.maySettle() {
	}
}

// maySettle reports a partition that is in doubt, but not for long.
func (c *call) maySettle() bool {
	now, cut, flows := c.s.now(), time.Duration(c.p.cutAt.Load()), *c.t.flows.Load()
	for i := range c.slots {
		p := c.slots[i].rec.Partition
		if p >= 0 && int(p) < len(flows) && flows[p].doubtful(now, cut) && flows[p].idle(now) <= c.s.cfg.SendTimeout {
			return true
		}
	}
	return false
}

// fail gives a slot its outcome without the client.
func (c *call) fail(sl *slot, err error) {
	c.mu.Lock()
	if c.failed == nil {
		c.failed = map[int32]error{}
	}
	if c.failed[sl.rec.Partition] == nil {
		c.failed[sl.rec.Partition] = err
	}
	c.mu.Unlock()
	c.fails.Store(true)
	sl.err = err
	sl.settle()
}

// settle is the client's promise.
func settle(r *kgo.Record, err error) {
	sl := r.Context.(*slot) //nolint:errcheck,forcetypeassert // no other record is produced
	c := sl.call
	sl.flow.leave(c.s.now())
	if err == nil {
		sl.msg.Partition, sl.msg.Offset, sl.msg.Time = r.Partition, r.Offset, r.Timestamp
		sl.settle()
		return
	}
	kind := c.p.outcome(c.at, err)
	if sl.unknown {
		kind = errs.Unavailable
	}
	switch kind {
	case errs.UnknownTopic:
		c.s.refreshLater(c.t)
	case errs.TooLarge: // the topic's limit is lower by now: the client learns it when it begins anew
		c.s.background(func() { c.s.forget(c.t) })
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("not sent, or refused each time, for %v", c.s.cfg.SendTimeout)
	}
	c.fail(sl, fmt.Errorf("partition %d of %q: %w: %w", r.Partition, c.t.name, err, kind))
}

func (sl *slot) settle() {
	c := sl.call
	sl.settled.Store(true)
	if c.open.Add(-1) == 0 {
		c.s.buffered.Add(-c.bytes)
		close(c.done)
	}
}

// wait returns with the outcomes, at the latest when the caller or the store gives up.
func (c *call) wait(ctx context.Context) error {
	timer := time.NewTimer(c.s.cfg.AnswerTimeout)
	defer timer.Stop()
	timeout := timer.C
	if c.patience != 0 {
		timeout = nil
	}
	var left error
	select {
	case <-c.done:
	case <-ctx.Done():
		left = fmt.Errorf("the caller left before Kafka's answer: %w: %w", ctx.Err(), errs.Uncertain)
	case <-timeout:
		left = fmt.Errorf("no answer from Kafka in %v: %w", c.s.cfg.AnswerTimeout, errs.Uncertain)
	}
	return c.result(left)
}

// result gathers the outcomes; left is that of slots that have none.
func (c *call) result(left error) error {
	of := func(sl *slot) error {
		if !sl.settled.Load() {
			return left
		}
		return sl.err
	}
	if len(c.slots) == 1 {
		return of(&c.slots[0])
	}
	if left == nil && !c.fails.Load() {
		return nil
	}
	b := &store.BatchError{Errs: make([]error, len(c.slots))}
	failed := false
	for i := range c.slots {
		b.Errs[i] = of(&c.slots[i])
		failed = failed || b.Errs[i] != nil
	}
	if !failed {
		return nil
	}
	return b
}

// isDial tells a connection that was never made.
func isDial(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}
