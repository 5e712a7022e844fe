package kafka

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/kateway/kateway/store"
)

const stormPartitions = 6

// stormTime is how long members come and go: 30 s, or what the variable KATEWAY_STORM says, "3m" for one.
func stormTime(t *testing.T) time.Duration {
	d, err := time.ParseDuration(os.Getenv("KATEWAY_STORM"))
	if os.Getenv("KATEWAY_STORM") == "" {
		return 30 * time.Second
	}
	if err != nil {
		t.Fatal("KATEWAY_STORM: ", err)
	}
	return d
}

// TestRebalanceStorm: every 2 s a member comes or leaves cleanly, while messages come. Each message is read once, in the
// order of its partition.
func TestRebalanceStorm(t *testing.T) {
	protocols(t, func(t *testing.T, cfg Config) {
		cfg.SessionTimeout = 6 * time.Second
		s := open(t, cfg)
		topic := newTopic(t, s, stormPartitions)
		log := &readings{seen: map[string]int{}}
		stop := stormLoad(t, s, topic, log)
		join := func(n int) *reader {
			spec := store.Spec{Topic: topic, Group: topic + ".g", Instance: fmt.Sprint("gw", n)}
			f, err := open(t, cfg).Subscribe(t.Context(), spec)
			if err != nil {
				t.Fatal(err)
			}
			return read(t, f, log)
		}
		readers := []*reader{join(0)}
		ctx, cancel := context.WithTimeout(t.Context(), stormTime(t))
		defer cancel()
		changes := 0
		for n := 1; pause(ctx, 2*time.Second); n++ {
			if changes++; len(readers) == 1 || len(readers) < 4 && rand.N(2) == 0 {
				readers = append(readers, join(n))
				continue
			}
			i := rand.N(len(readers))
			readers[i].leave()
			readers = append(readers[:i], readers[i+1:]...)
		}
		published := stop()
		eventually(t, "all messages", func() bool { return log.count() >= published })
		for _, r := range readers {
			r.leave()
		}
		log.check(t, published)
		t.Logf("%d messages, %d changes of the membership", published, changes)
	})
}

// stormLoad publishes numbered messages until stop, which answers how many.
func stormLoad(t *testing.T, s *Store, topic string, log *readings) (stop func() int) {
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; pause(ctx, 10*time.Millisecond); i++ {
			var msgs []*store.Message
			for p := range int32(stormPartitions) {
				msgs = append(msgs, text(p, fmt.Sprintf("%d-%06d", p, i)))
				log.publish(string(msgs[p].Value))
			}
			if err := s.Publish(t.Context(), topic, store.AckAll, msgs...); err != nil {
				t.Errorf("publish: %v", err)
				return
			}
			n += len(msgs)
		}
	})
	return func() int { cancel(); wg.Wait(); return n }
}

// readings are the messages of a group, and how often each was read.
type readings struct {
	mu   sync.Mutex
	seen map[string]int
	read int
	next [stormPartitions]int64
	bad  []string
}

func (l *readings) publish(value string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen[value] += 0
}

func (l *readings) message(m *store.Message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.seen[string(m.Value)]++; l.seen[string(m.Value)] == 1 {
		l.read++
	}
	if m.Offset != l.next[m.Partition] && len(l.bad) < 10 {
		l.bad = append(l.bad, fmt.Sprintf("offset %d of partition %d was read, %d was next", m.Offset, m.Partition, l.next[m.Partition]))
	}
	l.next[m.Partition] = m.Offset + 1
}

func (l *readings) count() int { l.mu.Lock(); defer l.mu.Unlock(); return l.read }

func (l *readings) check(t *testing.T, published int) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range l.bad {
		t.Error(b)
	}
	lost, twice := 0, 0
	for _, n := range l.seen {
		switch {
		case n == 0:
			lost++
		case n > 1:
			twice++
		}
	}
	if lost+twice > 0 || len(l.seen) != published {
		t.Errorf("of %d messages %d were lost and %d came more than once; %d are known", published, lost, twice, len(l.seen))
	}
}

// reader is a member that commits each message as it comes.
type reader struct {
	t      *testing.T
	f      store.Feed
	cancel context.CancelFunc
	done   sync.WaitGroup
}

func read(t *testing.T, f store.Feed, log *readings) *reader {
	ctx, cancel := context.WithCancel(t.Context())
	r := &reader{t: t, f: f, cancel: cancel}
	r.done.Go(func() {
		for ctx.Err() == nil {
			b, err := f.Poll(ctx, 50, nil)
			if err != nil && ctx.Err() == nil {
				t.Errorf("Poll: %v", err)
				return
			}
			for _, m := range b.Messages {
				log.message(m)
				if err := f.Commit(store.Position{Partition: m.Partition, Next: m.Offset + 1}); err != nil {
					t.Errorf("Commit: %v", err)
				}
			}
		}
	})
	return r
}

func (r *reader) leave() {
	r.cancel()
	r.done.Wait()
	if err := r.f.Close(r.t.Context()); err != nil {
		r.t.Errorf("Close: %v", err)
	}
}
