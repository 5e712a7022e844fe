package quota

import "time"

// names are things that are in use, or were a while ago, by their hash. How many there may be is up to the caller, who asks
// for room before.
type names struct{ all map[uint64]use }

type use struct {
	now  int   // uses under way
	last int64 // when the last one ended
}

// room reports whether name may be used where there are at most limit of them. Those that were not in use for longer than
// life make room.
func (n *names) room(name uint64, limit int, now int64, life time.Duration) bool {
	if name == 0 || len(n.all) < limit {
		return true
	}
	if _, known := n.all[name]; known {
		return true
	}
	n.empty(now, life)
	return len(n.all) < limit
}

func (n *names) use(name uint64, now int64) {
	if name == 0 {
		return
	}
	if n.all == nil {
		n.all = map[uint64]use{}
	}
	u := n.all[name]
	n.all[name] = use{u.now + 1, now}
}

func (n *names) done(name uint64, now int64) {
	if u, ok := n.all[name]; ok {
		n.all[name] = use{max(u.now-1, 0), now} // it may have begun before there was a limit
	}
}

// empty drops what was not in use for longer than life, and reports whether nothing is left.
func (n *names) empty(now int64, life time.Duration) bool {
	for name, u := range n.all {
		if u.now == 0 && now-u.last > int64(life) {
			delete(n.all, name)
		}
	}
	return len(n.all) == 0
}
