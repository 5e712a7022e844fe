package test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"testing"
	"time"

	"github.com/kateway/kateway/test/checker"
)

// N10. Of some messages nobody can do anything: they are nacked, or whoever has them dies of them. Each ends in the dead queue
// of its group, once, after as many attempts as the topic allows, and all others are done.
func TestPoisonEndsInTheDeadQueue(t *testing.T) {
	eachGround(t, func(t *testing.T, s *site, g ground) {
		const most = 3
		gw := s.start(t)
		st := newStorm(t, s.app, "poison", g, 3, most, gw)
		can := capabilities(t, gw, s.app)
		for _, mode := range []string{"fifo", "queue", "key"} {
			for name, op := range map[string]checker.Op{"nack": checker.Nack, "bury": checker.Bury, "dies": ""} {
				p := st.party(mode+"-"+name, checker.Spec{Mode: mode, Explicit: true, Lease: time.Second, MaxAttempts: most})
				bad := func(_ *rand.Rand, m checker.Message) checker.Op {
					if poisonous(m.ID) {
						return op
					}
					return checker.Ack
				}
				for i, kind := range []string{"lines", "raw", "stream", "ws"} {
					if can.read(kind) {
						st.join(&st.members, p, habit{name: fmt.Sprint(kind, i), kind: kind, verdict: bad})
					}
				}
			}
		}
		st.watch(200 * time.Millisecond)
		st.stock(60)
		st.calm()
		st.drain()
		for _, p := range st.groups {
			st.dead(p, 60/poisonEvery)
		}
		st.judge(checker.Limits{Slack: 500 * time.Millisecond}, gw)
		st.noFailures()
	})
}

const poisonEvery = 12

func poisonous(id checker.ID) bool { return id.Seq%poisonEvery == 5 }

// dead checks what the group's dead queue has, as the management API lists it.
func (s *storm) dead(p *party, want int) {
	s.t.Helper()
	a, err := s.man.Load().do("GET", "/v1/dead/"+s.app+"/"+s.topic+"/v1/"+p.name, nil)
	if err != nil || a.StatusCode != http.StatusOK {
		s.t.Errorf("the dead of %s: %v, %v", p.name, a, err)
		return
	}
	type dead struct {
		Value    string `json:"value"`
		Base64   []byte `json:"value_base64"`
		Cause    string `json:"cause"`
		Attempts int    `json:"attempts"`
	}
	list := decode[struct{ Items []dead }](s.t, a.body).Items
	if len(list) != want {
		s.t.Errorf("%s has %d dead messages; want %d", p.name, len(list), want)
	}
	for _, d := range list {
		value := d.Base64
		if value == nil {
			value = []byte(d.Value)
		}
		if w := observed(value, checker.Message{}); !poisonous(w.ID) || d.Cause == "" {
			s.t.Errorf("%s: %s is dead after %d attempts, cause %q", p.name, w.ID, d.Attempts, d.Cause)
		}
	}
}
