// Package registrytest proves the contract of a registry on an implementation:
//
//	registrytest.Run(t, registrytest.Config{New: ...})
package registrytest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/registry"
)

// limit is what anything may take: a test waits for conditions, and fails when they do not come.
const limit = 60 * time.Second

// Member is a gateway's session with the registry.
type Member struct {
	registry.Registry
	// Lose cuts the member off until its session has ended; back lets it return. id is what it is announced as, if it is.
	Lose func(id string) (back func())
}

// Config is the implementation.
type Config struct {
	// New makes an empty registry, and answers what joins it. All ends with the test.
	New func(t *testing.T) (join func() Member)
}

// Run is the suite.
func Run(t *testing.T, cfg Config) {
	tests := []struct {
		name string
		f    func(*testing.T, func() Member)
	}{
		{"Listed", listed},
		{"LoadIsTold", loadIsTold},
		{"Conflict", conflict},
		{"BackAfterLoss", backAfterLoss},
		{"SlowReceiver", slowReceiver},
		{"WatchEnds", watchEnds},
		{"OneLeads", oneLeads},
		{"LeadAnswers", leadAnswers},
		{"LeaderIsLost", leaderIsLost},
		{"CandidateIsLost", candidateIsLost},
		{"DutiesAreApart", dutiesAreApart},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { test.f(t, cfg.New(t)) })
	}
}

func instance(id string) registry.Instance {
	return registry.Instance{
		ID: id, Pub: "h:1", Sub: "h:2", Man: "h:3", Peer: "h:4", Version: "1.2.3", Host: "h",
		Started: time.Date(2020, 1, 2, 3, 4, 5, 6000, time.UTC), Load: registry.Load{PublishPerSecond: 1.5, Streams: 7},
	}
}

// announce runs Announce in the background. off ends it, and answers its error when it has returned.
func announce(t *testing.T, m Member, self func() registry.Instance) (off func() error) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Announce(ctx, self) }()
	off = sync.OnceValue(func() error {
		cancel()
		return await(t, done)
	})
	t.Cleanup(func() { _ = off() })
	return off
}

func fixed(id string) func() registry.Instance {
	return func() registry.Instance { return instance(id) }
}

// await answers what comes.
func await[T any](t *testing.T, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(limit):
		t.Errorf("nothing came for %v", limit)
	}
	return v
}

// ids waits until the list has just these, and answers it.
func ids(t *testing.T, list <-chan []registry.Instance, want ...string) []registry.Instance {
	t.Helper()
	return until(t, list, fmt.Sprint(want), func(list []registry.Instance) bool {
		return slices.EqualFunc(list, want, func(is registry.Instance, id string) bool { return is.ID == id })
	})
}

func until(t *testing.T, list <-chan []registry.Instance, want string, good func([]registry.Instance) bool) []registry.Instance {
	t.Helper()
	end := time.After(limit)
	var last []registry.Instance
	for {
		select {
		case now, open := <-list:
			if !open {
				t.Fatalf("the list ended, want %s", want)
			}
			if last = now; good(now) {
				return now
			}
		case <-end:
			t.Fatalf("the list stays %v, want %s", last, want)
		}
	}
}

func listed(t *testing.T, join func() Member) {
	a, b := join(), join()
	watch := b.Watch(t.Context())
	ids(t, watch) // at once, though there is nobody
	offB := announce(t, b, fixed("b"))
	ids(t, watch, "b")
	offA := announce(t, a, fixed("a"))
	list := ids(t, watch, "a", "b")
	if want := instance("a"); list[0] != want {
		t.Errorf("listed as %+v, want %+v", list[0], want)
	}
	ids(t, a.Watch(t.Context()), "a", "b")
	if err := offA(); err != nil {
		t.Errorf("Announce answers %v when its context ends, want nil", err)
	}
	select { // a list is of the time when it is made: from now on, without a
	case got := <-a.Watch(t.Context()):
		if len(got) != 1 || got[0].ID != "b" {
			t.Errorf("Announce has returned, and the list is %v", got)
		}
	case <-time.After(limit):
		t.Error("no list")
	}
	ids(t, watch, "b")
	if err := offB(); err != nil {
		t.Error(err)
	}
	ids(t, watch)
}

func loadIsTold(t *testing.T, join func() Member) {
	a, b := join(), join()
	var streams atomic.Int64
	announce(t, a, func() registry.Instance {
		is := instance("a")
		is.Load.Streams = int(streams.Load())
		return is
	})
	watch := b.Watch(t.Context())
	ids(t, watch, "a")
	streams.Store(99)
	until(t, watch, "the new load", func(list []registry.Instance) bool {
		return len(list) == 1 && list[0].Load.Streams == 99
	})
}

func conflict(t *testing.T, join func() Member) {
	a, b := join(), join()
	off := announce(t, a, fixed("a"))
	watch := b.Watch(t.Context())
	ids(t, watch, "a")
	second := instance("a")
	second.Pub = "other:1"
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if err := b.Announce(ctx, func() registry.Instance { return second }); !errors.Is(err, errs.Conflict) {
		t.Errorf("a second gateway of the same id: %v, want Conflict", err)
	}
	if list := await(t, b.Watch(t.Context())); len(list) != 1 || list[0].Pub != instance("a").Pub {
		t.Errorf("after the conflict the list is %+v", list)
	}
	if err := off(); err != nil {
		t.Error(err)
	}
	announce(t, b, func() registry.Instance { return second })
	until(t, watch, "the second", func(list []registry.Instance) bool {
		return len(list) == 1 && list[0].Pub == second.Pub
	})
}

func backAfterLoss(t *testing.T, join func() Member) {
	a, b := join(), join()
	announce(t, a, fixed("a"))
	announce(t, b, fixed("b"))
	watch := b.Watch(t.Context())
	ids(t, watch, "a", "b")
	lost := lead(t, a, "witness") // of the session's end: where nothing was lost, coming back proves nothing
	await(t, lost.began)
	for range 2 {
		back := a.Lose("a")
		back()
	}
	await(t, lost.ended)
	ids(t, b.Watch(t.Context()), "a", "b")
}

func slowReceiver(t *testing.T, join func() Member) {
	a, b := join(), join()
	slow, fast := b.Watch(t.Context()), b.Watch(t.Context())
	ids(t, fast)
	const changes = 20
	for i := range changes {
		announce(t, a, fixed(fmt.Sprintf("a%02d", i)))
	}
	full := func(list []registry.Instance) bool { return len(list) == changes }
	until(t, fast, "all", full)
	lists := 0
	until(t, slow, "all", func(list []registry.Instance) bool { lists++; return full(list) })
	if lists > 3 {
		t.Errorf("a receiver that did not receive for %d changes got %d lists", changes, lists)
	}
}

func watchEnds(t *testing.T, join func() Member) {
	a := join()
	ctx, cancel := context.WithCancel(t.Context())
	watch := a.Watch(ctx)
	ids(t, watch)
	cancel()
	if list, open := <-watch; open {
		t.Errorf("after its context the watch tells %v", list)
	}
}
