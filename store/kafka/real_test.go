package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// newTopic makes one on the real cluster.
func newTopic(t *testing.T, s *Store, partitions int32) string {
	t.Helper()
	name := strings.ToLower(strings.NewReplacer("/", "-", "#", "-").Replace(t.Name())) + fmt.Sprint(time.Now().UnixNano())
	if err := s.CreateTopic(t.Context(), store.Topic{Name: name, Partitions: partitions}); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestKcatAgrees: what the store writes another client reads, and the other way round, with every codec.
func TestKcatAgrees(t *testing.T) {
	c := cluster.Get(t)
	for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		s := open(t, Config{Brokers: c.Addrs(), Compression: codec, SessionTimeout: 2 * time.Second})
		topic := newTopic(t, s, 3)
		if err := s.Publish(t.Context(), topic, store.AckAll, &store.Message{
			Partition: store.AnyPartition, Key: []byte("key"), Value: []byte(strings.Repeat("value", 100)),
			Headers: []store.Header{{Key: "a", Value: []byte("1")}, {Key: "b", Value: []byte("2")}},
		}); err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf("%d 0 key a=1,b=2 %s\n", store.PartitionOf([]byte("key"), 3), strings.Repeat("value", 100))
		if got := c.Kcat(t, "", "-C", "-t", topic, "-e", "-q", "-f", "%p %o %k %h %s\n"); got != want {
			t.Errorf("%s: kcat reads %q, want %q", codec, got, want)
		}
		c.Kcat(t, "from kcat", "-P", "-t", topic, "-p", "1", "-k", "other", "-H", "x=y", "-z", strings.Replace(codec, "none", "snappy", 1))
		f, err := s.Subscribe(t.Context(), store.Spec{Topic: topic, Group: topic + ".g"})
		if err != nil {
			t.Fatal(err)
		}
		all := until(t, f, nil, func(all store.Batch) bool { return len(all.Messages) == 2 })
		i := slices.IndexFunc(all.Messages, func(m *store.Message) bool { return string(m.Value) == "from kcat" })
		if i < 0 {
			t.Fatalf("%s: kcat's message did not come", codec)
		}
		m := all.Messages[i]
		if m.Partition != 1 || string(m.Key) != "other" || len(m.Headers) != 1 || m.Headers[0].Key != "x" || string(m.Headers[0].Value) != "y" {
			t.Errorf("%s: kcat's message came as %+v", codec, m)
		}
		if err := f.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func TestTransactionsOnKafka(t *testing.T) {
	c := cluster.Get(t)
	s := open(t, Config{Brokers: c.Addrs(), SessionTimeout: 2 * time.Second})
	transactions(t, s, c.Addrs(), "transactions")
}

// TestNamesThatKafkaTakesForTheSame: its metrics do not tell '.' from '_'.
func TestNamesThatKafkaTakesForTheSame(t *testing.T) {
	s := open(t, Config{Brokers: cluster.Get(t).Addrs()})
	if err := s.CreateTopic(t.Context(), store.Topic{Name: "same.name"}); err != nil {
		t.Fatal(err)
	}
	err := s.CreateTopic(t.Context(), store.Topic{Name: "same_name"})
	if !errors.Is(err, errs.Conflict) || errors.Is(err, store.ErrExists) {
		t.Errorf("got %v, want conflict", err)
	}
	if err := s.CreateTopic(t.Context(), store.Topic{Name: "bad name"}); !errors.Is(err, errs.InvalidName) {
		t.Errorf("a name with a space: got %v, want invalid name", err)
	}
	if err := s.CreateTopic(t.Context(), store.Topic{Name: "many.replicas", Replicas: 9}); !errors.Is(err, errs.InvalidParam) {
		t.Errorf("nine replicas on three brokers: got %v, want invalid parameter", err)
	}
}

// TestLeaderIsKilled: under load. Each message that was acknowledged is there, once, at the offset that was told; what was
// called certain not to be stored is not there; and publishes work again.
func TestLeaderIsKilled(t *testing.T) {
	c := cluster.Get(t)
	s := open(t, Config{Brokers: c.Addrs()})
	topic := newTopic(t, s, 3)
	d, err := s.detail(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	victim := int(d.Partitions[0].Leader) - 1

	acked, failed := sync.Map{}, sync.Map{} // value -> *store.Message, error
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var mu sync.Mutex
	counts := map[errs.Kind]int{}
	last := time.Time{} // of a publish to the victim's partition that worked
	for w := range 16 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				m := text(int32(w%3), fmt.Sprintf("%02d-%06d", w, i))
				err := s.Publish(context.WithoutCancel(ctx), topic, store.AckAll, m)
				mu.Lock()
				if err == nil {
					acked.Store(string(m.Value), m)
					if w%3 == 0 {
						last = time.Now()
					}
				} else {
					counts[errs.Of(err)]++
					failed.Store(string(m.Value), err)
				}
				mu.Unlock()
			}
		})
	}
	works := func(since time.Time) func() bool {
		return func() bool { mu.Lock(); defer mu.Unlock(); return last.After(since) }
	}
	eventually(t, "the load is on", works(time.Time{}))
	c.Kill(victim)
	killed := time.Now()
	eventually(t, "publishes work with another leader", works(killed.Add(500*time.Millisecond)))
	t.Logf("partition 0 works again %v after the kill of its leader; failures by kind: %v", time.Since(killed).Round(time.Millisecond), counts)
	stop()
	wg.Wait()
	if err := c.Restart(victim); err != nil {
		t.Fatal(err)
	}
	there := map[string]int{}
	for p := range int32(3) {
		for m, err := range s.Browse(t.Context(), topic, p, 0) {
			if err != nil {
				t.Fatal(err)
			}
			v := string(m.Value)
			there[v]++
			if a, ok := acked.Load(v); ok && (a.(*store.Message).Partition != p || a.(*store.Message).Offset != m.Offset) {
				t.Errorf("%s is at %d/%d, told was %d/%d", v, p, m.Offset, a.(*store.Message).Partition, a.(*store.Message).Offset)
			}
			if err, ok := failed.Load(v); ok && errs.Of(err.(error)) != errs.Uncertain {
				t.Errorf("%s is stored, told was %v", v, err)
			}
		}
	}
	n := 0
	acked.Range(func(v, _ any) bool {
		if n++; there[v.(string)] != 1 {
			t.Errorf("%v was acknowledged and is there %d times", v, there[v.(string)])
		}
		return true
	})
	t.Logf("%d acknowledged", n)
}
