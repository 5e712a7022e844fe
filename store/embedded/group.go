package embedded

import (
	"fmt"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// handOver is how long a member that is to lose a partition may take to let it go.
const handOver = 5 * time.Second

// group is a consumer group of one topic that has members, or positions not yet written.
type group struct {
	topic *topic
	name  string
	users int // who needs it in memory; guarded by topic.mu

	mu      sync.Mutex // guards what follows
	members []*Feed    // in the order of joining
	shares  []share    // by partition
	version uint64     // of members and shares' heirs, so that a Poll need not look at each share
	queued  bool       // it is among Store.dirty
	unsure  bool       // positions were written but not synced
}

// share is a partition as its group sees it.
type share struct {
	position store.Position
	known    bool      // there is a position
	dirty    bool      // it is not yet written
	owner    *Feed     // may commit; nil = free
	heir     *Feed     // is to own it
	due      time.Time // when an owner that is not the heir loses it at the latest
}

// rebalance makes each member heir of as many partitions as any other, give or take one, and moves as few as it can.
// Caller holds g.mu.
func (g *group) rebalance(now time.Time) {
	g.version++
	g.assign()
	for i := range g.shares {
		sh := &g.shares[i]
		switch {
		case sh.owner == nil || sh.owner == sh.heir:
			sh.due = time.Time{}
		case !slices.Contains(g.members, sh.owner):
			sh.owner, sh.due = nil, time.Time{}
		case sh.due.IsZero():
			sh.due = now.Add(handOver)
		}
	}
	g.nudge()
}

// assign sets the heirs.
func (g *group) assign() {
	if len(g.members) == 0 {
		for i := range g.shares {
			g.shares[i].heir = nil
		}
		return
	}
	least, more := len(g.shares)/len(g.members), len(g.shares)%len(g.members) // so many get one more
	has := map[*Feed]int{}
	take := func(f *Feed) bool {
		switch {
		case has[f] < least:
		case has[f] == least && more > 0:
			more--
		default:
			return false
		}
		has[f]++
		return true
	}
	for i := range g.shares {
		if h := g.shares[i].heir; h != nil && (!slices.Contains(g.members, h) || !take(h)) {
			g.shares[i].heir = nil
		}
	}
	for i := range g.shares {
		if g.shares[i].heir == nil {
			g.shares[i].heir = g.members[slices.IndexFunc(g.members, take)]
		}
	}
}

// nudge wakes all members. Caller holds g.mu.
func (g *group) nudge() {
	for _, f := range g.members {
		f.wake.nudge()
	}
}

// grow adds shares for new partitions. With members, they get a position at once. Caller holds g.mu.
func (g *group) grow(positioned bool) {
	parts := *g.topic.parts.Load()
	for i := len(g.shares); i < len(parts); i++ {
		sh := share{position: store.Position{Partition: int32(i)}}
		if positioned {
			start, _ := parts[i].bounds()
			sh.position.Next, sh.known, sh.dirty = start.offset, true, true
		}
		g.shares = append(g.shares, sh)
	}
}

// begin gives positions to the shares that have none: those of start where no share has one, else the oldest.
// Caller holds g.mu.
func (g *group) begin(oldest, start []store.Position) {
	from := oldest
	if !slices.ContainsFunc(g.shares, func(sh share) bool { return sh.known }) {
		from = start
	}
	for i := range g.shares {
		sh := &g.shares[i]
		if sh.known {
			continue
		}
		sh.known, sh.dirty = true, true
		if i < len(from) { // else the partition has come since, and is empty
			sh.position = from[i]
		}
	}
}

// held finds the share of a partition that f owns. Caller holds g.mu.
func (g *group) held(f *Feed, p int32) (*share, error) {
	if p < 0 || int(p) >= len(g.shares) || g.shares[p].owner != f {
		return nil, fmt.Errorf("topic %q, group %q: partition %d is not held: %w", g.topic.name, g.name, p, errs.Fenced)
	}
	return &g.shares[p], nil
}

// checkPosition says what is wrong with a position.
func checkPosition(p store.Position) error {
	switch {
	case len(p.Beyond) > store.MaxBeyond:
		return fmt.Errorf("partition %d: %d bytes beside the position, the limit is %d: %w", p.Partition, len(p.Beyond), store.MaxBeyond, errs.TooLarge)
	case !utf8.ValidString(p.Beyond):
		return fmt.Errorf("partition %d: what is beside the position is not UTF-8: %w", p.Partition, errs.InvalidParam)
	}
	return nil
}
