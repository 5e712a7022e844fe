package test

import (
	"testing"
	"time"

	"github.com/kateway/kateway/test/checker"
	"github.com/kateway/kateway/test/storm"
)

// N4, C25. An answer is cut after every count of bytes, in every form and mode that acks by itself: nothing that was in it is
// lost, and it comes again.
func TestCutAfterEveryByte(t *testing.T) {
	eachGround(t, func(t *testing.T, s *site, g storm.Ground) {
		gw := s.start(t)
		st := newStorm(t, s.app, "cut", g, 2, 1000, gw)
		can := capabilities(t, gw, s.app)
		step := 1 // what is written does not depend on the store, so that one is enough for every single byte
		if s.kind != "embedded" && storm.StormTime(t, 0) == 0 {
			step = 9
		}
		var cutters []*storm.Cutter
		for _, mode := range []string{"fifo", "queue", "key"} {
			for _, kind := range storm.Kinds(true) {
				// A poll's messages stay leased, which in fifo mode holds up the partition.
				if polls := kind == "raw" || kind == "lines" || kind == "piggyback"; polls && mode != "queue" || !can.read(kind) {
					continue
				}
				cutters = append(cutters, cutEvery(st, mode, kind, step))
			}
		}
		st.Stock(1500)
		st.Members.Wg.Wait() // until each has cut its last
		st.Drain()
		r := judge(st, checker.Limits{}, gw)
		cuts := 0
		for _, c := range cutters {
			cuts += c.Cuts
		}
		t.Logf("%d answers were cut", cuts)
		if cuts < cutBytes/step*len(cutters)/2 || r.Repeated == 0 {
			t.Errorf("%d answers were cut and %d messages came again: the test has shown too little", cuts, r.Repeated)
		}
	})
}

// cutBytes is where the last cut is: in the second message of an answer.
const cutBytes = 1000

// cutEvery reads in one form, each time one byte more. A poll acks nothing, so that all comes again; a stream acks what it
// has read whole, since in fifo mode what failed twice comes alone and has to go before more can come.
func cutEvery(s *storm.Storm, mode, kind string, step int) *storm.Cutter {
	p := s.Party(mode+"-"+kind, checker.Spec{Mode: mode, Explicit: true, Lease: 200 * time.Millisecond})
	m := &storm.Member{Storm: s, Party: p, R: s.Random(p.Name), Habit: storm.Habit{Name: "cut", Kind: kind, Batch: 2, Wait: "100ms", Stay: 2 * time.Second}}
	if kind == "raw" || kind == "lines" || kind == "piggyback" {
		m.Verdict = storm.Nothing
	}
	c := &storm.Cutter{Before: func() { s.Fault("cut", m.Who(), false) }}
	m.HTTP, m.Dial = c.Client(s.T), c.Dial
	ctx := s.Members.Life(s.T)
	s.Members.Wg.Go(func() {
		for n := 0; n < cutBytes && ctx.Err() == nil; n += step {
			c.Set(n)
			m.Once(ctx)
		}
	})
	return c
}
