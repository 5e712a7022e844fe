package test

import (
	"fmt"
	"testing"
	"time"

	"github.com/kateway/kateway/test/checker"
	"github.com/kateway/kateway/test/storm"
)

// killWindow is how many messages of a partition that were acked may come again after kill -9: what was acked since the last
// commit, which is made every 100 ms, and no more than a group's window.
const killWindow = 4096

// G1. The gateway is killed again and again under load: nothing that was answered is lost, and what was not acked comes again.
func TestKilledUnderLoad(t *testing.T) {
	eachGround(t, func(t *testing.T, s *site, g storm.Ground) {
		kills := 3
		if storm.StormTime(t, 0) > 0 {
			kills = 20
		}
		gw := s.start(t)
		st := newStorm(t, s.app, "killed", g, 4, 1000, gw)
		can := capabilities(t, gw, s.app)
		for _, mode := range []string{"fifo", "queue", "key"} {
			p := st.Party(mode, checker.Spec{Mode: mode, Explicit: true, Lease: 3 * time.Second, MaxAttempts: 1000})
			for i, kind := range storm.Kinds(true) {
				if can.read(kind) {
					st.Join(&st.Members, p, storm.Habit{Name: fmt.Sprint(kind, i), Kind: kind})
				}
			}
		}
		st.Producers(4, 5*time.Millisecond)
		r := st.Random("kills")
		for i := range kills {
			st.WaitProduced(100)
			st.Blow(time.Duration(r.IntN(500)) * time.Millisecond)
			heal := st.Fault(fmt.Sprint("kill -9, the ", i+1, "."), "", true)
			gw.kill()
			gw = s.start(t)
			enter(st, gw)
			heal()
		}
		st.WaitProduced(100)
		st.Watch(200 * time.Millisecond)
		st.Calm()
		st.Drain()
		report := judge(st, checker.Limits{Window: killWindow}, gw)
		if st.Faults != kills || report.Stored < 100*kills {
			t.Errorf("%d kills, %d messages stored: the test has shown too little", st.Faults, report.Stored)
		}
	})
}
