package embedded

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"pgregory.net/rapid"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// clock is a time that tests set.
type clock struct{ ms atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.ms.Store(1_800_000_000_000)
	return c
}

func (c *clock) now() time.Time           { return time.UnixMilli(c.ms.Load()) }
func (c *clock) advance(by time.Duration) { c.ms.Add(by.Milliseconds()) }

// timed opens a store with a clock, whose sweeper only runs when the test says so.
func timed(t testing.TB, tune func(*Config)) (*Store, *clock) {
	c := newClock()
	cfg := memory(t)
	cfg.Now, cfg.SweepEvery = c.now, time.Hour
	if tune != nil {
		tune(&cfg)
	}
	return open(t, cfg), c
}

func sweep(t testing.TB, s *Store) {
	t.Helper()
	if err := s.sweep(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func alter(t testing.TB, s *Store, to store.Topic) {
	t.Helper()
	to.Name = "t"
	if err := s.AlterTopic(context.Background(), to); err != nil {
		t.Fatal(err)
	}
}

func TestRetentionByTime(t *testing.T) {
	s, c := timed(t, func(cfg *Config) { cfg.Retention = time.Hour })
	create(t, s, 1)
	for i := range 10 {
		mustPut(t, s, fmt.Sprint(i))
		c.advance(10 * time.Minute)
	}
	sweep(t, s)
	if got, want := stored(t, s, 0), []string{"4", "5", "6", "7", "8", "9"}; !slices.Equal(got, want) {
		t.Errorf("after an hour and 40 minutes %q, want %q", got, want)
	}
	alter(t, s, store.Topic{Retention: 15 * time.Minute})
	sweep(t, s)
	if got := stored(t, s, 0); !slices.Equal(got, []string{"9"}) {
		t.Errorf("after the topic's own 15 minutes %q", got)
	}
	alter(t, s, store.Topic{Retention: -1})
	c.advance(1e6 * time.Hour)
	sweep(t, s)
	if got := stored(t, s, 0); len(got) != 1 {
		t.Errorf("without a limit %q", got)
	}
}

// A message with a time in the future must not keep those behind it for ever.
func TestRetentionByTimeIgnoresTheFuture(t *testing.T) {
	s, c := timed(t, func(cfg *Config) { cfg.Retention = time.Hour })
	create(t, s, 1)
	future := &store.Message{Time: c.now().Add(1e4 * time.Hour)}
	if err := s.Publish(t.Context(), "t", store.AckAll, future); err != nil {
		t.Fatal(err)
	}
	mustPut(t, s, "x")
	c.advance(2 * time.Hour)
	sweep(t, s)
	if got := stored(t, s, 0); len(got) != 0 {
		t.Errorf("%d messages are left", len(got))
	}
}

func TestRetentionBySize(t *testing.T) {
	s, _ := timed(t, nil)
	create(t, s, 2)
	value := strings.Repeat("x", 1000)
	for i := range 200 {
		m := &store.Message{Partition: int32(i % 2), Value: []byte(value)}
		if err := s.Publish(t.Context(), "t", store.AckAll, m); err != nil {
			t.Fatal(err)
		}
	}
	alter(t, s, store.Topic{RetentionBytes: 20_000})
	sweep(t, s)
	for p := range int32(2) {
		if n := len(stored(t, s, p)); n < 18 || n > 20 {
			t.Errorf("partition %d holds %d messages of 1,000 bytes, want somewhat below 20", p, n)
		}
	}
}

// Offsets go on where they were, also when nothing is left and the store was opened again.
func TestRetentionKeepsOffsets(t *testing.T) {
	cfg := memory(t)
	c := newClock()
	cfg.Now, cfg.SweepEvery = c.now, time.Hour
	s := open(t, cfg)
	create(t, s, 1)
	mustPut(t, s, "a", "b")
	c.advance(1000 * time.Hour)
	sweep(t, s)
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	cfg.Log = testLog(t)
	s = open(t, cfg)
	m := &store.Message{Value: []byte("c")}
	if err := s.Publish(t.Context(), "t", store.AckAll, m); err != nil || m.Offset != 2 {
		t.Errorf("offset %d, %v; want 2", m.Offset, err)
	}
	if lag, err := s.Lag(t.Context(), "t", "g"); err != nil || lag[0].Start != 2 || lag[0].End != 3 {
		t.Errorf("%+v, %v", lag, err)
	}
}

func TestRetentionGivesSpaceBack(t *testing.T) {
	s, c := timed(t, nil)
	create(t, s, 1)
	value := strings.Repeat("x", 10_000)
	for range 500 {
		mustPut(t, s, value)
	}
	tables := func() int64 { m := s.db.Metrics().Total(); return m.TablesSize }
	eventually(t, "most of it is in tables", func() bool { return tables() > 3_000_000 })
	c.advance(1000 * time.Hour)
	sweep(t, s)
	eventually(t, "the space is given back", func() bool { return tables() < 100_000 })
}

// A reader that retention overtakes learns of it, and a feed goes on behind the gap.
func TestRetentionOvertakesAFeed(t *testing.T) {
	s, c := timed(t, nil)
	create(t, s, 1)
	f, err := s.Subscribe(t.Context(), store.Spec{Topic: "t", Group: "g"})
	if err != nil {
		t.Fatal(err)
	}
	mustPut(t, s, "a", "b", "c")
	if b, err := f.Poll(t.Context(), 1, nil); err != nil || len(b.Messages) != 1 {
		t.Fatalf("%+v, %v", b, err)
	}
	c.advance(1000 * time.Hour)
	mustPut(t, s, "d")
	sweep(t, s)
	b, err := f.Poll(t.Context(), 10, nil)
	if err != nil || !slices.Equal(b.Gaps, []store.Gap{{From: 1, To: 3}}) || len(b.Messages) != 1 || string(b.Messages[0].Value) != "d" {
		t.Errorf("%+v, %v", b, err)
	}
}

// TestResolveByTime compares the search over blocks with a walk over all messages.
func TestResolveByTime(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s, c := timed(t, func(cfg *Config) { cfg.blockCount = rapid.IntRange(1, 5).Draw(rt, "block") })
		create(t, s, 1)
		var times []time.Time
		for range rapid.IntRange(1, 8).Draw(rt, "batches") {
			var msgs []*store.Message
			for range rapid.IntRange(1, 8).Draw(rt, "messages") {
				at := c.now().Add(time.Duration(rapid.IntRange(-50, 50).Draw(rt, "time")) * time.Millisecond)
				times, msgs = append(times, at), append(msgs, &store.Message{Time: at})
			}
			if err := s.Publish(context.Background(), "t", store.AckAll, msgs...); err != nil {
				rt.Fatal(err)
			}
			c.advance(10 * time.Millisecond)
		}
		since := newClock().now().Add(time.Duration(rapid.IntRange(-60, 150).Draw(rt, "since"))*time.Millisecond - time.Microsecond)
		want := slices.IndexFunc(times, func(at time.Time) bool { return !at.Before(since) })
		if want < 0 {
			want = len(times)
		}
		got, err := s.Resolve(context.Background(), "t", store.Start{Since: since})
		if err != nil || got[0].Next != int64(want) {
			rt.Fatalf("%+v, %v; want %d", got, err, want)
		}
		if err := s.Close(context.Background()); err != nil {
			rt.Fatal(err)
		}
	})
}

func publishOnce(s *Store, key, value string) (*store.Message, error) {
	m := &store.Message{Value: []byte(value)}
	return m, s.PublishOnce(context.Background(), "t", store.AckAll, store.Once{Key: key, Digest: sha256.Sum256([]byte(value))}, m)
}

// count is the number of keys with a tag.
func count(t testing.TB, s *Store, tag byte) (n int) {
	t.Helper()
	if err := s.scan([]byte{tag}, func(_, _ []byte) error { n++; return nil }); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestOutcomesExpireByTime(t *testing.T) {
	s, c := timed(t, nil)
	create(t, s, 1)
	first, err := publishOnce(s, "k", "v")
	if err != nil {
		t.Fatal(err)
	}
	c.advance(10 * time.Minute)
	sweep(t, s)
	if again, err := publishOnce(s, "k", "v"); err != nil || again.Offset != first.Offset {
		t.Errorf("within the window: offset %d, %v", again.Offset, err)
	}
	c.advance(time.Second)
	// Renewed before the sweeper saw that it had expired: the sweeper must leave the new one.
	if again, err := publishOnce(s, "k", "other"); err != nil || again.Offset != 1 {
		t.Errorf("after the window: offset %d, %v", again.Offset, err)
	}
	sweep(t, s)
	if again, err := publishOnce(s, "k", "other"); err != nil || again.Offset != 1 {
		t.Errorf("the renewed one: offset %d, %v", again.Offset, err)
	}
	c.advance(time.Hour)
	sweep(t, s)
	if n, order := count(t, s, tagOnce), count(t, s, tagOnceOrder); n+order != 0 {
		t.Errorf("%d outcomes and %d places in their order are left", n, order)
	}
}

func TestOutcomesExpireByNumber(t *testing.T) {
	s, _ := timed(t, func(cfg *Config) { cfg.OnceKeys = 100 })
	create(t, s, 1)
	const n = onceSweep + 250 // more than are removed at a time
	for i := range n {
		if _, err := publishOnce(s, fmt.Sprint(i), "v"); err != nil {
			t.Fatal(err)
		}
	}
	sweep(t, s)
	if got := count(t, s, tagOnce); got != 100 {
		t.Errorf("%d outcomes are left, want 100", got)
	}
	if m, err := publishOnce(s, fmt.Sprint(n-100), "v"); err != nil || m.Offset != n-100 {
		t.Errorf("the oldest of them: %d, %v", m.Offset, err)
	}
	if m, err := publishOnce(s, "0", "v"); err != nil || m.Offset != n {
		t.Errorf("one that was forgotten: %d, %v", m.Offset, err)
	}
}

// A topic made anew under the same name is another one.
func TestDeletedTopicLeavesNothing(t *testing.T) {
	s, _ := timed(t, nil)
	create(t, s, 1)
	f, err := s.Subscribe(t.Context(), store.Spec{Topic: "t", Group: "g"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := publishOnce(s, "k", "v"); err != nil {
		t.Fatal(err)
	}
	if b, err := f.Poll(t.Context(), 10, nil); err != nil || len(b.Messages) != 1 {
		t.Fatalf("%+v, %v", b, err)
	}
	if err := f.Commit(store.Position{Next: 1}); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteTopic(t.Context(), "t"); err != nil {
		t.Fatal(err)
	}
	create(t, s, 1)
	if _, err := f.Poll(t.Context(), 10, nil); !errors.Is(err, errs.UnknownTopic) {
		t.Errorf("the old feed: %v", err)
	}
	if err := f.Close(t.Context()); err != nil {
		t.Errorf("closing it: %v", err)
	}
	if groups, err := s.Groups(t.Context(), "t"); err != nil || len(groups) != 0 {
		t.Errorf("groups %q, %v", groups, err)
	}
	if m, err := publishOnce(s, "k", "another"); err != nil || m.Offset != 0 {
		t.Errorf("offset %d, %v", m.Offset, err)
	}
	sweep(t, s)
	if got := stored(t, s, 0); !slices.Equal(got, []string{"another"}) {
		t.Errorf("%q", got)
	}
	if n := count(t, s, tagPosition); n != 0 {
		t.Errorf("%d positions are left", n)
	}
}

// Messages that are written in one round with the deletion of their topic do not stay for ever.
func TestDeleteAmongPublishes(t *testing.T) {
	g := &gate{}
	cfg := memory(t)
	cfg.FS = errorfs.Wrap(cfg.FS, g)
	s := open(t, cfg)
	create(t, s, 1)
	release := g.hold()
	defer release()
	var wg sync.WaitGroup
	wg.Go(func() { _ = put(s, "being synced") })
	eventually(t, "a round hangs", func() bool { return g.hung.Load() > 0 })
	for i := range 20 {
		wg.Go(func() {
			if i == 10 {
				if err := s.DeleteTopic(context.Background(), "t"); err != nil {
					t.Error(err)
				}
				return
			}
			if err := put(s, "x"); err != nil && !errors.Is(err, errs.UnknownTopic) {
				t.Error(err)
			}
		})
	}
	eventually(t, "the topic is gone", func() bool {
		_, err := s.Lag(context.Background(), "t", "g")
		return errors.Is(err, errs.UnknownTopic)
	})
	release()
	wg.Wait()
	if n := count(t, s, tagBlock); n != 0 {
		t.Errorf("%d blocks of the deleted topic are left", n)
	}
}

func TestPositionBehindTheEndIsClamped(t *testing.T) {
	cfg := memory(t)
	var log strings.Builder
	s := open(t, cfg)
	create(t, s, 1)
	mustPut(t, s, "a", "b")
	if err := s.db.Set(positionKey(1, "g", 0), encodePosition(store.Position{Next: 7, Beyond: "x"}), pebble.Sync); err != nil {
		t.Fatal(err)
	}
	if err := s.db.Set(positionKey(99, "g", 0), encodePosition(store.Position{Next: 7}), pebble.Sync); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	cfg.Log = textLog(&log)
	s = open(t, cfg)
	if lag, err := s.Lag(t.Context(), "t", "g"); err != nil || lag[0].Committed != 2 {
		t.Errorf("%+v, %v", lag, err)
	}
	if !strings.Contains(log.String(), "position=7 end=2") {
		t.Errorf("it is not reported: %s", log.String())
	}
	if n := count(t, s, tagPosition); n != 1 {
		t.Errorf("%d positions, the one of a topic that is gone among them", n)
	}
}
