package test

import (
	"fmt"
	"testing"
	"time"

	"github.com/kateway/kateway/test/checker"
	"github.com/kateway/kateway/test/storm"
)

// R12. Members of every kind join and leave all the time, each in order: what they acked does not come again, what they did not
// comes to others, and each group goes on.
func TestMembersJoinAndLeave(t *testing.T) {
	eachGround(t, func(t *testing.T, s *site, g storm.Ground) {
		gw := s.start(t)
		st := newStorm(t, s.app, "churn", g, 6, 100, gw)
		can := capabilities(t, gw, s.app)
		stay := 700 * time.Millisecond
		if storm.StormTime(t, 0) > 0 {
			stay = 2 * time.Second
		}
		for _, mode := range []string{"fifo", "queue", "key"} {
			p := st.Party(mode, checker.Spec{Mode: mode, Explicit: true, MaxAttempts: 100})
			for i, kind := range storm.Kinds(true) {
				if can.read(kind) {
					st.Join(&st.Members, p, storm.Habit{Name: fmt.Sprint(kind, i), Kind: kind, Stay: stay})
				}
			}
		}
		auto := st.Party("auto", checker.Spec{Mode: "fifo", MaxAttempts: 100})
		for i, kind := range storm.Kinds(false) {
			if can.read(kind) {
				st.Join(&st.Members, auto, storm.Habit{Name: fmt.Sprint(kind, i), Kind: kind, Stay: stay})
			}
		}
		st.Watch(200 * time.Millisecond)
		st.Producers(4, 10*time.Millisecond)
		heal := st.Fault("members come and go", "auto", false)
		st.Blow(storm.StormTime(t, 8*time.Second))
		heal()
		st.Calm()
		st.Drain()
		r := judge(st, checker.Limits{}, gw)
		st.NoFailures()
		left := 0
		for _, rec := range st.H.Records() {
			if rec.Note == "leaves" {
				left++
			}
		}
		t.Logf("members left %d times", left)
		if r.Stored < 100 || left < 20 || r.Again > 0 {
			t.Errorf("%d stored, members left %d times, %d acked messages came again; want many, many and none", r.Stored, left, r.Again)
		}
	})
}
