package test

import (
	"fmt"
	"testing"
	"time"

	"github.com/kateway/kateway/test/checker"
)

// R12. Members of every kind join and leave all the time, each in order: what they acked does not come again, what they did not
// comes to others, and each group goes on.
func TestMembersJoinAndLeave(t *testing.T) {
	eachGround(t, func(t *testing.T, s *site, g ground) {
		gw := s.start(t)
		st := newStorm(t, s.app, "churn", g, 6, 100, gw)
		can := capabilities(t, gw, s.app)
		stay := 700 * time.Millisecond
		if stormTime(t, 0) > 0 {
			stay = 2 * time.Second
		}
		for _, mode := range []string{"fifo", "queue", "key"} {
			p := st.party(mode, checker.Spec{Mode: mode, Explicit: true, MaxAttempts: 100})
			for i, kind := range kinds(true) {
				if can.read(kind) {
					st.join(&st.members, p, habit{name: fmt.Sprint(kind, i), kind: kind, stay: stay})
				}
			}
		}
		auto := st.party("auto", checker.Spec{Mode: "fifo", MaxAttempts: 100})
		for i, kind := range kinds(false) {
			if can.read(kind) {
				st.join(&st.members, auto, habit{name: fmt.Sprint(kind, i), kind: kind, stay: stay})
			}
		}
		st.watch(200 * time.Millisecond)
		st.producers(4, 10*time.Millisecond)
		heal := st.fault("members come and go", "auto", false)
		st.blow(stormTime(t, 8*time.Second))
		heal()
		st.calm()
		st.drain()
		r := st.judge(checker.Limits{}, gw)
		st.noFailures()
		left := 0
		for _, rec := range st.h.Records() {
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
