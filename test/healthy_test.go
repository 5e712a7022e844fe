package test

import (
	"fmt"
	"testing"
	"time"

	"github.com/kateway/kateway/test/checker"
	"github.com/kateway/kateway/test/storm"
)

// R0. Healthy means perfect: clients of every kind read in every mode at once, and nothing is lost, repeated or disordered,
// and no request fails.
func TestHealthyIsPerfect(t *testing.T) {
	eachGround(t, func(t *testing.T, s *site, g storm.Ground) {
		gw := s.start(t)
		st := newStorm(t, s.app, "healthy", g, 4, 16, gw)
		can := capabilities(t, gw, s.app)
		crowd(st, can)
		st.Watch(200 * time.Millisecond)
		st.Producers(4, 10*time.Millisecond)
		st.Blow(storm.StormTime(t, 6*time.Second))
		st.Calm()
		st.Drain()
		r := judge(st, checker.Limits{}, gw)
		st.NoFailures()
		if r.Repeated > 0 || r.Unknown > 0 || r.Stored < 100 {
			t.Errorf("%d messages came again, %d publishes are unknown, %d messages are stored; want none, none and many", r.Repeated, r.Unknown, r.Stored)
		}
	})
}

// crowd is a group for each mode and way of acking, each with a member of every kind.
func crowd(st *storm.Storm, can can) {
	for _, mode := range []string{"fifo", "queue", "key"} {
		for _, explicit := range []bool{true, false} {
			name := fmt.Sprintf("%s-%t", mode, explicit)
			spec := checker.Spec{Mode: mode, Explicit: explicit, MaxAttempts: 16}
			if mode == "key" && explicit {
				spec.Tags = []string{"green", "red"}
			}
			p := st.Party(name, spec)
			for i, kind := range storm.Kinds(explicit) {
				if can.read(kind) {
					st.Join(&st.Members, p, storm.Habit{Name: fmt.Sprint(kind, i), Kind: kind, Rotate: true})
				}
			}
		}
	}
}
