package quota

import (
	"cmp"
	"context"
	"math"
	"slices"
	"sync"
	"time"
)

// Several gateways split the rates of each app. Once a second each tells all others what its clients ask of each app, as a
// part of the limit, and which share of the limit it holds; it has the same in answer. From this each computes the same
// split: by demand, with at least floor for each. A gateway whose share becomes less lets go at once, also when it is
// asked; one whose share becomes more takes only what the others were seen to have let go, so that for a moment there is
// less than all, rather than more. A gateway that is not heard of for a while is none. Shares are of what comes: tokens
// that were saved up do not move.
const (
	roundGap  = time.Second
	roundTime = 600 * time.Millisecond  // how long others may take to answer
	silence   = 1750 * time.Millisecond // after which a gateway counts no more: noticed before 3 s have gone
	floor     = 0.05                    // of at most ten gateways; more of them share a half
	minDemand = 0.001                   // of a limit; who asks for less is not worth telling
)

// claim is what a gateway tells of an app.
type claim struct {
	demand float64 // of the limit, in the last second, refused or not
	share  float64 // that it holds
	counts counts
}

// report is what a gateway told last.
type report struct {
	at   int64
	apps map[string]claim
}

// fleet is what is known of the other gateways.
type fleet struct {
	mu      sync.Mutex
	reports map[string]*report // by gateway
	active  []*meter           // that are told of
	last    int64              // when the demand was taken
}

// floorOf is what each of n gateways has at least.
func floorOf(n int) float64 { return min(floor, 1/float64(2*n)) }

// split is which share of a limit is ours, by our demand and what others claim. Who asks for little holds what he asks for,
// and may take floor at once; all that is not held goes to the others by their demand.
func split(mine float64, others []claim) float64 {
	n := len(others) + 1
	if n == 1 {
		return 1
	}
	least, total := floorOf(n), mine
	for i := range others {
		total += others[i].demand
	}
	if total == 0 {
		return 1 / float64(n)
	}
	little := func(demand float64) bool { return demand < least*total }
	if little(mine) {
		return least
	}
	rest, busy := 1.0, mine
	for i := range others {
		if d := others[i].demand; little(d) {
			rest -= min(d, least)
		} else {
			busy += d
		}
	}
	room := 1.0
	for i := range others {
		switch c := &others[i]; {
		case little(c.demand) && c.share <= least*1.001: // what it said has few digits
			room -= min(c.demand, least)
		case little(c.demand):
			room -= c.share
		default:
			room -= max(c.share, rest*c.demand/busy)
		}
	}
	return max(least, min(rest*mine/busy, room))
}

// share is what a new meter of the app begins with.
func (f *fleet) share(app string) float64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	var buf [8]claim
	return split(0, f.claims(app, buf[:0]))
}

// size is how many gateways there are.
func (f *fleet) size() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return 1 + len(f.reports)
}

// claims are those of the other gateways. One that did not tell of the app asks for nothing.
func (f *fleet) claims(app string, into []claim) []claim {
	for _, r := range f.reports {
		into = append(into, r.apps[app])
	}
	return into
}

// Run exchanges demand with the other gateways, and forgets who has not come for a while, until ctx ends.
func (p *Plugin) Run(ctx context.Context) {
	t := time.NewTicker(roundGap)
	defer t.Stop()
	swept := p.now()
	for {
		p.round(ctx)
		if now := p.now(); now-swept >= int64(sweepGap) {
			swept = now
			p.sweep(now)
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

func (p *Plugin) sweep(now int64) {
	p.apps.sweep(now)
	p.keys.sweep(now)
	p.topics.sweep(now)
	p.addresses.sweep(now)
}

// round is one exchange.
func (p *Plugin) round(ctx context.Context) {
	ask := p.takeDemand()
	ctx, cancel := context.WithTimeout(ctx, roundTime)
	answers := p.others(ctx, ask)
	cancel()
	f := &p.fleet
	f.mu.Lock()
	defer f.mu.Unlock()
	now := p.now()
	for id, answer := range answers {
		apps, err := decode(answer)
		if err != nil {
			p.log.Debug("another gateway's demand is not understood", "gateway", id, "error", err)
			continue
		}
		f.reports[id] = &report{now, apps}
	}
	f.forget(now)
	p.apps.each(func(_ string, m *meter) { p.reshare(m, now) })
}

// takeDemand notes what was asked since the last time, and answers what to tell of it.
func (p *Plugin) takeDemand() []byte {
	f := &p.fleet
	f.mu.Lock()
	defer f.mu.Unlock()
	now := p.now()
	passed := float64(now-f.last) / float64(time.Second)
	f.last = now
	clear(f.active)
	f.active = f.active[:0]
	p.apps.each(func(_ string, m *meter) {
		m.takeDemand(max(passed, 0.1))
		if m.demand >= minDemand || m.counts != (counts{}) {
			f.active = append(f.active, m)
		}
	})
	return f.tell()
}

// takeDemand makes a part of the limit of what was asked in so many seconds.
func (m *meter) takeDemand(passed float64) {
	m.demand = 0
	for i, rate := range m.bounds.rate {
		if rate > 0 {
			m.demand = max(m.demand, m.asked[i]/(rate*passed))
		}
	}
	m.asked = [rates]float64{}
}

// forget drops gateways that were not heard of for too long.
func (f *fleet) forget(now int64) {
	for id, r := range f.reports {
		if now-r.at > int64(silence) {
			delete(f.reports, id)
		}
	}
}

// reshare takes what others claim into account. The meter is locked.
func (p *Plugin) reshare(m *meter, now int64) {
	var buf [8]claim
	others := p.fleet.claims(m.name, buf[:0])
	m.others = counts{}
	for i := range others {
		c := &others[i].counts
		m.others = counts{m.others.calls + c.calls, m.others.streams + c.streams, m.others.bytes + c.bytes}
	}
	if share := split(m.demand, others); math.Abs(share-m.share) > 1e-6 {
		m.setShare(share, now)
	}
}

// Answer hears what another gateway tells, and tells it the same of here.
func (p *Plugin) Answer(_ context.Context, from string, ask []byte) ([]byte, error) {
	apps, err := decode(ask)
	if err != nil {
		return nil, err
	}
	f := &p.fleet
	f.mu.Lock()
	defer f.mu.Unlock()
	now := p.now()
	f.reports[from] = &report{now, apps}
	for name := range apps {
		if m := p.apps.get(name); m != nil {
			m.mu.Lock()
			p.reshare(m, now)
			m.mu.Unlock()
		}
	}
	return f.tell(), nil
}

// tell is what others are told: of the apps that most is asked of, where there is no room for all.
func (f *fleet) tell() []byte {
	list := make([]told, len(f.active))
	for i, m := range f.active {
		m.mu.Lock()
		list[i] = told{m.name, claim{m.demand, m.share, m.counts}}
		m.mu.Unlock()
	}
	report := encode(list, 2*maxReport)
	if len(report) <= maxReport {
		return report
	}
	slices.SortFunc(list, func(a, b told) int { return cmp.Compare(b.demand, a.demand) })
	return encode(list, maxReport)
}
