package mem_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
	"github.com/kateway/kateway/store/mem"
)

// open makes a store with one topic "t" of three partitions.
func open(t *testing.T) *mem.Store {
	t.Helper()
	s := mem.New()
	if err := s.CreateTopic(t.Context(), store.Topic{Name: "t", Partitions: 3}); err != nil {
		t.Fatal(err)
	}
	return s
}

func publish(ctx context.Context, s *mem.Store, value string) error {
	return s.Publish(ctx, "t", store.AckAll, &store.Message{Partition: 0, Value: []byte(value)})
}

// stored is what partition 0 holds.
func stored(t *testing.T, s *mem.Store) (values []string) {
	t.Helper()
	for m, err := range s.Browse(t.Context(), "t", 0, 0) {
		if err != nil {
			t.Fatal(err)
		}
		values = append(values, string(m.Value))
	}
	return values
}

func join(t *testing.T, s *mem.Store) store.Feed {
	t.Helper()
	f, err := s.Subscribe(t.Context(), store.Spec{Topic: "t", Group: "g"})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func poll(t *testing.T, f store.Feed) store.Batch {
	t.Helper()
	b, err := f.Poll(t.Context(), 100, nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// wantKind fails the test unless err is of the kind.
func wantKind(t *testing.T, err error, want errs.Kind) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got %v, want kind %q", err, want.Code())
	}
}

func TestHoldWaitsBeforeItStores(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t)
		release := s.Hold()
		gone, cancel := context.WithCancel(t.Context())
		left, stays := make(chan error), make(chan error)
		go func() { left <- publish(gone, s, "left") }()
		go func() { stays <- publish(t.Context(), s, "stays") }()
		synctest.Wait()
		if got := stored(t, s); len(got) > 0 {
			t.Errorf("%q is stored while publishes are held", got)
		}
		cancel()
		wantKind(t, <-left, errs.Uncertain)
		release()
		release()
		if err := <-stays; err != nil {
			t.Errorf("the one that waited: %v", err)
		}
		if got := stored(t, s); !slices.Equal(got, []string{"stays"}) {
			t.Errorf("stored is %q", got)
		}
	})
}

func TestCutWaitsAfterItStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t)
		heal := s.Cut()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		wantKind(t, publish(ctx, s, "a"), errs.Uncertain)
		if got := stored(t, s); !slices.Equal(got, []string{"a"}) {
			t.Errorf("stored is %q", got)
		}
		answer := make(chan error)
		go func() { answer <- publish(t.Context(), s, "b") }()
		synctest.Wait()
		heal()
		if err := <-answer; err != nil {
			t.Errorf("the one that waited: %v", err)
		}
	})
}

func TestCloseEndsWhatWaits(t *testing.T) {
	for name, c := range map[string]struct {
		fault func(*mem.Store) func()
		want  error
	}{
		"held": {(*mem.Store).Hold, store.ErrClosed},
		"cut":  {(*mem.Store).Cut, errs.Uncertain},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := open(t)
				c.fault(s)
				answer := make(chan error)
				go func() { answer <- publish(t.Context(), s, "a") }()
				synctest.Wait()
				if err := s.Close(t.Context()); err != nil {
					t.Error(err)
				}
				if err := <-answer; !errors.Is(err, c.want) {
					t.Errorf("got %v, want %v", err, c.want)
				}
			})
		})
	}
}

func TestHeldOnceIsStoredOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t)
		release := s.Hold()
		answers := make(chan error)
		for range 2 {
			go func() {
				answers <- s.PublishOnce(t.Context(), "t", store.AckAll, store.Once{Key: "k"}, &store.Message{Value: []byte("a")})
			}()
		}
		synctest.Wait()
		release()
		if err := errors.Join(<-answers, <-answers); err != nil {
			t.Error(err)
		}
		if got := stored(t, s); !slices.Equal(got, []string{"a"}) {
			t.Errorf("stored is %q", got)
		}
	})
}

// TestCutOnceIsKnown: who was left without an answer learns it by asking again.
func TestCutOnceIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t)
		heal := s.Cut()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		again := &store.Message{Value: []byte("a"), Offset: -1}
		wantKind(t, s.PublishOnce(ctx, "t", store.AckAll, store.Once{Key: "k"}, again.Clone()), errs.Uncertain)
		heal()
		if err := s.PublishOnce(t.Context(), "t", store.AckAll, store.Once{Key: "k"}, again); err != nil || again.Offset != 0 {
			t.Errorf("asked again: %v, offset %d", err, again.Offset)
		}
		if got := stored(t, s); !slices.Equal(got, []string{"a"}) {
			t.Errorf("stored is %q", got)
		}
	})
}

func TestFailRefusesPublishes(t *testing.T) {
	s := open(t)
	s.Fail(func(topic string) error {
		if topic != "t" {
			t.Errorf("asked for topic %q", topic)
		}
		return errs.DiskFull
	})
	wantKind(t, publish(t.Context(), s, "a"), errs.DiskFull)
	s.Fail(nil)
	if err := publish(t.Context(), s, "b"); err != nil {
		t.Error(err)
	}
	if got := stored(t, s); !slices.Equal(got, []string{"b"}) {
		t.Errorf("stored is %q", got)
	}
}

func TestRefusedCommitIsToldAndDoesNotTake(t *testing.T) {
	s := open(t)
	f := join(t, s)
	poll(t, f)
	s.Refuse(func(_, _ string, p store.Position) error {
		if p.Beyond != "" {
			return errs.TooLarge
		}
		return nil
	})
	for _, p := range []store.Position{{Partition: 1, Next: 5}, {Partition: 1, Next: 7, Beyond: "x"}} {
		if err := f.Commit(p); err != nil {
			t.Fatal(err)
		}
	}
	b := poll(t, f)
	if len(b.Refused) != 1 || b.Refused[0].Partition != 1 || !errors.Is(b.Refused[0].Err, errs.TooLarge) {
		t.Errorf("refused is %+v", b.Refused)
	}
	lag, err := s.Lag(t.Context(), "t", "g")
	if err != nil || lag[1].Committed != 5 {
		t.Errorf("lag is %+v, %v", lag, err)
	}
}

func TestFailPollEndsAWaitingPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t)
		f := join(t, s)
		poll(t, f)
		answer := make(chan error)
		go func() {
			_, err := f.Poll(t.Context(), 1, nil)
			answer <- err
		}()
		synctest.Wait()
		s.FailPoll(func(string, string) error { return errs.Unavailable })
		wantKind(t, <-answer, errs.Unavailable)
		s.FailPoll(nil)
		if err := publish(t.Context(), s, "a"); err != nil {
			t.Fatal(err)
		}
		if b := poll(t, f); len(b.Messages) != 1 {
			t.Errorf("after the fault: %+v", b)
		}
	})
}

// TestEvictIsAnUncleanLoss: no commit between the loss and its telling, then the member is back.
func TestEvictIsAnUncleanLoss(t *testing.T) {
	s := open(t)
	f := join(t, s)
	poll(t, f)
	if err := f.Commit(store.Position{Partition: 2, Next: 3, Beyond: "b"}); err != nil {
		t.Fatal(err)
	}
	s.Evict("t", "g")
	wantKind(t, f.Commit(store.Position{Partition: 2, Next: 4}), errs.Fenced)
	if b := poll(t, f); !slices.Equal(b.Lost, []int32{0, 1, 2}) || len(b.Gained) > 0 {
		t.Errorf("first Poll: %+v", b)
	}
	wantKind(t, f.Commit(store.Position{Partition: 2, Next: 4}), errs.Fenced)
	if b := poll(t, f); len(b.Gained) != 3 || b.Gained[2].Beyond != "b" || len(b.Lost) > 0 {
		t.Errorf("second Poll: %+v", b)
	}
}

// TestHandOverTakesFiveSeconds: of a member that does not poll, counted from when it was to give the partition away, and
// anew from when it was told.
func TestHandOverTakesFiveSeconds(t *testing.T) {
	for name, told := range map[string]bool{"not told": false, "told": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := open(t)
				a := join(t, s)
				poll(t, a)
				b := join(t, s)
				began := time.Now()
				if told {
					time.Sleep(3 * time.Second) //nolint:forbidigo // the clock of the bubble
					began = time.Now()
					if got := poll(t, a); !slices.Equal(got.Lost, []int32{1}) {
						t.Errorf("a was told %+v", got)
					}
				}
				if err := a.Commit(store.Position{Partition: 1, Next: 1}); err != nil {
					t.Error(err)
				}
				if got := poll(t, b); len(got.Gained) != 1 || got.Gained[0] != (store.Position{Partition: 1, Next: 1}) {
					t.Errorf("b was told %+v", got)
				}
				if took := time.Since(began); took != 5*time.Second {
					t.Errorf("it took %v", took)
				}
				wantKind(t, a.Commit(store.Position{Partition: 1, Next: 2}), errs.Fenced)
			})
		})
	}
}

func TestPartitionsComeInTurn(t *testing.T) {
	s := open(t)
	f := join(t, s)
	for p := range int32(3) {
		for range 4 {
			if err := s.Publish(t.Context(), "t", store.AckAll, &store.Message{Partition: p}); err != nil {
				t.Fatal(err)
			}
		}
	}
	var seen []int32
	for range 3 {
		b, err := f.Poll(t.Context(), 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		seen = append(seen, b.Messages[0].Partition)
	}
	if slices.Sort(seen); !slices.Equal(seen, []int32{0, 1, 2}) {
		t.Errorf("three Polls of one message came from partitions %v: a full one starves the others", seen)
	}
}
