package zk

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/testkit"
	"github.com/kateway/kateway/internal/zk"
	"github.com/kateway/kateway/registry"
)

// announced lists a member until the test ends.
func announced(t *testing.T, m *member, id string) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- m.Announce(ctx, func() registry.Instance { return registry.Instance{ID: id, Version: "1", Host: "h"} })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Announce of %s: %v", id, err)
		}
	})
}

// listed waits for a list of just these.
func listed(t *testing.T, watch <-chan []registry.Instance, ids ...string) {
	t.Helper()
	limit := time.After(time.Minute)
	var got []string
	for {
		select {
		case list := <-watch:
			got = got[:0]
			for _, is := range list {
				got = append(got, is.ID)
			}
			if slices.Equal(got, ids) {
				return
			}
		case <-limit:
			t.Fatalf("listed are %q, want %q", got, ids)
		}
	}
}

func TestLeaderOfTheServersIsKilled(t *testing.T) {
	e := testkit.ZooKeepers(t, 3)
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	c, err := zk.Open(zk.Config{Servers: e.Addrs(), Session: 8 * time.Second, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	m := &member{Registry: New(c, log), client: c}
	announced(t, m, "a")
	listed(t, m.Watch(t.Context()), "a")
	first, _ := c.State()
	for range 5 {
		leader := e.Leader()
		e.Stop(leader)
		if err := e.Start(leader); err != nil {
			t.Fatal(err)
		}
		if now := e.Leader(); now < 0 {
			t.Fatal("nobody leads")
		}
		m.reached(t, func(s zk.State) bool { return s.Connected })
		listed(t, m.Watch(t.Context()), "a")
	}
	if now, _ := c.State(); now.Session != first.Session {
		t.Errorf("the session %d was lost, now it is %d", first.Session, now.Session)
	}
}

func TestAllServersAway(t *testing.T) {
	e := testkit.ZooKeepers(t, 3)
	a := join(t, e, "/x", nil)
	announced(t, a, "a")
	watch := a.Watch(t.Context())
	listed(t, watch, "a")
	attempts := func() (n int) {
		a.each(func(p *testkit.Proxy) { n += p.Attempts() })
		return n
	}
	e.StopAll()
	a.reached(t, func(s zk.State) bool { return !s.Connected })
	before, since := attempts(), time.Now()
	const down = 4 * session
	select { // the servers stay away for that long
	case list := <-watch:
		t.Errorf("while ZooKeeper is away the list becomes %v", list)
	case <-time.After(down):
	}
	if tried, most := attempts()-before, int(time.Since(since)/time.Second)+1; tried > most || tried == 0 {
		t.Errorf("%d attempts to connect in %v, want %d at most", tried, time.Since(since), most)
	}
	if err := e.StartAll(); err != nil {
		t.Fatal(err)
	}
	back := time.Now()
	a.reached(t, func(s zk.State) bool { return s.Connected })
	listed(t, join(t, e, "/x", nil).Watch(t.Context()), "a")
	if took := time.Since(back); took > 5*time.Second {
		t.Errorf("listed again after %v, want 5 s at most", took)
	}
}

func TestSessionIsClosedByAnother(t *testing.T) {
	e := testkit.ZooKeepers(t, 1)
	a, b := join(t, e, "/x", nil), join(t, e, "/x", nil)
	announced(t, a, "a")
	watch := b.Watch(t.Context())
	listed(t, watch, "a")
	was, _ := a.client.State()
	epochs := make(chan int64, 1)
	ended := make(chan error, 1)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		_ = a.Lead(t.Context(), "d", func(ctx context.Context, epoch int64) error {
			epochs <- epoch
			<-ctx.Done()
			ended <- context.Cause(ctx)
			return nil
		})
	})
	first := <-epochs
	if err := a.proxies[0].Expire(); err != nil {
		t.Fatal(err)
	}
	if cause := <-ended; cause == nil {
		t.Error("a duty ended without a cause")
	}
	now := a.reached(t, func(s zk.State) bool { return s.Connected && s.Session != was.Session })
	listed(t, b.Watch(t.Context()), "a")
	if owner, err := b.client.Owner(t.Context(), "/gateways/a"); err != nil || owner != now.Session {
		t.Errorf("the node is of session %d, %v; ours is %d", owner, err, now.Session)
	}
	err := a.Lead(t.Context(), "d", func(_ context.Context, epoch int64) error {
		if epoch <= first {
			t.Errorf("epoch %d after %d", epoch, first)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// A gateway that was killed and started again finds its own node, and lists itself when that has gone. Where the first one
// was only cut off, it is told of the Conflict when it comes back.
func TestNodeOfTheLifeBefore(t *testing.T) {
	e := testkit.ZooKeepers(t, 1)
	dead, a, witness := join(t, e, "/x", nil), join(t, e, "/x", nil), join(t, e, "/x", nil)
	self := func() registry.Instance { return registry.Instance{ID: "a"} }
	first := make(chan error, 1)
	go func() { first <- dead.Announce(t.Context(), self) }()
	listed(t, witness.Watch(t.Context()), "a")
	dead.each((*testkit.Proxy).Cut)
	announced(t, a, "a")
	state, _ := a.client.State()
	for limit := time.After(time.Minute); ; {
		_, _, changed, _ := witness.client.Watch(t.Context(), "/gateways/a")
		owner, err := witness.client.Owner(t.Context(), "/gateways/a")
		if err == nil && owner == state.Session {
			break
		}
		select {
		case <-changed:
		case <-limit:
			t.Fatalf("the node is of session %d, %v; want %d", owner, err, state.Session)
		}
	}
	dead.each((*testkit.Proxy).Heal)
	if err := <-first; !errors.Is(err, errs.Conflict) {
		t.Errorf("the one that was cut off and replaced is answered %v, want Conflict", err)
	}
}

// A node of a session that this gateway had before is deleted at once.
func TestNodeOfTheSessionBefore(t *testing.T) {
	e := testkit.ZooKeepers(t, 1)
	a, other := join(t, e, "/x", nil), join(t, e, "/x", nil)
	if err := other.client.CreateEphemeral(t.Context(), "/gateways/a", []byte(`{"id":"a"}`)); err != nil {
		t.Fatal(err)
	}
	before, _ := other.client.State()
	state, _ := a.client.State()
	an := announcement{
		Registry: a.Registry, path: "/gateways/a", ours: []int64{before.Session},
		self: func() registry.Instance { return registry.Instance{ID: "a"} },
	}
	start := time.Now()
	if err := an.list(t.Context(), state); err != nil {
		t.Fatal(err)
	}
	if owner, err := a.client.Owner(t.Context(), "/gateways/a"); err != nil || owner != state.Session {
		t.Errorf("the node is of session %d, %v; ours is %d", owner, err, state.Session)
	}
	if took := time.Since(start); took > session {
		t.Errorf("it took %v, as if the session had to end first", took)
	}
}

func TestGarbage(t *testing.T) {
	e := testkit.ZooKeepers(t, 1)
	complaints := &lines{text: "can't be read"}
	a, b := join(t, e, "/x", nil), join(t, e, "/x", slog.New(slog.NewTextHandler(complaints, nil)))
	announced(t, a, "a")
	watch := b.Watch(t.Context())
	listed(t, watch, "a")
	for node, text := range map[string]string{"g": "\xff{", "wrong": `{"id":"other"}`, "typed": `{"id":7}`, "empty": ""} {
		if err := a.client.Create(t.Context(), "/gateways/"+node, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	announced(t, a, "z")
	listed(t, watch, "a", "z")
	if err := a.client.Delete(t.Context(), "/gateways/g", -1); err != nil {
		t.Fatal(err)
	}
	announced(t, a, "zz")
	listed(t, watch, "a", "z", "zz")
	if n := complaints.n.Load(); n != 4 {
		t.Errorf("4 nodes of garbage, %d lines in the log", n)
	}
}

// Somebody deletes what we have in ZooKeeper.
func TestNodeIsDeleted(t *testing.T) {
	e := testkit.ZooKeepers(t, 1)
	a, b := join(t, e, "/x", nil), join(t, e, "/x", nil)
	announced(t, a, "a")
	listed(t, b.Watch(t.Context()), "a")
	before, err := b.client.Stat(t.Context(), "/gateways/a")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.client.Delete(t.Context(), "/gateways/a", -1); err != nil {
		t.Fatal(err)
	}
	for limit := time.After(time.Minute); ; {
		_, _, changed, _ := b.client.Watch(t.Context(), "/gateways/a")
		if now, err := b.client.Stat(t.Context(), "/gateways/a"); err == nil && now.Created > before.Created {
			break
		}
		select {
		case <-changed:
		case <-limit:
			t.Fatal("not listed again")
		}
	}
}

func TestParentIsDeleted(t *testing.T) {
	e := testkit.ZooKeepers(t, 1)
	a, b := join(t, e, "/x", nil), join(t, e, "/x", nil)
	announced(t, a, "a")
	watch := b.Watch(t.Context())
	listed(t, watch, "a")
	a.lose(t, b.client)
	if err := b.client.Delete(t.Context(), "/gateways", -1); err != nil {
		t.Fatal(err)
	}
	listed(t, watch)
	a.each((*testkit.Proxy).Heal)
	listed(t, watch, "a")
}

// term is a time in which a member thought that the duty was its own.
type term struct {
	epoch      int64
	begin, end time.Time
	lost       bool // its context ended; else it was given up
}

// duty is the history of who had one.
type duty struct {
	mu      sync.Mutex
	history []term
	holders chan *member // tells who has it, to who wants to cut that one off
}

// hold is what m does when it has the duty, until ctx ends.
func (d *duty) hold(ctx context.Context, m *member) func(mine context.Context, epoch int64) error {
	return func(mine context.Context, epoch int64) error {
		is := term{epoch: epoch, begin: time.Now()}
		others := time.After(2 * session) // want it too
		for told, over := d.holders, false; !over; {
			select {
			case told <- m:
				told, others = nil, time.After(8*session) // it is about to be cut off, and has to notice that
			case <-mine.Done():
				is.lost, over = ctx.Err() == nil, true
			case <-others:
				over = true
			}
		}
		is.end = time.Now()
		d.mu.Lock()
		defer d.mu.Unlock()
		d.history = append(d.history, is)
		return nil
	}
}

func (d *duty) lost() (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, is := range d.history {
		if is.lost {
			n++
		}
	}
	return n
}

// TestOneHolder cuts members off at random while they compete, and then whoever has the duty until one was lost that way, and
// looks at the history of who held it.
func TestOneHolder(t *testing.T) {
	const members, cuts, aimed = 3, 12, 10
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	e := testkit.ZooKeepers(t, 3)
	ctx, cancel := context.WithCancel(t.Context())
	d := &duty{holders: make(chan *member)}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	all := make([]*member, members)
	for i := range all {
		m := join(t, e, "/x", slog.New(slog.DiscardHandler))
		all[i] = m
		wg.Go(func() {
			for ctx.Err() == nil {
				_ = m.Lead(ctx, "d", d.hold(ctx, m))
			}
		})
	}
	faults := []func(*testkit.Proxy){(*testkit.Proxy).Freeze, (*testkit.Proxy).Cut}
	for range cuts {
		m := all[random.IntN(members)] // one in three has the duty
		m.each(faults[random.IntN(len(faults))])
		<-time.After(time.Duration(random.Int64N(int64(2 * session))))
		m.each((*testkit.Proxy).Heal)
	}
	for n := 0; d.lost() == 0 && n < aimed; n++ { // by chance nobody was hit who had it
		m := <-d.holders
		m.each(faults[n%len(faults)])
		for since := time.Now(); d.lost() == 0 && time.Since(since) < 4*session; {
			<-time.After(session / 20)
		}
		m.each((*testkit.Proxy).Heal)
	}
	cancel()
	wg.Wait()
	slices.SortFunc(d.history, func(a, b term) int { return a.begin.Compare(b.begin) })
	for i, is := range d.history {
		if i > 0 && (is.epoch <= d.history[i-1].epoch || is.begin.Before(d.history[i-1].end)) {
			t.Errorf("term %+v after %+v", is, d.history[i-1])
		}
	}
	if t.Logf("%d terms, %d of them lost", len(d.history), d.lost()); d.lost() == 0 {
		t.Errorf("no duty was lost, though its holder was cut off %d times", aimed)
	}
}
