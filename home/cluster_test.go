package home

import (
	"context"
	"slices"
	"testing"

	"github.com/kateway/kateway/group"
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
