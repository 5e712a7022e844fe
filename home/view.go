package home

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"sync"
	"time"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/registry"
)

// certainty is how long after a (re)connection to the registry who is missing there may only not be listed again yet.
const certainty = 10 * time.Second

// view is who can be a home, as this gateway sees it: the list of the registry, with the doubts that one may have of it,
// less those that can't be reached.
type view struct {
	self        string
	alone       bool             // nobody else can be a home
	reconnected func() time.Time // never nil

	mu      sync.Mutex
	raw     []registry.Instance  // the last good list
	ids     []string             // those of them that can be a home, and ghosts; sorted
	homes   []string             // ids without the absent; never written to
	ghosts  map[string]time.Time // missing from raw, and until when they count all the same
	absent  map[string]bool      // can't be reached, or stop
	certain time.Time            // from when on the list is complete; zero: there was none yet
	leaving bool                 // we are nobody's home any more
}

func newView(self string, alone bool, reconnected func() time.Time) *view {
	if reconnected == nil {
		reconnected = func() time.Time { return time.Time{} }
	}
	return &view{self: self, alone: alone, reconnected: reconnected, ghosts: map[string]time.Time{}, absent: map[string]bool{}}
}

// update takes a list of the registry. It answers who has come and whether anybody has come or gone; and when to look
// again, with settle, because somebody is missing who may only be late. Zero: not.
func (v *view) update(list []registry.Instance, now time.Time) (came []string, changed bool, again time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !slices.ContainsFunc(list, func(i registry.Instance) bool { return i.ID == v.self }) {
		// Ours is missing, so that the registry has lost our session, and perhaps those of others.
		v.doubt(now)
		return nil, false, time.Time{}
	}
	if v.raw == nil {
		v.doubt(now)
	}
	v.doubt(v.reconnected())
	back := v.reborn(list)
	v.raw = list
	came, changed, again = v.settle(now)
	for _, id := range back {
		if !slices.Contains(came, id) {
			came, changed = append(came, id), true
		}
	}
	return came, changed, again
}

// reborn lists who is there anew though we have not taken it off the homes, or only since it could not be reached: it was
// missing for so short a time that we did not believe it, or was started again meanwhile. What we knew of its earlier self is
// forgotten, so that all gateways see it as a home from the same moment on.
func (v *view) reborn(list []registry.Instance) (back []string) {
	for _, i := range list {
		if i.ID == v.self {
			continue
		}
		_, ghost := v.ghosts[i.ID]
		anew := slices.ContainsFunc(v.raw, func(o registry.Instance) bool { return o.ID == i.ID && !o.Started.Equal(i.Started) })
		if _, known := slices.BinarySearch(v.ids, i.ID); known && (ghost || anew) {
			delete(v.absent, i.ID)
			back = append(back, i.ID)
		}
	}
	return back
}

// doubt says that something happened then after which the registry's list may not be complete for a while.
func (v *view) doubt(since time.Time) {
	if until := since.Add(certainty); !since.IsZero() && until.After(v.certain) {
		v.certain = until
	}
}

// look is update without a new list.
func (v *view) look(now time.Time) (came []string, changed bool, again time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.settle(now)
}

// settle makes ids of the last list; the caller holds the lock.
func (v *view) settle(now time.Time) (came []string, changed bool, again time.Time) {
	var ids []string
	for _, i := range v.raw {
		delete(v.ghosts, i.ID)
		if i.Sub != "" && i.Peer != "" && !v.alone {
			ids = append(ids, i.ID)
		}
	}
	for _, id := range v.ids {
		if slices.ContainsFunc(v.raw, func(i registry.Instance) bool { return i.ID == id }) {
			continue
		}
		until, ghost := v.ghosts[id]
		if !ghost && now.Before(v.certain) {
			until = now.Add(certainty)
			v.ghosts[id] = until
		}
		if !now.Before(until) {
			delete(v.ghosts, id)
			continue
		}
		ids = append(ids, id)
		if again.IsZero() || until.Before(again) {
			again = until
		}
	}
	slices.Sort(ids)
	for _, id := range ids {
		if _, known := slices.BinarySearch(v.ids, id); !known {
			came = append(came, id)
		}
	}
	changed = !slices.Equal(v.ids, ids)
	v.ids = ids
	for id := range v.absent {
		if _, there := slices.BinarySearch(ids, id); !there {
			delete(v.absent, id)
		}
	}
	v.choose()
	return came, changed, again
}

// choose makes homes; the caller holds the lock.
func (v *view) choose() {
	v.homes = slices.DeleteFunc(slices.Clone(v.ids), func(id string) bool { return v.absent[id] || v.leaving && id == v.self })
}

// miss takes a gateway off the homes; it reports whether it was one.
func (v *view) miss(id string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, there := slices.BinarySearch(v.homes, id); !there || id == v.self {
		return false
	}
	v.absent[id] = true
	v.choose()
	return true
}

// missing reports whether the gateway is off the homes, and would be one otherwise.
func (v *view) missing(id string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.absent[id]
}

// back puts it on again.
func (v *view) back(id string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.absent, id)
	v.choose()
}

// leave takes ourselves off the homes, for good.
func (v *view) leave() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.leaving = true
	v.choose()
}

// gone reports whether the registry is sure that the gateway does not live.
func (v *view) gone(id string, now time.Time) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.doubt(v.reconnected())
	if id == v.self || v.raw == nil || now.Before(v.certain) {
		return false
	}
	if _, ghost := v.ghosts[id]; ghost {
		return false
	}
	return !slices.ContainsFunc(v.raw, func(i registry.Instance) bool { return i.ID == id })
}

// count is how many can be a home.
func (v *view) count() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.homes)
}

// pick is the nth home of the group (the first is 0), of those that are not excepted; who ranks after the last is the first
// again. Ourselves where there is none.
func (v *view) pick(key group.Key, nth int, except []string) string {
	v.mu.Lock()
	homes := v.homes
	v.mu.Unlock()
	if len(except) > 0 {
		homes = slices.DeleteFunc(slices.Clone(homes), func(id string) bool { return slices.Contains(except, id) })
	}
	switch {
	case len(homes) == 0:
		return v.self
	case len(homes) == 1:
		return homes[0]
	case nth == 0:
		return slices.MaxFunc(homes, func(a, b string) int { return compare(a, b, key) })
	}
	homes = slices.Clone(homes)
	slices.SortFunc(homes, func(a, b string) int { return compare(b, a, key) })
	return homes[nth%len(homes)]
}

// among reports whether we are one of the first n homes of the group, or the only one there is.
func (v *view) among(key group.Key, n int) bool {
	for nth := range n {
		if v.pick(key, nth, nil) == v.self {
			return true
		}
	}
	return false
}

// compare orders gateways by how they rank for the group: by rendezvous hash, so that one that comes or goes moves only its
// own groups.
func compare(a, b string, key group.Key) int {
	x, y := weight(a, key), weight(b, key)
	return cmp.Or(bytes.Compare(x[:], y[:]), cmp.Compare(a, b))
}

// weight must be the same on all gateways, whatever their version.
func weight(id string, key group.Key) [sha256.Size]byte {
	var buf [256]byte
	b := buf[:0]
	for _, s := range []string{id, key.Topic, key.Group} {
		b = append(binary.AppendUvarint(b, uint64(len(s))), s...)
	}
	return sha256.Sum256(b)
}
