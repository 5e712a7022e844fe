package gk

import (
	"cmp"
	"context"
	"encoding/json"
	"iter"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

// cluster looks at all gateways that the registry lists.
func (d *diagnosis) cluster(ctx context.Context) {
	list, err := d.instances(ctx)
	if err != nil {
		d.failed("gateways", err)
		return
	}
	d.listed(ctx, list)
	d.versions(list)
	d.addresses(list)
	d.skew(d.reach(ctx, list))
	_, silent, err := d.uses(ctx)
	if err != nil {
		d.failed("peers", err)
		return
	}
	for _, id := range silent {
		d.find(levelFail, "peers", "can the gateways reach each other's --peer address, and have they the same secret or authority? Their logs tell of refused handshakes",
			"%s did not answer the gateway that we ask", id)
	}
	if len(silent) == 0 && len(list) > 1 {
		d.ok("peers", "all gateways answer the one that we ask")
	}
}

// listed looks for the gateway that we ask among those that live.
func (d *diagnosis) listed(ctx context.Context, list []instance) {
	self := d.self(ctx)
	if self.ID == "" {
		return // told by status
	}
	if !slices.ContainsFunc(list, func(g instance) bool { return g.ID == self.ID }) {
		d.find(levelFail, "gateways", "it announces itself again when ZooKeeper is back; if ZooKeeper is there, see the gateway's log",
			"%s is not on the list of gateways: the others do not know that it lives", self.ID)
		return
	}
	d.ok("gateways", "%d listed, %s among them", len(list), self.ID)
}

func (d *diagnosis) versions(list []instance) {
	by := map[string][]string{}
	for _, g := range list {
		by[g.Version] = append(by[g.Version], g.ID)
	}
	if len(by) < 2 {
		return
	}
	var text []string
	for _, v := range slices.Sorted(maps.Keys(by)) {
		text = append(text, v+" ("+strings.Join(by[v], ", ")+")")
	}
	d.find(levelWarn, "versions", "finish the upgrade: gateways of different versions are meant for the time of it only", "gateways run %s", strings.Join(text, " and "))
}

// addresses looks for those that other machines can't reach.
func (d *diagnosis) addresses(list []instance) {
	hosts := map[string]bool{}
	for _, g := range list {
		hosts[g.Host] = true
	}
	for _, g := range list {
		if len(list) > 1 && g.Peer == "" {
			d.find(levelWarn, "peers", "give it --peer, so that clients, seeks and new settings reach it", "%s has no peer address, and there are other gateways", g.ID)
		}
		if len(hosts) < 2 {
			continue
		}
		for _, role := range []struct{ name, address string }{{"pub", g.Pub}, {"peer", g.Peer}} {
			if host, _, err := net.SplitHostPort(role.address); err == nil && isLoopback(host) {
				d.find(levelWarn, "addresses", "let --"+role.name+" listen on an address of its network",
					"%s tells other machines to find its %s at %s", g.ID, role.name, role.address)
			}
		}
	}
}

// reach asks each gateway's roles how they are, a few at a time, and answers how far each clock is from ours.
func (d *diagnosis) reach(ctx context.Context, list []instance) map[string]time.Duration {
	visits := make([]visit, len(list))
	var wg sync.WaitGroup
	turn := make(chan struct{}, atOnce)
	for i, g := range list {
		wg.Go(func() {
			turn <- struct{}{}
			defer func() { <-turn }()
			v := visit{diagnosis: diagnosis{doctor: d.doctor, tool: d.tool}}
			v.look(ctx, g)
			visits[i] = v
		})
	}
	wg.Wait()
	clocks := map[string]time.Duration{}
	for i, v := range visits {
		d.findings = append(d.findings, v.findings...)
		if v.known {
			clocks[list[i].ID] = v.offset
		}
	}
	return clocks
}

// visit is a look at one gateway from here.
type visit struct {
	diagnosis
	offset time.Duration // how far its clock is from ours
	known  bool          // it told
}

func (d *visit) look(ctx context.Context, g instance) {
	good := 0
	for _, role := range []struct{ name, address string }{{"man", g.Man}, {"pub", g.Pub}, {"sub", g.Sub}} {
		if role.address == "" || role.name == "sub" && g.Sub == g.Pub {
			continue
		}
		c, err := newClient(role.name, d.scheme()+"://"+role.address, d.transport, probeTime)
		if err != nil {
			d.failed("reach", err)
			continue
		}
		asked := time.Now()
		r, err := ready(ctx, c, strings.TrimPrefix(role.name, "man"))
		if err != nil {
			d.find(levelFail, "reach", "is the address right (--advertise), and does a firewall let this machine through?", "%s: its %s address: %v", g.ID, role.name, err)
			continue
		}
		good++
		d.parts("reach", g.ID+" as "+role.name, r)
		if !r.date.IsZero() {
			// The header is cut to the second: on average it is half a second behind.
			d.offset, d.known = r.date.Add(time.Second/2).Sub(asked.Add(time.Since(asked)/2)), true
		}
	}
	good += d.knock(ctx, g)
	if good > 0 {
		d.ok("reach", "%s: %d addresses answer", g.ID, good)
	}
}

// knock looks whether the peer address takes connections; only another gateway may speak there.
func (d *visit) knock(ctx context.Context, g instance) int {
	if g.Peer == "" {
		return 0
	}
	conn, err := (&net.Dialer{Timeout: probeTime}).DialContext(ctx, "tcp", g.Peer)
	if err != nil {
		d.find(levelWarn, "reach", "if the other gateways reach it, nothing: it need not be reached from here", "%s: its peer address: %v", g.ID, err)
		return 0
	}
	_ = conn.Close()
	return 1
}

// skew compares the clocks.
func (d *diagnosis) skew(clocks map[string]time.Duration) {
	if len(clocks) == 0 {
		return
	}
	const advice = "run an NTP client on every machine: expiry of keys and leases goes by these clocks"
	ids := slices.SortedFunc(maps.Keys(clocks), func(a, b string) int {
		return cmp.Or(cmp.Compare(clocks[a], clocks[b]), strings.Compare(a, b))
	})
	first, last := ids[0], ids[len(ids)-1]
	if between := clocks[last] - clocks[first]; between > maxSkew {
		d.find(levelWarn, "clocks", advice, "the clocks of %s and %s are %v apart", first, last, between.Round(time.Second))
		return
	}
	if ours := clocks[first]; ours.Abs() > maxSkew {
		d.find(levelWarn, "clocks", advice, "this machine's clock and that of %s are %v apart", first, ours.Abs().Round(time.Second))
		return
	}
	d.ok("clocks", "this machine and %d gateway(s) agree to about a second", len(ids))
}

// clusterList yields the Kafka clusters.
func (d *diagnosis) clusterList(ctx context.Context) iter.Seq2[clusterInfo, error] {
	return func(yield func(clusterInfo, error) bool) {
		for raw, err := range d.items(ctx, clustersPath, nil) {
			var c clusterInfo
			if err == nil {
				err = json.Unmarshal(raw, &c)
			}
			if !yield(c, err) {
				return
			}
		}
	}
}
