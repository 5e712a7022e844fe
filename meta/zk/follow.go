package zk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"time"

	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/meta"
)

const (
	// A read that failed though there is a connection is tried again after shortPause; one that ZooKeeper refuses by its
	// access lists after longPause, since nothing tells when they change.
	shortPause = 200 * time.Millisecond
	longPause  = 5 * time.Second
	// gather is how long changes by others are gathered before they are read: what is edited in bulk is read together, and
	// makes one new snapshot and not hundreds.
	gather = 25 * time.Millisecond
)

// round is a look at everything: when the last of those who follow a node has read it since the round began, it is over.
type round struct {
	number uint64
	begun  chan struct{} // closed when the next round begins
	behind int           // followers that have not read yet
	at     uint64        // of the Reload that asked for this round; 0: none did
	next   bool          // another is asked for
	queued uint64        // by this Reload; 0: by none
}

// through is the Through of what was read so far.
func (r *round) through(now uint64) uint64 {
	switch {
	case r.at > 0:
		return r.at - 1
	case r.queued > 0:
		return r.queued - 1
	}
	return now
}

// again begins a round, or, while one is under way, has another one follow: so that those who ask all the time get answers.
// s.mu is held.
func (s *Source) again(at uint64) {
	r := &s.round
	if r.behind > 0 {
		r.next, r.queued = true, max(r.queued, at)
		return
	}
	r.number++
	r.at = at
	r.behind = len(s.buckets) + len(s.lists)
	close(r.begun)
	r.begun = make(chan struct{})
}

// follower reads a node whenever it may have changed.
type follower interface {
	// look reads the node and answers what is closed when it is to be read again. Unavailable: it was not read. After
	// any other error the node is noted as a fault.
	look(ctx context.Context, s *Source) (changed <-chan struct{}, err error)
	path() string
	seen() *uint64 // the round in which it was last read; under Source.mu
}

// begin has f followed until Close. s.mu is held.
func (s *Source) begin(f follower) {
	s.round.behind++
	s.loops.Go(func() { s.follow(f) })
}

func (s *Source) follow(f follower) {
	for s.online() {
		s.mu.Lock()
		number, begun := s.round.number, s.round.begun
		s.mu.Unlock()
		changed, err := s.read(f)
		if s.ctx.Err() != nil {
			return
		}
		if errors.Is(err, errs.Unavailable) {
			s.pause(shortPause, nil)
			continue
		}
		s.looked(f, number)
		if changed == nil {
			s.pause(longPause, begun)
			continue
		}
		select {
		case <-changed:
			if _, ok := f.(*bucket); ok { // a list's changes are few
				s.pause(time.Until(s.gathered()), begun)
			}
		case <-begun:
		case <-s.ctx.Done():
		}
	}
}

// gathered is when that is read which changes now.
func (s *Source) gathered() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); s.gathering.Before(now) {
		s.gathering = now.Add(gather)
	}
	return s.gathering
}

// online waits for a connection. It answers false after Close.
func (s *Source) online() bool {
	for s.ctx.Err() == nil {
		state, changed := s.c.State()
		if state.Connected {
			return true
		}
		select {
		case <-changed:
		case <-s.ctx.Done():
		}
	}
	return false
}

// pause waits for a while (not at all where that is negative), or until begun is closed.
func (s *Source) pause(d time.Duration, begun <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-begun:
	case <-s.ctx.Done():
	}
}

// read takes one of the slots for a look.
func (s *Source) read(f follower) (<-chan struct{}, error) {
	select {
	case s.reads <- struct{}{}:
		defer func() { <-s.reads }()
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
	return f.look(s.ctx, s)
}

// looked notes that f was read in this round, and whether that was the last of it.
func (s *Source) looked(f follower, number uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &s.round
	last := *f.seen()
	*f.seen() = number
	if number != r.number || last == number {
		return
	}
	if r.behind--; r.behind > 0 {
		return
	}
	next, at := r.next, r.queued
	r.at, r.next, r.queued = 0, false, 0
	if next {
		s.again(at)
	}
	s.signal()
}

// fault notes that a place can't be read, or, with nil, that it can. s.mu is held.
func (s *Source) fault(place string, err error) {
	was, known := s.faults[place]
	switch {
	case err == nil && known:
		delete(s.faults, place)
	case err != nil && (!known || was.Error() != err.Error()):
		s.faults[place] = err
	default:
		return
	}
	s.dirty = true
	s.signal()
}

func (s *Source) note(place string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault(place, err)
}

// list follows which buckets a kind has.
type list struct {
	kind  meta.Kind
	known bool // it was there; the follower's own
	round uint64
}

func (l *list) path() string  { return kindPath(l.kind) }
func (l *list) seen() *uint64 { return &l.round }

func (l *list) look(ctx context.Context, s *Source) (<-chan struct{}, error) {
	names, changed, err := s.c.WatchChildren(ctx, l.path())
	switch {
	case errors.Is(err, errs.Unavailable):
		return nil, err
	case errors.Is(err, errs.NotFound) && !l.known: // nobody has made an object of this kind yet
		s.note(l.path(), nil)
		return changed, nil
	case errors.Is(err, errs.NotFound):
		s.note(l.path(), fmt.Errorf("the node is gone, and with it what was below; the next change to a bucket restores that: %w", errs.NotFound))
		return changed, nil
	case err != nil:
		s.note(l.path(), err)
		return nil, err
	}
	l.known = true
	for _, name := range names {
		if bucketRule.MatchString(name) && name < fmt.Sprintf("%03x", bucketsOf(l.kind)) {
			s.bucket(l.kind, name)
		}
	}
	s.note(l.path(), nil)
	return changed, nil
}

// bucket is a node with objects.
type bucket struct {
	kind  meta.Kind
	name  string
	round uint64

	// Who has the turn reads or writes the node and notes what he learned, so that the newer never yields to the older. The
	// fields below are his.
	turn    chan struct{}
	objects map[string][]byte // the last good content; never written to
	sum     uint64            // of the node's bytes then
}

// bucket is the bucket of that name, followed from now on. nil after Close.
func (s *Source) bucket(kind meta.Kind, name string) *bucket {
	s.mu.Lock()
	defer s.mu.Unlock()
	path := bucketPath(kind, name)
	b := s.buckets[path]
	if b == nil && s.ctx.Err() == nil {
		b = &bucket{kind: kind, name: name, turn: make(chan struct{}, 1)}
		s.buckets[path] = b
		s.begin(b)
	}
	return b
}

func (b *bucket) path() string  { return bucketPath(b.kind, b.name) }
func (b *bucket) seen() *uint64 { return &b.round }

func (b *bucket) take(ctx context.Context) error {
	select {
	case b.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (b *bucket) release() { <-b.turn }

// sum tells contents apart. Two that differ have one sum once in 2^64 times.
func (s *Source) sum(raw []byte) uint64 { return maphash.Bytes(s.seed, raw) }

// holds reports whether these are the bytes of the bucket's last good content.
func (s *Source) holds(b *bucket, raw []byte) bool { return b.objects != nil && b.sum == s.sum(raw) }

func (b *bucket) look(ctx context.Context, s *Source) (<-chan struct{}, error) {
	if err := b.take(ctx); err != nil {
		return nil, err
	}
	defer b.release()
	raw, _, changed, err := s.c.Watch(ctx, b.path())
	switch {
	case errors.Is(err, errs.Unavailable):
		return nil, err
	case errors.Is(err, errs.NotFound) && len(b.objects) == 0: // none was ever there
		s.note(b.path(), nil)
		return changed, nil
	case errors.Is(err, errs.NotFound):
		s.note(b.path(), fmt.Errorf("the node with %d objects is gone; the next change to one of them restores it: %w", len(b.objects), errs.NotFound))
		return changed, nil
	case err != nil:
		s.note(b.path(), err)
		return nil, err
	case s.holds(b, raw):
		s.note(b.path(), nil)
		return changed, nil
	}
	objects, err := decodeBucket(b.kind, b.name, raw, b.objects)
	if err != nil {
		s.note(b.path(), err)
		return changed, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.merge(b, objects, raw)
	return changed, nil
}

// merge notes the content of a bucket and what it changes. The turn is the caller's, and s.mu is held.
func (s *Source) merge(b *bucket, objects map[string][]byte, raw []byte) {
	for name, data := range objects {
		was, ok := b.objects[name]
		if ok && bytes.Equal(was, data) {
			objects[name] = was
			continue
		}
		s.pending[meta.ID{Kind: b.kind, Name: name}] = data
	}
	for name := range b.objects {
		if _, ok := objects[name]; !ok {
			s.pending[meta.ID{Kind: b.kind, Name: name}] = nil
		}
	}
	b.objects, b.sum = objects, s.sum(raw)
	s.fault(b.path(), nil)
	if len(s.pending) > 0 {
		s.signal()
	}
}
