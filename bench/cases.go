//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	singleConns  = 64
	batchConns   = 4
	batchSize    = 1000
	streamStored = 500_000
	kafkaStored  = 200_000
	idleStreams  = 2000
	latencies    = 1000
	warmUp       = 300 * time.Millisecond
)

type benchCase struct {
	name   string
	target float64 // at most this or, of rates, at least
	kafka  bool
	run    func(ctx context.Context, b *bench, target float64) ([]result, error)
}

func cases() []benchCase {
	return []benchCase{
		{"publish-embedded", 1.15, false, publishEmbedded}, // CPU, times the floors
		{"publish-kafka", 1.15, true, publishKafka},        // the same
		{"publish-batches", 0.70, false, publishBatches},   // messages/s, of the bare store's
		{"stream", 1.5, false, streamEmbedded},             // CPU, times the floor
		{"latency", 5, false, latency},                     // p99 in ms
		{"idle-h2c", 12, false, idleH2C},                   // KB per stream
		{"idle-http1", 25, false, idleHTTP1},               // the same
		{"read-kafka", 1.5, true, readKafka},               // CPU, times the floor
		{"edit", 1.25, true, editTopics},                   // p99, times the floor's
		{"deliver", 1.6, false, deliver},                   // CPU, times the floor
		{"fan-out", 40, false, fanOut},                     // CPU per delivery, µs: 25,000/s of a core
		{"crowd-ws", 16, false, crowdWS},                   // KB per client
		{"crowd-readers", 16, false, crowdReaders},         // the same
		{"crowd-sse", 12, false, crowdSSE},                 // the same
		{"homes", 0, true, homes},                          // no target: for the eye
		{"stop", 0, false, stopBusy},                       // failed requests
	}
}

// subject is one of those that take turns.
type subject struct {
	name  string
	proc  *proc
	round func() (messages int, err error)
}

// turns lets all subjects run one round after the other, so that what else the machine does hits all alike. It answers
// the rounds of each.
func (b *bench) turns(ctx context.Context, subjects ...subject) ([][]sample, error) {
	rounds := make([][]sample, len(subjects))
	for _, s := range subjects {
		if err := b.profiled(ctx, s); err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
	}
	for range b.rounds {
		for i, s := range subjects {
			got, err := measured(s.proc, s.round)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", s.name, err)
			}
			rounds[i] = append(rounds[i], got)
		}
	}
	return rounds, nil
}

// again is a round of f, which is so many messages, again and again.
func (b *bench) again(messages int, f func() error) func() (int, error) {
	return func() (int, error) {
		n := 0
		for began := time.Now(); time.Since(began) < b.round; n += messages {
			if err := f(); err != nil {
				return 0, err
			}
		}
		return n, nil
	}
}

func over(rounds []sample, of func(sample) float64) float64 {
	values := make([]float64, len(rounds))
	for i, s := range rounds {
		values[i] = of(s)
	}
	return median(values)
}

// cpuRow compares the CPU per message of the first subject with the sum of that of the others.
func cpuRow(what string, rounds [][]sample, target float64) result {
	gateway, floor := over(rounds[0], sample.perMessage), 0.0
	var parts []string
	for _, r := range rounds[1:] {
		one := over(r, sample.perMessage)
		floor += one
		parts = append(parts, fmt.Sprintf("%.2f", one/1e3))
	}
	return result{
		what: what, gateway: fmt.Sprintf("%.2f µs CPU/msg", gateway/1e3), floor: strings.Join(parts, " + ") + " µs",
		ratio: fmt.Sprintf("%.2fx", gateway/floor), target: fmt.Sprintf("≤ %.2fx", target), met: meets(gateway/floor <= target),
		note: fmt.Sprintf("%.0f msg/s", over(rounds[0], sample.rate)),
	}
}

func publishEmbedded(ctx context.Context, b *bench, target float64) ([]result, error) {
	return b.publishSingle(ctx, "publish 1 per request, 64 connections, embedded", target, "pebble", "")
}

func publishKafka(ctx context.Context, b *bench, target float64) ([]result, error) {
	return b.publishSingle(ctx, "publish 1 per request, 64 connections, Kafka", target, "kafka", b.brokers())
}

// publishSingle is one message of 100 bytes per request, on 64 connections, durable. The floors: the same requests to an
// empty handler, and the same messages at the same concurrency to what stores them. For the eye there is also a process that does both: where a publish waits
// for its sync, a server sleeps and wakes more often than either floor alone.
func (b *bench) publishSingle(ctx context.Context, what string, target float64, engine, brokers string) ([]result, error) {
	var flags []string
	if brokers != "" {
		flags = []string{"--kafka", brokers}
	}
	procs, err := b.start(ctx, 3, flags...)
	if err != nil {
		return nil, err
	}
	defer stopAll(procs...)
	g, bare, direct, both := procs[0], procs[1], procs[2], procs[3]
	toGateway, toBare := post("/v1/msgs/single/v1", letters(100)), post("/publish", letters(100))
	toBoth := post("/both?what="+engine+"&brokers="+brokers, letters(100))
	subjects := func(d time.Duration) []subject {
		return []subject{
			{"publish-" + engine, g, func() (int, error) { return publishing(ctx, g.addr, toGateway, singleConns, d) }},
			{"bare handler", bare, func() (int, error) { return publishing(ctx, bare.addr, toBare, singleConns, d) }},
			{"bare " + engine, direct, func() (int, error) { return running(ctx, direct, engine, brokers, singleConns, d) }},
			{"handler and " + engine, both, func() (int, error) { return publishing(ctx, both.addr, toBoth, singleConns, d) }},
		}
	}
	rounds, err := b.warmTurns(ctx, subjects)
	if err != nil {
		return nil, err
	}
	row := cpuRow(what, rounds[:3], target)
	row.note += fmt.Sprintf("; both floors in one process: %.2f µs, %.0f msg/s", over(rounds[3], sample.perMessage)/1e3, over(rounds[3], sample.rate))
	return []result{row}, nil
}

// warmTurns lets all run for a moment before it counts.
func (b *bench) warmTurns(ctx context.Context, subjects func(time.Duration) []subject) ([][]sample, error) {
	for _, s := range subjects(warmUp) {
		if _, err := s.round(); err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return b.turns(ctx, subjects(b.round)...)
}

func publishBatches(ctx context.Context, b *bench, target float64) ([]result, error) {
	g, direct, err := b.pair(ctx)
	if err != nil {
		return nil, err
	}
	defer stopAll(g, direct)
	request := post("/v1/msgs/batches/v1?batch=lines", lines(batchSize))
	rounds, err := b.warmTurns(ctx, func(d time.Duration) []subject {
		return []subject{
			{"publish-batches", g, func() (int, error) {
				n, err := publishing(ctx, g.addr, request, batchConns, d)
				return n * batchSize, err
			}},
			{"bare store", direct, func() (int, error) {
				n, err := running(ctx, direct, "embedded", "", batchConns, d)
				return n * batchSize, err
			}},
		}
	})
	if err != nil {
		return nil, err
	}
	gateway, floor := over(rounds[0], sample.rate), over(rounds[1], sample.rate)
	return []result{{
		what: fmt.Sprintf("publish batches of 1,000 lines, %d connections, embedded", batchConns), gateway: fmt.Sprintf("%.0f msg/s", gateway),
		floor: fmt.Sprintf("%.0f msg/s", floor), ratio: fmt.Sprintf("%.0f %%", 100*gateway/floor),
		target: fmt.Sprintf("≥ %.0f %%", 100*target), met: meets(gateway/floor >= target),
		note: fmt.Sprintf("%.2f against %.2f µs CPU/msg", over(rounds[0], sample.perMessage)/1e3, over(rounds[1], sample.perMessage)/1e3),
	}}, nil
}

// streamEmbedded is one stream of stored messages, in two forms. The floor writes chunks of the same sizes from memory.
func streamEmbedded(ctx context.Context, b *bench, target float64) ([]result, error) {
	g, bare, err := b.pair(ctx)
	if err != nil {
		return nil, err
	}
	defer stopAll(g, bare)
	if err := fill(ctx, g, "stored", streamStored); err != nil {
		return nil, err
	}
	var results []result
	for _, form := range []struct{ name, accept string }{{"text", "text/plain"}, {"NDJSON", "application/x-ndjson"}} {
		groups := 0
		read := func() ([]int, error) {
			groups++
			path := fmt.Sprintf("/v1/stream/default/stored/v1?group=%s%d&limit=%d", form.name, groups, streamStored)
			return streaming(ctx, g.addr, path, form.accept)
		}
		sizes, err := read() // to warm up, and to know the chunks
		if err != nil {
			return results, err
		}
		if err := give(ctx, bare, sizes); err != nil {
			return results, err
		}
		rounds, err := b.turns(ctx,
			subject{"stream-" + form.name, g, b.again(streamStored, func() error {
				_, err := read()
				return err
			})},
			subject{"bare stream", bare, b.again(streamStored, func() error {
				_, err := streaming(ctx, bare.addr, "/stream", form.accept)
				return err
			})})
		if err != nil {
			return results, err
		}
		row := cpuRow("stream of stored messages, "+form.name+", embedded", rounds, target)
		row.note += fmt.Sprintf(", %d chunks of %d bytes", len(sizes), sum(sizes)/len(sizes))
		results = append(results, row)
	}
	return results, nil
}

// readKafka is reading what Kafka has stored, by a stream and by polls. The floor is a bare consumer that writes as many
// bytes.
func readKafka(ctx context.Context, b *bench, target float64) ([]result, error) {
	g, bare, err := b.pair(ctx, "--kafka", b.brokers())
	if err != nil {
		return nil, err
	}
	defer stopAll(g, bare)
	if err := fill(ctx, g, "stored", kafkaStored); err != nil {
		return nil, err
	}
	groups := 0
	group := func() string { groups++; return fmt.Sprintf("g%d", groups) }
	stream := func() ([]int, error) {
		return streaming(ctx, g.addr, fmt.Sprintf("/v1/stream/default/stored/v1?group=%s&limit=%d", group(), kafkaStored), "application/x-ndjson")
	}
	sizes, err := stream()
	if err != nil {
		return nil, err
	}
	floorPath := fmt.Sprintf("/consume?brokers=%s&topic=default.stored.v1&messages=%d&each=%d", b.brokers(), kafkaStored, sum(sizes)/kafkaStored)
	rounds, err := b.turns(ctx,
		subject{"read-kafka-stream", g, b.again(kafkaStored, func() error {
			_, err := stream()
			return err
		})},
		subject{"bare consumer", bare, b.again(kafkaStored, func() error {
			_, err := streaming(ctx, bare.addr, floorPath, "*/*")
			return err
		})},
		subject{"read-kafka-polls", g, b.again(kafkaStored, func() error {
			return polling(ctx, g.addr, "/v1/msgs/default/stored/v1?batch=1000&group="+group(), kafkaStored)
		})})
	if err != nil {
		return nil, err
	}
	return []result{
		cpuRow("read 200,000 stored in Kafka by a stream, NDJSON", rounds[:2], target),
		cpuRow("read 200,000 stored in Kafka by polls of 1,000, NDJSON", [][]sample{rounds[2], rounds[1]}, target),
	}, nil
}

// pair starts a gateway and a floor.
func (b *bench) pair(ctx context.Context, flags ...string) (gateway, floor *proc, err error) {
	procs, err := b.start(ctx, 1, flags...)
	if err != nil {
		return nil, nil, err
	}
	return procs[0], procs[1], nil
}

// start starts a gateway and so many floors: all or none.
func (b *bench) start(ctx context.Context, floors int, flags ...string) ([]*proc, error) {
	g, err := b.gateway(ctx, flags...)
	if err != nil {
		return nil, err
	}
	procs := []*proc{g}
	for range floors {
		p, err := b.floor(ctx)
		if err != nil {
			stopAll(procs...)
			return nil, err
		}
		procs = append(procs, p)
	}
	return procs, nil
}

func stopAll(procs ...*proc) {
	for _, p := range procs {
		p.stop()
	}
}

func (b *bench) brokers() string { return strings.Join(b.kafka.Addrs(), ",") }

// running lets a floor publish by itself.
func running(ctx context.Context, p *proc, what, brokers string, workers int, d time.Duration) (int, error) {
	body, err := get(ctx, fmt.Sprintf("http://%s/run?what=%s&brokers=%s&workers=%d&for=%v", p.addr, what, brokers, workers, d))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(string(body))
}

// fill publishes n messages in batches.
func fill(ctx context.Context, p *proc, topic string, n int) error {
	c, err := dial(ctx, p.addr)
	if err != nil {
		return err
	}
	defer c.close()
	request := post("/v1/msgs/"+topic+"/v1?batch=lines", lines(batchSize))
	for range n / batchSize {
		h, err := c.drop(request)
		if err == nil && h.status != 201 {
			err = fmt.Errorf("publish answered %d", h.status)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// give tells a floor the sizes of chunks.
func give(ctx context.Context, p *proc, sizes []int) error {
	body, err := json.Marshal(sizes)
	if err != nil {
		return err
	}
	return tell(ctx, p, "/sizes", body)
}

// tell posts something to a floor.
func tell(ctx context.Context, p *proc, path string, body []byte) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+p.addr+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	res, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(r)
	if err != nil {
		return err
	}
	return res.Body.Close()
}

func sum(values []int) (total int) {
	for _, v := range values {
		total += v
	}
	return total
}
