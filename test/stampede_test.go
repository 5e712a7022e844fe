package test

import (
	"fmt"
	"testing"
	"time"

	"github.com/kateway/kateway/test/checker"
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
	st := newStorm(t, s.app, "stampede", diskGround(dir), 2, 1000, gw)
	for i := range groups {
		p := st.party(fmt.Sprint("g", i), checker.Spec{Mode: "fifo", Explicit: true, Lease: 5 * time.Second})
		for k := range each {
			st.join(&st.members, p, habit{name: fmt.Sprint(k), kind: []string{"stream", "sse"}[k%2]})
		}
	}
	online := func() bool { return gw.metric("kateway_sub_streams") == groups*each }
	waitFor(t, "every subscriber to be there", online)
	st.stock(10)
	heal := st.fault("kill -9", "", true)
	gw.kill()
	gw = s.start(t)
	st.enter(gw)
	begun := time.Now()
	waitFor(t, "every subscriber to be back", online)
	t.Logf("%d subscribers were back after %v", groups*each, time.Since(begun).Round(time.Millisecond))
	heal()
	st.stock(20)
	st.calm()
	st.drain()
	st.judge(checker.Limits{Window: killWindow}, gw)
	for _, f := range st.failed {
		t.Errorf("an answer that is neither 200 nor no answer: %s", f)
	}
}
