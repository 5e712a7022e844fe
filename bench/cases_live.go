//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

const (
	delivered100 = 100_000 // messages of 100 bytes that are delivered and acked in a turn
	prefetch     = 100
	fanFlat      = 1.25 // at most: a delivery to one of 1,000 clients, times that to one of 100
)

// deliver is WebSockets of one group that ack each message: one and a hundred in queue mode, beside a bare WebSocket that
// exchanges the same frames in the same number, and one in fifo mode, to see what many clients cost.
func deliver(ctx context.Context, b *bench, target float64) ([]result, error) {
	g, bare, err := b.pair(ctx)
	if err != nil {
		return nil, err
	}
	defer stopAll(g, bare)
	if err := fill(ctx, g, "deliver", delivered100); err != nil {
		return nil, err
	}
	groups := 0
	gateway := func(mode string, clients int) (message, ack []byte, err error) {
		groups++
		path := fmt.Sprintf("/v1/ws/msgs/default/deliver/v1?group=%s%d&mode=%s&ack=explicit&prefetch=%d", mode, groups, mode, prefetch)
		return acking(ctx, g.addr, path, clients, delivered100)
	}
	message, ack, err := gateway("queue", 1)
	if err != nil {
		return nil, err
	}
	if err := tell(ctx, bare, "/frame", message); err != nil {
		return nil, err
	}
	one := func(mode string, clients int) subject {
		return subject{fmt.Sprintf("deliver-%s-%d", mode, clients), g, b.again(delivered100, func() error {
			_, _, err := gateway(mode, clients)
			return err
		})}
	}
	floor := func(clients int) subject {
		path := fmt.Sprintf("/ws?prefetch=%d&messages=%d", prefetch, delivered100/clients)
		return subject{fmt.Sprintf("bare-websocket-%d", clients), bare, b.again(delivered100, func() error {
			_, _, err := acking(ctx, bare.addr, path, clients, delivered100)
			return err
		})}
	}
	rounds, err := b.turns(ctx, one("queue", 1), floor(1), one("queue", 100), floor(100), one("fifo", 1))
	if err != nil {
		return nil, err
	}
	results := []result{
		cpuRow("deliver and ack, 1 WebSocket, queue mode, embedded", rounds[0:2], target),
		cpuRow("deliver and ack, 100 WebSockets of a group, queue mode, embedded", rounds[2:4], target),
	}
	results[0].note += fmt.Sprintf(", frames of %d bytes, acks of %d", len(message), len(ack))
	return append(results, result{
		what:    "the same, beside 1 WebSocket in fifo mode",
		gateway: fmt.Sprintf("%.2f µs CPU/msg", over(rounds[2], sample.perMessage)/1e3), floor: fmt.Sprintf("%.2f µs", over(rounds[4], sample.perMessage)/1e3),
		ratio: fmt.Sprintf("%.2fx", over(rounds[2], sample.perMessage)/over(rounds[4], sample.perMessage)),
		note:  fmt.Sprintf("%.0f against %.0f msg/s", over(rounds[2], sample.rate), over(rounds[4], sample.rate)),
	}), nil
}

// fanOut is one topic as SSE to clients without a group, message by message: the next is published when all clients have the
// one before. The floor writes the same chunk from memory to as many.
func fanOut(ctx context.Context, b *bench, target float64) ([]result, error) {
	g, bare, err := b.pair(ctx)
	if err != nil {
		return nil, err
	}
	defer stopAll(g, bare)
	if err := fill(ctx, g, "fan", 1000); err != nil {
		return nil, err
	}
	publish := post("/v1/msgs/fan/v1", letters(100))
	var results []result
	perDelivery := map[int]float64{}
	for _, n := range []int{10, 100, 1000} {
		rounds, err := b.fans(ctx, g, bare, publish, n)
		if err != nil {
			return results, err
		}
		row := cpuRow(fmt.Sprintf("broadcast to %d SSE clients, embedded", n), rounds, 0)
		cost := over(rounds[0], sample.perMessage) / 1e3
		perDelivery[n] = cost
		row.target, row.met = "", unknown
		if n == 1000 {
			row.target, row.met = fmt.Sprintf("≤ %.0f µs", target), meets(cost <= target)
		}
		row.note = fmt.Sprintf("%.0f deliveries/s for each core it has; the publish is in it", 1e6/cost)
		results = append(results, row)
	}
	growth := perDelivery[1000] / perDelivery[100]
	return append(results, result{
		what: "a delivery to 1 of 1,000 clients beside 1 of 100", gateway: fmt.Sprintf("%.2f µs", perDelivery[1000]), floor: fmt.Sprintf("%.2f µs", perDelivery[100]),
		ratio: fmt.Sprintf("%.2fx", growth), target: fmt.Sprintf("≤ %.2fx", fanFlat), met: meets(growth <= fanFlat),
	}), nil
}

// fans is the rounds of gateway and floor with n clients each.
func (b *bench) fans(ctx context.Context, g, bare *proc, publish []byte, n int) ([][]sample, error) {
	a, err := listen(ctx, g, "/v1/stream/default/fan/v1", n)
	if err != nil {
		return nil, err
	}
	defer a.close()
	chunk, err := a.first(ctx, publish)
	if err != nil {
		return nil, err
	}
	f, err := listen(ctx, bare, "/fan", n)
	if err != nil {
		return nil, err
	}
	defer f.close()
	if _, err := f.first(ctx, post("/fan", chunk)); err != nil {
		return nil, err
	}
	return b.turns(ctx,
		subject{fmt.Sprintf("fan-out-%d", n), g, b.again(n, func() error { return a.once(ctx, publish) })},
		subject{fmt.Sprintf("bare-fan-out-%d", n), bare, b.again(n, func() error { return f.once(ctx, post("/fan", chunk)) })})
}

// audience is n clients of a broadcast, and one connection to publish on.
type audience struct {
	clients []*client
	out     *client
	left    atomic.Int64 // clients that have not got the present message
	all     chan struct{}
	failed  chan error
	chunk   atomic.Pointer[[]byte] // the last that the first client got
}

// listen has n clients at the path, answered and waiting.
func listen(ctx context.Context, p *proc, path string, n int) (*audience, error) {
	a := &audience{all: make(chan struct{}, 1), failed: make(chan error, n)}
	out, err := dial(ctx, p.addr)
	if err != nil {
		return nil, err
	}
	a.out = out
	request := fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n", path)
	for range n {
		c, err := dialBuffer(ctx, p.addr, 4<<10)
		if err == nil {
			a.clients = append(a.clients, c)
			var h head
			if h, err = c.send(request); err == nil && h.status != 200 {
				err = fmt.Errorf("%s answered %d", path, h.status)
			}
		}
		if err == nil {
			err = c.conn.SetDeadline(time.Time{})
		}
		if err != nil {
			a.close()
			return nil, err
		}
	}
	for i, c := range a.clients {
		go func() { a.failed <- c.chunks(func(size int) error { return a.got(i, c, size) }) }()
	}
	return a, nil
}

func (a *audience) close() {
	for _, c := range a.clients {
		c.close()
	}
	a.out.close()
}

// got reads a chunk. What is no message is the stream's own.
func (a *audience) got(i int, c *client, size int) error {
	chunk, err := c.r.Peek(size)
	if err != nil {
		return err
	}
	message := bytes.Contains(chunk, []byte("data:"))
	if i == 0 && message && a.chunk.Load() == nil {
		whole := bytes.Clone(chunk)
		a.chunk.Store(&whole)
	}
	if _, err := c.r.Discard(size); err != nil {
		return err
	}
	if message && a.left.Add(-1) == 0 {
		a.all <- struct{}{}
	}
	return nil
}

// once publishes and waits until all have got it.
func (a *audience) once(ctx context.Context, publish []byte) error {
	a.left.Store(int64(len(a.clients)))
	h, err := a.out.drop(publish)
	if err == nil && h.status != 201 {
		err = fmt.Errorf("publish answered %d", h.status)
	}
	if err != nil {
		return err
	}
	t := time.NewTimer(ioWait)
	defer t.Stop()
	select {
	case <-a.all:
		return nil
	case err := <-a.failed:
		return errors.Join(errors.New("a client's stream ended"), err)
	case <-t.C:
		return fmt.Errorf("%d clients have not got a message", a.left.Load())
	case <-ctx.Done():
		return ctx.Err()
	}
}

// first is once, and answers the chunk as it came.
func (a *audience) first(ctx context.Context, publish []byte) ([]byte, error) {
	if err := a.once(ctx, publish); err != nil {
		return nil, err
	}
	return *a.chunk.Load(), nil
}
