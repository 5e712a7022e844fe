package test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// One of two gateways is replaced again and again: it never leaves the registry, no request at either fails, and each message
// comes to each group once, whichever of the two is the group's home.
func TestSwapAmongGateways(t *testing.T) {
	n, _ := swaps()
	f := newFleet(t, "--log-level", "info")
	other := f.start("gw2")
	l := launchLine(t, f.args("gw1")...)
	waitFor(t, "both to be listed", func() bool { return f.listed() == "gw1 gw2" || f.listed() == "gw2 gw1" })
	at := func(g *gateway) *patrons {
		return &patrons{t: t, base: g.pub, addr: strings.TrimPrefix(g.pub, "http://"), app: f.app, stored: map[string]bool{}}
	}
	here, there := at(l.gateway), at(other)
	there.last.Store(50_000_000)
	ctx, end := context.WithCancel(t.Context())
	defer end()
	reading, enough := context.WithCancel(t.Context())
	defer enough()
	var publishers, subscribers sync.WaitGroup
	for _, c := range []*patrons{here, there} {
		publishers.Go(func() { c.raw(ctx, "keep-alive", false, 1, slowly(c.plain)) })
		publishers.Go(func() { c.raw(ctx, "new connection", true, 1, slowly(c.plain)) })
		publishers.Go(func() { c.http(ctx, true) })
	}
	for _, name := range []string{"one", "two", "three", "four"} {
		g := here.group(name)
		subscribers.Go(func() { here.poll(reading, g) })
		h := there.group(name + "-there")
		subscribers.Go(func() { there.events(reading, h) })
	}
	waitFor(t, "load", func() bool { return here.served.Load() > 100 && there.served.Load() > 100 })
	away := make(chan int)
	watching, unwatch := context.WithCancel(t.Context())
	go func() {
		missing := 0
		for watching.Err() == nil {
			if ids := other.ids(); !strings.Contains(ids, "gw1") {
				missing++
			}
			select {
			case <-time.After(5 * time.Millisecond):
			case <-watching.Done():
			}
		}
		away <- missing
	}()
	for range n {
		old, before := l.pid(), here.served.Load()
		l.swap(t)
		waitFor(t, "load", func() bool { return here.served.Load() > before+100 })
		gone(t, old)
	}
	unwatch()
	if missing := <-away; missing > 0 {
		t.Errorf("the other gateway missed it in its list %d times", missing)
	}
	end()
	publishers.Wait()
	for v := range there.stored { // they are of one topic
		here.stored[v] = true
	}
	there.stored = here.stored
	here.verify(func() {})
	there.verify(enough)
	subscribers.Wait()
	slices.Sort(there.breaks)
	t.Logf("%d and %d requests over %d swaps; streams were back after %v", here.served.Load(), there.served.Load(), n, there.breaks)
}
