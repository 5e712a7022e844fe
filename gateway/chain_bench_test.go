package gateway

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/meta/mem"
	"github.com/kateway/kateway/plugins"
)

// BenchmarkChain is what the chain adds to a publish of an app that shows a key and has limits. cpu-ns/op is the processor's
// time, which other programs on the machine do not stretch as they do the clock's. The first is a chain that does nothing.
func BenchmarkChain(b *testing.B) {
	dir, secret := oneApp(b)
	for _, names := range [][]string{{}, {"auth"}, {"auth", "quota"}, {"auth", "quota", "guard"}} {
		b.Run("with "+list(names), func(b *testing.B) {
			gate := chainOf(b, dir, names)
			r := httptest.NewRequest(http.MethodPost, "/v1/msgs/orders/v1", bytes.NewReader(make([]byte, 100)))
			r.Header.Set("Appid", "shop")
			r.Header.Set("Pubkey", secret)
			r.RemoteAddr = "10.0.0.1:1234"
			w := &nothing{header: http.Header{}}
			b.ReportAllocs()
			before := processorTime()
			for b.Loop() {
				c := plugins.Call{Op: plugins.Publish, App: "shop", Topic: "orders", Ver: "v1"}
				err := gate.Pass(w, r, &c, func(r *http.Request) error {
					c.Messages, c.Bytes = 1, 100
					return gate.Admit(r.Context(), &c)
				})
				if err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(processorTime()-before)/float64(b.N), "cpu-ns/op")
		})
	}
}

func list(names []string) string {
	text := "nothing"
	for i, n := range names {
		if i == 0 {
			text = n
			continue
		}
		text += "+" + n
	}
	return text
}

// oneApp is a directory with an app that has a key, a topic and limits that it does not reach.
func oneApp(b *testing.B) (*meta.Directory, string) {
	b.Helper()
	src := mem.New()
	dir := meta.NewDirectory(meta.Config{Source: src, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = dir.Run(ctx) }()
	b.Cleanup(func() { cancel(); <-ended; _ = src.Close() })
	<-dir.Loaded()
	id, secret, hash := meta.NewSecret()
	for _, r := range []meta.Record{
		&meta.App{Name: "shop", Class: meta.ClassStandard, Keys: []meta.Key{{KeyID: id, Use: meta.UsePub, Hash: hash}},
			Limits: meta.Limits{RequestsPerSecond: 1e9, MessagesPerSecond: 1e9, BytesPerSecond: 1e15, InFlightBytes: 1e12, Connections: 1e6}},
		&meta.TopicRecord{App: "shop", Name: "orders", Ver: "v1", Partitions: 1, MaxAttempts: 16},
	} {
		if err := dir.Update(ctx, r.ID(), func(meta.Record) (meta.Record, error) { return r, nil }); err != nil {
			b.Fatal(err)
		}
	}
	return dir, secret
}

// chainOf is a chain of these plugins, without options; one that there is not is left out.
func chainOf(b *testing.B, dir *meta.Directory, names []string) *plugins.Gate {
	b.Helper()
	log, metrics := slog.New(slog.DiscardHandler), prometheus.NewRegistry()
	links := []plugins.Link{}
	table := new(Config).kinds()
	for _, name := range names {
		kind, ok := table[name]
		if !ok {
			b.Skip("there is no plugin " + name)
		}
		build, err := kind.Read(plugins.Options{})
		if err != nil {
			b.Fatal(err)
		}
		p, err := build(b.Context(), plugins.Env{
			ID: "gw1", Meta: dir, Log: log, Metrics: metrics, Data: b.TempDir(),
			Secrets: func() [][]byte { return [][]byte{make([]byte, 32)} },
			Others:  func(context.Context, []byte) map[string][]byte { return nil },
		})
		if err != nil {
			b.Fatal(err)
		}
		links = append(links, plugins.Link{Name: name, Plugin: p})
	}
	if len(links) == 0 {
		links = append(links, plugins.Link{Name: "idle", Plugin: idle{}})
	}
	return plugins.NewContained(links, log, metrics)
}

// idle is a plugin that does nothing.
type idle struct{}

func (idle) Wrap(next plugins.Handler) plugins.Handler { return next }

// processorTime is what this process has used, in nanoseconds.
func processorTime() int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return u.Utime.Nano() + u.Stime.Nano()
}
