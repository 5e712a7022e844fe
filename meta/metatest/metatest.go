// Package metatest proves that a source of meta keeps what package meta promises of it.
package metatest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/meta"
)

// Config says what is tested.
type Config struct {
	New func(t *testing.T) Backend // a fresh, empty keeper of objects; it ends with the test
}

// Backend is where a source keeps its objects. A nil function, or false, is a declared property: what needs it is skipped.
type Backend struct {
	Open   func(t *testing.T) meta.Source // a source on it; the suite closes it
	Shared bool                           // several sources may be open at a time
	Keeps  bool                           // objects outlive the last source

	Edit  func(t *testing.T, id meta.ID, data []byte)       // somebody else's change; nil data removes the object
	Spoil func(t *testing.T, id meta.ID) (repair func())    // makes the place of the object unreadable; repair brings back what was there
	Away  func(t *testing.T, source meta.Source, away bool) // cuts the source off, and lets it come back
}

// soon is how long anything may take here. Nothing is promised by it: it ends tests that hang.
const soon = 20 * time.Second

// Run runs the suite.
func Run(t *testing.T, cfg Config) {
	for _, c := range []struct {
		name string
		test func(*testing.T, Backend)
	}{
		{"EverythingAtFirst", testEverythingAtFirst},
		{"OthersChangesAreTold", testOthersChangesAreTold},
		{"CompareAndSet", testCompareAndSet},
		{"TwoWritersDoNotOverwriteEachOther", testTwoWriters},
		{"UpdatesLoseNothing", testUpdatesLoseNothing},
		{"Deletes", testDeletes},
		{"BigObjects", testBigObjects},
		{"NoOtherNames", testNoOtherNames},
		{"ReopenKeeps", testReopenKeeps},
		{"AwayAndBack", testAwayAndBack},
		{"WhatCantBeReadStays", testUnreadableStays},
		{"WhatCantBeReadAtTheStartIsToldOf", testUnreadableAtTheStart},
		{"Reload", testReload},
		{"CancelledNextLosesNothing", testCancelledNext},
		{"CloseEndsNext", testCloseEndsNext},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, cfg.New(t)) })
	}
}

func testEverythingAtFirst(t *testing.T, b Backend) {
	want := map[meta.ID]string{}
	s, v := open(t, b)
	for i, kind := range meta.Kinds() {
		for _, name := range []string{"a", "b-" + strings.Repeat("x", 30), "shop.orders.v1", "shop.orders.v1.bill"} {
			id := meta.ID{Kind: kind, Name: name}
			data := fmt.Appendf(nil, `{"n":%d,"text":"<\u0000\"ä%s>"}`, i, name)
			want[id] = string(data)
			v.untilThrough(t, apply(t, s, id, meta.Absent, data))
		}
	}
	v.until(t, "what was applied", func() bool { return maps.Equal(v.objects, want) })
	if !b.Shared && !b.Keeps {
		return
	}
	if !b.Shared {
		v.stop()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	second := b.Open(t)
	defer second.Close()
	u, err := second.Next(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	got := map[meta.ID]string{}
	for id, data := range u.Objects {
		got[id] = string(data)
	}
	if !u.Whole || len(u.Faults) > 0 || !maps.Equal(got, want) {
		t.Errorf("whole %v, faults %v, %d objects; want %d", u.Whole, u.Faults, len(got), len(want))
	}
}

func testOthersChangesAreTold(t *testing.T, b Backend) {
	if b.Edit == nil {
		t.Skip("nobody else can change it")
	}
	s, v := open(t, b)
	apply(t, s, app("a"), "", object(0))
	for i := 1; i <= 20; i++ {
		b.Edit(t, app("a"), object(i))
		b.Edit(t, app(fmt.Sprintf("b%d", i%3)), object(i))
		v.untilHas(t, app("a"), object(i))
		v.untilHas(t, app(fmt.Sprintf("b%d", i%3)), object(i))
	}
	b.Edit(t, app("a"), nil)
	v.untilHas(t, app("a"), nil)
	v.untilHas(t, app("b1"), object(19))
	b.Edit(t, app("a"), object(7))
	v.untilHas(t, app("a"), object(7))
}

func testCompareAndSet(t *testing.T, b Backend) {
	s, v := open(t, b)
	a := app("a")
	refused(t, s, a, "0123", object(1), errs.PreconditionFailed)
	apply(t, s, a, meta.Absent, object(1))
	refused(t, s, a, meta.Absent, object(2), errs.Conflict)
	refused(t, s, a, meta.ETag(object(2)), object(3), errs.PreconditionFailed)
	apply(t, s, a, meta.ETag(object(1)), object(2))
	refused(t, s, a, meta.ETag(object(1)), object(3), errs.PreconditionFailed)
	refused(t, s, a, meta.ETag(object(1)), nil, errs.PreconditionFailed)
	at := apply(t, s, a, "", object(4))
	v.untilThrough(t, at)
	v.untilHas(t, a, object(4))
	refused(t, s, app("b"), "", nil, errs.NotFound)
	for _, bad := range []string{"", "x", "[]", "1", `{"a":1,"a":2}`, `{"a":1}{}`, "{\"a\":\"\xff\"}"} {
		refused(t, s, app("b"), "", []byte(bad), errs.InvalidBody)
	}
	v.untilHas(t, app("b"), nil)
}

// Several writers race for each content of one object: exactly one gets it.
func testTwoWriters(t *testing.T, b Backend) {
	one, v := open(t, b)
	two := one
	if b.Shared {
		two, _ = open(t, b)
	}
	const rounds, writers = 10, 8
	a := app("a")
	apply(t, one, a, "", object(0))
	for round := range rounds {
		var wg sync.WaitGroup
		var mu sync.Mutex
		var won []int
		for w := range writers {
			wg.Go(func() {
				s := []meta.Source{one, two}[w%2]
				_, err := s.Apply(deadline(t), meta.Change{ID: a, Match: meta.ETag(object(round * 100)), Data: object((round+1)*1000 + w)})
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					won = append(won, w)
				} else if !errors.Is(err, errs.PreconditionFailed) {
					t.Errorf("writer %d: %v", w, err)
				}
				// Neighbors, which may lie in the same place, are changed at the same time.
				if _, err := s.Apply(deadline(t), meta.Change{ID: app(fmt.Sprintf("n%d", w)), Data: object(round)}); err != nil {
					t.Errorf("neighbor of %d: %v", w, err)
				}
			})
		}
		wg.Wait()
		if len(won) != 1 {
			t.Fatalf("round %d: writers %v all replaced the same content", round, won)
		}
		v.untilHas(t, a, object((round+1)*1000+won[0]))
		apply(t, one, a, meta.ETag(object((round+1)*1000+won[0])), object((round+1)*100))
	}
	for w := range writers {
		v.untilHas(t, app(fmt.Sprintf("n%d", w)), object(rounds-1))
	}
}

// A hundred increments at once, through the directories of all gateways, count to a hundred.
func testUpdatesLoseNothing(t *testing.T, b Backend) {
	var dirs []*meta.Directory
	for range 2 {
		if len(dirs) == 1 && !b.Shared {
			break
		}
		dirs = append(dirs, Directory(t, b.Open(t)))
	}
	const increments = 100
	a := &meta.App{Name: "a", Class: meta.ClassStandard}
	var wg sync.WaitGroup
	for i := range increments {
		wg.Go(func() {
			err := dirs[i%len(dirs)].Update(deadline(t), a.ID(), func(present meta.Record) (meta.Record, error) {
				next := *a
				if present != nil {
					next = *present.(*meta.App)
				}
				next.Limits.Topics++
				return &next, nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, d := range dirs {
		if err := d.Refresh(deadline(t)); err != nil {
			t.Fatal(err)
		}
		if got := d.Snapshot().App("a").Limits.Topics; got != increments {
			t.Errorf("counted to %d of %d", got, increments)
		}
	}
}

func testDeletes(t *testing.T, b Backend) {
	s, v := open(t, b)
	apply(t, s, app("a"), "", object(1))
	apply(t, s, app("b"), "", object(1))
	v.untilThrough(t, apply(t, s, app("a"), meta.ETag(object(1)), nil))
	v.untilHas(t, app("a"), nil)
	v.untilHas(t, app("b"), object(1))
	refused(t, s, app("a"), meta.ETag(object(1)), nil, errs.NotFound)
	v.untilThrough(t, apply(t, s, app("a"), meta.Absent, object(2)))
	v.untilHas(t, app("a"), object(2))
}

func testBigObjects(t *testing.T, b Backend) {
	s, v := open(t, b)
	big := func(size int) []byte { return []byte(`{"x":"` + strings.Repeat("é", (size-8)/2) + `"}`) }
	for i := range 5 {
		id := app(fmt.Sprintf("big%d", i))
		data := big(meta.MaxObject - i*2)
		v.untilThrough(t, apply(t, s, id, "", data))
		v.untilHas(t, id, data)
	}
	refused(t, s, app("a"), "", big(meta.MaxObject+2), errs.TooLarge)
}

func testNoOtherNames(t *testing.T, b Backend) {
	s, _ := open(t, b)
	for _, name := range []string{"", ".", "..", "../x", "a/b", ".a", "a\x00", "a b", "é", "a%2fb", strings.Repeat("x", 201)} {
		refused(t, s, app(name), "", object(1), errs.InvalidName)
	}
	refused(t, s, meta.ID{Kind: "others", Name: "a"}, "", object(1), errs.InvalidName)
	for _, name := range []string{"-", "_", "a..b", strings.Repeat("x", 200), "CON", "lock", "a.json", "a.tmp"} {
		apply(t, s, app(name), "", object(1))
	}
}

func testReopenKeeps(t *testing.T, b Backend) {
	if !b.Keeps {
		t.Skip("it keeps nothing")
	}
	s := b.Open(t)
	for i := range 10 {
		apply(t, s, app(fmt.Sprintf("a%d", i)), "", object(i))
	}
	apply(t, s, app("a3"), "", nil)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, v := open(t, b)
	v.until(t, "nine objects", func() bool { return len(v.objects) == 9 })
	v.untilHas(t, app("a3"), nil)
	v.untilHas(t, app("a9"), object(9))
	apply(t, s, app("a9"), meta.ETag(object(9)), object(10))
}

func testAwayAndBack(t *testing.T, b Backend) {
	if b.Away == nil {
		t.Skip("it is never away")
	}
	s, v := open(t, b)
	v.untilThrough(t, apply(t, s, app("a"), "", object(1)))
	for i := range 3 {
		b.Away(t, s, true)
		v.until(t, "a failing Next", func() bool { return errors.Is(v.failed, errs.Unavailable) })
		refused(t, s, app("a"), "", object(2), errs.Unavailable)
		v.mu.Lock()
		before := v.updates
		v.mu.Unlock()
		b.Away(t, s, false)
		v.until(t, "an Update after the return", func() bool { return v.updates > before })
		v.untilThrough(t, apply(t, s, app("a"), meta.ETag(object(i+1)), object(i+2)))
		v.untilHas(t, app("a"), object(i+2))
	}
}

// concerns reports whether a fault is that of the place, or of one above it.
func concerns(faults map[string]error, place string) bool {
	return slices.ContainsFunc(slices.Collect(maps.Keys(faults)), func(p string) bool {
		return p == place || strings.HasPrefix(place, path.Clean(p)+"/")
	})
}

func testUnreadableStays(t *testing.T, b Backend) {
	if b.Spoil == nil {
		t.Skip("it can't be spoilt")
	}
	s, v := open(t, b)
	for i := range 20 {
		v.untilThrough(t, apply(t, s, app(fmt.Sprintf("a%d", i)), "", object(i)))
	}
	for range 2 {
		repair := b.Spoil(t, app("a7"))
		v.until(t, "a fault", func() bool { return concerns(v.faults, s.Place(app("a7"))) })
		v.untilHas(t, app("a7"), object(7))
		v.untilHas(t, app("a8"), object(8))
		v.untilThrough(t, apply(t, s, app("a8"), "", object(8)))
		repair()
		v.until(t, "no fault", func() bool { return len(v.faults) == 0 })
		v.untilHas(t, app("a7"), object(7))
	}
	v.untilThrough(t, apply(t, s, app("a7"), meta.ETag(object(7)), object(70)))
	v.untilHas(t, app("a7"), object(70))
}

func testUnreadableAtTheStart(t *testing.T, b Backend) {
	if b.Spoil == nil || !b.Shared && !b.Keeps {
		t.Skip("it can't be spoilt, or keeps nothing")
	}
	s := b.Open(t)
	apply(t, s, app("a"), "", object(1))
	apply(t, s, app("b"), "", object(2))
	if !b.Shared {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	} else {
		defer s.Close()
	}
	repair := b.Spoil(t, app("a"))
	second, v := open(t, b)
	v.until(t, "a fault", func() bool { return concerns(v.faults, second.Place(app("a"))) })
	v.untilHas(t, app("b"), object(2))
	repair()
	v.untilHas(t, app("a"), object(1))
	v.until(t, "no fault", func() bool { return len(v.faults) == 0 })
}

func testReload(t *testing.T, b Backend) {
	s, v := open(t, b)
	v.untilThrough(t, s.Reload()) // perhaps before the first Update
	apply(t, s, app("a"), "", object(1))
	for i := range 5 {
		want := object(1)
		if b.Edit != nil {
			want = object(i + 2)
			b.Edit(t, app("a"), want)
		}
		v.untilThrough(t, s.Reload())
		v.mu.Lock()
		got := v.objects[app("a")]
		v.mu.Unlock()
		if got != string(want) {
			t.Errorf("after a reload %q; want %q", got, want)
		}
	}
}

func testCancelledNext(t *testing.T, b Backend) {
	s := b.Open(t)
	defer s.Close()
	var got []string
	take := func(ctx context.Context) error {
		u, err := s.Next(ctx)
		if data := u.Objects[app("a")]; data != nil {
			got = append(got, string(data))
		}
		return err
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := take(ended); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	apply(t, s, app("a"), "", object(1))
	for len(got) == 0 {
		if err := take(deadline(t)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	waiting := make(chan error)
	go func() {
		for {
			if _, err := s.Next(ctx); err != nil { // there may be a last thing to tell
				waiting <- err
				return
			}
		}
	}()
	cancel()
	if err := <-waiting; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	at := apply(t, s, app("b"), "", object(2))
	for {
		u, err := s.Next(deadline(t))
		if err != nil {
			t.Fatal(err)
		}
		if u.Through >= at {
			return
		}
	}
}

func testCloseEndsNext(t *testing.T, b Backend) {
	s := b.Open(t)
	ctx := deadline(t)
	ended := make(chan error, 1)
	go func() {
		for {
			if _, err := s.Next(ctx); err != nil {
				ended <- err
				return
			}
		}
	}()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; ctx.Err() != nil {
		t.Errorf("Next went on: %v", err)
	}
	if _, err := s.Apply(ctx, meta.Change{ID: app("a"), Data: object(1)}); !errors.Is(err, errs.Unavailable) {
		t.Errorf("a change after the end: %v", err)
	}
}
