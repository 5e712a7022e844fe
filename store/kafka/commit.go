package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

const (
	commitEvery   = 100 * time.Millisecond // at most, one request for all partitions
	commitTimeout = 10 * time.Second
)

// commits writes noted positions: at once after a rest, else when commitEvery has passed.
func (f *feed) commits() {
	for {
		select {
		case <-f.noted:
		case <-f.ctx.Done():
			return
		}
		ctx, cancel := context.WithTimeout(f.ctx, commitTimeout)
		f.write(ctx, nil)
		cancel()
		if !pause(f.ctx, commitEvery) {
			return
		}
	}
}

// write writes the noted positions of the partitions (nil: all) and returns when the cluster has answered. Those that
// it does not take are told by Poll.
func (f *feed) write(ctx context.Context, partitions []int32) {
	f.writing.Lock() // an older commit must not overtake a newer one
	defer f.writing.Unlock()
	positions := f.collectPositions(partitions)
	if len(positions) == 0 {
		return
	}
	offsets := map[int32]kgo.EpochOffset{}
	for p, pos := range positions {
		offsets[p] = kgo.EpochOffset{Epoch: -1, Offset: pos.Next}
	}
	ctx = kgo.PreCommitFnContext(ctx, func(req *kmsg.OffsetCommitRequest) error {
		for i := range req.Topics {
			for j := range req.Topics[i].Partitions {
				rp := &req.Topics[i].Partitions[j]
				rp.Metadata = kmsg.StringPtr(positions[rp.Partition].Beyond)
			}
		}
		return nil
	})
	f.cl.CommitOffsetsSync(ctx, map[string]map[int32]kgo.EpochOffset{f.spec.Topic: offsets},
		func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
			f.written(positions, resp, err)
		})
}

// writeClosing writes what is noted before we leave. While the group rebalances the cluster takes no commit, and a member that
// leaves in the midst of it stays refused: so the client goes on as a member until the last positions are taken.
func (f *feed) writeClosing(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, handOver)
	defer cancel()
	f.writeLast(ctx, nil)
}

// writeLast writes the noted positions of partitions that go (nil: all), again where the membership is changing under the write: a
// member of the new protocol is told so when its epoch moves on between the two. Nobody else gains them meanwhile.
func (f *feed) writeLast(ctx context.Context, partitions []int32) {
	for {
		f.write(ctx, partitions)
		if !f.unwritten(partitions) || !pause(ctx, 20*time.Millisecond) {
			return
		}
	}
}

func (f *feed) unwritten(partitions []int32) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for p, pt := range f.parts {
		if f.gone == nil && pt.position != nil && (partitions == nil || slices.Contains(partitions, p)) {
			return !f.fenced.Load() // else another process has our name, for as long as it likes
		}
	}
	return false
}

// collectPositions takes the noted positions; from then on they are the writer's. Those on a topic that is gone are
// nobody's: written by its name they could be taken for positions on the next one of that name.
func (f *feed) collectPositions(partitions []int32) map[int32]store.Position {
	f.mu.Lock()
	defer f.mu.Unlock()
	positions := map[int32]store.Position{}
	for p, pt := range f.parts {
		if f.gone == nil && pt.position != nil && (partitions == nil || slices.Contains(partitions, p)) {
			positions[p] = *pt.position
			pt.position = nil
		}
	}
	return positions
}

// written takes the cluster's answer.
func (f *feed) written(positions map[int32]store.Position, resp *kmsg.OffsetCommitResponse, err error) {
	answers := map[int32]error{}
	if err == nil && resp != nil {
		for _, t := range resp.Topics {
			for _, p := range t.Partitions {
				answers[p.Partition] = kerr.ErrorForCode(p.ErrorCode)
			}
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lastErr = nil
	for p, pos := range positions {
		answer := answers[p]
		if err != nil {
			answer = err
		}
		if answer != nil {
			f.notWritten(pos, answer)
		}
	}
	signal(f.wake)
}

// changing tells of a membership that is not what the member thought.
func changing(err error) bool {
	return errors.Is(err, kerr.RebalanceInProgress) || errors.Is(kindOf(err), errs.Fenced)
}

func (f *feed) notWritten(pos store.Position, err error) {
	err = f.s.failed(fmt.Sprintf("position of group %q on partition %d", f.spec.Group, pos.Partition), err)
	f.lastErr = err
	pt := f.parts[pos.Partition]
	switch {
	case pt == nil:
		return
	case changing(err):
		// Either the membership goes on, and this is tried again, or the partition is about to be lost.
		if pt.position == nil {
			pt.position = &pos
		}
		signal(f.noted)
	case pt.position == nil: // else a newer one is on its way
		f.refused = append(f.refused, store.Refusal{Partition: pos.Partition, Err: err})
	}
}
