package test

import (
	"fmt"
	"testing"
	"time"

	"github.com/kateway/kateway/test/checker"
	"github.com/kateway/kateway/test/storm"
)

// N6. A thousand subscribers of a hundred groups lose their gateway and come back at once: all are served again, and who is
// refused in between is told when to come again.
func TestStampede(t *testing.T) {
	groups, each := 100, 10
	s := &site{"embedded", nil, appOf(t)}
	dir := t.TempDir()
	s.flags = []string{"--data", dir, "--log-level", "info"}
	t.Parallel()
	gw := s.start(t)
	st := newStorm(t, s.app, "stampede", storm.DiskGround(dir), 2, 1000, gw)
	for i := range groups {
		p := st.Party(fmt.Sprint("g", i), checker.Spec{Mode: "fifo", Explicit: true, Lease: 5 * time.Second})
		for k := range each {
			st.Join(&st.Members, p, storm.Habit{Name: fmt.Sprint(k), Kind: []string{"stream", "sse"}[k%2]})
		}
	}
	online := func() bool { return gw.metric("kateway_sub_streams") == groups*each }
	waitFor(t, "every subscriber to be there", online)
	st.Stock(10)
	heal := st.Fault("kill -9", "", true)
	gw.kill()
	gw = s.start(t)
	enter(st, gw)
	begun := time.Now()
	waitFor(t, "every subscriber to be back", online)
	t.Logf("%d subscribers were back after %v", groups*each, time.Since(begun).Round(time.Millisecond))
	heal()
	st.Stock(20)
	st.Calm()
	st.Drain()
	judge(st, checker.Limits{Window: killWindow}, gw)
	for _, f := range st.Failed {
		t.Errorf("an answer that is neither 200 nor no answer: %s", f)
	}
}
