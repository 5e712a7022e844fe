package test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"testing"
	"time"

	"github.com/kateway/kateway/test/checker"
	"github.com/kateway/kateway/test/storm"
)

// N10. Of some messages nobody can do anything: they are nacked, or whoever has them dies of them. Each ends in the dead queue
// of its group, once, after as many attempts as the topic allows, and all others are done.
func TestPoisonEndsInTheDeadQueue(t *testing.T) {
	eachGround(t, func(t *testing.T, s *site, g storm.Ground) {
		const most = 3
		gw := s.start(t)
		st := newStorm(t, s.app, "poison", g, 3, most, gw)
		can := capabilities(t, gw, s.app)
		for _, mode := range []string{"fifo", "queue", "key"} {
			for name, op := range map[string]checker.Op{"nack": checker.Nack, "bury": checker.Bury, "dies": ""} {
				p := st.Party(mode+"-"+name, checker.Spec{Mode: mode, Explicit: true, Lease: time.Second, MaxAttempts: most})
				bad := func(_ *rand.Rand, m checker.Message) checker.Op {
					if poisonous(m.ID) {
						return op
					}
					return checker.Ack
				}
				for i, kind := range []string{"lines", "raw", "stream", "ws"} {
					if can.read(kind) {
						st.Join(&st.Members, p, storm.Habit{Name: fmt.Sprint(kind, i), Kind: kind, Verdict: bad})
					}
				}
			}
		}
		st.Watch(200 * time.Millisecond)
		st.Stock(60)
		st.Calm()
		st.Drain()
		for _, p := range st.Groups {
			dead(st, p, 60/poisonEvery)
		}
		judge(st, checker.Limits{Slack: 500 * time.Millisecond}, gw)
		st.NoFailures()
	})
}

const poisonEvery = 12

func poisonous(id checker.ID) bool { return id.Seq%poisonEvery == 5 }

// dead checks what the group's dead queue has, as the management API lists it.
func dead(s *storm.Storm, p *storm.Party, want int) {
	s.T.Helper()
	a, err := s.Manage(s.T.Context(), "/v1/dead/"+s.App+"/"+s.Topic+"/v1/"+p.Name)
	if err != nil || a.StatusCode != http.StatusOK {
		s.T.Errorf("the dead of %s: %v, %v", p.Name, a, err)
		return
	}
	type item struct {
		Value    string `json:"value"`
		Base64   []byte `json:"value_base64"`
		Cause    string `json:"cause"`
		Attempts int    `json:"attempts"`
	}
	list := decode[struct{ Items []item }](s.T, a.Bytes).Items
	if len(list) != want {
		s.T.Errorf("%s has %d dead messages; want %d", p.Name, len(list), want)
	}
	for _, d := range list {
		value := d.Base64
		if value == nil {
			value = []byte(d.Value)
		}
		if w := storm.Observed(value, checker.Message{}); !poisonous(w.ID) || d.Cause == "" {
			s.T.Errorf("%s: %s is dead after %d attempts, cause %q", p.Name, w.ID, d.Attempts, d.Cause)
		}
	}
}
