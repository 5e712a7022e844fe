package spool

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
	"github.com/kateway/kateway/store/mem"
)

func TestMain(m *testing.M) {
	if os.Getenv(leavesGoroutines) != "" {
		os.Exit(m.Run())
	}
	goleak.VerifyTestMain(m)
}

const topicName = "t"

// world is a store that can be taken away, and a spool before it.
type world struct {
	t    testing.TB
	mem  *mem.Store
	cfg  Config
	s    *Spool
	away atomic.Bool
}

// newWorld has a topic of three partitions.
func newWorld(t testing.TB, change func(*Config)) *world {
	t.Helper()
	w := &world{t: t, mem: mem.New()}
	if err := w.mem.CreateTopic(context.Background(), store.Topic{Name: topicName, Partitions: 3}); err != nil {
		t.Fatal(err)
	}
	w.cfg = Config{Dir: filepath.Join(t.TempDir(), "spool"), Next: w, Reader: w, Partitions: func(string) int32 { return 3 }, Log: testLog(t), MemTable: 1 << 20}
	if change != nil {
		change(&w.cfg)
	}
	w.open()
	t.Cleanup(func() { w.close(); _ = w.mem.Close(context.Background()) })
	return w
}

func (w *world) open() {
	w.t.Helper()
	s, err := Open(w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.s = s
}

func (w *world) close() {
	w.t.Helper()
	if err := w.s.Close(context.Background()); err != nil && w.s.Err() == nil {
		w.t.Error(err)
	}
}

// fails makes the store unable to take messages, or able again.
func (w *world) fails(yes bool) { w.away.Store(yes) }

var errAway = fmt.Errorf("the store is away: %w", errs.Unavailable)

// Publish, Resolve and Browse are the store's as the spool sees it.
func (w *world) Publish(ctx context.Context, topic string, ack store.Ack, msgs ...*store.Message) error {
	if w.away.Load() {
		return errAway
	}
	return w.mem.Publish(ctx, topic, ack, msgs...)
}

func (w *world) Resolve(ctx context.Context, topic string, start store.Start) ([]store.Position, error) {
	if w.away.Load() {
		return nil, errAway
	}
	return w.mem.Resolve(ctx, topic, start)
}

func (w *world) Browse(ctx context.Context, topic string, p int32, offset int64) iter.Seq2[*store.Message, error] {
	return w.mem.Browse(ctx, topic, p, offset)
}

// put publishes a value with a key.
func (w *world) put(key, value string) (*store.Message, error) {
	m := &store.Message{Value: []byte(value), Partition: store.AnyPartition}
	if key != "" {
		m.Key = []byte(key)
	}
	return m, w.s.Publish(context.Background(), topicName, store.AckAll, m)
}

// spools fails the test unless the message was spooled.
func (w *world) spools(key, value string) {
	w.t.Helper()
	if m, err := w.put(key, value); err != nil || m.Offset != store.Spooled {
		w.t.Fatalf("%s: offset %d, %v; it should be spooled", value, m.Offset, err)
	}
}

// stores fails the test unless the message went to the store.
func (w *world) stores(key, value string) {
	w.t.Helper()
	if m, err := w.put(key, value); err != nil || m.Offset < 0 {
		w.t.Fatalf("%s: offset %d, %v; it should be stored", value, m.Offset, err)
	}
}

// drained waits until nothing is in the spool.
func (w *world) drained() {
	w.t.Helper()
	eventually(w.t, "the spool is empty", func() bool { return w.s.SpoolStatus().Messages == 0 })
}

// byKey are the values that the store has, by key, in order.
func (w *world) byKey() map[string][]string {
	w.t.Helper()
	all := map[string][]string{}
	for p := range int32(3) {
		for m, err := range w.mem.Browse(context.Background(), topicName, p, 0) {
			if err != nil {
				w.t.Fatal(err)
			}
			all[string(m.Key)] = append(all[string(m.Key)], string(m.Value))
		}
	}
	return all
}

func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for limit := time.Now().Add(20 * time.Second); !f(); time.Sleep(time.Millisecond) { //nolint:forbidigo // a wait on a condition
		if time.Now().After(limit) {
			t.Fatal("waited in vain until " + what)
		}
	}
}

func wantKind(t testing.TB, what string, err error, want errs.Kind) {
	t.Helper()
	if err == nil || errs.Of(err) != want {
		t.Errorf("%s: %v, want %s", what, err, want.Code())
	}
}

func testLog(testing.TB) *slog.Logger {
	if os.Getenv("KATEWAY_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// whole is the spool with its store as one.
type whole struct {
	*mem.Store
	s *Spool
}

func (w *whole) Publish(ctx context.Context, topic string, ack store.Ack, msgs ...*store.Message) error {
	return w.s.Publish(ctx, topic, ack, msgs...)
}

func (w *whole) PublishOnce(ctx context.Context, topic string, ack store.Ack, once store.Once, msgs ...*store.Message) error {
	return w.s.PublishOnce(ctx, topic, ack, once, msgs...)
}

func (w *whole) Close(ctx context.Context) error {
	return errors.Join(w.s.Close(ctx), w.Store.Close(ctx))
}

func newWhole(t testing.TB, m *mem.Store, fs vfs.FS, dir string) *whole {
	s, err := Open(Config{Dir: dir, FS: fs, Next: m, Reader: m, Log: testLog(t), MemTable: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	return &whole{m, s}
}
