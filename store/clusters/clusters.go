// Package clusters makes one store of several: the default one, whose topics have their bare names, and others, whose
// topics are named "<cluster>:<topic>". The others are opened when they are first used.
package clusters

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/store"
)

const (
	openLimit   = 15 * time.Second // that opening a store may take
	failureAge  = time.Second      // how long a failure to open is told before it is tried again
	retireLimit = 30 * time.Second // that calls under way have when their store is dropped, and then its Close
)

// Config says what the stores are.
type Config struct {
	Default store.Store // closed by Stores.Close

	// Open opens the store of a cluster. It is called once at a time for each. UnknownTopic where there is no such cluster;
	// any other error is told as Unavailable to those who wait for the store, and for a second afterwards.
	Open func(ctx context.Context, cluster string) (store.Store, error)

	// Names lists the clusters beside the default one, for Topics; nil: those that were used before.
	Names func() []string

	Log *slog.Logger // nil: none
}

// Stores is a store.Store. A call to one cluster never waits for another one.
type Stores struct {
	cfg   Config
	first store.Store

	ctx     context.Context // ends when Close begins
	cancel  context.CancelFunc
	last    context.Context // ends when Close gives up
	abandon context.CancelFunc
	work    sync.WaitGroup // openings and retirements

	mu      sync.Mutex
	closed  bool
	members map[string]*member
}

var (
	_ store.Store         = (*Stores)(nil)
	_ store.OncePublisher = (*Stores)(nil)
	_ store.Describer     = (*Stores)(nil)
	_ store.Follower      = (*Stores)(nil)
)

// member is the store of a cluster, or the failure to open it.
type member struct {
	stores *Stores
	name   string

	opened chan struct{} // closed when what follows is set
	store  store.Store
	err    error
	until  time.Time // err is told

	users int           // calls under way; guarded by Stores.mu
	idle  chan struct{} // made when it is dropped, closed when users is 0
}

// New opens nothing yet.
func New(cfg Config) *Stores {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Stores{cfg: cfg, first: cfg.Default, members: map[string]*member{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.last, s.abandon = context.WithCancel(context.Background())
	return s
}

// lease is a store that stays open until done is called.
type lease struct {
	store.Store
	m *member // nil: the default one
}

func (l lease) done() {
	if l.m != nil {
		l.m.release()
	}
}

// use finds the store of a place, and the topic's name there.
func (s *Stores) use(ctx context.Context, place string) (lease, string, error) {
	cluster, topic, found := strings.Cut(place, ":")
	if !found {
		return lease{Store: s.first}, place, nil
	}
	l, err := s.lease(ctx, cluster)
	return l, topic, err
}

// lease finds the store of a cluster, and opens it if need be. ctx bounds this caller's wait for that.
func (s *Stores) lease(ctx context.Context, cluster string) (lease, error) {
	m, err := s.hold(cluster)
	if err != nil {
		return lease{}, err
	}
	select {
	case <-m.opened:
		err = m.err
	case <-ctx.Done():
		err = fmt.Errorf("cluster %q is being opened: %w: %w", cluster, ctx.Err(), errs.Unavailable)
	}
	if err != nil {
		m.release()
		return lease{}, err
	}
	return lease{m.store, m}, nil
}

// hold finds a member, or begins to open a new one, and counts its user.
func (s *Stores) hold(cluster string) (*member, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, store.ErrClosed
	}
	m := s.members[cluster]
	if m == nil || m.failedBefore(time.Now()) {
		m = &member{stores: s, name: cluster, opened: make(chan struct{})}
		s.members[cluster] = m
		s.work.Go(m.open)
	}
	m.users++
	return m, nil
}

// failedBefore tells a failure that is no longer told.
func (m *member) failedBefore(now time.Time) bool {
	select {
	case <-m.opened:
		return m.err != nil && !now.Before(m.until)
	default:
		return false
	}
}

func (m *member) open() {
	defer close(m.opened)
	ctx, cancel := context.WithTimeout(m.stores.ctx, openLimit)
	defer cancel()
	st, err := m.stores.cfg.Open(ctx, m.name)
	switch {
	case err == nil:
		m.store = st
	case m.stores.ctx.Err() != nil:
		m.err = store.ErrClosed
	case errors.Is(err, errs.UnknownTopic): // it costs nothing to ask again
		m.err = fmt.Errorf("cluster %q: %w", m.name, err)
	default:
		m.stores.cfg.Log.Warn("a cluster can't be opened", "cluster", m.name, "error", err)
		m.err = fmt.Errorf("cluster %q can't be opened (%s): %w", m.name, err.Error(), errs.Unavailable)
		m.until = time.Now().Add(failureAge)
	}
}

func (m *member) release() {
	m.stores.mu.Lock()
	defer m.stores.mu.Unlock()
	if m.users--; m.users == 0 && m.idle != nil {
		close(m.idle)
	}
}

// Drop ends the store of a cluster, whose brokers are other ones by now, say; the next use opens a new one. Drop returns at
// once. Calls under way finish; then the old store is closed, by which its feeds end with ErrClosed, of kind Unavailable:
// who comes back comes to the new one.
func (s *Stores) Drop(cluster string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.members[cluster]
	if m == nil || s.closed {
		return
	}
	delete(s.members, cluster)
	m.idle = make(chan struct{})
	if m.users == 0 {
		close(m.idle)
	}
	s.work.Go(m.retire)
}

// retire closes a dropped store when its calls are done, or have had their time.
func (m *member) retire() {
	ctx, cancel := context.WithTimeout(m.stores.last, retireLimit)
	defer cancel()
	select {
	case <-m.idle:
	case <-m.stores.ctx.Done():
	case <-ctx.Done():
	}
	<-m.opened
	if m.store == nil {
		return
	}
	ctx, cancel = context.WithTimeout(m.stores.last, retireLimit)
	defer cancel()
	if err := m.store.Close(ctx); err != nil {
		m.stores.cfg.Log.Warn("closing a dropped cluster", "cluster", m.name, "error", err)
	}
}

// Close closes all stores, at the same time, and waits for those that were dropped.
func (s *Stores) Close(ctx context.Context) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return store.ErrClosed
	}
	s.closed = true
	members := s.members
	s.mu.Unlock()
	s.cancel()
	defer s.abandon()
	stop := context.AfterFunc(ctx, s.abandon)
	defer stop()

	var wg sync.WaitGroup
	var mu sync.Mutex
	var faults []error
	closeOne := func(name string, st store.Store) {
		if err := st.Close(ctx); err != nil {
			mu.Lock()
			faults = append(faults, fmt.Errorf("closing %s: %w", name, err))
			mu.Unlock()
		}
	}
	wg.Go(func() { closeOne("the default store", s.first) })
	for _, m := range members {
		wg.Go(func() {
			if <-m.opened; m.store != nil {
				closeOne(fmt.Sprintf("cluster %q", m.name), m.store)
			}
		})
	}
	wg.Wait()
	s.work.Wait()
	return errors.Join(faults...)
}
