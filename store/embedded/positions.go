package embedded

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/kateway/kateway/store"
)

// retryCommits is how long positions wait after they could not be written, the disk being full.
const retryCommits = time.Second

// dirtyGroups are those with positions to write.
type dirtyGroups struct {
	mu   sync.Mutex
	list []*group
	wake chan struct{}
}

// use finds a group in memory or reads its positions. The caller must let it go by unuse.
func (s *Store) use(t *topic, name string) (*group, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	g := t.groups[name]
	if g == nil {
		var err error
		if g, err = s.readGroup(t, name); err != nil {
			return nil, err
		}
		t.groups[name] = g
	}
	g.users++
	return g, nil
}

func (s *Store) unuse(g *group) {
	g.topic.mu.Lock()
	defer g.topic.mu.Unlock()
	if g.users--; g.users == 0 {
		delete(g.topic.groups, g.name)
	}
}

func (s *Store) readGroup(t *topic, name string) (*group, error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	g := &group{topic: t, name: name}
	g.grow(false)
	err := s.scan(groupPrefix(t.id, name), func(key, value []byte) error {
		p, err := decodePosition(key, value)
		if err == nil && int(p.Partition) < len(g.shares) {
			g.shares[p.Partition].position, g.shares[p.Partition].known = p, true
		}
		return err
	})
	return g, err
}

func encodePosition(p store.Position) []byte {
	return append(binary.AppendUvarint(nil, uint64(max(p.Next, 0))), p.Beyond...)
}

func decodePosition(key, value []byte) (store.Position, error) {
	_, group, partition, err := splitPositionKey(key)
	next, beyond, err := uvarint(value, err)
	if err != nil {
		return store.Position{}, fmt.Errorf("position of group %q on partition %d: %w", group, partition, err)
	}
	return store.Position{Partition: partition, Next: int64(next), Beyond: string(beyond)}, nil
}

// noted puts a group with a dirty share among those to be written. Caller holds g.mu.
func (s *Store) noted(g *group) {
	if g.queued {
		return
	}
	g.queued = true
	g.topic.mu.Lock()
	g.users++
	g.topic.mu.Unlock()
	s.dirty.add(g)
}

func (d *dirtyGroups) add(g *group) {
	d.mu.Lock()
	d.list = append(d.list, g)
	d.mu.Unlock()
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

func (d *dirtyGroups) take() []*group {
	d.mu.Lock()
	defer d.mu.Unlock()
	list := d.list
	d.list = nil
	return list
}

// commitLoop writes positions a little after they were noted, those of all groups together.
func (s *Store) commitLoop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	pause := s.cfg.CommitEvery
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.fault.Failed():
			return
		case <-s.dirty.wake:
		}
		timer.Reset(pause)
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		pause = s.cfg.CommitEvery
		groups := s.dirty.take()
		if err := s.writePositions(ctx, groups, false); err != nil && ctx.Err() == nil {
			s.log.Warn("positions can't be written now and are kept in memory", "err", err)
			pause = retryCommits
		}
		for _, g := range groups {
			s.unuse(g)
		}
	}
}

// flushPositions is the last write of positions, when the store is closed to all others.
func (s *Store) flushPositions() error {
	s.noting.Lock()
	o, _ := s.collectPositions(s.dirty.take(), true)
	s.noting.Unlock()
	if o == nil || s.fault.Err() != nil {
		return nil //nolint:nilerr // the fault was told when it happened
	}
	s.queue <- o
	_, err := o.Wait(context.Background(), s.fault)
	return err
}

// writePositions writes the dirty positions of the groups, and makes them durable if that is asked for. Positions that
// could not be written are dirty again.
func (s *Store) writePositions(ctx context.Context, groups []*group, durable bool) error {
	s.noting.Lock() // so that a newer position never is before an older one in the queue
	o, written := s.collectPositions(groups, durable)
	var err error
	if o != nil {
		if err = s.enqueue(o); err != nil {
			s.soil(written) // before Close collects for the last time
		}
	}
	s.noting.Unlock()
	if o == nil || err != nil {
		return err
	}
	if _, err = o.Wait(ctx, s.fault); err != nil {
		s.soil(written)
	}
	return err
}

// written is a position on its way to the disk.
type written struct {
	g         *group
	partition int32
}

// soil has positions written again.
func (s *Store) soil(list []written) {
	for _, w := range list {
		w.g.mu.Lock()
		w.g.shares[w.partition].dirty = true
		s.noted(w.g)
		w.g.mu.Unlock()
	}
}

// collectPositions makes the op that writes all dirty positions of the groups; nil where there is nothing to do.
func (s *Store) collectPositions(groups []*group, durable bool) (*op, []written) {
	var list []written
	var keys, values [][]byte
	unsure := false
	for _, g := range groups {
		g.mu.Lock()
		g.queued = false
		for i := range g.shares {
			sh := &g.shares[i]
			if !sh.dirty || !sh.known || g.topic.gone.Load() { // a forgotten one may have been soiled since
				continue
			}
			sh.dirty = false
			list = append(list, written{g, int32(i)})
			keys = append(keys, positionKey(g.topic.id, g.name, int32(i)))
			values = append(values, encodePosition(sh.position))
		}
		unsure = unsure || g.unsure
		g.unsure = !durable && (g.unsure || len(list) > 0)
		g.mu.Unlock()
	}
	if len(list) == 0 && (!durable || !unsure) {
		return nil, nil
	}
	o := newWrite(func(b *pebble.Batch) error {
		err := b.LogData([]byte("positions"), nil) // so that there is something to sync
		for i := range keys {
			err = errors.Join(err, b.Set(keys[i], values[i], nil))
		}
		return err
	})
	o.lazy = !durable
	return o, list
}

// clampPositions sets right what a damaged log or one brought back from a backup can do: positions behind the end, where
// the next messages would never be seen, and positions of topics that are gone.
func (s *Store) clampPositions(byID map[uint64]*topic) error {
	b := s.db.NewBatch()
	defer func() { _ = b.Close() }() // only gives memory back
	err := s.scan([]byte{tagPosition}, func(key, value []byte) error {
		id, group, _, err := splitPositionKey(key)
		if err != nil {
			return err
		}
		t := byID[id]
		p, err := decodePosition(key, value)
		if err != nil {
			return err
		}
		if t == nil || int(p.Partition) >= len(*t.parts.Load()) {
			return b.Delete(slices.Clone(key), nil)
		}
		_, end := (*t.parts.Load())[p.Partition].bounds()
		if p.Next <= end.offset {
			return nil
		}
		s.log.Warn("position behind the end of the log: the group goes on at the end",
			"topic", t.name, "group", group, "partition", p.Partition, "position", p.Next, "end", end.offset)
		return b.Set(slices.Clone(key), encodePosition(store.Position{Next: end.offset}), nil)
	})
	if err != nil || b.Empty() {
		return err
	}
	return s.db.Apply(b, pebble.Sync)
}
