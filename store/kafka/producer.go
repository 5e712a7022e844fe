package kafka

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

const keyProduce = 0 // Kafka's number of the request that stores messages

// producer is a client that publishes with one kind of ack.
type producer struct {
	cl  *kgo.Client
	ack store.Ack
	wire
}

// wire counts what the client wrote and what was cut: the one thing that tells a message that can't have been stored from
// one that may be, where the client's error alone does not.
type wire struct {
	written atomic.Int64 // publish requests of which at least a byte was written
	cut     atomic.Int64 // those of them without an answer
	cutAt   atomic.Int64 // when that was last so, by now
	now     func() time.Duration
}

// lost notes a publish request that will have no answer.
func (w *wire) lost() {
	if w.now != nil { // not in some tests
		w.cutAt.Store(int64(w.now()))
	}
	w.cut.Add(1)
}

// OnBrokerWrite is called before any outcome of the request's messages.
func (w *wire) OnBrokerWrite(_ kgo.BrokerMetadata, key int16, bytes int, _, _ time.Duration, err error) {
	if key != keyProduce || bytes == 0 {
		return
	}
	w.written.Add(1)
	if err != nil {
		w.lost()
	}
}

// OnBrokerRead is called before any outcome of the request's messages.
func (w *wire) OnBrokerRead(_ kgo.BrokerMetadata, key int16, _ int, _, _ time.Duration, err error) {
	if key == keyProduce && err != nil {
		w.lost()
	}
}

func (s *Store) newProducer(ack store.Ack) (*producer, error) {
	p := &producer{ack: ack}
	p.now = s.now
	compression, _ := codec(s.cfg.Compression)
	opts := s.clientOpts(
		kgo.WithHooks(&p.wire),
		kgo.RecordPartitioner(kgo.BasicConsistentPartitioner(func(string) func(*kgo.Record, int) int { return partition })),
		kgo.ProducerBatchCompression(compression, kgo.NoCompression()),
		kgo.ProducerBatchMaxBytesFn(s.batchBytes),
		kgo.BrokerMaxWriteBytes(maxBatch+1<<20),
		kgo.ProducerLinger(max(s.cfg.Linger, 0)),
		kgo.ProduceRequestTimeout(min(s.cfg.AnswerTimeout, 10*time.Second)),
		kgo.RequestTimeoutOverhead(min(s.cfg.AnswerTimeout, 10*time.Second)),
		kgo.RetryTimeout(s.cfg.SendTimeout),
		kgo.UnknownTopicRetries(5),
		kgo.MaxBufferedRecords(math.MaxInt32), // Config.MaxBufferedBytes is the limit, and never blocks
	)
	if ack == store.AckLocal {
		opts = append(opts, kgo.RequiredAcks(kgo.LeaderAck()), kgo.DisableIdempotentWrite())
	}
	var err error
	if p.cl, err = kgo.NewClient(opts...); err != nil {
		return nil, fmt.Errorf("kafka client: %w", err)
	}
	return p, nil
}

// partition is the one that Publish has chosen; the client refuses the message when that is not among the n it knows.
func partition(r *kgo.Record, n int) int {
	if int(r.Partition) >= n {
		r.Context.(*slot).unknown = true //nolint:errcheck,forcetypeassert // no other record is produced
	}
	return int(r.Partition)
}

// batchBytes is the longest batch for a topic; the client asks once, when it first learns of it.
func (s *Store) batchBytes(name string) int32 {
	if t := s.cached(name); t != nil {
		return t.maxBytes
	}
	return defaultBatch
}

// producer answers the client for the ack; the one for AckLocal is made when it is first needed.
func (s *Store) producer(ack store.Ack) (*producer, error) {
	if ack == store.AckAll {
		return s.all, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, store.ErrClosed
	}
	if s.local == nil {
		var err error
		if s.local, err = s.newProducer(ack); err != nil {
			return nil, fmt.Errorf("%w: %w", err, errs.Unavailable)
		}
	}
	return s.local, nil
}

// deadline is the context of what is handed over now: it ends when that should have been sent. It is shared by all calls
// of a short while. (The client's own delivery timeout counts from the message's time, which is the publisher's to choose.)
type deadline struct {
	context.Context
	cancel context.CancelFunc // called by the timeout alone
	made   time.Duration      // by Store.now
}

// deadlineEvery is how much longer than SendTimeout it may take.
const deadlineEvery = 200 * time.Millisecond

func (s *Store) deadline(p store.Patience) context.Context {
	if p == store.PatientSend {
		return context.Background() // the client tries until it is answered, or closed
	}
	now := s.now()
	old := s.sendBy.Load()
	if old != nil && now-old.made < deadlineEvery {
		return old
	}
	d := &deadline{made: now}
	d.Context, d.cancel = context.WithTimeout(context.Background(), s.cfg.SendTimeout+deadlineEvery)
	if !s.sendBy.CompareAndSwap(old, d) {
		d.cancel()
		return s.sendBy.Load()
	}
	return d
}

// close waits for the outcome of what is under way until ctx ends.
func (p *producer) close(ctx context.Context) error {
	err := p.cl.Flush(ctx)
	p.cl.Close()
	if err != nil {
		return fmt.Errorf("waiting for publishes under way: %w", err)
	}
	return nil
}

// mark is the state of the wire before a message is handed over.
type mark struct{ written, cut int64 }

func (w *wire) mark() mark { return mark{w.written.Load(), w.cut.Load()} }

// outcome is what the client's error says of a message that was handed over at the mark.
//
// With AckAll the client numbers its batches, and the broker knows a repetition by its number. It gives a message up only when
// it never wrote it, or when its last try was answered by a refusal; of the tries before it remembers nothing, so that a
// message may have been stored by one that was cut. What it gives up is certain not to be stored when nothing was cut
// meanwhile; except where it gives up everything, as when it is closed. With AckLocal there are no numbers, and it gives up
// at any time: there the wire must have been silent, or each request answered and the last one with a refusal.
func (p *producer) outcome(at mark, err error) errs.Kind {
	var answer *kerr.Error
	refused := errors.As(err, &answer)
	kind := errs.Unavailable
	if refused {
		kind = publishKind(answer)
	}
	switch {
	case p.written.Load() == at.written && kind == errs.Uncertain:
		return errs.Unavailable
	case p.written.Load() == at.written:
		return kind
	case p.cut.Load() != at.cut, p.ack == store.AckLocal && !refused:
		return errs.Uncertain
	case refused, errors.Is(err, context.DeadlineExceeded), unreached(err):
		return kind
	}
	return errs.Uncertain
}

// unreached tells a message that was given up because no broker for it could be reached.
func unreached(err error) bool {
	return kgo.IsRetryableBrokerErr(err) || isDial(err)
}
