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
)

func two(c *Config) { c.Spread = func(group.Key) int { return 2 } }

// hold makes a hub answer for deliveries of these partitions only; of others it waits as one does that does not hold them.
func (h *fakeHub) hold(partitions ...int32) {
	h.answer = func(ctx context.Context, verbs []group.Verb) []error {
		out := make([]error, len(verbs))
		missing := false
		for i, v := range verbs {
			if !slices.Contains(partitions, v.Partition) {
				out[i], missing = fmt.Errorf("partition %d is not held here: %w", v.Partition, errs.Fenced), true
			}
		}
		if missing {
			_ = sleep(ctx, settleTime)
		}
		return out
	}
}

// A client of a group with two homes is a client of both.
func TestSpread(t *testing.T) {
	bubble(t, 3, func(t *testing.T, _ *network, gws []*fakeGateway) {
		key := group.Key{Topic: "t", Group: "g"}
		for gws[0].view.among(key, 2) {
			key.Group += "g"
		}
		ask := stream(key)
		ask.Prefetch = 7
		s := open(t, gws[0].Router, ask)
		a, b := gws[1].hub.last(t), gws[2].hub.last(t)
		if a.ask.Prefetch != 4 || b.ask.Prefetch != 4 || len(gws[0].hub.opened) > 0 {
			t.Errorf("opened with %+v and %+v", a.ask, b.ask)
		}
		for i, far := range []*fakeSession{a, b, a} {
			batch := delivered(int64(i))
			batch.Deliveries[0].Ref.Partition = int32(i % 2)
			far.come <- batchOr{Batch: batch}
			got := get(t, s, 5)
			if !slices.Equal(offsets(got), []int64{int64(i)}) {
				t.Errorf("got %v", offsets(got))
			}
			if err := errors.Join(s.Settle(verbs(group.Ack, got...)...)...); err != nil {
				t.Error(err)
			}
		}
		if len(a.verbs()) != 2 || len(b.verbs()) != 1 {
			t.Errorf("the homes were told of %v and %v", a.verbs(), b.verbs())
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := over(t, s); !errors.Is(err, errs.UnknownTopic) {
				t.Error(err)
			}
		})
		b.come <- batchOr{err: errs.UnknownTopic}
		wg.Wait()
		s.Close()
		synctest.Wait()
		if n := len(gws[1].hub.sessions()) + len(gws[2].hub.sessions()); n != 0 {
			t.Errorf("%d sessions are open", n)
		}
	}, two)
}

// One home that refuses makes Open fail, and the session at the other is closed.
func TestSpreadRefused(t *testing.T) {
	bubble(t, 2, func(t *testing.T, _ *network, gws []*fakeGateway) {
		gws[1].hub.refuses(errs.Conflict)
		if _, err := gws[0].Open(t.Context(), stream(group.Key{Topic: "t", Group: "g"})); !errors.Is(err, errs.Conflict) {
			t.Error(err)
		}
		if n := len(gws[0].hub.sessions()); n != 0 {
			t.Errorf("%d sessions are open", n)
		}
	}, two)
}

// Whoever holds the partition answers for it; nobody waits for the other home, unless the answer is no.
func TestSettleAtSeveralHomes(t *testing.T) {
	bubble(t, 3, func(t *testing.T, _ *network, gws []*fakeGateway) {
		key := group.Key{Topic: "t", Group: "g"}
		for gws[0].view.among(key, 2) {
			key.Group += "g"
		}
		gws[1].hub.hold(0)
		gws[2].hub.hold(1)
		for _, c := range []struct {
			partitions []int32
			fenced     []bool
			takes      time.Duration
		}{
			{[]int32{0}, []bool{false}, 0},
			{[]int32{1}, []bool{false}, 0},
			{[]int32{1, 0, 1}, []bool{false, false, false}, settleTime},
			{[]int32{2, 1}, []bool{true, false}, settleTime},
		} {
			var list []group.Verb
			for _, p := range c.partitions {
				list = append(list, group.Verb{Ref: group.Ref{Partition: p}})
			}
			began := time.Now()
			out := gws[0].Settle(t.Context(), key, list...)
			if took := time.Since(began); took != c.takes {
				t.Errorf("%v took %v", c.partitions, took)
			}
			for i, err := range out {
				if errors.Is(err, errs.Fenced) != c.fenced[i] || !c.fenced[i] && err != nil {
					t.Errorf("%v: verb %d: %v", c.partitions, i, err)
				}
			}
		}
		synctest.Wait() // who was not waited for has given up
		for _, g := range gws {
			for in := range g.inbound {
				if n := in.calling.Load(); n != 0 {
					t.Errorf("%d calls are under way", n)
				}
			}
		}
	}, two)
}

func TestBetterAnswers(t *testing.T) {
	fenced, conflict, away := fmt.Errorf("x: %w", errs.Fenced), fmt.Errorf("x: %w", errs.Conflict), fmt.Errorf("x: %w", errs.Unavailable)
	for _, c := range [][3]error{
		{nil, fenced, nil}, {fenced, nil, nil}, {conflict, nil, nil}, {away, nil, nil},
		{fenced, conflict, conflict}, {away, conflict, conflict}, {fenced, away, away}, {away, fenced, away},
	} {
		if got := better([]error{c[0]}, []error{c[1]}); got[0] != c[2] {
			t.Errorf("of %v and %v it is %v", c[0], c[1], got[0])
		}
	}
}
