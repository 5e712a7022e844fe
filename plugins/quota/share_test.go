package quota

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// sim is gateways that exchange demand in one process.
type sim struct {
	mu   sync.Mutex
	live map[string]*Plugin
	stop map[string]func()
	all  []*Plugin
}

// newSim starts n gateways, whose rounds begin at different times.
func newSim(t *testing.T, n int, o Options) *sim {
	s := &sim{live: map[string]*Plugin{}, stop: map[string]func(){}}
	for i := range n {
		s.start(t, fmt.Sprintf("gw%d", i+1), o)
		wait(time.Second / time.Duration(n))
	}
	t.Cleanup(func() {
		for id := range s.stop {
			s.end(id)
		}
	})
	return s
}

func (s *sim) start(t *testing.T, id string, o Options) *Plugin {
	p := New(Config{
		Options: o, Meta: unknown(), Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
		Others: func(ctx context.Context, ask []byte) map[string][]byte { return s.ask(ctx, id, ask) },
	})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { p.Run(ctx) })
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live[id], s.all = p, append(s.all, p)
	s.stop[id] = func() { cancel(); wg.Wait() }
	return p
}

// end takes a gateway away without a word.
func (s *sim) end(id string) {
	s.mu.Lock()
	delete(s.live, id)
	stop := s.stop[id]
	s.mu.Unlock()
	stop()
}

func (s *sim) ask(ctx context.Context, from string, ask []byte) map[string][]byte {
	s.mu.Lock()
	others := map[string]*Plugin{}
	for id, p := range s.live {
		if id != from {
			others[id] = p
		}
	}
	s.mu.Unlock()
	answers := map[string][]byte{}
	for id, p := range others {
		if answer, err := p.Answer(ctx, from, ask); err == nil {
			answers[id] = answer
		}
	}
	return answers
}

// drive sends requests of app a for a time: how many in a second to each gateway, demand says, of the time since the start.
// It answers how many were let in, in each second.
func (s *sim) drive(over time.Duration, demand func(at time.Duration, gateway int) float64) (perSecond []int) {
	const tick = 5 * time.Millisecond
	due := make([]float64, len(s.all))
	for at := time.Duration(0); at < over; at += tick {
		if int(at/time.Second) == len(perSecond) {
			perSecond = append(perSecond, 0)
		}
		for g, p := range s.all {
			due[g] += demand(at, g) * tick.Seconds()
			for ; due[g] >= 1; due[g]-- {
				if do(p, publish("a", 1, 1)) == nil {
					perSecond[len(perSecond)-1]++
				}
			}
		}
		wait(tick)
	}
	return perSecond
}

func sum(list []int) (n int) {
	for _, v := range list {
		n += v
	}
	return n
}

// Three gateways together let in what one would: never more than the rate, a burst and a second's worth, and, where the
// demand stays where it is, all of it.
func TestFleetKeepsTheLimit(t *testing.T) {
	const rate = 500.0
	for name, tc := range map[string]struct {
		demand func(at time.Duration, g int) float64
		least  float64 // part of the limit that is let in from the fourth second on
		burst  float64 // in seconds; 0: one
	}{
		"one gateway":        {func(_ time.Duration, g int) float64 { return []float64{2000, 0, 0}[g] }, 0.99, 0},
		"evenly":             {func(time.Duration, int) float64 { return 1000 }, 0.99, 0},
		"unevenly":           {func(_ time.Duration, g int) float64 { return []float64{3000, 1000, 300}[g] }, 0.99, 0},
		"hardly over":        {func(_ time.Duration, g int) float64 { return []float64{450, 70, 5}[g] }, 0.99, 0},
		"one asks little":    {func(_ time.Duration, g int) float64 { return []float64{3000, 20, 20}[g] }, 0.99, 0},
		"fifty times":        {func(_ time.Duration, g int) float64 { return []float64{25000, 0, 100}[g] }, 0.99, 0},
		"below":              {func(_ time.Duration, g int) float64 { return []float64{300, 100, 0}[g] }, 0.79, 0}, // 400 of 500
		"it moves now":       {func(at time.Duration, g int) float64 { return on(g == int(at/(10*time.Second))%3) }, 0.9, 0},
		"it moves fast":      {func(at time.Duration, g int) float64 { return on(g == int(at/time.Second)%3) }, 0.15, 0},
		"it moves very fast": {func(at time.Duration, g int) float64 { return on(g == int(at/(300*time.Millisecond))%3) }, 0.5, 0},
		"in jerks":           {func(at time.Duration, g int) float64 { return on(int(at/(1500*time.Millisecond))%2 == g%2) }, 0.2, 0},
		"at random": {func(at time.Duration, g int) float64 {
			return on(rand.New(rand.NewPCG(uint64(at/(700*time.Millisecond)), uint64(g))).IntN(2) == 0)
		}, 0.5, 0},
		"it moves, a long burst": {func(at time.Duration, g int) float64 { return on(g == int(at/(3*time.Second))%3) }, 0.5, 5},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				burst := max(tc.burst, 1)
				s := newSim(t, 3, Options{Default: Limits{Messages: rate, Burst: seconds(burst)}})
				in := s.drive(30*time.Second, tc.demand)
				t.Logf("%d: %v", sum(in), in)
				for from := range in { // of any time, not only from the start
					for to := from + 1; to <= len(in); to++ {
						if n, most := float64(sum(in[from:to])), rate*(float64(to-from)+burst+1); n > most {
							t.Errorf("%v were let in from second %d to %d, %v at most", n, from, to, most)
						}
					}
				}
				if n := float64(sum(in[3:])); n < tc.least*rate*27 {
					t.Errorf("%v were let in, %.3f of the limit", n, n/rate/27)
				}
			})
		})
	}
}

func on(yes bool) float64 {
	if yes {
		return 3000
	}
	return 0
}

// gap waits for n rounds.
func gap(n int) { wait(time.Duration(n) * roundGap) }

// shareOf is the share of app a that the gateway holds.
func (p *Plugin) shareOf(app string) float64 {
	m := p.apps.get(app)
	if m == nil {
		return -1
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.share
}

// A gateway that is gone without a word gives its share back within 3 s, and one that comes gets its own.
func TestGatewaysComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := Options{Default: Limits{Messages: 500}}
		s := newSim(t, 2, o)
		even := func(time.Duration, int) float64 { return 1000 }
		s.drive(5*time.Second, even)
		one, two := s.all[0], s.all[1]
		if a, b := one.shareOf("a"), two.shareOf("a"); a < 0.49 || b < 0.49 || a+b > 1.001 {
			t.Errorf("shares %v and %v", a, b)
		}
		s.end("gw2")
		s.all = s.all[:1]
		in := s.drive(6*time.Second, even)
		if sum(in[3:]) < 3*495 || one.shareOf("a") != 1 {
			t.Errorf("after the end of the other: %v let in, share %v", in, one.shareOf("a"))
		}
		s.start(t, "gw3", o)
		in = s.drive(6*time.Second, even)
		if n := sum(in); n > 500*(6+1+1) || n < 500*5 {
			t.Errorf("after another came: %v", in)
		}
		if a, b := one.shareOf("a"), s.all[1].shareOf("a"); a < 0.49 || b < 0.49 || a+b > 1.001 {
			t.Errorf("shares %v and %v", a, b)
		}
	})
}

// What is under way at other gateways counts as well.
func TestUnderWayElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 3, Options{Default: Limits{Calls: 2}})
		_ = do(s.all[0], publish("a", 1, 1), func() {
			_ = do(s.all[1], publish("a", 1, 1), func() {
				_ = do(s.all[2], publish("a", 1, 1), func() { gap(2) })
				if err := do(s.all[2], publish("a", 1, 1)); err == nil {
					gap(2)
				}
				gap(2)
				if err := do(s.all[0], publish("a", 1, 1)); code(err) != "throttled" {
					t.Errorf("a third: %v", err)
				}
			})
			gap(2)
			if err := do(s.all[0], publish("a", 1, 1)); err != nil {
				t.Errorf("a second: %v", err)
			}
		})
	})
}

// Shares never add up to more than all, but for the little that who asks for little may take at once.
func TestSplit(t *testing.T) {
	for name, tc := range map[string]struct {
		demands, want []float64
	}{
		"alone":            {[]float64{5}, []float64{1}},
		"nobody asks":      {[]float64{0, 0}, []float64{0.5, 0.5}},
		"one":              {[]float64{5, 0, 0}, []float64{1, 0.05, 0.05}},
		"even":             {[]float64{2, 2, 2, 2}, []float64{0.25, 0.25, 0.25, 0.25}},
		"by demand":        {[]float64{6, 3, 1}, []float64{0.6, 0.3, 0.1}},
		"little":           {[]float64{50, 0.02, 1}, []float64{0.93, 0.05, 0.05}},
		"little of little": {[]float64{0.5, 0.01}, []float64{0.99, 0.05}},
	} {
		for i, want := range tc.want {
			var others []claim
			for j, d := range tc.demands {
				if j != i {
					others = append(others, claim{demand: d, share: tc.want[j]})
				}
			}
			if got := split(tc.demands[i], others); got < want-1e-9 || got > want+1e-9 {
				t.Errorf("%s: gateway %d has %v, not %v", name, i, got, want)
			}
		}
	}
	if got := split(5, []claim{{0, 0.7, counts{}}}); got < 0.299 || got > 0.301 {
		t.Errorf("while the other holds 0.7 it is %v", got)
	}
	if got := split(5, make([]claim, 39)); got != 1 {
		t.Errorf("of forty, one asks: %v", got)
	}
	if got := split(0, append(make([]claim, 38), claim{demand: 5})); got != 1/80.0 {
		t.Errorf("of forty, one asks: the others have %v", got)
	}
}

func TestReport(t *testing.T) {
	list := []told{{"shop", claim{2.5, 0.25, counts{3, 2, 1 << 40}}}, {"bill", claim{0, 1, counts{}}}}
	apps, err := decode(encode(list, maxReport))
	if err != nil || len(apps) != 2 || apps["shop"] != list[0].claim || apps["bill"] != list[1].claim {
		t.Errorf("%v, %v", apps, err)
	}
	whole := encode(list, maxReport)
	for n := range whole {
		if apps, err := decode(whole[:n]); err == nil && n != 1 && n != len(whole)-1-4-8-3 {
			t.Errorf("%d bytes of %d are %v", n, len(whole), apps)
		}
	}
	// 100,000 apps that are all active do not fit: those that ask for most do.
	f := &fleet{}
	for i := range 100_000 {
		m := newMeter(scopeApp, fmt.Sprintf("application-%06d", i), nil, newBounds(scopeApp, Limits{Requests: 1}), 0.5, 0)
		m.demand = float64(i)
		f.active = append(f.active, m)
	}
	report := f.tell()
	apps, err = decode(report)
	if err != nil || len(report) > maxReport || len(apps) < 30_000 || apps["application-099999"].demand != 99_999 {
		t.Errorf("%d bytes, %d apps, %v", len(report), len(apps), err)
	}
	if _, ok := apps["application-000000"]; ok {
		t.Error("one that asks for nothing is told of")
	}
}

func FuzzReport(f *testing.F) {
	f.Add(encode([]told{{"shop", claim{2.5, 0.25, counts{3, 2, 1}}}}, maxReport))
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f})
	f.Fuzz(func(t *testing.T, b []byte) {
		apps, err := decode(b)
		if err != nil {
			return
		}
		for app, c := range apps {
			if got := split(1, []claim{c}); got < floor || got > 1 {
				t.Errorf("%s, %+v: share %v", app, c, got)
			}
		}
	})
}

// A gateway whose report is not understood counts as none.
func TestReportOfAnotherVersion(t *testing.T) {
	p := limited(t, Options{Default: Limits{Requests: 10}})
	if _, err := p.Answer(t.Context(), "gw2", []byte{9}); err == nil {
		t.Error("understood")
	}
	p.others = func(context.Context, []byte) map[string][]byte { return map[string][]byte{"gw2": {9}, "gw3": nil} }
	p.round(t.Context())
	_ = do(p, publish("a", 1, 1))
	if s := p.shareOf("a"); s != 1 {
		t.Errorf("share %v", s)
	}
}

// A share that becomes more brings no tokens, one that becomes less takes what is more than the bucket holds then; what is
// owed stays owed.
func TestShareMovesNoTokens(t *testing.T) {
	m := newMeter(scopeApp, "a", nil, newBounds(scopeApp, Limits{Requests: 100, Messages: 100}), 0.1, 0)
	for _, step := range []struct {
		take, share float64
		at          time.Duration
		want        float64
	}{{0, 0.1, 0, 10}, {0, 1, 0, 10}, {0, 1, time.Second / 2, 60}, {0, 0.3, time.Second / 2, 30}, {40, 0.5, time.Second / 2, -10}, {0, 1, time.Second, 15}} {
		m.tokens[messages] -= step.take
		m.setShare(step.share, int64(step.at))
		if got := m.tokens[messages]; got < step.want-1e-6 || got > step.want+1e-6 {
			t.Errorf("after %+v: %v", step, got)
		}
	}
}
