// Package zk keeps the objects of meta in ZooKeeper, shared by all gateways of a cluster. An object lies in a bucket with
// others of its kind, one node per bucket:
//
//	/meta/<kind>/<bucket>   {"format":1,"objects":{"<name>":{...},...}}
//
// There are up to 1,024 buckets of apps, topics and subscriptions each, and one of each other kind. They are made when first
// needed and never deleted. A change replaces a bucket if it has still the version that was read.
//
// Every bucket, and the list of every kind's buckets, is watched by a goroutine of its own.
package zk

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/internal/zk"
	"github.com/kateway/kateway/meta"
)

const (
	// grace is how long the connection may be lost before it is told: a leader election is no outage.
	grace = time.Second
	// maxReads is how many nodes are read at a time.
	maxReads = 32
)

var _ meta.Source = (*Source)(nil)

// Source is one gateway's view of the objects. Its methods may be called concurrently.
type Source struct {
	c      *zk.Client
	log    *slog.Logger
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	loops  sync.WaitGroup
	seed   maphash.Seed
	reads  chan struct{} // a slot per read under way
	wake   chan struct{} // there is something for Next to see

	mu      sync.Mutex // of what follows; held for moments
	buckets map[string]*bucket
	lists   map[meta.Kind]*list
	faults  map[string]error
	pending map[meta.ID][]byte // to be told; nil: gone
	dirty   bool               // there is something to tell besides pending
	started bool               // the first Update was told
	now     uint64             // grows with every change of ours and every Reload
	told    uint64             // Through, as told
	away    bool
	left    bool // Next has told that it is away

	gathering time.Time // until then changes are gathered

	round round
}

// New starts to follow what is there. The client is the caller's, to be closed after the source.
func New(c *zk.Client, log *slog.Logger) *Source {
	s := &Source{
		c: c, log: log, seed: maphash.MakeSeed(), reads: make(chan struct{}, maxReads), wake: make(chan struct{}, 1),
		buckets: map[string]*bucket{}, lists: map[meta.Kind]*list{}, faults: map[string]error{}, pending: map[meta.ID][]byte{},
		round: round{number: 1, begun: make(chan struct{})},
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, kind := range meta.Kinds() {
		l := &list{kind: kind}
		s.lists[kind] = l
		s.begin(l)
	}
	s.loops.Go(s.attend)
	return s
}

// Close is meta.Source's. It leaves the client open.
func (s *Source) Close() error {
	s.mu.Lock()
	s.cancel() // nothing is followed anew after this
	s.mu.Unlock()
	s.loops.Wait()
	return nil
}

// attend notes that ZooKeeper is away, and that it is back. A second after each new connection everything is looked at once
// more: the client library may take its watches up again from a later point than that of what was read, if an answer is
// faster than it, and a change in between is told by no watch.
func (s *Source) attend() {
	connections := 0
	for s.ctx.Err() == nil {
		state, changed := s.c.State()
		if state.Connected {
			connections++
			s.isBack()
		}
		timer := time.NewTimer(grace)
		select {
		case <-timer.C:
			s.lasting(state.Connected, connections == 1)
			select {
			case <-changed:
			case <-s.ctx.Done():
			}
		case <-changed:
		case <-s.ctx.Done():
		}
		timer.Stop()
	}
}

// lasting notes a state that is no short break.
func (s *Source) lasting(connected, first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !connected:
		s.away = true
		s.signal()
	case !first: // at first there are no watches to take up
		s.again(0)
	}
}

// isBack has everything looked at again before the return is told.
func (s *Source) isBack() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away {
		s.away, s.dirty = false, true
		s.again(0)
	}
}

// signal wakes Next.
func (s *Source) signal() {
	select {
	case s.wake <- struct{}{}:
	default: // it will see this too
	}
}

// Next is meta.Source's.
func (s *Source) Next(ctx context.Context) (meta.Update, error) {
	for {
		if s.ctx.Err() != nil {
			return meta.Update{}, fmt.Errorf("meta is closed: %w", errs.Unavailable)
		}
		if ctx.Err() != nil {
			return meta.Update{}, ctx.Err()
		}
		if u, ok, err := s.take(); ok || err != nil {
			return u, err
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
		case <-s.ctx.Done():
		}
	}
}

// take is what there is to tell. The first Update, and the first after a time away, waits until everything was looked at.
// Where a kind of objects is refused to us there is no first one: that there are no apps is not what we know then.
func (s *Source) take() (u meta.Update, ok bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	through := s.round.through(s.now)
	switch {
	case s.away && !s.left:
		s.left = true
		return u, false, fmt.Errorf("ZooKeeper can't be reached: %w", errs.Unavailable)
	case s.away, s.round.behind > 0 && (s.left || !s.started):
		return u, false, nil
	case !s.started && s.refused() != nil:
		if err = s.refused(); s.left {
			err = nil // it was told
		}
		s.left = true
		return u, false, err
	case s.started && !s.dirty && len(s.pending) == 0 && s.told == through:
		return u, false, nil
	}
	u = meta.Update{Objects: s.pending, Whole: !s.started, Faults: maps.Clone(s.faults), Through: through}
	s.pending = map[meta.ID][]byte{}
	s.started, s.left, s.dirty, s.told = true, false, false, through
	return u, true, nil
}

// refused is the error of a kind that we may not read; nil where there is none. s.mu is held.
func (s *Source) refused() error {
	for _, l := range s.lists {
		if err := s.faults[l.path()]; errors.Is(err, errs.Denied) {
			return fmt.Errorf("do our credentials for ZooKeeper fit? %w: %w", errs.Unavailable, err)
		}
	}
	return nil
}

// Apply is meta.Source's.
func (s *Source) Apply(ctx context.Context, c meta.Change) (at uint64, err error) {
	if err := c.ID.Check(); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(s.ctx, cancel)
	defer stop()
	b := s.bucket(c.Kind, bucketOf(c.ID))
	if b == nil {
		return 0, fmt.Errorf("%s: meta is closed: %w", c.ID, errs.Unavailable)
	}
	if err := b.take(ctx); err != nil {
		return 0, fmt.Errorf("%s: %w: %w", c.ID, errs.Unavailable, err)
	}
	defer b.release()
	for {
		objects, raw, err := s.replace(ctx, b, c)
		switch {
		case err == nil:
			return s.changed(b, objects, raw), nil
		case errors.Is(err, errOutrun) && ctx.Err() == nil:
			continue
		}
		return 0, fmt.Errorf("%s: %w", c.ID, err)
	}
}

// changed notes a bucket as we have written it.
func (s *Source) changed(b *bucket, objects map[string][]byte, raw []byte) (at uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.merge(b, objects, raw)
	s.now++
	s.signal()
	return s.now
}

// errOutrun says that a bucket was changed by another since it was read.
var errOutrun = errors.New("changed by another gateway at the same time")

// replace makes the change in the bucket as it is in ZooKeeper, and answers it as it is then. The bucket is ours.
func (s *Source) replace(ctx context.Context, b *bucket, c meta.Change) (objects map[string][]byte, raw []byte, err error) {
	old, version, err := s.c.Get(ctx, b.path())
	missing := errors.Is(err, errs.NotFound)
	switch {
	case missing:
		objects = b.objects // should somebody have deleted the node, it comes back with all it had
	case err != nil:
		return nil, nil, access(err)
	case s.holds(b, old):
		objects = b.objects
	default:
		if objects, err = decodeBucket(b.kind, b.name, old, b.objects); err != nil {
			return nil, nil, fmt.Errorf("%w: it lies in the node %s, which can't be read and so is not changed; repair it, or delete it: "+
				"the next change then restores what this gateway knows of it: %w", errs.Conflict, b.path(), err)
		}
	}
	if err := c.Check(objects[c.Name]); err != nil {
		return nil, nil, err
	}
	objects = with(objects, c)
	raw = encodeBucket(objects)
	if len(raw) > maxBucket && c.Data != nil {
		return nil, nil, fmt.Errorf("the node %s would have %d bytes, %d at most; delete what is not needed of %s, or make it smaller: %w",
			b.path(), len(raw), maxBucket, b.kind, errs.TooLarge)
	}
	if missing {
		err = s.c.Create(ctx, b.path(), raw)
	} else {
		_, err = s.c.Set(ctx, b.path(), raw, version)
	}
	if errors.Is(err, errs.PreconditionFailed) || errors.Is(err, errs.NotFound) || errors.Is(err, errs.Conflict) {
		return nil, nil, errOutrun
	}
	return objects, raw, access(err)
}

// with is a copy with the change.
func with(objects map[string][]byte, c meta.Change) map[string][]byte {
	next := maps.Clone(objects)
	if next == nil {
		next = map[string][]byte{}
	}
	if c.Data == nil {
		delete(next, c.Name)
	} else {
		next[c.Name] = c.Data
	}
	return next
}

// access makes a refusal by ZooKeeper's access lists our fault and not the caller's.
func access(err error) error {
	if errors.Is(err, errs.Denied) {
		return fmt.Errorf("ZooKeeper refuses this gateway; look at its credentials: %w: %s", errs.Unavailable, err.Error())
	}
	return err
}

// Reload is meta.Source's.
func (s *Source) Reload() (at uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now++
	s.again(s.now)
	return s.now
}

// Place is meta.Source's.
func (s *Source) Place(id meta.ID) string { return bucketPath(id.Kind, bucketOf(id)) }
