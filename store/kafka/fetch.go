package kafka

import (
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// pump brings messages when Poll has none. It is a goroutine of its own because the client's poll must never run while
// the caller of Poll is wanted elsewhere: the client holds back rebalances from the moment in which it returns messages
// until AllowRebalance, so that none can come between what was fetched for a partition and the loss of it; and it holds
// back polls during a rebalance, which itself may wait for the caller's next Poll.
func (f *feed) pump() {
	for {
		select {
		case <-f.hungry:
		case <-f.ctx.Done():
			return
		}
		fetches := f.cl.PollFetches(f.ctx)
		if f.ctx.Err() != nil {
			f.cl.AllowRebalance()
			return
		}
		found, suspect := f.fill(fetches)
		f.cl.AllowRebalance()
		if suspect {
			f.verify()
		}
		if !found {
			pause(f.ctx, 100*time.Millisecond) // errors alone: the client does not wait between them
		}
		signal(f.wake)
	}
}

// fill queues what was fetched. It answers whether there were messages, and whether the topic may be gone.
func (f *feed) fill(fetches kgo.Fetches) (found, suspect bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fetches.EachPartition(func(tp kgo.FetchTopicPartition) {
		if tp.Err != nil && f.note(tp.Partition, tp.Err) {
			suspect = true
		}
		if pt := f.parts[tp.Partition]; pt != nil && !pt.leaving && len(tp.Records) > 0 {
			pt.queueUp(tp.FetchPartition)
			found = true
		}
	})
	return found, suspect
}

// note takes an error of a partition, or of the whole member. It answers whether the topic may be gone.
func (f *feed) note(p int32, err error) (suspect bool) {
	var loss *kgo.ErrDataLoss
	var session *kgo.ErrGroupSession
	switch {
	case errors.Is(err, kerr.UnknownTopicOrPartition), errors.Is(err, kerr.UnknownTopicID):
		return true
	case errors.As(err, &loss):
		f.s.log.Warn("the cluster lost messages", "topic", loss.Topic, "partition", loss.Partition, "from", loss.ResetTo, "read_to", loss.ConsumedTo)
		if pt := f.parts[loss.Partition]; pt != nil && pt.next != loss.ResetTo {
			pt.queue = append(pt.queue, chunk{gap: &store.Gap{Partition: loss.Partition, From: pt.next, To: loss.ResetTo}})
			pt.next = loss.ResetTo
		}
	case kerr.IsRetriable(err), kgo.IsRetryableBrokerErr(err), isDial(err):
		// A leader moves, a broker starts again: the client goes on by itself.
	case errors.As(err, &session):
		f.trouble = f.troubled(session.Err)
	default:
		f.trouble = fmt.Errorf("topic %q, group %q, partition %d: %w: %w", f.spec.Topic, f.spec.Group, p, err, errs.Unavailable)
	}
	return false
}

// queueUp adds fetched records. A start of the log behind what was expected is a gap; a hole between two offsets is none:
// transactions and compaction leave them.
func (pt *part) queueUp(fp kgo.FetchPartition) {
	c := chunk{records: fp.Records}
	if start := min(fp.LogStartOffset, fp.Records[0].Offset); start > pt.next && !pt.unsure {
		c.gap = &store.Gap{Partition: fp.Partition, From: pt.next, To: start}
	}
	pt.unsure = false
	pt.next = fp.Records[len(fp.Records)-1].Offset + 1
	for _, r := range fp.Records {
		pt.bytes += recordBytes(r)
	}
	pt.queue = append(pt.queue, c)
}

func recordBytes(r *kgo.Record) int { return len(r.Key) + len(r.Value) + overhead }

// verify looks whether the topic is gone, or is another one by now.
func (f *feed) verify() {
	d, err := f.s.detail(f.ctx, f.spec.Topic)
	switch {
	case err == nil && d.ID != f.id:
		err = fmt.Errorf("topic %q was deleted and made anew: %w", f.spec.Topic, errs.UnknownTopic)
	case !errors.Is(err, errs.UnknownTopic):
		return
	}
	f.mu.Lock()
	f.gone = err
	f.mu.Unlock()
	signal(f.wake)
}

// collect moves what is queued into the batch, partition by partition, with each batch beginning at another one.
func (f *feed) collect(b *store.Batch, limit int, order []int32) {
	n := 0
	for i := range order {
		for _, c := range f.parts[order[i]].queue {
			n += len(c.records)
		}
	}
	if len(order) == 0 {
		return
	}
	slab := make([]store.Message, 0, min(n, limit))
	b.Messages = make([]*store.Message, 0, cap(slab))
	var headers []store.Header
	f.turn++
	for i := range order {
		pt := f.parts[order[(f.turn+i)%len(order)]]
		first := len(slab)
		for len(pt.queue) > 0 && len(slab) < limit {
			c := &pt.queue[0]
			if c.gap != nil && len(slab) > first {
				break // gaps come before the messages in a batch, so this one is for the next batch
			}
			if c.gap != nil {
				b.Gaps = append(b.Gaps, *c.gap)
				c.gap = nil
			}
			k := min(len(c.records), limit-len(slab))
			for _, r := range c.records[:k] {
				pt.bytes -= recordBytes(r)
				from := len(headers)
				for _, h := range r.Headers {
					headers = append(headers, store.Header(h))
				}
				slab = append(slab, message(r, headers[from:len(headers):len(headers)]))
			}
			if c.records = c.records[k:]; len(c.records) > 0 {
				break
			}
			pt.queue[0] = chunk{}
			pt.queue = pt.queue[1:]
		}
	}
	for i := range slab {
		b.Messages = append(b.Messages, &slab[i])
	}
}

func message(r *kgo.Record, headers []store.Header) store.Message {
	m := store.Message{Key: r.Key, Value: r.Value, Partition: r.Partition, Offset: r.Offset, Time: r.Timestamp}
	if len(headers) > 0 {
		m.Headers = headers
	}
	return m
}
