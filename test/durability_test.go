package test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestRestartGoesOnWhereItWas(t *testing.T) {
	eachStore(t, func(t *testing.T, s *site) {
		g := s.start(t)
		c := g.client(s.app)
		for i := range 6 {
			c.publish("log", "k", fmt.Sprint(i))
		}
		for i := range 3 {
			if m := c.pollUntil(1, "log", "&ack=explicit"); m[0].text() != fmt.Sprint(i) {
				t.Fatalf("got %s; want %d", m[0].text(), i)
			} else if a := c.settle("log", "ack", m...); a.StatusCode != http.StatusOK {
				t.Fatalf("ack: %s", a)
			}
		}
		g.stop()

		c = s.start(t).client(s.app)
		c.publish("log", "k", "6")
		for i := 3; i < 7; i++ {
			m := c.pollUntil(1, "log", "&ack=explicit")
			if m[0].text() != fmt.Sprint(i) {
				t.Fatalf("after the restart: got %s; want %d", m[0].text(), i)
			}
			c.settle("log", "ack", m...)
		}
	})
}

// What stays un-acked over a restart is delivered again, and its receipt from before still settles it.
func TestReceiptSurvivesRestart(t *testing.T) {
	eachStore(t, func(t *testing.T, s *site) {
		g := s.start(t)
		c := g.client(s.app)
		c.publish("log", "k", "one")
		c.publish("log", "k", "two")
		held := c.pollUntil(1, "log", "&ack=explicit&lease=5m")
		g.stop()

		c = s.start(t).client(s.app)
		if a := c.settle("log", "ack", held...); a.StatusCode != http.StatusOK {
			t.Fatalf("ack after the restart: %s", a)
		}
		if m := c.pollUntil(1, "log", "&ack=explicit")[0]; m.text() != "two" {
			t.Errorf("got %q; want two", m.text())
		}
	})
}

// Every publish that was answered 201 is there after kill -9, at the offset that the answer named, and no two share one.
func TestKillLosesNoAckedPublish(t *testing.T) {
	eachStore(t, func(t *testing.T, s *site) {
		stored := map[placed]string{}
		for round := range 3 {
			g := s.start(t)
			publishUntilKilled(t, s, g, round, stored)
		}
		c := s.start(t).client(s.app)
		found := map[placed]string{}
		for deadline := time.Now().Add(2 * patience); len(missing(stored, found)) > 0; {
			if time.Now().After(deadline) {
				t.Fatalf("%d of %d acked publishes are gone", len(missing(stored, found)), len(stored))
			}
			for _, m := range c.poll("log", "&batch=1000&wait=1s") {
				found[m.placed] = m.text()
			}
		}
		for at, want := range stored {
			if found[at] != want {
				t.Errorf("at %+v: %q; the answer said %q", at, found[at], want)
			}
		}
		t.Logf("%d publishes were acked before three kills, %d messages are there", len(stored), len(found))
	})
}

// publishUntilKilled publishes over 8 connections, kills the gateway once there are 200 answers, and notes what was answered 201.
func publishUntilKilled(t *testing.T, s *site, g *gateway, round int, stored map[placed]string) {
	t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	enough := make(chan struct{})
	answered := 0
	for w := range 8 {
		wg.Go(func() {
			c := g.client(s.app)
			for i := 0; ; i++ {
				value := fmt.Sprintf("%d-%d-%d", round, w, i)
				a, err := c.do("POST", "/v1/msgs/log/v1", strings.NewReader(value))
				if err != nil {
					return // killed
				}
				if a.StatusCode != http.StatusCreated {
					t.Errorf("publish: %s", a)
					return
				}
				at := decode[placed](t, a.body)
				mu.Lock()
				if other, taken := stored[at]; taken {
					t.Errorf("%q and %q were both stored at %+v", other, value, at)
				}
				stored[at] = value
				if answered++; answered == 200 {
					close(enough)
				}
				mu.Unlock()
			}
		})
	}
	select {
	case <-enough:
	case <-time.After(patience):
		t.Error("200 publishes took too long")
	}
	g.kill()
	wg.Wait()
}

func missing(want, have map[placed]string) (gone []placed) {
	for at := range want {
		if _, ok := have[at]; !ok {
			gone = append(gone, at)
		}
	}
	return gone
}

// A kill may bring acked messages again, but never passes over one that was not acked.
func TestKillSkipsNothingUnacked(t *testing.T) {
	eachStore(t, func(t *testing.T, s *site) {
		g := s.start(t)
		c := g.client(s.app)
		const n = 30
		for i := range n {
			c.publish("log", "k", fmt.Sprint(i))
		}
		acked := map[string]bool{}
		for i, m := range c.pollUntil(n, "log", "&ack=explicit&lease=5m&batch=30&client=one") {
			if i%3 == 0 { // acks with holes between them
				if a := c.settle("log", "ack", m); a.StatusCode != http.StatusOK {
					t.Fatalf("ack: %s", a)
				}
				acked[m.text()] = true
			}
		}
		g.kill()

		c = s.start(t).client(s.app)
		seen := map[string]bool{}
		for deadline := time.Now().Add(2 * patience); len(seen) < n-len(acked); {
			if time.Now().After(deadline) {
				t.Fatalf("%d of %d un-acked messages came again", len(seen), n-len(acked))
			}
			got := c.poll("log", "&ack=explicit&batch=30&wait=2s")
			for _, m := range got {
				if !acked[m.text()] {
					seen[m.text()] = true
				}
			}
			if len(got) > 0 {
				c.settle("log", "ack", got...)
			}
		}
	})
}
