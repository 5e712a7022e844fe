package home

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

// open opens a session that must not fail.
func open(t *testing.T, r *Router, ask group.Ask) group.Session {
	t.Helper()
	s, err := r.Open(t.Context(), ask)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// get is one Next that must not fail.
func get(t *testing.T, s group.Session, most int) []group.Delivery {
	t.Helper()
	b, err := s.Next(t.Context(), most)
	if err != nil {
		t.Fatal(err)
	}
	return b.Deliveries
}

// over is the error of a Next that must fail.
func over(t *testing.T, s group.Session) error {
	t.Helper()
	b, err := s.Next(t.Context(), 1)
	if err == nil {
		t.Fatalf("got %v", offsets(b.Deliveries))
	}
	return err
}

// bubble runs a test on fake time, with gateways that know each other.
func bubble(t *testing.T, n int, f func(t *testing.T, joined *network, gws []*fakeGateway), tune ...func(*Config)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		joined, gws := fakes(t, n, tune...)
		time.Sleep(2 * certainty) //nolint:forbidigo // fake time: what the first list starts is over
		f(t, joined, gws)
	})
}

func pass(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // fake time
	synctest.Wait()
}

// What the client asked for is what the home's session is opened with, and what it says goes there.
func TestForwardedSession(t *testing.T) {
	bubble(t, 2, func(t *testing.T, _ *network, gws []*fakeGateway) {
		edge, home := gws[0], gws[1]
		ask := group.Ask{
			Key:      keyOf(edge.Router, "gw2"),
			Settings: group.Settings{Mode: group.ByKey, Tags: []string{"a", "b"}, Filter: "key == 'x'"},
			Start:    store.Start{Since: time.UnixMilli(123456)}, Lease: time.Minute, Prefetch: 7, First: 3, Client: "me", Stays: true,
		}
		s := open(t, edge.Router, ask)
		far := home.hub.last(t)
		if fmt.Sprint(far.ask) != fmt.Sprint(ask) || len(edge.hub.opened) > 0 {
			t.Errorf("opened with %+v", far.ask)
		}
		synctest.Wait()
		if got := far.asks(); !slices.Equal(got, []int{3}) {
			t.Errorf("asked for %v before the first Next", got)
		}
		far.come <- batchOr{Batch: group.Batch{Gaps: []store.Gap{{Partition: 1, From: 5, To: 2}}, Deliveries: delivered(8, 9).Deliveries}}
		b, err := s.Next(t.Context(), 3)
		if err != nil || !slices.Equal(b.Gaps, []store.Gap{{Partition: 1, From: 5, To: 2}}) || !slices.Equal(offsets(b.Deliveries), []int64{8, 9}) {
			t.Errorf("%+v, %v", b, err)
		}
		want := []group.Verb{
			{Ref: b.Deliveries[0].Ref, Op: group.Ack}, {Ref: b.Deliveries[1].Ref, Op: group.Nack, Delay: time.Second},
			{Ref: b.Deliveries[1].Ref, Op: group.Extend, Lease: time.Hour}, {Ref: group.Ref{Retry: true, Offset: 3}, Op: group.Bury, Cause: "bad"},
		}
		if err := errors.Join(s.Settle(want...)...); err != nil || !slices.Equal(far.verbs(), want) {
			t.Errorf("settled %v, %v", far.verbs(), err)
		}
		far.fenced = fmt.Errorf("partition 0: %w", errs.Fenced)
		if out := s.Settle(want[0]); len(out) != 1 || !errors.Is(out[0], errs.Fenced) || !strings.HasPrefix(out[0].Error(), "partition 0: ") {
			t.Errorf("settled: %v", out)
		}
		s.Close()
		synctest.Wait()
		if len(home.hub.sessions()) != 0 || returned(far.verbs(), group.Return) != nil {
			t.Error("it is not closed, or gave back what was seen")
		}
	})
}

// A message is the same after it went from one gateway to the other, in whichever frame of the batch.
func TestMessagesComeWhole(t *testing.T) {
	bubble(t, 2, func(t *testing.T, _ *network, gws []*fakeGateway) {
		s := open(t, gws[0].Router, stream(keyOf(gws[0].Router, "gw2")))
		defer s.Close()
		big := make([]byte, 3*fullFrame)
		for i := range big {
			big[i] = byte(rand.Uint32())
		}
		var sent []group.Delivery
		for i, m := range []store.Message{
			{Key: nil, Value: nil}, {Key: []byte{}, Value: []byte{}}, {Key: []byte("k"), Value: big},
			{Value: []byte("v"), Headers: []store.Header{{Key: "", Value: []byte("x")}, {Key: "a\x00b", Value: []byte{}}}},
			{Value: big[:fullFrame-1], Time: time.UnixMilli(1_700_000_000_123)}, {Value: []byte("last"), Partition: 3, Offset: -1, Time: time.UnixMilli(-5)},
		} {
			m.Offset += int64(i)
			sent = append(sent, group.Delivery{Message: &m, Ref: group.Ref{Retry: i%2 == 1, Partition: m.Partition, Offset: m.Offset * 2, Attempt: uint32(i), Hold: 1 << 31}})
		}
		sent[5].Ref.Offset = 1 << 62
		gws[1].hub.last(t).come <- batchOr{Batch: group.Batch{Deliveries: sent}}
		got := get(t, s, 100)
		if len(got) != len(sent) {
			t.Fatalf("%d deliveries", len(got))
		}
		for i := range sent {
			a, b := sent[i], got[i]
			if fmt.Sprintf("%#v", a.Headers) != fmt.Sprintf("%#v", b.Headers) || !bytes.Equal(a.Value, b.Value) || (a.Value == nil) != (b.Value == nil) ||
				!bytes.Equal(a.Key, b.Key) || (a.Key == nil) != (b.Key == nil) || !a.Time.Equal(b.Time) || a.Time.IsZero() != b.Time.IsZero() ||
				a.Ref != b.Ref || a.Partition != b.Partition || a.Offset != b.Offset {
				t.Errorf("delivery %d: ref %v, partition %d, offset %d, time %v", i, b.Ref, b.Partition, b.Offset, b.Time)
			}
		}
	})
}

// Next answers at most what it was asked for, and asks the home once for it, however often the caller comes and goes.
func TestCredit(t *testing.T) {
	bubble(t, 2, func(t *testing.T, _ *network, gws []*fakeGateway) {
		s := open(t, gws[0].Router, stream(keyOf(gws[0].Router, "gw2")))
		defer s.Close()
		far := gws[1].hub.last(t)
		pass(time.Second)
		if n := len(far.asks()); n != 0 {
			t.Fatalf("asked %d times before Next", n)
		}
		for range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if _, err := s.Next(ctx, 5); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
			cancel()
		}
		far.come <- batchOr{Batch: delivered(1, 2, 3, 4, 5)}
		synctest.Wait()
		if got := far.asks(); !slices.Equal(got, []int{5}) {
			t.Errorf("asked for %v", got)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		for _, want := range [][]int64{{1, 2}, {3, 4}, {5}} { // with a ctx that has ended, what is at hand
			if b, err := s.Next(ended, 2); err != nil || !slices.Equal(offsets(b.Deliveries), want) {
				t.Errorf("%v, %v", offsets(b.Deliveries), err)
			}
		}
		if _, err := s.Next(ended, 2); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// What was on its way to a client that left goes back to the group at once. It does not count as delivered, unless the link is
// lost and the client may have it all the same.
func TestUnseenGoesBack(t *testing.T) {
	for name, c := range map[string]struct {
		stays bool
		take  int // handed out
		cut   bool
		want  []int64
	}{
		"closed after all":       {true, 5, false, nil},
		"closed after some":      {true, 2, false, []int64{2, 3, 4}},
		"closed after none":      {true, 0, false, []int64{0, 1, 2, 3, 4}},
		"stream closed":          {false, 2, false, []int64{2, 3, 4}},
		"edge lost after some":   {true, 2, true, []int64{2, 3, 4}},
		"edge lost after all":    {true, 5, true, nil},
		"stream's edge was lost": {false, 2, true, []int64{0, 1, 2, 3, 4}}, // all are due again either way
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 2, func(t *testing.T, joined *network, gws []*fakeGateway) {
				ask := stream(keyOf(gws[0].Router, "gw2"))
				ask.First, ask.Stays = 5, c.stays
				s := open(t, gws[0].Router, ask)
				far := gws[1].hub.last(t)
				far.come <- batchOr{Batch: delivered(0, 1, 2, 3, 4)}
				if c.take > 0 {
					get(t, s, c.take)
				}
				synctest.Wait()
				if c.cut {
					joined.cut("gw2")
				} else {
					s.Close()
				}
				synctest.Wait()
				op, other := group.Return, group.Nack
				if c.cut {
					op, other = other, op
				}
				if got := returned(far.verbs(), op); !slices.Equal(got, c.want) || len(returned(far.verbs(), other)) > 0 {
					t.Errorf("%v went back, in %v", got, far.verbs())
				}
				select {
				case <-far.closed:
				default:
					t.Error("the home's session is open")
				}
				s.Close()
			})
		})
	}
}

// What the home refuses is refused with the same kind and words, and no other gateway is asked.
func TestRefusals(t *testing.T) {
	bubble(t, 3, func(t *testing.T, _ *network, gws []*fakeGateway) {
		key := keyOf(gws[0].Router, "gw2")
		for _, kind := range []errs.Kind{errs.Conflict, errs.InvalidParam, errs.UnknownTopic, errs.Unavailable, errs.Internal, errs.Overloaded} {
			want := fmt.Errorf("the group is in mode key: %w", kind)
			gws[1].hub.refuses(want)
			_, err := gws[0].Open(t.Context(), stream(key))
			if errs.Of(err) != kind || err.Error() != want.Error() {
				t.Errorf("%v came as %v", want, err)
			}
		}
		gws[1].hub.refuses(nil)
		for _, kind := range []errs.Kind{errs.UnknownTopic, errs.Unavailable} {
			s := open(t, gws[0].Router, stream(key))
			gws[1].hub.last(t).come <- batchOr{err: kind}
			if err := over(t, s); !errors.Is(err, kind) {
				t.Errorf("%v came as %v", kind, err)
			}
			s.Close()
		}
		if n := len(gws[0].hub.opened) + len(gws[2].hub.opened); n > 0 {
			t.Errorf("%d sessions were opened elsewhere", n)
		}
	})
}

// Open gives up with its caller, and the home's session with it.
func TestOpenIsBounded(t *testing.T) {
	bubble(t, 2, func(t *testing.T, joined *network, gws []*fakeGateway) {
		joined.freeze("gw2")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		_, err := gws[0].Open(ctx, stream(keyOf(gws[0].Router, "gw2")))
		if took := time.Since(began); !errors.Is(err, errs.Unavailable) || took != time.Second {
			t.Errorf("%v after %v", err, took)
		}
		joined.heal("gw2")
		pass(time.Second)
		if n := len(gws[1].hub.sessions()); n != 0 {
			t.Errorf("%d sessions are open at the home", n)
		}
	})
}

// A session goes on when the home says that the group moves, and when the home is another one.
func TestSessionsFollow(t *testing.T) {
	bubble(t, 3, func(t *testing.T, _ *network, gws []*fakeGateway) {
		edge := gws[0]
		key := keyOf(edge.Router, "gw2")
		s := open(t, edge.Router, stream(key))
		defer s.Close()
		first := gws[1].hub.last(t)
		first.come <- batchOr{Batch: delivered(1)}
		get(t, s, 1)
		first.come <- batchOr{err: group.ErrMoved}
		var got []group.Delivery
		var wg sync.WaitGroup
		wg.Go(func() { got = get(t, s, 1) })
		pass(time.Second)
		second := gws[1].hub.last(t)
		if second == first || second.ask.First != 0 {
			t.Fatal("it was not opened again")
		}
		for _, g := range gws {
			g.Update(instances("gw1", "gw3"))
		}
		pass(otherView + time.Second) // the old home does not see it that way, and would have sent it away before
		if n := len(gws[1].hub.sessions()); n != 0 {
			t.Errorf("%d sessions are left at the old home", n)
		}
		next := edge.Home(key)
		hub := map[string]*fakeHub{"gw1": edge.hub, "gw3": gws[2].hub}[next]
		hub.last(t).come <- batchOr{Batch: delivered(2)}
		wg.Wait()
		if !slices.Equal(offsets(got), []int64{2}) {
			t.Errorf("got %v", offsets(got))
		}
	})
}

// Verbs of a session whose home is gone are brought to the new one.
func TestSettleAfterAMove(t *testing.T) {
	bubble(t, 2, func(t *testing.T, joined *network, gws []*fakeGateway) {
		s := open(t, gws[0].Router, stream(keyOf(gws[0].Router, "gw2")))
		defer s.Close()
		gws[1].hub.last(t).come <- batchOr{Batch: delivered(1, 2)}
		list := get(t, s, 2)
		joined.cut("gw2")
		synctest.Wait()
		if err := errors.Join(s.Settle(verbs(group.Ack, list[0])...)...); err != nil {
			t.Error(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() { get(t, s, 1) })
		pass(longestRest)
		here := gws[0].hub.last(t) // the session goes on here, where the partition is still to come
		here.fenced = errs.Fenced
		if err := errors.Join(s.Settle(verbs(group.Ack, list[1])...)...); err != nil {
			t.Error(err)
		}
		var acked []int64
		for _, q := range gws[0].hub.asked() {
			for _, v := range q.verbs {
				acked = append(acked, v.Offset)
			}
		}
		if !slices.Equal(acked, []int64{1, 2}) {
			t.Errorf("the new home was told of %v", acked)
		}
		here.come <- batchOr{Batch: delivered(3)}
		wg.Wait()
	})
}

// When this gateway stops, its forwarded sessions end one after the other, and new ones are refused.
func TestDrainOfTheEdge(t *testing.T) {
	bubble(t, 2, func(t *testing.T, _ *network, gws []*fakeGateway) {
		key := keyOf(gws[0].Router, "gw2")
		const n = 10
		began := time.Now()
		var mu sync.Mutex
		var ends []time.Duration
		var wg sync.WaitGroup
		for range n {
			s := open(t, gws[0].Router, stream(key))
			wg.Go(func() {
				err := over(t, s)
				mu.Lock()
				defer mu.Unlock()
				ends = append(ends, time.Since(began))
				if !errors.Is(err, errs.Draining) {
					t.Error(err)
				}
				s.Close()
			})
		}
		synctest.Wait()
		gws[0].Drain(10 * time.Second)
		gws[0].Drain(time.Second) // does nothing
		wg.Wait()
		for i, d := range ends {
			if d != time.Duration(i)*time.Second {
				t.Errorf("session %d ended after %v", i, d)
			}
		}
		if _, err := gws[0].Open(t.Context(), stream(key)); !errors.Is(err, errs.Draining) {
			t.Error(err)
		}
		pass(time.Second)
		if n := len(gws[1].hub.sessions()); n != 0 {
			t.Errorf("%d sessions are open at the home", n)
		}
	})
}

// A gateway that leaves sends its groups away, and serves its own clients on at their new homes.
func TestLeave(t *testing.T) {
	bubble(t, 2, func(t *testing.T, _ *network, gws []*fakeGateway) {
		key := keyOf(gws[0].Router, "gw1")
		s := open(t, gws[0].Router, stream(key))
		defer s.Close()
		gws[0].hub.has(key)
		var wg sync.WaitGroup
		wg.Go(func() { get(t, s, 1) })
		gws[0].Leave()
		gws[0].Leave()
		if got := gws[0].hub.evictions(); !slices.Equal(got, []group.Key{key}) {
			t.Errorf("evicted %v", got)
		}
		gws[0].hub.last(t).come <- batchOr{err: group.ErrMoved} // what the hub does then
		pass(longestRest)
		if len(gws[1].hub.sessions()) != 1 {
			t.Fatal("it does not go on at the other gateway")
		}
		gws[1].hub.last(t).come <- batchOr{Batch: delivered(1)}
		wg.Wait()
		open(t, gws[0].Router, stream(key)).Close()
		if n := len(gws[1].hub.opened); n != 2 {
			t.Errorf("%d sessions were opened there", n)
		}
		open(t, gws[1].Router, stream(key)).Close() // which has not heard of it
		if n := len(gws[0].hub.opened); n != 1 {
			t.Errorf("%d sessions were opened here", n)
		}
	})
}

// When the home stops, its groups go, and clients of other gateways go on at the next home.
func TestDrainOfTheHome(t *testing.T) {
	bubble(t, 2, func(t *testing.T, joined *network, gws []*fakeGateway) {
		key, own := keyOf(gws[0].Router, "gw2"), keyOf(gws[0].Router, "gw1")
		s := open(t, gws[0].Router, stream(key))
		defer s.Close()
		gws[1].hub.has(key, own)
		var wg sync.WaitGroup
		wg.Go(func() { get(t, s, 1) })
		synctest.Wait()
		gws[1].Drain(time.Minute)
		if got := gws[1].hub.evictions(); !slices.Equal(got, []group.Key{key, own}) {
			t.Errorf("evicted %v", got)
		}
		gws[1].hub.last(t).come <- batchOr{err: group.ErrMoved} // what the hub does then
		pass(longestRest)
		if gws[0].Home(key) != "gw1" || len(gws[0].hub.sessions()) != 1 {
			t.Error("it does not go on here")
		}
		gws[0].hub.last(t).come <- batchOr{Batch: delivered(1)}
		wg.Wait()
		dials := joined.dialed()
		pass(time.Minute)
		if joined.dialed() < dials+10 || gws[0].Home(key) != "gw1" || joined.links() > 1 {
			t.Errorf("asked %d times whether it is back; %d links are open", joined.dialed()-dials, joined.links())
		}
	})
}

// A home that says nothing any more is found out, though the connection stays.
func TestFrozenHome(t *testing.T) {
	bubble(t, 2, func(t *testing.T, joined *network, gws []*fakeGateway) {
		key := keyOf(gws[0].Router, "gw2")
		s := open(t, gws[0].Router, stream(key))
		defer s.Close()
		far := gws[1].hub.last(t)
		began := time.Now()
		joined.freeze("gw2")
		var wg sync.WaitGroup
		wg.Go(func() { get(t, s, 1) })
		for len(gws[0].hub.sessions()) == 0 {
			pass(100 * time.Millisecond)
		}
		if took := time.Since(began); took < 2*time.Second || took > 2700*time.Millisecond {
			t.Errorf("found out after %v", took)
		}
		joined.heal("gw2")
		gws[0].hub.last(t).come <- batchOr{Batch: delivered(1)}
		wg.Wait()
		pass(20 * time.Second)
		select {
		case <-far.closed:
		default:
			t.Error("the home's session is open")
		}
		if gws[0].Home(key) != "gw2" {
			t.Error("it is not home again")
		}
	})
}

// An edge that says nothing any more loses its sessions.
func TestFrozenEdge(t *testing.T) {
	bubble(t, 2, func(t *testing.T, joined *network, gws []*fakeGateway) {
		s := open(t, gws[0].Router, stream(keyOf(gws[0].Router, "gw2")))
		defer s.Close()
		joined.freeze("gw2") // neither hears the other
		pass(10 * time.Second)
		if n := len(gws[1].hub.sessions()); n != 0 {
			t.Errorf("%d sessions are open", n)
		}
		joined.heal("gw2")
	})
}

// A home that can't be reached is passed over, and it is home again soon after it can be.
func TestUnreachableHome(t *testing.T) {
	bubble(t, 3, func(t *testing.T, joined *network, gws []*fakeGateway) {
		edge := gws[0]
		key := keyOf(edge.Router, "gw2")
		for edge.view.pick(key, 1, nil) != "gw3" {
			key.Topic += "t"
			for edge.Home(key) != "gw2" {
				key.Topic += "t"
			}
		}
		joined.cut("gw2")
		s := open(t, edge.Router, stream(key))
		defer s.Close()
		if len(gws[2].hub.sessions()) != 1 {
			t.Fatal("it was not opened at the next in rank")
		}
		dials := joined.dialed()
		for range 10 {
			open(t, edge.Router, stream(key)).Close()
		}
		if joined.dialed() != dials {
			t.Errorf("the absent home was dialed %d times", joined.dialed()-dials)
		}
		pass(absence + time.Second)
		if joined.dialed() <= dials || len(gws[2].hub.sessions()) != 1 {
			t.Error("it was not looked for, or it was found")
		}
		joined.heal("gw2")
		pass(absence + time.Second)
		var wg sync.WaitGroup
		wg.Go(func() { get(t, s, 1) })
		synctest.Wait()
		if len(gws[2].hub.sessions()) != 0 || len(gws[1].hub.sessions()) != 1 {
			t.Error("it did not go to its home")
		}
		gws[1].hub.last(t).come <- batchOr{Batch: delivered(1)}
		wg.Wait()
	})
}

// A group is left when its home is elsewhere, once everybody must have heard of it again, and not before the home answers.
func TestEvictions(t *testing.T) {
	bubble(t, 2, func(t *testing.T, joined *network, gws []*fakeGateway) {
		g := gws[0]
		mine, yours := keyOf(g.Router, "gw1"), keyOf(g.Router, "gw2")
		g.hub.has(mine, yours)
		g.Update(instances("gw1"))
		synctest.Wait()
		if n := len(g.hub.evictions()); n != 0 {
			t.Errorf("%d evictions when somebody left", n)
		}
		pass(time.Minute)
		g.Update(instances("gw1", "gw2"))
		pass(time.Second)
		if got := g.hub.evictions(); !slices.Equal(got, []group.Key{yours}) {
			t.Errorf("evicted %v", got)
		}
		pass(time.Hour)
		if got := g.hub.evictions(); !slices.Equal(got, []group.Key{yours, yours}) {
			t.Errorf("evicted %v", got)
		}
		g.Update(instances("gw1"))
		pass(time.Minute)
		joined.cut("gw2")
		g.Update(instances("gw1", "gw2"))
		pass(time.Minute)
		if got := g.hub.evictions(); len(got) != 2 {
			t.Errorf("evicted %v for a home that can't be reached", got[2:])
		}
		joined.heal("gw2")
		pass(time.Minute)
		if got := g.hub.evictions(); len(got) != 3 {
			t.Errorf("evicted %v once it could be reached", got[2:])
		}
	})
}

// A forwarded session is served where it arrives, whatever that gateway thinks of it; when its clients have left, so does it.
func TestServedWhereItArrives(t *testing.T) {
	bubble(t, 4, func(t *testing.T, _ *network, gws []*fakeGateway) {
		edge, at := gws[0], gws[1]
		edge.Update(instances("gw1", "gw2", "gw3"))
		pass(2 * certainty)
		key := keyOf(edge.Router, "gw2")
		for at.Home(key) == "gw2" || edge.Home(key) != "gw2" {
			key.Group += "x"
		}
		pass(time.Minute)
		s := open(t, edge.Router, stream(key))
		if len(at.hub.sessions()) != 1 {
			t.Fatal("it is not served")
		}
		at.hub.clients(key, 1)
		pass(time.Minute)
		if n := len(at.hub.evictions()); n != 0 {
			t.Error("it was sent away while it had a client")
		}
		s.Close()
		synctest.Wait()
		at.hub.clients(key, 0)
		pass(strayTime / 2)
		open(t, edge.Router, stream(key)).Close() // who comes now and then keeps it
		pass(strayTime - time.Millisecond)
		if n := len(at.hub.evictions()); n != 0 {
			t.Error("left too early")
		}
		pass(strayTime)
		if got := at.hub.evictions(); !slices.Equal(got, []group.Key{key}) {
			t.Errorf("evicted %v", got)
		}
	})
}

// A link that nobody uses ends, and is made anew by who comes next.
func TestIdleLink(t *testing.T) {
	bubble(t, 2, func(t *testing.T, joined *network, gws []*fakeGateway) {
		key := keyOf(gws[0].Router, "gw2")
		s := open(t, gws[0].Router, stream(key))
		pass(time.Hour)
		if n := joined.links(); n != 1 {
			t.Errorf("%d links while one is used", n)
		}
		s.Close()
		pass(2 * idleLink)
		if n := joined.links(); n != 0 {
			t.Errorf("%d links are left", n)
		}
		open(t, gws[0].Router, stream(key)).Close()
		if gws[0].Home(key) != "gw2" || len(gws[0].hub.opened) > 0 {
			t.Error("the home was passed over")
		}
	})
}

// When the router closes, waiting sessions end and nothing is left.
func TestClose(t *testing.T) {
	bubble(t, 2, func(t *testing.T, joined *network, gws []*fakeGateway) {
		s := open(t, gws[0].Router, stream(keyOf(gws[0].Router, "gw2")))
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := over(t, s); !errors.Is(err, errs.Draining) {
				t.Error(err)
			}
		})
		synctest.Wait()
		if err := gws[0].Close(t.Context()); err != nil {
			t.Error(err)
		}
		wg.Wait()
		synctest.Wait()
		if n := joined.links() + len(gws[1].hub.sessions()); n != 0 {
			t.Errorf("%d links and sessions are left", n)
		}
		s.Close()
		s.Close()
	})
}
