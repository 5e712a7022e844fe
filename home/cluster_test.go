package home

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/internal/errs"
)

// A client that polls at one gateway after the other gets every message once and in order, and may settle at yet another.
func TestAlternatingClient(t *testing.T) {
	c := newCluster(t, 3)
	key := c.topic(c.gws[0], 1)
	c.publish(key, 0, 0, 90)
	var got []string
	for i := 0; len(got) < 90; i++ {
		ask := poll(key)
		ask.First = 7 * (i % 2)
		s := c.open(c.gws[i%3], ask)
		list := c.next(s, 7)
		if len(list) > 7 {
			t.Fatalf("%d deliveries", len(list))
		}
		got = append(got, values(list)...)
		acks := verbs(group.Ack, list...)
		s.Close()
		c.settled(c.gws[(i+1)%3].router.Settle(t.Context(), key, acks...))
	}
	if want := numbers(0, 90); !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}

// Polls that wait at three gateways are served as if they waited at one: each message finds one of them.
func TestWaitersEverywhere(t *testing.T) {
	c := newCluster(t, 3)
	key := c.topic(c.gws[2], 1)
	type got struct {
		who  int
		list []string
	}
	results := make(chan got)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const clients = 10
	for i := range clients {
		ask := poll(key)
		s := c.open(c.gws[i%3], ask)
		go func() {
			b, err := s.Next(ctx, 1)
			if err != nil {
				t.Error(err)
			}
			c.settled(s.Settle(verbs(group.Ack, b.Deliveries...)...))
			results <- got{i, values(b.Deliveries)}
		}()
	}
	served := map[int]bool{}
	for i := range clients {
		c.publish(key, 0, i, i+1)
		r := <-results
		if served[r.who] || !slices.Equal(r.list, numbers(i, i+1)) {
			t.Errorf("client %d got %v", r.who, r.list)
		}
		served[r.who] = true
	}
}

// The home stops in good order: what was acked stays acked, what was delivered can be acked by its receipt at any gateway,
// attempts go on, and a stream at another gateway notices nothing.
func TestHomeStops(t *testing.T) {
	c := newCluster(t, 3)
	home, edge, other := c.gws[0], c.gws[1], c.gws[2]
	key := c.topic(home, 1)
	c.publish(key, 0, 0, 4)
	s := c.open(edge, poll(key))
	list := c.next(s, 4)
	for len(list) < 4 {
		list = append(list, c.next(s, 4-len(list))...)
	}
	s.Close()
	c.settled(other.router.Settle(t.Context(), key, verbs(group.Ack, list[1])...))
	receipts := other.router.Receipts(key)
	receipt := string(receipts.Seal(nil, list[2].Ref))

	home.router.Drain(0)
	home.hub.Drain(0)
	c.tell(edge, other)
	ref, err := edge.router.Receipts(key).Open(receipt)
	if err != nil {
		t.Fatal(err)
	}
	c.settled(edge.router.Settle(t.Context(), key, group.Verb{Ref: ref}))
	c.settled(other.router.Settle(t.Context(), key, verbs(group.Nack, list[0])...))
	ask := poll(key)
	again := c.next(c.open(edge, ask), 4)
	if got := values(again); !slices.Equal(got, []string{"0", "3"}) || again[0].Ref.Attempt != 2 {
		t.Errorf("got %v, attempt %d", got, again[0].Ref.Attempt)
	}
	if keys := home.hub.Keys(); slices.Contains(keys, key) {
		until(t, "the old home has left", func() bool { return !slices.Contains(home.hub.Keys(), key) })
	}
}

// follow reads a stream with auto ack until it has n messages.
func (c *cluster) follow(s group.Session, n int) (got []string) {
	c.t.Helper()
	for len(got) < n {
		list := c.next(s, n-len(got))
		got = append(got, values(list)...)
		c.settled(s.Settle(verbs(group.Ack, list...)...))
	}
	return got
}

// A gateway that joins becomes home of its share; streams go on, wherever they are connected, in order and without a
// message lost or repeated.
func TestGatewayJoins(t *testing.T) {
	c := newCluster(t, 2)
	fresh := c.add()
	var key group.Key
	whole := newView("gw1", false, nil)
	whole.homes = []string{"gw1", "gw2", "gw3"}
	for key.Topic == "" || whole.pick(key, 0, nil) != fresh.id {
		key = c.topic(c.gws[0], 1)
	}
	near, far := c.open(c.gws[0], poll(key)), c.open(c.gws[1], poll(key))
	c.publish(key, 0, 0, 3)
	if got := c.follow(near, 3); !slices.Equal(got, numbers(0, 3)) {
		t.Fatalf("got %v", got)
	}
	near.Close()
	c.publish(key, 0, 3, 6)
	if got := c.follow(far, 3); !slices.Equal(got, numbers(3, 6)) {
		t.Fatalf("got %v", got)
	}
	c.tell(c.gws...)
	until(t, "the old home has left", func() bool { return !slices.Contains(c.gws[0].hub.Keys(), key) })
	c.publish(key, 0, 6, 9)
	if got := c.follow(far, 3); !slices.Equal(got, numbers(6, 9)) {
		t.Errorf("got %v", got)
	}
	if !slices.Contains(fresh.hub.Keys(), key) {
		t.Error("the group is not at its new home")
	}
}

// A gateway goes on in another process. Clients of other gateways take along what they hold, and notice nothing; its own
// leave, and what they held is due.
func TestProcessFollows(t *testing.T) {
	c := newCluster(t, 2)
	old, edge := c.gws[0], c.gws[1]
	key := c.topic(old, 1)
	far, near := c.open(edge, stream(key)), c.open(old, stream(key))
	c.publish(key, 0, 0, 3)
	held := c.next(far, 3)
	for len(held) < 3 {
		held = append(held, c.next(far, 3-len(held))...)
	}
	c.publish(key, 0, 3, 6)
	for n := 0; n < 3; {
		n += len(c.next(near, 3))
	}
	come := make(chan []group.Delivery)
	go func() {
		var list []group.Delivery
		for len(list) < 3 {
			b, err := far.Next(t.Context(), 10)
			if err != nil {
				t.Errorf("the far client: %v", err)
				break
			}
			list = append(list, b.Deliveries...)
		}
		come <- list
	}()

	old.router.Stay()
	if _, err := near.Next(t.Context(), 1); !errors.Is(err, errs.Draining) {
		t.Errorf("the near client: %v", err)
	}
	near.Close()
	late := make(chan []error)
	go func() { late <- edge.router.Settle(t.Context(), key, verbs(group.Ack, held[0])...) }()
	if err := old.hub.Leave(t.Context()); err != nil {
		t.Error(err)
	}
	next := c.start(old.id)
	c.gws[0] = next
	c.tell(c.gws...)
	_ = old.server.Close()

	list := <-come
	if got := values(list); !slices.Equal(got, numbers(3, 6)) || list[0].Ref.Attempt != 2 {
		t.Errorf("the far client got %v", got)
	}
	c.settled(<-late)
	c.settled(far.Settle(verbs(group.Ack, held[1:]...)...))
	if keys := next.hub.Keys(); !slices.Contains(keys, key) {
		t.Errorf("the next process has %v", keys)
	}
	if keys := edge.hub.Keys(); len(keys) > 0 {
		t.Errorf("the other gateway became the home of %v", keys)
	}
}

// A home that is cut off is replaced; what was acked does not come again.
func TestHomeIsCutOff(t *testing.T) {
	c := newCluster(t, 3)
	home, edge := c.gws[0], c.gws[1]
	key := c.topic(home, 1)
	s := c.open(edge, stream(key))
	c.publish(key, 0, 0, 5)
	if got := c.follow(s, 5); !slices.Equal(got, numbers(0, 5)) {
		t.Fatalf("got %v", got)
	}
	home.proxy.Cut()
	home.hub.Evict(key) // as the store does with a member that is dead
	c.publish(key, 0, 5, 10)
	if got := c.follow(s, 5); !slices.Equal(got, numbers(5, 10)) {
		t.Errorf("got %v", got)
	}
}

// Two gateways that disagree about the home both serve: each message comes to one of their clients.
func TestDisagreement(t *testing.T) {
	c := newCluster(t, 2)
	a, b := c.gws[0], c.gws[1]
	key := c.topic(b, 4)
	a.router.view.mu.Lock()
	a.router.view.homes = []string{a.id} // as if it had never heard of the other
	a.router.view.mu.Unlock()
	sa, sb := c.open(a, stream(key)), c.open(b, stream(key))
	until(t, "both are members", func() bool {
		return len(a.partitions(key)) == 2 && len(b.partitions(key)) == 2
	})
	for p := range int32(4) {
		c.publish(key, p, 10*int(p), 10*int(p)+10)
	}
	got := append(c.follow(sa, 20), c.follow(sb, 20)...)
	slices.Sort(got)
	want := numbers(0, 40)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}

func (g *gateway) partitions(key group.Key) []group.PartitionInfo {
	info, _ := g.hub.Info(key)
	return info.Partitions
}

// A receipt whose message was delivered again is fenced, at whichever gateway it is shown.
func TestStaleReceipt(t *testing.T) {
	c := newCluster(t, 3)
	key := c.topic(c.gws[0], 1)
	c.publish(key, 0, 0, 1)
	first := c.next(c.open(c.gws[1], poll(key)), 1)[0]
	c.settled(c.gws[2].router.Settle(t.Context(), key, verbs(group.Nack, first)...))
	second := c.next(c.open(c.gws[2], poll(key)), 1)[0]
	if second.Ref.Attempt != 2 {
		t.Errorf("attempt %d", second.Ref.Attempt)
	}
	for _, g := range c.gws {
		if out := g.router.Settle(t.Context(), key, verbs(group.Ack, first)...); !errors.Is(out[0], errs.Fenced) {
			t.Errorf("at %s: %v", g.id, out[0])
		}
	}
	c.settled(c.gws[1].router.Settle(t.Context(), key, verbs(group.Ack, second)...))
}

// A spread group is at two gateways, and one client reads both.
func TestSpreadCluster(t *testing.T) {
	c := newCluster(t, 3, two)
	key := c.topic(c.gws[0], 4)
	s := c.open(c.gws[2], stream(key))
	for p := range int32(4) {
		c.publish(key, p, 10*int(p), 10*int(p)+10)
	}
	got := c.follow(s, 40)
	slices.Sort(got)
	want := numbers(0, 40)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}

// A poll whose answer never was written leaves nothing behind: what was sent ahead for it is another client's at once.
func TestPollThatLeaves(t *testing.T) {
	c := newCluster(t, 2)
	key := c.topic(c.gws[0], 1)
	c.publish(key, 0, 0, 5)
	ask := poll(key)
	ask.First = 5
	c.open(c.gws[1], ask).Close()
	list := c.next(c.open(c.gws[0], poll(key)), 5)
	if !slices.Equal(values(list), numbers(0, len(list))) || list[0].Ref.Attempt != 1 {
		t.Errorf("got %v, attempt %d", values(list), list[0].Ref.Attempt)
	}
}

// When the connection to the home breaks, the home does not know what a stream's client has been given. What may be in its
// hands is another delivery when it comes again: the client's receipt does not count for who has it then.
func TestReceiptOfBrokenConnection(t *testing.T) {
	c := newCluster(t, 2)
	home, edge := c.gws[0], c.gws[1]
	key := c.topic(home, 1)
	c.publish(key, 0, 0, 1)
	first := c.next(c.open(edge, stream(key)), 1)[0]
	home.proxy.Cut()
	second := c.next(c.open(home, stream(key)), 1)[0]
	if second.Ref == first.Ref {
		t.Errorf("two clients hold %+v", first.Ref)
	}
	if out := home.router.Settle(t.Context(), key, verbs(group.Ack, first)...); !errors.Is(out[0], errs.Fenced) {
		t.Errorf("the first client's ack: %v", out[0])
	}
	c.settled(home.router.Settle(t.Context(), key, verbs(group.Ack, second)...))
}
