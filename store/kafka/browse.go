package kafka

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// browseBytes is how much is asked for at once.
const browseBytes = 1 << 20

// Browse reads a partition with plain requests to its leader: no group and no client of its own, and each answer tells
// where the next begins, so that offsets without a message at the end keep nobody waiting.
func (s *Store) Browse(ctx context.Context, topic string, partition int32, offset int64) iter.Seq2[*store.Message, error] {
	return func(yield func(*store.Message, error) bool) {
		if err := ctx.Err(); err != nil {
			yield(nil, err)
			return
		}
		next, end, err := s.bounds(ctx, topic, partition, offset)
		for err == nil && next < end {
			var records []*kgo.Record
			if records, next, err = s.read(ctx, topic, partition, next); err != nil {
				break
			}
			for _, r := range records {
				if r.Offset >= end {
					return
				}
				m := message(r, nil)
				for _, h := range r.Headers {
					m.Headers = append(m.Headers, store.Header(h))
				}
				if !yield(m.Clone(), nil) { // who keeps one must not keep all that came with it
					return
				}
			}
		}
		if err != nil {
			yield(nil, err)
		}
	}
}

// bounds are where to begin and to end.
func (s *Store) bounds(ctx context.Context, topic string, partition int32, offset int64) (next, end int64, err error) {
	starts, err := s.offsets(ctx, topic, s.adm.ListStartOffsets)
	if err != nil {
		return 0, 0, err
	}
	if partition < 0 || int(partition) >= len(starts) {
		return 0, 0, fmt.Errorf("topic %q has %d partitions, not %d: %w", topic, len(starts), partition, errs.InvalidParam)
	}
	ends, err := s.offsets(ctx, topic, s.adm.ListCommittedOffsets)
	if err != nil {
		return 0, 0, err
	}
	return max(offset, starts[partition]), ends[partition], nil
}

// read fetches the messages at offset and some behind it, and answers where the next are. A leader that moves is followed.
func (s *Store) read(ctx context.Context, topic string, partition int32, offset int64) ([]*kgo.Record, int64, error) {
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		records, next, err := s.readOnce(ctx, topic, partition, offset)
		switch {
		case ctx.Err() != nil:
			return nil, 0, ctx.Err()
		case err == nil && next > offset:
			return records, next, nil
		case errors.Is(err, kerr.OffsetOutOfRange): // retention was faster
			start, _, err := s.bounds(ctx, topic, partition, offset)
			if err != nil || start == offset {
				return nil, 0, errors.Join(err, fmt.Errorf("offset %d is no longer there: %w", offset, errs.Unavailable))
			}
			return nil, start, nil
		case err != nil && !kerr.IsRetriable(err) && !unreached(err):
			return nil, 0, s.failed(fmt.Sprintf("partition %d of %q at %d", partition, topic, offset), err)
		}
		if !pause(ctx, wait) {
			return nil, 0, ctx.Err()
		}
	}
}

func (s *Store) readOnce(ctx context.Context, topic string, partition int32, offset int64) ([]*kgo.Record, int64, error) {
	d, err := s.detail(ctx, topic)
	if err != nil {
		return nil, 0, err
	}
	leader := d.Partitions[partition].Leader
	if leader < 0 {
		return nil, 0, kerr.LeaderNotAvailable
	}
	resp, err := s.cl.Broker(int(leader)).RetriableRequest(ctx, fetchOne(topic, d.ID, partition, offset))
	if err != nil {
		return nil, 0, err
	}
	fetched, ok := resp.(*kmsg.FetchResponse)
	if !ok || fetched.ErrorCode != 0 {
		return nil, 0, errors.Join(kerr.ErrorForCode(fetched.ErrorCode), errs.Unavailable)
	}
	for _, t := range fetched.Topics {
		for i := range t.Partitions {
			fp, next := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{
				Offset: offset, IsolationLevel: kgo.ReadCommitted(), Topic: topic, Partition: partition,
			}, &t.Partitions[i], kgo.DefaultDecompressor(), nil)
			return fp.Records, next, fp.Err
		}
	}
	return nil, offset, nil
}

func fetchOne(topic string, id [16]byte, partition int32, offset int64) *kmsg.FetchRequest {
	p := kmsg.NewFetchRequestTopicPartition()
	p.Partition, p.FetchOffset, p.PartitionMaxBytes = partition, offset, browseBytes
	t := kmsg.NewFetchRequestTopic()
	t.Topic, t.TopicID, t.Partitions = topic, id, []kmsg.FetchRequestTopicPartition{p}
	req := kmsg.NewPtrFetchRequest()
	req.ReplicaID, req.MaxWaitMillis, req.MinBytes, req.MaxBytes = -1, 500, 1, browseBytes
	req.IsolationLevel, req.SessionEpoch = 1, -1
	req.Topics = []kmsg.FetchRequestTopic{t}
	return req
}
