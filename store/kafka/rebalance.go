package kafka

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kateway/kateway/store"
)

// gain is called by the client with the positions of partitions that have become ours, before it fetches any of them.
func (f *feed) gain(ctx context.Context, _ *kgo.Client, resp *kmsg.OffsetFetchResponse) error {
	<-f.ready
	var starts, ends kadm.ListedOffsets // what can't be asked now is found out when messages come
	var wg sync.WaitGroup
	wg.Go(func() { starts, _ = f.s.adm.ListStartOffsets(ctx, f.spec.Topic) })
	wg.Go(func() { ends, _ = f.s.adm.ListEndOffsets(ctx, f.spec.Topic) })
	wg.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.adjusted)
	for _, g := range resp.Groups {
		for _, t := range g.Topics {
			for i := range t.Partitions {
				if t.Partitions[i].ErrorCode == 0 {
					f.gainOne(&t.Partitions[i], starts, ends)
				}
			}
		}
	}
	signal(f.wake)
	return nil
}

func (f *feed) gainOne(rp *kmsg.OffsetFetchResponseGroupTopicPartition, starts, ends kadm.ListedOffsets) {
	p := rp.Partition
	start, known := starts.Lookup(f.spec.Topic, p)
	known = known && start.Err == nil
	end, bounded := ends.Lookup(f.spec.Topic, p)
	bounded = bounded && end.Err == nil

	pt := &part{gained: store.Position{Partition: p, Next: rp.Offset}}
	if rp.Metadata != nil {
		pt.gained.Beyond = *rp.Metadata
	}
	pt.next = rp.Offset
	switch {
	case rp.Offset < 0 && known: // a partition that is new to the group begins at its oldest
		pt.next, pt.gained = start.Offset, store.Position{Partition: p, Next: start.Offset}
		pt.position = &store.Position{Partition: p, Next: start.Offset}
		f.adjusted[p] = start.Offset
		signal(f.noted)
	case rp.Offset < 0:
		pt.next, pt.unsure, pt.gained = 0, true, store.Position{Partition: p}
	case known && rp.Offset < start.Offset, known && bounded && rp.Offset > end.Offset: // retention overtook it, or the log is another one
		pt.queue = []chunk{{gap: &store.Gap{Partition: p, From: rp.Offset, To: start.Offset}}}
		pt.next = start.Offset
		f.adjusted[p] = start.Offset
	}
	if old := f.parts[p]; old != nil && old.known && !slices.Contains(f.lost, p) {
		f.lost = append(f.lost, p)
	}
	f.parts[p] = pt
}

// adjust is called by the client after gain: where to go on from.
func (f *feed) adjust(_ context.Context, offsets map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for p := range offsets[f.spec.Topic] {
		if at, ok := f.adjusted[p]; ok {
			offsets[f.spec.Topic][p] = kgo.NewOffset().At(at)
		}
	}
	return offsets, nil
}

// lose is called by the client for partitions that are to go. Where that is clean it waits until the caller was told and
// had its time, at most handOver, and writes the last positions: no other member gains them before it returns.
func (f *feed) lose(partitions []int32, clean bool) {
	<-f.ready
	if len(partitions) == 0 {
		return
	}
	if told := f.leave(partitions, clean); told != nil {
		timer := time.NewTimer(handOver)
		defer timer.Stop()
		select {
		case <-told:
		case <-timer.C:
			f.s.log.Warn("partitions were taken without the last positions: no poll in time",
				"group", f.spec.Group, "partitions", partitions)
		case <-f.closed:
		case <-f.ctx.Done():
		}
	}
	f.mu.Lock()
	for _, p := range partitions {
		if pt := f.parts[p]; pt != nil {
			pt.known = false // no further commit
		}
	}
	f.mu.Unlock()
	if clean {
		ctx, cancel := context.WithTimeout(f.ctx, handOver)
		defer cancel()
		f.writeLast(ctx, partitions)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range partitions {
		delete(f.parts, p)
	}
}

// leave marks the partitions and has their loss told. It answers what is closed when the caller has had its time; nil
// when there is nothing to wait for.
func (f *feed) leave(partitions []int32, clean bool) <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	wait := false
	for _, p := range partitions {
		pt := f.parts[p]
		if pt == nil {
			continue
		}
		f.throttle(p, pt, false) // the client remembers it beyond the loss
		pt.leaving, pt.queue, pt.bytes = true, nil, 0
		if !clean {
			delete(f.parts, p)
		}
		if pt.known {
			f.lost = append(f.lost, p)
			wait = clean
		}
	}
	signal(f.wake)
	if !wait || f.isClosed() {
		return nil
	}
	f.awaiting = make(chan struct{})
	return f.awaiting
}
