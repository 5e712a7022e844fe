package meta

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kateway/kateway/internal/errs"
)

const (
	// patience is how long the source may take with its first answer before the kept content serves.
	patience = 2 * time.Second
	// After a failed Next the source is asked again, after minPause at first and maxPause at last.
	minPause = 50 * time.Millisecond
	maxPause = time.Second
)

// Config is what a Directory needs.
type Config struct {
	Source  Source
	Keep    string // file of the last good content, to start from while the source is away; "" keeps none
	Log     *slog.Logger
	Metrics prometheus.Registerer // nil counts nothing
}

// Directory follows a source and always has a snapshot of it. Its methods may be called concurrently.
//
// Reading never waits for anything. Writing goes to the source and returns when the snapshot has it, so Run must be under way.
type Directory struct {
	source Source
	keep   string
	log    *slog.Logger

	snapshot atomic.Pointer[Snapshot]
	loaded   chan struct{}

	mu       sync.Mutex // of what follows, and of storing snapshot; held for the making of a snapshot, never while waiting
	state    State      // but for Faults, which are below
	changed  chan struct{}
	told     chan struct{} // closed and replaced at every update, also one that changed nothing
	through  uint64        // the source's, of the newest update
	updates  uint64
	places   map[string]error // the source's faults
	unsound  map[ID]error     // objects that were told and could not be read
	forgets  []func(Topic)    // are told of topics that are no longer registered
	fromKeep bool             // the present content is the kept one
}

// State says how good the snapshot is.
type State struct {
	Loaded bool              // there is one
	Stale  bool              // the source can't be reached; it may know better
	Since  time.Time         // of this state
	Faults map[string]string // by place or object: what can't be read, so that its last good content serves
}

// NewDirectory makes a directory that knows nothing until Run.
func NewDirectory(cfg Config) *Directory {
	d := &Directory{
		source: cfg.Source, keep: cfg.Keep, log: cfg.Log,
		loaded: make(chan struct{}), changed: make(chan struct{}), told: make(chan struct{}),
		state: State{Since: time.Now()}, unsound: map[ID]error{},
	}
	d.snapshot.Store(newSnapshot())
	if cfg.Metrics != nil {
		cfg.Metrics.MustRegister(collector{d})
	}
	return d
}

// Run follows the source until ctx ends. It does not close the source. It is called once.
func (d *Directory) Run(ctx context.Context) error {
	var keeper sync.WaitGroup
	defer keeper.Wait()
	keeping, end := context.WithCancel(context.WithoutCancel(ctx)) // beyond ours: it keeps what comes last
	defer end()
	if d.keep != "" {
		keeper.Go(func() { d.keepOn(keeping) })
	}
	late := time.AfterFunc(patience, d.sourceIsLate)
	defer late.Stop()
	pause := minPause
	for {
		u, err := d.source.Next(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			d.sourceIsAway(err)
			if !wait(ctx, pause) {
				return ctx.Err()
			}
			pause = min(2*pause, maxPause)
		default:
			d.apply(u)
			pause = minPause
		}
	}
}

// wait reports whether ctx lasted for the time.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Loaded is closed once there is a snapshot: the source's, or, where that does not answer for 2 s, the kept one.
func (d *Directory) Loaded() <-chan struct{} { return d.loaded }

// Snapshot is the newest one; never nil, empty before Loaded.
func (d *Directory) Snapshot() *Snapshot { return d.snapshot.Load() }

// Changed is closed when there is a newer snapshot than at the time of the call. Ask for it before Snapshot, and nothing is missed.
func (d *Directory) Changed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.changed
}

// State says how good the snapshot is.
func (d *Directory) State() State {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.state
	s.Faults = make(map[string]string, len(d.places)+len(d.unsound))
	for place, err := range d.places {
		s.Faults[place] = err.Error()
	}
	for id, err := range d.unsound {
		s.Faults[id.String()] = err.Error()
	}
	return s
}

// sourceIsLate gives up waiting for the source's first answer.
func (d *Directory) sourceIsLate() {
	d.mu.Lock()
	first := !d.state.Loaded && d.updates == 0
	d.mu.Unlock()
	if !first {
		return
	}
	kept, err := readKeep(d.keep)
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.updates > 0: // it answered after all
	case err != nil:
		d.log.Error("meta can't be read and nothing usable is kept of it; waiting for it", "err", err)
	default:
		d.fill(kept)
		d.log.Warn("meta can't be read; serving what was kept of it", "file", d.keep, "objects", len(kept))
	}
}

// fill starts from what was kept. d.mu is held.
func (d *Directory) fill(kept map[ID][]byte) {
	e := d.Snapshot().edition()
	for id, data := range kept {
		d.put(e, id, data)
	}
	d.fromKeep = true
	d.turn(true)
	d.publish(e.done(true))
}

// sourceIsAway notes that the snapshot may be old.
func (d *Directory) sourceIsAway(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state.Stale {
		return
	}
	d.turn(true)
	if d.state.Loaded {
		d.log.Warn("meta can't be reached; its last content serves, and nothing can be changed", "err", err)
		d.publish(d.Snapshot().marked(true))
	} else {
		d.log.Warn("meta can't be reached; waiting for it", "err", err)
	}
}

// turn changes between stale and not. d.mu is held.
func (d *Directory) turn(stale bool) {
	if d.state.Stale != stale {
		d.state.Stale, d.state.Since = stale, time.Now()
	}
}

// publish shows a snapshot to everybody. d.mu is held.
func (d *Directory) publish(s *Snapshot) {
	d.snapshot.Store(s)
	close(d.changed)
	d.changed = make(chan struct{})
	if !d.state.Loaded {
		d.state.Loaded, d.state.Since = true, time.Now()
		close(d.loaded)
	}
}

// apply makes a snapshot of an update.
func (d *Directory) apply(u Update) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.Snapshot().edition()
	d.tellFaults(u.Faults)
	if u.Whole {
		d.sweep(e, u)
	}
	for id, data := range u.Objects {
		d.put(e, id, data)
	}
	if d.state.Stale && d.state.Loaded {
		d.log.Info("meta can be reached again")
	}
	wasStale := d.Snapshot().stale
	d.turn(false)
	d.updates++
	d.fromKeep = false
	d.through = max(d.through, u.Through)
	switch {
	case e.changed() || !d.state.Loaded:
		d.publish(e.done(false))
	case wasStale:
		d.publish(d.Snapshot().marked(false))
	}
	for _, t := range e.gone {
		for _, forget := range d.forgets {
			forget(t)
		}
	}
	close(d.told)
	d.told = make(chan struct{})
}

// sweep removes what a whole update does not have, unless it may be where the source can't read. d.mu is held.
func (d *Directory) sweep(e *edition, u Update) {
	for _, kind := range Kinds() {
		for name := range e.from.objects[kind].all() {
			id := ID{kind, name}
			if _, ok := u.Objects[id]; !ok && !hidden(d.source.Place(id), u.Faults) {
				e.remove(id)
			}
		}
	}
	for id := range d.unsound {
		if _, ok := u.Objects[id]; !ok {
			delete(d.unsound, id)
		}
	}
}

// hidden reports whether the place, or one above it, is at fault.
func hidden(place string, faults map[string]error) bool {
	for len(faults) > 0 {
		if _, ok := faults[place]; ok {
			return true
		}
		above := path.Dir(place)
		if above == place {
			break
		}
		place = above
	}
	return false
}

// put enters an object as the source has it. One that can't be read is a fault, and what was there before it stays. d.mu is held.
func (d *Directory) put(e *edition, id ID, data []byte) {
	if data == nil {
		delete(d.unsound, id)
		e.remove(id)
		return
	}
	if o, ok := e.of(id.Kind).get(id.Name); ok && bytes.Equal(o.data, data) {
		delete(d.unsound, id)
		return
	}
	r, err := decode(id, data)
	if err != nil {
		if _, known := d.unsound[id]; !known {
			d.log.Error("an object of meta can't be read; its last good content stays", "object", id.String(), "err", err)
		}
		d.unsound[id] = err
		return
	}
	delete(d.unsound, id)
	e.set(object{r, data})
}

// tellFaults logs the source's faults as they come and go. d.mu is held.
func (d *Directory) tellFaults(now map[string]error) {
	for place, err := range now {
		if _, known := d.places[place]; !known {
			d.log.Error("a part of meta can't be read; its last good content stays", "place", place, "err", err)
		}
	}
	for place := range d.places {
		if _, still := now[place]; !still {
			d.log.Info("a part of meta can be read again", "place", place)
		}
	}
	d.places = maps.Clone(now)
}

// await waits until the snapshot has what the source calls at.
func (d *Directory) await(ctx context.Context, at uint64) error {
	for {
		d.mu.Lock()
		there, told := d.through >= at, d.told
		d.mu.Unlock()
		if there {
			return nil
		}
		select {
		case <-told:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// onGone has forget called with every topic that is no longer registered, or was made anew.
func (d *Directory) onGone(forget func(Topic)) {
	d.mu.Lock()
	d.forgets = append(d.forgets, forget)
	d.mu.Unlock()
}

// Put makes or replaces an object. match is the ETag that its present content must have, Absent, or "" for whatever there is.
// It returns when the snapshot has it. Kinds: InvalidName and InvalidBody from Validate; TooLarge; Conflict (Absent, and it
// is there); PreconditionFailed; Unavailable: the source can't be reached; Uncertain: ctx ended before the outcome was known.
func (d *Directory) Put(ctx context.Context, r Record, match string) (etag string, err error) {
	data, err := encode(r)
	if err != nil {
		return "", err
	}
	return ETag(data), d.change(ctx, Change{ID: r.ID(), Match: match, Data: data})
}

// Delete removes an object. Kinds: NotFound, else as with Put.
func (d *Directory) Delete(ctx context.Context, id ID, match string) error {
	return d.change(ctx, Change{ID: id, Match: match})
}

func (d *Directory) change(ctx context.Context, c Change) error {
	at, err := d.source.Apply(ctx, c)
	if err != nil {
		return err
	}
	if err := d.await(ctx, at); err != nil {
		return fmt.Errorf("%s is changed, but was not yet seen here: %w", c.ID, errs.Uncertain)
	}
	return nil
}

// overtaken is how long Update waits for the content that was faster.
const overtaken = 3 * time.Second

// Update changes an object by what is there: f gets the present record, or nil, and answers a new one, or nil to delete.
// Where somebody else is faster, it starts again with what he made of it. f must not write to the record it gets. An error
// of f ends it. Kinds as with Put.
func (d *Directory) Update(ctx context.Context, id ID, f func(present Record) (Record, error)) error {
	for {
		changed := d.Changed()
		present, etag := d.Snapshot().Record(id)
		next, err := f(present)
		if err != nil {
			return err
		}
		err = d.replace(ctx, id, present, etag, next)
		if !outrun(err, present == nil) {
			return err
		}
		if !d.newer(ctx, id, etag, changed) {
			return err
		}
	}
}

func (d *Directory) replace(ctx context.Context, id ID, present Record, etag string, next Record) error {
	switch {
	case next == nil && present == nil:
		return nil
	case next == nil:
		return d.Delete(ctx, id, etag)
	case next.ID() != id:
		return fmt.Errorf("%s: its name can't be changed to %s: %w", id, next.ID(), errs.InvalidBody)
	case present == nil:
		etag = Absent
	}
	_, err := d.Put(ctx, next, etag)
	return err
}

// outrun reports whether the error says that somebody else changed the object since we looked.
func outrun(err error, wasAbsent bool) bool {
	return errors.Is(err, errs.PreconditionFailed) || errors.Is(err, errs.NotFound) || wasAbsent && errors.Is(err, errs.Conflict)
}

// newer waits for another content of the object than the one with this ETag. It gives up where none comes: what is there
// can't be read.
func (d *Directory) newer(ctx context.Context, id ID, etag string, changed <-chan struct{}) bool {
	ctx, cancel := context.WithTimeout(ctx, overtaken)
	defer cancel()
	for {
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
		changed = d.Changed()
		if _, is := d.Snapshot().Record(id); is != etag {
			return true
		}
	}
}

// Refresh looks at everything in the source again and returns when the snapshot has it. Unavailable: the source can't be reached.
func (d *Directory) Refresh(ctx context.Context) error {
	if err := d.await(ctx, d.source.Reload()); err != nil {
		return fmt.Errorf("meta was not read anew in time: %w", errs.Unavailable)
	}
	return nil
}
