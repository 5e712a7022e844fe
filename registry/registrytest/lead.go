package registrytest

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
)

// term is a time in which a member has a duty, until it loses it or the test ends.
type term struct {
	began chan int64 // the epoch
	ended chan struct{}
	ctx   atomic.Pointer[context.Context]
	stop  func()
}

// lead runs Lead in the background: it does nothing until its context ends.
func lead(t *testing.T, m Member, duty string) *term {
	ctx, cancel := context.WithCancel(t.Context())
	term := &term{began: make(chan int64, 1), ended: make(chan struct{})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = m.Lead(ctx, duty, func(ctx context.Context, epoch int64) error {
			term.ctx.Store(&ctx)
			term.began <- epoch
			<-ctx.Done()
			close(term.ended)
			return nil
		})
	}()
	term.stop = func() { cancel(); <-done }
	t.Cleanup(term.stop)
	return term
}

// oneLeads lets many candidates take turns, several times each.
func oneLeads(t *testing.T, join func() Member) {
	const members, turns = 3, 15
	var wg sync.WaitGroup
	var leading, count atomic.Int64
	var last int64 // guarded by what is tested
	for range members {
		m := join()
		for range turns / members {
			wg.Go(func() {
				err := m.Lead(t.Context(), "d", func(ctx context.Context, epoch int64) error {
					if n := leading.Add(1); n != 1 {
						t.Errorf("%d lead at a time", n)
					}
					if epoch <= last {
						t.Errorf("epoch %d after %d", epoch, last)
					}
					last = epoch
					count.Add(1)
					leading.Add(-1)
					return ctx.Err()
				})
				if err != nil {
					t.Errorf("Lead answers %v", err)
				}
			})
		}
	}
	done := make(chan struct{})
	go func() { defer close(done); wg.Wait() }()
	if await(t, done); count.Load() != turns {
		t.Errorf("%d of %d had their turn", count.Load(), turns)
	}
}

func leadAnswers(t *testing.T, join func() Member) {
	a, b := join(), join()
	broken := errors.New("broken")
	calls := 0
	err := a.Lead(t.Context(), "d", func(context.Context, int64) error { calls++; return broken })
	if !errors.Is(err, broken) || calls != 1 {
		t.Errorf("Lead answers %v after %d calls, want do's error after one", err, calls)
	}
	holder := lead(t, a, "d")
	await(t, holder.began)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- b.Lead(ctx, "d", func(context.Context, int64) error { t.Error("two lead"); return nil })
	}()
	cancel()
	if err := await(t, done); !errors.Is(err, context.Canceled) {
		t.Errorf("a candidate whose context ended is answered %v", err)
	}
	holder.stop()
	next := lead(t, b, "d")
	await(t, next.began)
}

// leaderIsLost cuts the leader off. The next one must not begin before the first one's context has ended.
func leaderIsLost(t *testing.T, join func() Member) {
	a, b := join(), join()
	announce(t, a, fixed("a"))
	ids(t, b.Watch(t.Context()), "a")
	first := lead(t, a, "d")
	epoch := await(t, first.began)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan int64, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = b.Lead(ctx, "d", func(_ context.Context, epoch int64) error {
			if (*first.ctx.Load()).Err() == nil {
				t.Error("the next leader begins while the first one's context has not ended")
			}
			done <- epoch
			return nil
		})
	})
	defer wg.Wait()
	defer cancel()
	back := a.Lose("a")
	if next := await(t, done); next <= epoch {
		t.Errorf("epoch %d after %d", next, epoch)
	}
	await(t, first.ended)
	back()
	again := lead(t, a, "d") // the one that was lost may lead again
	if next := await(t, again.began); next <= epoch {
		t.Errorf("epoch %d after %d", next, epoch)
	}
}

// candidateIsLost cuts off one that waits: it does not hold up those behind it, and waits again when it is back.
func candidateIsLost(t *testing.T, join func() Member) {
	a, b, c := join(), join(), join()
	announce(t, b, fixed("b"))
	ids(t, c.Watch(t.Context()), "b")
	first := lead(t, a, "d")
	await(t, first.began)
	second := lead(t, b, "d")
	back := b.Lose("b")
	third := lead(t, c, "d")
	first.stop()
	back()
	for range 2 { // in any order, since b may have returned before c came
		select {
		case <-second.began:
			second.stop()
		case <-third.began:
			third.stop()
		case <-t.Context().Done():
		}
	}
}

func dutiesAreApart(t *testing.T, join func() Member) {
	a, b := join(), join()
	await(t, lead(t, a, "one").began)
	await(t, lead(t, b, "two").began)
}
