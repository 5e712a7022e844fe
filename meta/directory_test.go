package meta_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/meta/mem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func app(name string) *meta.App { return &meta.App{Name: name, Class: meta.ClassStandard} }

func topic(app, name string) *meta.TopicRecord {
	return &meta.TopicRecord{App: app, Name: name, Ver: "v1", Partitions: 1, MaxAttempts: 16}
}

// follow runs a directory of the source until the test, or bubble, ends.
func follow(t *testing.T, cfg meta.Config) (d *meta.Directory, stop func()) {
	t.Helper()
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	d = meta.NewDirectory(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := d.Run(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	}()
	stop = sync.OnceFunc(func() { cancel(); <-ended })
	t.Cleanup(stop)
	return d, stop
}

func put(t *testing.T, d *meta.Directory, records ...meta.Record) {
	t.Helper()
	for _, r := range records {
		if _, err := d.Put(t.Context(), r, ""); err != nil {
			t.Fatal(err)
		}
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestWritesAreReadAtOnce(t *testing.T) {
	d, _ := follow(t, meta.Config{Source: mem.New()})
	for i := range 100 {
		a := app("shop")
		a.Limits.Topics = i
		changed := d.Changed()
		etag, err := d.Put(t.Context(), a, "")
		if err != nil {
			t.Fatal(err)
		}
		r, is := d.Snapshot().Record(a.ID())
		if is != etag || r.(*meta.App).Limits.Topics != i || !isClosed(changed) {
			t.Fatalf("put %d: %+v with %s, want %s", i, r, is, etag)
		}
	}
	if err := d.Delete(t.Context(), app("shop").ID(), "other"); !errors.Is(err, errs.PreconditionFailed) {
		t.Errorf("%v", err)
	}
	if err := d.Delete(t.Context(), app("shop").ID(), ""); err != nil || d.Snapshot().App("shop") != nil {
		t.Errorf("deleted: %v, %+v", err, d.Snapshot().App("shop"))
	}
	if _, err := d.Put(t.Context(), app("a b"), ""); !errors.Is(err, errs.InvalidName) {
		t.Errorf("a bad record: %v", err)
	}
}

func TestWriteThatIsNotSeenIsUncertain(t *testing.T) {
	d := meta.NewDirectory(meta.Config{Source: mem.New(), Log: slog.New(slog.DiscardHandler)}) // nobody runs it
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	if _, err := d.Put(ctx, app("shop"), ""); !errors.Is(err, errs.Uncertain) {
		t.Errorf("%v", err)
	}
	if err := d.Refresh(ctx); !errors.Is(err, errs.Unavailable) {
		t.Errorf("%v", err)
	}
}

func TestSnapshotFinds(t *testing.T) {
	d, _ := follow(t, meta.Config{Source: mem.New()})
	shop, bill := app("shop"), app("bill")
	id, secret, hash := meta.NewSecret()
	shop.Keys = []meta.Key{{KeyID: id, Use: meta.UsePub, Hash: hash}, {KeyID: "second", Use: meta.UseSub, Hash: hash}}
	bill.Cluster = "east"
	orders := topic("shop", "orders")
	mapped := topic("bill", "sums")
	mapped.Cluster, mapped.StoreTopic = "east", "legacy"
	grant := &meta.Subscription{App: "shop", Name: "orders", Ver: "v1", Subscriber: "bill", Groups: []string{"g"}}
	put(t, d, shop, bill, orders, topic("shop", "returns"), mapped, grant,
		&meta.Cluster{Name: "east", Brokers: []string{"k:1"}}, &meta.AdminKey{KeyID: "a", Role: meta.RoleAdmin, Hash: hash},
		&meta.Option{Name: "o", Value: []byte("1")}, &meta.Secret{Name: "peer", Current: make([]byte, 32)})
	s := d.Snapshot()
	if a, k := s.Key(meta.SecretID(secret)); a.Name != "shop" || k.Use != meta.UsePub || !meta.CheckSecret(secret, k.Hash) {
		t.Errorf("key %+v of %+v", k, a)
	}
	if a, k := s.Key("none"); a != nil || k != nil {
		t.Errorf("a key that there is not: %+v, %+v", a, k)
	}
	if s.Topic(orders.Topic()).Place() != "shop.orders.v1" || s.Topic(mapped.Topic()).Place() != "east:legacy" || s.Topic(meta.Topic{App: "shop"}) != nil {
		t.Error("topics are found elsewhere")
	}
	if s.Cluster("east") == nil || s.Cluster("default") != nil || s.AdminKey("a") == nil || s.Option("o") == nil || s.Secret("peer") == nil || s.App("none") != nil {
		t.Error("by name")
	}
	if s.TopicsOf("shop") != 2 || s.TopicsOf("none") != 0 || s.AppsIn("east") != 1 || s.AppsIn("default") != 1 || s.AppsIn("") != 1 ||
		s.TopicsIn("east") != 1 || s.TopicsIn("default") != 2 || s.Len(meta.KindTopic) != 3 || s.Len("none") != 0 {
		t.Errorf("counts: %d %d %d %d", s.TopicsOf("shop"), s.AppsIn("east"), s.TopicsIn("default"), s.Len(meta.KindTopic))
	}
	for what, ok := range map[string]bool{
		"own":         s.MayRead("shop", "any", orders.Topic()),
		"granted":     s.MayRead("bill", "g", orders.Topic()),
		"other group": !s.MayRead("bill", "h", orders.Topic()),
		"other topic": !s.MayRead("bill", "g", meta.Topic{App: "shop", Name: "returns", Ver: "v1"}),
		"stranger":    !s.MayRead("other", "g", orders.Topic()),
	} {
		if !ok {
			t.Errorf("may read: %s", what)
		}
	}
	// What changes and goes is no longer found, in newer snapshots only.
	shop.Keys, shop.Cluster, grant.Groups = shop.Keys[1:], "east", nil
	put(t, d, shop, grant)
	if err := d.Delete(t.Context(), orders.ID(), ""); err != nil {
		t.Fatal(err)
	}
	n := d.Snapshot()
	if a, _ := n.Key(id); a != nil || !n.MayRead("bill", "h", orders.Topic()) || n.Topic(orders.Topic()) != nil || n.TopicsOf("shop") != 1 || n.AppsIn("east") != 2 || n.AppsIn("default") != 0 {
		t.Error("the new snapshot has what was changed")
	}
	if a, k := n.Key("second"); a == nil || k.Use != meta.UseSub {
		t.Error("a key that stayed is gone")
	}
	if a, _ := s.Key(id); a == nil || s.MayRead("bill", "h", orders.Topic()) || s.Topic(orders.Topic()) == nil || n.Revision() <= s.Revision() {
		t.Error("the old snapshot changed")
	}
}

func TestList(t *testing.T) {
	d, _ := follow(t, meta.Config{Source: mem.New()})
	var want []string
	for i := range 250 {
		name := fmt.Sprintf("app-%03d", i)
		put(t, d, app(name))
		want = append(want, name)
	}
	var got []string
	for after := ""; ; {
		page := d.Snapshot().List(meta.KindApp, after, 100)
		for _, r := range page {
			got = append(got, r.ID().Name)
		}
		if len(page) < 100 {
			break
		}
		after = page[99].ID().Name
		put(t, d, app(after)) // what changes meanwhile does not disturb
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v", got)
	}
	s := d.Snapshot()
	if l := s.List(meta.KindApp, "app-0005", 1); len(l) != 1 || l[0].ID().Name != "app-001" {
		t.Errorf("behind a name that is not there: %v", l)
	}
	if len(s.List(meta.KindApp, "zzz", 10)) != 0 || len(s.List(meta.KindTopic, "", 10)) != 0 || len(s.List("none", "", 10)) != 0 || len(s.List(meta.KindApp, "", -1)) != 0 {
		t.Error("lists of nothing")
	}
}

// What can't be read keeps its last good content, and is named until it can.
func TestGarbageKeepsTheLastGoodContent(t *testing.T) {
	source := mem.New()
	reg := prometheus.NewPedanticRegistry()
	d, _ := follow(t, meta.Config{Source: source, Metrics: reg})
	put(t, d, app("shop"), app("bill"))
	gauge := func() float64 {
		n := -1.0
		families, _ := reg.Gather()
		for _, f := range families {
			if f.GetName() == "kateway_meta_faults" {
				n = f.GetMetric()[0].GetGauge().GetValue()
			}
		}
		return n
	}
	for _, bad := range []string{"", "garbage", `{"app":5}`, `{"app":"other","class":"standard"}`, `{"app":"shop","class":"none"}`} {
		source.Corrupt(app("shop").ID(), []byte(bad))
		if err := d.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		faults := d.State().Faults
		if d.Snapshot().App("shop") == nil || len(faults) != 1 || faults["apps/shop"] == "" || gauge() != 1 {
			t.Errorf("%q: %+v, faults %v, gauge %v", bad, d.Snapshot().App("shop"), faults, gauge())
		}
		put(t, d, app("bill"))
	}
	put(t, d, app("shop"))
	if len(d.State().Faults) > 0 || gauge() != 0 {
		t.Errorf("after it was written again: %v", d.State().Faults)
	}
	source.Corrupt(app("shop").ID(), []byte(`{"app":5}`))
	if err := d.Delete(t.Context(), app("shop").ID(), ""); err != nil || d.Snapshot().App("shop") != nil || len(d.State().Faults) > 0 {
		t.Errorf("deleting it: %v, %v", err, d.State().Faults)
	}
	if err := testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP kateway_meta_stale 1 while the source of meta can't be reached, or has never answered.
# TYPE kateway_meta_stale gauge
kateway_meta_stale 0
`), "kateway_meta_stale"); err != nil {
		t.Error(err)
	}
}

func TestUpdateOfWhatCantBeReadEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := mem.New()
		d, stop := follow(t, meta.Config{Source: source})
		put(t, d, app("shop"))
		source.Corrupt(app("shop").ID(), []byte(`{"app":5}`))
		err := d.Update(t.Context(), app("shop").ID(), func(present meta.Record) (meta.Record, error) { return present, nil })
		if !errors.Is(err, errs.PreconditionFailed) {
			t.Errorf("%v", err)
		}
		stop()
	})
}

func TestUpdate(t *testing.T) {
	source := mem.New()
	d, _ := follow(t, meta.Config{Source: source})
	id := app("shop").ID()
	own := errors.New("own")
	if err := d.Update(t.Context(), id, func(r meta.Record) (meta.Record, error) { return r, own }); !errors.Is(err, own) {
		t.Errorf("an error of the function: %v", err)
	}
	if err := d.Update(t.Context(), id, func(meta.Record) (meta.Record, error) { return nil, nil }); err != nil {
		t.Errorf("nothing from nothing: %v", err)
	}
	if err := d.Update(t.Context(), id, func(meta.Record) (meta.Record, error) { return app("other"), nil }); !errors.Is(err, errs.InvalidBody) {
		t.Errorf("another name: %v", err)
	}
	other := mustApply(t, source.Another())
	tries := 0
	err := d.Update(t.Context(), id, func(r meta.Record) (meta.Record, error) {
		if tries++; tries < 4 { // somebody is faster three times: makes it, changes it, deletes it
			other(meta.Change{ID: id, Data: [][]byte{1: []byte(`{"app":"shop","class":"standard"}`), 2: []byte(`{"app":"shop","class":"premium"}`), 3: nil}[tries]})
		}
		if (r != nil) != (tries == 2 || tries == 3) {
			t.Errorf("try %d sees %+v", tries, r)
		}
		return app("shop"), nil
	})
	if err != nil || tries != 4 || d.Snapshot().App("shop").Class != meta.ClassStandard {
		t.Errorf("%v after %d tries", err, tries)
	}
	if err := d.Update(t.Context(), id, func(meta.Record) (meta.Record, error) { return nil, nil }); err != nil || d.Snapshot().App("shop") != nil {
		t.Errorf("deleting: %v", err)
	}
}

func mustApply(t *testing.T, s meta.Source) func(meta.Change) {
	return func(c meta.Change) {
		t.Helper()
		if _, err := s.Apply(t.Context(), c); err != nil {
			t.Error(err)
		}
	}
}

// While the source is away everything is read as it was, and nothing is changed; when it is back, what happened meanwhile is there.
func TestSourceAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := mem.New()
		d, stop := follow(t, meta.Config{Source: source})
		put(t, d, app("shop"))
		source.Away(true)
		synctest.Wait()
		<-time.After(5 * time.Minute)
		if s := d.State(); !s.Stale || !s.Loaded || time.Since(s.Since) != 5*time.Minute || !d.Snapshot().Stale() || d.Snapshot().App("shop") == nil {
			t.Errorf("%+v", s)
		}
		if _, err := d.Put(t.Context(), app("bill"), ""); !errors.Is(err, errs.Unavailable) {
			t.Errorf("%v", err)
		}
		if err := d.Delete(t.Context(), app("shop").ID(), ""); !errors.Is(err, errs.Unavailable) {
			t.Errorf("%v", err)
		}
		source.Corrupt(app("shop").ID(), nil)
		changed := d.Changed()
		source.Away(false)
		<-changed
		synctest.Wait()
		if s := d.State(); s.Stale || d.Snapshot().Stale() || d.Snapshot().App("shop") != nil {
			t.Errorf("back: %+v", s)
		}
		put(t, d, app("bill"))
		stop()
	})
}

// A start while the source is away: what was kept serves after 2 s, marked stale, until the source answers.
func TestStartFromWhatWasKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := mem.New()
		keep := filepath.Join(t.TempDir(), "meta.json")
		d, stop := follow(t, meta.Config{Source: source, Keep: keep})
		put(t, d, app("shop"), topic("shop", "orders"), &meta.Secret{Name: "peer", Current: make([]byte, 32)})
		stop() // it is written at the end
		if info, err := os.Stat(keep); err != nil || info.Mode().Perm() != 0o600 {
			t.Fatalf("%v, %v", info, err)
		}
		source.Away(true)
		d, stop = follow(t, meta.Config{Source: source.Another(), Keep: keep})
		begin := time.Now()
		<-d.Loaded()
		if waited := time.Since(begin); waited != 2*time.Second {
			t.Errorf("served after %v", waited)
		}
		s := d.Snapshot()
		if !s.Stale() || !d.State().Stale || s.App("shop") == nil || s.Topic(topic("shop", "orders").Topic()) == nil || s.Secret("peer") == nil {
			t.Errorf("%+v", d.State())
		}
		source.Corrupt(topic("shop", "orders").ID(), nil)
		changed := d.Changed()
		source.Away(false)
		<-changed
		if s := d.Snapshot(); s.Stale() || s.App("shop") == nil || s.Topic(topic("shop", "orders").Topic()) != nil {
			t.Errorf("back: %+v", d.State())
		}
		stop()
	})
}

// What the source can't read at the start is served from what was kept; what it does not have is gone.
func TestStartWithAFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := mem.New()
		keep := filepath.Join(t.TempDir(), "meta.json")
		d, stop := follow(t, meta.Config{Source: source, Keep: keep})
		put(t, d, app("shop"), app("bill"), app("gone"))
		stop()
		source.Away(true)
		d, stop = follow(t, meta.Config{Source: source.Another(), Keep: keep})
		<-d.Loaded()
		source.Corrupt(app("shop").ID(), []byte("garbage"))
		source.Corrupt(app("gone").ID(), nil)
		source.Away(false)
		changed := d.Changed()
		<-changed
		s := d.Snapshot()
		if s.App("shop") == nil || s.App("bill") == nil || s.App("gone") != nil || d.State().Faults["apps/shop"] == "" {
			t.Errorf("%d apps, %+v", s.Len(meta.KindApp), d.State())
		}
		stop()
	})
}

// Without anything kept it waits, for ever, and says so once.
func TestStartWithoutAnything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := mem.New()
		source.Away(true)
		dir := t.TempDir()
		for name, content := range map[string]string{"none": "", "garbage": "gar", "newer": `{"format":2,"objects":{"apps/a":{}}}`} {
			file := filepath.Join(dir, name)
			if content != "" {
				if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			var log strings.Builder
			another := source.Another()
			d, stop := follow(t, meta.Config{Source: another, Keep: file, Log: slog.New(slog.NewTextHandler(&log, nil))})
			<-time.After(time.Hour)
			synctest.Wait()
			if isClosed(d.Loaded()) || d.State().Loaded || d.Snapshot().Len(meta.KindApp) != 0 {
				t.Errorf("%s: %+v", name, d.State())
			}
			if lines := strings.Count(log.String(), "\n"); lines != 2 {
				t.Errorf("%s: %d lines in an hour:\n%s", name, lines, log.String())
			}
			stop()
		}
		d, stop := follow(t, meta.Config{Source: source})
		<-time.After(time.Hour)
		source.Away(false)
		<-d.Loaded()
		if d.State().Stale {
			t.Error("stale")
		}
		stop()
	})
}

// An object in the kept file that can't be read takes nothing else along.
func TestKeptGarbage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := mem.New()
		source.Away(true)
		keep := filepath.Join(t.TempDir(), "meta.json")
		text := `{"format":1,"objects":{"apps/shop":{"app":"shop","class":"standard"},"apps/bad":{"app":5},"none/x":{},"x":{}}}`
		if err := os.WriteFile(keep, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		d, stop := follow(t, meta.Config{Source: source, Keep: keep})
		<-d.Loaded()
		if d.Snapshot().App("shop") == nil || len(d.State().Faults) != 3 {
			t.Errorf("%+v", d.State())
		}
		source.Away(false)
		for d.State().Stale {
			<-d.Changed()
		}
		if n := len(d.State().Faults); n != 0 {
			t.Errorf("the source has none of them: %v", d.State().Faults)
		}
		stop()
	})
}

// The kept file is written when changes have come to rest, or have gone on for 10 s.
func TestKeepIsNotWrittenAllTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keep := filepath.Join(t.TempDir(), "meta.json")
		d, stop := follow(t, meta.Config{Source: mem.New(), Keep: keep})
		<-d.Loaded()
		var last os.FileInfo
		written := 0
		look := func() {
			synctest.Wait()
			if info, err := os.Stat(keep); err == nil && (last == nil || !os.SameFile(last, info)) {
				last = info
				written++
			}
		}
		edit := func(i int) {
			a := app("shop")
			a.Limits.Topics = i
			put(t, d, a)
		}
		<-time.After(2 * time.Second)
		look()
		if written != 1 {
			t.Errorf("written %d times when it was loaded", written)
		}
		for i := range 250 {
			edit(i)
			<-time.After(100 * time.Millisecond)
			look()
		}
		if written != 3 {
			t.Errorf("written %d times within 25 s of changes, not twice", written-1)
		}
		<-time.After(time.Second)
		if look(); written != 4 {
			t.Errorf("written %d times when they had ended, not once", written-3)
		}
		edit(1000)
		stop()
		if text, err := os.ReadFile(keep); err != nil || !strings.Contains(string(text), `"topics":1000`) {
			t.Errorf("at the end: %s, %v", text, err)
		}
	})
}
