package group

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

var (
	fifo     = Settings{Mode: Fifo}
	byKey    = Settings{Mode: ByKey}
	tagged   = Settings{Mode: Queue, Tags: []string{"a", "b"}}
	filtered = Settings{Mode: Queue, Filter: `key == "1"`}
)

// tries opens the group with the settings and leaves at once.
func (w world) tries(h *Hub, s Settings, want error) {
	w.t.Helper()
	c, err := h.Open(w.t.Context(), Ask{Key: key, Settings: s, Lease: 30 * time.Second, Prefetch: 10})
	if !errors.Is(err, want) {
		w.t.Errorf("%+v: %v, want %v", s, err, want)
	}
	if err == nil {
		c.Close()
	}
}

func TestSettingsThatDiffer(t *testing.T) {
	all := []Settings{fifo, byKey, tagged, filtered, {Mode: Queue}, {Mode: Queue, Tags: []string{"a"}}, {Mode: Queue, Filter: `key == "2"`}}
	for i, first := range all {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			inWorld(t, 1, func(t *testing.T, w world) {
				h := w.hub(Limits{})
				defer w.close(h)
				s, err := h.Open(t.Context(), Ask{Key: key, Settings: first})
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				for j, other := range all {
					want := error(nil)
					if j != i {
						want = errs.Conflict
					}
					w.tries(h, other, want)
				}
			})
		})
	}
}

func TestConflictTellsThePresentSettings(t *testing.T) {
	for _, c := range []struct {
		s    Settings
		want string
	}{
		{fifo, "the group has mode fifo, no tag, no filter:"},
		{Settings{Queue, []string{"a", "b"}, `key == "1"`}, `the group has mode queue, tag a,b, filter "key == \"1\"":`},
	} {
		if err := c.s.conflict(); !errors.Is(err, errs.Conflict) || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%v, want %s", err, c.want)
		}
	}
}

func TestBadFilterJoinsNothing(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hub(Limits{})
		defer w.close(h)
		w.tries(h, Settings{Mode: Queue, Filter: "key =="}, errs.InvalidParam)
		if n := len(h.Keys()); n != 0 || h.Sessions() != 0 {
			t.Errorf("%d groups, %d sessions", n, h.Sessions())
		}
	})
}

// The group leaves after 10 s; its settings bind for 60 s, whether a client of the same came meanwhile or nobody did.
func TestSettingsBindForAWhile(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hub(Limits{})
		defer w.close(h)
		w.tries(h, tagged, nil)
		w.pass(5 * time.Second)
		w.tries(h, fifo, errs.Conflict)
		w.pass(54 * time.Second)
		if len(h.Keys()) != 0 {
			t.Fatal("the group is still here")
		}
		w.tries(h, fifo, errs.Conflict)
		w.pass(2 * time.Second)
		w.tries(h, fifo, nil)
		w.pass(30 * time.Second)
		w.tries(h, fifo, nil)
		w.pass(59 * time.Second)
		w.tries(h, byKey, errs.Conflict)
		w.pass(2 * time.Second)
		w.tries(h, byKey, nil)
		w.pass(2 * time.Minute)
		w.tries(h, tagged, nil)
		h.mu.Lock()
		defer h.mu.Unlock()
		if len(h.kept) > 1 {
			t.Errorf("%d are remembered of one group", len(h.kept))
		}
	})
}

// A group that stays longer than its settings bind gives them up without being left first.
func TestSettingsOfAGroupThatStays(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hub(Limits{Linger: time.Hour})
		defer w.close(h)
		w.tries(h, fifo, nil)
		w.pass(59 * time.Second)
		w.tries(h, tagged, errs.Conflict)
		w.pass(2 * time.Second)
		w.tries(h, tagged, nil)
		w.tries(h, fifo, errs.Conflict)
		a := poll()
		a.Settings, a.Lease = Settings{Mode: Queue}, 10*time.Minute
		w.pass(61 * time.Second)
		s := w.open(h, a)
		w.publish(0, 0, 1)
		w.want(s, 1, 0)
		s.Close()
		w.pass(5 * time.Minute)
		w.tries(h, fifo, errs.Conflict) // a message is un-acked
		w.pass(6*time.Minute + time.Second)
		w.tries(h, fifo, nil)
	})
}

func TestSettingsWhileAMessageIsUnacked(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hub(Limits{})
		defer w.close(h)
		w.publish(0, 0, 1)
		a := poll()
		a.Lease = 10 * time.Minute
		s := w.open(h, a)
		got := w.want(s, 1, 0)
		s.Close()
		w.pass(9 * time.Minute)
		w.tries(h, byKey, errs.Conflict)
		w.settled(h.Settle(t.Context(), key, verbs(Ack, got...)...), nil)
		w.pass(59 * time.Second)
		w.tries(h, byKey, errs.Conflict)
		w.pass(2 * time.Second)
		w.tries(h, byKey, nil)
	})
}

// While nobody has given settings verbs are taken, and nothing is delivered; settings of before still bind then.
func TestVerbsBeforeAnyClient(t *testing.T) {
	inWorld(t, 2, func(t *testing.T, w world) {
		h := w.hub(Limits{})
		w.publish(0, 0, 4)
		s := w.open(h, poll())
		got := w.want(s, 10, 0, 1, 2, 3)
		w.close(h)

		h = w.hub(Limits{})
		w.settled(h.Settle(t.Context(), key, verbs(Ack, got[1])...), nil)
		w.settled(h.Settle(t.Context(), key, Verb{Ref: got[2].Ref, Op: Nack}), nil)
		w.settled(h.Through(t.Context(), key, store.Position{Next: 1}), nil)
		if info, some := h.Info(key); !some || info.Mode != "" || info.Clients != 0 {
			t.Errorf("%+v, %v", info, some)
		}
		w.tries(h, byKey, nil)
		w.pass(2 * time.Second)
		w.close(h)
		if c := w.committed(); c[0] != 2 {
			t.Errorf("committed %v, want 2", c)
		}
	})
}

func TestVerbsAfterTheClientsBindLikeBefore(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hub(Limits{})
		defer w.close(h)
		w.tries(h, tagged, nil)
		w.pass(20 * time.Second)
		w.settled(h.Through(t.Context(), key, store.Position{}), nil) // a life without settings
		w.tries(h, fifo, errs.Conflict)
		w.pass(20 * time.Second) // which ends
		w.tries(h, fifo, errs.Conflict)
		w.settled(h.Through(t.Context(), key, store.Position{}), nil)
		w.pass(15 * time.Second)
		w.settled(h.Through(t.Context(), key, store.Position{}), nil)
		w.pass(6 * time.Second)
		w.tries(h, fifo, nil) // verbs lengthen nothing
	})
}

func TestFilterIsCompiledOncePerLife(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hub(Limits{})
		defer w.close(h)
		w.tries(h, filtered, nil)
		first, err := h.filter(&Ask{Key: key, Settings: filtered})
		if err != nil || first == nil {
			t.Fatal(err)
		}
		if again, _ := h.filter(&Ask{Key: key, Settings: filtered}); again != first {
			t.Error("the second client's was compiled anew")
		}
		if other, _ := h.filter(&Ask{Key: key, Settings: tagged}); other == first {
			t.Error("another's is the same")
		}
	})
}

func TestSettingsThatAreRemembered(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hub(Limits{})
		defer w.close(h)
		now := time.Now()
		name := func(i int) Key { return Key{Topic: fmt.Sprint(i)} }
		for i := range maxKept {
			h.keep(name(i), kept{fifo, now.Add(time.Duration(i) * time.Millisecond)}, now)
		}
		if len(h.kept) != maxKept-1 { // the first was over at once
			t.Fatalf("%d are kept", len(h.kept))
		}
		h.keep(name(-1), kept{fifo, now.Add(time.Hour)}, now)
		h.keep(name(-2), kept{fifo, now.Add(time.Hour)}, now.Add(time.Second)) // 1,000 are over by now
		if n := len(h.kept); n != maxKept-999 {
			t.Errorf("%d are kept", n)
		}
		for i := range maxKept {
			h.keep(name(-3-i), kept{fifo, now.Add(time.Hour)}, now)
		}
		if n := len(h.kept); n != maxKept {
			t.Errorf("%d are kept", n)
		}
	})
}

// Who waits for a group to be let go does not care what its settings were.
func TestSettingsOverASuspension(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hub(Limits{})
		defer w.close(h)
		s, err := h.Open(t.Context(), Ask{Key: key, Settings: tagged})
		if err != nil {
			t.Fatal(err)
		}
		w.suspend(h, 10*time.Second)
		if _, err := s.Next(context.Background(), 1); !errors.Is(err, ErrMoved) {
			t.Errorf("Next: %v", err)
		}
		s.Close()
		w.tries(h, fifo, errs.Conflict) // after 10 s
		w.tries(h, tagged, nil)
	})
}
