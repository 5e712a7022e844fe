package home

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/kateway/kateway/group"
	"github.com/kateway/kateway/internal/errs"
)

// admit lets another gateway's link in.
func (r *Router) admit(in *inbound) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.leaving && !r.staying || r.closed {
		return false
	}
	r.inbound[in] = struct{}{}
	r.wg.Add(1)
	return true
}

func (r *Router) dismissed(in *inbound) {
	r.mu.Lock()
	delete(r.inbound, in)
	r.mu.Unlock()
	r.wg.Done()
}

// refusal is what other gateways are told who want something new: Draining where they are to look elsewhere, ErrMoved where
// they are to ask again; nil while this one takes it.
func (r *Router) refusal() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.staying:
		return group.ErrMoved
	case r.leaving:
		return errs.Draining
	}
	return nil
}

// told is what another gateway is told in place of an error of the hub's, which knows of its end only.
func (r *Router) told(err error) error {
	if errors.Is(err, errs.Draining) {
		return cmp.Or(r.refusal(), err)
	}
	return err
}

// Leave sends the groups that are here to their next homes, where there are other gateways, with all their clients; our own
// go on being served, over there. It is to be called when the registry no longer lists us: from then on the others look
// for these groups elsewhere. It does not wait, and is done once.
func (r *Router) Leave() {
	r.mu.Lock()
	if r.leaving {
		r.mu.Unlock()
		return
	}
	r.leaving = true
	for in := range r.inbound {
		_ = in.out.put(frameAway, 0, nil) // fails where it has gone
	}
	r.mu.Unlock()
	r.view.leave()
	r.rehome()
}

// Drain is Leave, and then ends the sessions of our own clients with errs.Draining, spread over the time given, and refuses
// new ones. It does not wait. The hub's Drain is to follow at once: it ends those that are served here. Verbs are taken
// until Close.
func (r *Router) Drain(over time.Duration) {
	r.Leave()
	r.mu.Lock()
	again := r.draining
	r.draining = true
	r.mu.Unlock()
	if again {
		return
	}
	open := r.openSessions()
	r.spawn(func() {
		rand.Shuffle(len(open), func(i, j int) { open[i], open[j] = open[j], open[i] })
		for i, s := range open {
			if i > 0 && sleep(r.ctx, over/time.Duration(len(open))) != nil {
				return // Close ends them all
			}
			s.finish(errs.Draining)
		}
	})
}

// Stay is Drain at once, for a gateway that goes on in another process under its id: it stays the home of its groups, and
// other gateways are asked to be patient. Their clients are served until the hub leaves the groups (Hub.Leave), with which
// they take along what they hold; then their links are to be cut off, so that they find the process that follows.
func (r *Router) Stay() {
	r.mu.Lock()
	r.leaving, r.staying, r.draining = true, true, true
	r.mu.Unlock()
	for _, s := range r.openSessions() {
		s.end(errs.Draining)
	}
}

// Close ends all links, and with them forwarded sessions. ctx bounds the wait.
func (r *Router) Close(ctx context.Context) error {
	r.mu.Lock()
	r.draining, r.closed = true, true
	r.mu.Unlock()
	for _, s := range r.openSessions() {
		s.finish(errs.Draining)
	}
	r.stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.wg.Wait()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("links with other gateways are still open: %w", ctx.Err())
	}
}
