package pub

import (
	"context"
	"fmt"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/plugins"
	"github.com/kateway/kateway/store"
)

// fate is what the plugins made of a message. The zero one: it goes where the request says.
type fate struct {
	dropped bool
	to      meta.Topic // another topic of the same app; zero: the request's
}

// fate is that of message i.
func (b *slab) fate(i int) fate {
	if len(b.fates) == 0 {
		return fate{}
	}
	return b.fates[i]
}

// decide notes the fate of message i. Slabs whose messages all go where the request says have no fates.
func (b *slab) decide(i int, f fate) {
	if len(b.fates) == 0 {
		if f == (fate{}) {
			return
		}
		b.fates = append(b.fates, make([]fate, len(b.refs))...)
	}
	b.fates[i] = f
}

// inspect has the plugins look at a message, and answers what is to become of it. in is room for one message after another.
func (h *Handler) inspect(ctx context.Context, q *request, in *plugins.Message, m *store.Message) (fate, error) {
	*in = plugins.Message{Message: *m, Topic: q.topic.Name, Ver: q.topic.Ver}
	if err := q.inspect(ctx, in); err != nil {
		return fate{}, err
	}
	if in.Dropped {
		return fate{dropped: true}, nil
	}
	*m = in.Message
	if len(m.Value) > h.limits.Message {
		return fate{}, fmt.Errorf("a plugin has made %d bytes of it, a message has %d at most: %w", len(m.Value), h.limits.Message, errs.TooLarge)
	}
	if err := h.checkKey(m.Key); err != nil {
		return fate{}, fmt.Errorf("a plugin has changed the key: %w", err)
	}
	if in.Topic == q.topic.Name && in.Ver == q.topic.Ver {
		return fate{}, nil
	}
	to, err := meta.ParseTopic(q.topic.App, in.Topic, in.Ver)
	if err != nil { // nothing that the client can do anything about
		return fate{}, fmt.Errorf("a plugin sends it to a topic that can't be: %v: %w", err, errs.Internal) //nolint:errorlint // the kind is another one now
	}
	if q.call.Route != nil {
		if err := q.call.Route(in.Topic, in.Ver); err != nil {
			return fate{}, fmt.Errorf("a plugin sends it to %s: %w", to, err)
		}
	}
	m.Partition = store.AnyPartition // what was asked for is a partition of the other topic
	return fate{to: to}, nil
}

// part is the messages of a publish that go to one topic.
type part struct {
	topic meta.Topic
	refs  []*store.Message
	index []int // their places in the publish
}

// parts shares the messages out by topic, in the order of the first of each; those that are dropped are in none.
func (b *slab) parts(topic meta.Topic) []part {
	var list []part
	at := map[meta.Topic]int{}
	for i, m := range b.refs {
		f := b.fate(i)
		if f.dropped {
			continue
		}
		to := topic
		if f.to != (meta.Topic{}) {
			to = f.to
		}
		n, ok := at[to]
		if !ok {
			n = len(list)
			at[to], list = n, append(list, part{topic: to})
		}
		list[n].refs, list[n].index = append(list[n].refs, m), append(list[n].index, i)
	}
	return list
}

// sendParts stores what goes to several topics, or only in part, one topic after the other.
func (h *Handler) sendParts(ctx context.Context, q *request, c *slab) error {
	outcome, failed := &store.BatchError{Errs: make([]error, len(c.refs))}, false
	var lost []error // of topics that took nothing
	for _, p := range c.parts(q.topic) {
		err := h.sendTo(ctx, q, p.topic, p.refs)
		if err == nil {
			continue
		}
		failed = true
		for j, i := range p.index {
			outcome.Errs[i] = store.Each(err, j)
		}
		if !anyStored(err) {
			lost = append(lost, err)
		}
	}
	if !failed {
		return nil
	}
	if anyStored(outcome) { // else the request counts as failed
		for _, err := range lost {
			q.counters.failed(errs.Of(err))
		}
	}
	return outcome
}

// allDropped reports whether there is nothing to store.
func (b *slab) allDropped() bool {
	for i := range b.fates {
		if !b.fates[i].dropped {
			return false
		}
	}
	return len(b.fates) > 0
}

// jobs are what the queue is to publish of an async publish. The slab itself is one, or, where it goes to several topics or
// only in part, what is made of it; its body is then nobody's to use again.
func (b *slab) jobs(q *request) []job {
	if len(b.fates) == 0 {
		return []job{{topic: q.topic, ack: q.ack, content: b, weight: int64(cap(b.body) + len(b.refs)*messageWeight)}}
	}
	var list []job
	for _, p := range b.parts(q.topic) {
		own := &slab{messages: make([]store.Message, 0, len(p.refs))}
		weight := int64(len(p.refs) * messageWeight)
		for _, m := range p.refs {
			own.messages = append(own.messages, *m)
			weight += int64(m.Size())
		}
		own.refer()
		list = append(list, job{topic: p.topic, ack: q.ack, content: own, weight: weight})
	}
	list[0].weight += int64(cap(b.body))
	return list
}
