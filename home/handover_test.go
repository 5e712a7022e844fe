package home

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/httpx"
)

// A home that sends its clients away says what they hold, and the next home is told.
func TestHeldIsTold(t *testing.T) {
	for home, name := range map[string]string{"gw1": "from here to there", "gw2": "from there to here"} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 2, func(t *testing.T, _ *network, gws []*fakeGateway) {
				edge := gws[0]
				key := keyOf(edge.Router, home)
				s := open(t, edge.Router, stream(key))
				defer s.Close()
				old, next := gws[0], gws[1]
				if home == "gw2" {
					old, next = next, old
				}
				first := old.hub.last(t)
				held := []group.Ref{{Partition: 1, Offset: 7, Attempt: 2, Hold: 9}, {Retry: true, Offset: 1 << 40, Attempt: 1, Hold: 1 << 31}}
				first.held = held
				old.Leave()
				first.come <- batchOr{err: group.ErrMoved}
				go func() { _, _ = s.Next(t.Context(), 1) }()
				pass(time.Second)
				if got := next.hub.last(t).ask.Held; !slices.Equal(got, held) {
					t.Errorf("the next home is told of %v", got)
				}
				next.hub.last(t).come <- batchOr{Batch: delivered(1)}
				synctest.Wait()
			})
		})
	}
}

// A client that leaves between two homes gives back what it holds, at the next one.
func TestLeavingBetweenHomes(t *testing.T) {
	bubble(t, 2, func(t *testing.T, _ *network, gws []*fakeGateway) {
		edge, home := gws[0], gws[1]
		key := keyOf(edge.Router, "gw2")
		s := open(t, edge.Router, stream(key))
		held := []group.Ref{{Partition: 1, Offset: 7, Attempt: 2, Hold: 9}}
		home.hub.last(t).held = held
		edge.hub.refuses(errors.New("not now"))
		home.Leave()
		home.hub.last(t).come <- batchOr{err: group.ErrMoved}
		if err := over(t, s); err == nil {
			t.Error("it has another home")
		}
		s.Close()
		synctest.Wait()
		calls := edge.hub.asked()
		if len(calls) != 1 || len(calls[0].verbs) != 1 || calls[0].verbs[0] != (group.Verb{Ref: held[0], Op: group.Nack}) {
			t.Errorf("asked for %+v", calls)
		}
	})
}

// Verbs that a home did not take, since it had made its last commit, are brought to the next home.
func TestVerbsAfterTheLastCommit(t *testing.T) {
	bubble(t, 2, func(t *testing.T, _ *network, gws []*fakeGateway) {
		edge, home := gws[0], gws[1]
		key := keyOf(edge.Router, "gw2")
		s := open(t, edge.Router, stream(key))
		defer s.Close()
		home.hub.last(t).come <- batchOr{Batch: delivered(1)}
		list := get(t, s, 1)
		home.hub.last(t).fenced = group.ErrMoved
		home.Leave()
		synctest.Wait()
		if out := s.Settle(verbs(group.Ack, list...)...); out[0] != nil {
			t.Errorf("settled: %v", out[0])
		}
		if calls := edge.hub.asked(); len(calls) != 1 || calls[0].verbs[0].Ref != list[0].Ref {
			t.Errorf("asked for %+v", calls)
		}
	})
}

// A gateway whose group has just gone to another home takes no clients and no verbs of others who have not heard of it: it
// would be a member again. Who still asks after 2 s sees it differently for a reason.
func TestNotBackToTheOldHome(t *testing.T) {
	bubble(t, 3, func(t *testing.T, _ *network, gws []*fakeGateway) {
		edge, old := gws[0], gws[1]
		key := keyOf(edge.Router, "gw3")
		lag := instances("gw1", "gw2")
		edge.Update(lag)
		old.Update(lag)
		pass(2 * certainty)
		if edge.Home(key) != "gw2" {
			key = group.Key{}
			for key.Topic == "" || edge.Home(key) != "gw2" || gws[2].Home(key) != "gw3" {
				key = group.Key{Topic: key.Topic + "t", Group: "g"}
			}
		}
		old.hub.has(key)
		old.Update(instances("gw1", "gw2", "gw3"))
		synctest.Wait()
		if got := old.hub.evictions(); !slices.Contains(got, key) {
			t.Fatalf("evicted %v", got)
		}
		old.hub.has()
		opened := len(old.hub.opened)
		began := time.Now()
		if out := edge.Settle(t.Context(), key, group.Verb{Op: group.Ack}); out[0] != nil {
			t.Error(out[0])
		}
		if took := time.Since(began); took < otherView || took > otherView+longestRest {
			t.Errorf("the verb was taken after %v", took)
		}
		old.hub.has(key)
		old.evict(key)
		began = time.Now()
		s := open(t, edge.Router, stream(key))
		defer s.Close()
		if took := time.Since(began); took < otherView || len(old.hub.opened) != opened+1 {
			t.Errorf("the client was taken after %v", took)
		}
	})
}

// A gateway that stops joins no group for the sake of another's verbs.
func TestStoppingGatewayTakesNoVerbs(t *testing.T) {
	bubble(t, 2, func(t *testing.T, _ *network, gws []*fakeGateway) {
		edge, home := gws[0], gws[1]
		key := keyOf(edge.Router, "gw2")
		if out := edge.Settle(t.Context(), key, group.Verb{Op: group.Ack}); out[0] != nil || len(home.hub.asked()) != 1 {
			t.Fatalf("settled %v", out)
		}
		home.Leave()
		l, err := edge.link(t.Context(), "gw2")
		if err == nil {
			_, err = l.ask(t.Context(), frameCall, 0, 1, (&request{key: key, wait: time.Second, verbs: []group.Verb{{}}}).append)
		}
		if out := edge.Settle(t.Context(), key, group.Verb{Op: group.Ack}); out[0] != nil {
			t.Error(out[0])
		}
		if err != nil && !errors.Is(err, errs.Draining) {
			t.Error(err)
		}
		if len(home.hub.asked()) != 1 || len(edge.hub.asked()) != 1 {
			t.Errorf("asked there %d times, here %d times", len(home.hub.asked()), len(edge.hub.asked()))
		}
	})
}

// A gateway that says that it stops is no home from then on, for anything; one that is back is, over a new link.
func TestAwayAndBack(t *testing.T) {
	bubble(t, 2, func(t *testing.T, _ *network, gws []*fakeGateway) {
		edge, home := gws[0], gws[1]
		key := keyOf(edge.Router, "gw2")
		s := open(t, edge.Router, stream(key))
		defer s.Close()
		home.Leave()
		synctest.Wait()
		if edge.Home(key) != "gw1" {
			t.Error("it is still taken for a home")
		}
		again := New(Config{
			Self: "gw2", Hub: &fakeHub{here: map[group.Key]int{}}, Peers: home.cfg.Peers, Log: home.cfg.Log, Metrics: prometheus.NewRegistry(),
		})
		defer func() { _ = again.Close(t.Context()) }()
		home.cfg.Peers.(*network).routers["gw2"] = httpx.Wrap("link", again.Routes()[0].Handler, home.cfg.Log, nobody{})
		list := instances("gw1", "gw2")
		list[1].Started = time.Now()
		again.Update(list)
		edge.Update(list)
		synctest.Wait()
		if edge.Home(key) != "gw2" {
			t.Error("it is not a home again")
		}
		if out := edge.Settle(t.Context(), key, group.Verb{Op: group.Ack}); out[0] != nil || len(again.cfg.Hub.(*fakeHub).asked()) != 1 {
			t.Errorf("settled %v, at the old one", out)
		}
	})
}
