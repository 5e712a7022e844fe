package group

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// The store that lets nobody in, or out, for a while.
type slow struct {
	store.Subscriber
	only    string // the topic that it is slow with; "": with all
	in, out time.Duration
	fail    error // of Close
}

func (s *slow) Subscribe(ctx context.Context, spec store.Spec) (store.Feed, error) {
	if s.only != "" && s.only != spec.Topic {
		return s.Subscriber.Subscribe(ctx, spec)
	}
	if !sleep(ctx, s.in) {
		return nil, fmt.Errorf("joining: %w", ctx.Err())
	}
	f, err := s.Subscriber.Subscribe(ctx, spec)
	if err != nil {
		return nil, err
	}
	return &slowFeed{f, s}, nil
}

type slowFeed struct {
	store.Feed
	s *slow
}

func (f *slowFeed) Close(ctx context.Context) error {
	sleep(ctx, f.s.out)
	if err := f.Feed.Close(ctx); err != nil {
		return err
	}
	return f.s.fail
}

func TestSuspendWhileJoining(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hub(Limits{})
		defer w.close(h)
		h.cfg.Store = &slow{Subscriber: w.store, in: 10 * time.Second}
		w.publish(0, 0, 1)
		opened := make(chan Session, 1)
		began := time.Now()
		go func() { opened <- w.open(h, explicit(100)) }()
		w.pass(5 * time.Second)
		w.suspend(h, 20*time.Second)
		if took := time.Since(began); took != 5*time.Second {
			t.Errorf("Suspend waited for the store to let us in: %v", took)
		}
		w.want(<-opened, 10, 0)
		if took := time.Since(began); took != 35*time.Second {
			t.Errorf("Open came back after %v, want 35s", took)
		}
	})
}

func TestSuspendWithAStoreThatIsSlowToLetGo(t *testing.T) {
	inWorld(t, 1, func(t *testing.T, w world) {
		h := w.hub(Limits{})
		defer w.close(h)
		s := &slow{Subscriber: w.store, out: 5 * time.Second}
		h.cfg.Store = s
		w.publish(0, 0, 1)
		sess := w.open(h, explicit(100))
		short, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		if err := h.Suspend(short, key, time.Minute); !errors.Is(err, errs.Unavailable) {
			t.Errorf("Suspend that waits for 2 s: %v", err)
		}
		w.suspend(h, 10*time.Second) // the same leaving is waited for
		s.out, s.fail = 0, context.DeadlineExceeded
		h.Resume(key)
		w.want(sess, 10, 0)
		if err := h.Suspend(t.Context(), key, time.Second); !errors.Is(err, errs.Unavailable) {
			t.Errorf("Suspend that the store did not confirm: %v", err)
		}
		s.fail = nil
	})
}
