package zk_test

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	zookeeper "github.com/go-zookeeper/zk"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/testkit"
	"github.com/kateway/kateway/internal/zk"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/meta/metatest"
	metazk "github.com/kateway/kateway/meta/zk"
)

func app(name string) *meta.App { return &meta.App{Name: name, Class: meta.ClassStandard} }

func appID(i int) meta.ID { return app(fmt.Sprintf("app-%d", i)).ID() }

func put(t testing.TB, d *meta.Directory, r meta.Record) {
	t.Helper()
	if _, err := d.Put(within(t), r, ""); err != nil {
		t.Fatal(err)
	}
}

// until waits until the directory is as wanted.
func until(t testing.TB, d *meta.Directory, what string, ok func() bool) {
	t.Helper()
	deadline := within(t)
	for !ok() {
		select {
		case <-d.Changed(): // most, but not all, of what is waited for changes the snapshot
		case <-time.After(20 * time.Millisecond):
		case <-deadline.Done():
			t.Fatalf("waiting for %s: %+v", what, d.State())
		}
	}
}

// Nodes that hold anything at all never do harm: the last good content stays, the fault is named, and it goes with its cause.
func TestNodesOfGarbage(t *testing.T) {
	k := &keeper{addr: testkit.ZooKeeper(t), chroot: "/garbage"}
	c, _ := k.client(t, "")
	s := k.open(t)
	d := metatest.Directory(t, s)
	shop := app("shop")
	put(t, d, shop)
	place := s.Place(shop.ID())
	good, _, err := c.Get(within(t), place)
	if err != nil {
		t.Fatal(err)
	}
	random := make([]byte, 10_000)
	for i := range random {
		random[i] = byte(rand.Uint32())
	}
	for what, content := range map[string][]byte{
		"nothing": {}, "half": good[:len(good)/2], "random": random, "huge": []byte(strings.Repeat("x", 1<<20-1000)),
		"newer":     []byte(strings.Replace(string(good), `"format":1`, `"format":2`, 1)),
		"elsewhere": []byte(`{"format":1,"objects":{"x":{}}}`),
	} {
		if _, err := c.Set(within(t), place, content, -1); err != nil {
			t.Fatal(err)
		}
		until(t, d, "the fault: "+what, func() bool { return d.State().Faults[place] != "" })
		if d.Snapshot().App("shop") == nil {
			t.Errorf("%s: the app is gone", what)
		}
		if _, err := d.Put(within(t), shop, ""); !errors.Is(err, errs.Conflict) || !strings.Contains(err.Error(), place) {
			t.Errorf("%s: writing over it: %v", what, err)
		}
		if _, err := c.Set(within(t), place, good, -1); err != nil {
			t.Fatal(err)
		}
		until(t, d, "no fault after "+what, func() bool { return len(d.State().Faults) == 0 })
	}
	for path, content := range map[string]string{"/meta/apps/zzz": "x", "/meta/apps/400": "x", "/meta/secrets/001": "x", "/meta/others/000": "x"} {
		if err := c.Create(within(t), path, []byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Refresh(within(t)); err != nil || len(d.State().Faults) > 0 {
		t.Errorf("nodes that are nobody's: %v, %v", err, d.State().Faults)
	}
}

// A bucket that can be read, with an object in it that can't: the others of the bucket go on changing.
func TestObjectOfGarbage(t *testing.T) {
	k := &keeper{addr: testkit.ZooKeeper(t), chroot: "/object"}
	other, s := k.open(t), k.open(t)
	d := metatest.Directory(t, s)
	peer := &meta.Secret{Name: "peer", Current: make([]byte, 32)}
	put(t, d, peer)
	apply(t, other, peer.ID(), []byte(`{"name":"peer","current":5}`))
	until(t, d, "the fault", func() bool { return d.State().Faults["secrets/peer"] != "" })
	put(t, d, &meta.Secret{Name: "receipts", Current: make([]byte, 32)})
	if len(d.Snapshot().Secret("peer").Current) != 32 {
		t.Error("the last good content is gone")
	}
	put(t, d, peer)
	if f := d.State().Faults; len(f) > 0 {
		t.Errorf("after it was written again: %v", f)
	}
}

// Nobody of ours deletes a bucket: one that is gone is a fault, and comes back whole with the next change.
func TestBucketsThatAreGone(t *testing.T) {
	k := &keeper{addr: testkit.ZooKeeper(t), chroot: "/gone"}
	c, _ := k.client(t, "")
	s := k.open(t)
	d := metatest.Directory(t, s)
	put(t, d, &meta.Option{Name: "a", Value: []byte("1")})
	put(t, d, &meta.Option{Name: "b", Value: []byte("2")})
	put(t, d, app("shop"))
	place := s.Place(meta.ID{Kind: meta.KindOption, Name: "a"})
	for _, path := range []string{place, "/meta/options", s.Place(app("shop").ID()), "/meta/apps"} {
		if err := c.Delete(within(t), path, -1); err != nil {
			t.Fatal(err)
		}
	}
	until(t, d, "the faults", func() bool { f := d.State().Faults; return f[place] != "" && f["/meta/apps"] != "" })
	if d.Snapshot().Option("a") == nil || d.Snapshot().App("shop") == nil {
		t.Error("its objects went with it")
	}
	put(t, d, &meta.Option{Name: "a", Value: []byte("3")})
	until(t, d, "one fault less", func() bool { return d.State().Faults[place] == "" && d.State().Faults["/meta/options"] == "" })
	fresh := metatest.Directory(t, k.open(t))
	if a, b := fresh.Snapshot().Option("a"), fresh.Snapshot().Option("b"); a == nil || string(a.Value) != "3" || b == nil || string(b.Value) != "2" {
		t.Errorf("restored: %v, %v", a, b)
	}
	if fresh.Snapshot().App("shop") != nil {
		t.Error("what nobody restored came back")
	}
	put(t, d, app("other")) // perhaps in another bucket: the kind is back, the bucket need not be
	until(t, d, "the kind", func() bool { return d.State().Faults["/meta/apps"] == "" })
}

// What the access lists do not let us read is unknown, not empty: nobody is told that there are no apps, what was kept serves
// where there is something, and all is read as soon as we may. What they do not let us write is a fault of ours, not of who asks.
func TestAccessDenied(t *testing.T) {
	const credentials = "kateway:secret"
	k := &keeper{addr: testkit.ZooKeeper(t), chroot: "/denied"}
	owner, _ := k.client(t, credentials)
	mine := metazk.New(owner, slog.New(slog.DiscardHandler))
	put(t, metatest.Directory(t, mine), app("shop"))

	s := k.open(t) // without credentials
	_, err := s.Next(within(t))
	if !errors.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), "credentials") || !strings.Contains(err.Error(), "/meta/apps") {
		t.Errorf("the first update: %v", err)
	}
	_, err = s.Apply(within(t), meta.Change{ID: appID(1), Data: []byte(`{}`)})
	if !errors.Is(err, errs.Unavailable) || errors.Is(err, errs.Denied) || !strings.Contains(err.Error(), "credentials") {
		t.Errorf("a change: %v", err)
	}
	next := make(chan meta.Update, 1)
	go func() {
		if u, err := s.Next(within(t)); err == nil {
			next <- u
		}
	}()
	openToAll(t, k.addr, credentials, k.chroot)
	select {
	case u := <-next:
		if !u.Whole || u.Objects[app("shop").ID()] == nil || len(u.Faults) > 0 {
			t.Errorf("once it is open to us: %+v", u)
		}
	case <-within(t).Done():
		t.Error("nothing is told once it is open to us")
	}
}

// openToAll lets everybody do everything to a node and what is below it.
func openToAll(t *testing.T, addr, credentials, path string) {
	t.Helper()
	c, _, err := zookeeper.Connect([]string{addr}, 4*time.Second, zookeeper.WithLogInfo(false))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.AddAuth("digest", []byte(credentials)); err != nil {
		t.Fatal(err)
	}
	var walk func(path string)
	walk = func(path string) {
		names, _, err := c.Children(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			walk(path + "/" + name)
		}
		if _, err := c.SetACL(path, zookeeper.WorldACL(zookeeper.PermAll), -1); err != nil {
			t.Fatal(err)
		}
	}
	walk(path)
}

func TestFullBucket(t *testing.T) {
	k := &keeper{addr: testkit.ZooKeeper(t), chroot: "/full"}
	s := k.open(t)
	object := []byte(`{"x":"` + strings.Repeat("x", 60<<10) + `"}`)
	id := func(i int) meta.ID { return meta.ID{Kind: meta.KindOption, Name: fmt.Sprint("o", i)} }
	n := 0
	for ; ; n++ {
		_, err := s.Apply(within(t), meta.Change{ID: id(n), Data: object})
		if err != nil {
			if !errors.Is(err, errs.TooLarge) || !strings.Contains(err.Error(), "delete") {
				t.Fatal(err)
			}
			break
		}
	}
	if n < 14 {
		t.Errorf("full with %d objects", n)
	}
	apply(t, s, id(0), nil)
	apply(t, s, id(n), object)
}

// A client connects once a second at most, so that this is how many seconds the test takes.
var cuts = flag.Int("cuts", 15, "how often the connection breaks in TestNoChangeIsMissed")

// Ten thousand changes by others while the connection breaks again and again: soon after all is quiet, everything is seen.
func TestNoChangeIsMissed(t *testing.T) {
	k := &keeper{addr: testkit.ZooKeeper(t), chroot: "/missed"}
	writer, s := k.open(t), k.open(t)
	d := metatest.Directory(t, s)
	want := map[meta.ID]string{}
	changes, broken := 0, 0
	for ; changes < 10_000 || broken < *cuts; changes++ {
		i := changes
		id := appID(rand.IntN(500))
		if was, ok := want[id]; ok && rand.IntN(10) == 0 {
			insist(t, writer, meta.Change{ID: id, Match: meta.ETag([]byte(was))})
			delete(want, id)
		} else {
			data := fmt.Sprintf(`{"app":%q,"class":"standard","limits":{"topics":%d}}`, id.Name, i)
			insist(t, writer, meta.Change{ID: id, Data: []byte(data)})
			want[id] = data
		}
		if rand.IntN(100) == 0 && k.links[s].cut(false) {
			broken++
		}
	}
	quiet := time.Now()
	missing := func() int {
		wrong := 0
		snapshot := d.Snapshot()
		for id, data := range want {
			if _, etag := snapshot.Record(id); etag != meta.ETag([]byte(data)) {
				wrong++
			}
		}
		return wrong + max(snapshot.Len(meta.KindApp)-len(want), 0)
	}
	until(t, d, "all changes", func() bool { return missing() == 0 })
	t.Logf("%d changes, %d cuts: all seen %v after the last", changes, broken, time.Since(quiet).Round(time.Millisecond))
	if f := d.State(); len(f.Faults) > 0 || f.Stale {
		t.Errorf("%+v", f)
	}
}

// A session that is lost takes its watches along; nothing of that is to be seen.
func TestLostSession(t *testing.T) {
	k := &keeper{addr: testkit.ZooKeeper(t), chroot: "/session"}
	writer := k.open(t)
	c, l := k.client(t, "")
	d := metatest.Directory(t, metazk.New(c, slog.New(slog.DiscardHandler)))
	apply(t, writer, appID(0), []byte(`{"app":"app-0","class":"standard"}`))
	until(t, d, "the first", func() bool { return d.Snapshot().App("app-0") != nil })
	before, _ := c.State()
	if err := c.CreateEphemeral(within(t), "/session", nil); err != nil {
		t.Fatal(err)
	}
	l.cut(true)
	until(t, d, "that it is away", func() bool { return d.State().Stale })
	apply(t, writer, appID(1), []byte(`{"app":"app-1","class":"standard"}`))
	onlooker, _ := k.client(t, "")
	gone(t, onlooker, "/session")
	apply(t, writer, appID(0), nil)
	l.cut(false)
	until(t, d, "what happened meanwhile", func() bool {
		return !d.State().Stale && d.Snapshot().App("app-1") != nil && d.Snapshot().App("app-0") == nil
	})
	apply(t, writer, appID(2), []byte(`{"app":"app-2","class":"standard"}`))
	until(t, d, "what comes after", func() bool { return d.Snapshot().App("app-2") != nil })
	if after, _ := c.State(); after.Session == before.Session {
		t.Error("the session was not lost")
	}
}

// gone waits until the node is gone.
func gone(t *testing.T, c *zk.Client, path string) {
	t.Helper()
	for {
		_, _, changed, err := c.Watch(within(t), path)
		switch {
		case errors.Is(err, errs.NotFound):
			return
		case err != nil:
			t.Fatal(err)
		}
		<-changed
	}
}

// insist makes a change, again where a busy machine lost the connection over it.
func insist(t *testing.T, s meta.Source, c meta.Change) {
	t.Helper()
	for {
		_, err := s.Apply(within(t), c)
		if err == nil || c.Data == nil && errors.Is(err, errs.NotFound) {
			return
		}
		if !errors.Is(err, errs.Unavailable) {
			t.Fatal(err)
		}
	}
}
