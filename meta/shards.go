package meta

import (
	"hash/maphash"
	"iter"
	"maps"
	"slices"
)

// shardCount is how many maps a sharded map consists of: with 100,000 entries a change copies one map of a hundred and a
// list of 8 KiB, and a lookup costs one hash more than a plain map.
const shardCount = 1024

// sharded is a map that never changes. What is changed is an edit of it, which shares the shards that it did not touch. The
// zero value is empty.
type sharded[K comparable, V any] struct {
	seed   maphash.Seed
	shards []map[K]V // shardCount of them, nil where empty; no list at all where the map is empty
	count  int
}

func (m *sharded[K, V]) get(key K) (value V, ok bool) {
	if m.shards == nil {
		return value, false
	}
	value, ok = m.shards[shardOf(m.seed, key)][key]
	return value, ok
}

func (m *sharded[K, V]) all() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for _, shard := range m.shards {
			for k, v := range shard {
				if !yield(k, v) {
					return
				}
			}
		}
	}
}

func shardOf[K comparable](seed maphash.Seed, key K) uint64 {
	return maphash.Comparable(seed, key) % shardCount
}

// edit is a changed copy of a sharded map in the making. What it was made from stays as it is. It is one goroutine's.
type edit[K comparable, V any] struct {
	sharded[K, V]
	own []bool // shards that are ours already; nil until the first change
}

func (m *sharded[K, V]) edit() edit[K, V] { return edit[K, V]{sharded: *m} }

// shard is the key's shard, ours to write to.
func (e *edit[K, V]) shard(key K) map[K]V {
	if e.own == nil {
		e.own = make([]bool, shardCount)
		if e.shards == nil {
			e.seed, e.shards = maphash.MakeSeed(), make([]map[K]V, shardCount)
		} else {
			e.shards = slices.Clone(e.shards)
		}
	}
	i := shardOf(e.seed, key)
	switch {
	case e.own[i]:
	case e.shards[i] == nil:
		e.shards[i] = map[K]V{}
	default:
		e.shards[i] = maps.Clone(e.shards[i])
	}
	e.own[i] = true
	return e.shards[i]
}

func (e *edit[K, V]) set(key K, value V) {
	shard := e.shard(key)
	before := len(shard)
	shard[key] = value
	e.count += len(shard) - before
}

func (e *edit[K, V]) remove(key K) {
	if _, ok := e.get(key); !ok {
		return
	}
	shard := e.shard(key)
	delete(shard, key)
	e.count--
}

// done is the edited map. The edit must not be used after it.
func (e *edit[K, V]) done() sharded[K, V] { return e.sharded }

// tally counts by name: add(1) and add(-1) as things come and go.
type tally struct{ edit[string, int] }

func (t *tally) add(name string, n int) {
	was, _ := t.get(name)
	if was+n == 0 {
		t.remove(name)
		return
	}
	t.set(name, was+n)
}
