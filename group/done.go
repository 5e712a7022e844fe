package group

import (
	"fmt"
	"strings"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// Done says which messages of a partition a group has done, by its committed position. It is how a group is looked at, and
// its messages are marked, from outside, while nobody is a member of it.
type Done struct {
	lag  store.PartitionLag
	next int64
	b    beyond
}

// NewDone reads a position.
func NewDone(l store.PartitionLag) *Done {
	d := &Done{lag: l, next: max(l.Committed, l.Start)}
	if b, err := decodeBeyond(l.Beyond, max(l.Committed, 0)); err == nil {
		d.b = b
	}
	return d
}

// Next is the first offset that may not be done.
func (d *Done) Next() int64 { return d.next }

// Has reports whether the message is done.
func (d *Done) Has(offset int64) bool {
	if offset < d.next {
		return true
	}
	for _, s := range d.b.done {
		if offset < s.from {
			return false
		}
		if offset < s.to {
			return true
		}
	}
	return false
}

// Mark marks a message as done. Conflict for one that is 16,384 offsets or more above the first that is not: there is no
// way to write that down.
func (d *Done) Mark(offset int64) error {
	if d.Has(offset) {
		return nil
	}
	if offset >= d.next+maxSpan {
		return fmt.Errorf("partition %d offset %d is too far from %d, the first that is not done: do those first: %w",
			d.lag.Partition, offset, d.next, errs.Conflict)
	}
	d.b.done = mergeSpan(d.b.done, span{offset, offset + 1})
	d.absorb()
	return nil
}

// Pass marks everything below next as done.
func (d *Done) Pass(next int64) {
	d.next = max(d.next, next)
	d.absorb()
}

// absorb moves next over what is done right behind it.
func (d *Done) absorb() {
	for len(d.b.done) > 0 && d.b.done[0].from <= d.next {
		d.next = max(d.next, d.b.done[0].to)
		d.b.done = d.b.done[1:]
	}
}

// Position is what store.Admin.Seek is to be given. Deliveries that were made before keep their receipts.
func (d *Done) Position() store.Position {
	b := d.b
	b.held = nil
	for _, h := range d.b.held {
		if !d.Has(h.offset) {
			b.held = append(b.held, h)
		}
	}
	return store.Position{Partition: d.lag.Partition, Next: d.next, Beyond: b.encode(d.next)}
}

// Published is a message of a retry or dead queue with the record headers that it was published with; the rest is left as it is.
func Published(m *store.Message) *store.Message {
	_, own, ok := parse(m)
	if !ok {
		return m
	}
	c := *m
	c.Headers = own
	return &c
}

// QueueTopic is what a group's retry or dead queue of that name is made as.
func QueueTopic(name string) store.Topic {
	t := store.Topic{Name: name, Partitions: 1, Retention: deadRetention}
	if strings.HasSuffix(name, ".retry") {
		t.Retention = retryRetention
	}
	return t
}
