package auth

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/meta"
	"github.com/kateway/kateway/plugins"
)

// run has the plugin work in the background until the test ends.
func (w *world) run() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); w.plugin.Run(ctx) }()
	w.t.Cleanup(func() { cancel(); <-ended })
}

// open is a call that goes on until it is ended; what ended it comes over the channel.
func (w *world) open(c *plugins.Call) <-chan error {
	begun, ended, over := make(chan struct{}), make(chan error, 1), make(chan struct{})
	parent, leave := context.WithCancel(context.Background())
	w.t.Cleanup(func() { leave(); <-over })
	go func() {
		defer close(over)
		err := w.plugin.Wrap(func(ctx context.Context, _ *plugins.Call) error {
			close(begun)
			<-ctx.Done()
			if plugins.Ended(ctx) == nil {
				return errors.New("it ended, and nobody says why")
			}
			return ctx.Err()
		})(parent, c)
		ended <- err
	}()
	select {
	case <-begun:
	case err := <-ended:
		w.t.Fatal(err)
	}
	return ended
}

// within waits for the end of a stream, and fails where it does not come in time.
func within(t *testing.T, limit time.Duration, ended <-chan error) error {
	t.Helper()
	select {
	case err := <-ended:
		return err
	case <-time.After(limit):
		t.Fatalf("the stream is still there after %v", limit)
		return nil
	}
}

func bearer(s string) string { return "Authorization: Bearer " + s }

// ending is a way in which what a stream stands on ends.
type ending struct {
	name string
	show func(w *world) string // the credentials; nil: the key for both
	end  func(w *world)
	kind errs.Kind
}

func endings() []ending {
	return []ending{

		{"key removed", nil, func(w *world) {
			a := *w.dir.Snapshot().App("bill")
			a.Keys = a.Keys[:2:2]
			w.put(&a)
		}, errs.Unauthenticated},
		{"key replaced under its id", nil, func(w *world) {
			a := *w.dir.Snapshot().App("bill")
			a.Keys = append([]meta.Key{}, a.Keys...)
			a.Keys[2].Hash = a.Keys[0].Hash
			w.put(&a)
		}, errs.Unauthenticated},
		{"key given an end", nil, func(w *world) {
			a := *w.dir.Snapshot().App("bill")
			a.Keys = append([]meta.Key{}, a.Keys...)
			soon := time.Now().Add(time.Second)
			a.Keys[2].Expires = &soon
			w.put(&a)
			<-time.After(2 * time.Second)
			w.put(&meta.TopicRecord{App: "bill", Name: "unrelated", Ver: "v1", Partitions: 1, MaxAttempts: 16})
		}, errs.Unauthenticated},
		{"app disabled", nil, func(w *world) {
			a := *w.dir.Snapshot().App("bill")
			a.Disabled = true
			w.put(&a)
		}, errs.Unauthenticated},
		{"app deleted", nil, func(w *world) { w.delete(meta.ID{Kind: meta.KindApp, Name: "bill"}) }, errs.Unauthenticated},
		{"grant narrowed", nil, func(w *world) { w.grant("orders", "bill", "others") }, errs.Denied},
		{"grant taken", nil, func(w *world) { w.delete(meta.ID{Kind: meta.KindSubscription, Name: "shop.orders.v1.bill"}) }, errs.Denied},
		{"topic deleted", nil, func(w *world) { w.delete(meta.ID{Kind: meta.KindTopic, Name: "shop.orders.v1"}) }, errs.UnknownTopic},
		{"key expires", func(w *world) string { return bearer(w.keys["bill/expires"]) }, func(*world) { <-time.After(time.Hour) }, errs.Unauthenticated},
		{"JWT of 5 s", func(*world) string { return bearer(good("sub", "bill", "exp", time.Now().Add(5*time.Second).Unix())) }, func(*world) {}, errs.Unauthenticated},
		{"token of 5 s", func(w *world) string {
			return bearer(w.mint(call(plugins.Subscribe, "shop", "orders", "invoices", bearer(w.keys["bill/both"])), 5*time.Second))
		}, func(*world) {}, errs.Unauthenticated},
		{"key of the token removed", func(w *world) string {
			return bearer(w.mint(call(plugins.Subscribe, "shop", "orders", "invoices", bearer(w.keys["bill/both"])), time.Hour))
		}, func(w *world) {
			a := *w.dir.Snapshot().App("bill")
			a.Keys = a.Keys[:2:2]
			w.put(&a)
		}, errs.Unauthenticated},
		{"issuer's key removed", func(*world) string { return bearer(good("sub", "bill", "exp", time.Now().Add(time.Hour).Unix())) }, func(w *world) {
			where := w.plugin.tokens.issuers[idp].source.where
			if err := os.WriteFile(where, jwks(jwk("rsa", somePairs().other)), 0o600); err != nil {
				w.t.Fatal(err)
			}
			<-time.After(fileEvery)
		}, errs.Unauthenticated},
	}
}

// TestStreamsEnd is X7: whatever takes away what a stream or a poll that waits stands on ends it, within 5 s of the gateway's
// knowing, and ends no other.
func TestStreamsEnd(t *testing.T) {
	for _, k := range endings() {
		for kind, mark := range map[string]func(*plugins.Call) *plugins.Call{"stream": lasting, "poll": waiting} {
			t.Run(k.name+", "+kind, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { k.check(t, mark) })
			})
		}
	}
}

func lasting(c *plugins.Call) *plugins.Call {
	c.Lasting = true
	return c
}

func waiting(c *plugins.Call) *plugins.Call {
	c.Waits = true
	return c
}

func (k *ending) check(t *testing.T, mark func(*plugins.Call) *plugins.Call) {
	w := newWorld(t, idpOptions(t, ""))
	w.run()
	other := w.open(mark(call(plugins.Publish, "", "orders", "", bearer(w.keys["shop/both"]))))
	show := bearer(w.keys["bill/both"])
	if k.show != nil {
		show = k.show(w)
	}
	ended := w.open(mark(call(plugins.Subscribe, "shop", "orders", "invoices", show)))
	<-time.After(4 * time.Second)
	select {
	case err := <-ended:
		t.Fatalf("it ended by itself: %v", err)
	default:
	}
	k.end(w)
	if err := within(t, 5*time.Second, ended); errs.Of(err) != k.kind {
		t.Errorf("%v, want kind %s", err, k.kind.Code())
	}
	if k.kind == errs.UnknownTopic || k.name == "issuer's key removed" || k.name == "key expires" {
		return // the other one stands on it too, or nothing else is to be seen
	}
	select {
	case err := <-other:
		t.Errorf("another one was ended: %v", err)
	default:
	}
	w.noSecretsLogged()
}

// The leeway is for clocks at the door: a stream ends at the token's exp, and what is asked for later still is let in, ends at
// once where it lasts, and gets no token that outlives it.
func TestLeewayIsForTheDoor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, idpOptions(t, ""))
		w.run()
		exp := time.Now().Add(10 * time.Second)
		show := bearer(good("sub", "bill", "exp", exp.Unix()))
		ask := func() *plugins.Call { return call(plugins.Subscribe, "shop", "orders", "invoices", show) }
		ended := w.open(lasting(ask()))
		<-time.After(9 * time.Second)
		select {
		case err := <-ended:
			t.Fatalf("before its exp: %v", err)
		default:
		}
		if err := within(t, 4*time.Second, ended); errs.Of(err) != errs.Unauthenticated {
			t.Error(err)
		}
		for range 2 { // the second is of the cache
			if through, err := w.ask(ask()); !through || err != nil {
				t.Errorf("%v after its exp: %v", time.Since(exp), err)
			}
		}
		if err := within(t, 3*time.Second, w.open(lasting(ask()))); errs.Of(err) != errs.Unauthenticated {
			t.Error(err)
		}
		if _, _, err := w.plugin.Mint(t.Context(), &plugins.Call{App: "bill", Expires: exp}, time.Hour); errs.Of(err) != errs.Unauthenticated {
			t.Errorf("a token of one that has ended: %v", err)
		}
		<-time.After(time.Until(exp.Add(30 * time.Second)))
		if _, err := w.ask(ask()); errs.Of(err) != errs.Unauthenticated {
			t.Errorf("after the leeway: %v", err)
		}
	})
}

// mint is a token for what the call wants.
func (w *world) mint(c *plugins.Call, ttl time.Duration) string {
	w.t.Helper()
	var s string
	err := w.plugin.Wrap(func(ctx context.Context, c *plugins.Call) (err error) {
		s, _, err = w.plugin.Mint(ctx, c, ttl)
		return err
	})(context.Background(), c)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

// Streams cost no goroutine, and nothing is left of those that have ended.
func TestStreamsThatEndAreForgotten(t *testing.T) {
	w := newWorld(t)
	for range 100 {
		c := call(plugins.Publish, "", "orders", "", bearer(w.keys["shop/both"]))
		c.Lasting = true
		if through, err := w.ask(c); !through {
			t.Fatal(err)
		}
	}
	if n := len(w.plugin.streams.open); n != 0 {
		t.Errorf("%d are kept", n)
	}
}

// A token is good for exactly what it was asked for.
func TestTokenIsForOneThing(t *testing.T) {
	w := newWorld(t, idpOptions(t, ""))
	sub := w.mint(call(plugins.Subscribe, "shop", "orders", "invoices", bearer(w.keys["bill/both"])), time.Minute)
	pub := w.mint(call(plugins.Publish, "shop", "orders", "", bearer(w.keys["shop/both"])), time.Minute)
	whole := w.mint(call(plugins.Subscribe, "shop", "orders", "", bearer(w.keys["audit/sub"])), time.Minute) // without a group
	header, claims, _ := strings.Cut(sub, ".")
	for _, k := range []struct {
		name, token string
		op          plugins.Op
		owner       string
		topic       string
		group       string
		want        verdict
	}{
		{"sub", sub, plugins.Subscribe, "shop", "orders", "invoices", passed},
		{"settle", sub, plugins.Settle, "shop", "orders", "invoices", passed},
		{"another group", sub, plugins.Subscribe, "shop", "orders", "others", denied},
		{"no group", sub, plugins.Subscribe, "shop", "orders", "", denied},
		{"another topic", sub, plugins.Subscribe, "bill", "own", "invoices", denied},
		{"a topic that is not there", sub, plugins.Subscribe, "bill", "none", "invoices", denied},
		{"publish", sub, plugins.Publish, "", "own", "", denied},
		{"pub", pub, plugins.Publish, "", "orders", "", passed},
		{"pub, another topic", pub, plugins.Publish, "", "none", "", denied},
		{"pub, to subscribe", pub, plugins.Subscribe, "shop", "orders", "", denied},
		{"without a group", whole, plugins.Subscribe, "shop", "orders", "", passed},
		{"without a group, with one", whole, plugins.Subscribe, "shop", "orders", "g", denied},
		{"changed", flipAt(sub, -20), plugins.Subscribe, "shop", "orders", "invoices", badToken},
		{"changed claims", header + "." + flipAt(claims, 20), plugins.Subscribe, "shop", "orders", "invoices", badToken},
		{"one of its parts", header, plugins.Subscribe, "shop", "orders", "invoices", malformed},
	} {
		for _, scheme := range []string{"Bearer ", plugins.AccessToken + " "} {
			_, v, err := w.plugin.judge(t.Context(), call(k.op, k.owner, k.topic, k.group, "Authorization: "+scheme+k.token))
			if v != k.want {
				t.Errorf("%s, %s: %s, %v; want %s", k.name, scheme, names[v], err, names[k.want])
			}
		}
	}
	for name, s := range map[string]string{"a key": w.keys["bill/sub"], "an issuer's token": good("sub", "bill")} { // known or not
		for range 2 {
			if through, _ := w.ask(call(plugins.Subscribe, "shop", "orders", "invoices", "Authorization: "+plugins.AccessToken+" "+s)); through {
				t.Errorf("%s counts in a URL", name)
			}
			_, _ = w.ask(call(plugins.Subscribe, "shop", "orders", "invoices", bearer(s)))
		}
	}
	w.noSecretsLogged()
}

// A token ends no later than what it was asked for with, and is void when the gateways' secret is another.
func TestTokenEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		ask := func(s string) error {
			_, err := w.ask(call(plugins.Subscribe, "shop", "orders", "", bearer(s)))
			return err
		}
		first := w.mint(call(plugins.Subscribe, "shop", "orders", "", bearer(w.keys["audit/both"])), time.Minute)
		second := w.mint(call(plugins.Subscribe, "shop", "orders", "", bearer(first)), time.Hour) // by a token: no longer than that
		if err := errors.Join(ask(first), ask(second)); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Minute)
		for _, s := range []string{first, second} {
			if err := ask(s); errs.Of(err) != errs.Unauthenticated {
				t.Error(err)
			}
		}
		third := w.mint(call(plugins.Subscribe, "shop", "orders", "", bearer(w.keys["audit/both"])), time.Hour)
		old := w.secrets[0]
		w.secrets = [][]byte{[]byte(strings.Repeat("n", 32)), old}
		if err := ask(third); err != nil {
			t.Errorf("the secret before does not count: %v", err)
		}
		w.secrets = w.secrets[:1]
		if err := ask(third); errs.Of(err) != errs.Unauthenticated {
			t.Errorf("a secret that is gone counts: %v", err)
		}
		w.secrets = nil
		if err := ask(third); err == nil {
			t.Error("without any secret a token counts")
		}
		if _, _, err := w.plugin.Mint(t.Context(), &plugins.Call{App: "audit"}, time.Minute); errs.Of(err) != errs.Unavailable {
			t.Error(err)
		}
	})
}
