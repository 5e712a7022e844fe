package group

import (
	"cmp"
	"slices"
	"time"
)

// Info is this process's membership in a group. The zero value is none.
type Info struct {
	Mode       Mode            `json:"mode"` // "" while nobody subscribes
	Tags       []string        `json:"tags,omitempty"`
	Filter     string          `json:"filter,omitempty"`
	Clients    int             `json:"clients"`
	Partitions []PartitionInfo `json:"partitions"`       // held here, sorted
	Retry      []PartitionInfo `json:"retry,omitempty"`  // the same of the group's retry queue
	Moving     int             `json:"moving,omitempty"` // messages on their way to the retry and dead queues
}

// PartitionInfo is a partition that this process holds.
type PartitionInfo struct {
	Partition     int32         `json:"partition"`
	InFlight      int           `json:"in_flight"`      // delivered and not settled
	OldestUnacked time.Duration `json:"oldest_unacked"` // since the longest of them was delivered; 0 where there is none
}

// Info tells of the group here, and whether there is anything to tell: a membership or a client. Of one that is
// suspended, or joining, that is the number of its clients alone.
func (h *Hub) Info(key Key) (Info, bool) {
	h.mu.Lock()
	info := Info{Clients: h.clients[key]}
	s := h.slots[key]
	h.mu.Unlock()
	if s != nil && s.joined() {
		s.g.describe(&info, time.Now())
		return info, true
	}
	return info, info.Clients > 0
}

// Sessions is how many sessions are open.
func (h *Hub) Sessions() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.sessions
}

// describe fills in what the group knows.
func (g *group) describe(info *Info, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	info.Mode, info.Tags, info.Filter = g.ledger.settings.Mode, g.ledger.settings.Tags, g.ledger.settings.Filter
	info.Partitions = make([]PartitionInfo, 0, len(g.ledger.windows))
	for _, w := range g.ledger.windows {
		p := PartitionInfo{Partition: w.partition, InFlight: w.leased, OldestUnacked: w.oldestUnacked(now)}
		if w.retry {
			info.Retry = append(info.Retry, p)
			continue
		}
		info.Partitions = append(info.Partitions, p)
	}
	info.Moving = len(g.ledger.moves)
	byPartition := func(a, b PartitionInfo) int { return cmp.Compare(a.Partition, b.Partition) }
	slices.SortFunc(info.Partitions, byPartition)
	slices.SortFunc(info.Retry, byPartition)
}

// oldestUnacked is how long the message has been out that is so the longest; of one that was delivered in an earlier hold
// only the time since that ended is known.
func (w *window) oldestUnacked(at time.Time) time.Duration {
	var longest time.Duration
	for _, e := range w.entries {
		if e.state == leased {
			longest = max(longest, at.Sub(w.epoch)-e.since)
		}
	}
	return longest
}
