package file

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/kateway/kateway/internal/atomicfile"
	"github.com/kateway/kateway/internal/errs"
	"github.com/kateway/kateway/meta"
)

// maxFile is the largest file that is read: an object, indented or with a comment's worth of white space.
const maxFile = 8 * meta.MaxObject

// stamp tells whether a file is another one than before.
type stamp struct {
	modified time.Time
	size     int64
	inode    uint64
}

func stampOf(info os.FileInfo) stamp {
	s := stamp{modified: info.ModTime(), size: info.Size()}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		s.inode = sys.Ino
	}
	return s
}

// load reads a file, and no more than an object may have. It does not hang on what is no file.
func load(path string) ([]byte, stamp, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, stamp{}, err
	}
	if !info.Mode().IsRegular() {
		return nil, stampOf(info), errors.New("is no regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, stampOf(info), err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("has more than %d bytes: %w", maxFile, errs.TooLarge)
	}
	return data, stampOf(info), err
}

// scan looks at all files and reads those that are others than before. s.mu is held.
func (s *Source) scan() {
	for _, kind := range meta.Kinds() {
		dir := filepath.Join(s.dir, string(kind))
		if s.watcher != nil {
			_ = s.watcher.Add(dir) // it may have been away; where it still is, ReadDir says so
		}
		entries, err := os.ReadDir(dir)
		s.fault(string(kind), err)
		if err != nil {
			continue // its files have their last good content
		}
		there := make(map[meta.ID]bool, len(entries))
		for _, e := range entries {
			if id, ok := s.idOf(kind, e.Name()); ok {
				there[id] = true
				s.read(id, s.afresh)
			}
		}
		s.missing(kind, there)
	}
	s.afresh = false
}

// missing drops the files of a kind that are not there any more. s.mu is held.
func (s *Source) missing(kind meta.Kind, there map[meta.ID]bool) {
	for id := range s.files {
		if id.Kind == kind && !there[id] {
			s.read(id, true)
		}
	}
	for place := range s.faults {
		dir, name, ok := strings.Cut(place, "/")
		if !ok || dir != string(kind) {
			continue
		}
		if _, err := os.Lstat(filepath.Join(s.dir, dir, name)); errors.Is(err, os.ErrNotExist) {
			s.fault(place, nil)
		}
	}
}

// idOf is the object that a file of this name has. Hidden files and those of editors are none; one that looks like an object
// and can't be one is a fault. s.mu is held.
func (s *Source) idOf(kind meta.Kind, file string) (id meta.ID, ok bool) {
	name, ok := strings.CutSuffix(file, extension)
	if !ok || strings.HasPrefix(file, ".") || atomicfile.IsLeftover(file) {
		return id, false
	}
	id = meta.ID{Kind: kind, Name: name}
	if err := id.Check(); err != nil {
		s.fault(s.Place(id), err)
		return id, false
	}
	return id, true
}

// read looks at one file, and notes what is new of it. s.mu is held.
func (s *Source) read(id meta.ID, always bool) {
	path := s.path(id)
	was, known := s.files[id]
	if !always && known {
		if info, err := os.Stat(path); err == nil && stampOf(info) == was.stamp {
			return
		}
	}
	data, stamp, err := load(path)
	if errors.Is(err, os.ErrNotExist) {
		s.vanished(id, known)
		return
	}
	if err == nil {
		data, err = meta.Compact(data)
	}
	s.fault(s.Place(id), err)
	if err != nil {
		s.files[id] = seen{stamp, was.data}
		return
	}
	s.files[id] = seen{stamp, data}
	if was.data == nil || !bytes.Equal(was.data, data) {
		s.pending[id] = data
	}
}

// vanished notes that a file is not there: it was removed, unless its directory is gone with it. s.mu is held.
func (s *Source) vanished(id meta.ID, known bool) {
	dir := filepath.Join(s.dir, string(id.Kind))
	if _, err := os.Stat(dir); err != nil {
		s.fault(string(id.Kind), err)
		return
	}
	s.fault(s.Place(id), nil)
	if known {
		delete(s.files, id)
		s.pending[id] = nil
	}
}

// fault notes that a place can't be read, or, with nil, that it can. s.mu is held.
func (s *Source) fault(place string, err error) {
	was, known := s.faults[place]
	switch {
	case err == nil && known:
		delete(s.faults, place)
		s.dirty = true
	case err != nil && (!known || was.Error() != err.Error()):
		s.faults[place] = err
		s.dirty = true
	}
}
