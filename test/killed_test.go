package test

import (
	"fmt"
	"testing"
	"time"

	"github.com/kateway/kateway/test/checker"
)

// killWindow is how many messages of a partition that were acked may come again after kill -9: what was acked since the last
// commit, which is made every 100 ms, and no more than a group's window.
const killWindow = 4096

// G1. The gateway is killed again and again under load: nothing that was answered is lost, and what was not acked comes again.
func TestKilledUnderLoad(t *testing.T) {
	eachGround(t, func(t *testing.T, s *site, g ground) {
		kills := 3
		if stormTime(t, 0) > 0 {
			kills = 20
		}
		gw := s.start(t)
		st := newStorm(t, s.app, "killed", g, 4, 1000, gw)
		can := capabilities(t, gw, s.app)
		for _, mode := range []string{"fifo", "queue", "key"} {
			p := st.party(mode, checker.Spec{Mode: mode, Explicit: true, Lease: 3 * time.Second, MaxAttempts: 1000})
			for i, kind := range kinds(true) {
				if can.read(kind) {
					st.join(&st.members, p, habit{name: fmt.Sprint(kind, i), kind: kind})
				}
			}
		}
		st.producers(4, 5*time.Millisecond)
		r := st.random("kills")
		for i := range kills {
			st.waitProduced(100)
			st.blow(time.Duration(r.IntN(500)) * time.Millisecond)
			heal := st.fault(fmt.Sprint("kill -9, the ", i+1, "."), "", true)
			gw.kill()
			gw = s.start(t)
			st.enter(gw)
			heal()
		}
		st.waitProduced(100)
		st.watch(200 * time.Millisecond)
		st.calm()
		st.drain()
		report := st.judge(checker.Limits{Window: killWindow}, gw)
		if st.faults != kills || report.Stored < 100*kills {
			t.Errorf("%d kills, %d messages stored: the test has shown too little", st.faults, report.Stored)
		}
	})
}
