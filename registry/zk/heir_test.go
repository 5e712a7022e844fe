package zk

import (
	"context"
	"testing"
	"time"

	"github.com/kateway/kateway/internal/testkit"
	"github.com/kateway/kateway/registry"
)

// A gateway that goes on in another process stays listed all the while: nobody ever sees a list without it, and the node
// outlives the session of the process before.
func TestPlaceIsTakenOver(t *testing.T) {
	e := testkit.ZooKeepers(t, 1)
	before, heir, witness := join(t, e, "/x", nil), join(t, e, "/x", nil), join(t, e, "/x", nil)
	self := func() registry.Instance { return registry.Instance{ID: "a"} }
	ctx, keep := context.WithCancelCause(t.Context())
	first := make(chan error, 1)
	go func() { first <- before.Announce(ctx, self) }()
	watch := witness.Watch(t.Context())
	listed(t, watch, "a")
	keep(registry.ErrKeep)
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	heir.TakeOver()
	announced(t, heir, "a")
	state, _ := heir.client.State()
	for limit := time.After(time.Minute); ; {
		_, _, changed, err := witness.client.Watch(t.Context(), "/gateways/a")
		if err != nil {
			t.Fatalf("the node is missing: %v", err)
		}
		if owner, err := witness.client.Owner(t.Context(), "/gateways/a"); err == nil && owner == state.Session {
			break
		}
		select {
		case <-changed:
		case <-limit:
			t.Fatal("the node is not the heir's")
		}
	}
	before.client.Close()
	for {
		select {
		case list := <-watch:
			if len(list) != 1 {
				t.Fatalf("the list is %v", list)
			}
			continue
		case <-time.After(200 * time.Millisecond):
		}
		break
	}
	if _, err := witness.client.Owner(t.Context(), "/gateways/a"); err != nil {
		t.Errorf("after the end of the first session: %v", err)
	}
}
