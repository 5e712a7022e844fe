package group

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kateway/kateway/internal/errs"
)

// plain opens a session that does not look for another when the group moves.
func (w world) plain(h *Hub, a *Ask) Session {
	w.t.Helper()
	a.Key = key
	s, err := h.Open(w.t.Context(), *a)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

func TestEvict(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hub(Limits{})
		defer w.close(h)
		h.Evict(key) // is not here
		w.publish(0, 0, 3)
		s, waits := w.plain(h, explicit(2)), w.plain(h, explicit(2))
		got := w.want(s, 2, 0, 1)
		w.settled(s.Settle(verbs(Ack, got[0])...), nil)
		waiting := next(t.Context(), waits)
		synctest.Wait()
		if keys := h.Keys(); !slices.Equal(keys, []Key{key}) {
			t.Errorf("here are %v", keys)
		}
		h.Evict(key)
		h.Evict(key)
		if a := <-waiting; !errors.Is(a.err, ErrMoved) || a.at != 0 {
			t.Errorf("Next: %+v", a)
		}
		again := w.plain(h, explicit(100)) // waits until it has left
		if c := w.committed(); c[0] != 1 {
			t.Errorf("committed %v when the group was let go", c)
		}
		w.settled(s.Settle(verbs(Ack, got[1])...), ErrMoved)
		s.Close()
		waits.Close()
		w.nothing(again, 29*time.Second) // the partition is leased to a client that nobody names
		if got := w.want(again, 10, 1, 2); got[0].Ref.Attempt != 2 || got[1].Ref.Attempt != 1 {
			t.Errorf("%+v", got)
		}
		if h.Sessions() != 1 {
			t.Errorf("%d sessions are open", h.Sessions())
		}
	})
}

// Who was waiting for the group to join when it was evicted is sent away too; who comes then waits for its leaving.
func TestEvictWhileJoining(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hub(Limits{})
		defer w.close(h)
		h.cfg.Store = &slow{Subscriber: w.store, in: 10 * time.Second, out: 3 * time.Second}
		ask := explicit(1)
		ask.Key = key
		early := make(chan error, 2)
		go func() { _, err := h.Open(t.Context(), *ask); early <- err }()
		go func() { early <- h.Settle(t.Context(), key, Verb{Ref: Ref{Attempt: 1}})[0] }()
		w.pass(time.Second)
		h.Evict(key)
		for range 2 {
			if err := <-early; !errors.Is(err, ErrMoved) {
				t.Errorf("of before: %v", err)
			}
		}
		began := time.Now()
		s, err := h.Open(t.Context(), *ask)
		if err != nil || time.Since(began) != 10*time.Second {
			t.Fatalf("of after: %v, %v", err, time.Since(began))
		}
		h.Evict(key)
		began = time.Now()
		late, err := h.Open(t.Context(), *ask)
		if err != nil || time.Since(began) != 13*time.Second+partTime {
			t.Fatalf("while it leaves: %v, %v", err, time.Since(began))
		}
		s.Close()
		late.Close()
		if h.Sessions() != 0 {
			t.Errorf("%d sessions", h.Sessions())
		}
	})
}

// Verbs that wait for a partition go where the group goes.
func TestEvictWhileVerbsWait(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hub(Limits{})
		defer w.close(h)
		out := make(chan error, 1)
		began := time.Now()
		go func() { out <- h.Settle(t.Context(), key, Verb{Ref: Ref{Partition: 9, Attempt: 1}})[0] }()
		w.pass(time.Second)
		h.Evict(key)
		if err := <-out; !errors.Is(err, ErrMoved) || time.Since(began) != time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

// A group that was evicted goes on elsewhere, with settings of its own by the time it comes back.
func TestEvictedSettingsDoNotBind(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hub(Limits{})
		defer w.close(h)
		w.tries(h, tagged, nil)
		h.Evict(key)
		w.tries(h, fifo, nil)
	})
}

// Two gateways between which the group goes back and forth under load: nothing is lost, and nothing comes again that was
// acked.
func TestEvictUnderLoad(t *testing.T) {
	for _, mode := range []Mode{Fifo, Queue, ByKey} {
		t.Run(string(mode), func(t *testing.T) { evictUnderLoad(t, mode) })
	}
}

func evictUnderLoad(t *testing.T, mode Mode) {
	const partitions, each = 3, 400
	inWorld(t, partitions, func(t *testing.T, w world) {
		hubs := []*Hub{w.hub(Limits{}), w.hub(Limits{})}
		one, two := newLoad(w, hubs[0]), newLoad(w, hubs[1])
		two.acked = one.acked
		one.mode, two.mode = mode, mode
		for _, l := range []*load{one, two} {
			l.wg.Go(l.stream)
			l.wg.Go(l.polls)
		}
		for i := range each {
			for p := range int32(partitions) {
				w.publish(p, i, i+1)
			}
			w.pass(7 * time.Millisecond)
			if i%25 == 24 {
				hubs[i/25%2].Evict(key)
			}
		}
		w.pass(2 * time.Minute)
		two.finish(partitions * each)
		one.finish(partitions * each)
		w.close(hubs[0])
		w.close(hubs[1])
		if c := w.committed(); !slices.Equal(c, []int64{each, each, each}) {
			t.Errorf("committed %v, want %d each", c, each)
		}
	})
}

func TestEvictWhileDraining(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hub(Limits{})
		s := w.plain(h, explicit(1))
		waiting := next(t.Context(), s)
		synctest.Wait()
		h.Drain(time.Hour)
		synctest.Wait() // the only session ends at once
		h.Evict(key)
		if a := <-waiting; !errors.Is(a.err, errs.Draining) {
			t.Errorf("Next: %+v", a)
		}
		if _, err := h.Open(context.Background(), Ask{Key: key, Settings: fifo}); !errors.Is(err, errs.Draining) {
			t.Errorf("Open: %v", err)
		}
		w.close(h)
	})
}
