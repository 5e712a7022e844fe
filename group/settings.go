package group

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/filter"
)

const (
	// keepSettings is how long a group's settings bind after the last one used it.
	keepSettings = 60 * time.Second
	// maxKept bounds the groups that have left and whose settings are remembered. Of more, any one may come with others at once.
	maxKept = 4096
)

// kept are settings that outlive a group's life.
type kept struct {
	Settings
	until time.Time
}

func (s *Settings) equal(o *Settings) bool {
	return s.Mode == o.Mode && s.Filter == o.Filter && slices.Equal(s.Tags, o.Tags)
}

// conflict is what a client is told that asks for others.
func (s *Settings) conflict() error {
	text := "mode " + string(s.Mode)
	if len(s.Tags) > 0 {
		text += ", tag " + strings.Join(s.Tags, ",")
	} else {
		text += ", no tag"
	}
	if s.Filter != "" {
		text += fmt.Sprintf(", filter %q", s.Filter)
	} else {
		text += ", no filter"
	}
	return fmt.Errorf("the group has %s: ask for the same, or come %v after the last client has gone and all is acked: %w", text, keepSettings, errs.Conflict)
}

// filter compiles what the client wants to see, or answers what the group's present life has compiled already.
func (h *Hub) filter(a *Ask) (*filter.Filter, error) {
	if len(a.Tags) == 0 && a.Filter == "" {
		return nil, nil
	}
	h.mu.Lock()
	s := h.slots[a.Key]
	h.mu.Unlock()
	if s != nil && s.joined() {
		if f := s.g.compiled(&a.Settings); f != nil {
			return f, nil
		}
	}
	return filter.Compile(a.Tags, a.Filter)
}

// compiled is the group's filter where it has these settings, else nil.
func (g *group) compiled(s *Settings) *filter.Filter {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.ledger.begun || !g.ledger.settings.equal(s) {
		return nil
	}
	return g.filter
}

// agree gives the group the client's settings, where it has none yet, or checks that they are the same. It answers nil as
// well where the group has just ended, so that its next life can have them. The caller holds the lock.
func (g *group) agree(s *Settings, f *filter.Filter, now time.Time) error {
	switch {
	case g.ledger.begun && g.ledger.settings.equal(s):
		return nil
	case g.ledger.begun && g.free(now):
		g.endLocked(errIdle)
		return nil
	case g.ledger.begun:
		return g.ledger.settings.conflict()
	case !g.bound.equal(s) && (now.Before(g.bound.until) || g.bound.Mode != "" && g.ledger.busy(now)):
		return g.bound.conflict()
	}
	match := f.Match
	if f == nil {
		match = nil
	}
	g.filter = f
	g.ledger.begin(*s, g.policy, match, now)
	g.look(g.ledger.nextDeadline(now))
	g.touched(now)
	return nil
}

// free reports whether nobody has used the group for so long that its settings no longer bind; the caller holds the lock.
func (g *group) free(now time.Time) bool {
	return len(g.seats) == 0 && !g.idle.IsZero() && !now.Before(g.idle.Add(keepSettings)) && !g.ledger.busy(now)
}

// binding is what the next life of the group is bound by, at the end of this one; the caller holds the lock.
func (g *group) binding(now time.Time) kept {
	if !g.ledger.begun {
		return g.bound
	}
	used := now
	if !g.idle.IsZero() {
		used = g.idle
	}
	return kept{g.ledger.settings, used.Add(keepSettings)}
}

// keep remembers the settings of a group that has left; the caller holds the lock.
func (h *Hub) keep(key Key, k kept, now time.Time) {
	delete(h.kept, key)
	if !now.Before(k.until) {
		return
	}
	if len(h.kept) >= maxKept {
		h.forget(now)
	}
	h.kept[key] = k
}

// forget makes room in kept.
func (h *Hub) forget(now time.Time) {
	for key, k := range h.kept {
		if !now.Before(k.until) {
			delete(h.kept, key)
		}
	}
	for key := range h.kept {
		if len(h.kept) < maxKept {
			break
		}
		delete(h.kept, key)
	}
}
