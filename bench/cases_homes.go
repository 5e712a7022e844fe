//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kateway/kateway/internal/testkit" //nolint:depguard // a benchmark needs a real ZooKeeper as tests do
)

const (
	homesPartitions = 6
	homesLatencies  = 300
)

// homes is reading a group through one of three gateways: the group's home, another one that forwards to it, and one of
// three that know nothing of each other, so that each is a member of the group. Then the same with a client at each of
// the three.
func homes(ctx context.Context, b *bench, _ float64) ([]result, error) {
	addr, stop, err := testkit.StartZooKeeper()
	if err != nil {
		return nil, err
	}
	defer stop()
	if err := b.makeTopics(ctx, "homes", "homes-live"); err != nil {
		return nil, err
	}
	joint, err := b.three(ctx, "--zk", addr+"/homes", "--peer", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer stopAll(joint...)
	if err := acquainted(ctx, joint); err != nil {
		return nil, err
	}
	alone, err := b.three(ctx)
	if err != nil {
		return nil, err
	}
	defer stopAll(alone...)
	if err := fill(ctx, alone[0], "homes", kafkaStored); err != nil {
		return nil, err
	}
	results, err := b.homesRate(ctx, joint, alone)
	if err != nil {
		return results, err
	}
	rows, err := homesLatency(ctx, joint, alone)
	return append(results, rows...), err
}

// makeTopics makes registered-by-use topics with several partitions.
func (b *bench) makeTopics(ctx context.Context, names ...string) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.kafka.Addrs()...))
	if err != nil {
		return err
	}
	defer cl.Close()
	for i, name := range names {
		names[i] = "default." + name + ".v1"
	}
	made, err := kadm.NewClient(cl).CreateTopics(ctx, homesPartitions, -1, nil, names...)
	return errors.Join(err, made.Error())
}

func (b *bench) three(ctx context.Context, flags ...string) (procs []*proc, err error) {
	for range 3 {
		g, err := b.gateway(ctx, append([]string{"--kafka", b.brokers()}, flags...)...)
		if err != nil {
			stopAll(procs...)
			return nil, err
		}
		procs = append(procs, g)
	}
	return procs, nil
}

// acquainted waits until each gateway knows of three.
func acquainted(ctx context.Context, procs []*proc) error {
	for end := time.Now().Add(startWait); time.Now().Before(end); {
		known := 0
		for _, p := range procs {
			if n, err := p.metric(ctx, "kateway_home_gateways"); err != nil {
				return err
			} else if int(n) == len(procs) {
				known++
			}
		}
		if known == len(procs) {
			return nil
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	return fmt.Errorf("the gateways have not found each other within %v", startWait)
}

// reading is a turn of clients that read everything as one group, new each time.
type reading struct {
	what    string
	procs   []*proc // whose CPU counts
	at      []*proc // where the clients are
	samples []sample
	first   []float64 // milliseconds until the first messages of each
}

func (b *bench) homesRate(ctx context.Context, joint, alone []*proc) ([]result, error) {
	home, hop := &reading{what: "at its home", procs: joint, at: joint[:1]}, &reading{what: "at another gateway", procs: joint, at: joint[:1]}
	list := []*reading{
		home, hop,
		{what: "at a gateway without peers", procs: alone, at: alone[:1]},
		{what: "at each of 3 gateways, one of them its home", procs: joint, at: joint},
		{what: "at each of 3 gateways, each a member", procs: alone, at: alone},
	}
	groups := 0
	for i, g := range joint { // the first is home or edge, the others homes, or idle
		err := b.profiled(ctx, subject{fmt.Sprintf("homes-%d", i), g, func() (int, error) {
			groups++
			_, _, _, err := hop.once(ctx, fmt.Sprintf("rate%d", groups)) //nolint:dogsled // it does not count
			return kafkaStored, err
		}})
		if err != nil {
			return nil, err
		}
	}
	for i := 0; i < b.rounds || len(home.samples) < b.rounds || len(hop.samples) < b.rounds; i++ {
		if i > 20*b.rounds {
			return nil, errors.New("no group has its home where it is wanted")
		}
		for n, r := range list[1:] {
			if n > 0 && i >= b.rounds { // only the place of a home is a matter of luck
				continue
			}
			groups++
			s, first, forwarded, err := r.once(ctx, fmt.Sprintf("rate%d", groups))
			switch {
			case err != nil:
				return nil, fmt.Errorf("client %s: %w", r.what, err)
			case r == hop && !forwarded:
				r = home
			}
			r.samples, r.first = append(r.samples, s), append(r.first, first)
		}
	}
	var results []result
	base := over(home.samples, sample.perMessage)
	for _, r := range list {
		cost := over(r.samples, sample.perMessage)
		results = append(results, result{
			what: "read 200,000 of Kafka as a group, client " + r.what, gateway: fmt.Sprintf("%.2f µs CPU/msg", cost/1e3),
			floor: fmt.Sprintf("%.2f µs", base/1e3), ratio: fmt.Sprintf("%.2fx", cost/base),
			note: fmt.Sprintf("%.0f msg/s, the first after %.0f ms; CPU of all three gateways; floor: at its home", over(r.samples, sample.rate), median(r.first)),
		})
	}
	return results, nil
}

// once is one turn. It answers after how many milliseconds the first messages came, and whether the first client's group had
// its home elsewhere.
func (r *reading) once(ctx context.Context, group string) (s sample, first float64, forwarded bool, err error) {
	used := func() (total time.Duration, err error) {
		for _, p := range r.procs {
			one, err := p.cpu()
			if err != nil {
				return 0, err
			}
			total += one
		}
		return total, nil
	}
	before, err := used()
	if err != nil {
		return s, 0, false, err
	}
	began := time.Now()
	err = readTogether(ctx, r.at, "/v1/stream/default/homes/v1?group="+group, kafkaStored, func() error {
		first = time.Since(began).Seconds() * 1e3
		n, err := r.at[0].metric(ctx, "kateway_home_forwarded_sessions")
		forwarded = n > 0
		return err
	})
	if err != nil {
		return s, 0, false, err
	}
	took := time.Since(began)
	after, err := used()
	return sample{messages: kafkaStored, took: took, cpu: after - before}, first, forwarded, err
}

// readTogether reads so many messages by a stream at each of the gateways, all of one group. It calls begun when the first come.
func readTogether(ctx context.Context, at []*proc, path string, total int, begun func() error) error {
	left := make(chan int, 64)
	failed := make(chan error, len(at))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, p := range at {
		c, err := dial(ctx, p.addr)
		if err != nil {
			return err
		}
		context.AfterFunc(ctx, c.close)
		go func() { failed <- counted(ctx, c, path, left) }()
	}
	for end := time.After(ioWait); total > 0; {
		select {
		case n := <-left:
			total -= n
			if err := begun(); err != nil {
				return err
			}
			begun = func() error { return nil }
		case err := <-failed:
			return errors.Join(errors.New("a stream ended"), err)
		case <-end:
			return fmt.Errorf("%d messages have not come within %v", total, ioWait)
		}
	}
	return nil
}

// counted reads a stream of JSON objects and tells how many come.
func counted(ctx context.Context, c *client, path string, came chan<- int) error {
	h, err := c.send(fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", path))
	if err == nil && h.status != 200 {
		err = fmt.Errorf("stream answered %d", h.status)
	}
	if err != nil {
		return err
	}
	return c.chunks(func(size int) error {
		chunk, err := c.r.Peek(size)
		if err != nil {
			return err
		}
		select {
		case came <- bytes.Count(chunk, []byte("}\n")):
		case <-ctx.Done():
			return ctx.Err()
		}
		_, err = c.r.Discard(size)
		return err
	})
}

// groupAt is a group of the empty topic whose home is this gateway or, with forwarded, another one.
func groupAt(ctx context.Context, p *proc, topic string, forwarded bool) (string, error) {
	for i := range 100 {
		group := fmt.Sprintf("live%d-%v", i, forwarded)
		s, err := dial(ctx, p.addr)
		if err != nil {
			return "", err
		}
		h, err := s.send(fmt.Appendf(nil, "GET /v1/stream/default/%s/v1?group=%s HTTP/1.1\r\nHost: localhost\r\n\r\n", topic, group))
		if err == nil && h.status != 200 {
			err = fmt.Errorf("stream answered %d", h.status)
		}
		n := int64(0)
		if err == nil {
			n, err = p.metric(ctx, "kateway_home_forwarded_sessions")
		}
		s.close()
		if err != nil {
			return "", err
		}
		if (n > 0) == forwarded {
			return group, left(ctx, p)
		}
		if err := left(ctx, p); err != nil {
			return "", err
		}
	}
	return "", errors.New("of 100 groups none had its home there")
}

// left waits until the session by which a home was found has left.
func left(ctx context.Context, p *proc) error {
	for range 100 {
		n, err := p.metric(ctx, "kateway_home_forwarded_sessions")
		if err != nil || n == 0 {
			return err
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
	return errors.New("a session stays forwarded though its client has left")
}

// homesLatency is the time from a publish until its message has come out of three streams: at the group's home, at another
// gateway, at one without peers. It is the same publish for all three.
func homesLatency(ctx context.Context, joint, alone []*proc) ([]result, error) {
	near, err := groupAt(ctx, joint[0], "homes-live", false)
	if err != nil {
		return nil, err
	}
	far, err := groupAt(ctx, joint[0], "homes-live", true)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ends := []struct {
		p     *proc
		group string
	}{{joint[0], near}, {joint[0], far}, {alone[0], "live-alone"}}
	came := make([]chan int, len(ends))
	failed := make(chan error, len(ends))
	for i, e := range ends {
		c, err := dial(ctx, e.p.addr)
		if err != nil {
			return nil, err
		}
		context.AfterFunc(ctx, c.close)
		came[i] = make(chan int, 1)
		go func() { failed <- counted(ctx, c, "/v1/stream/default/homes-live/v1?group="+e.group, came[i]) }()
	}
	out, err := dial(ctx, joint[0].addr)
	if err != nil {
		return nil, err
	}
	defer out.close()
	ms := make([][]float64, len(ends))
	for n := range homesLatencies + homesLatencies/10 {
		took, err := toAll(out, came, failed)
		if err != nil {
			return nil, fmt.Errorf("message %d: %w", n, err)
		}
		for i := range ms {
			if n >= homesLatencies/10 { // the first wait for their groups to begin
				ms[i] = append(ms[i], took[i])
			}
		}
	}
	var results []result
	for i, what := range []string{"at its group's home", "at another gateway", "at a gateway without peers"} {
		results = append(results, result{
			what: "publish to delivery " + what + ", Kafka", gateway: fmt.Sprintf("p50 %.2f ms, p99 %.2f ms", quantile(ms[i], 0.5), quantile(ms[i], 0.99)),
			floor: fmt.Sprintf("p50 %.2f ms, p99 %.2f ms", quantile(ms[0], 0.5), quantile(ms[0], 0.99)),
			ratio: fmt.Sprintf("p50 %.2fx, p99 %.2fx", quantile(ms[i], 0.5)/quantile(ms[0], 0.5), quantile(ms[i], 0.99)/quantile(ms[0], 0.99)),
			note:  "floor: at its home",
		})
	}
	return results, nil
}

// toAll publishes one message and answers how many milliseconds it took to each.
func toAll(out *client, came []chan int, failed chan error) ([]float64, error) {
	began := time.Now()
	h, err := out.drop(post("/v1/msgs/homes-live/v1", letters(100)))
	if err == nil && h.status != 201 {
		err = fmt.Errorf("publish answered %d", h.status)
	}
	if err != nil {
		return nil, err
	}
	at := make([]float64, len(came))
	err = together(len(came), func(i int) error {
		t := time.NewTimer(ioWait)
		defer t.Stop()
		for {
			select {
			case n := <-came[i]:
				if n == 0 { // a heartbeat
					continue
				}
				at[i] = time.Since(began).Seconds() * 1e3
				return nil
			case <-t.C:
				return fmt.Errorf("it has not come out of stream %d", i)
			case err := <-failed:
				return errors.Join(errors.New("a stream ended"), err)
			}
		}
	})
	return at, err
}
