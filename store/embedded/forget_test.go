package embedded

import (
	"context"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// committed are the group's positions by partition.
func committed(t *testing.T, s *Store, group string) (at []int64) {
	t.Helper()
	lag, err := s.Lag(context.Background(), "t", group)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range lag {
		at = append(at, l.Committed)
	}
	return at
}

// TestForgetOnHangingDisk: who stops waiting does not know the outcome; then the positions are kept, in memory and on disk.
func TestForgetOnHangingDisk(t *testing.T) {
	g := &gate{}
	cfg := memory(t)
	fs := cfg.FS
	cfg.FS = errorfs.Wrap(fs, g)
	s := open(t, cfg)
	create(t, s, 2)
	if err := s.Publish(t.Context(), "t", store.AckAll, &store.Message{Partition: 1, Value: []byte("v")}); err != nil {
		t.Fatal(err)
	}
	if err := s.Seek(t.Context(), "t", "g", store.Position{Partition: 1, Next: 1, Beyond: "x"}); err != nil {
		t.Fatal(err)
	}
	release := g.hold()
	defer release()
	ctx, cancel := context.WithCancel(t.Context())
	forgotten := make(chan error)
	go func() { forgotten <- s.ForgetGroup(ctx, "t", "g") }()
	eventually(t, "the deletion is being synced", func() bool { return g.hung.Load() > 0 })
	cancel()
	wantKind(t, "who stopped waiting", <-forgotten, errs.Uncertain)
	if got := committed(t, s, "g"); !slices.Equal(got, []int64{-1, 1}) {
		t.Errorf("positions are %v, want none and 1", got)
	}
	release()
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	cfg.FS = fs
	s = open(t, cfg)
	if got := committed(t, s, "g"); !slices.Equal(got, []int64{-1, 1}) {
		t.Errorf("after a restart positions are %v, want none and 1", got)
	}
	if err := s.ForgetGroup(t.Context(), "t", "g"); err != nil {
		t.Errorf("forget again: %v", err)
	}
	if got := committed(t, s, "g"); !slices.Equal(got, []int64{-1, -1}) {
		t.Errorf("positions are %v, want none", got)
	}
}

// TestForgetSparesLikeNames: a group's name may begin with another's.
func TestForgetSparesLikeNames(t *testing.T) {
	cfg := memory(t)
	s := open(t, cfg)
	create(t, s, 1)
	names := []string{"g", "gg", "g\x00", "g\xff", "h"}
	for _, name := range names {
		if err := s.Seek(t.Context(), "t", name, store.Position{Next: 0}); err != nil {
			t.Fatal(err)
		}
	}
	for i, name := range names {
		if err := s.ForgetGroup(t.Context(), "t", name); err != nil {
			t.Fatal(err)
		}
		want := slices.Sorted(slices.Values(names[i+1:]))
		if got, err := s.Groups(t.Context(), "t"); err != nil || !slices.Equal(got, want) {
			t.Errorf("after %q is forgotten there are %q, %v; want %q", name, got, err, want)
		}
	}
}
