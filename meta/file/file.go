// Package file keeps the objects of meta in a directory, for one gateway: <kind>/<name>.json, indented, to be read and
// edited by hand. What is edited is picked up at once. A file that can't be read is a fault, and its last good content
// stays; one that is removed is an object that is deleted.
package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/kateway/kateway/internal/atomicfile"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/meta"
)

const (
	lockName  = "lock"
	extension = ".json"
	// settle is how long a file is left alone after it was touched: an editor writes in several steps.
	settle = 50 * time.Millisecond
	// Everything is looked at now and then, should an event be lost; soon, where there are no events.
	lookEvery      = 5 * time.Second
	lookEveryBlind = 500 * time.Millisecond
)

var _ meta.Source = (*Source)(nil)

// Source is the directory. Its methods may be called concurrently.
type Source struct {
	dir     string
	log     *slog.Logger
	lock    *os.File
	watcher *fsnotify.Watcher // nil where the system gives none
	closed  chan struct{}
	closing sync.Once
	wake    chan struct{} // there is something to tell, or to look at

	mu      sync.Mutex // held while files are read and written
	files   map[meta.ID]seen
	faults  map[string]error
	pending map[meta.ID][]byte // to be told; nil: gone
	started bool               // the first Update was told
	dirty   bool               // faults are others than those told
	now     uint64             // grows with every change of ours and every Reload
	told    uint64
	afresh  bool             // read every file, whatever its stamp
	scanAt  time.Time        // when everything is looked at
	touched map[meta.ID]bool // by somebody, and not yet read
	readAt  time.Time        // when they are
	every   time.Duration    // between two looks at everything
}

// seen is a file as it was last read.
type seen struct {
	stamp stamp
	data  []byte // its last good content, compact; nil where there never was one
}

// Open takes the directory into possession, and makes it if it is not there. Conflict: another process has it.
func Open(dir string, log *slog.Logger) (*Source, error) {
	s := &Source{
		dir: dir, log: log, closed: make(chan struct{}), wake: make(chan struct{}, 1),
		files: map[meta.ID]seen{}, faults: map[string]error{}, pending: map[meta.ID][]byte{},
		touched: map[meta.ID]bool{}, every: lookEvery,
	}
	for _, kind := range meta.Kinds() {
		if err := os.MkdirAll(filepath.Join(dir, string(kind)), 0o700); err != nil {
			return nil, fmt.Errorf("meta: %w", err)
		}
	}
	if err := s.takeLock(); err != nil {
		return nil, err
	}
	s.tidy()
	s.watch()
	return s, nil
}

// takeLock keeps other processes out until the file is closed, however this process ends.
func (s *Source) takeLock() error {
	name := filepath.Join(s.dir, lockName)
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("meta: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return fmt.Errorf("meta: %s is in use by another process; a directory is for one gateway, several share a ZooKeeper (--zk): %w", s.dir, errs.Conflict)
	}
	s.lock = f
	return nil
}

// tidy removes what a killed process left behind, and tells of a directory that others may look into.
func (s *Source) tidy() {
	if info, err := os.Stat(s.dir); err == nil && info.Mode().Perm()&0o077 != 0 {
		s.log.Warn("others may read the directory of meta; take that right away (chmod 700)", "dir", s.dir, "mode", info.Mode().Perm().String())
	}
	for _, kind := range meta.Kinds() {
		entries, _ := os.ReadDir(filepath.Join(s.dir, string(kind))) // looked at, and complained about, by scan
		for _, e := range entries {
			if atomicfile.IsLeftover(e.Name()) {
				_ = os.Remove(filepath.Join(s.dir, string(kind), e.Name()))
			}
		}
	}
}

// watch asks the system for events. Without them the directory is looked at often.
func (s *Source) watch() {
	w, err := fsnotify.NewBufferedWatcher(1024)
	if err == nil {
		s.watcher = w
		err = w.Add(s.dir)
	}
	if err != nil {
		s.every = lookEveryBlind
		s.log.Warn("the system tells nothing of edited files; looking often instead", "dir", s.dir, "err", err)
	}
}

// Close is meta.Source's.
func (s *Source) Close() (err error) {
	s.closing.Do(func() {
		close(s.closed)
		s.mu.Lock() // waits for a change under way
		defer s.mu.Unlock()
		if s.watcher != nil {
			err = s.watcher.Close()
		}
		err = errors.Join(err, s.lock.Close())
	})
	return err
}

// Next is meta.Source's. It looks at the files itself: nothing runs while nobody asks.
func (s *Source) Next(ctx context.Context) (meta.Update, error) {
	var events <-chan fsnotify.Event
	var losses <-chan error
	if s.watcher != nil {
		events, losses = s.watcher.Events, s.watcher.Errors
	}
	for {
		if err := s.ended(); err != nil {
			return meta.Update{}, err
		}
		if ctx.Err() != nil {
			return meta.Update{}, ctx.Err()
		}
		u, ok, due := s.take(time.Now())
		if ok {
			return u, nil
		}
		timer := time.NewTimer(time.Until(due))
		select {
		case e := <-events: // a zero one when the watcher is closed, and with it the source
			s.touch(e.Name, time.Now())
		case err := <-losses:
			s.log.Debug("events of files were lost; looking at all", "dir", s.dir, "err", err)
			s.scanSoon(time.Now())
		case <-timer.C:
		case <-s.wake:
		case <-s.closed:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

func (s *Source) ended() error {
	select {
	case <-s.closed:
		return fmt.Errorf("meta: %s is closed: %w", s.dir, errs.Unavailable)
	default:
		return nil
	}
}

// take looks at what is due and answers what there is to tell, or when there is more to look at.
func (s *Source) take(now time.Time) (u meta.Update, ok bool, due time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.started || s.afresh || !now.Before(s.scanAt) {
		s.scan()
		s.scanAt = now.Add(s.every)
	}
	if len(s.touched) > 0 && !now.Before(s.readAt) {
		for id := range s.touched {
			s.read(id, true)
		}
		clear(s.touched)
	}
	if s.started && len(s.pending) == 0 && !s.dirty && s.told == s.now {
		due = s.scanAt
		if len(s.touched) > 0 && s.readAt.Before(due) {
			due = s.readAt
		}
		return u, false, due
	}
	u = meta.Update{Objects: s.pending, Whole: !s.started, Faults: make(map[string]error, len(s.faults)), Through: s.now}
	for place, err := range s.faults {
		u.Faults[place] = err
	}
	s.pending, s.started, s.dirty, s.told = map[meta.ID][]byte{}, true, false, s.now
	return u, true, due
}

// touch notes that a file is another one now, or something else below the directory.
func (s *Source) touch(path string, now time.Time) {
	s.mu.Lock()
	dir, file := filepath.Split(path)
	id, ok := s.idOf(meta.Kind(filepath.Base(dir)), file)
	if ok {
		if len(s.touched) == 0 {
			s.readAt = now.Add(settle)
		}
		s.touched[id] = true
	}
	s.mu.Unlock()
	if !ok && filepath.Clean(dir) == filepath.Clean(s.dir) && file != lockName { // a directory has come or gone
		s.scanSoon(now)
	}
}

func (s *Source) scanSoon(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if soon := now.Add(settle); soon.Before(s.scanAt) {
		s.scanAt = soon
	}
}

// Apply is meta.Source's. It compares with the file as it is now, edited by hand a moment ago or not.
func (s *Source) Apply(ctx context.Context, c meta.Change) (at uint64, err error) {
	if err := c.ID.Check(); err != nil { // before it becomes a path
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.ended(); err != nil {
		return 0, err
	}
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("%s: %w: %w", c.ID, errs.Unavailable, err)
	}
	present, err := s.present(c.ID)
	if err != nil {
		return 0, err
	}
	if err := c.Check(present); err != nil {
		return 0, err
	}
	if err := s.write(c); err != nil {
		return 0, err
	}
	s.read(c.ID, true)
	s.now++
	s.signal()
	return s.now, nil
}

// present is the file's content: what can't be read as an object as it is.
func (s *Source) present(id meta.ID) ([]byte, error) {
	data, _, err := load(s.path(id))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("%s: %w: %w", id, errs.Unavailable, err)
	}
	if object, err := meta.Compact(data); err == nil {
		return object, nil
	}
	return append([]byte{}, data...), nil // not nil: there is something
}

func (s *Source) write(c meta.Change) (err error) {
	file := s.path(c.ID)
	if c.Data == nil {
		if err = os.Remove(file); err == nil {
			err = atomicfile.SyncDir(filepath.Dir(file))
		}
	} else {
		text := jsontext.Value(append([]byte{}, c.Data...))
		if err = text.Indent(); err == nil {
			err = atomicfile.Write(file, func(w io.Writer) error {
				_, err := w.Write(append(text, '\n'))
				return err
			})
		}
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%s: %w: %w", c.ID, errs.DiskFull, err)
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%s: the directory %s is gone; bring it back, with what was in it: %w", c.ID, filepath.Dir(file), errs.Unavailable)
	}
	return fmt.Errorf("%s: %w: %w", c.ID, errs.Unavailable, err)
}

// Reload is meta.Source's.
func (s *Source) Reload() (at uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now++
	s.afresh = true
	s.signal()
	return s.now
}

func (s *Source) signal() {
	select {
	case s.wake <- struct{}{}:
	default: // it is awake
	}
}

// Place is meta.Source's.
func (s *Source) Place(id meta.ID) string { return string(id.Kind) + "/" + id.Name + extension }

func (s *Source) path(id meta.ID) string {
	return filepath.Join(s.dir, string(id.Kind), id.Name+extension)
}
