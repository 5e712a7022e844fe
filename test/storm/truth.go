package storm

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kateway/kateway/store"
	"github.com/kateway/kateway/store/embedded"
	"github.com/kateway/kateway/test/checker"
)

// Ground looks into a store beside the gateway.
type Ground interface {
	// Live reports whether that can be done while gateways run.
	Live() bool
	// Read answers all that is in a topic; nothing for one that is not there.
	Read(ctx context.Context, topic string) ([]*store.Message, error)
	// Positions answers what the group has committed.
	Positions(ctx context.Context, topic, group string) ([]checker.Message, error)
}

// KafkaGround looks with a Kafka client.
type KafkaGround []string

// Live is always so.
func (k KafkaGround) Live() bool { return true }

// Positions asks the brokers.
func (k KafkaGround) Positions(ctx context.Context, topic, group string) (list []checker.Message, err error) {
	c, err := kgo.NewClient(kgo.SeedBrokers(k...))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return committed(ctx, kadm.NewClient(c), topic, group)
}

func committed(ctx context.Context, c *kadm.Client, topic, group string) (list []checker.Message, err error) {
	all, err := c.FetchOffsets(ctx, group)
	if err != nil {
		return nil, err
	}
	for partition, o := range all[topic] {
		if o.Err == nil && o.At >= 0 {
			list = append(list, checker.Message{Partition: partition, Offset: o.At})
		}
	}
	return list, nil
}

func (k KafkaGround) Read(ctx context.Context, topic string) (list []*store.Message, err error) {
	c, err := kgo.NewClient(kgo.SeedBrokers(k...), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	ends, err := kadm.NewClient(c).ListEndOffsets(ctx, topic)
	if err != nil {
		return nil, err
	}
	left := map[int32]int64{}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Err == nil && o.Offset > 0 {
			left[o.Partition] = o.Offset
		}
	})
	for len(left) > 0 {
		f := c.PollFetches(ctx)
		if err := f.Err0(); err != nil {
			return nil, err
		}
		f.EachRecord(func(r *kgo.Record) {
			m := &store.Message{Key: r.Key, Value: r.Value, Partition: r.Partition, Offset: r.Offset}
			for _, h := range r.Headers {
				m.Headers = append(m.Headers, store.Header{Key: h.Key, Value: h.Value})
			}
			list = append(list, m)
			if r.Offset+1 >= left[r.Partition] {
				delete(left, r.Partition)
			}
		})
	}
	return list, nil
}

// DiskGround opens the embedded store when the gateway has let go of it.
type DiskGround string

// Live is never so.
func (d DiskGround) Live() bool { return false }

func (d DiskGround) open() (store.Admin, func(), error) {
	s, err := embedded.Open(embedded.Config{Dir: filepath.Join(string(d), "store"), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, nil, err
	}
	return s, func() { _ = s.Close(context.Background()) }, nil
}

func (d DiskGround) Read(ctx context.Context, topic string) ([]*store.Message, error) {
	s, end, err := d.open()
	if err != nil {
		return nil, err
	}
	defer end()
	return readAll(ctx, s, topic)
}

// Positions opens the store, and closes it again.
func (d DiskGround) Positions(ctx context.Context, topic, group string) ([]checker.Message, error) {
	s, end, err := d.open()
	if err != nil {
		return nil, err
	}
	defer end()
	return positionsOf(ctx, s, topic, group)
}

func readAll(ctx context.Context, s store.Admin, topic string) (list []*store.Message, err error) {
	topics, err := s.Topics(ctx)
	if err != nil {
		return nil, err
	}
	for _, t := range topics {
		for p := range t.Partitions {
			if t.Name != topic {
				continue
			}
			for m, err := range s.Browse(ctx, topic, p, 0) {
				if err != nil {
					return nil, err
				}
				list = append(list, m)
			}
		}
	}
	return list, nil
}

func positionsOf(ctx context.Context, s store.Admin, topic, group string) (list []checker.Message, err error) {
	lags, err := s.Lag(ctx, topic, group)
	for _, l := range lags {
		if l.Committed >= 0 {
			list = append(list, checker.Message{Partition: l.Partition, Offset: l.Committed})
		}
	}
	return list, err
}

// truth notes what is in the topic and in the queues of its groups, and where these are.
func (s *Storm) truth() {
	s.T.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*Patience)
	defer cancel()
	all, err := s.ground.Read(ctx, s.InStore())
	if err != nil {
		s.T.Fatalf("reading %s beside the gateway: %v", s.InStore(), err)
	}
	r := checker.Record{Op: checker.Stored, Phase: checker.OK, Topic: s.InStore()}
	for _, m := range all {
		r.Messages = append(r.Messages, recorded(m))
	}
	s.H.Note(r)
	for _, p := range s.Groups {
		for q, op := range map[string]checker.Op{"retry": checker.Retry, "dead": checker.Dead} {
			queue, err := s.ground.Read(ctx, p.queue(s, q))
			if err != nil {
				s.T.Fatalf("reading %s beside the gateway: %v", p.queue(s, q), err)
			}
			r := checker.Record{Op: op, Phase: checker.OK, Topic: s.InStore(), Group: p.Name}
			for _, m := range queue {
				r.Messages = append(r.Messages, s.moved(m))
			}
			s.H.Note(r)
		}
		s.sample(ctx, p)
	}
}

// sample notes where a group is.
func (s *Storm) sample(ctx context.Context, p *Party) {
	n := s.H.Note(checker.Record{Op: checker.Committed, Phase: checker.Invoke, Topic: s.InStore(), Group: p.Name})
	at, err := s.ground.Positions(ctx, s.InStore(), p.inStore(s))
	if err != nil || len(at) == 0 {
		s.H.End(n, checker.Info, fmt.Sprint(err))
		return
	}
	s.H.End(n, checker.OK, "", at...)
}

// Watch samples all groups while the load lasts, where the store lets it.
func (s *Storm) Watch(every time.Duration) {
	if !s.ground.Live() {
		return
	}
	ctx := s.Load.Life(s.T)
	s.Load.Wg.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			for _, p := range s.Groups {
				s.sample(ctx, p)
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
}

// header is the value of a record header; the last of its name counts, since those of a move come last.
func header(m *store.Message, name string) string {
	for _, h := range slices.Backward(m.Headers) {
		if h.Key == name {
			return string(h.Value)
		}
	}
	return ""
}

// recorded is what a stored message is, in the checker's eyes.
func recorded(m *store.Message) checker.Message {
	return proven(Observed(m.Value, checker.Message{Partition: m.Partition, Offset: m.Offset, Key: string(m.Key), Tag: header(m, "tags")}), header(m, "proof"))
}

// moved is a message of a retry or dead queue, with the place that it says it comes from.
func (s *Storm) moved(m *store.Message) checker.Message {
	w := recorded(m)
	partition, err1 := strconv.Atoi(header(m, "kateway-origin-partition"))
	offset, err2 := strconv.ParseInt(header(m, "kateway-origin-offset"), 10, 64)
	attempts, err3 := strconv.Atoi(header(m, "kateway-attempts"))
	for _, err := range []error{err1, err2, err3} {
		if err != nil && w.Wrong == "" {
			w.Wrong = "its origin can't be read: " + err.Error()
		}
	}
	w.Partition, w.Offset, w.Attempt, w.Cause = int32(partition), offset, attempts, strings.ToValidUTF8(header(m, "kateway-cause"), "?")
	return w
}
