package kafka

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kateway/kateway/store"
)

func TestInstanceNames(t *testing.T) {
	for _, gateway := range []string{"gw1", "host.example-9191", "0.1", "kateway.0.x"} {
		for _, n := range []int{0, 1, 12} {
			name := instanceName(gateway, n)
			if got, ok := gatewayOf(name); !ok || got != gateway {
				t.Errorf("%q is read as %q, %t", name, got, ok)
			}
		}
	}
	for _, name := range []string{"", "kateway", "kateway.", "kateway.0", "kateway.0.", "kateway.x.gw1", "kateway.-1.gw1", "other.0.gw1", "xkateway.0.gw1"} {
		if got, ok := gatewayOf(name); ok {
			t.Errorf("%q is taken for a name of gateway %q", name, got)
		}
	}
}

// TestReserve: each member of a process has a name of its own, and a name that was given back is used again.
func TestReserve(t *testing.T) {
	s := &Store{instances: map[instance]struct{}{}}
	spec := store.Spec{Group: "g", Instance: "gw"}
	take := func(spec store.Spec, want string) {
		t.Helper()
		if got := s.reserve(spec); got != want {
			t.Errorf("reserved %q, want %q", got, want)
		}
	}
	take(spec, "kateway.0.gw")
	take(spec, "kateway.1.gw")
	take(store.Spec{Group: "h", Instance: "gw"}, "kateway.0.gw")
	take(store.Spec{Group: "g"}, "")
	s.release("g", "kateway.0.gw")
	take(spec, "kateway.0.gw")
	take(spec, "kateway.2.gw")
}

// TestDead: who is evicted.
func TestDead(t *testing.T) {
	s := &Store{instances: map[instance]struct{}{}}
	spec := store.Spec{Group: "g", Instance: "me"}
	other := s.reserve(spec)
	mine := s.reserve(spec)
	var asked []string
	spec.Gone = func(gateway string) bool {
		asked = append(asked, gateway)
		return gateway == "killed"
	}
	var members []member
	for _, name := range []string{other, mine, "kateway.2.me", "kateway.0.killed", "kateway.1.killed", "kateway.0.alive", "of-another-program", ""} {
		members = append(members, member{instance: name})
	}
	if got, want := s.dead(spec, mine, members), []string{mine, "kateway.2.me", "kateway.0.killed", "kateway.1.killed"}; !slices.Equal(got, want) {
		t.Errorf("to be removed: %q, want %q", got, want)
	}
	if want := []string{"killed", "killed", "alive"}; !slices.Equal(asked, want) {
		t.Errorf("asked whether %q are gone, want %q", asked, want)
	}
	if got := s.dead(store.Spec{Group: "g"}, "", members); len(got) > 0 {
		t.Errorf("a member without a name would remove %q", got)
	}
}

// protocols runs a test with each on the real cluster.
func protocols(t *testing.T, test func(t *testing.T, cfg Config)) {
	brokers := cluster.Get(t).Addrs()
	for _, p := range []string{ProtocolClassic, ProtocolConsumer} {
		t.Run(p, func(t *testing.T) {
			t.Parallel()
			test(t, Config{Brokers: brokers, Protocol: p, SessionTimeout: 30 * time.Second})
		})
	}
}

// names are those of the group's members.
func names(t *testing.T, s *Store, group string) (list []string) {
	t.Helper()
	members, err := s.membersOf(t.Context(), group)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range members[group] {
		list = append(list, m.instance)
	}
	slices.Sort(list)
	return list
}

// subscribe joins and waits until the member has the partitions.
func subscribe(t *testing.T, s *Store, spec store.Spec, partitions int) *feed {
	t.Helper()
	f, err := s.Subscribe(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	until(t, f, nil, func(all store.Batch) bool { return len(all.Gained) >= partitions })
	return f.(*feed)
}

// TestPlacesOfTheDead: a member whose process was killed holds nobody up when a gateway joins that knows of its death, or
// that is its next life. Nobody else's place is touched.
func TestPlacesOfTheDead(t *testing.T) {
	protocols(t, func(t *testing.T, cfg Config) {
		a, b := open(t, cfg), open(t, cfg)
		topic := newTopic(t, a, 3)
		spec := func(gateway string) store.Spec {
			return store.Spec{Topic: topic, Group: topic + ".g", Instance: gateway, Gone: func(id string) bool { return id == "a" }}
		}
		subscribe(t, a, spec("a"), 3).crash()
		f := subscribe(t, b, spec("b"), 3) // not after 30 s
		f.crash()
		b2 := open(t, cfg)
		f = subscribe(t, b2, spec("b"), 3) // its next life
		if got := names(t, b2, topic+".g"); !slices.Equal(got, []string{"kateway.0.b"}) {
			t.Errorf("members are %q", got)
		}
		if err := f.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if got := names(t, b2, topic+".g"); len(got) > 0 {
			t.Errorf("after the last has left: %q", got)
		}
	})
}

// TestTwoMembersOfOneProcess do not evict each other.
func TestTwoMembersOfOneProcess(t *testing.T) {
	protocols(t, func(t *testing.T, cfg Config) {
		s := open(t, cfg)
		topic := newTopic(t, s, 2)
		spec := store.Spec{Topic: topic, Group: topic + ".g", Instance: "gw", Gone: func(string) bool { return true }}
		one := subscribe(t, s, spec, 2)
		two, err := s.Subscribe(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() { until(t, one, nil, func(all store.Batch) bool { return len(all.Lost) == 1 }) })
		until(t, two, nil, func(all store.Batch) bool { return len(all.Gained) > 0 })
		wg.Wait()
		if got := names(t, s, spec.Group); !slices.Equal(got, []string{"kateway.0.gw", "kateway.1.gw"}) {
			t.Errorf("members are %q", got)
		}
		for _, f := range []store.Feed{one, two} {
			if err := f.Close(t.Context()); err != nil {
				t.Error(err)
			}
		}
		if got := names(t, s, spec.Group); len(got) > 0 {
			t.Errorf("after both have left: %q", got)
		}
	})
}

// TestTwoProcessesWithOneID: a mistake. One of them is told so, in the log and by Poll, and does not fight; when the other
// ends it goes on.
func TestTwoProcessesWithOneID(t *testing.T) {
	protocols(t, func(t *testing.T, cfg Config) {
		log := &lines{}
		cfg.Log = slog.New(slog.NewTextHandler(log, nil))
		s, twin := open(t, cfg), open(t, cfg)
		topic := newTopic(t, s, 1)
		spec := store.Spec{Topic: topic, Group: topic + ".g", Instance: "gw"}
		feeds := []*feed{subscribe(t, s, spec, 1)}
		f, err := twin.Subscribe(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		feeds = append(feeds, f.(*feed))
		ctx, cancel := context.WithCancel(t.Context())
		var mu sync.Mutex
		said, gained := map[int]int{}, map[int]int{}
		var wg sync.WaitGroup
		for i, f := range feeds {
			wg.Go(func() {
				for ctx.Err() == nil {
					b, err := f.Poll(ctx, 10, nil)
					mu.Lock()
					gained[i] += len(b.Gained)
					if err != nil && strings.Contains(err.Error(), "an id of its own") {
						said[i]++
					}
					mu.Unlock()
				}
			})
		}
		loser := -1
		eventually(t, "one is told", func() bool {
			mu.Lock()
			defer mu.Unlock()
			for i, n := range said {
				if n > 0 {
					loser = i
				}
			}
			return loser >= 0 && log.count("an id of its own") > 0
		})
		mu.Lock()
		before := gained[loser]
		mu.Unlock()
		if err := feeds[1-loser].Close(t.Context()); err != nil {
			t.Error(err)
		}
		eventually(t, "the other goes on", func() bool { mu.Lock(); defer mu.Unlock(); return gained[loser] > before })
		cancel()
		wg.Wait()
		if n := said[0] + said[1]; n > 3 {
			t.Errorf("they were told %d times: that is a fight", n)
		}
	})
}

// lines is a log.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), what)
}

// TestEvictionDenied: joining goes on, and the log says it once.
func TestEvictionDenied(t *testing.T) {
	for _, answer := range []*kerr.Error{kerr.GroupAuthorizationFailed, kerr.UnsupportedVersion} {
		t.Run(answer.Message, func(t *testing.T) {
			c := fake(t, kfake.SeedTopics(1, "t"))
			log := &lines{}
			s := open(t, Config{Brokers: c.ListenAddrs(), SessionTimeout: time.Second, Log: slog.New(slog.NewTextHandler(log, nil))})
			c.ControlKey(int16(kmsg.LeaveGroup), func(r kmsg.Request) (kmsg.Response, error, bool) {
				c.KeepControl()
				resp := r.ResponseKind().(*kmsg.LeaveGroupResponse)
				resp.ErrorCode = answer.Code
				return resp, nil, true
			})
			for i := range 2 {
				group := fmt.Sprint("g", i)
				subscribe(t, s, store.Spec{Topic: "t", Group: group, Instance: "dead"}, 1).crash()
				subscribe(t, open(t, s.cfg), store.Spec{Topic: "t", Group: group + "other", Instance: "me"}, 1)
				f, err := s.Subscribe(t.Context(), store.Spec{Topic: "t", Group: group, Instance: "me", Gone: func(string) bool { return true }})
				if err != nil {
					t.Fatal(err)
				}
				until(t, f, nil, func(all store.Batch) bool { return len(all.Gained) == 1 }) // by the end of the session
			}
			if n := log.count("did not remove dead members"); n != 1 {
				t.Errorf("the log says it %d times:\n%s", n, log.text.String())
			}
		})
	}
}
