package spool

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
	"github.com/kateway/kateway/store/mem"
	"github.com/kateway/kateway/store/storetest"
)

// TestStore: while nothing is in it, a spool is not there.
func TestStore(t *testing.T) {
	storetest.Run(t, storetest.Config{
		New: func(t *testing.T) store.Store {
			return newWhole(t, mem.New(), nil, filepath.Join(t.TempDir(), "spool"))
		},
		Reopen: func(t *testing.T, s store.Store) store.Store {
			w := s.(*whole)
			if err := w.s.Close(context.Background()); err != nil {
				t.Fatal(err)
			}
			return newWhole(t, w.Reopen(), nil, w.s.cfg.Dir)
		},
		Crash: func(_ *testing.T, _ store.Store, f store.Feed) { mem.Crash(f) },
		Cut:   func(_ *testing.T, s store.Store) func() { return s.(*whole).Cut() },
		Trim: func(t *testing.T, s store.Store, topic string, p int32, before int64) {
			if err := s.(*whole).Trim(topic, p, before); err != nil {
				t.Fatal(err)
			}
		},
		TooLarge: mem.MaxMessage + 1,
	})
}

// TestOutage: what comes while the store is away is there afterwards, each key in order, and once.
func TestOutage(t *testing.T) {
	for _, known := range []int32{3, 0} {
		t.Run(fmt.Sprint("partitions known ", known), func(t *testing.T) {
			w := newWorld(t, func(c *Config) { c.Partitions = func(string) int32 { return known } })
			keys := []string{"", "a", "b", "c", "d"}
			want := map[string][]string{}
			for i := range 300 {
				switch i {
				case 100:
					w.fails(true)
				case 150: // the process is started anew in the midst of it
					w.close()
					w.open()
				case 200:
					w.fails(false)
				}
				key := keys[i%len(keys)]
				m, err := w.put(key, fmt.Sprint(i))
				if err != nil || i < 100 && m.Offset < 0 || i >= 101 && i < 200 && m.Offset != store.Spooled {
					t.Fatalf("%d: offset %d, %v", i, m.Offset, err)
				}
				want[key] = append(want[key], fmt.Sprint(i))
			}
			w.drained()
			got := w.byKey()
			for _, key := range keys {
				if key == "" { // those without a key have no order over partitions
					slices.Sort(got[key])
					slices.Sort(want[key])
				}
				if !slices.Equal(got[key], want[key]) {
					t.Errorf("key %q: %v, want %v", key, got[key], want[key])
				}
			}
			w.stores("a", "after")
			if st := w.s.SpoolStatus(); st.Bytes != 0 || len(st.Topics) != 0 {
				t.Errorf("an empty spool says %+v", st)
			}
		})
	}
}

// TestOnlyItsPartitionQueues: messages of others go straight on.
func TestOnlyItsPartitionQueues(t *testing.T) {
	w := newWorld(t, nil)
	w.fails(true)
	w.spools("a", "1")
	other := ""
	for _, k := range []string{"b", "c", "d", "e", "f", "g"} {
		if store.PartitionOf([]byte(k), 3) != store.PartitionOf([]byte("a"), 3) {
			other = k
		}
	}
	w.spools(other, "1") // its first one finds the store away
	w.fails(false)
	w.drained()
	w.stores("a", "2")
	w.stores(other, "2")
}

// TestWhatIsNotSpooled: a message that is refused for what it is; one whose outcome is not known, and those behind it; one that
// is not to be.
func TestWhatIsNotSpooled(t *testing.T) {
	excluded := false
	w := newWorld(t, func(c *Config) { c.Excluded = func(string) bool { return excluded } })
	for _, kind := range []errs.Kind{errs.TooLarge, errs.InvalidParam, errs.UnknownTopic, errs.Uncertain, errs.Internal, errs.DiskFull, errs.Denied} {
		w.mem.Fail(func(string) error { return kind })
		_, err := w.put("a", "refused")
		wantKind(t, "refused with "+kind.Code(), err, kind)
		if n := w.s.SpoolStatus().Messages; n != 0 {
			t.Fatalf("%d messages are in the spool", n)
		}
	}
	for _, kind := range []errs.Kind{errs.Unavailable, errs.CircuitOpen} {
		w.mem.Fail(func(string) error { return kind })
		err := w.s.Publish(store.WithoutSpool(t.Context()), topicName, store.AckAll, &store.Message{Value: []byte("x")})
		wantKind(t, "not to be spooled", err, kind)
		excluded = true
		_, err = w.put("a", "excluded")
		wantKind(t, "of a topic that is not to be", err, kind)
		excluded = false
	}
	if n := w.s.SpoolStatus().Messages; n != 0 {
		t.Errorf("%d messages are in the spool", n)
	}
}

// partly answers each message of a publish on its own.
type partly struct {
	*world
	errs []error
}

func (p *partly) Publish(context.Context, string, store.Ack, ...*store.Message) error {
	return &store.BatchError{Errs: slices.Clone(p.errs)}
}

// TestBatchOfAllKinds: what can be spooled is, unless one before it in its partition is still the client's.
func TestBatchOfAllKinds(t *testing.T) {
	p := &partly{}
	w := newWorld(t, func(c *Config) { c.Next = p })
	p.world = w
	p.errs = []error{nil, errs.Unavailable, errs.Uncertain, errs.Unavailable, errs.TooLarge, errs.CircuitOpen}
	at := func(n int32) *store.Message { return &store.Message{Partition: n, Value: []byte("v")} }
	msgs := []*store.Message{at(0), at(0), at(1), at(1), at(2), at(0)}
	err := w.s.Publish(t.Context(), topicName, store.AckAll, msgs...)
	var b *store.BatchError
	if !errors.As(err, &b) {
		t.Fatalf("%v", err)
	}
	for i, want := range []error{nil, nil, errs.Uncertain, errs.Unavailable, errs.TooLarge, nil} {
		if got := b.Errs[i]; (got == nil) != (want == nil) || want != nil && !errors.Is(got, want) {
			t.Errorf("message %d: %v, want %v", i, got, want)
		}
	}
	if msgs[1].Offset != store.Spooled || msgs[5].Offset != store.Spooled {
		t.Error("not spooled")
	}
	if n := w.s.SpoolStatus().Messages; n != 2 {
		t.Errorf("%d messages are in the spool", n)
	}
}

// TestBounds: a spool that is full refuses, and loses nothing.
func TestBounds(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.MaxBytes = 10_000 })
	w.fails(true)
	n := 0
	for ; ; n++ {
		_, err := w.put("a", string(make([]byte, 900)))
		if err != nil {
			wantKind(t, "beyond the limit", err, errs.Unavailable)
			break
		}
	}
	if n < 8 || n > 11 {
		t.Errorf("%d messages of 900 bytes fit into 10,000", n)
	}
	if st := w.s.SpoolStatus(); st.Fault == nil && st.Bytes > st.Limit || st.Bytes < 8000 {
		t.Errorf("%+v", st)
	}
	w.fails(false)
	w.drained()
	if got := len(w.byKey()["a"]); got != n {
		t.Errorf("%d messages of %d", got, n)
	}
	w.stores("a", "again")
}

// TestAge: what waits for too long is told, and stays.
func TestAge(t *testing.T) {
	now := time.Now()
	w := newWorld(t, func(c *Config) {
		c.MaxAge = time.Hour
		c.Now = func() time.Time { return now }
	})
	w.fails(true)
	w.spools("a", "1")
	if w.s.SpoolStatus().Late {
		t.Error("late at once")
	}
	now = now.Add(2 * time.Hour)
	if st := w.s.SpoolStatus(); !st.Late || st.Messages != 1 {
		t.Errorf("%+v", st)
	}
	w.spools("a", "2")
	w.fails(false)
	w.drained()
}

// TestUnspooledWaits: a publish that is not to be spooled does not overtake those that were.
func TestUnspooledWaits(t *testing.T) {
	w := newWorld(t, nil)
	w.fails(true)
	w.spools("a", "1")
	ctx, cancel := context.WithTimeout(store.WithoutSpool(t.Context()), 50*time.Millisecond)
	defer cancel()
	m := &store.Message{Key: []byte("a"), Value: []byte("2"), Partition: store.AnyPartition}
	wantKind(t, "while the store is away", w.s.Publish(ctx, topicName, store.AckAll, m), errs.Unavailable)
	w.fails(false)
	m = &store.Message{Key: []byte("a"), Value: []byte("3"), Partition: store.AnyPartition}
	if err := w.s.Publish(store.WithoutSpool(t.Context()), topicName, store.AckAll, m); err != nil || m.Offset != 1 {
		t.Errorf("offset %d, %v", m.Offset, err)
	}
	if got := w.byKey()["a"]; !slices.Equal(got, []string{"1", "3"}) {
		t.Errorf("%v", got)
	}
}

// TestAside: a message that the store refuses for good neither vanishes nor holds up the others.
func TestAside(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Next = &picky{} })
	p := w.cfg.Next.(*picky)
	p.world = w
	w.fails(true)
	for _, v := range []string{"1", "bad", "2"} {
		w.spools("a", v)
	}
	p.refused.Store(true)
	w.fails(false)
	w.drained()
	if got := w.byKey()["a"]; !slices.Equal(got, []string{"1", "2"}) {
		t.Errorf("%v", got)
	}
	list, err := w.s.Asides(t.Context(), 0, 10)
	if err != nil || len(list) != 1 || string(list[0].Message.Value) != "bad" || list[0].Code != "too_large" || list[0].Topic != topicName {
		t.Fatalf("%+v, %v", list, err)
	}
	w.close()
	w.open() // it is still there
	if st := w.s.SpoolStatus(); st.Aside != 1 || st.Bytes == 0 {
		t.Errorf("%+v", st)
	}
	if n, err := w.s.Requeue(t.Context(), list[0].ID+1); n != 0 || err != nil {
		t.Errorf("another one: %d, %v", n, err)
	}
	p.refused.Store(false)
	if n, err := w.s.Requeue(t.Context()); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	w.drained()
	if got := w.byKey()["a"]; !slices.Equal(got, []string{"1", "2", "bad"}) {
		t.Errorf("%v", got)
	}
	p.refused.Store(true)
	w.fails(true)
	w.spools("a", "bad")
	w.fails(false)
	w.drained()
	if n, err := w.s.Discard(t.Context(), 1, 2, 3); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if st := w.s.SpoolStatus(); st.Aside != 0 || st.Bytes != 0 {
		t.Errorf("%+v", st)
	}
}
