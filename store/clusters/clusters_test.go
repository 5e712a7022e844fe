package clusters

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
	"github.com/kateway/kateway/store/mem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// plain is a store without powers.
type plain struct{ store.Store }

// doomed can come to its end, and is a cluster.
type doomed struct {
	store.Store
	end chan struct{}
}

func (d *doomed) Done() <-chan struct{} { return d.end }
func (d *doomed) Err() error            { return errs.DiskFull }

func (d *doomed) Describe(context.Context) (store.Cluster, error) {
	return store.Cluster{ID: "doomed"}, nil
}

func (d *doomed) Warnings(_ context.Context, topics ...string) ([]string, error) {
	return []string{fmt.Sprintf("%q are weak", topics)}, nil
}

// opener opens a new store in memory each time, and counts.
type opener struct {
	mu     sync.Mutex
	opened map[string][]*mem.Store
}

func (o *opener) open(_ context.Context, cluster string) (store.Store, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.opened == nil {
		o.opened = map[string][]*mem.Store{}
	}
	m := mem.New()
	o.opened[cluster] = append(o.opened[cluster], m)
	return m, m.CreateTopic(context.Background(), store.Topic{Name: "t", Partitions: 1})
}

func (o *opener) of(cluster string) []*mem.Store {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.opened[cluster])
}

// stores is closed with the test.
func stores(t *testing.T, cfg Config) *Stores {
	t.Helper()
	if cfg.Default == nil {
		cfg.Default = mem.New()
	}
	s := New(cfg)
	t.Cleanup(func() { _ = s.Close(context.Background()) })
	return s
}

func text(value string) *store.Message {
	return &store.Message{Partition: store.AnyPartition, Value: []byte(value)}
}

func kind(t *testing.T, what string, err error, want errs.Kind) {
	t.Helper()
	if err == nil || errs.Of(err) != want {
		t.Errorf("%s: got %v, want kind %q", what, err, want.Code())
	}
}

func TestOpenedOnceForAll(t *testing.T) {
	var o opener
	s := stores(t, Config{Open: o.open})
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			if err := s.Publish(t.Context(), fmt.Sprintf("c%d:t", i%2), store.AckAll, text("v")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, c := range []string{"c0", "c1"} {
		if n := len(o.of(c)); n != 1 {
			t.Errorf("cluster %s was opened %d times", c, n)
		}
	}
	lag, err := s.Lag(t.Context(), "c1:t", "g")
	if err != nil || lag[0].End != 25 {
		t.Errorf("c1:t ends at %+v, %v", lag, err)
	}
}

// TestFailureIsRemembered: a cluster that can't be opened is tried once a second, whoever asks.
func TestFailureIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tries atomic.Int32
		var o opener
		s := New(Config{Default: mem.New(), Open: func(ctx context.Context, c string) (store.Store, error) {
			if tries.Add(1) <= 2 {
				return nil, fmt.Errorf("brokers: %w", errs.InvalidParam)
			}
			return o.open(ctx, c)
		}})
		defer s.Close(context.Background())
		publish := func() error { return s.Publish(t.Context(), "c:t", store.AckAll, text("v")) }
		for range 3 {
			err := publish()
			kind(t, "publish", err, errs.Unavailable)
			if !strings.Contains(err.Error(), "brokers") || !strings.Contains(err.Error(), `"c"`) {
				t.Errorf("%v names neither cause nor cluster", err)
			}
		}
		if n := tries.Load(); n != 1 {
			t.Errorf("%d tries within a second", n)
		}
		<-time.After(failureAge)
		kind(t, "a second later", publish(), errs.Unavailable)
		<-time.After(failureAge)
		if err := publish(); err != nil || tries.Load() != 3 {
			t.Errorf("when it can be opened: %v after %d tries", err, tries.Load())
		}
	})
}

func TestUnknownCluster(t *testing.T) {
	var there atomic.Bool
	var o opener
	s := stores(t, Config{Open: func(ctx context.Context, c string) (store.Store, error) {
		if !there.Load() {
			return nil, fmt.Errorf("no cluster %q: %w", c, errs.UnknownTopic)
		}
		return o.open(ctx, c)
	}})
	_, err := s.Subscribe(t.Context(), store.Spec{Topic: "c:t", Group: "g"})
	kind(t, "subscribe", err, errs.UnknownTopic)
	there.Store(true)
	if _, err := s.Resolve(t.Context(), "c:t", store.Start{}); err != nil {
		t.Errorf("once it is there: %v", err)
	}
}

// TestWaitIsTheCallers: a cluster that does not open holds up neither who leaves nor who wants another.
func TestWaitIsTheCallers(t *testing.T) {
	var o opener
	opening := make(chan struct{})
	s := stores(t, Config{Open: func(ctx context.Context, c string) (store.Store, error) {
		if c == "slow" {
			close(opening)
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return o.open(ctx, c)
	}})
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error)
	go func() { left <- s.Publish(ctx, "slow:t", store.AckAll, text("v")) }()
	<-opening
	if err := s.Publish(t.Context(), "quick:t", store.AckAll, text("v")); err != nil {
		t.Errorf("another cluster: %v", err)
	}
	cancel()
	kind(t, "who left", <-left, errs.Unavailable)

	waiting := make(chan error)
	go func() { waiting <- s.Publish(t.Context(), "slow:t", store.AckAll, text("v")) }()
	if err := s.Close(t.Context()); err != nil {
		t.Errorf("close: %v", err)
	}
	if err := <-waiting; !errors.Is(err, store.ErrClosed) {
		t.Errorf("who waited at the close: %v", err)
	}
}

// TestDrop: calls under way finish, feeds end, and who comes back is at the new store.
func TestDrop(t *testing.T) {
	var o opener
	s := stores(t, Config{Open: o.open})
	f, err := s.Subscribe(t.Context(), store.Spec{Topic: "c:t", Group: "g"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Poll(t.Context(), 1, nil); err != nil { // gains
		t.Fatal(err)
	}
	old := o.of("c")[0]
	release := old.Hold()
	published := make(chan error)
	go func() { published <- s.Publish(t.Context(), "c:t", store.AckAll, text("under way")) }()
	for users := 0; users == 0; {
		s.mu.Lock()
		users = s.members["c"].users
		s.mu.Unlock()
		runtime.Gosched()
	}
	s.Drop("c")
	s.Drop("never used")
	if err := s.Publish(t.Context(), "c:t", store.AckAll, text("at the new one")); err != nil {
		t.Errorf("publish after Drop: %v", err)
	}
	if err := old.Ping(t.Context()); err != nil {
		t.Errorf("the old store was closed under a publish: %v", err)
	}
	release()
	if err := <-published; err != nil {
		t.Errorf("the publish under way: %v", err)
	}
	for err == nil { // the message first
		_, err = f.Poll(t.Context(), 10, nil)
	}
	if !errors.Is(err, store.ErrClosed) || errs.Of(err) != errs.Unavailable {
		t.Errorf("the feed ended with %v", err)
	}
	if f, err = s.Subscribe(t.Context(), store.Spec{Topic: "c:t", Group: "g"}); err != nil {
		t.Fatal(err)
	}
	var got []string
	for len(got) == 0 {
		b, err := f.Poll(t.Context(), 10, nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range b.Messages {
			got = append(got, string(m.Value))
		}
	}
	if len(o.of("c")) != 2 || !slices.Equal(got, []string{"at the new one"}) {
		t.Errorf("%d stores were opened, the new one has %q", len(o.of("c")), got)
	}
}

// TestDropDoesNotWaitForEver: a call that hangs loses its store after a while.
func TestDropDoesNotWaitForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var o opener
		s := New(Config{Default: mem.New(), Open: o.open})
		defer s.Close(context.Background())
		if _, err := s.Groups(t.Context(), "c:t"); err != nil {
			t.Fatal(err)
		}
		o.of("c")[0].Hold()
		published := make(chan error, 1)
		go func() { published <- s.Publish(t.Context(), "c:t", store.AckAll, text("hangs")) }()
		synctest.Wait()
		began := time.Now()
		s.Drop("c")
		if err := <-published; !errors.Is(err, store.ErrClosed) {
			t.Errorf("the publish that hangs: %v", err)
		}
		if took := time.Since(began); took != retireLimit {
			t.Errorf("it ended after %v, want %v", took, retireLimit)
		}
	})
}

// stuck is a store whose Close hangs until its context ends.
type stuck struct{ store.Store }

func (s *stuck) Close(ctx context.Context) error {
	<-ctx.Done()
	return errors.Join(ctx.Err(), s.Store.Close(ctx))
}

// TestCloseIsBounded: also when a store that was dropped, and one that was not, hang in theirs.
func TestCloseIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{Default: &stuck{mem.New()}, Open: func(context.Context, string) (store.Store, error) {
			return &stuck{mem.New()}, nil
		}})
		for _, place := range []string{"a:t", "b:t"} {
			_, err := s.Lag(t.Context(), place, "g")
			kind(t, "lag", err, errs.UnknownTopic)
		}
		s.Drop("a")
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		began := time.Now()
		err := s.Close(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), `"b"`) || !strings.Contains(err.Error(), "default") {
			t.Errorf("close: %v", err)
		}
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("close took %v", took)
		}
		if err := s.Close(t.Context()); !errors.Is(err, store.ErrClosed) {
			t.Errorf("close again: %v", err)
		}
		s.Drop("b")
	})
}

func TestTopicsOfAllClusters(t *testing.T) {
	var o opener
	first := mem.New()
	for _, name := range []string{"z", "b"} {
		if err := first.CreateTopic(t.Context(), store.Topic{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	names := func(s *Stores) (list []string, err error) {
		topics, err := s.Topics(t.Context())
		for _, t := range topics {
			list = append(list, t.Name)
		}
		return list, err
	}
	s := stores(t, Config{Default: first, Names: func() []string { return []string{"c", "down"} },
		Open: func(ctx context.Context, c string) (store.Store, error) {
			if c == "down" {
				return nil, errors.New("no route")
			}
			return o.open(ctx, c)
		}})
	list, err := names(s)
	kind(t, "with one that can't be reached", err, errs.Unavailable)
	if !strings.Contains(err.Error(), `"down"`) || !slices.Equal(list, []string{"b", "c:t", "z"}) {
		t.Errorf("topics are %q, %v", list, err)
	}

	s = stores(t, Config{Default: mem.New(), Open: o.open})
	if list, err := names(s); err != nil || len(list) > 0 {
		t.Errorf("before a cluster was used: %q, %v", list, err)
	}
	if err := s.CreateTopic(t.Context(), store.Topic{Name: "c:u"}); err != nil {
		t.Fatal(err)
	}
	if list, err := names(s); err != nil || !slices.Equal(list, []string{"c:t", "c:u"}) {
		t.Errorf("afterwards: %q, %v", list, err)
	}
}

func TestPowersAreThoseOfTheStore(t *testing.T) {
	end := make(chan struct{})
	mortal := stores(t, Config{Default: &doomed{mem.New(), end}, Open: func(_ context.Context, c string) (store.Store, error) {
		if c == "doomed" {
			return &doomed{mem.New(), nil}, nil
		}
		return plain{mem.New()}, nil
	}})
	if mortal.Done() != (<-chan struct{})(end) || !errors.Is(mortal.Err(), errs.DiskFull) {
		t.Errorf("its end is not the default store's: %v", mortal.Err())
	}
	immortal := stores(t, Config{Default: plain{mem.New()}})
	if immortal.Done() != nil || immortal.Err() != nil {
		t.Errorf("a store without an end has one: %v", immortal.Err())
	}

	err := mortal.PublishOnce(t.Context(), "plain:t", store.AckAll, store.Once{Key: "k"}, text("v"))
	kind(t, "an idempotency key where the store can't", err, errs.InvalidParam)

	for cluster, id := range map[string]string{"": "doomed", "doomed": "doomed"} {
		if c, err := mortal.DescribeCluster(t.Context(), cluster); err != nil || c.ID != id {
			t.Errorf("cluster %q: %+v, %v", cluster, c, err)
		}
	}
	_, err = mortal.DescribeCluster(t.Context(), "plain")
	kind(t, "a store that is no cluster", err, errs.NotFound)
	_, err = immortal.Describe(t.Context())
	kind(t, "a default store that is no cluster", err, errs.NotFound)

	list, err := mortal.Warnings(t.Context(), "a", "plain:b", "doomed:c", "doomed:d")
	if want := []string{`default: ["a"] are weak`, `doomed: ["c" "d"] are weak`}; err != nil || !slices.Equal(list, want) {
		t.Errorf("warnings are %q, %v; want %q", list, err, want)
	}
	list, err = mortal.Warnings(t.Context())
	if want := []string{`default: [] are weak`}; err != nil || !slices.Equal(list, want) {
		t.Errorf("without names: %q, %v; want %q", list, err, want)
	}
}

// BenchmarkDefault is what the indirection costs a publish.
func BenchmarkDefault(b *testing.B) {
	var o opener
	s := New(Config{Default: mem.New(), Open: o.open})
	defer s.Close(context.Background())
	for _, place := range []string{"t", "c:t"} {
		b.Run(place, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				l, _, err := s.use(context.Background(), place)
				if err != nil {
					b.Fatal(err)
				}
				l.done()
			}
		})
	}
}

// forgetful is a store whose cluster forgets positions.
type forgetful struct {
	store.Store
	groups int
	err    error
}

func (f forgetful) Recommit(context.Context) (int, error) { return f.groups, f.err }

// TestRecommit: in every cluster; where it fails is named, and keeps no other from it.
func TestRecommit(t *testing.T) {
	s := stores(t, Config{
		Default: forgetful{mem.New(), 3, nil},
		Names:   func() []string { return []string{"broken", "fine", "plain"} },
		Open: func(_ context.Context, cluster string) (store.Store, error) {
			switch cluster {
			case "broken":
				return forgetful{mem.New(), 1, errs.Unavailable}, nil
			case "fine":
				return forgetful{mem.New(), 10, nil}, nil
			}
			return plain{mem.New()}, nil
		},
	})
	n, err := s.Recommit(t.Context())
	if n != 14 || !errors.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), `"broken"`) {
		t.Errorf("%d groups, %v; want 14, and the error of the cluster that is broken", n, err)
	}
}
