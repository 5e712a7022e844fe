package meta

import (
	"maps"
	"testing"

	"pgregory.net/rapid"
)

// An edit never shows in what it was made from, and a map that was edited any number of times equals a plain one.
func TestShardedMapIsPersistent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.IntRange(0, 3000)
		var now sharded[int, int]
		plain := map[int]int{}
		for round := range rapid.IntRange(1, 20).Draw(t, "rounds") {
			before, was := now, maps.Clone(plain)
			e := now.edit()
			for _, k := range rapid.SliceOfN(key, 0, 30).Draw(t, "sets") {
				e.set(k, round)
				plain[k] = round
			}
			for _, k := range rapid.SliceOfN(key, 0, 30).Draw(t, "removes") {
				e.remove(k)
				delete(plain, k)
			}
			now = e.done()
			same(t, &now, plain)
			same(t, &before, was)
		}
	})
}

func same(t *rapid.T, m *sharded[int, int], want map[int]int) {
	t.Helper()
	if got := maps.Collect(m.all()); m.count != len(want) || !maps.Equal(got, want) {
		t.Fatalf("has %d of %d: %v; want %v", m.count, len(got), got, want)
	}
	for k, v := range want {
		if got, ok := m.get(k); !ok || got != v {
			t.Fatalf("%d is %d, %v; want %d", k, got, ok, v)
		}
	}
}

func TestShardedMapWithoutAnything(t *testing.T) {
	var m sharded[string, int]
	if _, ok := m.get("a"); ok || m.count != 0 {
		t.Error("it has something")
	}
	e := m.edit()
	e.remove("a")
	if e.own != nil {
		t.Error("removing nothing copied something")
	}
	for range m.all() {
		t.Error("it lists something")
	}
}

func TestTally(t *testing.T) {
	var ta tally
	ta.add("a", 1)
	ta.add("a", 1)
	ta.add("b", 1)
	ta.add("a", -1)
	ta.add("b", -1)
	if m := maps.Collect(ta.all()); !maps.Equal(m, map[string]int{"a": 1}) {
		t.Errorf("%v", m)
	}
}
