package embedded

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

func textLog(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

// TestAssignment: members come and go; shares are even, and no partition moves that need not.
func TestAssignment(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := &group{shares: make([]share, rapid.IntRange(0, 12).Draw(t, "partitions"))}
		for range rapid.IntRange(1, 20).Draw(t, "changes") {
			before := make([]*Feed, len(g.shares))
			for i := range g.shares {
				before[i] = g.shares[i].heir
			}
			was := slices.Clone(g.members)
			if n := len(g.members); n > 0 && rapid.Bool().Draw(t, "leaves") {
				i := rapid.IntRange(0, n-1).Draw(t, "who")
				g.members = slices.Delete(slices.Clone(g.members), i, i+1)
			} else {
				g.members = append(g.members, &Feed{wake: make(chan struct{}, 1)})
			}
			g.rebalance(time.Unix(0, 0))
			checkAssignment(t, g, was, before)
		}
	})
}

func checkAssignment(t *rapid.T, g *group, was, before []*Feed) {
	has := map[*Feed]int{}
	moved := 0
	for i, sh := range g.shares {
		if (sh.heir == nil) != (len(g.members) == 0) {
			t.Fatalf("partition %d: heir %p of %d members", i, sh.heir, len(g.members))
		}
		has[sh.heir]++
		if slices.Contains(g.members, before[i]) && before[i] != sh.heir {
			moved++
		}
	}
	if len(g.members) == 0 {
		return
	}
	least, most := math.MaxInt, 0
	for _, m := range g.members {
		least, most = min(least, has[m]), max(most, has[m])
	}
	if most-least > 1 {
		t.Fatalf("one member has %d and another %d", most, least)
	}
	if len(g.members) < len(was) && moved > 0 {
		t.Fatalf("%d partitions moved between members that stayed, when one left", moved)
	}
	if fair := (len(g.shares) + len(g.members) - 1) / len(g.members); len(g.members) > len(was) && moved > fair {
		t.Fatalf("%d partitions moved when one joined, whose share is %d", moved, fair)
	}
}

func subscribe(t testing.TB, s *Store) *Feed {
	t.Helper()
	f, err := s.Subscribe(context.Background(), store.Spec{Topic: "t", Group: "g"})
	if err != nil {
		t.Fatal(err)
	}
	return f.(*Feed)
}

// polled polls until there are n messages.
func polled(t testing.TB, f *Feed, n int) (msgs []*store.Message) {
	t.Helper()
	for len(msgs) < n {
		b, err := f.Poll(context.Background(), n-len(msgs), nil)
		if err != nil {
			t.Fatal(err)
		}
		msgs = append(msgs, b.Messages...)
	}
	return msgs
}

// TestTailIsBounded: what live readers have not read yet takes no more memory than allowed, and is read from disk instead.
func TestTailIsBounded(t *testing.T) {
	s, _ := timed(t, func(cfg *Config) { cfg.TailBytes = 10_000 })
	create(t, s, 2)
	f := subscribe(t, s)
	if b, err := f.Poll(t.Context(), 0, nil); err != nil || len(b.Gained) != 2 {
		t.Fatalf("%+v, %v", b, err)
	}
	value := strings.Repeat("x", 900)
	for i := range 100 {
		mustPut(t, s, value)
		if used := s.tail.used.Load(); used > 10_000 {
			t.Fatalf("after %d messages %d bytes are kept", i, used)
		}
	}
	if used := s.tail.used.Load(); used < 5_000 {
		t.Errorf("only %d bytes are kept", used)
	}
	for _, m := range polled(t, f, 100) {
		if string(m.Value) != value {
			t.Fatalf("offset %d of %d: %q", m.Offset, m.Partition, m.Value)
		}
	}
	if err := f.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if used := s.tail.used.Load(); used != 0 {
		t.Errorf("%d bytes are kept without a reader", used)
	}
	mustPut(t, s, value)
	if used := s.tail.used.Load(); used != 0 {
		t.Errorf("%d bytes were put there without a reader", used)
	}
}

// TestTailAndDiskAgree: a reader that is sometimes live and sometimes behind sees every message once and in order.
func TestTailAndDiskAgree(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s, _ := timed(t, func(cfg *Config) {
			cfg.TailBytes = rapid.Int64Range(1, 2000).Draw(rt, "tail")
			cfg.blockCount = rapid.IntRange(1, 4).Draw(rt, "block")
		})
		create(t, s, 1)
		f := subscribe(t, s)
		sent, next := 0, int64(0)
		for range rapid.IntRange(1, 30).Draw(rt, "steps") {
			var msgs []*store.Message
			for range rapid.IntRange(1, 9).Draw(rt, "publish") {
				msgs = append(msgs, &store.Message{Value: fmt.Append(nil, sent)})
				sent++
			}
			if err := s.Publish(context.Background(), "t", store.AckAll, msgs...); err != nil {
				rt.Fatal(err)
			}
			b, err := f.Poll(context.Background(), rapid.IntRange(1, 12).Draw(rt, "poll"), nil)
			if err != nil {
				rt.Fatal(err)
			}
			for _, m := range b.Messages {
				if m.Offset != next || string(m.Value) != fmt.Sprint(next) {
					rt.Fatalf("offset %d with %q instead of %d", m.Offset, m.Value, next)
				}
				next++
			}
		}
		if err := s.Close(context.Background()); err != nil {
			rt.Fatal(err)
		}
	})
}

// TestPollIsBounded: large messages come in parts of some megabytes, whatever number is asked for.
func TestPollIsBounded(t *testing.T) {
	s, _ := timed(t, nil)
	create(t, s, 1)
	big := strings.Repeat("x", 1<<20)
	for range 10 {
		mustPut(t, s, big)
	}
	f := subscribe(t, s)
	b, err := f.Poll(t.Context(), 1000, nil)
	if err != nil || len(b.Messages) < 3 || len(b.Messages) > 5 {
		t.Errorf("%d messages of 1 MB in one Poll, %v", len(b.Messages), err)
	}
}

// spoil changes a byte of a stored block.
func spoil(t testing.TB, s *Store, partition int32, base int64) {
	t.Helper()
	p, _ := s.topics["t"].partition(partition)
	var key [blockKeyLen]byte
	v, closer, err := s.db.Get(p.blockKey(&key, base))
	if err != nil {
		t.Fatal(err)
	}
	bad := slices.Clone(v)
	bad[len(bad)-1] ^= 1
	if err := errors.Join(closer.Close(), s.db.Set(key[:], bad, pebble.Sync)); err != nil {
		t.Fatal(err)
	}
}

// TestDamageIsReported: an error first, then a gap; the messages around it and other partitions are served.
func TestDamageIsReported(t *testing.T) {
	s, _ := timed(t, nil)
	create(t, s, 2)
	for i := range 6 {
		m := &store.Message{Partition: int32(i % 2), Value: fmt.Append(nil, i)}
		if err := s.Publish(t.Context(), "t", store.AckAll, m); err != nil {
			t.Fatal(err)
		}
	}
	spoil(t, s, 0, 1)
	f := subscribe(t, s)
	var values []string
	var gaps []store.Gap
	var failed []error
	for len(values) < 5 {
		b, err := f.Poll(t.Context(), 10, nil)
		if err != nil {
			failed = append(failed, err)
		}
		gaps = append(gaps, b.Gaps...)
		for _, m := range b.Messages {
			values = append(values, string(m.Value))
		}
	}
	slices.Sort(values)
	if want := []string{"0", "1", "3", "4", "5"}; !slices.Equal(values, want) {
		t.Errorf("read %q, want %q", values, want)
	}
	if !slices.Equal(gaps, []store.Gap{{Partition: 0, From: 1, To: 2}}) {
		t.Errorf("gaps %+v", gaps)
	}
	if len(failed) != 1 || errs.Of(failed[0]) != errs.Internal || !strings.Contains(failed[0].Error(), "offsets 1 to 1") {
		t.Errorf("errors %v", failed)
	}
	n := 0
	for m, err := range s.Browse(t.Context(), "t", 0, 0) {
		if err == nil && m.Offset == 0 {
			n++
			continue
		}
		wantKind(t, "browse", err, errs.Internal)
		n += 10
	}
	if n != 11 {
		t.Errorf("browse did not stop at the damage: %d", n)
	}
}

// TestDamagedBlocksDoNotStopRetention, nor a search by time.
func TestDamagedBlocksDoNotStopRetention(t *testing.T) {
	s, c := timed(t, func(cfg *Config) { cfg.Retention = time.Hour })
	create(t, s, 1)
	for i := range 8 {
		mustPut(t, s, fmt.Sprint(i))
		c.advance(10 * time.Minute)
	}
	for _, base := range []int64{0, 1, 4} {
		spoil(t, s, 0, base)
	}
	at, err := s.Resolve(t.Context(), "t", store.Start{Since: c.now().Add(-30 * time.Minute)})
	if err != nil || at[0].Next != 5 {
		t.Errorf("%+v, %v; want 5", at, err)
	}
	c.advance(45 * time.Minute)
	sweep(t, s)
	if lag, err := s.Lag(t.Context(), "t", "g"); err != nil || lag[0].Start < 6 || lag[0].Start > 7 {
		t.Errorf("%+v, %v", lag, err)
	}
}

// TestDamagedEndGivesNoOffsetTwice: nobody knows how many messages the last block held.
func TestDamagedEndGivesNoOffsetTwice(t *testing.T) {
	cfg := memory(t)
	s := open(t, cfg)
	create(t, s, 1)
	mustPut(t, s, "a", "b", "c")
	spoil(t, s, 0, 2)
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	s = open(t, cfg)
	m := &store.Message{Value: []byte("d")}
	if err := s.Publish(t.Context(), "t", store.AckAll, m); err != nil || m.Offset < 3 {
		t.Errorf("offset %d, %v", m.Offset, err)
	}
	f := subscribe(t, s)
	var got []string
	for len(got) < 3 {
		b, err := f.Poll(t.Context(), 10, nil)
		if err != nil && errs.Of(err) != errs.Internal {
			t.Fatal(err)
		}
		for _, m := range b.Messages {
			got = append(got, string(m.Value))
		}
	}
	if !slices.Equal(got, []string{"a", "b", "d"}) {
		t.Errorf("%q", got)
	}
}

// Every byte of the database may be damaged anywhere: opening and reading give an error or what was there.
func TestDamagedRecords(t *testing.T) {
	for _, key := range [][]byte{topicKey("t"), partitionKey(tagStart, 1, 0), positionKey(1, "g", 0)} {
		cfg := memory(t)
		s := open(t, cfg)
		create(t, s, 1)
		if err := s.db.Set(key, []byte{0xff}, pebble.Sync); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		again, err := Open(cfg)
		if err == nil {
			t.Errorf("with a damaged record %q it opens", key)
			_ = again.Close(context.Background())
		}
	}
}

// TestGoroutines: topics, partitions and groups take none, and none is left.
func TestGoroutines(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	s := open(t, memory(t))
	create(t, s, 1)
	before := runtime.NumGoroutine()
	for i := range 50 {
		topic := store.Topic{Name: fmt.Sprint(i), Partitions: 20}
		if err := s.CreateTopic(t.Context(), topic); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if _, err := s.Subscribe(t.Context(), store.Spec{Topic: topic.Name, Group: "g"}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if after := runtime.NumGoroutine(); after > before+5 {
		t.Errorf("%d goroutines with 50 topics, %d with one", after, before)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	goleak.VerifyNone(t, ignore)
}

// TestCommitsAreWrittenSoon also when nobody closes anything, and what was committed last counts.
func TestCommitsAreWrittenSoon(t *testing.T) {
	s := open(t, memory(t))
	create(t, s, 1)
	mustPut(t, s, "a", "b", "c")
	f := subscribe(t, s)
	polled(t, f, 3)
	for next := range int64(4) {
		if err := f.Commit(store.Position{Next: next}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the position is written", func() bool {
		v, closer, err := s.db.Get(positionKey(1, "g", 0))
		if err != nil {
			return false
		}
		next, _ := binary.Uvarint(v)
		return closer.Close() == nil && next == 3
	})
}

// Groups that nobody uses take no memory.
func TestIdleGroupsAreForgotten(t *testing.T) {
	s := open(t, memory(t))
	create(t, s, 1)
	mustPut(t, s, "a")
	f := subscribe(t, s)
	polled(t, f, 1)
	if err := errors.Join(f.Commit(store.Position{Next: 1}), f.Close(t.Context())); err != nil {
		t.Fatal(err)
	}
	top := s.topics["t"]
	eventually(t, "the group is only on disk", func() bool {
		top.mu.Lock()
		defer top.mu.Unlock()
		return len(top.groups) == 0
	})
	if lag, err := s.Lag(t.Context(), "t", "g"); err != nil || lag[0].Committed != 1 {
		t.Errorf("%+v, %v", lag, err)
	}
}
