// Package mem is a registry in memory: for a gateway that is alone, and, as the model of the others, for tests.
package mem

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/registry"
)

// refresh is how often an instance is asked what to tell.
const refresh = 5 * time.Second

// Registry is one gateway's session with a registry. Its methods may be called concurrently.
type Registry struct {
	all *all
	end chan struct{} // of the present session; it is closed and replaced by Expire, under all.mu
}

var _ registry.Registry = (*Registry)(nil)

// all is what the gateways share.
type all struct {
	mu      sync.Mutex
	live    map[string]*entry
	changed chan struct{} // closed when live has changed, and replaced
	queues  map[string][]*candidate
	epoch   int64 // of the newest candidate
}

type entry struct {
	owner *Registry
	is    registry.Instance
}

type candidate struct {
	owner *Registry
	epoch int64
	turn  chan struct{}           // closed when it is the first of its queue
	lost  context.CancelCauseFunc // ends its duty
}

var errExpired = errors.New("the session has expired")

// New answers a session with a registry of its own.
func New() *Registry {
	return join(&all{live: map[string]*entry{}, changed: make(chan struct{}), queues: map[string][]*candidate{}})
}

func join(a *all) *Registry { return &Registry{all: a, end: make(chan struct{})} }

// Join answers another gateway's session with the same registry.
func (r *Registry) Join() *Registry { return join(r.all) }

// Expire ends the session of the gateway that is listed with the id, as a real registry does with one that was silent for
// too long: it is off the list and has lost its duties. It comes back at once.
func (r *Registry) Expire(id string) {
	r.all.mu.Lock()
	defer r.all.mu.Unlock()
	e := r.all.live[id]
	if e == nil {
		return
	}
	maps.DeleteFunc(r.all.live, func(_ string, other *entry) bool { return other.owner == e.owner })
	r.all.tell()
	for duty, queue := range r.all.queues {
		for _, c := range queue {
			if c.owner == e.owner {
				c.lost(errExpired)
			}
		}
		r.all.queues[duty] = slices.DeleteFunc(queue, func(c *candidate) bool { return c.owner == e.owner })
		r.all.next(duty)
	}
	close(e.owner.end)
	e.owner.end = make(chan struct{})
}

// Announce implements [registry.Registry].
func (r *Registry) Announce(ctx context.Context, self func() registry.Instance) error {
	id := self().ID
	ticker := time.NewTicker(refresh)
	defer ticker.Stop()
	defer r.unlist(id)
	for ctx.Err() == nil {
		expired, err := r.list(self())
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-expired:
		case <-ticker.C:
		}
	}
	return nil
}

// list makes our entry, or renews it.
func (r *Registry) list(is registry.Instance) (expired <-chan struct{}, err error) {
	r.all.mu.Lock()
	defer r.all.mu.Unlock()
	e := r.all.live[is.ID]
	if e != nil && e.owner != r {
		return nil, fmt.Errorf("gateway %s is live already: %w", is.ID, errs.Conflict)
	}
	if e == nil || e.is != is {
		r.all.live[is.ID] = &entry{owner: r, is: is}
		r.all.tell()
	}
	return r.end, nil
}

func (r *Registry) unlist(id string) {
	r.all.mu.Lock()
	defer r.all.mu.Unlock()
	if e := r.all.live[id]; e != nil && e.owner == r {
		delete(r.all.live, id)
		r.all.tell()
	}
}

// tell needs mu.
func (a *all) tell() {
	close(a.changed)
	a.changed = make(chan struct{})
}

// Watch implements [registry.Registry].
func (r *Registry) Watch(ctx context.Context) <-chan []registry.Instance {
	out := make(chan []registry.Instance)
	go func() {
		defer close(out)
		for {
			list, changed := r.all.list()
			select {
			case out <- list:
				select {
				case <-changed:
				case <-ctx.Done():
					return
				}
			case <-changed: // the receiver is slow: it gets the newest
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

func (a *all) list() (list []registry.Instance, changed <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, e := range a.live {
		list = append(list, e.is)
	}
	slices.SortFunc(list, func(x, y registry.Instance) int { return cmp.Compare(x.ID, y.ID) })
	return list, a.changed
}

// Lead implements [registry.Registry].
func (r *Registry) Lead(ctx context.Context, duty string, do func(ctx context.Context, epoch int64) error) error {
	for {
		mine, lost := context.WithCancelCause(ctx)
		c := r.all.enqueue(&candidate{owner: r, turn: make(chan struct{}), lost: lost}, duty)
		select {
		case <-c.turn:
		case <-mine.Done():
		}
		if mine.Err() == nil {
			err := do(mine, c.epoch)
			r.all.leave(c, duty)
			return err
		}
		r.all.leave(c, duty)
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

func (a *all) enqueue(c *candidate, duty string) *candidate {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.epoch++
	c.epoch = a.epoch
	a.queues[duty] = append(a.queues[duty], c)
	a.next(duty)
	return c
}

func (a *all) leave(c *candidate, duty string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c.lost(nil)
	a.queues[duty] = slices.DeleteFunc(a.queues[duty], func(other *candidate) bool { return other == c })
	a.next(duty)
}

// next lets the first of the queue begin. It needs mu.
func (a *all) next(duty string) {
	if len(a.queues[duty]) == 0 {
		delete(a.queues, duty)
		return
	}
	select {
	case <-a.queues[duty][0].turn:
	default:
		close(a.queues[duty][0].turn)
	}
}
