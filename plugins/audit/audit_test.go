package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/seal"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/meta/mem"
	"github.com/kateway/kateway/plugins"
	"github.com/kateway/kateway/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a plugin that runs, and what it stands on.
type world struct {
	t      *testing.T
	dir    string
	plugin *Plugin
	topic  topic
	stop   func()
}

// topic keeps what is published to it, and fails as often as it is told.
type topic struct {
	mu    sync.Mutex
	fails int
	name  string
	lines []string
}

func (p *topic) Publish(_ context.Context, name string, _ store.Ack, msgs ...*store.Message) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fails > 0 {
		p.fails--
		return errs.Unavailable
	}
	p.name = name
	for _, m := range msgs {
		p.lines = append(p.lines, string(m.Value))
	}
	return nil
}

func run(t *testing.T, options string) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir()}
	w.start(options)
	return w
}

func (w *world) start(options string) {
	w.t.Helper()
	build, err := Kind().Read(plugins.ParseOptions(options))
	if err != nil {
		w.t.Fatal(err)
	}
	src := mem.New()
	dir := meta.NewDirectory(meta.Config{Source: src, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	p, err := build(w.t.Context(), plugins.Env{ID: "gw1", Meta: dir, Store: &w.topic, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(), Data: w.dir})
	if err != nil {
		w.t.Fatal(err)
	}
	w.plugin = p.(*Plugin)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); w.plugin.Run(ctx) }()
	w.stop = sync.OnceFunc(func() { cancel(); <-ended; _ = src.Close() })
	w.t.Cleanup(w.stop)
}

func (w *world) file() string { return filepath.Join(w.dir, "audit.log") }

// records ends the plugin and answers the log, which has to be whole.
func (w *world) records() (list []record) {
	w.t.Helper()
	w.stop()
	log, err := os.ReadFile(w.file())
	if err != nil {
		w.t.Fatal(err)
	}
	key, err := os.ReadFile(filepath.Join(w.dir, "key"))
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := seal.New(key, nil).Verify(bytes.NewReader(log), false); err != nil {
		w.t.Error(err)
	}
	for i, line := range strings.Split(strings.TrimSpace(string(log)), "\n") {
		var r record
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			w.t.Fatalf("%s: %v", line, err)
		}
		if r.Seq != int64(i+1) || r.Gateway != "gw1" || r.Time.IsZero() {
			w.t.Errorf("line %d: %s", i+1, line)
		}
		list = append(list, r)
	}
	return list
}

func message(partition int32, offset int64) *store.Message {
	return &store.Message{Partition: partition, Offset: offset, Key: []byte("k"), Value: []byte("secret payload")}
}

func TestWhatIsRecorded(t *testing.T) {
	w := run(t, "")
	publish := w.plugin.Wrap(func(ctx context.Context, c *plugins.Call) error {
		c.App, c.KeyID = "shop", "key1"
		failed := &store.BatchError{Errs: []error{nil, nil, errs.Unavailable, nil}}
		w.plugin.Published(ctx, c, failed, []*store.Message{message(0, 7), message(0, 8), message(1, 0), message(1, 3)})
		return nil
	})
	h := http.Header{"Appid": {"shop\n" + strings.Repeat("x", 1000)}}
	if err := publish(t.Context(), &plugins.Call{Op: plugins.Publish, Topic: "orders", Ver: "v1", Remote: "192.0.2.7:5", Header: h}); err != nil {
		t.Error(err)
	}
	refused := w.plugin.Wrap(func(context.Context, *plugins.Call) error { return fmt.Errorf("no: %w", errs.Unauthenticated) })
	if err := refused(t.Context(), &plugins.Call{Op: plugins.Settle, Owner: "shop", Topic: "orders", Ver: "v1", Group: "g", Remote: "192.0.2.8:5", Header: h}); !errors.Is(err, errs.Unauthenticated) {
		t.Error(err)
	}
	read := w.plugin.Wrap(func(ctx context.Context, c *plugins.Call) error {
		c.App = "bill"
		return w.plugin.Inspection(c)(ctx, &plugins.Message{Message: *message(2, 5)})
	})
	if err := read(t.Context(), &plugins.Call{Op: plugins.Subscribe, Owner: "shop", Topic: "orders", Ver: "v1", Group: "g"}); err != nil {
		t.Error(err)
	}
	w.plugin.Changed(t.Context(), plugins.Change{KeyID: "ops", Role: "operator", Method: "POST", Path: "/v1/topics", Remote: "192.0.2.9:5", Err: errs.Conflict})

	list := w.records()
	if len(list) != 4 {
		t.Fatalf("%+v", list)
	}
	for i := range list {
		list[i].Seq, list[i].Time, list[i].Gateway, list[i].Took = 0, time.Time{}, "", ""
	}
	want := []record{
		{Event: "publish", App: "shop", KeyID: "key1", Topic: "shop/orders/v1", Remote: "192.0.2.7:5", Messages: 3, Bytes: 45, Offsets: []string{"0:7-8", "1:3"}, Failed: 1, Result: "ok"},
		{Event: "settle", Claims: h.Get("Appid")[:maxField], Topic: "shop/orders/v1", Group: "g", Remote: "192.0.2.8:5", Result: "unauthenticated"},
		{Event: "subscribe", App: "bill", Topic: "shop/orders/v1", Group: "g", Messages: 1, Bytes: 15, Offsets: []string{"2:5"}, Result: "ok"},
		{Event: "admin", KeyID: "ops", Role: "operator", Action: "POST /v1/topics", Remote: "192.0.2.9:5", Result: "conflict"},
	}
	for i := range want {
		if got, wanted := fmt.Sprintf("%+v", list[i]), fmt.Sprintf("%+v", want[i]); got != wanted {
			t.Errorf("record %d:\n%s\n%s", i, got, wanted)
		}
	}
	if log, _ := os.ReadFile(w.file()); bytes.Contains(log, []byte("payload")) {
		t.Error("a payload is in the log")
	}
}

func TestEventsThatNobodyWantsAreNotRecorded(t *testing.T) {
	w := run(t, "events: [admin]")
	pass := w.plugin.Wrap(func(context.Context, *plugins.Call) error { return nil })
	_ = pass(t.Context(), &plugins.Call{Op: plugins.Publish})
	if w.plugin.Inspection(&plugins.Call{Op: plugins.Subscribe}) != nil {
		t.Error("messages are looked at for nothing")
	}
	w.plugin.Changed(t.Context(), plugins.Change{Method: "DELETE"})
	if list := w.records(); len(list) != 1 || list[0].Event != "admin" {
		t.Errorf("%+v", list)
	}
}

// A stream has records while it lasts.
func TestWhatLastsIsRecordedInParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := run(t, "")
		stream := w.plugin.Wrap(func(ctx context.Context, c *plugins.Call) error {
			inspect := w.plugin.Inspection(c)
			for i := range 5 {
				_ = inspect(ctx, &plugins.Message{Message: *message(0, int64(i))})
				<-time.After(25 * time.Second)
			}
			return errs.Draining
		})
		_ = stream(t.Context(), &plugins.Call{Op: plugins.Subscribe, Lasting: true, App: "bill"})
		list := w.records()
		if len(list) != 2 || list[0].Result != "goes_on" || list[0].Messages != 4 || list[0].Took != "" ||
			list[1].Result != "draining" || list[1].Messages != 1 || list[1].Offsets[0] != "0:4" || list[1].Took == "" {
			t.Errorf("%+v", list)
		}
	})
}

// The log goes on behind a restart, and behind a line that a crash has torn.
func TestRestart(t *testing.T) {
	w := run(t, "")
	w.plugin.Changed(t.Context(), plugins.Change{Method: "DELETE"})
	w.stop()
	f, err := os.OpenFile(w.file(), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"seq":2,"torn`); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	w.start("")
	w.plugin.Changed(t.Context(), plugins.Change{Method: "PUT"})
	if list := w.records(); len(list) != 2 || list[1].Action != "PUT " {
		t.Errorf("%+v", list)
	}
	for name, mode := range map[string]os.FileMode{"audit.log": 0o600, "key": 0o600} {
		if info, err := os.Stat(filepath.Join(w.dir, name)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
}

// What the topic does not take at first it gets later, in order.
func TestTopic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, dir: t.TempDir()}
		w.topic.fails = 3
		w.start("topic: ops/audit/v1")
		for i := range 1200 {
			w.plugin.Changed(t.Context(), plugins.Change{Method: "PUT", Path: fmt.Sprint(i)})
		}
		list := w.records()
		if len(list) != 1200 || len(w.topic.lines) != 1200 || w.topic.name != "ops.audit.v1" {
			t.Fatalf("%d in the file, %d in topic %q", len(list), len(w.topic.lines), w.topic.name)
		}
		for i, line := range w.topic.lines {
			if !strings.Contains(line, fmt.Sprintf(`"action":"PUT %d"`, i)) {
				t.Fatalf("%d: %s", i, line)
			}
		}
	})
}

func TestBadOptions(t *testing.T) {
	for _, text := range []string{"events: [publish, peek]", "max_size_mb: 0", "topic: one", "topic: a/b.c/v1", "files: 3", "max_files: -1"} {
		if _, err := Kind().Read(plugins.ParseOptions(text)); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

func TestForeignFileIsNotTouched(t *testing.T) {
	w := &world{t: t, dir: t.TempDir()}
	if err := os.WriteFile(w.file(), []byte("somebody's\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	build, _ := Kind().Read(plugins.Options{})
	if _, err := build(t.Context(), plugins.Env{Data: w.dir, Metrics: prometheus.NewRegistry()}); err == nil {
		t.Error("taken for a log")
	}
	if b, _ := os.ReadFile(w.file()); string(b) != "somebody's\n" {
		t.Errorf("%q", b)
	}
}

// A log that can't be had at the start of Run costs its records, and holds nobody up.
func TestLogThatCannotBeHad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		build, _ := Kind().Read(plugins.Options{})
		made, err := build(t.Context(), plugins.Env{Data: dir, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "audit.log"), []byte("somebody's\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); made.(*Plugin).Run(ctx) }()
		began := time.Now()
		for range 2 * queueLength {
			made.(*Plugin).Changed(t.Context(), plugins.Change{Method: "PUT"})
		}
		synctest.Wait()
		if took := time.Since(began); took > 0 {
			t.Errorf("requests waited for %v", took)
		}
		if n := testutil.ToFloat64(made.(*Plugin).dropped); n != 2*queueLength {
			t.Errorf("%v records count as lost", n)
		}
		cancel()
		<-ended
	})
}

func BenchmarkPublish(b *testing.B) {
	build, _ := Kind().Read(plugins.Options{})
	p, err := build(b.Context(), plugins.Env{Data: b.TempDir(), Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	if err != nil {
		b.Fatal(err)
	}
	plugin := p.(*Plugin)
	ctx, cancel := context.WithCancel(b.Context())
	var wg sync.WaitGroup
	wg.Go(func() { plugin.Run(ctx) })
	defer wg.Wait()
	defer cancel()
	m := []*store.Message{message(0, 7)}
	h := plugin.Wrap(func(ctx context.Context, c *plugins.Call) error {
		plugin.Published(ctx, c, nil, m)
		return nil
	})
	b.ReportAllocs()
	for b.Loop() {
		_ = h(ctx, &plugins.Call{Op: plugins.Publish, App: "shop", Topic: "orders", Ver: "v1", Remote: "192.0.2.7:5"})
	}
}
