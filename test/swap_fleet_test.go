package test

import (
	"context"
	"fmt"
	"net/http"
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

// What clients hold un-acked at another gateway, of groups whose home is replaced, stays theirs: nobody else gets it, and they
// may ack it afterwards. Their streams go on.
func TestSwapKeepsWhatClientsHold(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "--log-level", "info")
	other := f.start("gw2")
	l := launchLine(t, f.args("gw1")...)
	waitFor(t, "both to be listed", func() bool { return other.ids() == "gw1 gw2" })
	edge := other.client(f.app)
	type client struct {
		topic string
		*stream
		held []message
	}
	var clients []client
	const query = "&ack=explicit&lease=10m&mode=queue"
	for i := 0; len(clients) < 3; i++ {
		c := client{topic: fmt.Sprint("t", i)}
		for _, v := range []string{"0", "1", "2"} {
			edge.publish(c.topic, "k", v)
		}
		c.stream = edge.stream(c.topic, query)
		for range 3 {
			c.held = append(c.held, c.next())
		}
		if homeOf(other, f.app, c.topic) == "gw1" {
			clients = append(clients, c)
		}
	}
	for n := range 2 {
		old := l.pid()
		l.swap(t)
		gone(t, old)
		for _, c := range clients {
			edge.publish(c.topic, "k", fmt.Sprint("after swap ", n))
			if m := c.next(); m.text() != fmt.Sprint("after swap ", n) || m.Attempt != 1 {
				t.Errorf("%s: the stream brings %q, attempt %d", c.topic, m.text(), m.Attempt)
			} else if a := edge.settle(c.topic, "ack", m); a.StatusCode != http.StatusOK {
				t.Errorf("%s: acking it: %s", c.topic, a)
			}
			if home := homeOf(other, f.app, c.topic); home != "gw1" {
				t.Logf("%s: its home is %q for a while: the new process could not be reached at once", c.topic, home)
			}
		}
	}
	rival := l.client(f.app)
	for _, c := range clients {
		if got := rival.poll(c.topic, query+"&batch=10&wait=100ms"); len(got) > 0 {
			t.Errorf("%s: another client gets %+v", c.topic, got)
		}
		if a := edge.settle(c.topic, "ack", c.held...); a.StatusCode != http.StatusOK || strings.Contains(string(a.body), "fenced") {
			t.Errorf("%s: acking what is held: %s", c.topic, a)
		}
	}
}

// homeOf is the gateway that is a member of group g of the topic.
func homeOf(g *gateway, app, topic string) string {
	a := g.manager().want(http.StatusOK, "GET", "/v1/groups/"+app+"/"+topic+"/v1/g", nil)
	v := decode[struct {
		Members []struct{ Gateway string }
	}](g.t, a.body)
	if len(v.Members) != 1 {
		return fmt.Sprintf("%+v", v.Members)
	}
	return v.Members[0].Gateway
}
