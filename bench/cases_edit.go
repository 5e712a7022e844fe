//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/kateway/kateway/internal/testkit" //nolint:depguard // a benchmark needs a real ZooKeeper as tests do
	"github.com/kateway/kateway/internal/zk"
	"github.com/kateway/kateway/meta"
	metazk "github.com/kateway/kateway/meta/zk"
)

const (
	editStored = 10_000 // topics registered
	edited     = 1_000
	editConns  = 4
)

// editTopics is how long publishes take while somebody else edits 1,000 registered topics in ZooKeeper as fast as he can. The
// floor, in turn with it, is the same with the same edits in a part of ZooKeeper that the gateway does not look at: what
// the editing itself takes of the machine is in both.
func editTopics(ctx context.Context, b *bench, target float64) ([]result, error) {
	addr, stop, err := testkit.StartZooKeeper()
	if err != nil {
		return nil, err
	}
	defer stop()
	g, err := b.gateway(ctx, "--kafka", b.brokers(), "--zk", addr+"/kateway")
	if err != nil {
		return nil, err
	}
	defer stopAll(g)
	ours, err := openEditor(ctx, addr, "/kateway")
	if err != nil {
		return nil, err
	}
	defer ours.close()
	elsewhere, err := openEditor(ctx, addr, "/elsewhere")
	if err != nil {
		return nil, err
	}
	defer elsewhere.close()
	var during, floor edits
	for _, e := range []*editor{ours, elsewhere} { // the first edits of a ZooKeeper just started are none that count
		if err := new(edits).add(ctx, g, e); err != nil {
			return nil, err
		}
	}
	for range b.rounds {
		if err := errors.Join(during.add(ctx, g, ours), floor.add(ctx, g, elsewhere)); err != nil {
			return nil, err
		}
	}
	p99, floor99 := quantile(during.ms, 0.99), quantile(floor.ms, 0.99)
	publishes := floor.cpu / time.Duration(len(floor.ms)) * time.Duration(len(during.ms))
	return []result{{
		what:    fmt.Sprintf("publish while %d of %d topics are edited in ZooKeeper, Kafka", edited, editStored),
		gateway: fmt.Sprintf("p50 %.2f ms, p99 %.2f ms", quantile(during.ms, 0.5), p99),
		floor:   fmt.Sprintf("p50 %.2f ms, p99 %.2f ms", quantile(floor.ms, 0.5), floor99),
		ratio:   fmt.Sprintf("p99 %.2fx", p99/floor99), target: fmt.Sprintf("p99 ≤ %.2fx", target), met: meets(p99/floor99 <= target),
		note: fmt.Sprintf("floor: edits that the gateway does not see; %.0f µs CPU per edit seen", float64((during.cpu-publishes).Microseconds())/float64(b.rounds*edited)),
	}}, nil
}

// edits is what publishes took beside edits, and the CPU of the gateway.
type edits struct {
	ms  []float64
	cpu time.Duration
}

func (t *edits) add(ctx context.Context, g *proc, e *editor) error {
	s, err := measured(g, func() (int, error) {
		took, err := publishWhile(ctx, g.addr, e.edit)
		t.ms = append(t.ms, took...)
		return len(took), err
	})
	t.cpu += s.cpu
	return err
}

// publishWhile publishes on a few connections until do has returned, and answers how many milliseconds each publish took.
func publishWhile(ctx context.Context, addr string, do func(context.Context) error) (ms []float64, err error) {
	done := make(chan struct{})
	var mu sync.Mutex
	request := post("/v1/msgs/edit/v1", letters(100))
	err = together(editConns+1, func(i int) error {
		if i == editConns {
			defer close(done)
			return do(ctx)
		}
		c, err := dial(ctx, addr)
		if err != nil {
			return err
		}
		defer c.close()
		for ctx.Err() == nil {
			select {
			case <-done:
				return nil
			default:
			}
			began := time.Now()
			h, err := c.drop(request)
			if err != nil || h.status != 201 {
				return fmt.Errorf("publish answered %d: %w", h.status, err)
			}
			mu.Lock()
			ms = append(ms, time.Since(began).Seconds()*1e3)
			mu.Unlock()
		}
		return ctx.Err()
	})
	return ms, err
}

// editor is another gateway's view of meta, by which topics are changed.
type editor struct {
	session *zk.Client
	source  *metazk.Source
	round   int
}

func openEditor(ctx context.Context, addr, chroot string) (*editor, error) {
	session, err := zk.Open(zk.Config{Servers: strings.Split(addr, ","), Chroot: chroot, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	e := &editor{session: session, source: metazk.New(session, slog.New(slog.DiscardHandler))}
	err = together(32, func(worker int) error {
		for i := worker; i < editStored; i += 32 {
			if err := e.put(ctx, i); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		e.close()
		return nil, err
	}
	return e, nil
}

func (e *editor) close() {
	_ = e.source.Close()
	e.session.Close()
}

// put registers topic i, with something else in it than in the last round.
func (e *editor) put(ctx context.Context, i int) error {
	app, name := fmt.Sprintf("app-%d", i%100), fmt.Sprintf("topic-%d", i)
	_, err := e.source.Apply(ctx, meta.Change{
		ID: meta.ID{Kind: meta.KindTopic, Name: app + "." + name + ".v1"},
		Data: fmt.Appendf(nil, `{"app":%q,"topic":%q,"ver":"v1","cluster":"default","partitions":12,"replicas":3,"retention":"168h","retention_bytes":0,`+
			`"cleanup":"delete","max_attempts":%d,"spool":true,"store_topic":"","created":"2026-11-24T00:00:00Z"}`, app, name, 1+e.round%1000),
	})
	return err
}

func (e *editor) edit(ctx context.Context) error {
	e.round++
	for i := range edited {
		if err := e.put(ctx, i*7%editStored); err != nil {
			return err
		}
	}
	return nil
}
