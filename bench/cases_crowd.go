//go:build linux

package main

import (
	"context"
	"fmt"
	"strings"
	"time"
)

const (
	crowd      = 10_000
	joining    = 100              // clients by which joining and leaving are measured
	crowdWatch = 40 * time.Second // of idleness: two heartbeats and pings at least
	crowdCPU   = 5                // % of a core at most while idle
	crowdJoin  = 1.5              // at most: what joining takes among 10,000, times that among 100
)

// crowdWS and crowdSSE are 10,000 clients of one group to whom nothing comes: memory, CPU, and whether one more costs more
// than it did among few.
func crowdWS(ctx context.Context, b *bench, target float64) ([]result, error) {
	return b.crowd(ctx, "WebSockets", "/v1/ws/msgs/default/idle/v1?group=g&mode=queue&ack=explicit&reset=newest", target, openWS)
}

// crowdReaders is the same without a group.
func crowdReaders(ctx context.Context, b *bench, target float64) ([]result, error) {
	return b.crowd(ctx, "WebSockets without a group", "/v1/ws/msgs/default/idle/v1", target, openWS)
}

func crowdSSE(ctx context.Context, b *bench, target float64) ([]result, error) {
	return b.crowd(ctx, "SSE over h2c", "/v1/stream/default/idle/v1?group=g&mode=queue&ack=explicit&reset=newest", target, openSSE)
}

func (b *bench) crowd(ctx context.Context, what, path string, target float64, open opener) ([]result, error) {
	g, err := b.gateway(ctx)
	if err != nil {
		return nil, err
	}
	defer stopAll(g)
	if err := fill(ctx, g, "idle", 1000); err != nil {
		return nil, err
	}
	closeFew, err := open(ctx, g.addr, path, joining)
	if err != nil {
		return nil, err
	}
	defer closeFew()
	few, err := joins(ctx, g, path, open)
	if err != nil {
		return nil, err
	}
	before, err := memoryOf(ctx, g)
	if err != nil {
		return nil, err
	}
	closeMany, err := open(ctx, g.addr, path, crowd-joining)
	if err != nil {
		return nil, err
	}
	defer closeMany()
	watch := crowdWatch
	if b.profile != "" {
		watch = time.Second // for where the memory goes
	}
	idle, err := measured(g, func() (int, error) { return 1, pause(ctx, watch) })
	if err != nil {
		return nil, err
	}
	after, err := memoryOf(ctx, g)
	if err != nil {
		return nil, err
	}
	if err := b.heap(ctx, "crowd-"+strings.ReplaceAll(what, " ", "-"), g); err != nil {
		return nil, err
	}
	many, err := joins(ctx, g, path, open)
	if err != nil {
		return nil, err
	}
	each := func(what func(memory) int64) float64 {
		return float64(what(after)-what(before)) / 1000 / (crowd - joining)
	}
	rss, share := each(func(m memory) int64 { return m.rss }), 100*idle.cpu.Seconds()/idle.took.Seconds()
	growth := many.cpu.Seconds() / few.cpu.Seconds()
	micros := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 / joining }
	return []result{
		{
			what: fmt.Sprintf("memory of one of %d idle clients, %s", crowd, what), gateway: fmt.Sprintf("%.1f KB", rss),
			target: fmt.Sprintf("≤ %.0f KB", target), met: meets(rss <= target),
			note: fmt.Sprintf("RSS; in use: heap %.1f KB, stacks %.1f KB", each(func(m memory) int64 { return m.heap }), each(func(m memory) int64 { return m.stacks })),
		},
		{
			what: fmt.Sprintf("CPU of an idle gateway with %d, %s", crowd, what), gateway: fmt.Sprintf("%.2f %% of a core", share),
			target: fmt.Sprintf("≤ %d %%", crowdCPU), met: meets(share <= crowdCPU), note: fmt.Sprintf("over %v, with heartbeats and pings", watch),
		},
		{
			what: fmt.Sprintf("join and leave among %d, %s", crowd, what), gateway: fmt.Sprintf("%.0f µs CPU", micros(many.cpu)),
			floor: fmt.Sprintf("%.0f µs", micros(few.cpu)), ratio: fmt.Sprintf("%.2fx", growth), target: fmt.Sprintf("≤ %.2fx", crowdJoin), met: meets(growth <= crowdJoin),
			note: fmt.Sprintf("floor: among %d; wall time %.0f against %.0f µs", joining, micros(many.took), micros(few.took)),
		},
	}, nil
}

// memory is what a gateway has of it, in bytes.
type memory struct {
	rss          int64
	heap, stacks int64 // in use
}

// memoryOf reads the RSS first: what is in use is known after a collection only.
func memoryOf(ctx context.Context, g *proc) (m memory, err error) {
	if m.rss, err = g.rss(); err != nil {
		return m, err
	}
	if _, err := get(ctx, "http://"+g.man+"/debug/pprof/heap?gc=1"); err != nil {
		return m, err
	}
	if m.heap, err = g.metric(ctx, "go_memstats_heap_alloc_bytes"); err != nil {
		return m, err
	}
	m.stacks, err = g.metric(ctx, "go_memstats_stack_inuse_bytes")
	return m, err
}

// joins is what it takes that some clients come and go: the median of several times.
func joins(ctx context.Context, g *proc, path string, open opener) (median sample, err error) {
	var list []sample
	for range 5 {
		s, err := measured(g, func() (int, error) {
			leave, err := open(ctx, g.addr, path, joining)
			if err != nil {
				return 0, err
			}
			leave()
			return joining, pause(ctx, 100*time.Millisecond) // they are seen to have left
		})
		if err != nil {
			return sample{}, err
		}
		s.took -= 100 * time.Millisecond
		list = append(list, s)
	}
	return sample{
		messages: joining, took: time.Duration(over(list, func(s sample) float64 { return float64(s.took) })),
		cpu: time.Duration(over(list, func(s sample) float64 { return float64(s.cpu) })),
	}, nil
}
