package test

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

// ground looks into a store beside the gateway.
type ground interface {
	// live reports whether that can be done while gateways run.
	live() bool
	// read answers all that is in a topic; nothing for one that is not there.
	read(ctx context.Context, topic string) ([]*store.Message, error)
	// positions answers what the group has committed.
	positions(ctx context.Context, topic, group string) ([]checker.Message, error)
}

// kafkaGround looks with a Kafka client.
type kafkaGround []string

func (k kafkaGround) live() bool { return true }

func (k kafkaGround) positions(ctx context.Context, topic, group string) (list []checker.Message, err error) {
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

func (k kafkaGround) read(ctx context.Context, topic string) (list []*store.Message, err error) {
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

// diskGround opens the embedded store when the gateway has let go of it.
type diskGround string

func (d diskGround) live() bool { return false }

func (d diskGround) open() (store.Admin, func(), error) {
	s, err := embedded.Open(embedded.Config{Dir: filepath.Join(string(d), "store"), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, nil, err
	}
	return s, func() { _ = s.Close(context.Background()) }, nil
}

func (d diskGround) read(ctx context.Context, topic string) ([]*store.Message, error) {
	s, end, err := d.open()
	if err != nil {
		return nil, err
	}
	defer end()
	return readAll(ctx, s, topic)
}

func (d diskGround) positions(ctx context.Context, topic, group string) ([]checker.Message, error) {
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
func (s *storm) truth() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	all, err := s.ground.read(ctx, s.inStore())
	if err != nil {
		s.t.Fatalf("reading %s beside the gateway: %v", s.inStore(), err)
	}
	r := checker.Record{Op: checker.Stored, Phase: checker.OK, Topic: s.inStore()}
	for _, m := range all {
		r.Messages = append(r.Messages, recorded(m))
	}
	s.h.Note(r)
	for _, p := range s.groups {
		for q, op := range map[string]checker.Op{"retry": checker.Retry, "dead": checker.Dead} {
			queue, err := s.ground.read(ctx, p.queue(s, q))
			if err != nil {
				s.t.Fatalf("reading %s beside the gateway: %v", p.queue(s, q), err)
			}
			r := checker.Record{Op: op, Phase: checker.OK, Topic: s.inStore(), Group: p.name}
			for _, m := range queue {
				r.Messages = append(r.Messages, s.moved(m))
			}
			s.h.Note(r)
		}
		s.sample(ctx, p)
	}
}

// sample notes where a group is.
func (s *storm) sample(ctx context.Context, p *party) {
	n := s.h.Note(checker.Record{Op: checker.Committed, Phase: checker.Invoke, Topic: s.inStore(), Group: p.name})
	at, err := s.ground.positions(ctx, s.inStore(), p.inStore(s))
	if err != nil || len(at) == 0 {
		s.h.End(n, checker.Info, fmt.Sprint(err))
		return
	}
	s.h.End(n, checker.OK, "", at...)
}

// watch samples all groups while the load lasts, where the store lets it.
func (s *storm) watch(every time.Duration) {
	if !s.ground.live() {
		return
	}
	ctx := s.load.life(s.t)
	s.load.wg.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			for _, p := range s.groups {
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
	return proven(observed(m.Value, checker.Message{Partition: m.Partition, Offset: m.Offset, Key: string(m.Key), Tag: header(m, "tags")}), header(m, "proof"))
}

// moved is a message of a retry or dead queue, with the place that it says it comes from.
func (s *storm) moved(m *store.Message) checker.Message {
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
