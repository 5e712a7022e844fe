package storetest_test

import (
	"context"
	"errors"
	"iter"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
	"github.com/kateway/kateway/store/mem"
	"github.com/kateway/kateway/store/storetest"
)

// caught says which test must turn red for a store with the bug. The suite fails its test by *testing.T, so each runs in a
// process of its own.
var caught = map[string]string{
	"reverses the messages of a call":           "PublishKeepsOrder",
	"chooses partitions by the key's length":    "PublishByKey",
	"ignores the wanted partition":              "PublishToPartition",
	"fails the whole batch for one bad message": "PublishOneBad",
	"stores what is behind a failed one":        "PublishTooLarge",
	"answers before it stores":                  "PublishConcurrently",
	"one cancelled caller fails the next":       "PublishCancelHarmsNoOther",
	"calls uncertain unavailable":               "PublishUncertain",
	"keeps the caller's bytes":                  "BytesMayBeScribbledOn",
	"turns a tombstone into an empty value":     "BytesAreKept",
	"loses the second header of a name":         "BytesAreKept",
	"applies the start each time":               "StartIsUsedOnce",
	"commits no position at Subscribe":          "StartNewest",
	"ignores max":                               "PollMax",
	"ignores paused":                            "PollPaused",
	"loses a paused partition's messages":       "PollPaused",
	"loses messages on cancel":                  "PollCancelLosesNothing",
	"keeps no commit":                           "CommitSurvivesClose",
	"forgets commits over a restart":            "CommitSurvivesReopen",
	"cuts what is beside the position":          "CommitSizes",
	"waits for the log to grow":                 "CommitBehindTheEnd",
	"keeps no final commit":                     "MembersMoveCleanly",
	"gains before the other let go":             "MembersMoveCleanly",
	"does not fence":                            "MembersFenced",
	"is silent about a gap":                     "GapIsReported",
	"does not end Poll on Close":                "CloseEndsPoll",
	"does not tell that the topic is gone":      "DeleteEndsPoll",
	"hides what is beside the position":         "LagSeekResolveBrowseAgree",
	"seeks under a member":                      "SeekConflict",
	"forgets under a member":                    "ForgetGroupConflict",
	"forgets no group":                          "ForgetGroup",
	"stores again for a known key":              "OnceReplay",
	"takes any digest for a known key":          "OnceMismatch",
	"leaves a goroutine":                        "StartOldest",
	"follows from the newest":                   "FollowFromPositions",
	"follows twice what comes meanwhile":        "FollowWhileMessagesCome",
	"loses a message of a tail on cancel":       "FollowCancelLosesNothing",
	"follows without telling gaps":              "FollowGap",
	"waits for the log to grow under a tail":    "FollowBeyondTheEnd",
	"follows no new partition":                  "FollowNewPartitions",
	"follows by a group":                        "FollowTouchesNoGroup",
	"does not end a tail's Poll":                "FollowCloseEndsPoll",
}

const plant = "STORETEST_PLANTED_BUG"

func TestPlantedBugsTurnTheirTestRed(t *testing.T) {
	for bug, test := range caught {
		t.Run(strings.ReplaceAll(bug, " ", "_"), func(t *testing.T) {
			t.Parallel()
			out := red(t, bug, "TestWithPlantedBug/"+test)
			if strings.Contains(out, "panic:") {
				t.Errorf("%s did not fail by its own word:\n%s", test, out)
			}
		})
	}
}

// red runs a test with a bug in a process of its own, fails t unless the test fails there, and answers what it printed.
func red(t *testing.T, bug, test string) string {
	t.Helper()
	pattern := "^" + strings.ReplaceAll(test, "/", "$/^") + "$"
	var out []byte
	var err error
	for range tries {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run="+pattern, "-test.v")
		cmd.Env = append(os.Environ(), plant+"="+bug)
		out, err = cmd.CombinedOutput()
		if _, failed := errors.AsType[*exec.ExitError](err); failed && strings.Contains(string(out), "--- FAIL: "+test+" ") {
			return string(out)
		}
	}
	t.Errorf("%s did not fail: %v\n%s", test, err, out)
	return string(out)
}

// tries is how often a bug may go unseen: some are races, which a busy machine may keep from happening.
const tries = 20

// TestPowersAreDeclared: a hook that is forgotten is not a test that is skipped.
func TestPowersAreDeclared(t *testing.T) {
	if os.Getenv(plant) == "no hooks" {
		storetest.Run(t, storetest.Config{
			New:    func(*testing.T) store.Store { return mem.New() },
			Absent: map[storetest.Power]string{storetest.Cut: "for a reason", "Fly": "for a reason"},
		})
		return
	}
	out := red(t, "no hooks", "TestPowersAreDeclared")
	for _, power := range []string{"Reopen", "Crash", "Trim", "TooLarge", "Fly"} {
		if !strings.Contains(out, power) {
			t.Errorf("nothing is said of %s:\n%s", power, out)
		}
	}
	if strings.Contains(out, "Cut") || strings.Contains(out, "Once") {
		t.Errorf("Cut and Once are declared:\n%s", out)
	}
}

// TestWithPlantedBug is the other process; by itself it shows that the wrapper without a bug is no bug.
func TestWithPlantedBug(t *testing.T) {
	bug, patience := os.Getenv(plant), 30*time.Second
	if bug != "" {
		patience = 2 * time.Second
	}
	storetest.Run(t, storetest.Config{
		New: func(*testing.T) store.Store { return &planted{Store: mem.New(), bug: bug} },
		Reopen: func(t *testing.T, s store.Store) store.Store {
			old := s.(*planted)
			if bug == "forgets commits over a restart" {
				old.forget(t)
			}
			return &planted{Store: old.Reopen(), bug: bug}
		},
		Cut: func(_ *testing.T, s store.Store) func() { return s.(*planted).Cut() },
		Trim: func(t *testing.T, s store.Store, topic string, p int32, before int64) {
			if err := s.(*planted).Trim(topic, p, before); err != nil {
				t.Error(err)
			}
		},
		TooLarge: mem.MaxMessage + 1,
		Absent:   map[storetest.Power]string{storetest.Crash: "the store in memory proves it without a wrapper"},
		Patience: patience,
	})
}

// planted is the store in memory with one bug.
type planted struct {
	*mem.Store
	bug       string
	calls     atomic.Int32
	cancelled atomic.Bool
	kept      []*store.Message
}

func (s *planted) Publish(ctx context.Context, topic string, ack store.Ack, msgs ...*store.Message) error {
	n := s.calls.Add(1)
	switch s.bug {
	case "reverses the messages of a call":
		msgs = slices.Clone(msgs)
		slices.Reverse(msgs)
	case "chooses partitions by the key's length", "ignores the wanted partition", "turns a tombstone into an empty value", "loses the second header of a name":
		for _, m := range msgs {
			s.spoil(m)
		}
	case "answers before it stores":
		if n%40 == 0 {
			return nil
		}
	case "one cancelled caller fails the next":
		if ctx.Err() != nil {
			s.cancelled.Store(true)
		} else if s.cancelled.Swap(false) {
			return errs.Uncertain
		}
	case "keeps the caller's bytes":
		s.kept = append(s.kept, msgs...)
	case "stores what is behind a failed one":
		if len(msgs) > 1 {
			return s.oneByOne(ctx, topic, ack, msgs)
		}
	}
	err := s.Store.Publish(ctx, topic, ack, msgs...)
	switch {
	case s.bug == "fails the whole batch for one bad message" && err != nil:
		return store.Each(err, 1)
	case s.bug == "calls uncertain unavailable" && err != nil:
		return errs.Unavailable
	}
	return err
}

func (s *planted) spoil(m *store.Message) {
	switch {
	case s.bug == "chooses partitions by the key's length" && m.Partition == store.AnyPartition:
		m.Partition = int32(len(m.Key) % 3)
	case s.bug == "ignores the wanted partition":
		m.Partition = store.AnyPartition
	case s.bug == "turns a tombstone into an empty value" && m.Value == nil:
		m.Value = []byte{}
	case s.bug == "loses the second header of a name":
		seen := map[string]bool{}
		m.Headers = slices.DeleteFunc(m.Headers, func(h store.Header) bool {
			defer func() { seen[h.Key] = true }()
			return seen[h.Key]
		})
	}
}

func (s *planted) oneByOne(ctx context.Context, topic string, ack store.Ack, msgs []*store.Message) error {
	all := &store.BatchError{}
	for _, m := range msgs {
		all.Errs = append(all.Errs, s.Store.Publish(ctx, topic, ack, m))
	}
	return all
}

func (s *planted) PublishOnce(ctx context.Context, topic string, ack store.Ack, once store.Once, msgs ...*store.Message) error {
	switch s.bug {
	case "stores again for a known key":
		return s.Store.Publish(ctx, topic, ack, msgs...)
	case "takes any digest for a known key":
		once.Digest = [32]byte{}
	}
	return s.Store.PublishOnce(ctx, topic, ack, once, msgs...)
}

func (s *planted) Browse(ctx context.Context, topic string, p int32, offset int64) iter.Seq2[*store.Message, error] {
	if s.bug != "keeps the caller's bytes" {
		return s.Store.Browse(ctx, topic, p, offset)
	}
	return func(yield func(*store.Message, error) bool) {
		for _, m := range s.kept {
			if !yield(m, nil) {
				return
			}
		}
	}
}

func (s *planted) ForgetGroup(ctx context.Context, topic, group string) error {
	if s.bug == "forgets no group" {
		_, err := s.Lag(ctx, topic, group)
		return err
	}
	err := s.Store.ForgetGroup(ctx, topic, group)
	if s.bug == "forgets under a member" && errors.Is(err, errs.Conflict) {
		return nil
	}
	return err
}

func (s *planted) Seek(ctx context.Context, topic, group string, to ...store.Position) error {
	err := s.Store.Seek(ctx, topic, group, to...)
	if s.bug == "seeks under a member" && errors.Is(err, errs.Conflict) {
		return nil
	}
	return err
}

func (s *planted) Lag(ctx context.Context, topic, group string) ([]store.PartitionLag, error) {
	list, err := s.Store.Lag(ctx, topic, group)
	for i := range list {
		if s.bug == "hides what is beside the position" {
			list[i].Beyond = ""
		}
	}
	return list, err
}

// forget takes all groups' positions away.
func (s *planted) forget(t *testing.T) {
	topics, _ := s.Topics(t.Context())
	for _, topic := range topics {
		groups, _ := s.Groups(t.Context(), topic.Name)
		for _, group := range groups {
			for p := range topic.Partitions {
				_ = s.Store.Seek(t.Context(), topic.Name, group, store.Position{Partition: p})
			}
		}
	}
}

func (s *planted) Subscribe(ctx context.Context, spec store.Spec) (store.Feed, error) {
	switch s.bug {
	case "leaves a goroutine":
		go func() { select {} }()
	case "applies the start each time":
		at, _ := s.Resolve(ctx, spec.Topic, spec.Start)
		_ = s.Store.Seek(ctx, spec.Topic, spec.Group, at...)
	case "commits no position at Subscribe":
		return &lazyFeed{s: s, spec: spec}, nil
	}
	f, err := s.Store.Subscribe(ctx, spec)
	if err != nil {
		return nil, err
	}
	return &plantedFeed{Feed: f, s: s}, nil
}

// lazyFeed subscribes when it is first polled.
type lazyFeed struct {
	store.Feed
	s    *planted
	spec store.Spec
}

func (f *lazyFeed) Poll(ctx context.Context, limit int, paused []int32) (store.Batch, error) {
	if f.Feed == nil {
		f.Feed, _ = f.s.Store.Subscribe(ctx, f.spec)
	}
	return f.Feed.Poll(ctx, limit, paused)
}

// plantedFeed is a feed with the store's bug.
type plantedFeed struct {
	store.Feed
	s     *planted
	lost  []int32
	stuck bool
}

func (f *plantedFeed) Poll(ctx context.Context, limit int, paused []int32) (store.Batch, error) {
	switch f.s.bug {
	case "ignores max":
		limit = 1000
	case "ignores paused", "loses a paused partition's messages":
		b, err := f.Feed.Poll(ctx, limit, nil)
		if f.s.bug == "loses a paused partition's messages" {
			b.Messages = slices.DeleteFunc(b.Messages, func(m *store.Message) bool { return slices.Contains(paused, m.Partition) })
		}
		return b, err
	}
	b, err := f.Feed.Poll(ctx, limit, paused)
	f.lost = b.Lost
	switch f.s.bug {
	case "loses messages on cancel":
		if err == nil && ctx.Err() != nil {
			return store.Batch{}, ctx.Err()
		}
	case "is silent about a gap":
		b.Gaps = nil
	case "waits for the log to grow":
		f.stuck = f.stuck || slices.ContainsFunc(b.Gaps, func(g store.Gap) bool { return g.To < g.From })
		b.Gaps = nil
		b.Messages = slices.DeleteFunc(b.Messages, func(m *store.Message) bool { return f.stuck && m.Partition == 1 })
	case "gains before the other let go":
		if len(b.Lost) > 0 { // the partitions are free before this Poll has returned
			more, _ := f.Feed.Poll(cancelled(ctx), limit, paused)
			b.Gained = append(b.Gained, more.Gained...)
			b.Messages = append(b.Messages, more.Messages...)
		}
	case "does not tell that the topic is gone":
		if errors.Is(err, errs.UnknownTopic) {
			<-ctx.Done()
			err = ctx.Err()
		}
	}
	return b, err
}

func cancelled(ctx context.Context) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	return ctx
}

func (f *plantedFeed) Commit(p store.Position) error {
	switch f.s.bug {
	case "keeps no commit":
		return nil
	case "cuts what is beside the position":
		if len(p.Beyond) <= store.MaxBeyond {
			p.Beyond = strings.ToValidUTF8(p.Beyond[:min(len(p.Beyond), 4000)], "")
		}
	case "keeps no final commit":
		if slices.Contains(f.lost, p.Partition) {
			return nil
		}
	case "does not fence":
		if err := f.Feed.Commit(p); !errors.Is(err, errs.Fenced) {
			return err
		}
		return nil
	}
	return f.Feed.Commit(p)
}

func (f *plantedFeed) Close(ctx context.Context) error {
	if f.s.bug == "does not end Poll on Close" {
		return nil
	}
	return f.Feed.Close(ctx)
}

func (s *planted) Follow(ctx context.Context, topic string, from []store.Position) (store.Tail, error) {
	switch s.bug {
	case "follows from the newest":
		from, _ = s.Resolve(ctx, topic, store.Start{Newest: true})
	case "follows by a group":
		_ = s.Store.Seek(ctx, topic, "follower", store.Position{})
	}
	t, err := s.Store.Follow(ctx, topic, from)
	if err != nil {
		return nil, err
	}
	return &plantedTail{Tail: t, s: s}, nil
}

// plantedTail is a tail with the store's bug.
type plantedTail struct {
	store.Tail
	s     *planted
	stuck bool
}

func (t *plantedTail) Poll(ctx context.Context, limit int) (store.Batch, error) {
	b, err := t.Tail.Poll(ctx, limit)
	switch t.s.bug {
	case "follows twice what comes meanwhile":
		if len(b.Messages) > 0 && t.s.calls.Add(1)%20 == 0 {
			b.Messages = append(b.Messages, b.Messages[len(b.Messages)-1])
		}
	case "loses a message of a tail on cancel":
		if err == nil && ctx.Err() != nil {
			return store.Batch{}, ctx.Err()
		}
	case "follows without telling gaps":
		b.Gaps = nil
	case "waits for the log to grow under a tail":
		if t.stuck = t.stuck || len(b.Gaps) > 0; t.stuck {
			return store.Batch{}, errs.Unavailable
		}
	case "follows no new partition":
		b.Gained = nil
		b.Messages = slices.DeleteFunc(b.Messages, func(m *store.Message) bool { return m.Partition > 2 })
	}
	return b, err
}

func (t *plantedTail) Close() {
	if t.s.bug != "does not end a tail's Poll" {
		t.Tail.Close()
	}
}
