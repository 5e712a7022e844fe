package home

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// merged makes a flow of n fake sessions.
func merged(keep bool, n int) (*Merged, []*fakeSession) {
	var fakes []*fakeSession
	var list []group.Session
	for range n {
		s := &fakeSession{come: make(chan batchOr, 100), closed: make(chan struct{})}
		fakes, list = append(fakes, s), append(list, s)
	}
	return Merge(keep, list...), fakes
}

func TestMergedTellsTheSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, sources := merged(true, 3)
		defer m.Close()
		for _, want := range []int{1, 0, 2, 2, 0} {
			sources[want].come <- batchOr{Batch: delivered(int64(want))}
			from, b, err := m.Next(t.Context(), 10)
			if err != nil || from != want || !slices.Equal(offsets(b.Deliveries), []int64{int64(want)}) {
				t.Errorf("from %d: %v, %v", from, offsets(b.Deliveries), err)
			}
			m.Settle(from, verbs(group.Ack, b.Deliveries...)...)
		}
		for i, want := range []int{2, 1, 2} {
			if got := sources[i].verbs(); len(got) != want {
				t.Errorf("source %d was told of %v", i, got)
			}
		}
	})
}

// Next answers at most what was asked for, from all together. What is too much is kept, or goes back at once.
func TestMergedIsExact(t *testing.T) {
	for name, keep := range map[string]bool{"kept": true, "goes back": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, sources := merged(keep, 2)
				var wg sync.WaitGroup
				var first group.Batch
				wg.Go(func() { _, first, _ = m.Next(t.Context(), 2) })
				synctest.Wait()
				sources[0].come <- batchOr{Batch: delivered(1, 2, 3)}
				wg.Wait()
				sources[1].come <- batchOr{Batch: delivered(11, 12)}
				synctest.Wait()
				if got := offsets(first.Deliveries); !slices.Equal(got, []int64{1, 2}) {
					t.Errorf("first %v", got)
				}
				back := [2][]int64{returned(sources[0].verbs(), group.Return), returned(sources[1].verbs(), group.Return)}
				ended, cancel := context.WithCancel(t.Context())
				cancel()
				var rest []int64
				for {
					_, b, err := m.Next(ended, 1)
					if err != nil {
						break
					}
					rest = append(rest, offsets(b.Deliveries)...)
				}
				slices.Sort(rest)
				switch {
				case keep && (!slices.Equal(rest, []int64{3, 11, 12}) || len(back[0])+len(back[1]) > 0):
					t.Errorf("kept %v, back %v", rest, back)
				case !keep && (len(rest) > 0 || !slices.Equal(back[0], []int64{3}) || !slices.Equal(back[1], []int64{11, 12})):
					t.Errorf("kept %v, back %v", rest, back)
				}
				m.Close()
			})
		})
	}
}

// What Next has not answered goes back when the flow is closed, also what comes at that moment.
func TestMergedClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, sources := merged(true, 3)
		sources[0].come <- batchOr{Batch: delivered(1, 2)}
		if _, _, err := m.Next(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		sources[1].come <- batchOr{Batch: delivered(5)}
		synctest.Wait()
		m.Close()
		m.Close()
		for i, want := range [][]int64{{2}, {5}, nil} {
			if got := returned(sources[i].verbs(), group.Return); !slices.Equal(got, want) {
				t.Errorf("source %d: %v went back", i, got)
			}
			<-sources[i].closed
		}
		if _, _, err := m.Next(t.Context(), 1); !errors.Is(err, errs.Unavailable) {
			t.Error(err)
		}
	})
}

// A wait goes on over many calls of Next, and an error is answered once, behind what came before it.
func TestMergedWaitsAndErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, sources := merged(true, 2)
		defer m.Close()
		for range 5 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if from, _, err := m.Next(ctx, 3); from != -1 || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%d, %v", from, err)
			}
			cancel()
		}
		if got := sources[0].asks(); !slices.Equal(got, []int{3}) {
			t.Errorf("asked for %v", got)
		}
		sources[1].come <- batchOr{err: errs.UnknownTopic}
		if from, _, err := m.Next(t.Context(), 3); from != 1 || !errors.Is(err, errs.UnknownTopic) {
			t.Errorf("%d, %v", from, err)
		}
		sources[0].come <- batchOr{Batch: group.Batch{Gaps: []store.Gap{{To: 7}}}}
		if from, b, err := m.Next(t.Context(), 3); from != 0 || err != nil || len(b.Gaps) != 1 {
			t.Errorf("%d, %v", from, err)
		}
		if got := sources[1].asks(); len(got) != 1 {
			t.Errorf("one that has ended was asked for %v", got)
		}
	})
}

// None of several sources that always have something waits for ever.
func TestMergedIsFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, sources := merged(true, 3)
		defer m.Close()
		for i := range 30 {
			for _, s := range sources {
				s.come <- batchOr{Batch: delivered(int64(i))}
			}
		}
		count := [3]int{}
		for range 60 {
			from, _, err := m.Next(t.Context(), 1)
			if err != nil {
				t.Fatal(err)
			}
			count[from]++
			synctest.Wait()
		}
		for i, n := range count {
			if n < 15 {
				t.Errorf("source %d had its turn %d times", i, n)
			}
		}
	})
}
