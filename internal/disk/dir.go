package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Names in the directory.
const (
	VersionFile = "FORMAT"
	LockFile    = "LOCK"
	ReserveFile = "RESERVE" // see space
	DatabaseDir = "log"     // pebble's
)

// Dir is a directory that one process owns. What is in it has a format, which is named in a file of its own, so that it can
// be read without opening, and so changing, the database.
type Dir struct {
	FS      vfs.FS
	Path    string
	OnDisk  bool   // false: a file system of a test, that knows no owners or links
	Kind    string // what the directory is, as its format file says: "kateway embedded store"
	Version int    // of the format, the newest one that we know
}

// Join is the path of a name in the directory.
func (d Dir) Join(name string) string { return d.FS.PathJoin(d.Path, name) }

// Acquire makes sure that the directory is there, ours alone and of a format that we know, and locks it.
func (d Dir) Acquire() (io.Closer, error) {
	if d.Path == "" {
		return nil, errors.New("no directory given")
	}
	if err := d.ensure(); err != nil {
		return nil, err
	}
	if err := d.checkVersion(); err != nil { // before anything is touched
		return nil, err
	}
	lock, err := d.FS.Lock(d.Join(LockFile))
	if err != nil {
		return nil, lockError(err)
	}
	if err := d.writeVersion(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return lock, nil
}

// Check looks whether the directory could be opened by this version, as far as that can be told without having it: it may
// be in use. It touches nothing.
func (d Dir) Check() error { return errors.Join(d.checkPlace(), d.checkVersion()) }

func lockError(err error) error {
	switch {
	case errors.Is(err, syscall.EAGAIN), strings.Contains(err.Error(), "lock held by current process"):
		return errors.New("another process uses it; end that one first or give another directory")
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return fmt.Errorf("the directory can't be written to: %w", err)
	}
	return fmt.Errorf("lock: %w", err)
}

// ensure makes the directory if only it is missing, and refuses one that others could have tampered with.
func (d Dir) ensure() error {
	err := d.checkPlace()
	if errors.Is(err, fs.ErrNotExist) {
		return d.create()
	}
	return err
}

func (d Dir) checkPlace() error {
	info, err := d.stat()
	switch {
	case err != nil:
		return err
	case info.Mode()&fs.ModeSymlink != 0:
		return errors.New("it is a symbolic link; give the directory that it points to")
	case !info.IsDir():
		return errors.New("it is not a directory")
	case info.Mode().Perm()&0o002 != 0:
		return fmt.Errorf("everybody may write to it (mode %v); chmod o-w it if you trust its contents", info.Mode().Perm())
	}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok && d.OnDisk && int(sys.Uid) != os.Geteuid() {
		return fmt.Errorf("it belongs to user %d, and this process runs as user %d", sys.Uid, os.Geteuid())
	}
	return nil
}

// stat does not follow a link.
func (d Dir) stat() (fs.FileInfo, error) {
	if d.OnDisk {
		return os.Lstat(d.Path)
	}
	info, err := d.FS.Stat(d.Path)
	if err != nil {
		return nil, err
	}
	return info, nil
}

// create makes one level only: a missing parent may be a disk that is not mounted.
func (d Dir) create() error {
	parent := d.FS.PathDir(d.Path)
	if d.OnDisk {
		if err := os.Mkdir(d.Path, 0o700); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("neither it nor %s exists; make that one first, or mount it", parent)
			}
			return err
		}
	} else if err := d.FS.MkdirAll(d.Path, 0o700); err != nil {
		return err
	}
	return d.syncDir(parent)
}

func (d Dir) syncDir(path string) error {
	f, err := d.FS.OpenDir(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// checkVersion refuses a directory that this version can't use. A directory without a version must be without data.
func (d Dir) checkVersion() error {
	text, err := d.readVersion()
	if errors.Is(err, fs.ErrNotExist) {
		names, err := d.FS.List(d.Path)
		for _, name := range names {
			if d.FS.PathBase(name) == DatabaseDir {
				return fmt.Errorf("it has a %s but no %s file: it is no %s, or damaged", DatabaseDir, VersionFile, d.Kind)
			}
		}
		return err
	}
	if err != nil {
		return err
	}
	number, isOurs := strings.CutPrefix(strings.TrimSpace(text), d.prefix())
	n, err := strconv.Atoi(number)
	switch {
	case !isOurs || err != nil:
		return fmt.Errorf("its %s file says %q: it is no %s, or damaged", VersionFile, text, d.Kind)
	case n > d.Version:
		return fmt.Errorf("it has format %d and this version knows only up to %d; use the newer kateway that wrote it", n, d.Version)
	}
	return nil
}

func (d Dir) prefix() string { return d.Kind + ", format " }

func (d Dir) readVersion() (string, error) {
	text, err := d.readFile(d.Join(VersionFile))
	return string(text[:min(len(text), 1024)]), err
}

func (d Dir) readFile(path string) ([]byte, error) {
	f, err := d.FS.Open(path)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(f)
	return text, errors.Join(err, f.Close())
}

// writeVersion names the format, if that was not done yet.
func (d Dir) writeVersion() error {
	if _, err := d.FS.Stat(d.Join(VersionFile)); err == nil {
		return nil
	}
	return d.writeWhole(VersionFile, fmt.Sprintf("%s%d\n", d.prefix(), d.Version))
}

// writeWhole makes a file that is there whole, durably, or not at all.
func (d Dir) writeWhole(name, text string) error {
	temp := d.Join(name + ".new")
	f, err := d.FS.Create(temp, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, text)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := d.FS.Rename(temp, d.Join(name)); err != nil {
		return err
	}
	return d.syncDir(d.Path)
}
