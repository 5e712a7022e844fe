package home

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/registry"
)

var start = time.Unix(1_000_000, 0)

func after(d time.Duration) time.Time { return start.Add(d) }

func instances(ids ...string) (list []registry.Instance) {
	for _, id := range ids {
		list = append(list, live(id))
	}
	return list
}

// steady is a view that has been certain of the list for a while.
func steady(t *testing.T, ids ...string) *view {
	t.Helper()
	v := newView("me", false, nil)
	v.update(instances(ids...), after(-time.Hour))
	return v
}

func (v *view) has(t *testing.T, want ...string) {
	t.Helper()
	if !slices.Equal(v.homes, want) {
		t.Errorf("homes %v, want %v", v.homes, want)
	}
}

func TestWhoCanBeHome(t *testing.T) {
	v := steady(t, "a", "me", "z")
	v.has(t, "a", "me", "z")
	list := append(instances("a", "me"), registry.Instance{ID: "pub", Peer: "x:1"}, registry.Instance{ID: "alone", Sub: "x:1"})
	came, changed, _ := v.update(list, start)
	if v.has(t, "a", "me"); !changed || len(came) > 0 {
		t.Errorf("changed %v, came %v", changed, came)
	}
	came, changed, _ = v.update(instances("a", "b", "me"), start)
	if v.has(t, "a", "b", "me"); !changed || !slices.Equal(came, []string{"b"}) {
		t.Errorf("changed %v, came %v", changed, came)
	}
	if _, changed, _ = v.update(instances("a", "b", "me"), start); changed {
		t.Error("an equal list is a change")
	}
}

// A list that can't be right leaves the last good one in place.
func TestListsThatAreNotBelieved(t *testing.T) {
	v := steady(t, "a", "me")
	for _, list := range [][]registry.Instance{nil, instances("a"), instances("b", "c")} {
		if _, changed, _ := v.update(list, start); changed {
			t.Errorf("%v changed something", list)
		}
		v.has(t, "a", "me")
	}
	if fresh := newView("me", false, nil); fresh.pick(group.Key{}, 0, nil) != "me" {
		t.Error("somebody else is home before anybody is known")
	}
}

// Who leaves while the registry is well is gone at once; who is missing after a reconnection is gone after 10 s.
func TestGone(t *testing.T) {
	v := steady(t, "a", "b", "me")
	v.update(instances("b", "me"), start)
	if v.has(t, "b", "me"); !v.gone("a", start) || v.gone("b", start) || v.gone("me", start) || !v.gone("never", start) {
		t.Error("leaving")
	}
	v.update(instances("b"), start) // our own session was lost
	_, changed, again := v.update(instances("me"), after(time.Second))
	if v.has(t, "b", "me"); changed || v.gone("b", after(time.Second)) || v.gone("never", after(time.Second)) || !again.Equal(after(11*time.Second)) {
		t.Errorf("after a reconnection: look again at %v", again)
	}
	_, changed, _ = v.look(after(11 * time.Second))
	if v.has(t, "me"); !changed || !v.gone("b", after(11*time.Second)) {
		t.Error("10 s after a reconnection")
	}
}

// Without a way to the others, nobody else is a home, and it is known all the same who lives.
func TestAlone(t *testing.T) {
	v := newView("me", true, nil)
	v.update(instances("a", "b", "me"), start)
	v.update(instances("a", "me"), after(time.Minute))
	if home := v.pick(group.Key{}, 0, nil); home != "me" || !v.gone("b", after(time.Minute)) || v.gone("a", after(time.Minute)) {
		t.Errorf("home is %s", home)
	}
}

func TestLateReturnOfAGhost(t *testing.T) {
	v := steady(t, "b", "me")
	v.update(nil, start)
	v.update(instances("me"), start)
	v.update(instances("b", "me"), after(9*time.Second))
	if _, changed, again := v.look(after(12 * time.Second)); changed || !again.IsZero() {
		t.Error("who was late only counts as missing")
	}
	v.has(t, "b", "me")
	if v.update(instances("me"), after(13*time.Second)); len(v.homes) != 1 {
		t.Error("leaving later")
	}
}

// A reconnection without a list that lacks us, as the owner of the connection tells of it.
func TestReconnected(t *testing.T) {
	var at time.Time
	v := newView("me", false, func() time.Time { return at })
	v.update(instances("a", "me"), after(-time.Hour))
	at = start
	v.update(instances("me"), after(time.Second))
	if v.has(t, "a", "me"); v.gone("a", after(2*time.Second)) || v.gone("never", after(2*time.Second)) {
		t.Error("right after a reconnection")
	}
}

func TestAbsent(t *testing.T) {
	v := steady(t, "a", "b", "me")
	if !v.miss("a") || v.miss("a") || v.miss("me") || v.miss("nobody") {
		t.Error("who can be missed")
	}
	v.has(t, "b", "me")
	v.back("a")
	v.has(t, "a", "b", "me")
	v.miss("a")
	v.update(instances("b", "me"), start)
	v.update(instances("a", "b", "me"), start)
	v.has(t, "a", "b", "me") // one that has come anew
	v.leave()
	v.has(t, "a", "b")
}

// One that comes or goes moves only its own groups, and all get their share.
func TestRendezvous(t *testing.T) {
	four, three := steady(t, "a", "b", "c", "me"), steady(t, "a", "c", "me")
	homes := map[string]int{}
	for i := range 4000 {
		key := group.Key{Topic: fmt.Sprint("topic", i%37), Group: fmt.Sprint("group", i)}
		home := four.pick(key, 0, nil)
		homes[home]++
		if left := three.pick(key, 0, nil); home != "b" && left != home {
			t.Fatalf("%v went from %s to %s", key, home, left)
		}
		if next := four.pick(key, 0, []string{home}); next != four.pick(key, 1, nil) || next == home {
			t.Fatalf("who comes next is %s", next)
		}
	}
	for id, n := range homes {
		if n < 850 || n > 1150 {
			t.Errorf("%s is home of %d", id, n)
		}
	}
}

// The rank is the same on all gateways and in all versions: it is part of the protocol.
func TestRankIsFixed(t *testing.T) {
	v := steady(t, "gw-1", "gw-2", "me")
	got := ""
	for i := range 8 {
		got += v.pick(group.Key{Topic: "shop.orders.v1", Group: fmt.Sprint("g", i)}, 0, nil) + " "
	}
	if want := "gw-1 gw-1 me gw-2 me gw-1 gw-1 gw-1 "; got != want {
		t.Errorf("%q", got)
	}
}

func TestAmong(t *testing.T) {
	v := steady(t, "a", "b", "me")
	key := group.Key{Topic: "t", Group: "g"}
	for v.pick(key, 1, nil) != "me" {
		key.Group += "g"
	}
	if v.among(key, 1) || !v.among(key, 2) {
		t.Error("the second home")
	}
	if alone := newView("me", false, nil); !alone.among(key, 1) {
		t.Error("alone")
	}
}

// Who stops and is back before we believed that it had gone, or without our noticing, is a home again at once: what could not be
// reached was its earlier self.
func TestStartedAnew(t *testing.T) {
	for name, missing := range map[string]bool{"missing for a moment": true, "not seen to be missing": false} {
		t.Run(name, func(t *testing.T) {
			v := newView("me", false, nil)
			v.update(instances("a", "me", "z"), start)
			v.miss("a")
			v.has(t, "me", "z")
			if missing {
				v.update(instances("me", "z"), after(time.Second))
				v.has(t, "me", "z")
			}
			list := instances("a", "me", "z")
			list[0].Started = after(2 * time.Second)
			came, changed, _ := v.update(list, after(3*time.Second))
			if v.has(t, "a", "me", "z"); !changed || !slices.Equal(came, []string{"a"}) {
				t.Errorf("changed %v, came %v", changed, came)
			}
			v.miss("a")
			if _, changed, _ = v.update(list, after(4*time.Second)); changed {
				t.Error("it is started anew once only")
			}
			v.has(t, "me", "z")
		})
	}
}
