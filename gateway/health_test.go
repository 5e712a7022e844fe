package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store/mem"
)

// probed is a health on one part, in fake time, whose probe is what the test says. It is run until the test ends.
func probed(t *testing.T, probe func(context.Context) error) *health {
	t.Helper()
	h := &health{
		parts: []*part{{name: "store", roles: []Role{Pub, Sub}, probe: probe}},
		log:   slog.New(slog.DiscardHandler), drain: func() bool { return false },
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	synctest.Wait()
	return h
}

// becomes waits in fake time until the role is ready or not, as wanted, and answers how long it took.
func (h *health) becomes(t *testing.T, want bool) time.Duration {
	t.Helper()
	began := time.Now()
	for {
		if _, ready := h.of([]Role{Pub}); ready == want {
			return time.Since(began)
		}
		if time.Since(began) > time.Minute {
			t.Fatalf("ready is not %v after a minute", want)
		}
		time.Sleep(10 * time.Millisecond) //nolint:forbidigo // fake time
	}
}

// Readiness tells the truth within 15 s, and of what is well again within 5 s.
func TestHealthFollowsTheStore(t *testing.T) {
	const ( // what the store does
		works = iota
		fails
		hangsUntilAsked // keeps the time-out it is given
		hangs           // does not
	)
	for name, bad := range map[string]int32{"fails": fails, "hangs, and keeps its time-out": hangsUntilAsked, "hangs, whatever it is told": hangs} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var state atomic.Int32
				healed := make(chan struct{}, 1)
				h := probed(t, func(ctx context.Context) error {
					switch state.Load() {
					case fails:
						return errs.Unavailable
					case hangsUntilAsked:
						<-ctx.Done()
						return ctx.Err()
					case hangs:
						<-healed
					}
					return nil
				})
				if took := h.becomes(t, true); took != 0 {
					t.Errorf("ready after %v", took)
				}
				for range 2 {
					state.Store(bad)
					if took := h.becomes(t, false); took > 15*time.Second {
						t.Errorf("down shows after %v", took)
					}
					time.Sleep(time.Minute) //nolint:forbidigo // fake time
					if _, ready := h.of([]Role{Pub}); ready {
						t.Error("ready while it is down")
					}
					state.Store(works)
					if bad == hangs {
						healed <- struct{}{}
					}
					if took := h.becomes(t, true); took > 5*time.Second {
						t.Errorf("up shows after %v", took)
					}
				}
			})
		})
	}
}

func TestOneFailureIsDegraded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var broken atomic.Bool
		h := probed(t, func(context.Context) error {
			if broken.Swap(false) {
				return errors.New("once")
			}
			return nil
		})
		broken.Store(true)
		time.Sleep(probeEvery + time.Millisecond) //nolint:forbidigo // fake time
		if a, ready := h.of([]Role{Pub}); !ready || a.Status != "degraded" || a.Parts["store"] != degraded {
			t.Errorf("%+v %v", a, ready)
		}
		time.Sleep(probeEvery) //nolint:forbidigo // fake time
		if a, ready := h.of([]Role{Pub}); !ready || a.Status != "ok" {
			t.Errorf("%+v %v", a, ready)
		}
	})
}

func TestNotReadyBeforeTheFirstLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		let := make(chan struct{})
		h := probed(t, func(context.Context) error {
			<-let
			return nil
		})
		if a, ready := h.of([]Role{Sub}); ready || a.Parts["store"] != down {
			t.Errorf("%+v", a)
		}
		close(let)
		synctest.Wait()
		if _, ready := h.of([]Role{Sub}); !ready {
			t.Error("not ready after it")
		}
	})
}

// A part that only one role needs takes down that role only.
func TestRolesAreJudgedApart(t *testing.T) {
	h := &health{parts: []*part{{name: "disk", roles: []Role{Pub}}, {name: "store", roles: []Role{Pub, Sub}}}, drain: func() bool { return false }}
	for _, p := range h.parts {
		p.last = time.Now()
	}
	h.parts[0].failures = 2
	for _, c := range []struct {
		roles []Role
		want  bool
	}{{[]Role{Pub}, false}, {[]Role{Sub}, true}, {[]Role{Pub, Sub}, true}, {[]Role{Man}, true}, {nil, false}} {
		if a, ready := h.of(c.roles); ready != c.want || a.Parts["disk"] != down || a.Parts["store"] != ok {
			t.Errorf("%v: %+v %v", c.roles, a, ready)
		}
	}
}

func (r *running) ready(t *testing.T, role Role, query string) (int, Health) {
	t.Helper()
	resp, body := r.ask(t, role, "GET", "/ready"+query, nil)
	var a Health
	if err := json.Unmarshal([]byte(body), &a); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	if (resp.StatusCode == http.StatusServiceUnavailable) != (resp.Header.Get("Retry-After") != "") {
		t.Errorf("%s, Retry-After %q", resp.Status, resp.Header.Get("Retry-After"))
	}
	return resp.StatusCode, a
}

func TestReadyOverHTTP(t *testing.T) {
	s := &pinged{Store: mem.New()}
	g := startOn(t, s, nil)
	await(t, "ready", func() bool { status, _ := g.ready(t, Pub, ""); return status == 200 })
	for _, role := range []Role{Pub, Man} {
		for _, query := range []string{"", "?role=pub", "?role=sub", "?role=man"} {
			if status, a := g.ready(t, role, query); status != 200 || a.Status != "ok" || a.Parts["store"] != ok || a.Parts["disk"] != ok {
				t.Errorf("%s %s: %d %+v", role, query, status, a)
			}
		}
	}
	full := error(errs.DiskFull)
	s.err.Store(&full)
	await(t, "pub down", func() bool { status, _ := g.ready(t, Pub, "?role=pub"); return status == 503 })
	if status, a := g.ready(t, Pub, "?role=sub"); status != 200 || a.Status != "degraded" || a.Parts["disk"] != down || a.Parts["store"] != ok {
		t.Errorf("a full disk ends reading: %d %+v", status, a)
	}
	if resp, _ := g.ask(t, Pub, "GET", "/alive", nil); resp.StatusCode != 200 {
		t.Errorf("not alive: %s", resp.Status)
	}
	s.err.Store(nil)
	await(t, "pub back", func() bool { status, _ := g.ready(t, Pub, "?role=pub"); return status == 200 })
	resp, body := g.ask(t, Pub, "GET", "/ready?role=chef", nil)
	checkCode(t, resp, body, 400, "invalid_param")
}

// pinged is a store whose Ping the test decides.
type pinged struct {
	*mem.Store
	err atomic.Pointer[error]
}

func (p *pinged) Ping(context.Context) error {
	if err := p.err.Load(); err != nil {
		return *err
	}
	return nil
}
