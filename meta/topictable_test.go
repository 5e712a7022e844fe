package meta

import (
	"fmt"
	"maps"
	"testing"

	"pgregory.net/rapid"
)

// A table of topics that was edited any number of times finds what a plain map would, and its older versions stay as they were.
func TestTopicTable(t *testing.T) {
	type version struct {
		table topicTable
		want  map[Topic]*TopicRecord
	}
	name := rapid.Custom(func(t *rapid.T) Topic {
		// Few names, so that they meet again, and many to a page, so that pages grow.
		return Topic{fmt.Sprint("a", rapid.IntRange(0, 3).Draw(t, "app")), fmt.Sprint("t", rapid.IntRange(0, 2000).Draw(t, "topic")), fmt.Sprint("v", rapid.IntRange(0, 2).Draw(t, "ver"))}
	})
	rapid.Check(t, func(t *rapid.T) {
		now := version{newSnapshot().topics, map[Topic]*TopicRecord{}}
		history := []version{now}
		for range rapid.IntRange(1, 8).Draw(t, "edits") {
			next := version{want: maps.Clone(now.want)}
			e := now.table.edit()
			for _, n := range rapid.SliceOfN(name, 0, 200).Draw(t, "sets") {
				r := &TopicRecord{App: n.App, Name: n.Name, Ver: n.Ver}
				e.set(r)
				next.want[n] = r
			}
			for _, n := range rapid.SliceOfN(name, 0, 200).Draw(t, "removes") {
				e.remove(n)
				delete(next.want, n)
			}
			next.table = e.topicTable
			now = next
			history = append(history, now)
		}
		for i, v := range history {
			for n := range history[len(history)-1].want {
				if v.table.get(n) != v.want[n] {
					t.Fatalf("version %d: %s is %v; want %v", i, n, v.table.get(n), v.want[n])
				}
			}
			for n, r := range v.want {
				if v.table.get(n) != r {
					t.Fatalf("version %d: %s is %v; want %v", i, n, v.table.get(n), r)
				}
			}
		}
	})
}

// Names whose parts are cut elsewhere are other names.
func TestTopicTableTellsNamesApart(t *testing.T) {
	table := newSnapshot().topics
	e := table.edit()
	e.set(&TopicRecord{App: "ab", Name: "c", Ver: "v1"})
	for _, other := range []Topic{{"a", "bc", "v1"}, {"c", "ab", "v1"}, {"ab", "c", "v2"}, {"ab", "c", ""}, {}} {
		if r := e.get(other); r != nil {
			t.Errorf("%s finds %s", other, r.Topic())
		}
	}
	if e.get(Topic{"ab", "c", "v1"}) == nil || table.get(Topic{"ab", "c", "v1"}) != nil {
		t.Error("not found, or found in what was before")
	}
}

func TestGatheredNames(t *testing.T) {
	r := &TopicRecord{App: "shop", Name: "orders", Ver: "v1"}
	r.gather()
	if r.Topic() != (Topic{"shop", "orders", "v1"}) || r.Place() != "shop.orders.v1" {
		t.Errorf("%+v at %s", r.Topic(), r.Place())
	}
	r = &TopicRecord{App: "shop", Name: "orders", Ver: "v1", Cluster: "east"}
	if r.gather(); r.place != "east:shop.orders.v1" {
		t.Errorf("in another cluster at %s", r.place)
	}
}
