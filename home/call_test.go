package home

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// Settle, Through and Mark of whichever client go to the home, at any gateway.
func TestCallsGoHome(t *testing.T) {
	bubble(t, 3, func(t *testing.T, _ *network, gws []*fakeGateway) {
		key := keyOf(gws[0].Router, "gw2")
		for _, g := range gws {
			out := g.Settle(t.Context(), key, group.Verb{Ref: group.Ref{Partition: 1, Offset: 2, Attempt: 3, Hold: 4}, Op: group.Nack, Delay: 5})
			out = append(out, g.Through(t.Context(), key, store.Position{Partition: 7, Next: 8}, store.Position{Partition: -1, Next: -2})...)
			out = append(out, g.Mark(t.Context(), key, group.At{Partition: 9, Offset: 10})...)
			if err := errors.Join(out...); err != nil || len(out) != 4 {
				t.Errorf("%v", out)
			}
		}
		calls := gws[1].hub.asked()
		if len(calls) != 9 || len(gws[0].hub.asked())+len(gws[2].hub.asked()) > 0 {
			t.Fatalf("the home was asked %d times", len(calls))
		}
		for i := range 3 { // of the third, which is its own, as well as of the others
			at := calls[3*i : 3*i+3]
			if at[0].key != key || at[0].verbs[0] != (group.Verb{Ref: group.Ref{Partition: 1, Offset: 2, Attempt: 3, Hold: 4}, Op: group.Nack, Delay: 5}) ||
				!slices.Equal(at[1].through, []store.Position{{Partition: 7, Next: 8}, {Partition: -1, Next: -2}}) ||
				!slices.Equal(at[2].marks, []group.At{{Partition: 9, Offset: 10}}) {
				t.Errorf("asked %+v", at)
			}
		}
	})
}

// More verbs than a frame takes are answered each in its place.
func TestManyVerbs(t *testing.T) {
	bubble(t, 2, func(t *testing.T, _ *network, gws []*fakeGateway) {
		gws[1].hub.answer = func(_ context.Context, verbs []group.Verb) []error {
			out := make([]error, len(verbs))
			for i, v := range verbs {
				if v.Offset%3 == 0 {
					out[i] = fmt.Errorf("offset %d: %w", v.Offset, errs.Fenced)
				}
			}
			return out
		}
		list := make([]group.Verb, 2*maxVerbs+5)
		for i := range list {
			list[i].Offset = int64(i)
		}
		out := gws[0].Settle(t.Context(), keyOf(gws[0].Router, "gw2"), list...)
		if len(out) != len(list) {
			t.Fatalf("%d answers", len(out))
		}
		for i, err := range out {
			if want := fmt.Sprintf("offset %d: %v", i, errs.Fenced); i%3 == 0 && (err == nil || err.Error() != want) || i%3 != 0 && err != nil {
				t.Fatalf("%d: %v", i, err)
			}
		}
	})
}

// The home stops waiting when its caller does.
func TestCancelledCall(t *testing.T) {
	bubble(t, 2, func(t *testing.T, _ *network, gws []*fakeGateway) {
		var took time.Duration
		gws[1].hub.answer = func(ctx context.Context, verbs []group.Verb) []error {
			began := time.Now()
			_ = sleep(ctx, time.Hour)
			took = time.Since(began)
			return make([]error, len(verbs))
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		out := gws[0].Settle(ctx, keyOf(gws[0].Router, "gw2"), group.Verb{}, group.Verb{})
		synctest.Wait()
		if len(out) != 2 || !errors.Is(out[0], errs.Unavailable) || !errors.Is(out[1], errs.Unavailable) || took != time.Second {
			t.Errorf("%v; the home waited %v", out, took)
		}
		ctx, cancel = context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		gws[0].Settle(ctx, keyOf(gws[0].Router, "gw2"), group.Verb{})
		synctest.Wait()
		if took != 3*time.Second {
			t.Errorf("the home waited %v", took)
		}
	})
}

// More calls than a home takes at a time are refused, not queued.
func TestTooManyCalls(t *testing.T) {
	bubble(t, 2, func(t *testing.T, _ *network, gws []*fakeGateway) {
		free := make(chan struct{})
		gws[1].hub.answer = func(_ context.Context, verbs []group.Verb) []error {
			<-free
			return make([]error, len(verbs))
		}
		key := keyOf(gws[0].Router, "gw2")
		var wg sync.WaitGroup
		for range maxCalls {
			wg.Go(func() {
				if err := errors.Join(gws[0].Settle(t.Context(), key, group.Verb{})...); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if err := errors.Join(gws[0].Settle(t.Context(), key, group.Verb{})...); !errors.Is(err, errs.Overloaded) {
			t.Error(err)
		}
		close(free)
		wg.Wait()
		if err := errors.Join(gws[0].Settle(t.Context(), key, group.Verb{})...); err != nil {
			t.Error(err)
		}
	})
}

// A call whose home is lost is made at the next one, and so is one whose home stops.
func TestCallsFollow(t *testing.T) {
	for name, lose := range map[string]func(*network, *fakeGateway){
		"cut":      func(joined *network, _ *fakeGateway) { joined.cut("gw2") },
		"frozen":   func(joined *network, _ *fakeGateway) { joined.freeze("gw2") },
		"draining": func(_ *network, home *fakeGateway) { home.hub.answer = draining },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 2, func(t *testing.T, joined *network, gws []*fakeGateway) {
				key := keyOf(gws[0].Router, "gw2")
				gws[0].Settle(t.Context(), key, group.Verb{})
				lose(joined, gws[1])
				if err := errors.Join(gws[0].Settle(t.Context(), key, group.Verb{})...); err != nil {
					t.Error(err)
				}
				if n := len(gws[0].hub.asked()); n != 1 {
					t.Errorf("asked here %d times", n)
				}
				joined.heal("gw2")
			})
		})
	}
}

func draining(_ context.Context, verbs []group.Verb) []error {
	return fill(make([]error, len(verbs)), errs.Draining)
}

// Where the group is here although its home is elsewhere, both are asked.
func TestCallsOfAStray(t *testing.T) {
	bubble(t, 2, func(t *testing.T, _ *network, gws []*fakeGateway) {
		key := keyOf(gws[0].Router, "gw2")
		gws[0].hub.clients(key, 1)
		gws[0].hub.hold(0)
		gws[1].hub.hold(1)
		for p := range int32(2) {
			if err := errors.Join(gws[0].Settle(t.Context(), key, group.Verb{Ref: group.Ref{Partition: p}})...); err != nil {
				t.Errorf("partition %d: %v", p, err)
			}
		}
	})
}
